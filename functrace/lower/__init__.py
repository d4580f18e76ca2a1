"""Lowering: Program -> JAX callable through public `jax.lax`, and the cache of compiled Programs."""

from functrace.lower.disk import executable
from functrace.lower.evaluate import evaluate
from functrace.lower.execute import clear_caches, execute
from functrace.lower.staging import staged

__all__ = ["clear_caches", "evaluate", "executable", "execute", "staged"]
