"""Lowering: Program -> JAX callable through public `jax.lax`, and the cache of compiled Programs."""

from functrace.lower.evaluate import evaluate
from functrace.lower.execute import clear_caches, execute
from functrace.lower.fusion import kept

__all__ = ["clear_caches", "evaluate", "execute", "kept"]
