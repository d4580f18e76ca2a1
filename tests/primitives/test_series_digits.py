"""Taylor coefficients of every elementwise primitive to thirty digits, to order 12, at ordinary and awkward points.

The error of coefficient k may be 1e-9 of that coefficient, or of what a relative change of the operand does to it,
which is its condition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from functrace.ir import Aval, Builder, Literal, Primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.casts import ReducePrecision
from functrace.primitives.elementwise import ConvertElementType, Elementwise
from functrace.primitives.quotients import IntegerPow
from functrace.primitives.unary import Round
from functrace.rewrites import series
from tests.primitives.samples import all_samples, case

mp = pytest.importorskip("mpmath")
ORDER, DIGITS, TOLERANCE = 12, 60, 1e-9
F64, C128 = np.dtype(np.float64), np.dtype(np.complex128)


class Row(NamedTuple):
    """A primitive, the same function of mpmath's numbers, and where: operands, and how fast each moves."""

    primitive: Primitive
    exact: Callable[..., Any]
    points: tuple[Any, ...]
    speeds: tuple[float, ...] = (1.0,)
    slope: Callable[..., Any] | None = None  # its derivative, where that is quicker to expand
    order: int | None = None  # of a polygamma function: what psi calls it


def named(name: str, exact: Callable[..., Any], *points: Any, **how: Any) -> Row:
    return Row(Primitive.named[name], exact, points, **how)  # pyright: ignore[reportArgumentType]


def bessel(order: int) -> Callable[..., Any]:
    return lambda x: mp.besseli(order, x) * mp.exp(-abs(x))


TWO = (1.0, -0.7)
ROWS = [
    named("neg", lambda x: -x, 0.0, 2.0),
    named("add", lambda x, y: x + y, (1.0, 2.0), speeds=TWO),
    named("sub", lambda x, y: x - y, (1.0, 1.0), speeds=TWO),
    named("mul", lambda x, y: x * y, (1.0, 2.0), (0.0, 3.0), speeds=TWO),
    named("div", lambda x, y: x / y, (1.0, 2.0), (0.0, -0.1), (5.0, 40.0), speeds=TWO),
    *[
        Row(IntegerPow(n), lambda x, n=n: x**n, (1.3, -0.8, 30.0, *((0.0, 1e-8) if n > 0 else (0.01,))))
        for n in (-3, -2, -1, 1, 2, 3, 5, 12, 17)
    ],
    Row(ConvertElementType(C128), lambda x: x, (0.5,)),
    Row(ReducePrecision(11, 52), lambda x: x, (0.5,)),
    Row(Round(0), lambda x: mp.nint(x), (0.3, 2.7)),
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
    named("one_minus_square", lambda x: 1 - x * x, 0.0, 0.999, -2.0),
    named("exp", mp.exp, 0.0, 1.3, -30.0, 50.0),
    named("exp2", lambda x: mp.mpf(2) ** x, 0.0, 1.3, -30.0),
    named("expm1", mp.expm1, 0.0, 1e-8, 1.3, -20.0),
    named("log", mp.log, 1.0, 0.3, 1e-3, 1e5),
    named("log2", lambda x: mp.log(x, 2), 1.0, 0.3, 1e-3, 1e5),
    named("log1p", mp.log1p, 0.0, 1e-8, -0.9, 30.0),
    named("sqrt", mp.sqrt, 1.0, 1e-4, 2.3, 1e6),
    named("rsqrt", lambda x: 1 / mp.sqrt(x), 1.0, 1e-4, 2.3, 1e6),
    named("cbrt", lambda x: mp.sign(x) * mp.cbrt(abs(x)), 1.0, -0.7, 1e-4, 1e6),
    named("sin", mp.sin, 0.0, 1.3, -0.5, 100.0),
    named("cos", mp.cos, 0.0, 1.3, -0.5, 100.0),
    named("tan", mp.tan, 0.0, 0.7, -1.5),
    named("asin", mp.asin, 0.0, 0.5, -0.99),
    named("acos", mp.acos, 0.0, 0.5, -0.99),
    named("atan", mp.atan, 0.0, 1.0, -0.4, 20.0),
    named("sinh", mp.sinh, 0.0, 1.3, -20.0),
    named("cosh", mp.cosh, 0.0, 1.3, -20.0),
    named("asinh", mp.asinh, 0.0, 1.3, -30.0),
    named("acosh", mp.acosh, 1.01, 1.7, 30.0),
    named("atanh", mp.atanh, 0.0, 0.5, -0.99),
    named("tanh", mp.tanh, 0.0, 0.6, -1.5, 5.0, -15.0),
    named("logistic", lambda x: 1 / (1 + mp.exp(-x)), 0.0, 1.3, -20.0, 30.0),
    named("pow", mp.power, (1.5, 2.3), (0.1, -1.7), (30.0, 0.5), speeds=TWO),
    named("pow", mp.power, (1.5, 2.3), (0.01, -0.5), (30.0, 3.0), speeds=(1.0, 0.0)),
    named("pow", mp.power, (1.5, 2.3), (0.01, -0.5), (30.0, 3.0), speeds=(0.0, 1.0)),
    named("atan2", mp.atan2, (1.0, 2.0), (0.0, 1.0), (-0.3, -0.01), speeds=TWO),
    named("logaddexp", lambda x, y: mp.log(mp.exp(x) + mp.exp(y)), (0.0, 1.0), (20.0, -10.0), speeds=TWO),
    named("erf", mp.erf, 0.0, 0.7, -2.0),
    named("erfc", mp.erfc, 0.0, 0.7, -2.0, 4.0),
    named("erf_inv", mp.erfinv, 0.0, 0.5, -0.9),
    named("lgamma", mp.loggamma, 1.0, 0.3, 12.5, order=-1),
    named("digamma", mp.digamma, 1.0, 0.3, 12.5, order=0),
    named("polygamma", mp.psi, (1.0, 0.7), (1.0, 8.0), speeds=(0.0, 1.0), order=1),
    named("polygamma", mp.psi, (3.0, 8.0), speeds=(0.0, 1.0), order=3),
    named("igamma", lambda a, x: mp.gammainc(a, 0, x, True), (1.5, 0.7), (0.5, 4.0), speeds=(0.0, 1.0),
          slope=lambda a, x: x ** (a - 1) * mp.exp(-x) / mp.gamma(a)),
    named("igammac", lambda a, x: mp.gammainc(a, x, mp.inf, True), (1.5, 0.7), (0.5, 4.0), speeds=(0.0, 1.0),
          slope=lambda a, x: -(x ** (a - 1)) * mp.exp(-x) / mp.gamma(a)),
    named("regularized_incomplete_beta", lambda a, b, x: mp.betainc(a, b, 0, x, True), (1.5, 2.5, 0.3), (0.7, 0.7, 0.9),
          speeds=(0.0, 0.0, 1.0), slope=lambda a, b, x: x ** (a - 1) * (1 - x) ** (b - 1) / mp.beta(a, b)),
    # Nearer to 0, where their differential equation has a pole, the error grows by 1 / x at each order; far from it the
    # coefficients become small and the error does not.
    named("bessel_i0e", bessel(0), 2.0, -2.5, 4.0),
    named("bessel_i1e", bessel(1), 2.0, -2.5, 4.0),
]  # fmt: skip
NAMES = [f"{i}-{row.primitive.name}" for i, row in enumerate(ROWS)]


COMPLEX = ("real", "imag", "conj")
Point = tuple[Any, ...]


def coefficients(row: Row, point: Point) -> tuple[Any, Any]:
    """Coefficients 0 to the order by `series`, and what a relative change of all that moves would make of them.

    Operands that do not move are numbers in the text.
    """
    avals = [Aval((), np.asarray(x).dtype if row.primitive.name not in COMPLEX else C128) for x in point]
    moving = [bool(v) for v in row.speeds]
    with Builder() as b:
        xs = [b.input(a) if m else Literal(x, a) for x, a, m in zip(point, avals, moving, strict=True)]
        program = b.build([row.primitive(*xs)])
    expanded, flags = series(program, ((True, *(False,) * (ORDER - 1)),) * sum(moving))

    def at(scale: float) -> Any:
        inputs = [np.asarray(x * scale, a.dtype) for x, a, m in zip(point, avals, moving, strict=True) if m]
        speeds = [np.asarray(v, a.dtype) for v, a, m in zip(row.speeds, avals, moving, strict=True) if m]
        outputs = iter(evaluate(expanded, [*inputs, *speeds]))
        return np.array([next(outputs), *[next(outputs) if f else 0.0 for f in flags[0]]])

    values, change = at(1.0), 1e-5
    return values, abs(at(1 + change) - values) / change


def exact(row: Row, point: Point) -> list[Any]:
    """The same coefficients by mpmath; far from 0 in units in which the curve moves as far as that."""
    with mp.workdps(DIGITS):
        if row.order is not None:
            psi = lambda k: mp.psi(row.order + k, point[-1]) / mp.factorial(k)
            return [row.exact(*point), *map(psi, range(1, ORDER + 1))]
        unit = max(min([abs(mp.mpf(x) / v) for x, v in zip(point, row.speeds, strict=True) if v]), mp.mpf(1))
        curve = [(mp.mpf(x), mp.mpf(v) * unit) for x, v in zip(point, row.speeds, strict=True)]
        on = lambda f: lambda t: f(*[x + v * t for x, v in curve])
        if row.slope is None:
            found = mp.taylor(on(row.exact), 0, ORDER)
        else:
            slope = mp.taylor(on(row.slope), 0, ORDER - 1)
            found = [on(row.exact)(0), *[c * unit / (k + 1) for k, c in enumerate(slope)]]
        return [c / unit**k for k, c in enumerate(found)]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_digits(row):
    for point in [p if isinstance(p, tuple) else (p,) for p in row.points]:
        with jax.enable_x64(True):
            found, condition = coefficients(row, point)
        for k, (y, z, c) in enumerate(zip(found, exact(row, point), condition, strict=True)):
            error, noise = abs(mp.mpmathify(complex(y)) - z), mp.mpf(10) ** (-DIGITS // 2)
            assert error <= TOLERANCE * (abs(z) + c) + noise, f"order {k} at {point}: {y} is not {mp.nstr(z, 20)}"


def test_every_primitive_has_a_row():
    has_derivative = {
        c.primitive.name for c in map(case, all_samples()) if isinstance(c.primitive, Elementwise) and any(c.moving)
    }
    assert has_derivative == {row.primitive.name for row in ROWS}
