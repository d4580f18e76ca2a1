"""Lowering: Program -> JAX callable through public `jax.lax`, and the cache of compiled Programs."""

from functrace.lower.disk import executable
from functrace.lower.evaluate import evaluate
from functrace.lower.execute import execute
from functrace.lower.staging import staged

__all__ = ["evaluate", "executable", "execute", "staged"]
