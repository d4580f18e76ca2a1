"""What loops and branches share: tracing the functions that they are given, and types that must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import tree_util

from functrace.errors import DtypeError
from functrace.ir import Aval, Builder, Program
from functrace.ir.primitive import AMBIENT
from functrace.ir.source import caller_source
from functrace.primitives.elementwise import convert_element_type
from functrace.tracing import Tracer, aval_of
from functrace.tracing.trace import Traced, checked_aval
from functrace.tracing.tracer import at, atom_of
from functrace.transforms.arguments import fun_name


def leaf_avals(who: str, what: str, tree: Any) -> list[Aval]:
    """The types of a pytree's leaves, or an error that names the leaf that is no array."""
    leaves = tree_util.tree_leaves(tree)
    return [checked_aval(x, f"{who}: {what}", ((tree,), {}), i) for i, x in enumerate(leaves)]


def cast(x: Any, aval: Aval) -> Any:
    """`x` with the dtype of `aval`; a strong type if that is strong."""
    have = aval_of(x)
    if have.dtype == aval.dtype and have.weak_type == aval.weak_type:
        return x
    builder = AMBIENT.builder
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
    return {"b": bool, "i": int, "u": int, "f": float, "c": complex}.get(aval.dtype.kind, float)


def carry_types(
    who: str, names: tuple[str, str], body: Callable[[list[Aval]], Traced], carry: Any,
    carried: Callable[[Traced], tuple[Any, Sequence[Aval]]],
) -> tuple[Traced, list[Aval]]:  # fmt: skip
    """Trace a loop's body at the types that its carry keeps.

    A weak type, such as a Python scalar's, becomes what the body makes of it.

    Args:
      who, names: the loop, and what it calls its first carry and the body's function.
      body: traces at given types of the carry's leaves.
      carry: the first carry.
      carried: the structure and types of the carry that a trace hands on.
    Raises:
      DtypeError: the body hands on another structure or other types.
    """
    avals = leaf_avals(who, names[0], carry)
    tree = tree_util.tree_structure(carry)
    for _ in range(3):
        traced = body(avals)
        out_tree, out_avals = carried(traced)
        if out_tree != tree:
            raise DtypeError(structures_differ(who, names, carry, out_tree))
        wanted = [joined([a, b]) if a.weak_type else a for a, b in zip(avals, out_avals, strict=True)]
        agree = [
            w is not None and w.shape == b.shape and (w.dtype == b.dtype or joined([w, b]) is w)
            for w, b in zip(wanted, out_avals, strict=True)
        ]  # fmt: skip
        if not all(agree):
            raise DtypeError(types_differ(who, names, carry, avals, out_avals, agree))
        if wanted == avals:
            return traced, avals
        avals = [w for w in wanted if w is not None]
    raise AssertionError("a carry's type has no fixed point")


def structures_differ(who: str, names: tuple[str, str], carry: Any, out_tree: Any) -> str:
    """The message for a body that hands on another pytree."""
    return (
        f"{who}: {names[1]} must return a carry with the pytree structure of {names[0]}.\n"
        f"  {names[0]}: {tree_util.tree_structure(carry)}\n  {names[1]} returns: {out_tree}\n"
        f"Return every part of the carry, in the same containers.{at(caller_source())}"
    )


def types_differ(
    who: str, names: tuple[str, str], carry: Any, avals: Sequence[Aval], out_avals: Sequence[Aval],
    agree: Sequence[bool],
) -> str:  # fmt: skip
    """The message for a body that changes the type of its carry: every leaf, and which ones differ."""
    paths = [tree_util.keystr(path) or "carry" for path, _ in tree_util.tree_flatten_with_path(carry)[0]]
    width = max(map(len, paths))
    lines = [
        f"  {path:<{width}}  {a!r} -> {b!r}{'' if same else '   <- differs'}"
        for path, a, b, same in zip(paths, avals, out_avals, agree, strict=True)
    ]
    i = list(agree).index(False)
    if avals[i].shape == out_avals[i].shape:
        fix = f"cast the leaf of {names[0]} to {out_avals[i]!r}, or what {names[1]} returns to {avals[i]!r}"
    else:
        fix = f"keep the shape {avals[i].shape}: give the leaf of {names[0]} its final shape from the start"
    return (
        f"{who}: {names[1]} must return a carry of the types of {names[0]}; leaf {paths[i]} differs:\n"
        + "\n".join(lines)
        + f"\n{fix[0].upper()}{fix[1:]}.{at(caller_source())}"
    )


def label(fun: Callable[..., Any]) -> str:
    """A function's name in a message."""
    return f"{fun_name(fun)!r}"
