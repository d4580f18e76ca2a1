"""Reverse mode: the transpose of the derivative at a point, as a function that can be held.

vjp              : (a -> b) -> a -> (b, T* b -o T* a)   vjp f = transpose . linearize f
linear_transpose : (a -o b) -> (b* -o a*)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import tree_util

from functrace.errors import DtypeError
from functrace.ir.source import caller_source
from functrace.rewrites.memo import scatter, select
from functrace.rewrites.transpose import transpose
from functrace.tracing import apply, trace
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, zero_tangent
from functrace.transforms.linearize import Linear, check_avals, linearized


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of `fun` and its pullback at `primals`: reverse mode.

    Args:
      fun: a pure function of pytrees of arrays.
      primals: its positional arguments.
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      `(output, f_vjp)` or `(output, f_vjp, aux)`. `f_vjp(cotangent)` is a tuple with one cotangent a
      primal. `f_vjp` is a pytree whose leaves are its residuals, so it crosses `jit` boundaries.

    >>> import functrace as ft
    >>> y, f_vjp = ft.vjp(lambda x, y: x * y, 2.0, 5.0)
    >>> [float(ct) for ct in f_vjp(1.0)]
    [5.0, 2.0]
    """
    return linearized("vjp", fun, primals, has_aux, Pullback)


def linear_transpose(fun: Callable[..., Any], *primals: Any) -> Callable[[Any], Any]:
    """The transpose of a function that is promised to be linear.

    Args:
      fun: a linear function of pytrees of arrays.
      primals: its arguments, or anything of their shapes and dtypes (`jax.ShapeDtypeStruct`).
    Returns:
      A function of a cotangent of `fun`'s output that returns a tuple of cotangents.
    Raises:
      RuleError: an operation of `fun` is not linear.

    >>> import functrace as ft
    >>> [float(ct) for ct in ft.linear_transpose(lambda x, y: 2.0 * x - y, 0.0, 0.0)(1.0)]
    [2.0, -1.0]
    """
    check_callable("linear_transpose", fun)
    traced = trace(fun, primals, transform="linear_transpose")
    avals, in_tree = traced.program.in_avals[len(traced.captures) :], tree_util.tree_structure(tuple(primals))
    out_avals = tuple(a.strong() for a in traced.program.out_avals)
    for a in (*avals, *out_avals):
        if not a.is_inexact:
            raise DtypeError(f"linear_transpose: inputs and outputs must be floating or complex, got {a}")
    every = (True,) * len(avals)
    moved = (True,) * len(out_avals)
    return Pullback(
        traced.captures, traced.program, moved, every, avals, out_avals, in_tree, traced.out_tree
    )


@tree_util.register_pytree_node_class
class Pullback(Linear):
    """`ct_y -> ct_x` at a fixed x."""

    def __call__(self, cotangent: Any) -> Any:
        """Apply to a cotangent of the structure of the output; a tuple with one entry a primal."""
        cts, tree = tree_util.tree_flatten(cotangent)
        if tree != self.out_tree:
            raise DtypeError(
                f"vjp: the cotangent must have the structure of the output, {self.out_tree}, got {tree}."
                f"{at(caller_source())}"
            )
        check_avals("vjp", "cotangent", cts, self.out_avals, tuple(a.is_inexact for a in self.out_avals))
        linear = (False,) * len(self.residuals) + (True,) * sum(self.moving)
        program, found = transpose(self.program, linear, (True,) * sum(self.moved))
        given = apply(program, [*self.residuals, *select(self.moved, cts)])
        ct_xs = scatter(self.moving, scatter(found, given))
        ct_xs = [zero_tangent(a) if ct is None else ct for ct, a in zip(ct_xs, self.in_avals, strict=True)]
        return tree_util.tree_unflatten(self.in_tree, ct_xs)
