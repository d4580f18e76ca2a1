"""What the transforms ask of their arguments: argnums, pytrees that must match, dtypes that move."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp, tree_util

from functrace.errors import ArgumentError, DtypeError
from functrace.ir import Aval
from functrace.ir.source import caller_source
from functrace.tracing.lift import lift
from functrace.tracing.tracer import at, aval_of

float0 = jax.dtypes.float0
zeros = lift(jnp.zeros)


def fun_name(fun: Callable[..., Any]) -> str:
    """What a message calls a function."""
    return getattr(fun, "__name__", type(fun).__name__)


def check_call(
    transform: str, fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], first: bool = False
) -> None:
    """Refuse arguments that `fun` cannot be called with; `first` is whether it is differentiated in its first one."""
    try:
        signature = inspect.signature(fun, follow_wrapped=False)
    except ValueError:  # of a builtin that tells nothing
        return
    try:
        signature.bind(*args, **kwargs)
        if not first or args:
            return
        problem = "it has no argument to differentiate"
    except TypeError as error:
        problem = str(error)
    raise DtypeError(
        f"{transform}: {fun_name(fun)}{signature} was given {len(args)} positional arguments: {problem}. Call what "
        f"{transform} returns as you would call {fun_name(fun)}.{at(caller_source())}"
    )


def check_callable(transform: str, fun: Any, what: str = "") -> None:
    """Refuse what cannot be called; `what` is the argument's name where there are several."""
    if not callable(fun):
        raise DtypeError(
            f"{transform}: expected a function{f' as {what}' if what else ''}, got {type(fun).__name__} ({fun!r})."
            f"{at(caller_source())}"
        )


def positions(transform: str, argnums: int | Sequence[int], count: int) -> tuple[int, ...]:
    """`argnums` as non-negative positions of `count` arguments."""
    wanted = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for i in wanted:
        if not isinstance(i, int):
            raise DtypeError(f"{transform}: argnums must be an int or a sequence of ints, got {argnums!r}")
        if not -count <= i < count:
            raise ArgumentError(
                f"{transform}: argnums {i} is out of range: the function was called with {count} positional "
                f"arguments. Pass the argument by position, or change argnums.{at(caller_source())}"
            )
    return tuple(i % count for i in wanted)


def closed_over(
    fun: Callable[..., Any], args: Sequence[Any], moving: Sequence[int], kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """`fun` as a function of the arguments at `moving` alone; the others may be any objects."""

    def of_moving(*values: Any) -> Any:
        full = list(args)
        for i, value in zip(moving, values, strict=True):
            full[i] = value
        return fun(*full, **kwargs)

    of_moving.__name__ = fun_name(fun)
    of_moving.made_of = fun  # pyright: ignore[reportFunctionMemberAccess]
    return of_moving


def leaf_label(args: Any, i: int, numbers: Sequence[int] = ()) -> str:
    """`argument 0 leaf ['W']` for leaf i of a tuple of arguments."""
    path = tree_util.tree_flatten_with_path(tuple(args))[0][i][0]
    position = path[0].idx
    rest = tree_util.keystr(path[1:])
    return f"argument {numbers[position] if numbers else position}{f' leaf {rest}' if rest else ''}"


def check_same_tree(transform: str, what: str, found: Any, expected: Any, like: str) -> None:
    """Two pytrees must have one structure."""
    found_tree, expected_tree = tree_util.tree_structure(found), tree_util.tree_structure(expected)
    if found_tree != expected_tree:
        raise DtypeError(
            f"{transform}: {what} must have the pytree structure of {like}: expected {expected_tree}, got "
            f"{found_tree}.{at(caller_source())}"
        )


def zero_tangent(aval: Aval) -> Any:
    """The zero of the tangent space: of the type itself if inexact, float0 as in JAX if not."""
    if not aval.is_inexact:
        return np.zeros(aval.shape, float0)
    return zeros(aval.shape, aval.dtype)


def is_zero_tangent(dx: Any) -> bool:
    """Whether a tangent is the float0 zero of an integer's tangent space."""
    return getattr(dx, "dtype", None) == float0


def tangent_flags(
    transform: str, primals: Sequence[Any], tangents: Sequence[Any], what: str
) -> tuple[bool, ...]:
    """Which leaves move; each tangent must have its primal's shape and dtype."""
    moving = []
    for i, (x, dx) in enumerate(zip(primals, tangents, strict=True)):
        aval = aval_of(x)
        if is_zero_tangent(dx):
            moving.append(False)
            continue
        d_aval = aval_of(dx)
        if not aval.is_inexact:
            raise DtypeError(
                f"{transform}: leaf {i} of the primals has type {aval}, whose {what} must be of dtype float0 "
                f"(numpy.zeros(shape, jax.dtypes.float0)), got {d_aval}.{at(caller_source())}"
            )
        if not aval.matches(d_aval):
            raise DtypeError(
                f"{transform}: leaf {i} of the {what}s has type {d_aval}, and must have that of its primal, {aval}."
                f"{at(caller_source())}"
            )
        moving.append(True)
    return tuple(moving)
