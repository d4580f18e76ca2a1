"""Recurrences for the coefficients of power series; see `rewrites.series`.

The arithmetic that they are written with has such rules itself, and is called by its name here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from functrace.ir import Primitive


def _called(name: str) -> Callable[..., Any]:
    return lambda *xs: Primitive.named[name](*xs)


add, sub, mul, div, neg = map(_called, ("add", "sub", "mul", "div", "neg"))


def total(terms: Sequence[Any]) -> Any:
    """The sum of those terms that are not None; None if there are none."""
    given = [term for term in terms if term is not None]
    return reduce(add, given) if given else None


def difference(x: Any, y: Any) -> Any:
    """x - y, either of which may be None and so zero."""
    return x if y is None else neg(y) if x is None else sub(x, y)


def convolved(product: Primitive, x: Any, y: Any, k: int, low: int, high: int) -> Any:
    """The sum of products of x[j] and y[k - j] from j = low to high; None if zero."""
    if x is y and low + high == k and product.commutative:  # of a square, each product but the middle one comes twice
        half = total([product(x[j], x[k - j]) for j in range(low, (k + 1) // 2) if x[j] and x[k - j]])
        middle = product(x[k // 2], x[k // 2]) if k % 2 == 0 and x[k // 2] else None
        return total([None if half is None else mul(half, 2.0), middle])
    return total([product(x[j], y[k - j]) for j in range(low, high + 1) if x[j] and y[k - j]])


def series_of_product(product: Primitive, xs: Sequence[Any]) -> Callable[[int], Any]:
    """The rule of what is linear in each of two operands (of a square, both are one)."""
    return lambda k: convolved(product, xs[0], xs[-1], k, 0, k)


def series_of_quotient(xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
    """z = x / y:  z_k = (x_k - sum of y_j z_(k-j) for j > 0) / y_0."""
    (x, y), (z,) = xs, ys

    def rule(k: int) -> Any:
        rest = difference(x[k], convolved(Primitive.named["mul"], y, z, k, 1, k))
        return None if rest is None else div(rest, y.value)

    return rule


def series_of_power(r: float, xs: Sequence[Any], ys: Sequence[Any]) -> Callable[[int], Any]:
    """y = x ** r:  k x_0 y_k = sum of (r j - k + j) x_j y_(k-j) for j > 0."""
    (x,), (y,) = xs, ys

    def rule(k: int) -> Any:
        if r == -1:
            rest = convolved(Primitive.named["mul"], x, y, k, 1, k)
            return None if rest is None else mul(neg(rest), y.value)
        weights = [(j, ((r + 1) * j - k) / k) for j in range(1, k + 1) if x[j] and y[k - j]]
        rest = total([mul(mul(x[j], w), y[k - j]) for j, w in weights if w])
        return None if rest is None else mul(rest, Primitive.named["integer_pow"](-1)(x.value))

    return rule
