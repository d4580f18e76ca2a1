"""Derivatives of every elementwise primitive to thirty digits, to order 12, at ordinary and awkward points.

The error of a derivative may be 1e-9 of it, or of what a relative change of the operands does to it, which is its
condition: for an operand x that of x times the next derivative. They come as one series of all orders, along a line
on which all operands move; and in each operand by `derivative(f, n)`, and by `grad` of `grad`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax
from functrace.errors import RuleError
from functrace.ir import Aval, Builder, Literal, Primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.casts import ReducePrecision
from functrace.primitives.elementwise import ConvertElementType, Elementwise
from functrace.primitives.quotients import IntegerPow
from functrace.primitives.selection import Within
from functrace.primitives.special import BesselI0eSlope
from functrace.primitives.unary import Round
from functrace.rewrites import series
from tests.primitives.samples import all_samples, case

mp = pytest.importorskip("mpmath")
ORDER, NESTED, DIGITS, TOLERANCE = 12, 5, 60, 1e-9
F64, C128 = np.dtype(np.float64), np.dtype(np.complex128)


class Row(NamedTuple):
    """A primitive, the same function of mpmath's numbers, and where: operands, and how fast each moves.

    `more` are points of the long run.
    """

    primitive: Primitive
    exact: Callable[..., Any]
    points: tuple[Any, ...]
    more: tuple[Any, ...] = ()
    speeds: tuple[float, ...] = (1.0,)
    slope: Callable[..., Any] | None = None  # its derivative, where that is quicker to expand
    order: int | None = None  # of a polygamma function: what psi calls it


def moment(n: int) -> Callable[..., Any]:
    """But for its sign, the n-th derivative of exp(-x) I0(x)."""
    return lambda x: mp.binomial(2 * n, n) / mp.mpf(2) ** n * mp.hyp1f1(n + 0.5, n + 1, -2 * x)


def named(name: str, exact: Callable[..., Any], *points: Any, **how: Any) -> Row:
    return Row(Primitive.named[name], exact, points, **how)  # pyright: ignore[reportArgumentType]


def bessel(order: int) -> Callable[..., Any]:
    return lambda x: mp.besseli(order, x) * mp.exp(-abs(x))


TWO = (1.0, -0.7)
IN_FIRST, IN_SECOND, IN_THIRD = (1.0, 0.0), (0.0, 1.0), (0.0, 0.0, 1.0)
ROWS = [
    named("neg", lambda x: -x, 0.0, 2.0),
    named("add", lambda x, y: x + y, (1.0, 2.0), speeds=TWO),
    named("sub", lambda x, y: x - y, (1.0, 1.0), speeds=TWO),
    named("mul", lambda x, y: x * y, (1.0, 2.0), (0.0, 3.0), speeds=TWO),
    named("div", lambda x, y: x / y, (0.0, -0.1), (5.0, 40.0), more=((1.0, 1e-6), (1e6, 1e-3)), speeds=TWO),
    *[
        Row(IntegerPow(n), lambda x, n=n: x**n, (-0.8, 0.0 if n > 0 else 0.01), (1.3, 30.0, 1e-8, 1e3))
        for n in (-12, -3, -2, -1, 1, 2, 3, 5, 12, 17)
    ],
    Row(ConvertElementType(C128), lambda x: x, (0.5,)),
    Row(ReducePrecision(11, 52), lambda x: x, (0.5,)),
    Row(Round(0), lambda x: mp.nint(x), (0.3, 2.7)),
    Row(Within(4.0), lambda x: x, (0.5, -3.9)),
    named("copy", lambda x: x, 0.5),
    named("stop_gradient", lambda x: mp.mpf(0.5), 0.5),
    named("floor", lambda x: mp.floor(x), 0.5, -1.3),
    named("ceil", lambda x: mp.ceil(x), 0.5, -1.3),
    named("sign", lambda x: mp.sign(x), 0.5, -1.3),
    named("abs", lambda x: abs(x), 0.5, -1e-9 - 1),
    named("real", lambda x: x, 0.5),
    named("imag", lambda x: mp.im(x), 0.5),
    named("conj", lambda x: mp.conj(x), 0.5),
    named("complex", lambda x, y: x + 1j * y, (0.5, 1.0), speeds=TWO),
    named("max", lambda x, y: y, (1.0, 2.0), (-3.0, 0.0), speeds=TWO),
    named("min", lambda x, y: x, (1.0, 2.0), (-3.0, 0.0), speeds=TWO),
    named("clamp", lambda a, x, b: x, (0.0, 0.5, 1.0), speeds=(0.3, 1.0, -0.2)),
    named("clamp", lambda a, x, b: a, (0.0, -0.5, 1.0), speeds=(0.3, 1.0, -0.2)),
    named("rem", lambda x, y: x - 2 * y, (5.0, 2.3), speeds=TWO),
    named("select_n", lambda p, x, y: x, (False, 1.0, 2.0), speeds=(0.0, *TWO)),
    named("square", lambda x: x * x, 0.0, 1.5),
    named("one_minus_square", lambda x: 1 - x * x, 0.0, 0.999, -2.0, more=(1.0, 1 - 1e-9)),
    named("exp", mp.exp, 0.0, -30.0, more=(1.3, 50.0, 300.0, -300.0)),
    named("exp2", lambda x: mp.mpf(2) ** x, 0.0, 1.3, more=(-30.0, 100.0)),
    named("expm1", mp.expm1, 1e-8, -40.0, more=(0.0, 1.3, 1e-12, 30.0, -300.0)),
    named("log", mp.log, 1.0, 1e-3, more=(0.3, 1e5, 1e-8, 1.0001, 1e8)),
    named("log2", lambda x: mp.log(x, 2), 0.3, more=(1.0, 1e-3, 1e5, 1e-8)),
    named("log1p", mp.log1p, 1e-8, -0.9, more=(0.0, 30.0, 1e-12, -0.9999, 1e5)),
    named("sqrt", mp.sqrt, 1e-4, 2.3, more=(1.0, 1e6, 1e-10)),
    named("rsqrt", lambda x: 1 / mp.sqrt(x), 1e-4, 2.3, more=(1.0, 1e6, 1e-10)),
    named("cbrt", lambda x: mp.sign(x) * mp.cbrt(abs(x)), -0.7, 1e-4, more=(1.0, 1e6, -1e8)),
    named("sin", mp.sin, 0.0, 1.3, more=(100.0, 3.14159, 1e5)),
    named("cos", mp.cos, 0.0, 1.3, more=(100.0, 1.5707963, 1e5)),
    named("tan", mp.tan, 0.0, -1.5, more=(0.7, 1e-8, 1.57, 100.0)),
    named("asin", mp.asin, 0.0, -0.99, more=(0.5, 1e-8, -0.999999)),
    named("acos", mp.acos, 0.0, -0.99, more=(0.5, 1e-8, -0.999999)),
    named("atan", mp.atan, 1.0, 20.0, more=(0.0, -0.4, 1e-8, 1e4)),
    named("sinh", mp.sinh, 0.0, -20.0, more=(1.3, 1e-8)),
    named("cosh", mp.cosh, 0.0, -20.0, more=(1.3, 1e-8)),
    named("asinh", mp.asinh, 0.0, -30.0, more=(1.3, 1e-8, 1e4)),
    named("acosh", mp.acosh, 1.01, 30.0, more=(1.7, 1.0001, 1e4)),
    named("atanh", mp.atanh, 0.0, -0.99, more=(0.5, 1e-8, -0.999999)),
    named("tanh", mp.tanh, 0.6, -15.0, more=(0.0, 5.0, 1e-8, 30.0, -300.0)),
    named("logistic", lambda x: 1 / (1 + mp.exp(-x)), 1e-8, 30.0, more=(0.0, 1.3, -20.0, 300.0, -700.0)),
    named("pow", mp.power, (1.5, 2.3), more=((0.1, -1.7), (30.0, 0.5), (1e-6, 2.3), (2.0, 0.0)), speeds=TWO),
    named("pow", mp.power, (1.5, 2.3), (0.0, 3.0), more=((0.01, -0.5), (1e-6, 2.3), (-2.0, -2.0)), speeds=IN_FIRST),
    named("pow", mp.power, (0.01, -0.5), more=((1.5, 2.3), (30.0, 3.0), (1e-6, 2.3)), speeds=IN_SECOND),
    named("atan2", mp.atan2, (-0.3, -0.01), more=((1.0, 2.0), (0.0, 1.0), (1e-3, -1.0), (1e3, 1e-3)), speeds=TWO),
    named("atan2", mp.atan2, (0.0, 1.0), more=((1.0, 1e-8), (1e-3, 1e3)), speeds=IN_FIRST),
    named("atan2", mp.atan2, (1.0, 0.0), more=((1.0, 1e-8), (1e-3, 1e3)), speeds=IN_SECOND),
    named("softplus", lambda x: mp.log1p(mp.exp(x)), 1e-8, 30.0, more=(0.0, 1.3, -20.0, 300.0, -700.0)),
    named("logaddexp", lambda x, y: mp.log(mp.exp(x) + mp.exp(y)), (0.0, 1.0), (20.0, -10.0),
          more=((1.0, 1.0), (300.0, 0.0), (0.0, 300.0)), speeds=TWO),
    named("logaddexp", lambda x, y: mp.log(mp.exp(x) + mp.exp(y)), (0.0, 0.0), more=((30.0, 0.0), (-300.0, 0.0)),
          speeds=IN_FIRST),
    named("erf", mp.erf, 0.0, -2.0, more=(0.7, 1e-8, 5.5)),
    named("erfc", mp.erfc, 0.7, 4.0, more=(0.0, 1e-8, -4.0, 25.0)),
    named("erf_inv", mp.erfinv, -0.9, more=(0.0, 0.5, 1e-8, 0.9999)),
    named("lgamma", mp.loggamma, 0.3, 12.5, more=(1.0, 1e-3, 1.46163, 2.0, 1e6), order=-1),
    named("lgamma", lambda x: mp.log(abs(mp.gamma(x))), -2.3, order=-1),
    named("digamma", mp.digamma, 0.3, 12.5, more=(1.0, 1e-3, 1.46163, 1e4, -0.5), order=0),
    named("polygamma", mp.psi, (1.0, 0.7), more=((1.0, 8.0), (1.0, 1e-3), (1.0, 1e4)), speeds=IN_SECOND, order=1),
    named("polygamma", mp.psi, (3.0, 8.0), more=((3.0, 1e-3),), speeds=IN_SECOND, order=3),
    named("igamma", lambda a, x: mp.gammainc(a, 0, x, True), (1.5, 0.7), more=((0.5, 4.0), (1.5, 1e-3), (100.0, 80.0)),
          speeds=IN_SECOND, slope=lambda a, x: x ** (a - 1) * mp.exp(-x) / mp.gamma(a)),
    named("igammac", lambda a, x: mp.gammainc(a, x, mp.inf, True), (0.5, 4.0), more=((1.5, 0.7), (1.5, 1e-3)),
          speeds=IN_SECOND, slope=lambda a, x: -(x ** (a - 1)) * mp.exp(-x) / mp.gamma(a)),
    named("regularized_incomplete_beta", lambda a, b, x: mp.betainc(a, b, 0, x, True), (1.5, 2.5, 0.3),
          more=((0.7, 0.7, 0.9), (1.5, 2.5, 1e-3), (20.0, 30.0, 0.4)), speeds=IN_THIRD,
          slope=lambda a, b, x: x ** (a - 1) * (1 - x) ** (b - 1) / mp.beta(a, b)),
    named("bessel_i0e", bessel(0), more=(0.1, -30.0, 1e-8, 1e-3, 1.0, 8.0, 25.5, 37.5, 200.0)),
    named("bessel_i1e", bessel(1), 1e-8, 25.5, more=(1e-3, 0.1, 1.0, -8.0, 30.0, 37.5, 200.0)),
    Row(BesselI0eSlope(3), moment(3), (), (0.5, 28.5, 1e-8, 5.0, 27.9, 200.0)),
]  # fmt: skip
NAMES = [f"{i}-{row.primitive.name}" for i, row in enumerate(ROWS)]


# What has no derivative of some orders, and why.
WITHOUT = [
    ("igamma", (1.5, 0.7), 0, 2, "its derivative in the shape is `igamma_grad_a`, of which nobody has one"),
    ("igammac", (1.5, 0.7), 0, 2, "as igamma"),
    ("igamma_grad_a", (1.5, 0.7), 0, 1, "as igamma"),
    ("regularized_incomplete_beta", (1.5, 2.5, 0.3), 0, 1, "no series for it in the shapes that keeps its digits"),
    ("regularized_incomplete_beta", (1.5, 2.5, 0.3), 1, 1, "as in the first shape"),
    ("polygamma", (1.0, 0.7), 0, 1, "the order is a whole number"),
    ("zeta", (2.5, 0.7), 0, 1, "no function of the backend's gives it"),
    ("zeta", (2.5, 0.7), 1, 1, "JAX has none, and it would have to be checked against that"),
]
# Written in the result, which is near 1 far out: a slope has the digits of 1 less the result, as gradients of networks
# do that would be slower by an exp for more. Their series, and so `derivative`, have all digits.
FLAT = {"tanh": 1e-15, "logistic": 1e-15, "logaddexp": 1e-15}
COMPLEX = ("real", "imag", "conj", "complex", "convert_element_type")
Point = tuple[Any, ...]


def points_of(points: tuple[Any, ...]) -> list[Point]:
    """Each as a tuple of operands."""
    return [p if isinstance(p, tuple) else (p,) for p in points]


def coefficients(row: Row, point: Point) -> list[Any]:
    """Coefficients 0 to the order by `series`. Operands that do not move are numbers in the text."""
    avals = [Aval((), np.asarray(x).dtype if row.primitive.name not in COMPLEX[:3] else C128) for x in point]
    moving = [bool(v) for v in row.speeds]
    with Builder() as b:
        xs = [b.input(a) if m else Literal(x, a) for x, a, m in zip(point, avals, moving, strict=True)]
        program = b.build([row.primitive(*xs)])
    expanded, flags = series(program, ((True, *(False,) * (ORDER - 1)),) * sum(moving))
    inputs = [np.asarray(x, a.dtype) for x, a, m in zip(point, avals, moving, strict=True) if m]
    speeds = [np.asarray(v, a.dtype) for v, a, m in zip(row.speeds, avals, moving, strict=True) if m]
    outputs = iter(evaluate(expanded, [*inputs, *speeds]))
    return [next(outputs), *[next(outputs) if f else 0.0 for f in flags[0]]]


def exact(row: Row, point: Point, order: int = ORDER) -> list[Any]:
    """The same coefficients by mpmath; far from 0 in units in which the curve moves as far as that."""
    with mp.workdps(DIGITS):
        if row.order is not None:
            psi = lambda k: mp.psi(row.order + k, point[-1]) / mp.factorial(k)
            return [row.exact(*point), *map(psi, range(1, order + 1))]
        unit = max(min([abs(mp.mpf(x) / v) for x, v in zip(point, row.speeds, strict=True) if v]), mp.mpf(1))
        curve = [(mp.mpf(x), mp.mpf(v) * unit) for x, v in zip(point, row.speeds, strict=True)]
        on = lambda f: lambda t: f(*[x + v * t for x, v in curve])
        if row.slope is None:
            found = mp.taylor(on(row.exact), 0, order)
        else:
            slope = mp.taylor(on(row.slope), 0, order - 1)
            found = [on(row.exact)(0), *[c * unit / (k + 1) for k, c in enumerate(slope)]]
        return [c / unit**k for k, c in enumerate(found)]


def exact_and_condition(row: Row, point: Point) -> Iterator[tuple[Any, Any]]:
    """Coefficients and what a relative change of each operand that moves makes of them."""
    moving = [i for i, v in enumerate(row.speeds) if v]
    if len(moving) == 1:
        (i,), values = moving, exact(row, point, ORDER + 1)
        scale = abs(point[i] / row.speeds[i])
        conditions = [abs(c) * (k + 1) * scale for k, c in enumerate(values[1:])]
    else:
        values, conditions, change = exact(row, point), [mp.mpf(0)] * (ORDER + 1), mp.mpf(10) ** -20
        for i in moving:
            with mp.workdps(DIGITS):
                changed = exact(row, (*point[:i], point[i] * (1 + change), *point[i + 1 :]))
                moved = [abs(y - x) / change for x, y in zip(values, changed, strict=True)]
                conditions = [a + b for a, b in zip(conditions, moved, strict=True)]
    return zip(values, conditions, strict=False)


def check(what: str, found: Any, value: Any, condition: Any, slack: float = 0.0) -> None:
    noise = mp.mpf(10) ** (-DIGITS // 2) + slack
    error = abs(mp.mpmathify(complex(found)) - value)
    assert error <= TOLERANCE * (abs(value) + condition) + noise, f"{what}: {found} is not {mp.nstr(value, 20)}"


def check_series(row: Row, points: tuple[Any, ...]) -> None:
    for point in points_of(points):
        with jax.enable_x64(True):
            found = coefficients(row, point)
        for k, (y, (z, c)) in enumerate(zip(found, exact_and_condition(row, point), strict=True)):
            check(f"order {k} at {point}", y, z, c)


def in_operand(name: str, params: dict[str, Any], point: Point, i: int) -> Callable[..., Any]:
    """The primitive as a function of one operand."""
    return lambda x: lax.bind(name, *point[:i], x, *point[i + 1 :], **params)


def check_derivatives(row: Row, point: Point, orders: range, nested: int) -> None:
    """Each operand's derivatives by `derivative`, and by `grad` of `grad`."""
    name, params = row.primitive.name, getattr(row.primitive, "params", {})
    for i in [i for i, v in enumerate(row.speeds) if v]:
        f, x = in_operand(name, params, point, i), np.float64(point[i])
        alone = row._replace(speeds=tuple([float(j == i) for j in range(len(point))]))
        for n, (z, c) in enumerate(exact_and_condition(alone, point)):
            factor = math.factorial(n)
            if n in orders:
                with jax.enable_x64(True):
                    check(f"derivative {n} in operand {i} at {point}", ft.derivative(f, n)(x), z * factor, c * factor)
            if 0 < n <= nested:
                with jax.enable_x64(True):
                    g = reduce(lambda g, _: ft.grad(g), range(n), f)(x)
                check(f"grad^{n} in operand {i} at {point}", g, z * factor, c * factor, FLAT.get(name, 0.0) * factor)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_digits(row):
    check_series(row, row.points)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_digits_at_more_points(row):
    check_series(row, row.more)


@pytest.mark.parametrize("name", ["tanh", "pow"])
def test_derivatives(name):
    row = next(row for row in ROWS if row.primitive.name == name)
    check_derivatives(row, *points_of(row.points[-1:]), range(ORDER, ORDER + 1), 4)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.primitive.name not in COMPLEX])
def test_derivatives_of_all_orders(row):
    for point in points_of(row.points + row.more):
        check_derivatives(row, point, range(1, ORDER + 1), NESTED)


@pytest.mark.parametrize(("name", "point", "i", "order", "why"), WITHOUT)
def test_what_has_no_derivative_says_so(name, point, i, order, why):
    with jax.enable_x64(True), pytest.raises(RuleError, match="is not known"):
        ft.derivative(in_operand(name, {}, point, i), order)(np.float64(point[i]))


@pytest.mark.parametrize(("a", "x"), [(0.3, 0.01), (20.0, 25.0)])
def test_derivative_of_incomplete_gamma_in_its_shape(a, x):
    slope = mp.diff(lambda a: mp.gammainc(a, 0, x, True), a)
    with jax.enable_x64(True):
        found = [float(ft.derivative(in_operand(f, {}, (a, x), 0), 1)(a)) for f in ("igamma", "igammac")]
    np.testing.assert_allclose(found, [float(slope), -float(slope)], rtol=TOLERANCE)


def test_every_primitive_has_a_row():
    has_derivative = {
        c.primitive.name for c in map(case, all_samples()) if isinstance(c.primitive, Elementwise) and any(c.moving)
    }
    assert has_derivative == {row.primitive.name for row in ROWS}
