"""jax.scipy.integrate, lifted."""

from __future__ import annotations

from jax.scipy import integrate

from functrace.tracing import lift

trapezoid = lift(integrate.trapezoid)
