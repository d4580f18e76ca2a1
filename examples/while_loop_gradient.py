"""Aim a ball that bounces: the gradient of a loop whose length only the run knows.

    python examples/while_loop_gradient.py                    # out/while_loop_gradient.png, and the derivatives
    python examples/while_loop_gradient.py --target 12 1      # hang the bell elsewhere

A ball is thrown and bounces until the clock stops; how often depends on the throw. The simulation goes from bounce to
bounce in a `while_loop`, which reverse mode walks back. Its gradient is compared with the closed form and then used:
throws from many directions are aimed at a bell at once, by Adam, each with bounces of its own. Where the number of
bounces changes, the height has a kink, and a throw may be caught beside one: those that miss, miss for that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from report import MISSING

import functrace as ft
from functrace import lax, numpy as fnp, optim

Array = Any

GRAVITY, HEIGHT, DURATION = 9.81, 1.5, 4.0  # m/s^2, of the hand in m, until the clock stops in s
GRIP = 0.9  # what a bounce leaves of the horizontal speed
MOST_BOUNCES = 1000
NAMES = ("speed across", "speed upwards", "restitution")  # what is differentiated


class Flight(NamedTuple):
    """Where the ball is at a bounce, when, how fast it leaves, and how many bounces there were."""

    time: Array
    x: Array
    across: Array
    upwards: Array
    bounces: Array


def throw(params: Array, duration: float = DURATION) -> tuple[Array, Array]:
    """Where the ball is when the clock stops, f[2], and after how many bounces.

    Args:
      params: f[3]: the speed across and upwards at which it leaves the hand, and the part of its vertical speed that
        a bounce gives back.
    """
    across, upwards, restitution = params
    impact = fnp.sqrt(upwards**2 + 2 * GRAVITY * HEIGHT)
    first = (upwards + impact) / GRAVITY  # when it falls to the ground
    on_ground = Flight(first, across * first, across * GRIP, impact * restitution, 1)

    def next_fall(flight: Flight) -> Array:
        return flight.time + 2 * flight.upwards / GRAVITY

    def bounce(flight: Flight) -> Flight:
        time = next_fall(flight)
        x = flight.x + flight.across * (time - flight.time)
        return Flight(time, x, flight.across * GRIP, flight.upwards * restitution, flight.bounces + 1)

    last = lax.while_loop(lambda flight: next_fall(flight) < duration, bounce, on_ground, max_steps=MOST_BOUNCES)
    rest = duration - last.time
    return fnp.stack([last.x + last.across * rest, last.upwards * rest - GRAVITY * rest**2 / 2]), last.bounces


def closed_form(params: np.ndarray, bounces: int, duration: float = DURATION) -> np.ndarray:
    """The same place, where the number of bounces is known: flights shrink in a geometric series."""
    across, upwards, restitution = params
    impact = np.sqrt(upwards**2 + 2 * GRAVITY * HEIGHT)
    flights = [(upwards + impact) / GRAVITY]
    flights += [2 * impact * restitution**k / GRAVITY for k in range(1, bounces)]
    rest = duration - sum(flights)
    x = across * sum(GRIP**k * flight for k, flight in enumerate([*flights, rest]))
    return np.array([x, impact * restitution**bounces * rest - GRAVITY * rest**2 / 2])


def complex_step(f: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """The Jacobian of an analytic function, to rounding: Im f(x + i h e) / h."""
    return np.stack([np.imag(f(x + 1e-30j * e)) / 1e-30 for e in np.eye(len(x))], axis=-1)


# Aiming.


class Aimed(NamedTuple):
    """Throws f[n, 3] before and after, how far each missed the target f[n], and its bounces i[n]."""

    before: np.ndarray
    after: np.ndarray
    missed: np.ndarray
    bounces: np.ndarray
    bounces_before: np.ndarray


def aim(starts: np.ndarray, target: np.ndarray, steps: int) -> Aimed:
    """Improve all throws at once by their own gradients; the restitution is the ball's, and stays."""
    optimizer = optim.adam(optim.cosine_decay_schedule(0.1, steps))

    def missed(params: Array) -> Array:
        return ((throw(params)[0] - target) ** 2).sum()

    def step(carry: Any, _: Any) -> Any:
        throws, state = carry
        grads = ft.vmap(ft.grad(missed))(throws) * np.array([1.0, 1.0, 0.0])
        updates, state = optimizer.update(grads, state, throws)
        return (optim.apply_updates(throws, updates), state), None

    @ft.jit
    def all_steps(throws: Array) -> Any:
        (throws, _), _ = lax.scan(step, (throws, optimizer.init(throws)), None, steps)
        return throws, ft.vmap(missed)(throws) ** 0.5, ft.vmap(throw)(throws)[1]

    before = np.asarray(ft.jit(ft.vmap(throw))(starts)[1])
    return Aimed(starts, *map(np.asarray, all_steps(starts)), before)


class Run(NamedTuple):
    """The Jacobian f[2, 3] of the place by each method, and what aiming came to."""

    jacobians: dict[str, np.ndarray]
    bounces: int
    aimed: Aimed


def compare(params: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """The derivative of the place, in both modes and from the closed form."""
    place = lambda p: throw(p)[0]
    bounces = int(throw(params)[1])
    jacobians = {
        "closed form": complex_step(lambda p: closed_form(p, bounces), params),
        "reverse mode": ft.jit(ft.jacrev(place))(params),
        "forward mode": ft.jit(ft.jacfwd(place))(params),
    }
    return {name: np.asarray(j) for name, j in jacobians.items()}, bounces


def draw(aimed: Aimed, target: np.ndarray, path: Path) -> bool:
    """The flights before and after, as a PNG; False if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = np.linspace(0, DURATION, 400)
    paths = ft.jit(ft.vmap(lambda params: ft.vmap(lambda t: throw_at(params, t))(times)))
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    figure.suptitle("Throws aimed through their bounces, by the gradient of a while_loop", fontsize=13)
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    counts = ("before", aimed.before, aimed.bounces_before), ("after", aimed.after, aimed.bounces)
    for panel, (when, throws, bounces) in zip(panels, counts, strict=True):
        for curve, n in zip(np.asarray(paths(throws)), bounces, strict=True):
            panel.plot(*curve.T, linewidth=1.2, color=f"C{n - 1}", label=f"{n} bounce{'' if n == 1 else 's'}")
            panel.plot(*curve[-1], "o", color=f"C{n - 1}", markersize=5)
        panel.plot(*target, "*", color="black", markersize=16, zorder=3)
        panel.axhline(0, color="black", linewidth=1)
        lines, names = panel.get_legend_handles_labels()
        line_of = dict(zip(names, lines, strict=True))  # one for each number of bounces
        panel.legend([line_of[name] for name in sorted(line_of)], sorted(line_of), loc="upper right", fontsize=9)
        where = f"{when}: where each ball is after {DURATION:g} s; the star is the bell"
        panel.set_title(where, loc="left", fontsize=11)
        panel.set_ylabel("height, m")
    panels[-1].set_xlabel("distance, m")
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def throw_at(params: Array, time: Array) -> Array:
    """The place f[2] at a time: on the first flight, or after the bounces until then."""
    across, upwards, _ = params
    flying = fnp.stack([across * time, HEIGHT + upwards * time - GRAVITY * time**2 / 2])
    return fnp.where(flying[1] >= 0, flying, throw(params, time)[0])


def main(arguments: Sequence[str] | None = None) -> Run:
    """Differentiate, aim, draw, and print."""
    parser = argparse.ArgumentParser(
        prog="while_loop_gradient", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--target", type=float, nargs=2, default=(9.0, 0.3), metavar=("X", "Y"), help="where the bell is, in m; 9 0.3")
    add("--throws", type=int, default=8)
    add("--steps", type=int, default=300, help="of Adam; 300")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    if options.target[1] < 0:
        sys.exit(f"while_loop_gradient: --target: the bell is {-options.target[1]:g} m below the ground.")
    options.out.mkdir(parents=True, exist_ok=True)
    figure, target = options.out / "while_loop_gradient.png", np.array(options.target)
    with jax.enable_x64(True):
        jacobians, bounces = compare(np.array([4.0, 3.0, 0.8]))
        angles = np.linspace(0.2, 1.3, options.throws)
        starts = np.stack([6 * np.cos(angles), 6 * np.sin(angles), np.full_like(angles, 0.85)], axis=-1)
        aimed = aim(starts, target, options.steps)
        drawn = draw(aimed, target, figure)
    run = Run(jacobians, bounces, aimed)
    tell(run)
    print(f"figure: {figure if drawn else MISSING}")
    return run


def tell(run: Run) -> None:
    """The derivatives, and the throws."""
    print(f"the place after {DURATION:g} s and {run.bounces} bounces, differentiated by")
    print(f"{'':16}" + "".join(f"{name:>16}" for name in NAMES) + "     differs by")
    exact = run.jacobians["closed form"]
    for name, jacobian in run.jacobians.items():
        for axis, row in zip("xy", jacobian, strict=True):
            error = abs(row - exact["xy".index(axis)]).max()
            print(f"  {axis}, {name:12}" + "".join(f"{slope:16.9f}" for slope in row) + f"{error:15.1e}")
    print("aimed at the bell, all at once:")
    columns = zip(run.aimed.before, run.aimed.bounces_before, run.aimed.after, run.aimed.bounces, run.aimed.missed,
                  strict=True)  # fmt: skip
    for old, before, new, after, missed in columns:
        change = f"({old[0]:5.2f}, {old[1]:5.2f}) -> ({new[0]:5.2f}, {new[1]:5.2f}) m/s"
        print(f"  {change}, {before} -> {after} bounces, misses by {missed:.1e} m")


if __name__ == "__main__":
    main()
