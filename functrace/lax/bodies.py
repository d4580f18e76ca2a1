"""What loops and branches share: tracing the functions that they are given, and types that must agree."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import tree_util

from functrace.errors import ArgumentError, DtypeError, FunctraceError
from functrace.ir import Aval, Builder, Program
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.primitives.elementwise import convert_element_type
from functrace.tracing import Tracer, aval_of
from functrace.tracing.trace import Traced
from functrace.tracing.tracer import at, atom_of


def paths(name: str, tree: Any) -> list[str]:
    """What messages call the leaves of a pytree: `init['a'][0]`."""
    return [name + tree_util.keystr(path) for path, _ in tree_util.tree_flatten_with_path(tree)[0]]


def leaf_avals(who: str, what: str, tree: Any) -> list[Aval]:
    """The types of a pytree's leaves, or an error that names the leaf that is no array."""
    avals = []
    for path, x in zip(paths(what, tree), tree_util.tree_leaves(tree), strict=True):
        try:
            avals.append(aval_of(x))
        except TypeError as error:
            raise DtypeError(
                f"{who}: {path} is a {type(x).__name__} ({x!r}), not an array; close over it, or leave it out."
                f"{at(caller_source())}"
            ) from error
    return avals


def integer(who: str, what: str, x: Any, least: int | None = None) -> int:
    """A Python int, no smaller than `least`."""
    try:
        n = operator.index(x)
    except (TypeError, FunctraceError) as error:
        raise DtypeError(f"{who}: {what} must be a Python int, got {x!r}.{at(caller_source())}") from error
    if least is not None and n < least:
        raise ArgumentError(f"{who}: {what} must be at least {least}, got {n}.{at(caller_source())}")
    return n


def cast(x: Any, aval: Aval) -> Any:
    """`x` with the dtype of `aval`; a strong type if that is strong."""
    have = aval_of(x)
    if have.dtype == aval.dtype and have.weak_type == aval.weak_type:
        return x
    builder = open_builder()
    if builder is None:
        return jnp.asarray(x, aval.dtype)
    return Tracer(convert_element_type(atom_of(x, builder), aval.dtype, aval.weak_type), builder)


def cast_outputs(program: Program, avals: Sequence[Aval]) -> Program:
    """The Program with results of these types: where they differ, those it has are weak."""
    if all(y.aval is a for y, a in zip(program.outputs, avals, strict=True)):
        return program
    with Builder() as b:
        outputs = b.inline(program, [b.input(v.aval, v.name) for v in program.inputs])
        return b.build([convert_element_type(y, a.dtype, a.weak_type) for y, a in zip(outputs, avals, strict=True)])


def joined(avals: Sequence[Aval]) -> Aval | None:
    """The one type of all: weak types give way to strong ones. None if there is none."""
    if len({a.shape for a in avals}) > 1:
        return None
    strong = {a.dtype for a in avals if not a.weak_type}
    if len(strong) > 1:
        return None
    dtype = jnp.result_type(*[jax_type(a) for a in avals])
    if strong and dtype != next(iter(strong)):
        return None
    return Aval(avals[0].shape, dtype, not strong)


def jax_type(aval: Aval) -> Any:
    """What jax.numpy promotes as a value of this type: a Python scalar type for a weak one."""
    if not aval.weak_type:
        return aval.dtype
    return {"b": bool, "i": int, "u": int, "f": float, "c": complex}.get(aval.kind, float)


class Names(NamedTuple):
    """What messages call a loop, its first carry and its function; and where the user's carry stands, if the
    loop keeps something beside it."""

    who: str
    init: str
    body: str
    entry: int | None = None

    def of_user(self, carry: Any) -> Any:
        """The user's part of a carry."""
        return carry if self.entry is None else carry[self.entry]


def carry_types(
    names: Names, body: Callable[[list[Aval]], Traced], carry: Any,
    carried: Callable[[Traced], tuple[Any, Sequence[Aval]]],
) -> tuple[Traced, list[Aval]]:  # fmt: skip
    """Trace a loop's body at the types that its carry keeps.

    A weak type, such as a Python scalar's, becomes what the body makes of it.

    Args:
      names: what messages call things.
      body: traces at given types of the carry's leaves.
      carry: the first carry.
      carried: the structure and types of the carry that a trace hands on.
    Raises:
      DtypeError: the body hands on another structure or other types.
    """
    leaf_avals(names.who, names.init, names.of_user(carry))
    avals = [aval_of(x) for x in tree_util.tree_leaves(carry)]
    tree = tree_util.tree_structure(carry)
    for _ in range(3):
        traced = body(avals)
        out_tree, out_avals = carried(traced)
        check_carry(names, tree_util.tree_unflatten(tree, avals), tree_util.tree_unflatten(out_tree, out_avals))
        wanted = [kept(a, b) for a, b in zip(avals, out_avals, strict=True)]
        if wanted == avals:
            return traced, avals
        avals = [a for a in wanted if a is not None]
    raise AssertionError("a carry's type has no fixed point")


def kept(a: Aval, b: Aval) -> Aval | None:
    """The type that a carry of type `a` keeps when the body returns `b`; None if there is none."""
    want = joined([a, b]) if a.weak_type else a
    return want if want is not None and (want.strong() == b.strong() or joined([want, b]) == want) else None


def check_carry(names: Names, carry: Any, result: Any) -> None:
    """Refuse a body that changes the types or the structure of its carry, both given as pytrees of types."""
    carry, result = names.of_user(carry), names.of_user(result)
    listing, differ = compared(carry, result)
    trees = [tree_util.tree_structure(tree) for tree in (carry, result)]
    if trees[0] != trees[1]:
        kind, fix = "pytree structure", "Return every part of the carry, in the same containers."
        if not differ:
            listing = f"  {trees[0]} -> {trees[1]}"
    elif differ:
        kind, fix = "types", types_fix(names, tree_util.tree_leaves(carry), tree_util.tree_leaves(result))
    else:
        return
    where = f"; {', '.join(differ)} {'differs' if len(differ) == 1 else 'differ'}" if differ else ""
    raise DtypeError(
        f"{names.who}: {names.body} must return the {kind} of {names.init}{where}:\n{listing}\n{fix}"
        f"{at(caller_source())}"
    )


def types_fix(names: Names, avals: Sequence[Aval], out_avals: Sequence[Aval]) -> str:
    """What to do about leaves whose types differ."""
    pairs = [(a, b) for a, b in zip(avals, out_avals, strict=True) if kept(a, b) is None]
    fixes = [
        f"Keep the shape {a.shape}: give {names.init} its final shape from the start."
        for a, b in pairs if a.shape != b.shape
    ] + [
        f"Cast what is in {names.init} to {b.dtype.name}, or what {names.body} returns to {a.dtype.name}."
        for a, b in pairs if a.shape == b.shape
    ]  # fmt: skip
    return " ".join(dict.fromkeys(fixes))


def compared(first: Any, second: Any) -> tuple[str, list[str]]:
    """Two pytrees of types, leaf by leaf, and the paths at which they differ."""
    types = [dict(zip(paths("", tree), tree_util.tree_leaves(tree), strict=True)) for tree in (first, second)]
    every = dict.fromkeys([*types[0], *types[1]])
    lines, differ = [], []
    width = max((len(path or "carry") for path in every), default=0)
    for path in every:
        a, b = (t.get(path) for t in types)
        same = a is not None and b is not None and kept(a, b) is not None
        if not same:
            differ.append(path or "the carry")
        texts = ["nothing" if t is None else repr(t) for t in (a, b)]
        lines.append(f"  {path or 'carry':<{width}}  {texts[0]} -> {texts[1]}{'' if same else '   <- differs'}")
    return "\n".join(lines), differ
