"""jax.scipy.cluster.vq, lifted."""

from __future__ import annotations

from jax.scipy.cluster import vq as jax_vq

from functrace.tracing import lift

vq = lift(jax_vq.vq)
