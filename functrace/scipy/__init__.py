"""jax.scipy, lifted; iterative solvers, which are functrace's own."""

from functrace.scipy import (
    cluster,
    fft,
    integrate,
    interpolate,
    linalg,
    ndimage,
    signal,
    sparse,
    spatial,
    special,
    stats,
)  # fmt: skip

__all__ = [
    "cluster", "fft", "integrate", "interpolate", "linalg", "ndimage", "signal", "sparse", "spatial", "special",
    "stats",
]  # fmt: skip
