"""Elementwise functions of one operand. Derivatives are written in terms of the result y where that is
cheaper and stays accurate at high order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from jax import lax

from functrace.ir import Aval, Builder, Sample
from functrace.ir.primitive import primitive
from functrace.primitives.elementwise import (
    BOOL,
    C64,
    F32,
    Elementwise,
    Formula,
    add,
    div,
    mul,
    neg,
    sub,
    unary,
)

REAL_AND_COMPLEX = (F32, C64)


@primitive
class IntegerPow(Elementwise):
    """x ** exponent for a fixed integer."""

    name = "integer_pow"
    jax_names = ("integer_pow",)
    exponent: int

    def samples(self) -> Iterator[Sample]:
        for n in (-3, -1, 0, 2, 5):
            yield Sample(IntegerPow(n), (Aval((3,), F32),), "positive")

    def lower(self, x: Any) -> Any:
        return lax.integer_pow(x, self.exponent)

    def simplify(self, builder: Builder, x: Any) -> Any:
        return x if self.exponent == 1 else None

    def derivative(self, i: int, xs: Sequence[Any], y: Any) -> Any:
        n = self.exponent
        return None if n == 0 else mul(integer_pow(xs[0], n - 1), float(n))

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> IntegerPow:
        return cls(params["y"])


def integer_pow(x: Any, n: int) -> Any:
    """`x ** n`."""
    return IntegerPow(n)(x)


def reciprocal(x: Any) -> Any:
    """1 / x."""
    return IntegerPow(-1)(x)


exp = unary("exp", lax.exp, lambda x, y: y, dtypes=REAL_AND_COMPLEX)
exp2 = unary("exp2", lax.exp2, lambda x, y: mul(y, math.log(2)))
expm1 = unary("expm1", lax.expm1, lambda x, y: add(y, 1.0))
log = unary("log", lax.log, lambda x, y: reciprocal(x), domain="positive")
log1p = unary("log1p", lax.log1p, lambda x, y: reciprocal(add(x, 1.0)), domain="positive")
sqrt = unary("sqrt", lax.sqrt, lambda x, y: div(0.5, y), domain="positive")
rsqrt = unary("rsqrt", lax.rsqrt, lambda x, y: mul(div(y, x), -0.5), domain="positive")
cbrt = unary("cbrt", lax.cbrt, lambda x, y: div(y, mul(x, 3.0)), domain="positive")
square = unary("square", lax.square, lambda x, y: mul(x, 2.0), dtypes=REAL_AND_COMPLEX)
sin = unary("sin", lax.sin, lambda x, y: cos(x), dtypes=REAL_AND_COMPLEX)
cos = unary("cos", lax.cos, lambda x, y: neg(sin(x)), dtypes=REAL_AND_COMPLEX)
tan = unary("tan", lax.tan, lambda x, y: add(mul(y, y), 1.0))
asin = unary("asin", lax.asin, lambda x, y: rsqrt(sub(1.0, mul(x, x))), domain="unit")
acos = unary("acos", lax.acos, lambda x, y: neg(rsqrt(sub(1.0, mul(x, x)))), domain="unit")
atan = unary("atan", lax.atan, lambda x, y: reciprocal(add(mul(x, x), 1.0)))
sinh = unary("sinh", lax.sinh, lambda x, y: cosh(x), dtypes=REAL_AND_COMPLEX)
cosh = unary("cosh", lax.cosh, lambda x, y: sinh(x), dtypes=REAL_AND_COMPLEX)
tanh = unary("tanh", lax.tanh, lambda x, y: mul(add(y, 1.0), sub(1.0, y)), dtypes=REAL_AND_COMPLEX)
asinh = unary("asinh", lax.asinh, lambda x, y: rsqrt(add(mul(x, x), 1.0)))
acosh = unary(
    "acosh", lax.acosh, lambda x, y: mul(rsqrt(sub(x, 1.0)), rsqrt(add(x, 1.0))), domain="above_one"
)
atanh = unary(
    "atanh", lax.atanh, lambda x, y: reciprocal(mul(add(x, 1.0), sub(1.0, x))), domain="unit"
)
logistic = unary("logistic", lax.logistic, lambda x, y: mul(y, sub(1.0, y)), dtypes=REAL_AND_COMPLEX)
erf = unary("erf", lax.erf, lambda x, y: mul(exp(neg(mul(x, x))), 2 / math.sqrt(math.pi)))
erfc = unary("erfc", lax.erfc, lambda x, y: mul(exp(neg(mul(x, x))), -2 / math.sqrt(math.pi)))
erf_inv = unary(
    "erf_inv", lax.erf_inv, lambda x, y: mul(exp(mul(y, y)), math.sqrt(math.pi) / 2), domain="unit"
)
floor = unary("floor", lax.floor, None)
ceil = unary("ceil", lax.ceil, None)
sign = unary("sign", lax.sign, None)
is_finite = unary("is_finite", lax.is_finite, None, out_dtype=lambda x: BOOL)


class _StopGradient(Formula):
    """The identity, constant to every derivative."""

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), None


stop_gradient = _StopGradient("stop_gradient", lax.stop_gradient, (None,), differentiable=False)
