"""jax.scipy.cluster, lifted."""

from functrace.scipy.cluster import vq

__all__ = ["vq"]
