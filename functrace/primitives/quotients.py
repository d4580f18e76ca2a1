"""Quotients and integer powers: what has a pole among the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.ir import Atom, Aval, Builder, Sample, Through, Work
from functrace.ir.aval import is_complex
from functrace.ir.primitive import primitive
from functrace.primitives.elementwise import (
    C64,
    F32,
    I32,
    NUMBERS,
    Elementwise,
    Formula,
    foldable,
    is_constant,
    mul,
    neg,
    same_type,
    square_of,
    sum_of_squares,
)
from functrace.primitives.recurrences import series_of_power, series_of_product, series_of_quotient
from functrace.primitives.space import full


def _simplify_div(b: Builder, x: Atom, y: Atom) -> Atom | None:
    if is_constant(x, 1.0) and same_type(y, x) and y.aval.is_inexact:
        return reciprocal(y)
    real = not is_complex(x.aval.dtype)
    return x if real and is_constant(y, 1.0) and same_type(x, y) else None


class _Quotient(Formula):
    scales = True

    def term(self, i: int, dx: Atom, xs: Sequence[Any], y: Any) -> Any:
        x, divisor = xs
        if i == 1 and divisor.aval.size < x.aval.size:  # scaled where there are fewer entries
            return mul(mul(dx, integer_pow(divisor, -2)), neg(x))
        return super().term(i, dx, xs, y)

    def squares(self, *xs: Any) -> Any:
        x, y = xs
        return None if y.aval.shape or is_complex(x.aval.dtype) else [Through(x, lambda n: div(n, sum_of_squares(y)))]

    def factors(self, *xs: Any) -> Any:
        x, y = xs
        return None if y.aval.shape else Through(x, lambda found: found.scaled(lambda v: div(v, y)))


div = _Quotient(
    "div",
    lax.div,
    (None, lambda x, y, z: mul(neg(x), integer_pow(y, -2))),
    linear_in=(0,),
    simplify=_simplify_div,
    has_pole=True,
    fold=lambda x, y: np.divide(x, y) if x.dtype.kind == "f" else None,
    dtypes=NUMBERS,
    domain="positive",
    series=series_of_quotient,
)


@primitive
class IntegerPow(Elementwise):
    """x ** exponent for a fixed integer. At high order the derivative stays one product."""

    name = "integer_pow"
    spelling = "lax.integer_pow({0}, {exponent})"
    jax_names = ("integer_pow",)
    exponent: int

    @property
    def has_pole(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.exponent < 0

    def samples(self) -> Iterator[Sample]:
        for n in (-3, -1, 0, 2, 5):
            yield Sample(IntegerPow(n), (Aval((3,), F32),))
        yield Sample(IntegerPow(-2), (Aval((3,), C64),))
        yield Sample(IntegerPow(3), (Aval((2, 0), F32),))
        yield Sample(IntegerPow(3), (Aval((3,), I32),))
        yield Sample(IntegerPow(2), (np.array([0.0, -0.0], np.float32),), differentiable=False)
        yield Sample(IntegerPow(-1), (np.array([0.0, -0.0], np.float32),), differentiable=False)

    def lower(self, x: Any) -> Any:
        return lax.integer_pow(x, self.exponent)

    def work(self, *xs: Aval) -> Work:
        n = abs(self.exponent)  # one multiplication to square, one for each further bit that is set
        each = max(n.bit_length() - 1, 0) + max(n.bit_count() - 1, 0) + (self.exponent < 0)
        return Work(each) * xs[0].size

    def fold(self, *xs: Any) -> Any:
        (x,) = xs
        if self.exponent != -1 or x.dtype.kind != "f" or x.dtype.itemsize < 4:
            return None
        with np.errstate(all="ignore"):
            y = np.divide(x.dtype.type(1), x)
        return foldable(y, x)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if self.exponent == 2 and (found := square_of(builder, x)) is not None:
            return found
        if self.exponent in (0, 1):
            return x if self.exponent else full(x.aval, 1)
        return super().simplify(builder, x)

    def derivative(self, i: int, xs: Sequence[Any], y: Any) -> Any:
        n = self.exponent
        return None if n == 0 else mul(integer_pow(xs[0], n - 1), float(n))

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
        n, (x,) = self.exponent, xs
        if n < 0:
            return series_of_power(n, xs, ys)
        if n < 2:
            return lambda k: x[k] if n else None
        if n == 2:
            return series_of_product(mul, xs)
        # By squaring: a product has no pole where x is 0, and a division by x would.
        half = x if n < 4 else x.through(IntegerPow(n // 2))
        whole = half.through(IntegerPow(2))
        whole = whole.through(mul, x) if n % 2 else whole
        return lambda k: whole[k]

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> IntegerPow:
        return cls(params["y"])


def integer_pow(x: Atom, n: int) -> Atom:
    """`x ** n`."""
    return IntegerPow(n)(x)


def reciprocal(x: Atom) -> Atom:
    """1 / x."""
    return IntegerPow(-1)(x)
