"""Derivatives of high order: power series carried through a function once, instead of transforms nested n deep.

taylor     : (a -> b) -> a -> n -> a -> [b]             f(x + t v) = sum of c_k t^k
jet        : (a -> b) -> T^n a -> T^n b                 jet (g . f) = jet g . jet f
derivative : (R -> b) -> n -> R -> b                    derivative f n = n! c_n

Nested `grad` or `jvp` multiplies a Program at each order; a series of n coefficients takes O(n^2) products for each
equation that is not linear.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
from jax import tree_util

from functrace import rewrites
from functrace.errors import ArgumentError, DtypeError
from functrace.ir.source import caller_source
from functrace.rewrites.memo import scatter, select
from functrace.rewrites.series import unflat
from functrace.tracing import apply, aval_of, trace
from functrace.tracing.tracer import at
from functrace.transforms.arguments import (
    check_callable,
    check_same_tree,
    closed_over,
    fun_name,
    is_zero_tangent,
    leaf_label,
    positions,
    tangent_flags,
    zero_tangent,
)
from functrace.transforms.grad import check_inputs


def derivative(fun: Callable[..., Any], n: int = 1, argnum: int = 0) -> Callable[..., Any]:
    """The n-th derivative of a function of a scalar: a function again.

    Its size grows with n as n squared and not exponentially, as that of nested `grad` does. Of a complex scalar it is
    the derivative along the real axis: that of a holomorphic function.

    Args:
      fun: a pure function to a pytree of arrays of any shape; the argument at `argnum` is a scalar, the others are
        constants.
      n: the order, from 0 on; the derivative of order 0 is the function.
      argnum: position of the argument to differentiate in.
    Returns:
      A function with the arguments of `fun` that returns the derivative: of the structure, shapes and dtypes of the
      output (dtype float0, as in `jvp`, for integer outputs).
    Raises:
      ArgumentError: `n` is negative, or `argnum` out of range.
      DtypeError: `n` is not an integer, or the argument is not a scalar of inexact dtype.

    >>> import functrace as ft
    >>> fourth = ft.derivative(lambda x: x ** 6, 4)
    >>> float(fourth(1.0)), float(ft.grad(fourth)(1.0))
    (360.0, 720.0)
    """
    check_callable("derivative", fun)
    order = checked_order("derivative", n)
    if order == 0:
        return fun
    inner = getattr(fun, "_derivative", None)
    # What wraps a derivative has its attributes, and is none.
    if isinstance(inner, Derivative) and inner.itself is fun and inner.argnum == argnum:
        return derivative(inner.fun, inner.n + order, argnum)

    @wraps(fun)
    def derivative_fun(*args: Any, **kwargs: Any) -> Any:
        numbers = positions("derivative", argnum, len(args))
        chosen = [args[i] for i in numbers]
        leaves = tree_util.tree_leaves(chosen)
        check_inputs("derivative", chosen, leaves, numbers, False, False)
        if len(leaves) != 1 or aval_of(leaves[0]).shape:
            raise DtypeError(
                f"derivative: {fun_name(fun)} must be a function of a scalar, and argument {numbers[0]} is "
                f"{types_of(leaves)}. For derivatives along a direction use taylor or jet, for all partial derivatives "
                f"jacfwd, jacrev or hessian.{at(caller_source())}"
            )
        traced = trace(closed_over(fun, args, numbers, kwargs), chosen, transform="derivative", concrete=True)
        program = rewrites.derivative(traced.program, len(traced.captures), order)
        avals = traced.program.out_avals
        found = scatter(tuple([a.is_inexact for a in avals]), apply(program, [*traced.captures, *leaves]))
        ys = [zero_tangent(a) if y is None else y for y, a in zip(found, avals, strict=True)]
        return tree_util.tree_unflatten(traced.out_tree, ys)

    made = Derivative(fun, order, argnum, derivative_fun)
    derivative_fun._derivative = made  # pyright: ignore[reportAttributeAccessIssue]
    return derivative_fun


class Derivative(NamedTuple):
    """What `derivative` made `itself` of, so that a derivative of it is one of higher order."""

    fun: Callable[..., Any]
    n: int
    argnum: int
    itself: Callable[..., Any]


def taylor(fun: Callable[..., Any], x: Any, n: int, direction: Any = None) -> tuple[Any, ...]:
    """The first Taylor coefficients of a function on a line: `fun(x + t * direction)` is the sum of `c[k] * t ** k`.

    Coefficient k is the k-th directional derivative divided by k!, which keeps within the range of floats where the
    derivative itself does not.

    Args:
      fun: a pure function of one pytree of arrays to a pytree of arrays.
      x: where; its leaves are of inexact dtype.
      n: the order of the last coefficient, from 0 on.
      direction: of the structure, shapes and dtypes of `x`; it may be left out where `x` is a scalar, and is 1 then.
    Returns:
      `(c[0], ..., c[n])`, each of the structure, shapes and dtypes of the output. `c[0]` is `fun(x)`.
    Raises:
      ArgumentError: `n` is negative, or there is no direction and `x` is not a scalar.
      DtypeError: `n` is not an integer, a leaf of `x` is not of inexact dtype, or the direction is not like `x`.

    >>> import functrace as ft
    >>> [float(c) for c in ft.taylor(lambda x: 1 / (1 - x), 0.0, 4)]
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    check_callable("taylor", fun)
    order = checked_order("taylor", n)
    leaves = tree_util.tree_leaves(x)
    check_inputs("taylor", (x,), leaves, (0,), False, False)
    if direction is None:
        if len(leaves) != 1 or aval_of(leaves[0]).shape:
            raise ArgumentError(
                f"taylor: x is {types_of(leaves)} and not a scalar, so it needs a direction: taylor(fun, x, n, "
                f"direction) with one of the structure of x.{at(caller_source())}"
            )
        vs = [np.ones((), aval_of(leaves[0]).dtype)]
    else:
        check_same_tree("taylor", "the direction", direction, x, "x")
        vs = tree_util.tree_leaves(direction)
        tangent_flags("taylor", leaves, vs, "direction")
    traced = trace(fun, (x,), transform="taylor", concrete=True)
    given = ((False,) * order,) * len(traced.captures) + ((True, *(False,) * (order - 1))[:order],) * len(leaves)
    fill = tuple([(a.is_inexact,) * order for a in traced.program.out_avals])
    program, found = rewrites.series(traced.program, given, fill)
    outputs = unflat(apply(program, [*traced.captures, *leaves, *(vs if order else ())]), found)
    each = [with_zeros(y, a) for y, a in zip(outputs, traced.program.out_avals, strict=True)]
    return tuple([tree_util.tree_unflatten(traced.out_tree, [y[k] for y in each]) for k in range(order + 1)])


def jet(
    fun: Callable[..., Any], primals: Sequence[Any], series: Sequence[Any], factorial_scaled: bool = True
) -> tuple[Any, Any]:
    """The derivatives of a function along a curve, from those of the curve: as `jax.experimental.jet`.

    The curve h has the value `primals` and the derivatives `series` at 0; the results are those of `fun(h(t))`.

    Args:
      fun: a pure function of pytrees of arrays to a pytree of arrays.
      primals: its positional arguments, a tuple or list.
      series: as `primals`, with a list in the place of each leaf: the first, second, ... derivative, all lists of one
        length, each entry of the shape and dtype of its primal (of dtype float0 for integer leaves).
      factorial_scaled: whether terms are derivatives; if not, they are Taylor coefficients, `1 / k!` of those, of the
        results too.
    Returns:
      `(output, series_out)`; in `series_out` each leaf of the output has a list of as many terms.
    Raises:
      ArgumentError: lists differ in length.
      DtypeError: structure, shape or dtype of a term is not its primal's.

    >>> import functrace as ft
    >>> y, (dy, ddy) = ft.jet(lambda x: x ** 3, (2.0,), ([1.0, 0.0],))
    >>> float(y), float(dy), float(ddy)
    (8.0, 12.0, 12.0)
    """
    check_callable("jet", fun)
    if not all([isinstance(given, tuple | list) for given in (primals, series)]) or len(primals) != len(series):
        raise DtypeError(
            "jet: primals and series must be tuples or lists of one length, with an entry for each positional "
            f"argument, got {described(primals)} and {described(series)}.{at(caller_source())}"
        )
    leaves, tree = tree_util.tree_flatten(tuple(primals))
    try:
        terms = tree.flatten_up_to(tuple(series))
    except ValueError as error:
        raise DtypeError(
            f"jet: series must have the pytree structure of primals, with a list in the place of each leaf ({error})."
            f"{at(caller_source())}"
        ) from error
    for i, of_leaf in enumerate(terms):
        if not isinstance(of_leaf, tuple | list):
            raise DtypeError(
                f"jet: series of {leaf_label(primals, i)} must be a list of terms, the first, second, ... derivative, "
                f"got {described(of_leaf)}.{at(caller_source())}"
            )
        if len(of_leaf) != len(terms[0]):
            raise ArgumentError(
                f"jet: series must have one length: that of {leaf_label(primals, 0)} has {len(terms[0])} terms, and "
                f"that of {leaf_label(primals, i)} has {len(of_leaf)}. Put zeros where a derivative is zero."
                f"{at(caller_source())}"
            )
    given = tuple([
        tuple([has_term(primals, i, k, x, dx) for k, dx in enumerate(of_leaf)])
        for i, (x, of_leaf) in enumerate(zip(leaves, terms, strict=True))
    ])  # fmt: skip
    order = len(terms[0]) if terms else 0
    values = [dx for flags, of_leaf in zip(given, terms, strict=True) for dx in select(flags, of_leaf)]
    traced = trace(fun, tuple(primals), transform="jet", concrete=True)
    program = rewrites.jet(traced.program, ((False,) * order,) * len(traced.captures) + given, factorial_scaled)
    fill = tuple([(a.is_inexact,) * order for a in traced.program.out_avals])
    outputs = unflat(apply(program, [*traced.captures, *leaves, *values]), fill)
    each = [with_zeros(y, a) for y, a in zip(outputs, traced.program.out_avals, strict=True)]
    ys = tree_util.tree_unflatten(traced.out_tree, [y[0] for y in each])
    return ys, tree_util.tree_unflatten(traced.out_tree, [y[1:] for y in each])


def checked_order(transform: str, n: Any) -> int:
    """`n` as an int, which an order must be."""
    try:
        order = operator.index(n)
    except TypeError as error:
        raise DtypeError(
            f"{transform}: the order n must be an integer, got {n!r} of type {type(n).__name__}.{at(caller_source())}"
        ) from error
    if order < 0:
        raise ArgumentError(
            f"{transform}: the order n must not be negative, got {order}. Order 0 is the function.{at(caller_source())}"
        )
    return order


def has_term(primals: Any, i: int, k: int, x: Any, dx: Any) -> bool:
    """Whether a term of the series of leaf i is there; it must be of its primal's type."""
    if is_zero_tangent(dx):
        return False
    aval, found = aval_of(x), aval_of(dx)
    if not aval.is_inexact:
        raise DtypeError(
            f"jet: {leaf_label(primals, i)} has dtype {aval.dtype}, which has no derivatives. Cast it "
            f"(`.astype(float)`), or give terms of dtype float0 (numpy.zeros(shape, jax.dtypes.float0)); term {k + 1} "
            f"of its series is {found}.{at(caller_source())}"
        )
    if not aval.matches(found):
        raise DtypeError(
            f"jet: term {k + 1} of the series of {leaf_label(primals, i)} is {found}, and must have the type of its "
            f"primal, {aval}.{at(caller_source())}"
        )
    return True


def with_zeros(coefficients: Sequence[Any], aval: Any) -> list[Any]:
    """The coefficients of an output; those of an integer are zeros of dtype float0."""
    first, *rest = coefficients
    return [first, *[zero_tangent(aval) if c is None else c for c in rest]]


def types_of(leaves: Sequence[Any]) -> str:
    """The types of some arrays, for a message."""
    return ", ".join([str(aval_of(x)) for x in leaves]) or "no array"


def described(x: Any) -> str:
    """A sequence with its length, anything else by its type."""
    name = type(x).__name__
    return f"a {name} of {len(x)}" if isinstance(x, tuple | list) else f"a {name}"
