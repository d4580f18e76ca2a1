"""Exponential moving averages: of gradients, as a part of an optimizer, and of the parameters."""

from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.optim.base import Transformation, apply_updates, increment, real_dtype, transformation
from functrace.optim.checking import as_arrays, check_match, only_part
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Number, Settings
from functrace.optim.scaling import correction, mean, zeros

Array = jax.Array
PyTree = Any


class EmaState(NamedTuple):
    """State of `ema`: the average as it is kept, without its correction."""

    step: Array
    hyperparams: Hyperparams
    ema: PyTree


class ParameterEmaState(NamedTuple):
    """State of `parameter_ema`: the average as it is kept, and (`average`) without the bias of its start."""

    step: Array
    hyperparams: Hyperparams
    ema: PyTree
    average: PyTree


def ema(decay: Hyperparam, debias: bool = True, accumulator_dtype: Any = None) -> Transformation:
    """The moving average `(1 - decay) g + decay ema` of the gradients.

    Args:
      decay: 0 to 1, a number, a scalar array or a schedule.
      debias: correct the average for its start at zero.
      accumulator_dtype: the dtype in which it is kept; by default the parameter's, float32 at least.
    Returns:
      A transformation with an `EmaState`; hyper-parameter `decay`.
    Raises:
      ArgumentError: `decay` outside 0 to 1.

    >>> part = ema(0.5, debias=False)
    >>> _, state = part.update(4.0, part.init(0.0))
    >>> float(part.update(1.0, state)[0])
    1.5
    """

    def step(grads: PyTree, state: EmaState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        average = tree.map(lambda g, old: mean(hyper, "decay", g, old), grads, state.ema)
        return _debiased(average, hyper, "decay", count) if debias else average, {"ema": average}

    return transformation(
        Settings("ema", {"decay": decay}, decays=("decay",)),
        EmaState,
        step,
        lambda params: {"ema": zeros(params, accumulator_dtype)},
        like="ema",
    )


def parameter_ema(decay: Hyperparam, debias: bool = True) -> Transformation:
    """A moving average of the parameters, to evaluate with; the last part of a chain.

    Updates pass through it. `ema_params(state)` is the average of the parameters after each step.

    Args:
      decay: 0 to 1, a number, a scalar array or a schedule; hyper-parameter `ema_decay`.
      debias: start from zero and correct for it, so that the first average is the first
        parameters'; False starts from the parameters given to `init`.
    Returns:
      A transformation with a `ParameterEmaState`. Its update needs the parameters.
    Raises:
      ArgumentError: `decay` outside 0 to 1, no parameters given to `update`.
    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control
      Optim. 30 (1992).

    >>> import functrace.optim as optim
    >>> optimizer = optim.chain(optim.sgd(1.0), optim.parameter_ema(0.5, debias=False))
    >>> updates, state = optimizer.update({"w": 2.0}, optimizer.init({"w": 8.0}), {"w": 8.0})
    >>> float(updates["w"]), float(ema_params(state)["w"])
    (-2.0, 7.0)
    """

    def memory(params: PyTree) -> dict[str, PyTree]:
        start = tree.map(lambda p, zero: p.astype(zero.dtype), params, zeros(params))
        return {"ema": zeros(params) if debias else start, "average": params}

    def step(updates: PyTree, state: ParameterEmaState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        moved = apply_updates(params, updates)
        kept = tree.map(lambda p, old: mean(hyper, "ema_decay", p, old), moved, state.ema)
        average = _debiased(kept, hyper, "ema_decay", count) if debias else kept
        return updates, {"ema": kept, "average": average}

    return transformation(
        Settings("parameter_ema", {"ema_decay": decay}, decays=("ema_decay",)),
        ParameterEmaState,
        step,
        memory,
        like="ema",
        needs_params=True,
    )


def ema_params(state: PyTree) -> PyTree:
    """The moving average that a `parameter_ema` keeps.

    Args:
      state: the state of a transformation that has one `parameter_ema` in it.
    Returns:
      A pytree like the parameters, in their dtypes; before the first update the parameters given to
      `init`.
    Raises:
      ArgumentError: there is none in the state, or there are several.

    >>> float(ema_params(parameter_ema(0.9).init(3.0)))
    3.0
    """
    return only_part("ema_params", state, ParameterEmaState, "parameter_ema").average


def incremental_update(new: PyTree, old: PyTree, step_size: Number) -> PyTree:
    """`step_size * new + (1 - step_size) * old`, each leaf in the dtype of the old one.

    Args:
      new, old: pytrees of arrays, of one structure and shapes.
      step_size: how far to go, 0 to 1.
    Returns:
      A pytree like `old`.
    Raises:
      ArgumentError: structures or shapes differ; the message names the path.

    >>> float(incremental_update({"w": 4.0}, {"w": 0.0}, 0.25)["w"])
    1.0
    """
    new, old = (as_arrays("incremental_update", role, x) for role, x in (("new", new), ("old", old)))
    check_match("incremental_update", "new", new, "old", old)

    def between(n: Array, o: Array) -> Array:
        weight = fnp.asarray(step_size, real_dtype(o))
        return (weight * n + (1 - weight) * o).astype(o.dtype)

    return tree.map(between, new, old)


def _debiased(average: PyTree, hyper: Hyperparams, decay: str, count: Array) -> PyTree:
    return tree.map(lambda m: m / correction(hyper, decay, count, m), average)
