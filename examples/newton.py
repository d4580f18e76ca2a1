"""Differentiate Newton's method, which stops when it is there.

    python examples/newton.py

Two equations whose solutions have derivatives in closed form: x^3 = a, and Kepler's E - e sin(E) = M. The loop is
differentiated as it ran, in both modes and twice. Near the solution x* a step of Newton's method takes the error
e to c e^2, and so its derivative e' to 2 c e e': derivatives converge with the iterates, a step or two behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import functrace as ft
from functrace import lax, numpy as fnp

Array = Any


def newton(f: Callable[[Array, Array], Array], x: Array, a: Array, tolerance: float = 1e-8) -> Array:
    """The x with f(x, a) = 0, and how many steps it took: the last was no longer than `tolerance`.

    Args:
      f: a function of two scalars.
      x: where to start.
      a: a parameter, with respect to which the result may be differentiated.
    """

    def step(carry: Any) -> Any:
        x, _, n = carry
        length = f(x, a) / ft.grad(f)(x, a)
        return x - length, length, n + 1

    start = (x, fnp.inf, 0)
    x, _, n = lax.while_loop(lambda carry: abs(carry[1]) > tolerance, step, start, max_steps=100)
    return x, n


def cube_root(a: Array) -> Array:
    """The solution of x^3 = a, for a > 0, from a start that is above it.

    A start that is the solution itself, as 1 would be for a = 1, ends the loop before its derivatives are there.
    """
    return newton(lambda x, a: x**3 - a, 1 + a, a)


def cube_root_exact(a: Array) -> tuple[Array, Array, Array]:
    """The cube root and its first two derivatives."""
    x = np.cbrt(a)
    return x, x / (3 * a), -2 * x / (9 * a * a)


ECCENTRICITY = 0.6


def anomaly(mean: Array) -> Array:
    """Kepler's equation: the eccentric anomaly E of an orbit, from the mean anomaly M."""
    return newton(lambda x, m: x - ECCENTRICITY * fnp.sin(x) - m, mean + ECCENTRICITY * fnp.sin(mean), mean)


def anomaly_exact(mean: Array) -> tuple[Array, Array, Array]:
    """The anomaly by bisection, and its derivatives by the implicit function theorem."""
    low, high = mean - ECCENTRICITY, mean + ECCENTRICITY
    for _ in range(60):
        middle = (low + high) / 2
        above = middle - ECCENTRICITY * np.sin(middle) > mean
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    slope = 1 - ECCENTRICITY * np.cos(low)
    return low, 1 / slope, -ECCENTRICITY * np.sin(low) / slope**3


class Check(NamedTuple):
    """How many steps each row took, and by method how far the derivative is from the closed form."""

    steps: np.ndarray
    errors: dict[str, float]


def check(solve: Callable[[Array], Any], exact: Callable[[Array], Any], points: np.ndarray) -> Check:
    """Each derivative of `solve` at all the points at once, each of which takes its own steps."""
    x = lambda a: solve(a)[0]
    forward = lambda f: lambda a: ft.jvp(f, (a,), (fnp.ones_like(a),))[1]
    value, first, second = exact(points)
    methods = {
        "x": (x, value),
        "x' in reverse mode": (ft.grad(x), first),
        "x' in forward mode": (forward(x), first),
        "x'' reverse over reverse": (ft.grad(ft.grad(x)), second),
        "x'' forward over reverse": (forward(ft.grad(x)), second),
        "x'' reverse over forward": (ft.grad(forward(x)), second),
        "x'' forward over forward": (forward(forward(x)), second),
    }
    errors = {
        name: float(abs(np.asarray(ft.jit(ft.vmap(method))(points)) - truth).max())
        for name, (method, truth) in methods.items()
    }
    return Check(np.asarray(ft.vmap(solve)(points)[1]), errors)


def main(arguments: Sequence[str] | None = None) -> dict[str, Check]:
    """Solve both equations, differentiate, and print how far that is from the closed forms."""
    with jax.enable_x64(True):
        checks = {
            "x^3 = a": check(cube_root, cube_root_exact, np.array([0.5, 1.0, 2.0, 10.0, 1000.0])),
            "Kepler's equation": check(anomaly, anomaly_exact, np.linspace(0.1, 3.0, 6)),
        }
    for name, found in checks.items():
        print(f"{name}: {', '.join(map(str, found.steps))} steps; errors against the closed form")
        for method, error in found.errors.items():
            print(f"  {method:26}{error:9.1e}")
    return checks


if __name__ == "__main__":
    main()
