"""The Laplacian of a function, and that of its Laplacian.

laplacian : (a -> b) -> a -> (b, b)             trace of the Hessian, carried forward with the value
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
from functrace.tracing import apply, aval_of
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, closed_over, leaf_label, positions
from functrace.transforms.auxiliary import trace_with_aux
from functrace.transforms.grad import check_inputs


def laplacian(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the value of `fun` and its Laplacian, the trace of its Hessian.

    Value, Jacobian and Laplacian are carried forward together in one pass: no Hessian is formed, nothing is kept for
    a way back. The Laplacian is that in all entries of all leaves of the arguments at `argnums`.

    Args:
      fun: a pure function of pytrees of arrays; the arguments at `argnums` are of real floating dtype.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      A function with the arguments of `fun` that returns `(value, laplacian)`, or `(value, laplacian, aux)`; both
      have the structure, shapes and dtypes of the output of `fun`, which may be any, complex ones included.
    Raises:
      DtypeError: an argument is not of real floating dtype, or an output is not of inexact dtype.
      ArgumentError: `argnums` is out of range.
    Source: the forward Laplacian of Li et al. (2024), arXiv:2307.08214.

    >>> import functrace as ft, numpy as np
    >>> value, lap = ft.laplacian(lambda x: (x ** 3).sum())(np.array([1.0, 2.0]))
    >>> float(value), float(lap)
    (9.0, 18.0)
    """
    return _laplacian("laplacian", fun, argnums, has_aux)


def biharmonic(fun: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the Laplacian of the Laplacian of `fun`.

    Args:
      fun: a pure function of pytrees of arrays; the arguments at `argnums` are of real floating dtype.
      argnums: position or positions of the arguments to differentiate.
    Returns:
      A function with the arguments of `fun` that returns what has the structure, shapes and dtypes of its output.
    Raises:
      DtypeError: an argument is not of real floating dtype, or an output is not of inexact dtype.
      ArgumentError: `argnums` is out of range.

    >>> import functrace as ft, numpy as np
    >>> float(ft.biharmonic(lambda x: (x ** 4).sum())(np.array([1.0, 2.0])))
    48.0
    """
    inner = _laplacian("biharmonic", fun, argnums, False)

    def of_value(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)[1]

    outer = _laplacian("biharmonic", of_value, argnums, False)

    @wraps(fun)
    def biharmonic_fun(*args: Any, **kwargs: Any) -> Any:
        return outer(*args, **kwargs)[1]

    return biharmonic_fun


def _laplacian(transform: str, fun: Any, argnums: Any, has_aux: bool) -> Callable[..., Any]:
    check_callable(transform, fun)

    @wraps(fun)
    def laplacian_fun(*args: Any, **kwargs: Any) -> Any:
        numbers = positions(transform, argnums, len(args))
        chosen = [args[i] for i in numbers]
        check_real_inputs(transform, chosen, numbers)
        traced, aux, out_tree, n = trace_with_aux(
            transform, closed_over(fun, args, numbers, kwargs), chosen, has_aux
        )
        check_inexact_outputs(transform, traced.program.out_avals[:n])
        xs = tree_util.tree_leaves(tuple(chosen))
        program = rewrites.laplacian(traced.program, (False,) * len(traced.captures) + (True,) * len(xs), n)
        outputs = apply(program, [*traced.captures, *xs])
        m = len(traced.program.outputs)
        result = tree_util.tree_unflatten(out_tree, outputs[:n]), tree_util.tree_unflatten(out_tree, outputs[m:])
        return (*result, aux.join(outputs[n:m])) if has_aux else result

    return laplacian_fun


def check_real_inputs(transform: str, chosen: Any, numbers: Sequence[int]) -> None:
    """Every differentiated leaf must be of real floating dtype."""
    xs = tree_util.tree_leaves(tuple(chosen))
    check_inputs(transform, chosen, xs, numbers, False, False)
    for i, x in enumerate(xs):
        if is_complex(aval_of(x).dtype):
            raise DtypeError(
                f"{transform}: {leaf_label(chosen, i, numbers)} has dtype {aval_of(x).dtype}, and must be real: take "
                f"its real and imaginary parts as two arguments.{at(caller_source())}"
            )


def check_inexact_outputs(transform: str, avals: Sequence[Any]) -> None:
    """Every output must be of floating or complex dtype."""
    for i, a in enumerate(avals):
        if not a.is_inexact:
            raise DtypeError(
                f"{transform}: output leaf {i} of the function has type {a}; derivatives need a floating or complex "
                f"dtype. Cast it, or return it through has_aux=True.{at(caller_source())}"
            )
