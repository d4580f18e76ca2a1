"""Forward mode.

jvp : (a -> b) -> (a, T a) -> (b, T b)                  jvp (g . f) = jvp g . jvp f
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import tree_util

from functrace import rewrites
from functrace.errors import DtypeError
from functrace.ir.source import caller_source
from functrace.rewrites.memo import scatter, select
from functrace.tracing import apply
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, check_same_tree, tangent_flags, zero_tangent
from functrace.transforms.auxiliary import trace_with_aux


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> Any:
    """Value and directional derivative of `fun`: forward mode.

    Args:
      fun: a pure function of pytrees of arrays.
      primals: its positional arguments, a tuple or list.
      tangents: the direction; of the structure, shapes and dtypes of `primals` (dtype float0 for
        integer leaves).
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      `(output, tangent)` or `(output, tangent, aux)`.
    Raises:
      DtypeError: structure, shape or dtype of a tangent is not its primal's.

    >>> import functrace as ft
    >>> y, dy = ft.jvp(lambda x: x * x, (3.0,), (1.0,))
    >>> float(y), float(dy)
    (9.0, 6.0)
    """
    check_callable("jvp", fun)
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise DtypeError(
            "jvp: primals and tangents must be tuples or lists with one entry a positional argument, got "
            f"{type(primals).__name__} and {type(tangents).__name__}.{at(caller_source())}"
        )
    check_same_tree("jvp", "tangents", tuple(tangents), tuple(primals), "primals")
    xs, dxs = tree_util.tree_leaves(tuple(primals)), tree_util.tree_leaves(tuple(tangents))
    moving = tangent_flags("jvp", xs, dxs, "tangent")
    traced, aux, out_tree, n = trace_with_aux("jvp", fun, primals, has_aux, like=fun)
    program, moved = rewrites.jvp(traced.program, (False,) * len(traced.captures) + moving)
    outputs = apply(program, [*traced.captures, *xs, *select(moving, dxs)])
    ys, dys = outputs[: len(moved)], scatter(moved, outputs[len(moved) :])
    dys = [zero_tangent(a) if dy is None else dy for dy, a in zip(dys, traced.program.out_avals, strict=True)]
    result = tree_util.tree_unflatten(out_tree, ys[:n]), tree_util.tree_unflatten(out_tree, dys[:n])
    return (*result, aux.join(ys[n:])) if has_aux else result
