"""Initialisers: `init = he_normal(); W = init(key, shape, dtype)`. They are `jax.nn.initializers`', lifted.

A weight of shape `[..., fan_in, fan_out]`; the leading axes of a kernel count as its receptive field.

>>> import jax
>>> he_normal()(jax.random.key(0), (64, 32)).shape
(64, 32)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax.nn.initializers as initializers

from functrace.tracing import lift


def _lifted(factory: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        return lift(factory(*args, **kwargs), factory.__name__)

    return make


zeros = lift(initializers.zeros)
ones = lift(initializers.ones)
constant = _lifted(initializers.constant)
normal = _lifted(initializers.normal)
uniform = _lifted(initializers.uniform)
truncated_normal = _lifted(initializers.truncated_normal)
orthogonal = _lifted(initializers.orthogonal)
variance_scaling = _lifted(initializers.variance_scaling)
he_normal = _lifted(initializers.he_normal)
he_uniform = _lifted(initializers.he_uniform)
glorot_normal = _lifted(initializers.glorot_normal)
glorot_uniform = _lifted(initializers.glorot_uniform)
lecun_normal = _lifted(initializers.lecun_normal)
lecun_uniform = _lifted(initializers.lecun_uniform)
xavier_normal = glorot_normal
xavier_uniform = glorot_uniform
