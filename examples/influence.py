"""Which training examples a prediction owes its loss to, without training again.

    python examples/influence.py                  # 24 digits, each left out and the classifier trained again to compare
    python examples/influence.py --check 100      # more of them
    python examples/influence.py --quick          # a tenth of the digits, 8 left out

Softmax regression on scikit-learn's digits. At its minimum, to leave out an example moves the weights by H^-1 g / n to
first order, with H the Hessian of the objective and g the example's gradient; so the loss on held-out digits moves by
the product of that and its own gradient. One solve with H, by conjugate gradients on Hessian-vector products, and one
derivative of all the losses along what it gives, tell the influence of every example at once. Koh and Liang,
Understanding black-box predictions via influence functions, arXiv:1703.04730.

The figure, influence.png, has what was foretold against what leave-one-out training finds, and the digits whose absence
would hurt and help the most.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from report import MISSING
from train_digits import CLASSES, count, load, positive

import functrace as ft
from functrace import lax, nn, numpy as fnp
from functrace.scipy.sparse.linalg import cg

Array = Any
PyTree = Any

NEWTON_STEPS = 12


def losses_of(params: PyTree, images: Array, labels: Array) -> Array:
    """The cross entropy of each image: `[n, pixels]`, `[n]` to `[n]`."""
    return nn.softmax_cross_entropy_with_integer_labels(images @ params["W"] + params["b"], labels)


def solve(f: Callable[[PyTree], Array], x: PyTree, b: PyTree) -> PyTree:
    """H^-1 b, with H the Hessian of `f` at x."""
    return cg(lambda v: ft.hvp(f, x, v), b, tol=1e-10, maxiter=400)[0]


class Problem(NamedTuple):
    """Training and held-out digits, `[n, pixels]` in double precision, and the weight of the penalty."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    penalty: float

    def objective(self, params: PyTree, present: Array) -> Array:
        """What is minimised: the losses of the examples that are present, over the number of all, and a penalty."""
        squares = sum(fnp.sum(leaf**2) for leaf in ft.tree.leaves(params))
        return present @ losses_of(params, self.images, self.labels) / len(self.labels) + 0.5 * self.penalty * squares

    def held_out(self, params: PyTree) -> Array:
        """The mean loss on the held-out digits."""
        return losses_of(params, self.test_images, self.test_labels).mean()


def train(problem: Problem, params: PyTree, present: Array, steps: int) -> PyTree:
    """The minimum of the objective, by steps of Newton's method, each of which solves with the Hessian."""
    f = lambda params: problem.objective(params, present)

    def step(_: Array, params: PyTree) -> PyTree:
        return ft.tree.map(lambda p, d: p - d, params, solve(f, params, ft.grad(f)(params)))

    return lax.fori_loop(0, steps, step, params)


def influences(problem: Problem, params: PyTree) -> Array:
    """By how much the held-out loss rises, to first order, when each one of the training examples is left out."""
    everything = lambda p: problem.objective(p, np.ones(len(problem.labels)))
    towards = solve(everything, params, ft.grad(problem.held_out)(params))
    _, slopes = ft.jvp(lambda p: losses_of(p, problem.images, problem.labels), (params,), (towards,))
    return slopes / len(problem.labels)


class Run(NamedTuple):
    """The influence of every example; those that were left out, what it foretold of them, and what came."""

    influences: np.ndarray
    chosen: np.ndarray
    foretold: np.ndarray
    found: np.ndarray
    slope: float  # of the objective, where training ended

    @property
    def correlation(self) -> float:
        """Of what was foretold and what was found."""
        return float(np.corrcoef(self.foretold, self.found)[0, 1])


def left_out(problem: Problem, params: PyTree, chosen: np.ndarray) -> np.ndarray:
    """By how much the held-out loss rises when each of the chosen examples is left out: by training again."""

    @ft.jit
    def change(i: Array) -> Array:
        present = 1.0 * (fnp.arange(len(problem.labels)) != i)
        return problem.held_out(train(problem, params, present, 3)) - problem.held_out(params)

    return np.array([float(change(i)) for i in chosen])


def draw(problem: Problem, run: Run, path: Path) -> bool:
    """What was foretold against what was found, and the digits at both ends, as a PNG; False without matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
    axes = left.subplots()
    ends = [min(run.foretold.min(), run.found.min()), max(run.foretold.max(), run.found.max())]
    axes.plot(ends, ends, color="0.7", linewidth=1)
    axes.scatter(run.foretold, run.found, s=18, color="#1f77b4")
    axes.set_title("The held-out loss rises, when one digit is left out")
    axes.set_xlabel("foretold by its influence")
    axes.set_ylabel("found by training again")
    order = np.argsort(run.influences)
    side = int(problem.images.shape[1] ** 0.5)
    panels = right.subplots(2, 6)
    for row, ids, word in ((panels[0], order[::-1][:6], "helps"), (panels[1], order[:6], "hurts")):
        for panel, i in zip(row, ids, strict=True):
            panel.imshow(problem.images[i].reshape(side, side), cmap="gray_r")
            panel.set_title(f"{problem.labels[i]}: {run.influences[i]:+.1e}", fontsize=9)
            panel.set_axis_off()
        row[0].text(-0.3, 0.5, word, rotation=90, va="center", ha="center", transform=row[0].transAxes)
    right.suptitle("Labels of the digits whose presence helps, and hurts, the most")
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train, foretell, train again without some digits, and say how far apart the two are."""
    parser = argparse.ArgumentParser(
        prog="influence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--check", type=count, default=24, metavar="N", help="how many digits to leave out, one at a time; 24")
    add("--penalty", type=positive, default=0.01, help="weight of the squares of the weights; 0.01")
    add("--quick", action="store_true", help="a tenth of the digits, 8 left out")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"influence: {error}")
    checks, every = (8, 10) if options.quick else (options.check, 1)
    flat = lambda images: images.reshape(len(images), -1).astype(np.float64)
    problem = Problem(
        flat(data.train_images)[::every], data.train_labels[::every], flat(data.test_images), data.test_labels,
        options.penalty,
    )  # fmt: skip
    with jax.enable_x64(True):
        start = {"W": np.zeros((problem.images.shape[1], CLASSES)), "b": np.zeros(CLASSES)}
        everyone = np.ones(len(problem.labels))
        params = ft.jit(lambda p: train(problem, p, everyone, NEWTON_STEPS))(start)
        slope = max(float(abs(g).max()) for g in ft.tree.leaves(ft.grad(problem.objective)(params, everyone)))
        began = time.perf_counter()
        foretold = np.asarray(ft.jit(lambda p: influences(problem, p))(params))
        one_solve = time.perf_counter() - began
        # From those that matter most, either way, to those that hardly do.
        ranks = np.unique((np.linspace(0, 1, checks) ** 2 * (len(foretold) - 1)).astype(int))
        chosen = np.argsort(-abs(foretold))[ranks]
        began = time.perf_counter()
        found = left_out(problem, params, chosen)
        again = time.perf_counter() - began
        accuracy = np.mean((problem.test_images @ params["W"] + params["b"]).argmax(1) == problem.test_labels)
    run = Run(foretold, chosen, foretold[chosen], found, slope)
    print(f"{len(foretold)} digits, accuracy on {len(problem.test_labels)} others {accuracy:.1%}; slope {slope:.0e}")
    print(f"influence of all of them in {one_solve:.1f} s; {len(chosen)} left out, one by one, in {again:.1f} s")
    for i, a, b in list(zip(chosen, run.foretold, run.found, strict=True))[:8]:
        print(f"  digit {i:4}, a {problem.labels[i]}: foretold {a:+.3e}, found {b:+.3e}")
    print(f"correlation {run.correlation:.4f}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "influence.png"
    print(f"figure: {path if draw(problem, run, path) else MISSING}")
    return run


if __name__ == "__main__":
    main()
