"""jax.scipy.ndimage, lifted."""

from __future__ import annotations

from jax.scipy import ndimage

from functrace.tracing import lift

map_coordinates = lift(ndimage.map_coordinates)
