"""Numerical derivatives: central differences of fourth order, with the rounding error that may be in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

# The step: what differences of fourth order leave out and what they round off are both near 1e-12, or near 1e-5.
EPS = {np.dtype(np.float64): 1e-4, np.dtype(np.float32): 1e-2}
TOLERANCE = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 2e-3}


class Settings(NamedTuple):
    """Who checks, which derivative, and how closely."""

    caller: str
    modes: tuple[str, ...]  # of the derivative under test, the last one applied last
    atol: float
    rtol: float
    eps: float
    unit: float  # the rounding error of 1 in the coarsest dtype

    @property
    def where(self) -> str:
        """`check_grads: order 2, rev of fwd`."""
        return f"{self.caller}: order {len(self.modes)}, {' of '.join(reversed(self.modes))}"


class Point(NamedTuple):
    """A function of a list of arrays to such a list, its arguments, and names of all leaves."""

    fun: Callable[[list[Any]], list[Any]]
    xs: list[Any]
    inputs: list[str]
    outputs: list[str]
    dtype: Any  # float64, or float32 if a leaf is in single precision


class Directional(NamedTuple):
    """The numerical derivative of each output, and the rounding error that may be in it."""

    dys: list[Any]
    noise: list[float]


def directional(point: Point, dxs: list[Any], settings: Settings, eps: float | None = None) -> Directional:
    """Differences over one step and over two, extrapolated: what is left out is of order eps^4."""
    eps = settings.eps if eps is None else eps
    near, far = ([moved(point, dxs, h), moved(point, dxs, -h)] for h in (eps, 2 * eps))
    with np.errstate(invalid="ignore"):  # of infinities there is no derivative: NaN
        dys = [
            (4 * (up - down) / (2 * eps) - (far_up - far_down) / (4 * eps)) / 3
            for up, down, far_up, far_down in zip(*near, *far, strict=True)
        ]
    largest = [np.max(np.abs(y), initial=0.0, where=np.isfinite(y)) for y in near[0]]
    return Directional(dys, [16 * settings.unit / eps * size for size in largest])


def moved(point: Point, dxs: list[Any], h: float) -> list[Any]:
    """The outputs at h times a direction from the point, in double precision."""
    xs = [as_array((np.asarray(x) + h * dx).astype(x.dtype)) for x, dx in zip(point.xs, dxs, strict=True)]
    return [widened(y) for y in point.fun(xs)]


def widened(y: Any) -> Any:
    """The array in double precision."""
    y = np.asarray(y)
    return y.astype(np.promote_types(y.dtype, np.float64))


def steps(point: Point, dxs: list[Any], settings: Settings) -> str:
    """What to add to a message where the numerical derivative depends on the step."""
    here, half = (directional(point, dxs, settings, eps) for eps in (settings.eps, settings.eps / 2))
    for name, dy, other, noise in zip(point.outputs, here.dys, half.dys, half.noise, strict=True):
        change = np.max(np.abs(dy - other), initial=0.0)
        if not change <= settings.atol + settings.rtol * np.max(np.abs(dy), initial=0.0) + noise:
            return (
                f" The numerical derivative of {name} changes by {change:.3g} when its step is halved: the function is "
                f"not smooth here, or eps={settings.eps:g} is too large."
            )
    return ""


def pairing(ct: Any, dx: Any) -> Any:
    """The terms of a cotangent applied to a tangent; complex numbers as pairs of reals, zero of zero and NaN."""
    ct, dx = np.asarray(ct), np.asarray(dx)
    with np.errstate(invalid="ignore"):
        return np.where((ct == 0) | (dx == 0), 0.0, np.real(ct * dx))


def draw(like: Sequence[Any], seed: tuple[int, int]) -> list[Any]:
    """A random direction in the space of some arrays, no entry near zero."""
    rng = np.random.default_rng(seed)

    def signed(shape: Any) -> Any:
        return rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape)

    def direction(x: Any) -> Any:
        x = np.asarray(x)
        parts = signed(x.shape) + 1j * signed(x.shape) if np.iscomplexobj(x) else signed(x.shape)
        return np.asarray(parts, x.dtype)

    return [direction(x) for x in like]


def as_array(x: Any) -> Any:
    """What the function is called with."""
    return jax.numpy.asarray(x)
