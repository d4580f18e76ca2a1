"""Newton's method for the Bratu problem, a nonlinear equation on a square, with a sparse Jacobian.

    laplacian(u) + strength * exp(u) = 0,  u = 0 on the boundary

A step solves J du = -r. J has five entries a row whatever the size of the grid: six or seven pushforwards give it.

    python examples/sparse_newton.py --size 100 --figure bratu.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy.sparse.linalg import spsolve

import functrace as ft
from functrace import numpy as fnp


def residual(u: Any, strength: float) -> Any:
    """What the equation leaves over, on the inner points of a grid over the unit square."""
    h = 1.0 / (u.shape[0] + 1)
    v = fnp.pad(u, ((1, 1), (1, 1)))
    neighbours = v[2:, 1:-1] + v[:-2, 1:-1] + v[1:-1, 2:] + v[1:-1, :-2]
    return neighbours - 4 * u + h**2 * strength * fnp.exp(u)


def solve(size: int, strength: float, steps: int = 20) -> tuple[np.ndarray[Any, Any], list[float]]:
    """The solution, and the size of the residual before each step."""
    jacobian = ft.jacobian(residual, sparse=True, format="scipy")
    value = ft.jit(residual)
    u, norms = np.zeros((size, size)), []
    for _ in range(steps):
        r = np.asarray(value(u, strength))
        norms.append(float(np.abs(r).max()))
        if norms[-1] < 1e-12:
            break
        u = u - spsolve(jacobian(u, strength).tocsc(), r.ravel()).reshape(u.shape)
    return u, norms


def draw(u: np.ndarray[Any, Any], norms: list[float], pattern: Any, path: str) -> None:
    """The solution, the residual step by step, and the pattern of a corner of the Jacobian."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figure.colorbar(left.imshow(u, extent=(0, 1, 0, 1), origin="lower"), ax=left)
    left.set(title="u")
    middle.semilogy(norms, "o-")
    middle.set(title="largest residual", xlabel="Newton step")
    n = min(3 * u.shape[0], pattern.shape[0])
    right.spy(pattern[:n, :n], markersize=1)
    right.set(title="pattern of J, its first rows")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> tuple[np.ndarray[Any, Any], list[float]]:
    """Solve, print, draw: the solution, and the residual step by step."""
    parser = argparse.ArgumentParser(
        prog="sparse_newton", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100, help="inner points along a side")
    parser.add_argument("--strength", type=float, default=6.0, help="below 6.81 there is a solution")
    parser.add_argument("--figure", default=None, help="where to save a picture")
    options = parser.parse_args(arguments)
    with jax.enable_x64(True):
        found = ft.sparsity(residual)(np.zeros((options.size, options.size)), options.strength)
        print(f"J: {found}")
        u, norms = solve(options.size, options.strength)
    for step, norm in enumerate(norms):
        print(f"step {step}: largest residual {norm:.1e}")
    print(f"greatest value {u.max():.6f}")
    if options.figure:
        draw(u, norms, found.pattern, options.figure)
    return u, norms


if __name__ == "__main__":
    main()
