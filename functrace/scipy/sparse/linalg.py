"""jax.scipy.sparse.linalg: linear systems that are known by products with vectors."""

from __future__ import annotations

from functrace.lax.krylov import bicgstab as bicgstab, cg as cg, gmres as gmres

__all__ = ["bicgstab", "cg", "gmres"]
