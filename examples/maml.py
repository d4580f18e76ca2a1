"""Learn to learn a sinusoid from ten points: the gradient of a gradient step.

    python examples/maml.py                      # 5000 steps; a figure in out/
    python examples/maml.py --steps 500 --shots 5

A task is a sinusoid of an amplitude and a phase of its own. MAML seeks parameters from which one gradient step on ten
points of a task fits all of it; its gradient goes through that step, and so takes second derivatives. Beside it stand
the network that fits the mean of all tasks, from which a step leads nowhere, and MAML of first order, which takes the
step for a constant.

Reference: Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks" (2017).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from report import MISSING

import functrace as ft
from functrace import lax, numpy as fnp, optim

Array = Any
Params = list[tuple[Array, Array]]

WIDTHS = (1, 40, 40, 1)
TASKS = 25  # at a step


class Task(NamedTuple):
    """Points to adapt to and points to be judged by, each f[shots]; a leading axis for several tasks."""

    x: Array
    y: Array
    x_new: Array
    y_new: Array


def tasks(rng: np.random.Generator, count: int, shots: int, judged: int) -> Task:
    """So many sinusoids: amplitudes in [0.1, 5], phases in [0, pi], points in [-5, 5]."""
    amplitude, phase = rng.uniform(0.1, 5, (count, 1)), rng.uniform(0, np.pi, (count, 1))
    x, x_new = rng.uniform(-5, 5, (count, shots)), rng.uniform(-5, 5, (count, judged))
    values = [x, amplitude * np.sin(x - phase), x_new, amplitude * np.sin(x_new - phase)]
    return Task(*[v.astype(np.float32) for v in values])


def network(params: Params, x: Array) -> Array:
    """The function at points f[n]."""
    h = x[:, None]
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = fnp.tanh(h) if i < len(params) - 1 else h
    return h[:, 0]


def start(rng: np.random.Generator) -> Params:
    """Weights of variance 1 / inputs, biases zero."""
    shapes = list(pairwise(WIDTHS))
    return [(rng.normal(0, m**-0.5, (m, n)).astype(np.float32), np.zeros(n, np.float32)) for m, n in shapes]


def loss(params: Params, x: Array, y: Array) -> Array:
    """The mean squared error."""
    return fnp.mean((network(params, x) - y) ** 2)


def adapted(params: Params, x: Array, y: Array, rate: float, steps: int = 1) -> Params:
    """Parameters after some gradient steps on the points of a task."""
    for _ in range(steps):
        slope = ft.grad(loss)(params, x, y)
        params = jax.tree_util.tree_map(lambda p, g: p - rate * g, params, slope)
    return params


def objectives(rate: float) -> dict[str, Callable[[Params, Task], Array]]:
    """What each method makes small, for one task."""

    def of_first_order(params: Params, task: Task) -> Array:
        step = jax.tree_util.tree_map(lambda q, p: q - p, adapted(params, task.x, task.y, rate), params)
        moved = jax.tree_util.tree_map(lambda p, d: p + ft.stop_gradient(d), params, step)
        return loss(moved, task.x_new, task.y_new)

    return {
        "MAML": lambda params, task: loss(adapted(params, task.x, task.y, rate), task.x_new, task.y_new),
        "first-order MAML": of_first_order,
        "all tasks at once": lambda params, task: loss(params, task.x_new, task.y_new),
    }


def train(objective: Callable[[Params, Task], Array], params: Params, batches: Task, lr: float) -> tuple[Params, Array]:
    """Adam on the mean of the objective over tasks; `batches` has leading axes steps and tasks."""
    optimizer = optim.adam(lr)
    mean = lambda params, batch: fnp.mean(ft.vmap(objective, in_axes=(None, 0))(params, batch))

    def step(carry: Any, batch: Task) -> Any:
        params, state = carry
        value, gradient = ft.value_and_grad(mean)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return (optim.apply_updates(params, updates), state), value

    (params, _), values = ft.jit(lambda carry, batches: lax.scan(step, carry, batches))(
        (params, optimizer.init(params)), batches
    )
    return params, values


class Run(NamedTuple):
    """By method: the parameters, the objective at each step, and the error on new tasks after 0, 1, 2, ... steps."""

    params: dict[str, Params]
    losses: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    shown: Task


def compare(steps: int, shots: int, rate: float, lr: float, seed: int) -> Run:
    """Train by each method from one start, on the same tasks, and adapt to new ones."""
    rng = np.random.default_rng(seed)
    initial = start(rng)
    batches = jax.tree_util.tree_map(
        lambda v: v.reshape(steps, TASKS, shots), tasks(rng, steps * TASKS, shots, shots)
    )  # fmt: skip
    new = tasks(rng, 200, shots, 100)
    run = Run({}, {}, {}, jax.tree_util.tree_map(lambda v: v[:3], new))

    @ft.jit
    def errors(params: Params) -> Array:
        def of(task: Task) -> Array:
            found, p = [loss(params, task.x_new, task.y_new)], params
            for _ in range(5):
                p = adapted(p, task.x, task.y, rate)
                found.append(loss(p, task.x_new, task.y_new))
            return fnp.stack(found)

        return fnp.mean(ft.vmap(of)(new), axis=0)

    for name, objective in objectives(rate).items():
        params, losses = train(objective, initial, batches, lr)
        run.params[name], run.losses[name], run.errors[name] = params, np.asarray(losses), np.asarray(errors(params))
    return run


def draw(run: Run, path: Path, rate: float) -> bool:
    """New tasks, the points that are known of them, and what a step makes of each start; a PNG."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2 * len(run.params) * 0.62), layout="constrained")
    count = len(run.shown.x)
    panels = figure.subplots(len(run.params), count, sharex=True, sharey=True)
    line = np.linspace(-5, 5, 200, dtype=np.float32)
    for row, (name, params) in zip(panels, run.params.items(), strict=True):
        for i, panel in enumerate(row):
            task = jax.tree_util.tree_map(lambda v, i=i: v[i], run.shown)
            order = np.argsort(task.x_new)
            panel.plot(task.x_new[order], task.y_new[order], color="#b0b7be", linewidth=4, label="the task")
            panel.plot(line, network(params, line), color="#e8590c", linestyle=":", label="before")
            panel.plot(
                line, network(adapted(params, task.x, task.y, rate), line), color="#0969da", label="after one step"
            )
            panel.plot(task.x, task.y, "o", color="#24292f", markersize=4, label="known points")
            panel.grid(alpha=0.25)
        row[0].set_ylabel(name, fontsize=12, fontweight="bold")
    panels[0][0].legend(fontsize=9)
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train, print the errors on new tasks, and draw."""
    parser = argparse.ArgumentParser(
        prog="maml", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=5000)
    add("--shots", type=int, default=10, help="points that are known of a task; 10")
    add("--rate", type=float, default=0.02, help="of the gradient step on a task; 0.02")
    add("--lr", type=float, default=2e-3, help="of Adam; 0.002")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    run = compare(options.steps, options.shots, options.rate, options.lr, options.seed)
    print(f"mean squared error on 200 new tasks, {options.shots} points known of each")
    print(f"{'gradient steps':20}" + "".join(f"{n:8}" for n in range(6)))
    for name, errors in run.errors.items():
        print(f"{name:20}" + "".join(f"{e:8.3f}" for e in errors))
    options.out.mkdir(parents=True, exist_ok=True)
    figure = options.out / "maml.png"
    print(f"figure: {figure if draw(run, figure, options.rate) else MISSING}")
    return run


if __name__ == "__main__":
    main()
