"""jax.lax.linalg, lifted."""

from __future__ import annotations

from jax.lax import linalg

from functrace.tracing import lift

EigImplementation = linalg.EigImplementation
EighImplementation = linalg.EighImplementation
SvdAlgorithm = linalg.SvdAlgorithm

cholesky = lift(linalg.cholesky)
cholesky_update = lift(linalg.cholesky_update)
eig = lift(linalg.eig)
eigh = lift(linalg.eigh)
hessenberg = lift(linalg.hessenberg)
householder_product = lift(linalg.householder_product)
lu = lift(linalg.lu)
lu_pivots_to_permutation = lift(linalg.lu_pivots_to_permutation)
ormqr = lift(linalg.ormqr)
qdwh = lift(linalg.qdwh)
qr = lift(linalg.qr)
schur = lift(linalg.schur)
svd = lift(linalg.svd)
symmetric_product = lift(linalg.symmetric_product)
triangular_solve = lift(linalg.triangular_solve)
tridiagonal = lift(linalg.tridiagonal)
tridiagonal_solve = lift(linalg.tridiagonal_solve)
