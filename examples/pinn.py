"""Two equations of fourth order solved by a network: a beam that bends, and Kuramoto and Sivashinsky's flame front.

    python examples/pinn.py                   # both, trained: a few minutes
    python examples/pinn.py --problem beam    # one of them
    python examples/pinn.py --quick           # both, in seconds, and not far trained

A physics-informed network is a function of the coordinates, trained until it satisfies the equation at some points; its
derivatives there are derivatives of the network in its inputs, to fourth order, and the loss made of them is
differentiated once more in the weights. What can be is built in: the clamped end of the beam, the flame's first moment
and its period. Raissi, Perdikaris and Karniadakis, Physics-informed neural networks (2019); for what is built in,
Lagaris, Likas and Fotiadis (1998). The optimizer is L-BFGS.

    beam                    u'''' = 1, u(0) = u'(0) = 0, u''(1) = u'''(1) = 0; the solution is a polynomial
    Kuramoto-Sivashinsky    u_t + u u_x + u_xx + u_xxxx = 0, periodic; the solution is a spectral method's

The figure, pinn.png, has both solutions beside what they should be, and how training went.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from report import MISSING
from train_digits import count

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim, random

Array = Any
PyTree = Any

PERIOD, END, AMPLITUDE = 12.0, 2.0, 1.5  # of the flame: in x, in t, and at t = 0


def derivatives(f: Callable[[Array], Array], x: Array, order: int) -> list[Array]:
    """The value of a function of a scalar, and its derivatives up to an order."""
    values = [f(x)]
    for _ in range(order):
        f = ft.grad(f)
        values.append(f(x))
    return values


class Problem(NamedTuple):
    """A network, the function `(params, *coordinates)` that it makes, the residuals `(function, *coordinates)` of an
    equation, and the points where they are to vanish."""

    network: nn.Layer
    solution: Callable[..., Array]
    residuals: Callable[..., Array]
    points: tuple[np.ndarray, ...]

    def loss(self, params: PyTree) -> Array:
        """The mean square of the residuals."""
        at = lambda *point: self.residuals(partial(self.solution, params), *point)
        return (ft.vmap(at)(*self.points) ** 2).mean()


# The beam.


def beam(width: int, count: int) -> Problem:
    """A beam clamped at 0, free at 1, under a uniform load."""
    network = nn.mlp((1, width, width, 1), activation=nn.tanh)

    def solution(params: PyTree, x: Array) -> Array:
        return x**2 * network.apply(params, x[None])[0]

    return Problem(network, solution, beam_residuals, (np.linspace(0, 1, count),))


def beam_residuals(u: Callable[[Array], Array], x: Array) -> Array:
    """What is left of the equation at x, and of the bending and the shear at the free end: `[3]`."""
    *_, fourth = derivatives(u, x, 4)
    _, _, bending, shear = derivatives(u, fnp.ones_like(x), 3)
    return fnp.stack([fourth - 1, bending, shear])


def deflection(x: np.ndarray) -> np.ndarray:
    """How far the beam bends."""
    return x**2 * (x**2 - 4 * x + 6) / 24


# The flame.


def first_moment(x: Array, np_: Any = fnp) -> Array:
    """The flame at t = 0."""
    angle = 2 * np.pi * x / PERIOD
    return AMPLITUDE * (np_.cos(angle) + 0.3 * np_.sin(2 * angle))


def flame(width: int, count: int) -> Problem:
    """Kuramoto and Sivashinsky's equation. The network sees t and the angle, which makes it periodic."""
    network = nn.mlp((5, width, width, 1), activation=nn.tanh)

    def solution(params: PyTree, t: Array, x: Array) -> Array:
        angle = 2 * np.pi * x / PERIOD
        features = [2 * t / END - 1, fnp.cos(angle), fnp.sin(angle), fnp.cos(2 * angle), fnp.sin(2 * angle)]
        return first_moment(x) + t * network.apply(params, fnp.stack(features))[0]

    rng = np.random.default_rng(0)
    return Problem(network, solution, flame_residual, (rng.uniform(0, END, count), rng.uniform(0, PERIOD, count)))


def flame_residual(u: Callable[[Array, Array], Array], t: Array, x: Array) -> Array:
    """What is left of the equation at t and x."""
    value, u_x, u_xx, _, u_xxxx = derivatives(lambda x: u(t, x), x, 4)
    return ft.grad(u)(t, x) + value * u_x + u_xx + u_xxxx


def spectral(times: int, modes: int = 64, steps_each: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The flame by Fourier's modes, whose linear part is solved exactly, and Runge and Kutta's method of order 4.

    Returns:
      `t [times]`, `x [modes]`, `u [times, modes]`.
    """
    x = PERIOD * np.arange(modes) / modes
    k = 2 * np.pi * np.fft.rfftfreq(modes, PERIOD / modes)
    kept = k <= k.max() * 2 / 3  # without what squares alias
    t = np.linspace(0, END, times)
    h = t[1] / steps_each
    half = np.exp((k**2 - k**4) * h / 2)
    slope = lambda v: -0.5j * k * kept * np.fft.rfft(np.fft.irfft(v) ** 2)
    v, found = np.fft.rfft(first_moment(x, np)), []
    for _ in t:
        found.append(np.fft.irfft(v))
        for _ in range(steps_each):
            a = slope(v)
            b = slope(half * (v + h / 2 * a))
            c = slope(half * v + h / 2 * b)
            d = slope(half**2 * v + h * half * c)
            v = half**2 * v + h / 6 * (half**2 * a + 2 * half * (b + c) + d)
    return t, x, np.array(found)


# Training.


def train(problem: Problem, key: Array, steps: int, chunk: int = 50) -> tuple[PyTree, np.ndarray]:
    """The params after some steps of L-BFGS, and the loss before each."""
    optimizer = optim.lbfgs(memory_size=30)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        value, grad = ft.value_and_grad(problem.loss)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=problem.loss)
        return (optim.apply_updates(params, updates), state), value

    run = ft.jit(lambda carry: lax.scan(step, carry, None, length=min(chunk, steps)))
    params = problem.network.init(key)
    carry, losses = (params, optimizer.init(params)), []
    while len(losses) < steps:
        carry, values = run(carry)
        losses += np.asarray(values).tolist()
    return carry[0], np.array(losses)


class Run(NamedTuple):
    """Of one problem: the losses, the coordinates, what the network says there, and what it should."""

    losses: np.ndarray
    axes: tuple[np.ndarray, ...]
    found: np.ndarray
    truth: np.ndarray

    @property
    def error(self) -> float:
        """The root of the mean square of what is wrong, over that of the solution."""
        return float(np.linalg.norm(self.found - self.truth) / np.linalg.norm(self.truth))


def solve(name: str, width: int, points: int, steps: int, seed: int) -> Run:
    """Train the network for a problem, and evaluate it on a grid."""
    problem = {"beam": beam, "flame": flame}[name](width, points)
    params, losses = train(problem, random.key(seed), steps)
    if name == "beam":
        axes = (np.linspace(0, 1, 101),)
        truth = deflection(*axes)
    else:
        *axes, truth = spectral(41)
    grid = np.meshgrid(*axes, indexing="ij")
    found = ft.vmap(lambda *point: problem.solution(params, *point))(*[g.ravel() for g in grid])
    return Run(losses, tuple(axes), np.asarray(found).reshape(truth.shape), truth)


def draw(runs: dict[str, Run], path: Path) -> bool:
    """The solutions and the losses, as a PNG; False if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6 * len(runs)), layout="constrained")
    for panels, (name, run) in zip(figure.subplots(len(runs), 3, squeeze=False), runs.items(), strict=True):
        if name == "beam":
            (x,) = run.axes
            panels[0].plot(x, -run.truth, color="0.7", linewidth=5, label="solution")
            panels[0].plot(x, -run.found, color="#1f77b4", linewidth=1.5, label="network")
            panels[0].legend(frameon=False)
            panels[0].set_title("A beam, clamped on the left, under its weight")
            panels[1].plot(x, run.found - run.truth, color="#1f77b4")
            panels[1].set_title(f"What is wrong: {run.error:.1e} of it")
        else:
            t, x = run.axes
            image = panels[0].pcolormesh(x, t, run.found, cmap="RdBu_r", shading="auto")
            figure.colorbar(image, ax=panels[0])
            panels[0].set_title("Kuramoto-Sivashinsky: u by the network")
            panels[0].set_ylabel("t")
            for i, colour in ((0, "0.6"), (len(t) // 2, "#ff7f0e"), (len(t) - 1, "#1f77b4")):
                panels[1].plot(x, run.truth[i], color=colour, linewidth=4, alpha=0.4)
                panels[1].plot(x, run.found[i], color=colour, linewidth=1.3, label=f"t = {t[i]:g}")
            panels[1].legend(frameon=False)
            panels[1].set_title(f"against a spectral method: {run.error:.1e} wrong")
        for panel in panels[:2]:
            panel.set_xlabel("x")
        panels[2].semilogy(run.losses, color="#1f77b4")
        panels[2].set_title("mean square of the residual")
        panels[2].set_xlabel("steps of L-BFGS")
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def main(arguments: Sequence[str] | None = None) -> dict[str, Run]:
    """Solve the problems, print how wrong the solutions are, and draw them."""
    parser = argparse.ArgumentParser(
        prog="pinn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--problem", choices=("beam", "flame", "both"), default="both")
    add("--steps", type=count, help="of L-BFGS; 300 for the beam, 2000 for the flame")
    add("--width", type=count, help="of the two hidden layers; 16 and 32")
    add("--seed", type=int, default=0, help="of the weights")
    add("--quick", action="store_true", help="few steps, small networks")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    sizes = {"beam": (16, 32, 300), "flame": (32, 800, 2000)}
    if options.quick:
        sizes = {"beam": (8, 16, 100), "flame": (8, 100, 100)}
    runs = {}
    with jax.enable_x64(True):
        for name in sizes if options.problem == "both" else [options.problem]:
            width, points, steps = sizes[name]
            run = solve(name, options.width or width, points, options.steps or steps, options.seed)
            runs[name] = run
            print(f"{name}: residual {run.losses[0]:.1e} at first, {run.losses[-1]:.1e} after {len(run.losses)} steps; "
                  f"error {run.error:.1e} of the solution")  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "pinn.png"
    print(f"figure: {path if draw(runs, path) else MISSING}")
    return runs


if __name__ == "__main__":
    main()
