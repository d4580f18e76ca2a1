"""Elementwise functions of two or three real numbers: powers, extrema, angles, remainders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from jax import lax, numpy as jnp

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Literal, Sample
from functrace.ir.aval import is_complex, is_inexact
from functrace.primitives.comparison import eq, ge, gt, le, logical_and, lt
from functrace.primitives.elementwise import (
    C64,
    F32,
    I32,
    Formula,
    add,
    binary,
    convert_element_type,
    is_constant,
    mul,
    neg,
    same_type,
    sub,
)
from functrace.primitives.families import literal
from functrace.primitives.quotients import IntegerPow, div
from functrace.primitives.recurrences import series_of_power
from functrace.primitives.selection import where
from functrace.primitives.space import full
from functrace.primitives.unary import ceil, floor, log, square

BF16 = np.dtype(ml_dtypes.bfloat16)
VECTOR = Aval((3,), F32)


def _pair(*pairs: tuple[float, float]) -> tuple[Any, Any]:
    """Sample operands from pairs of values."""
    return tuple(np.array(column, np.float32) for column in zip(*pairs, strict=True))  # pyright: ignore[reportReturnType]


def one_for_zero(x: Atom) -> Atom:
    """`x` with 1 in the place of 0, where a limit must not meet 0 * inf."""
    return where(eq(x, 0), 1, x)


class _Power(Formula):
    """x ** y for an inexact x and a y of its dtype or of an integer one."""

    def __call__(self, *operands: Any) -> Any:
        x, y = operands
        if isinstance(x, Atom) and type(y) is int and is_inexact(x.aval.dtype):
            y = float(y)
        return super().__call__(x, y)

    def out_dtype(self, *xs: Aval) -> Any:
        x, y = xs
        if not x.is_inexact or (y.is_inexact and x.dtype != y.dtype):
            raise ShapeError(f"pow: {x} ** {y}: the base must be inexact and the exponent of its dtype or integer")
        return x.dtype

    def samples(self) -> Iterator[Sample]:
        yield from super().samples()
        for exponent in (np.int32(3), np.array([0, 2, -1], np.int32)):
            yield Sample(self, (VECTOR, np.asarray(exponent)), "positive")
        powers = np.array([0, 1, 2], np.int32)
        yield Sample(self, (np.zeros(3, np.float32), powers), differentiable=False, order=1)


def _simplify_pow(b: Builder, x: Atom, y: Atom) -> Atom | None:
    return x if not y.aval.shape and y.aval.is_inexact and is_constant(y, 1.0) and same_type(x, y) else None


def _pow_in_base(x: Atom, y: Atom, z: Atom) -> Atom:
    if y.aval.is_inexact:
        if type(y) is not Literal:  # x ** 0 is 1 at 0 too
            return mul(y, pow_(x, sub(where(logical_and(eq(x, 0), eq(y, 0)), 1, y), 1.0)))
        return full(z.aval, 0) if y.value == 0 else mul(y, pow_(x, sub(y, 1.0)))
    n = convert_element_type(y, x.aval.dtype)
    slope = mul(one_for_zero(n), pow_(x, sub(n, 1.0)))
    return where(eq(n, 0), 0, slope)


def _series_of_pow(xs: Any, ys: Any) -> Any:
    """By squaring, or by the recurrence of a pole; the derivative serves other exponents, as it holds where x is 0."""
    x, y = xs
    r = float(y.value.value) if type(y.value) is Literal and not is_complex(y.aval.dtype) else 0.5
    if r.is_integer() and 0 <= r < 1000:
        whole = x.through(IntegerPow(int(r)))
        return lambda k: whole[k]
    return series_of_power(r, xs[:1], ys) if r < 0 else None


pow_ = _Power(
    "pow",
    lax.pow,
    (_pow_in_base, lambda x, y, z: mul(log(one_for_zero(x)), z)),
    simplify=_simplify_pow,
    series=_series_of_pow,
    has_pole=True,
    domain="positive",
    dtypes=(F32, C64, BF16),
    # At 0 ** 0, and the second one of x ** 1 at 0, JAX's derivative is NaN.
    edges=[_pair((0.0, 2.0), (0.0, 0.5), (-2.0, 2.0), (-2.0, 3.0))],
    takes=(0, 1),
)


class _Extremum(Formula):
    """max, min: the tangent of the operand that is chosen, half of it where both are."""

    picks = True

    def term(self, i: int, dx: Atom, xs: Any, y: Any) -> Any:
        # Selected, so that the other operand has no part in it; JAX multiplies by 0. The operands are compared with
        # each other, not with y as in JAX: XLA may compute an operand again with another rounding, which equals no y.
        x, other = xs[i], xs[1 - i]
        attains = ge if self.name == "max" else le
        return mul(where(attains(x, other), dx, 0), where(eq(x, other), 0.5, literal(1, y.aval)))


TIES = [_pair((1.0, 1.0), (1.0, 2.0), (0.0, -0.0), (np.nan, 1.0), (np.inf, np.inf))]
EXTREMUM = {"commutative": True, "dtypes": (F32, I32, BF16), "edges": TIES}
max_ = _Extremum("max", lax.max, (None, None), **EXTREMUM)
min_ = _Extremum("min", lax.min, (None, None), **EXTREMUM)


def _truncated(x: Atom) -> Atom:
    return where(lt(x, 0), ceil(x), floor(x))


rem = binary(
    "rem",
    lax.rem,
    lambda x, y, z: 1.0,
    lambda x, y, z: neg(_truncated(div(x, y))),
    series=lambda xs, ys: rem.series_along(xs, ys),
    dtypes=(F32, I32),
    domain="positive",
    edges=[_pair((5.0, -3.0), (-5.0, 3.0), (4.5, 1.5))],
)
atan2 = binary(
    "atan2",
    lax.atan2,
    lambda x, y, z: div(y, add(square(x), square(y))),
    lambda x, y, z: neg(div(x, add(square(x), square(y)))),
    edges=[_pair((0.0, 1.0), (1.0, 0.0), (0.0, -1.0))],
    takes=(0, 1),
)


# Fixed in the samples: the older versions of JAX have no derivative.
nextafter = binary("nextafter", lax.nextafter, lambda x, y, z: literal(1, z.aval), None, fixed=(0, 1))


class _Clamp(Formula):
    """clamp(low, x, high): x, moved into [low, high]."""

    picks = True

    def term(self, i: int, dx: Atom, xs: Any, y: Any) -> Any:
        # Selected and not multiplied, so that a tangent of inf outside of the interval adds zero.
        low, x, high = xs
        is_active = (
            logical_and(gt(low, x), lt(low, high)),
            logical_and(gt(x, low), lt(x, high)),
            lt(high, x),
        )[i]
        return where(is_active, dx, 0)


def _lower_clamp(low: Any, x: Any, high: Any) -> Any:
    # JAX's bounds are scalars, and then without a derivative, or of the shape of x.
    return lax.clamp(*jnp.broadcast_arrays(low, x, high))


clamp = _Clamp(
    "clamp",
    _lower_clamp,
    (None, None, None),
    dtypes=(F32, I32),
    edges=[
        (np.float32(-1), np.array([-2, -1, 0.5, 1, 2], np.float32), np.float32(1)),
        tuple(np.array(v, np.float32) for v in ([0, 1, 1], [0.5, 0.5, 3], [1, 1, 0])),
    ],
)
