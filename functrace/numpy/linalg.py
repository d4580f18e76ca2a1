"""jax.numpy.linalg, lifted; norms have derivatives where jax.numpy's are 0 / 0."""

from __future__ import annotations

import jax.numpy as jnp

from functrace.tracing import lift
from functrace.tracing.determinants import slogdet as slogdet
from functrace.tracing.norms import matrix_norm as matrix_norm, norm as norm, vector_norm as vector_norm

cholesky = lift(jnp.linalg.cholesky)
cond = lift(jnp.linalg.cond)
cross = lift(jnp.linalg.cross)
det = lift(jnp.linalg.det)
diagonal = lift(jnp.linalg.diagonal)
eig = lift(jnp.linalg.eig)
eigh = lift(jnp.linalg.eigh)
eigvals = lift(jnp.linalg.eigvals)
eigvalsh = lift(jnp.linalg.eigvalsh)
inv = lift(jnp.linalg.inv)
lstsq = lift(jnp.linalg.lstsq)
matmul = lift(jnp.linalg.matmul)
matrix_power = lift(jnp.linalg.matrix_power)
matrix_rank = lift(jnp.linalg.matrix_rank)
matrix_transpose = lift(jnp.linalg.matrix_transpose)
multi_dot = lift(jnp.linalg.multi_dot)
outer = lift(jnp.linalg.outer)
pinv = lift(jnp.linalg.pinv)
qr = lift(jnp.linalg.qr)
solve = lift(jnp.linalg.solve)
svd = lift(jnp.linalg.svd)
svdvals = lift(jnp.linalg.svdvals)
tensordot = lift(jnp.linalg.tensordot)
tensorinv = lift(jnp.linalg.tensorinv)
tensorsolve = lift(jnp.linalg.tensorsolve)
trace = lift(jnp.linalg.trace)
vecdot = lift(jnp.linalg.vecdot)
