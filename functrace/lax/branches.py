"""Branches: cond and switch.

cond : bool -> (a -> b) -> (a -> b) -> a -> b
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jax import lax, tree_util

from functrace.control import Cond
from functrace.errors import ArgumentError, DtypeError
from functrace.ir import Aval
from functrace.ir.source import caller_source
from functrace.lax.bodies import cast, cast_outputs, joined, leaf_avals
from functrace.tracing import lift, trace
from functrace.tracing.trace import all_captures, record, with_captures
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name

I32 = Aval((), np.dtype(np.int32))
clamp = lift(lax.clamp)
Batched = Literal["select", "map"]


def cond(
    pred: Any,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    *operands: Any,
    batched: Batched = "select",
) -> Any:
    """`true_fun(*operands) if pred else false_fun(*operands)`, computing one of them.

    Args:
      pred: a scalar, boolean or a number, of which 0 is false.
      true_fun, false_fun: functions of the operands whose results have one structure and types.
      operands: pytrees of arrays.
      batched: what `vmap` does where pred differs from row to row: "select" computes both branches for
        all rows, "map" computes one branch a row, one row after the other.
    Returns:
      The result of the branch.
    Raises:
      DtypeError: pred is not a scalar, or the branches' results differ in structure or type.

    >>> import functrace as ft
    >>> f = lambda x: ft.lax.cond(x > 0, lambda x: x * x, lambda x: -x, x)
    >>> float(ft.grad(f)(3.0)), float(ft.grad(f)(-3.0))
    (6.0, -1.0)
    """
    check_callable("cond", true_fun, "true_fun")
    check_callable("cond", false_fun, "false_fun")
    aval = scalar_aval("cond", "pred", pred, "reduce it with .all() or .any()")
    if aval.kind == "c":
        raise DtypeError(f"cond: pred must be a boolean or a real number, got {aval!r}.{at(caller_source())}")
    if aval.dtype != np.bool_:
        pred = pred != 0
    return choose("cond", cast(pred, I32), (false_fun, true_fun), operands, batched)


def switch(
    index: Any, branches: Sequence[Callable[..., Any]], *operands: Any, batched: Batched = "select"
) -> Any:
    """`branches[index](*operands)`, computing that one; an index out of range is the nearest in range.

    Args:
      index: an integer scalar.
      branches: functions of the operands whose results have one structure and types.
      operands: pytrees of arrays.
      batched: as in `cond`.
    Returns:
      The result of the branch.
    Raises:
      DtypeError: index is not an integer scalar, or the branches' results differ in structure or type.
      ArgumentError: there are no branches.

    >>> import functrace as ft
    >>> ft.lax.switch(1, [lambda x: x, lambda x: 2 * x], 5.0).item()
    10.0
    """
    if callable(branches):
        raise DtypeError(f"switch: branches must be a sequence of functions, got one.{at(caller_source())}")
    branches = tuple(branches)
    if not branches:
        raise ArgumentError(f"switch: there must be at least one branch.{at(caller_source())}")
    for i, f in enumerate(branches):
        check_callable("switch", f, f"branches[{i}]")
    check_batched("switch", batched)
    aval = scalar_aval("switch", "index", index, "choose a branch for each entry with functrace.vmap")
    if aval.kind not in "iu":
        fix = "use cond for a boolean" if aval.dtype == np.bool_ else "cast it with .astype(int)"
        raise DtypeError(f"switch: index must be an integer scalar, got {aval!r}; {fix}.{at(caller_source())}")
    if len(branches) == 1:
        return branches[0](*operands)
    last = np.asarray(len(branches) - 1, aval.dtype)[()]
    index = clamp(np.zeros((), aval.dtype)[()], index, last)
    return choose("switch", cast(index, I32), branches, operands, batched)


def check_batched(who: str, batched: Any) -> None:
    """Refuse another way of batching than there is."""
    if batched not in ("select", "map"):
        raise ArgumentError(f"{who}: batched must be 'select' or 'map', got {batched!r}.{at(caller_source())}")


def scalar_aval(who: str, what: str, x: Any, fix: str) -> Aval:
    """The type of a value that must be a scalar; `fix` is for one that is not."""
    avals = leaf_avals(who, what, x)
    if len(avals) != 1 or tree_util.tree_structure(x) != tree_util.tree_structure(0):
        raise DtypeError(f"{who}: {what} must be a scalar, got {x!r}.{at(caller_source())}")
    if avals[0].shape:
        raise DtypeError(
            f"{who}: {what} must be a scalar, got {avals[0]!r}; {fix}, or select between arrays entry by entry with "
            f"functrace.numpy.where.{at(caller_source())}"
        )
    return avals[0]


def choose(
    who: str, index: Any, branches: tuple[Callable[..., Any], ...], operands: tuple[Any, ...], batched: Batched
) -> Any:
    """Trace the branches and record the choice between them."""
    check_batched(who, batched)
    leaf_avals(who, "operands", operands)
    names = branch_names(who, branches)
    traces = [
        trace(f, operands, transform=who, result=f"the result of {name}", like=f)
        for f, name in zip(branches, names, strict=True)
    ]
    first = traces[0]
    for name, t in zip(names[1:], traces[1:], strict=True):
        if t.out_tree != first.out_tree:
            raise DtypeError(
                f"{who}: the branches must return one pytree structure.\n  {names[0]}: {first.out_tree}\n"
                f"  {name}: {t.out_tree}\nReturn the same containers from each.{at(caller_source())}"
            )
    types = []
    for i, avals in enumerate(zip(*[t.program.out_avals for t in traces], strict=True)):
        common = joined(avals)
        if common is None:
            result = tree_util.tree_unflatten(first.out_tree, [0] * len(first.program.outputs))
            where = tree_util.keystr(tree_util.tree_flatten_with_path(result)[0][i][0])
            listing = "\n".join(f"  {name}: {a!r}" for name, a in zip(names, avals, strict=True))
            fix = "cast them to one dtype" if len({a.shape for a in avals}) == 1 else "broadcast them to one shape"
            raise DtypeError(
                f"{who}: the branches must return values of one type; {f'leaf {where}' if where else 'the result'} "
                f"differs:\n{listing}\n{fix[0].upper()}{fix[1:]}.{at(caller_source())}"
            )
        types.append(common)
    captures = all_captures([], traces)
    programs = [cast_outputs(p, types) for p in with_captures(captures, traces)]
    outputs = record(Cond(tuple(programs), batched), [index, *captures, *tree_util.tree_leaves(operands)])
    return tree_util.tree_unflatten(first.out_tree, outputs)


def branch_names(who: str, branches: Sequence[Callable[..., Any]]) -> list[str]:
    """What a message calls the branches."""
    if who == "cond":
        return [f"false_fun ({fun_name(branches[0])})", f"true_fun ({fun_name(branches[1])})"]
    return [f"branch {i} ({fun_name(f)})" for i, f in enumerate(branches)]
