"""Lookahead: fast parameters that are drawn back, every few steps, to slow ones that follow them."""

from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.optim.base import Transformation, check_part, computing_dtype, increment, real_dtype, update_with
from functrace.optim.checking import as_arrays, check_count, check_match, check_state, checked
from functrace.optim.guards import select
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings

Array = jax.Array
PyTree = Any


class LookaheadState(NamedTuple):
    """State of `lookahead`.

    Args:
      step: i32[], updates so far.
      hyperparams: `slow_step_size`.
      steps_since_sync: i32[], 0 to sync_period - 1.
      slow: the slow parameters, in float32 at least; the ones to evaluate with.
      inner: the state of the inner transformation.
    """

    step: Array
    hyperparams: Hyperparams
    steps_since_sync: Array
    slow: PyTree
    inner: PyTree


def lookahead(
    inner: Transformation, sync_period: int, slow_step_size: Hyperparam, reset_state: bool = False
) -> Transformation:
    """`inner`, drawn back every few steps: slow parameters go part of the way, and the fast start there.

    The parameters that are trained are the fast ones; the slow ones are `state.slow`.

    Args:
      inner: the transformation that moves the fast parameters.
      sync_period: steps between two moves of the slow parameters, an integer of 1 or more.
      slow_step_size: which part of the way they go, 0 to 1; a number, a scalar array or a schedule.
      reset_state: start the inner state anew at each of those moves.
    Returns:
      A transformation with a `LookaheadState`. Its update needs the parameters.
    Raises:
      ArgumentError: `sync_period` below 1, `slow_step_size` outside 0 to 1, no parameters given to
        `update`.
    Source: Zhang et al., Lookahead optimizer: k steps forward, 1 step back, NeurIPS (2019).

    >>> import functrace.optim as optim
    >>> optimizer = lookahead(optim.sgd(1.0), sync_period=2, slow_step_size=0.5)
    >>> params, state = 8.0, optimizer.init(8.0)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(1.0, state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> float(params), float(state.slow)
    (7.0, 7.0)
    """
    check_part("lookahead", "inner", inner)
    check_count("lookahead", "sync_period", sync_period)
    settings = Settings("lookahead", {"slow_step_size": slow_step_size})

    def init(params: PyTree) -> LookaheadState:
        params = as_arrays("lookahead", "parameter", params)
        slow = tree.map(lambda p: p.astype(computing_dtype(p)), params)
        zero = fnp.zeros((), fnp.int32)
        return LookaheadState(zero, settings.initial(), zero, slow, inner.init(params))

    def update(
        grads: PyTree, state: LookaheadState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, LookaheadState]:
        grads, params = checked("lookahead", grads, params, needs_params=True)
        check_state("lookahead", state, LookaheadState)
        check_match("lookahead", "gradients", grads, "parameters given to init", state.slow)
        hyper = settings.at(state.step, state.hyperparams)
        updates, inner_state = update_with(inner, grads, state.inner, params, extra)
        is_sync = state.steps_since_sync == sync_period - 1

        def ahead(p: Array, u: Array, slow: Array) -> Array:
            return slow + hyper.cast("slow_step_size", real_dtype(slow)) * (p + u - slow)

        moved = tree.map(ahead, params, updates, state.slow)
        drawn_back = tree.map(lambda m, p, u: (m - p).astype(u.dtype), moved, params, updates)
        if reset_state:
            inner_state = select(is_sync, inner.init(params), inner_state)
        return select(is_sync, drawn_back, updates), LookaheadState(
            step=increment(state.step),
            hyperparams=hyper,
            steps_since_sync=fnp.where(is_sync, 0, increment(state.steps_since_sync)),
            slow=select(is_sync, moved, state.slow),
            inner=inner_state,
        )

    return Transformation(init, update, "lookahead")
