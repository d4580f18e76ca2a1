"""Determinants: jax.numpy's, with derivatives that share one inverse."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import tree_util

from functrace.primitives import determinants
from functrace.tracing.lift import lift
from functrace.tracing.trace import record
from functrace.tracing.tracer import Tracer

jax_slogdet = lift(jnp.linalg.slogdet)


@wraps(jnp.linalg.slogdet)
def slogdet(a: Any, *, method: str | None = None) -> Any:
    if type(a) is not Tracer or method is not None or not is_square(a.aval):
        return jax_slogdet(a, method=method)
    return tree_util.tree_unflatten(result_tree(), record(determinants.slogdet, [a]))


def is_square(aval: Any) -> bool:
    """Whether these are square matrices of a dtype that has factorizations."""
    square = aval.ndim >= 2 and aval.shape[-1] == aval.shape[-2] and aval.size
    return bool(square and aval.is_inexact and aval.dtype.itemsize >= 4)


@lru_cache(1)
def result_tree() -> Any:
    """The pair that jax.numpy returns."""
    return tree_util.tree_structure(jax.eval_shape(jnp.linalg.slogdet, jax.ShapeDtypeStruct((1, 1), jnp.float32)))
