"""jax.scipy, lifted."""

from functrace.scipy import cluster, fft, integrate, interpolate, linalg, ndimage, signal, spatial, special, stats

__all__ = [
    "cluster", "fft", "integrate", "interpolate", "linalg", "ndimage", "signal", "spatial", "special", "stats",
]  # fmt: skip
