"""jax.scipy.sparse: its iterative solvers, on functrace's own loops."""

from functrace.scipy.sparse import linalg

__all__ = ["linalg"]
