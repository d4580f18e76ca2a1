"""Elementwise functions of one real or complex number.

`partial(x, y)` is the derivative at x, where the result is y. It is written in y where that is
cheaper, and where it can be as one product, whose derivatives of high order stay small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from jax import lax, numpy as jnp

from functrace.ir import Atom, Aval, Sample, is_complex
from functrace.ir.primitive import primitive
from functrace.primitives.elementwise import C64, F32, I32, Elementwise, add, mul, neg, square_of, sub, unary
from functrace.primitives.quotients import IntegerPow, div, integer_pow, reciprocal
from functrace.primitives.recurrences import convolved, difference, series_of_power, series_of_product, total

BF16 = np.dtype(ml_dtypes.bfloat16)
BOTH = (F32, C64)
# XLA counts each of these as one; for others, `takes` is what it writes in their place.
transcendental = partial(unary, takes=(0, 1))


def series_of_square(sign: int, xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
    """y = x ** 2, or one less its negative, both of whose coefficients are those of a product."""
    square_of_x = series_of_product(mul, xs)

    def rule(k: int) -> Any:
        y = square_of_x(k)
        return y if y is None or sign > 0 else neg(y)

    return rule


def series_of_sqrt(xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
    """y = sqrt(x):  2 y_0 y_k = x_k - sum of y_j y_(k-j) for 0 < j < k."""
    (x,), (y,) = xs, ys

    def rule(k: int) -> Any:
        rest = difference(x[k], convolved(mul, y, y, k, 1, k - 1))
        return None if rest is None else mul(rest, div(0.5, y.value))

    return rule


def of_quotient(denominator: Callable[[Any], Any]) -> Callable[..., Any]:
    """The rule of a function whose derivative is 1 / denominator(x), by one division of series."""

    def series(xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
        slope = xs[0].slope.through(div, denominator(xs[0]))
        return lambda k: None if slope[k - 1] is None else mul(slope[k - 1], 1 / k)

    return series


def series_of_sigmoid(
    xs: Sequence[Any], ys: Sequence[Any], first: Callable[[Any, Any], Any], linear: Callable[[Any, Any], Any]
) -> Any:
    """y' = s x' with s = first(x, y) + linear(x, y) (y - y_0) - (y - y_0)^2.

    Where y is nearly constant, `first` keeps the digits that 1 - y and 1 - y^2 lose.
    """
    (x,), (y,) = xs, ys
    if is_complex(x.aval.dtype):
        return None
    factor = linear(x.value, y.value)
    s = [first(x.value, y.value)]

    def rule(k: int) -> Any:
        if k > 1:
            s.append(difference(y[k - 1] and mul(factor, y[k - 1]), convolved(mul, y, y, k - 1, 1, k - 2)))
        slope = total([mul(x.slope[j], s[k - 1 - j]) for j in range(k) if x.slope[j] and s[k - 1 - j]])
        return None if slope is None else mul(slope, 1 / k)

    return rule


def edge(*values: float) -> tuple[np.ndarray]:
    """Sample operands where the derivative is infinite or a convention."""
    return (np.array(values, np.float32),)


square = unary(
    "square", lax.square, lambda x, y: mul(x, 2.0), fold=np.square, simplify=square_of, dtypes=(F32, C64, I32),
    series=partial(series_of_square, 1),
)
# By factors, which keep their digits near 1; with a derivative of its own, as that of the factors
# cancels near 0.
one_minus_square = unary(
    "one_minus_square",
    lambda x: jnp.add(x, 1) * jnp.subtract(1, x),
    lambda x, y: mul(x, -2.0),
    dtypes=BOTH,
    series=partial(series_of_square, -1),
    takes=(3, 0),
)
exp = transcendental("exp", lax.exp, lambda x, y: y, dtypes=(F32, C64, BF16))
exp2 = unary("exp2", lax.exp2, lambda x, y: mul(y, math.log(2)), dtypes=BOTH, takes=(1, 1))
expm1 = transcendental("expm1", lax.expm1, lambda x, y: exp(x), dtypes=BOTH)  # 1 + y has no digits where y is near -1
log = transcendental(
    "log", lax.log, lambda x, y: reciprocal(x), has_pole=True, domain="positive", dtypes=BOTH,
    series=of_quotient(lambda x: x),
)  # fmt: skip
log2 = unary(
    "log2",
    lambda x: lax.log(x) * (1 / math.log(2)),
    lambda x, y: mul(reciprocal(x), 1 / math.log(2)),
    has_pole=True,
    domain="positive",
    dtypes=BOTH,
    takes=(1, 1),
)
log1p = transcendental(
    "log1p", lax.log1p, lambda x, y: reciprocal(add(x, 1.0)), has_pole=True, domain="positive", dtypes=BOTH,
    series=of_quotient(lambda x: x.through(add, 1.0)),
)
sqrt = transcendental(
    "sqrt", lax.sqrt, lambda x, y: div(0.5, y), domain="positive", dtypes=BOTH, edges=[edge(0.0, 4.0)],
    series=series_of_sqrt,
)
rsqrt = transcendental(
    "rsqrt", lax.rsqrt, lambda x, y: mul(integer_pow(y, 3), -0.5), has_pole=True, domain="positive", dtypes=BOTH,
    series=partial(series_of_power, -0.5),
)
cbrt = transcendental("cbrt", lax.cbrt, lambda x, y: mul(integer_pow(y, -2), 1 / 3), edges=[edge(0.0, 8.0)])

sin = transcendental("sin", lax.sin, lambda x, y: cos(x), dtypes=BOTH)
cos = transcendental("cos", lax.cos, lambda x, y: neg(sin(x)), dtypes=BOTH)
tan = transcendental("tan", lax.tan, lambda x, y: add(square(y), 1.0), domain="unit", dtypes=BOTH)
asin = unary("asin", lax.asin, lambda x, y: rsqrt(one_minus_square(x)), domain="unit", dtypes=BOTH, takes=(3, 2))
acos = unary("acos", lax.acos, lambda x, y: neg(rsqrt(one_minus_square(x))), domain="unit", dtypes=BOTH, takes=(3, 2))
atan = transcendental(
    "atan", lax.atan, lambda x, y: reciprocal(add(square(x), 1.0)), dtypes=BOTH,
    series=of_quotient(lambda x: x.through(square).through(add, 1.0)),
)  # fmt: skip
sinh = unary("sinh", lax.sinh, lambda x, y: cosh(x), dtypes=BOTH, takes=(10, 3))
cosh = unary("cosh", lax.cosh, lambda x, y: sinh(x), dtypes=BOTH, takes=(3, 2))
asinh = unary("asinh", lax.asinh, lambda x, y: rsqrt(add(square(x), 1.0)), dtypes=BOTH, takes=(11, 3))
acosh = unary(
    "acosh", lax.acosh, lambda x, y: mul(rsqrt(sub(x, 1.0)), rsqrt(add(x, 1.0))), domain="above_one", dtypes=BOTH,
    has_pole=True,
    takes=(7, 4),
)  # fmt: skip
atanh = unary(
    "atanh", lax.atanh, lambda x, y: reciprocal(one_minus_square(x)), domain="unit", dtypes=BOTH, takes=(6, 2),
    has_pole=True,
)

tanh = transcendental(
    "tanh", lax.tanh, lambda x, y: one_minus_square(y), dtypes=(F32, C64, BF16),
    series=partial(
        series_of_sigmoid,
        first=lambda x, y: mul(mul(logistic(mul(x, 2.0)), logistic(mul(x, -2.0))), 4.0),
        linear=lambda x, y: mul(y, -2.0),
    ),
)  # fmt: skip
logistic = unary(
    "logistic", lax.logistic, lambda x, y: mul(y, sub(1.0, y)), dtypes=(F32, C64, BF16), takes=(3, 1),
    series=partial(
        series_of_sigmoid,
        first=lambda x, y: mul(y, logistic(neg(x))),
        linear=lambda x, y: neg(tanh(mul(x, 0.5))),  # 1 - 2 y
    ),
)  # fmt: skip

softplus = unary(
    "softplus", lambda x: jnp.logaddexp(x, 0), lambda x, y: logistic(x), dtypes=(F32, BF16), in_jax=False, takes=(6, 2)
)

floor = unary("floor", lax.floor, None, fold=np.floor)
ceil = unary("ceil", lax.ceil, None, fold=np.ceil)


@primitive
class Round(Elementwise):
    """The nearest integer; a half goes away from zero (method 0) or to the even one (method 1)."""

    name = "round"
    jax_names = ("round",)
    method: int
    locally_linear = True

    def samples(self) -> Iterator[Sample]:
        halves = np.array([0.5, 1.5, -2.5], np.float32)
        for method in (0, 1):
            yield Sample(Round(method), (Aval((3,), F32),))
            yield Sample(Round(method), (halves,), differentiable=False)

    def lower(self, x: Any) -> Any:
        return lax.round(x, lax.RoundingMethod(self.method))

    def derivative(self, i: int, xs: Sequence[Any], y: Any) -> None:
        return None

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Round:
        return cls(int(params["rounding_method"]))


def round_(x: Atom, method: int = 1) -> Atom:
    """`x` rounded to integers."""
    return Round(method)(x)


__all__ = [
    "IntegerPow", "Round", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "cos",
    "cosh", "exp", "exp2", "expm1", "floor", "integer_pow", "log", "log1p", "log2", "logistic",
    "one_minus_square", "reciprocal", "round_", "rsqrt", "sin", "sinh", "softplus", "sqrt", "square",
    "tan", "tanh",
]  # fmt: skip
