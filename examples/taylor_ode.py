"""Solve an ordinary differential equation by Taylor series of order 12.

    python examples/taylor_ode.py

If y' = f(y), coefficient k + 1 of the solution is coefficient k of f(y) divided by k + 1, and `jet` gives that from the
coefficients up to k. A step of order n asks for the jets of order 1 to n of one function; written into one Program
they share what they have in common, so that all of them together take no more than the last one.

The equation is that of a satellite of earth and moon, at a start from which it comes back after 17.065 units of
time: the Arenstorf orbit. How far from the start it ends is the error. A step is as long as the last two coefficients
allow; between its ends the solution is the polynomial itself.

Source: Jorba and Zou, A software package for the numerical integration of ODEs by means of high-order Taylor methods,
Experimental Mathematics 14 (2005); the orbit: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from report import MISSING

import functrace as ft
from functrace import lax, numpy as fnp

Array = Any
Field = Callable[[Array], Array]

MOON = 0.012277471  # its part of the mass
START = (0.994, 0.0, 0.0, -2.00158510637908252240537862224)
PERIOD = 17.0652165601579625588917206249


def satellite(y: Array) -> Array:
    """The field of earth and moon, in coordinates that turn with them; `y` is position and velocity, f64[4]."""
    x, z, u, v = y
    to_earth = ((x + MOON) ** 2 + z**2) ** -1.5 * (1 - MOON)
    to_moon = ((x - 1 + MOON) ** 2 + z**2) ** -1.5 * MOON
    return fnp.stack([
        u, v,
        x + 2 * v - to_earth * (x + MOON) - to_moon * (x - 1 + MOON),
        z - 2 * u - to_earth * z - to_moon * z,
    ])  # fmt: skip


def coefficients(field: Field, y: Array, order: int) -> Array:
    """The Taylor coefficients of the solution through `y`, f64[order + 1, n]."""
    terms: list[Array] = []
    for k in range(order):
        slope, higher = ft.jet(field, (y,), (terms,), factorial_scaled=False)
        terms.append((higher[-1] if higher else slope) / (k + 1))
    return fnp.stack([y, *terms])


def at(c: Array, t: Array) -> Array:
    """The polynomial with coefficients `c`, by Horner's rule."""
    return reduce(lambda sum, k: sum * t + c[k], reversed(range(len(c) - 1)), c[-1])


def step_size(c: Array, tolerance: float) -> Array:
    """How far the last two terms stay below the tolerance."""
    n = len(c) - 1
    size = lambda k: (tolerance / fnp.max(abs(c[k]))) ** (1 / k)
    return fnp.minimum(size(n - 1), size(n))


class Solution(NamedTuple):
    """The state at the end, how many steps it took, and points on the way, `between` to a step: steps without length
    stand at the end."""

    end: Array
    steps: Array
    path: Array
    starts: Array


def solve(
    field: Field, y: Array, duration: float, order: int, tolerance: float, most: int, between: int = 16
) -> Solution:
    """Follow y' = field(y) for so long, in `most` steps at most."""

    def step(carry: Any, _: Any) -> Any:
        t, y, n = carry
        c = coefficients(field, y, order)
        h = fnp.minimum(step_size(c, tolerance), duration - t)
        inside = ft.vmap(lambda s: at(c, s * h))(np.linspace(0, 1, between, endpoint=False))
        return (t + h, at(c, h), n + (h > 0)), (inside, y)

    (_, end, steps), (path, starts) = lax.scan(step, (0.0, y, 0), None, length=most)
    return Solution(end, steps, fnp.reshape(path, (-1, y.shape[0])), starts)


class Run(NamedTuple):
    """One solution of the orbit, and how far from its start it ends; `whole` says that it got so far in its steps."""

    order: int
    tolerance: float
    steps: int
    whole: bool
    error: float
    solution: Solution


def orbit(order: int, tolerance: float, most: int) -> Run:
    """Once around."""
    start = np.array(START)
    found = ft.jit(lambda y: solve(satellite, y, PERIOD, order, tolerance, most))(start)
    solution = Solution(*map(np.asarray, found))
    error = float(abs(solution.end - start)[:2].max())
    steps = int(solution.steps)
    return Run(order, tolerance, steps, steps < most, error, solution)


def draw(runs: Sequence[Run], path: Path) -> bool:
    """The most exact orbit, and error against steps for each order, as a PNG; False if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = min(runs, key=lambda run: (not run.whole, run.error))
    left.plot(*best.solution.path[:, :2].T, color="tab:blue", linewidth=1)
    left.plot(*best.solution.starts[:, :2].T, ".", color="tab:blue", markersize=5)
    left.plot([-MOON, 1 - MOON], [0, 0], "o", color="tab:orange")
    left.set(title=f"order {best.order}: {best.steps} steps, error {best.error:.1e}", aspect="equal")
    for order in sorted({run.order for run in runs if run.whole}):
        points = sorted([(run.steps, run.error) for run in runs if run.whole and run.order == order])
        right.loglog(*zip(*points, strict=True), "o-", label=f"order {order}")
    right.set(title="back at the start", xlabel="steps", ylabel="error of the position")
    if any(run.whole for run in runs):
        right.legend()
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def main(arguments: Sequence[str] | None = None) -> list[Run]:
    """Solve by each order and tolerance, print the errors, and draw them."""
    parser = argparse.ArgumentParser(
        prog="taylor_ode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--orders", type=int, nargs="+", default=[6, 8, 12])
    add("--tolerances", type=float, nargs="+", default=[1e-6, 1e-9, 1e-12, 1e-15])
    add("--most", type=int, default=4000, metavar="N", help="steps to stop after; 4000")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    runs = []
    with jax.enable_x64(True):
        for order in options.orders:
            for tolerance in options.tolerances:
                run = orbit(order, tolerance, options.most)
                ended = "" if run.whole else ", stopped before the end"
                print(f"order {order:2}, tolerance {tolerance:.0e}: {run.steps:4} steps, error {run.error:.1e}{ended}")
                runs.append(run)
    figure = options.out / "taylor_ode.png"
    print(f"figure: {figure if draw(runs, figure) else MISSING}")
    return runs


if __name__ == "__main__":
    main()
