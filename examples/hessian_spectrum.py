"""The spectrum of the Hessian of a classifier's loss, which is too large to write down.

    python examples/hessian_spectrum.py               # a network of 12,000 weights, before and after training
    python examples/hessian_spectrum.py --hidden 8    # one of 610, whose whole Hessian is made to compare
    python examples/hessian_spectrum.py --quick       # the same, in seconds

Lanczos's method needs only products of the Hessian with vectors. One `linearize` of the gradient gives those as a
linear program, which a loop calls; from a random vector it builds a small tridiagonal matrix, whose eigenvalues
approach the outermost ones of the Hessian, and whose eigenvectors weigh them so that they stand for all. The mean over
some vectors, each line widened a little, is the density of the spectrum. Ghorbani, Krishnan and Xiao, An investigation
into neural net optimization via Hessian eigenvalue density, arXiv:1901.10159; Golub and Welsch (1969).

The figure, hessian_spectrum.png, shows it before and after training: after it, most eigenvalues are nearly 0, and a
few, about as many as there are classes, stand apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import MISSING
from train_digits import CLASSES, Data, count, load

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim, random

Array = Any
PyTree = Any

SMALL = 1000  # weights of a network whose whole Hessian is made


class Quadrature(NamedTuple):
    """Eigenvalues that stand for a spectrum, ascending, and their weights, which add up to 1."""

    values: np.ndarray
    weights: np.ndarray


def lanczos(product: Callable[[Array], Array], start: Array, steps: int) -> tuple[Array, Array]:
    """The diagonal `[steps]` and what stands beside it `[steps]` of the tridiagonal matrix of a symmetric operator.

    Every vector is made orthogonal to all those before it, twice, as rounding would let copies of eigenvalues in.
    """

    def step(carry: tuple[Array, Array], i: Array) -> tuple[Any, Any]:
        basis, v = carry
        basis = basis.at[i].set(v)
        w = product(v)
        alpha = v @ w
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        beta = fnp.linalg.norm(w)
        return (basis, w / fnp.maximum(beta, 1e-30)), (alpha, beta)

    basis = fnp.zeros((steps, *start.shape), start.dtype)
    _, (alphas, betas) = lax.scan(step, (basis, start / fnp.linalg.norm(start)), fnp.arange(steps))
    return alphas, betas


def quadrature(alphas: np.ndarray, betas: np.ndarray) -> Quadrature:
    """The eigenvalues of the tridiagonal matrix, and the squares of the first entries of its eigenvectors."""
    # Where the vectors have come to an end, the rest of the matrix is noise.
    end = int(np.argmax(np.append(betas[:-1] <= 1e-6 * abs(alphas).max(), True))) + 1
    T = np.diag(alphas[:end]) + np.diag(betas[: end - 1], 1) + np.diag(betas[: end - 1], -1)
    values, vectors = np.linalg.eigh(T.astype(np.float64))
    return Quadrature(values, vectors[0] ** 2)


def density(spectra: Sequence[Quadrature], grid: np.ndarray, width: float) -> np.ndarray:
    """The mean of the spectra, each eigenvalue a normal curve of this width, on a grid."""
    total = np.zeros_like(grid)
    for values, weights in spectra:
        curves = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        total += curves @ weights
    return total / len(spectra)


class Model(NamedTuple):
    """A network as a function of one vector of weights, and its loss on a set of images."""

    layer: nn.Layer
    images: np.ndarray
    labels: np.ndarray

    def initial(self, key: Array) -> tuple[Array, Callable[[Array], PyTree]]:
        """The weights as a vector, and what makes params of such a one."""
        leaves, structure = ft.tree.flatten(self.layer.init(key))
        shapes = [leaf.shape for leaf in leaves]
        ends = np.cumsum([leaf.size for leaf in leaves])

        def params_of(vector: Array) -> PyTree:
            parts = [vector[end - int(np.prod(s)) : end].reshape(s) for s, end in zip(shapes, ends, strict=True)]
            return ft.tree.unflatten(structure, parts)

        return fnp.concatenate([leaf.ravel() for leaf in leaves]), params_of

    def loss(self, params: PyTree) -> Array:
        """The mean cross entropy."""
        logits = self.layer.apply(params, self.images)
        return nn.softmax_cross_entropy_with_integer_labels(logits, self.labels).mean()


def spectra(loss: Callable[[Array], Array], weights: Array, probes: int, steps: int, key: Array) -> list[Quadrature]:
    """The spectrum of the Hessian of `loss` at `weights`, as each of some random vectors sees it."""

    @ft.jit
    def run(weights: Array, start: Array) -> tuple[Array, Array]:
        _, product = ft.linearize(ft.grad(loss), weights)  # v -> H v
        return lanczos(product, start, steps)

    starts = random.normal(key, (probes, weights.size))
    return [quadrature(*map(np.asarray, run(weights, start))) for start in starts]


def train(loss: Callable[[Array], Array], weights: Array, steps: int) -> Array:
    """The weights after some steps of Adam on all of the images."""
    optimizer = optim.adam(0.01)

    @ft.jit
    def run(weights: Array) -> Array:
        def step(carry: Any, _: Any) -> Any:
            weights, state = carry
            updates, state = optimizer.update(ft.grad(loss)(weights), state, weights)
            return (optim.apply_updates(weights, updates), state), None

        return lax.scan(step, (weights, optimizer.init(weights)), None, length=steps)[0][0]

    return run(weights)


class Run(NamedTuple):
    """By moment, "before" and "after" training: the spectra, and of a small network all eigenvalues."""

    spectra: dict[str, list[Quadrature]]
    whole: dict[str, np.ndarray]
    losses: dict[str, float]

    def top(self, moment: str) -> float:
        """The largest eigenvalue that was found."""
        return max(float(s.values[-1]) for s in self.spectra[moment])

    def trace(self, moment: str) -> float:
        """The mean of the eigenvalues, by the quadratures."""
        return float(np.mean([s.values @ s.weights for s in self.spectra[moment]]))


def draw(run: Run, path: Path) -> bool:
    """The density before and after training, on a scale of powers of ten, as a PNG; False without matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axes, (moment, found) in zip(figure.subplots(1, 2, sharey=True), run.spectra.items(), strict=True):
        low, high = min(s.values[0] for s in found), run.top(moment)
        span = high - low
        grid = np.linspace(low - 0.05 * span, high + 0.05 * span, 2000)
        axes.semilogy(grid, density(found, grid, 0.006 * span), color="#1f77b4", linewidth=1.4, label="Lanczos")
        if moment in run.whole:
            values = run.whole[moment]
            exact = Quadrature(values, np.full(len(values), 1 / len(values)))
            curve = density([exact], grid, 0.006 * span)
            axes.semilogy(grid, curve, color="#d62728", linewidth=0.9, label="whole Hessian")
            axes.legend(frameon=False)
        axes.set_ylim(1e-6, None)
        axes.set_title(f"{moment} training: loss {run.losses[moment]:.3f}, largest {high:.3g}")
        axes.set_xlabel("eigenvalue of the Hessian")
    figure.axes[0].set_ylabel("density")
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def study(data: Data, hidden: int, steps: int, probes: int, lanczos_steps: int, seed: int) -> Run:
    """Train a network, and find the spectrum before and after."""
    images = data.train_images.reshape(len(data.train_images), -1)
    widths = (images.shape[1], *(hidden,) * (1 if hidden < 16 else 2), CLASSES)
    model = Model(nn.mlp(widths, activation=nn.tanh), images, data.train_labels)
    key, probing = random.split(random.key(seed))
    before, params_of = model.initial(key)
    loss = lambda vector: model.loss(params_of(vector))
    moments = {"before": before, "after": train(loss, before, steps)}
    run = Run({}, {}, {})
    for moment, weights in moments.items():
        began = time.perf_counter()
        run.spectra[moment] = spectra(loss, weights, probes, lanczos_steps, probing)
        run.losses[moment] = float(loss(weights))
        took = time.perf_counter() - began
        print(f"{moment} training: loss {run.losses[moment]:.4f}; {weights.size} weights")
        print(f"  {probes} times {lanczos_steps} products in {took:.1f} s; largest eigenvalue {run.top(moment):.4f}, "
              f"mean {run.trace(moment):.2e}")  # fmt: skip
        if weights.size <= SMALL:
            run.whole[moment] = np.linalg.eigvalsh(np.asarray(ft.hessian(loss)(weights), np.float64))
            print(f"  of the whole Hessian: {run.whole[moment][-1]:.4f}, {run.whole[moment].mean():.2e}")
    return run


def main(arguments: Sequence[str] | None = None) -> Run:
    """Find the spectra, print the largest eigenvalues, and draw the densities."""
    parser = argparse.ArgumentParser(
        prog="hessian_spectrum", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--hidden", type=count, default=80, help="width of the two hidden layers; 80; below 16 there is one")
    add("--steps", type=count, default=100, help="of training; 100")
    add("--probes", type=count, default=6, help="random vectors; 6")
    add("--lanczos", type=count, default=100, metavar="N", help="products for each; 100")
    add("--seed", type=int, default=0, help="of the weights and vectors")
    add("--quick", action="store_true", help="8 hidden units, 60 steps, 3 vectors of 30 products")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"hessian_spectrum: {error}")
    size = (8, 60, 3, 30) if options.quick else (options.hidden, options.steps, options.probes, options.lanczos)
    run = study(data, *size, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "hessian_spectrum.png"
    print(f"figure: {path if draw(run, path) else MISSING}")
    return run


if __name__ == "__main__":
    main()
