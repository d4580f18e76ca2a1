"""jax.lax's reductions and updates by a function of scalars, lifted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax import lax, tree_util

from functrace.ir import Literal
from functrace.tracing import Tracer, lift

lifted_reduce = lift(lax.reduce)
lifted_reduce_window = lift(lax.reduce_window)
LIFTED = lift(lax.add).__code__


def jax_computation(computation: Callable[..., Any]) -> Callable[..., Any]:
    """The jax function that a lifted one stands for: jax.lax knows its own add, max, ... and their derivatives."""
    return computation.__wrapped__ if getattr(computation, "__code__", None) is LIFTED else computation


def initial(x: Any) -> Any:
    """An initial value as a NumPy scalar, if it is constant: jax.lax knows a sum by its 0, a maximum by its -inf."""
    if type(x) is Tracer:
        return x.atom.value if type(x.atom) is Literal else x
    is_constant = isinstance(x, np.ndarray | jax.Array) and not isinstance(x, jax.core.Tracer)
    return np.asarray(x)[()] if is_constant else x


def reduce(
    operands: Any, init_values: Any, computation: Callable[..., Any], dimensions: Sequence[int], **kwargs: Any
) -> Any:
    """`operands` combined over the axes `dimensions` by an associative `computation` of two scalars."""
    start = tree_util.tree_map(initial, init_values)
    return lifted_reduce(operands, start, jax_computation(computation), tuple(dimensions), **kwargs)


def reduce_window(
    operand: Any, init_value: Any, computation: Callable[..., Any], window_dimensions: Sequence[int],
    window_strides: Sequence[int] | None = None, padding: Any = "VALID", base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> Any:  # fmt: skip
    """The entries in every window of `operand` combined by an associative `computation` of two scalars.

    Sums from 0, maxima from -inf and minima from inf have derivatives and batches, also where windows have gaps; others
    have values alone, as in JAX. XLA may combine `init_value` any number of times, so that only one which changes
    nothing has a derivative: for another, `lax.max(init, lax.reduce_window(x, -np.inf, lax.max, ...))`.
    """
    options = (window_dimensions, window_strides, padding, base_dilation, window_dilation)
    start = tree_util.tree_map(initial, init_value)
    return lifted_reduce_window(operand, start, jax_computation(computation), *options)
