"""What is checked: a function of the floating leaves of its arguments alone, and the names of all leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax import tree_util

from functrace.errors import ArgumentError, DerivativeError, DtypeError
from functrace.ir.source import caller_source
from functrace.testing.numerical import EPS, TOLERANCE, Point, Settings, as_array
from functrace.tracing import aval_of
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, leaf_label

DOUBLE = (np.dtype(np.float64), np.dtype(np.complex128))
SINGLE = (np.dtype(np.float32), np.dtype(np.complex64))


def point_of(caller: str, f: Callable[..., Any], args: Sequence[Any], allow_float32: bool = False) -> Point:
    """`f` as a function of the inexact leaves of `args` alone, to its inexact outputs."""
    check_callable(caller, f)
    if not isinstance(args, tuple | list):
        raise DtypeError(
            f"{caller}: args must be a tuple with one entry a positional argument, got {type(args).__name__}."
            f"{at(caller_source())}"
        )
    leaves = tree_util.tree_leaves(tuple(args))
    moving = [i for i, x in enumerate(leaves) if aval_of(x).is_inexact]
    if not moving:
        raise DtypeError(f"{caller}: no leaf of args has a floating or complex dtype.{at(caller_source())}")
    names = [leaf_label(args, i) for i in moving]
    for i, name in zip(moving, names, strict=True):
        check_dtype(caller, name, leaves[i], allow_float32)
    join = joiner(args)

    def fun(xs: list[Any]) -> list[Any]:
        return [y for y in tree_util.tree_leaves(f(*join(xs))) if aval_of(y).is_inexact]

    xs = [as_array(leaves[i]) for i in moving]
    outputs, ys = [], []
    for path, y in tree_util.tree_flatten_with_path(f(*join(xs)))[0]:
        if aval_of(y).is_inexact:
            ys.append(y)
            outputs.append(f"the output{f' leaf {tree_util.keystr(path)}' if path else ''}")
            check_dtype(caller, outputs[-1], y, allow_float32)
            if not np.isfinite(y).all():
                raise ArgumentError(
                    f"{caller}: {outputs[-1]} is not finite, and has no derivative to check; choose other args, or "
                    f"leave those entries out.{at(caller_source())}"
                )
    if not outputs:
        raise DtypeError(f"{caller}: no output has a floating or complex dtype.{at(caller_source())}")
    is_single = any(aval_of(x).dtype in SINGLE for x in [*xs, *ys])
    return Point(fun, xs, names, outputs, np.dtype(np.float32 if is_single else np.float64))


def prepared(
    caller: str, f: Callable[..., Any], args: Sequence[Any], allow_float32: bool, modes: tuple[str, ...],
    atol: float | None, rtol: float | None, eps: float | None,
) -> tuple[Point, Settings]:  # fmt: skip
    """What is checked, and how closely: None for a default of the point's precision."""
    atol, rtol = checked_number(caller, "atol", atol), checked_number(caller, "rtol", rtol)
    eps = checked_number(caller, "eps", eps)
    point = point_of(caller, f, args, allow_float32)
    atol, rtol = (TOLERANCE[point.dtype] if t is None else t for t in (atol, rtol))
    unit = float(np.finfo(point.dtype).eps)
    return point, Settings(caller, modes, atol, rtol, EPS[point.dtype] if eps is None else eps, unit)


def checked_number(caller: str, name: str, value: Any) -> float | None:
    """A tolerance, which must be at 0 or above, or a step, which must be above 0; finite, or None."""
    if value is None:
        return None
    is_step = name == "eps"
    with suppress(TypeError, ValueError):
        if 0 <= float(value) < math.inf and not (is_step and value == 0):
            return float(value)
    raise ArgumentError(
        f"{caller}: {name} must be a finite number {'above 0' if is_step else 'at 0 or above'}, got {value!r}; leave "
        f"it out for one that suits the dtype.{at(caller_source())}"
    )


def check_dtype(caller: str, name: str, x: Any, allow_float32: bool) -> None:
    """Numerical derivatives need double precision, or leave to check the little that single precision shows."""
    dtype = aval_of(x).dtype
    if dtype in DOUBLE or (allow_float32 and dtype in SINGLE):
        return
    also = (
        "; of float32's seven digits a difference loses half: to check the three that are left, pass allow_float32=True"
        if dtype in SINGLE
        else ""
    )
    raise DtypeError(
        f"{caller}: {name} has dtype {dtype}; numerical derivatives need float64 or complex128. Enable them, "
        '`jax.config.update("jax_enable_x64", True)` or `with jax.enable_x64(True):`, and cast to them '
        f"(`.astype(numpy.float64)`){also}.{at(caller_source())}"
    )


def joiner(args: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
    """A function that puts inexact leaves back among the others (or among what `fill` makes of their types)."""
    leaves, tree = tree_util.tree_flatten(tuple(args))
    flags = [aval_of(x).is_inexact for x in leaves]

    def join(xs: Sequence[Any], fill: Callable[[Any], Any] | None = None) -> tuple[Any, ...]:
        rest = iter(xs)
        return tree_util.tree_unflatten(
            tree,
            [
                next(rest) if flag else x if fill is None else fill(aval_of(x))
                for x, flag in zip(leaves, flags, strict=True)
            ],
        )

    return join


def result(caller: str, what: str, tree: Any, count: int) -> list[Any]:
    """The inexact leaves of what a derivative under test returned, as many as there must be."""
    leaves = tree_util.tree_leaves(tree)
    found = [y for y in leaves if getattr(y, "dtype", None) != jax.dtypes.float0 and aval_of(y).is_inexact]
    if len(found) != count:
        raise DerivativeError(
            f"{caller}: {what} has {len(found)} floating or complex leaves, and must have {count}.{at(caller_source())}"
        )
    return found
