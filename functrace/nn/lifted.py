"""Functions of `jax.nn` that are right as they stand, recorded inside transforms."""

import jax.nn

from functrace.tracing import lift

dot_product_attention = lift(jax.nn.dot_product_attention)
identity = lift(jax.nn.identity)
log1mexp = lift(jax.nn.log1mexp)
logmeanexp = lift(jax.nn.logmeanexp)
sparse_plus = lift(jax.nn.sparse_plus)
sparse_sigmoid = lift(jax.nn.sparse_sigmoid)
squareplus = lift(jax.nn.squareplus)
tanh = lift(jax.nn.tanh)
