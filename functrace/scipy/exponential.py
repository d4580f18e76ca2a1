"""Functions of exponentials and logarithms with derivatives of their own."""

from __future__ import annotations

from functools import wraps
from typing import Any

from jax import lax, numpy as jnp
from jax.scipy import special

from functrace.primitives.selection import Whole
from functrace.tracing import Tracer, lift
from functrace.tracing.binding import bind
from functrace.transforms import custom_jvp

exp = lift(lax.exp)
log = lift(jnp.log)
log1p = lift(jnp.log1p)
where = lift(jnp.where)
from_jax_exp1 = lift(special.exp1)
from_jax_logsumexp = lift(special.logsumexp)
from_jax_xlog1py = lift(special.xlog1py)
from_jax_xlogy = lift(special.xlogy)


def shifted_sum(a: Any, axis: Any, keepdims: bool, where: Any) -> tuple[Any, Any]:
    """The sum of exponentials of which the largest is 1, and the shift that makes it so."""
    a = jnp.asarray(a)
    largest = lax.stop_gradient(jnp.max(a, axis, keepdims=True, initial=-jnp.inf, where=where))
    shift = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.exp(a - shift), axis, keepdims=keepdims, where=where)
    return total, shift.reshape(total.shape)


def shifted_log(total: Any, shift: Any) -> Any:
    """The log of that, which is not differentiated where nothing is summed but zeros."""
    is_zero = total == 0
    return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1, total)) + shift).astype(total.dtype)


lifted_sum, lifted_log = lift(shifted_sum, "logsumexp"), lift(shifted_log, "logsumexp")


@wraps(special.logsumexp)
def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False, where: Any = None
) -> Any:
    # JAX's derivative is 0 / 0 where all of a row is -inf; here it is 0.
    real = getattr(getattr(a, "dtype", None), "kind", "f") in "fV"
    if b is not None or return_sign or not real:
        return from_jax_logsumexp(a, axis, b, keepdims, return_sign, where)
    total, shift = lifted_sum(a, axis, keepdims, where)
    # The log is asked about 1 where nothing is summed, so that no mask has to go on to what comes before.
    return lifted_log(bind(Whole(), total) if type(total) is Tracer else total, shift)


@custom_jvp
def exp1(x: Any) -> Any:
    """The exponential integral E1, as jax.scipy.special.exp1.

    >>> round(float(exp1(1.0)), 4)
    0.2194
    """
    return from_jax_exp1(x)


# Its rule in JAX holds a value of the trace that made it, so that it works once.
exp1.defjvps(lambda dx, y, x: -dx * exp(-x) / x)


@custom_jvp
def xlogy(x: Any, y: Any) -> Any:
    """x * log(y), and 0 where x is 0, as jax.scipy.special.xlogy.

    Where both are 0 its derivative in y is 0, as it is along all of x = 0; JAX's is 0 / 0. The one in x is log(y)
    everywhere, so that the slope of `xlogy(x, x)` at 0 is -inf, which is that of x log(x).

    >>> from functrace import grad
    >>> float(xlogy(0.0, 0.0)), float(grad(xlogy, 1)(0.0, 0.0)), float(grad(lambda x: xlogy(x, x))(0.0))
    (0.0, 0.0, -inf)
    """
    return from_jax_xlogy(x, y)


@custom_jvp
def xlog1py(x: Any, y: Any) -> Any:
    """x * log(1 + y), and 0 where x is 0, as jax.scipy.special.xlog1py; its derivatives are as those of `xlogy`.

    >>> from functrace import grad
    >>> float(xlog1py(0.0, -1.0)), float(grad(xlog1py, 1)(0.0, -1.0))
    (0.0, 0.0)
    """
    return from_jax_xlog1py(x, y)


def quotient(x: Any, y: Any) -> Any:
    """x / y, and 0 where both are 0."""
    return x / where((x == 0) & (y == 0), 1, y)


# In the result's dtype, which mixed operands do not have.
xlogy.defjvps(
    lambda dx, z, x, y: dx * log(y.astype(z.dtype)),
    lambda dy, z, x, y: dy * quotient(x.astype(z.dtype), y.astype(z.dtype)),
)
xlog1py.defjvps(
    lambda dx, z, x, y: dx * log1p(y.astype(z.dtype)),
    lambda dy, z, x, y: dy * quotient(x.astype(z.dtype), 1 + y.astype(z.dtype)),
)
