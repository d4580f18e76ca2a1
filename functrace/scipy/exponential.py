"""The exponential integral, with a derivative of its own."""

from __future__ import annotations

from typing import Any

from jax import lax
from jax.scipy import special

from functrace.tracing import lift
from functrace.transforms import custom_jvp

exp = lift(lax.exp)
from_jax_exp1 = lift(special.exp1)


@custom_jvp
def exp1(x: Any) -> Any:
    """The exponential integral E1, as jax.scipy.special.exp1.

    >>> round(float(exp1(1.0)), 4)
    0.2194
    """
    return from_jax_exp1(x)


# Its rule in JAX holds a value of the trace that made it, so that it works once.
exp1.defjvps(lambda dx, y, x: -dx * exp(-x) / x)
