"""jax.scipy, lifted."""

from functrace.scipy import linalg, special

__all__ = ["linalg", "special"]
