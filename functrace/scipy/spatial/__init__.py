"""jax.scipy.spatial, lifted."""

from functrace.scipy.spatial import transform

__all__ = ["transform"]
