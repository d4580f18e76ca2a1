"""Gradients of scalar functions.

grad : (a -> R) -> a -> T* a                            grad f x = snd (vjp f x) 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from jax import tree_util

from functrace import rewrites
from functrace.errors import DtypeError
from functrace.ir import is_complex
from functrace.ir.source import caller_source
from functrace.rewrites.memo import scatter
from functrace.tracing import apply, aval_of
from functrace.tracing.trace import Traced
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, closed_over, leaf_label, positions, zero_tangent
from functrace.transforms.auxiliary import trace_with_aux


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """A function that returns the value of a scalar function and its gradient.

    Args:
      fun: a pure function to a scalar; the arguments at `argnums` are pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic: complex in, complex out.
      allow_int: whether integer leaves are allowed; their gradient is a zero of dtype float0.
    Returns:
      A function with the arguments of `fun` that returns `(value, gradient)`, or
      `((value, aux), gradient)`. The gradient has the structure of the argument (a tuple of such if
      `argnums` is a sequence).
    Raises:
      DtypeError: an argument is not of inexact dtype, or the output is not a real scalar.
      ArgumentError: `argnums` is out of range.

    >>> import functrace as ft
    >>> value, slope = ft.value_and_grad(lambda x: x ** 2 + x)(0.5)
    >>> float(value), float(slope)
    (0.75, 2.0)
    """
    return _value_and_grad("value_and_grad", fun, argnums, has_aux, holomorphic, allow_int)


def _value_and_grad(
    transform: str, fun: Any, argnums: Any, has_aux: bool, holomorphic: bool, allow_int: bool
) -> Callable[..., Any]:
    check_callable(transform, fun)

    @wraps(fun)
    def value_and_grad_fun(*args: Any, **kwargs: Any) -> Any:
        numbers = positions(transform, argnums, len(args))
        chosen = [args[i] for i in numbers]
        xs, in_tree = tree_util.tree_flatten(tuple(chosen))
        check_inputs(transform, chosen, xs, numbers, holomorphic, allow_int)
        of_chosen = closed_over(fun, args, numbers, kwargs)
        traced, aux, _, n = trace_with_aux(transform, of_chosen, chosen, has_aux, like=fun)
        check_output(transform, traced, n, holomorphic)
        moving = tuple(aval_of(x).is_inexact for x in xs)
        program = rewrites.gradient(traced.program, (False,) * len(traced.captures) + moving)
        outputs = apply(program, [*traced.captures, *xs])
        m = len(traced.program.outputs)
        gradients = scatter(moving, outputs[m:])
        gradients = [zero_tangent(aval_of(x)) if g is None else g for g, x in zip(gradients, xs, strict=True)]
        result = tree_util.tree_unflatten(in_tree, gradients)
        if isinstance(argnums, int):
            (result,) = result
        value = (outputs[0], aux.join(outputs[1:m])) if has_aux else outputs[0]
        return value, result

    return value_and_grad_fun


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The gradient of a scalar function.

    In one scalar, or a few where that takes less, it is written by forward mode, so that towers of `grad` grow as a
    polynomial in their height; otherwise by reverse mode. Hooks, and backward functions that are not linear, always
    have reverse mode.

    Args:
      fun: a pure function to a scalar; the arguments at `argnums` are pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`; the result is then `(gradient, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic: complex in, complex out.
      allow_int: whether integer leaves are allowed; their gradient is a zero of dtype float0.
    Returns:
      A function with the arguments of `fun` that returns the gradient: of the structure, shapes and
      dtypes of the argument.
    Raises:
      DtypeError: an argument is not of inexact dtype, or the output is not a real scalar.
      ArgumentError: `argnums` is out of range.

    >>> import functrace as ft
    >>> cube = lambda x: x ** 3
    >>> float(ft.grad(cube)(2.0)), float(ft.grad(ft.grad(cube))(2.0))
    (12.0, 12.0)
    """
    return gradient_of("grad", fun, argnums, has_aux, holomorphic, allow_int)


def gradient_of(
    transform: str, fun: Any, argnums: Any = 0, has_aux: bool = False, holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """`grad` on behalf of a transform, which its errors name."""
    both = _value_and_grad(transform, fun, argnums, has_aux, holomorphic, allow_int)

    @wraps(fun)
    def grad_fun(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_fun


def check_inputs(
    transform: str, args: Any, leaves: Any, numbers: Any, holomorphic: bool | None = None, allow_int: bool | None = None
) -> None:
    """Every differentiated leaf must have a dtype that has derivatives. What is None, the transform does not have."""
    for i, x in enumerate(leaves):
        try:
            aval = aval_of(x)
        except TypeError as error:
            raise DtypeError(
                f"{transform}: {leaf_label(args, i, numbers)} is a {type(x).__name__} ({x!r}), not an array."
                f"{at(caller_source())}"
            ) from error
        if holomorphic and not is_complex(aval.dtype):
            raise DtypeError(
                f"{transform}: holomorphic=True needs complex inputs, and {leaf_label(args, i, numbers)} has dtype "
                f"{aval.dtype}.{at(caller_source())}"
            )
        if not aval.is_inexact and not allow_int:
            ways = ", or leave it out of the first argument: close over it, or pass it beside the batch"
            if allow_int is not None:
                ways = ", leave it out of argnums, or pass allow_int=True"
            raise DtypeError(
                f"{transform}: {leaf_label(args, i, numbers)} has dtype {aval.dtype}; derivatives need a floating or "
                f"complex dtype. Cast it (`.astype(float)`){ways}.{at(caller_source())}"
            )


def check_output(transform: str, traced: Traced, n: int, holomorphic: bool | None = None) -> None:
    """The differentiated output must be one scalar, real unless `holomorphic`, which some transforms do not have."""
    avals = traced.program.out_avals[:n]
    if n != 1 or avals[0].shape:
        found = ", ".join(map(str, avals)) if n else "no array"
        others = ", and return the rest through has_aux=True"
        if holomorphic is not None:
            others = ", return the rest through has_aux=True, or use jacrev, jacfwd or vjp"
        raise DtypeError(
            f"{transform}: the function must return a scalar, got {found}. Reduce it (`.sum()`, `.mean()`){others}."
            f"{at(caller_source())}"
        )
    (aval,) = avals
    if bool(holomorphic) != is_complex(aval.dtype) or not aval.is_inexact:
        wanted = "complex (holomorphic=True)" if holomorphic else "real floating"
        also = "" if holomorphic is None else ", or see holomorphic=True"
        raise DtypeError(
            f"{transform}: the output must be {wanted}, got {aval}. Take its real part{also}.{at(caller_source())}"
        )
