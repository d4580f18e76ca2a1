"""The derivative at a point, as a linear function that can be held and called again.

linearize : (a -> b) -> a -> (b, T a -o T b)            linearize f x = (f x, jvp f x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import tree_util

from functrace import rewrites
from functrace.errors import DtypeError
from functrace.ir import Program
from functrace.ir.source import caller_source
from functrace.rewrites.memo import scatter, select
from functrace.tracing import apply, aval_of
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, zero_tangent
from functrace.transforms.auxiliary import trace_with_aux


def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of `fun` and its derivative at `primals` as a linear function of tangents.

    Args:
      fun: a pure function of pytrees of arrays.
      primals: its positional arguments.
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      `(output, f_jvp)` or `(output, f_jvp, aux)`, where `f_jvp(*tangents)` is the output's tangent;
      the work on the primals is done once. `f_jvp` is a pytree whose leaves are its residuals.

    >>> import functrace as ft
    >>> y, f_jvp = ft.linearize(lambda x: x ** 3, 2.0)
    >>> float(y), float(f_jvp(1.0))
    (8.0, 12.0)
    """
    return linearized("linearize", fun, primals, has_aux, Pushforward)


@tree_util.register_pytree_node_class
class Linear:
    """A linear function: a Program with its residuals filled in. A pytree: residuals are its leaves."""

    def __init__(
        self, residuals: Sequence[Any], program: Program, moved: tuple[bool, ...],
        moving: tuple[bool, ...], in_avals: Any, out_avals: Any, in_tree: Any, out_tree: Any,
    ):  # fmt: skip
        self.residuals = list(residuals)
        self.program, self.moved, self.moving = program, moved, moving
        self.in_avals, self.out_avals = in_avals, out_avals
        self.in_tree, self.out_tree = in_tree, out_tree

    def tree_flatten(self) -> Any:
        """Residuals, and all the rest."""
        rest = (
            self.program, self.moved, self.moving, self.in_avals, self.out_avals, self.in_tree,
            self.out_tree,
        )  # fmt: skip
        return self.residuals, rest

    @classmethod
    def tree_unflatten(cls, rest: Any, residuals: Any) -> Any:
        """The inverse of `tree_flatten`."""
        return cls(residuals, *rest)


@tree_util.register_pytree_node_class
class Pushforward(Linear):
    """`dx -> dy` at a fixed x."""

    def __call__(self, *tangents: Any) -> Any:
        """Apply to tangents of the structure of the primals."""
        dxs, tree = tree_util.tree_flatten(tangents)
        if tree != self.in_tree:
            raise DtypeError(
                f"linearize: tangents must have the structure of the primals, {self.in_tree}, got {tree}."
                f"{at(caller_source())}"
            )
        check_avals("linearize", "tangent", dxs, self.in_avals, self.moving)
        given = apply(self.program, [*self.residuals, *select(self.moving, dxs)])
        dys = scatter(self.moved, given)
        dys = [zero_tangent(a) if dy is None else dy for dy, a in zip(dys, self.out_avals, strict=True)]
        return tree_util.tree_unflatten(self.out_tree, dys)


def check_avals(transform: str, what: str, values: Any, avals: Any, flags: Any) -> None:
    """Values handed to a linear function must have the types it was made for."""
    for i, (x, aval, flag) in enumerate(zip(values, avals, flags, strict=True)):
        if flag and not aval_of(x).matches(aval):
            raise DtypeError(
                f"{transform}: leaf {i} of the {what} has type {aval_of(x)}, and must have {aval}."
                f"{at(caller_source())}"
            )


def linearized(
    transform: str, fun: Callable[..., Any], primals: Sequence[Any], has_aux: bool, kind: Any
) -> Any:
    """Run the forward half of `linearize`; the linear half becomes a `kind`."""
    check_callable(transform, fun)
    traced, aux, out_tree, n = trace_with_aux(transform, fun, primals, has_aux, like=fun)
    xs, in_tree = tree_util.tree_flatten(tuple(primals))
    in_avals = tuple(aval_of(x) for x in xs)
    moving = tuple(a.is_inexact for a in in_avals)
    # Aux outputs have no derivative: differentiate the Program of the others beside them.
    program = traced.program
    lin = rewrites.linearize(program, (False,) * len(traced.captures) + moving)
    outputs = apply(lin.forward, [*traced.captures, *xs])
    m = len(program.outputs)
    ys, residuals = outputs[:m], outputs[m:]
    moved = lin.moved[:n]
    linear = lin.linear
    if len(linear.outputs) > sum(moved):
        linear = Program(linear.inputs, linear.equations, linear.outputs[: sum(moved)])
    out_avals = tuple(a.strong() for a in program.out_avals[:n])
    f_linear = kind(residuals, linear, moved, moving, in_avals, out_avals, in_tree, out_tree)
    y = tree_util.tree_unflatten(out_tree, ys[:n])
    return (y, f_linear, aux.join(ys[m - len(ys[n:]) :])) if has_aux else (y, f_linear)
