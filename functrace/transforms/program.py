"""Looking at a function without running it: its Program, the types of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
from jax import tree_util

from functrace.ir import Program
from functrace.tracing import trace
from functrace.tracing.programs import structure_of
from functrace.tracing.trace import parameter_names
from functrace.transforms.arguments import check_call, check_callable
from functrace.transforms.jit import dynamic_names, without_static


def make_program(
    fun: Callable[..., Any], static_argnums: int | Sequence[int] = ()
) -> Callable[..., Program]:
    """A function that returns the Program of `fun` instead of its value.

    Args:
      fun: a pure function of pytrees of arrays.
      static_argnums: positions of arguments that are Python values.
    Returns:
      A function with the arguments of `fun` (arrays, or anything with their shape and dtype). Arrays
      that `fun` closes over are the Program's leading inputs, whose values it keeps. The Program is a function too,
      and can be saved.

    >>> import functrace as ft
    >>> print(ft.make_program(ft.grad(lambda x: x * x))(3.0).out_avals)
    (f32[]~,)
    """
    return made_program("make_program", fun, static_argnums)


def made_program(
    transform: str, fun: Callable[..., Any], static_argnums: int | Sequence[int]
) -> Callable[..., Program]:
    """`make_program`, for the transform of that name."""
    check_callable(transform, fun)
    numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    @wraps(fun)
    def program_of(*args: Any, **kwargs: Any) -> Program:
        check_call(transform, fun, args, kwargs)
        of_arrays, xs, keyed = without_static(fun, args, kwargs, numbers, ())
        names = dynamic_names(parameter_names(fun), len(args), numbers)
        traced = trace(of_arrays, xs, keyed, transform=transform, names=names)
        traced.program.captured = traced.captures
        traced.program.structure = structure_of(traced.out_tree)
        return traced.program

    return program_of


def eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Shapes and dtypes of `fun(*args, **kwargs)`, with no arithmetic done.

    Args:
      fun: a pure function of pytrees of arrays.
      *args: arrays, or anything with their shape and dtype (`jax.ShapeDtypeStruct`).
      **kwargs: keyword arguments, likewise.
    Returns:
      The output's pytree with `jax.ShapeDtypeStruct` for leaves.

    >>> import functrace as ft, numpy as np
    >>> ft.eval_shape(lambda x: x @ x.T, np.ones((2, 3), np.float32)).shape
    (2, 2)
    """
    check_callable("eval_shape", fun)
    traced = trace(fun, args, kwargs, transform="eval_shape")
    structs = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in traced.program.out_avals
    ]
    return tree_util.tree_unflatten(traced.out_tree, structs)


