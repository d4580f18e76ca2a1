"""The ground state of the helium atom by variational Monte Carlo with a neural network.

    python examples/helium_vmc.py                                   # a minute or two
    python examples/helium_vmc.py --steps 1000 --figure helium.png

The wave function of two electrons is exp(-2 (r1 + r2)), which is exact without their repulsion, times a factor for
the cusp where they meet, times a network of their distances that does not tell them apart. Electrons are moved by
the Metropolis algorithm, and the network is trained to lower the mean of the local energy

    E(x) = -1/2 (laplacian psi)(x) / psi(x) + V(x)

whose variance vanishes at the exact solution. The Laplacian is carried forward with psi: no Hessian is formed. The
exact energy is -2.90372 hartree. Source: Pekeris, "Ground state of two-electron atoms" (1958).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import functrace as ft
from functrace import lax, numpy as fnp, optim, random

Array = Any
EXACT = -2.90372
HARTREE_FOCK = -2.86168
MOVES = 10  # of all electrons between two measurements


def distances(x: Array) -> tuple[Array, Array, Array]:
    """Of the electrons from the nucleus, and from each other; `x` is f32[2, 3]."""
    r = lambda v: fnp.sqrt((v * v).sum())
    return r(x[0]), r(x[1]), r(x[0] - x[1])


def log_psi(params: Any, x: Array) -> Array:
    """The logarithm of the wave function, which is positive."""
    r1, r2, r12 = distances(x)
    # Bounded and smooth but for the cusps that are there already, and the same for both orders of the electrons.
    near = lambda r: r * r / (1 + r * r)
    features = fnp.stack([near(r1) + near(r2), near(r1) * near(r2), near(r12), near(r12) * (near(r1) + near(r2))])
    h = features
    for layer in params["hidden"]:
        h = fnp.tanh(h @ layer["w"] + layer["b"])
    return -2 * (r1 + r2) + 0.5 * r12 / (1 + fnp.exp(params["cusp"]) * r12) + h @ params["out"]


def local_energy(params: Any, x: Array) -> Array:
    """In hartree; its mean over |psi|^2 is the energy."""
    r1, r2, r12 = distances(x)
    # Of psi / psi(x) rather than psi, so that far away nothing underflows.
    here = ft.stop_gradient(log_psi(params, x))
    value, laplacian = ft.laplacian(lambda x: fnp.exp(log_psi(params, x) - here))(x)
    return -0.5 * laplacian / value - 2 / r1 - 2 / r2 + 1 / r12


def initial(seed: int, width: int = 16) -> Any:
    """Parameters of a network of two layers, near a product of one-electron functions."""
    rng = np.random.default_rng(seed)
    layer = lambda m, n: {"w": np.float32(rng.normal(size=(m, n)) / m**0.5), "b": np.zeros(n, np.float32)}
    out = np.float32(rng.normal(size=width) * 0.01)
    return {"hidden": [layer(4, width), layer(width, width)], "out": out, "cusp": np.float32(-1.0)}


@ft.jit
def moved(params: Any, x: Array, key: Array, size: Array) -> tuple[Array, Array]:
    """Walkers, f32[n, 2, 3], after `MOVES` proposals of all of them, and the share that was accepted."""
    density = ft.vmap(lambda x: 2 * log_psi(params, x))

    def move(carry: Any, key: Array) -> Any:
        x, old = carry
        step, luck = random.split(key)
        proposed = x + size * random.normal(step, x.shape)
        new = density(proposed)
        accept = fnp.log(random.uniform(luck, new.shape)) < new - old
        return (fnp.where(accept[:, None, None], proposed, x), fnp.where(accept, new, old)), accept.mean()

    (x, _), accepted = lax.scan(move, (x, density(x)), random.split(key, MOVES))
    return x, accepted.mean()


ADAM = optim.adam(optim.exponential_decay(2e-2, 100, 0.7))


@ft.jit
def trained(params: Any, state: Any, x: Array) -> tuple[Any, Any, Array, Array]:
    """A step of Adam along the gradient of the energy, and the mean and deviation of the local energy."""
    energies = ft.vmap(local_energy, (None, 0))(params, x)
    mean, deviation = energies.mean(), energies.std()
    # The few walkers that are almost on a nucleus must not lead the others.
    weights = fnp.clip(energies - mean, -5 * deviation, 5 * deviation)
    surrogate = lambda p: 2 * (ft.vmap(log_psi, (None, 0))(p, x) * (weights - weights.mean())).mean()
    updates, state = ADAM.update(ft.grad(surrogate)(params), state, params)
    return optim.apply_updates(params, updates), state, mean, deviation


@ft.jit
def measured(params: Any, x: Array) -> Array:
    """The mean of the local energy over walkers."""
    return ft.vmap(local_energy, (None, 0))(params, x).mean()


class Run(NamedTuple):
    """The energy, its standard error, and what training went through: mean and deviation at each step."""

    energy: float
    error: float
    means: np.ndarray
    deviations: np.ndarray


def run(steps: int, walkers: int, measurements: int, seed: int = 0) -> Run:
    """Train, then measure with parameters that stay as they are."""
    params, key = initial(seed), random.key(seed)
    state = ADAM.init(params)
    x, size = np.float32(np.random.default_rng(seed).normal(size=(walkers, 2, 3))), 0.5
    history, energies = [], []
    for n in range(20 + steps + measurements):
        key, own = random.split(key)
        x, accepted = moved(params, x, own, np.float32(size))
        size *= 1.05 if accepted > 0.5 else 0.95
        if 20 <= n < 20 + steps:
            params, state, mean, deviation = trained(params, state, x)
            history.append((float(mean), float(deviation)))
        elif n >= 20:
            energies.append(float(measured(params, x)))
    # Measurements follow each other closely, so the error is that of the means of blocks.
    blocks = np.array([block.mean() for block in np.array_split(energies, min(10, measurements))])
    means, deviations = np.array(history).T
    return Run(float(np.mean(energies)), float(blocks.std(ddof=1) / len(blocks) ** 0.5), means, deviations)


def draw(found: Run, path: Path) -> bool:
    """The energy during training as a PNG; False if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(found.means, linewidth=0.8, label="mean of the local energy")
    for value, name, style in ((EXACT, "exact", "-"), (HARTREE_FOCK, "Hartree-Fock", "--")):
        left.axhline(value, color="black", linewidth=0.8, linestyle=style, label=name)
    left.set(xlabel="step", ylabel="hartree", ylim=(EXACT - 0.1, EXACT + 0.3), title="Helium atom")
    left.legend()
    right.semilogy(found.deviations, linewidth=0.8)
    right.set(xlabel="step", ylabel="hartree", title="deviation of the local energy")
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train, measure, print the energy beside the exact one, and draw how it was found."""
    parser = argparse.ArgumentParser(
        prog="helium_vmc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--walkers", type=int, default=512, help="pairs of electrons")
    parser.add_argument("--measurements", type=int, default=100, help="of all walkers, after training")
    parser.add_argument("--figure", type=Path, metavar="PATH", help="draw the training, as PNG")
    options = parser.parse_args(arguments)
    if min(options.steps, options.walkers) < 1 or options.measurements < 2:
        parser.error("--steps and --walkers must be at least 1, --measurements at least 2")
    found = run(options.steps, options.walkers, options.measurements)
    print(f"energy   {found.energy:.4f} +- {found.error:.4f} hartree")
    print(f"exact    {EXACT:.4f}; Hartree-Fock {HARTREE_FOCK:.4f}")
    print(f"local energy: deviation {found.deviations[0]:.3f} at first, {found.deviations[-1]:.3f} at last")
    if options.figure and not draw(found, options.figure):
        print("matplotlib is not installed: no figure. pip install 'functrace[examples]'")
    return found


if __name__ == "__main__":
    main()
