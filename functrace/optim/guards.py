"""Around a transformation: several gradients to one step, and no step on a bad gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError
from functrace.optim.base import Transformation, check_part, computing_dtype, increment, update_with
from functrace.optim.checking import as_arrays, check_count, check_match, check_structure, failure
from functrace.optim.clipping import any_of

Array = jax.Array
PyTree = Any


class AccumulateState(NamedTuple):
    """State of `accumulate`.

    Args:
      mini_step: i32[], gradients in `mean` so far, 0 to k - 1.
      gradient_step: i32[], steps that the inner transformation has made.
      inner: its state.
      mean: the mean of those gradients, in float32 at least.
    """

    mini_step: Array
    gradient_step: Array
    inner: PyTree
    mean: PyTree


class SkipState(NamedTuple):
    """State of `skip_nonfinite`.

    Args:
      total: i32[], steps skipped so far.
      consecutive: i32[], of them, those since the last good one.
      nonfinite: bool[] a leaf: whether the last gradient had an Inf or NaN.
      inner: the state of the inner transformation.
    """

    total: Array
    consecutive: Array
    nonfinite: PyTree
    inner: PyTree


def accumulate(inner: Transformation, k: int | Callable[[Array], Any]) -> Transformation:
    """One step of `inner` for every k gradients, on their mean; updates are zero in between.

    The same as optax's `MultiSteps`: k batches of n give the step of one batch of k n.

    Args:
      inner: any transformation.
      k: how many, or a function that gives it from the number of steps made.
    Returns:
      A transformation with an `AccumulateState`.
    Raises:
      ArgumentError: k is less than 1 or not an integer.

    >>> import functrace.optim as optim
    >>> optimizer = accumulate(optim.sgd(1.0), k=2)
    >>> state = optimizer.init(0.0)
    >>> first, state = optimizer.update(1.0, state)
    >>> second, state = optimizer.update(3.0, state)
    >>> float(first), float(second)
    (0.0, -2.0)
    """
    check_part("accumulate", "inner", inner)
    if not callable(k):
        check_count("accumulate", "k", k)

    def init(params: PyTree) -> AccumulateState:
        arrays = as_arrays("accumulate", "parameter", params)
        zero = fnp.zeros((), fnp.int32)
        mean = tree.map(lambda p: fnp.zeros(p.shape, computing_dtype(p)), arrays)
        return AccumulateState(zero, zero, inner.init(params), mean)

    def update(
        grads: PyTree, state: AccumulateState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, AccumulateState]:
        grads = as_arrays("accumulate", "gradient", grads)
        check_match("accumulate", "gradients", grads, "parameters given to init", state.mean)
        wanted = k(state.gradient_step) if callable(k) else k
        number = increment(state.mini_step)
        mean = tree.map(
            lambda m, g: (m + (g - m) / number.astype(fnp.float32)).astype(m.dtype),
            state.mean,
            grads,
        )
        averaged = tree.map(lambda m, g: m.astype(g.dtype), mean, grads)
        updates, stepped = update_with(inner, averaged, state.inner, params, extra)
        is_step = number >= wanted
        new_state = AccumulateState(
            mini_step=fnp.where(is_step, 0, number),
            gradient_step=fnp.where(is_step, increment(state.gradient_step), state.gradient_step),
            inner=select(is_step, stepped, state.inner),
            mean=tree.map(lambda m: fnp.where(is_step, 0, m), mean),
        )
        return tree.map(lambda u: fnp.where(is_step, u, 0), updates), new_state

    return Transformation(init, update, "accumulate")


def skip_nonfinite(inner: Transformation, max_consecutive: int | None = None) -> Transformation:
    """`inner`, standing still when a gradient has an Inf or NaN.

    Updates are then zero, the inner state stays as it was, and the step is counted.

    Args:
      inner: any transformation.
      max_consecutive: after this many skipped steps in a row, the next is let through as it is, so
        that a run that is past saving fails where it can be seen. None: never.
    Returns:
      A transformation with a `SkipState`.
    Raises:
      ArgumentError: a negative `max_consecutive`.

    >>> import functrace.optim as optim
    >>> optimizer = skip_nonfinite(optim.sgd(1.0))
    >>> updates, state = optimizer.update({"w": float("nan")}, optimizer.init({"w": 0.0}))
    >>> float(updates["w"]), int(state.total)
    (0.0, 1)
    """
    check_part("skip_nonfinite", "inner", inner)
    if max_consecutive is not None and max_consecutive < 0:
        raise failure(ArgumentError, f"skip_nonfinite: max_consecutive is {max_consecutive}; it must be zero or more.")

    def init(params: PyTree) -> SkipState:
        zero = fnp.zeros((), fnp.int32)
        return SkipState(zero, zero, tree.map(lambda _: fnp.zeros((), bool), params), inner.init(params))

    def update(grads: PyTree, state: SkipState, params: PyTree = None, **extra: Any) -> tuple[PyTree, SkipState]:
        grads = as_arrays("skip_nonfinite", "gradient", grads)
        nonfinite = tree.map(lambda g: ~fnp.all(fnp.isfinite(g)), grads)
        check_structure("skip_nonfinite", "gradients", grads, "parameters given to init", state.nonfinite)
        is_bad = any_of(nonfinite)
        consecutive = fnp.where(is_bad, increment(state.consecutive), 0)
        skip = is_bad if max_consecutive is None else is_bad & (consecutive <= max_consecutive)
        # Where its result is not used, inner sees zeros: debug_nans and derivatives stay quiet.
        safe = tree.map(lambda g: fnp.where(skip, 0, g), grads)
        updates, stepped = update_with(inner, safe, state.inner, params, extra)
        new_state = SkipState(
            total=fnp.where(is_bad, increment(state.total), state.total),
            consecutive=consecutive,
            nonfinite=nonfinite,
            inner=select(skip, state.inner, stepped),
        )
        return tree.map(lambda u: fnp.where(skip, 0, u), updates), new_state

    return Transformation(init, update, "skip_nonfinite")


def select(condition: Array, chosen: PyTree, otherwise: PyTree) -> PyTree:
    """One pytree or another of the same structure, by a boolean scalar."""
    return tree.map(lambda a, b: fnp.where(condition, a, b), chosen, otherwise)
