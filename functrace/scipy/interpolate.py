"""jax.scipy.interpolate, lifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import numpy as jnp
from jax.scipy import interpolate

from functrace.tracing import lift


class RegularGridInterpolator:
    """Interpolation between values on a rectangular grid, at points given later.

    Args:
      points: one strictly increasing array an axis of the grid.
      values: f[n0, n1, ..., ...], the values on the grid.
      method: "linear" or "nearest".
      bounds_error: must be False.
      fill_value: what a point outside the grid gives; None extrapolates.
    """

    def __init__(
        self, points: Sequence[Any], values: Any, method: str = "linear", bounds_error: bool = False,
        fill_value: Any = jnp.nan,
    ):  # fmt: skip
        self.method = method
        self.bounds_error = bounds_error
        self.fill_value = fill_value
        self.grid, self.values = checked_grid(points, values, method, bounds_error, fill_value)

    def __call__(self, xi: Any, method: str | None = None) -> Any:
        """The interpolated values at the points f[..., axes of the grid]."""
        return interpolated(self.grid, self.values, method or self.method, self.bounds_error, self.fill_value, xi)


@lift
def checked_grid(*args: Any) -> Any:
    """The grid and the values as arrays of floating dtype."""
    made = interpolate.RegularGridInterpolator(*args)
    return made.grid, made.values


@lift
def interpolated(points: Any, values: Any, method: str, bounds_error: bool, fill_value: Any, xi: Any) -> Any:
    """Interpolate at `xi`."""
    return interpolate.RegularGridInterpolator(points, values, method, bounds_error, fill_value)(xi)
