"""Functions of exponentials with derivatives of their own: log of a sum of them, and the exponential integral."""

from __future__ import annotations

from functools import wraps
from typing import Any

from jax import lax, numpy as jnp
from jax.scipy import special

from functrace.tracing import lift
from functrace.transforms import custom_jvp

exp = lift(lax.exp)
from_jax_exp1 = lift(special.exp1)
from_jax_logsumexp = lift(special.logsumexp)


def shifted_logsumexp(a: Any, axis: Any, keepdims: bool, where: Any) -> Any:
    """The log of a sum of exponentials, which is not differentiated where nothing is summed but zeros."""
    a = jnp.asarray(a)
    largest = lax.stop_gradient(jnp.max(a, axis, keepdims=True, initial=-jnp.inf, where=where))
    shift = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.exp(a - shift), axis, keepdims=keepdims, where=where)
    shift = shift.reshape(total.shape)
    return jnp.where(total == 0, -jnp.inf, jnp.log(total) + shift).astype(total.dtype)


lifted_logsumexp = lift(shifted_logsumexp, "logsumexp")


@wraps(special.logsumexp)
def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False, where: Any = None
) -> Any:
    # JAX's derivative is 0 / 0 where all of a row is -inf; here it is 0.
    real = getattr(getattr(a, "dtype", None), "kind", "f") in "fV"
    if b is not None or return_sign or not real:
        return from_jax_logsumexp(a, axis, b, keepdims, return_sign, where)
    return lifted_logsumexp(a, axis, keepdims, where)


@custom_jvp
def exp1(x: Any) -> Any:
    """The exponential integral E1, as jax.scipy.special.exp1.

    >>> round(float(exp1(1.0)), 4)
    0.2194
    """
    return from_jax_exp1(x)


# Its rule in JAX holds a value of the trace that made it, so that it works once.
exp1.defjvps(lambda dx, y, x: -dx * exp(-x) / x)
