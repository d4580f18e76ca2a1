"""jax.lax's reductions and updates by a function of scalars, lifted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

from functrace.tracing import lift

lifted_reduce = lift(lax.reduce)
lifted_reduce_window = lift(lax.reduce_window)
LIFTED = lift(lax.add).__code__


def jax_computation(computation: Callable[..., Any]) -> Callable[..., Any]:
    """The jax function that a lifted one stands for: jax.lax knows its own add, max, ... and their derivatives."""
    return computation.__wrapped__ if getattr(computation, "__code__", None) is LIFTED else computation


def reduce(
    operands: Any, init_values: Any, computation: Callable[..., Any], dimensions: Sequence[int], **kwargs: Any
) -> Any:
    """`operands` combined over the axes `dimensions` by an associative `computation` of two scalars."""
    return lifted_reduce(operands, init_values, jax_computation(computation), tuple(dimensions), **kwargs)


def reduce_window(
    operand: Any, init_value: Any, computation: Callable[..., Any], window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None, padding: Any = "VALID", base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> Any:  # fmt: skip
    """The entries in every window of `operand` combined by an associative `computation` of two scalars."""
    options = (window_dimensions, window_strides, padding, base_dilation, window_dilation)
    return lifted_reduce_window(operand, init_value, jax_computation(computation), *options)
