"""Schedule-free training: an average of the parameters in the place of a schedule.

Three sequences: `z` makes the steps, `x` is its weighted average and is evaluated, and gradients are taken at
`y = b1 x + (1 - b1) z`, which are the parameters that are trained. Only y and z are kept.
"""

from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError
from functrace.optim.base import (
    Transformation,
    chain,
    check_part,
    computing_dtype,
    increment,
    optimizer,
    real_dtype,
    update_with,
)
from functrace.optim.checking import as_arrays, check_match, check_state, checked, failure, only_part
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.optim.masks import Mask
from functrace.optim.scaling import scale_by_rms
from functrace.optim.schedules import linear_schedule
from functrace.optim.weight_decay import add_decayed_weights

Array = jax.Array
PyTree = Any


class ScheduleFreeState(NamedTuple):
    """State of `schedule_free`.

    Args:
      step: i32[], updates so far.
      hyperparams: `learning_rate`, `b1`, `weight_lr_power`.
      weight_sum: f32[], of the weights in the average.
      max_lr: f32[], the largest learning rate so far.
      z: the parameters that make the steps, in float32 at least.
      inner: the state of the direction.
    """

    step: Array
    hyperparams: Hyperparams
    weight_sum: Array
    max_lr: Array
    z: PyTree
    inner: PyTree


def schedule_free(
    direction: Transformation, learning_rate: Hyperparam, b1: Hyperparam = 0.9, weight_lr_power: Hyperparam = 2.0
) -> Transformation:
    """Steps along a direction, with an average of the parameters in the place of a schedule and of momentum.

    The parameters that are trained are where gradients are taken; evaluate with those that
    `schedule_free_eval_params(state, params)` gives.

    Args:
      direction: a transformation without a learning rate and without momentum, such as `scale_by_rms(...)`.
      learning_rate: a number, a scalar array or a schedule; best constant after a warm-up.
      b1: how far gradients are taken towards the average, above 0 and up to 1.
      weight_lr_power: a step weighs as the largest learning rate so far to this power.
    Returns:
      A transformation with a `ScheduleFreeState`. Its update needs the parameters.
    Raises:
      ArgumentError: `b1` not above 0 and up to 1, no parameters given to `update`.
    Source: Defazio et al., The road less scheduled, NeurIPS (2024).

    >>> import functrace.optim as optim
    >>> optimizer = schedule_free(optim.scale(1.0), learning_rate=1.0, b1=0.5)
    >>> updates, state = optimizer.update(1.0, optimizer.init(8.0), 8.0)
    >>> float(updates), float(schedule_free_eval_params(state, 8.0 + updates))
    (-1.0, 7.0)
    """
    check_part("schedule_free", "direction", direction)
    if isinstance(b1, int | float) and b1 <= 0:
        raise failure(ArgumentError, f"schedule_free: b1 is {b1}; a number above 0 and up to 1 was expected.")
    given = {"learning_rate": learning_rate, "b1": b1, "weight_lr_power": weight_lr_power}
    settings = Settings("schedule_free", given, decays=("b1",))

    def init(params: PyTree) -> ScheduleFreeState:
        params = as_arrays("schedule_free", "parameter", params)
        z = tree.map(lambda p: p.astype(computing_dtype(p)), params)
        hyper = settings.initial()
        zero = fnp.zeros((), hyper["learning_rate"].dtype)
        return ScheduleFreeState(fnp.zeros((), fnp.int32), hyper, zero, zero, z, direction.init(params))

    def update(
        grads: PyTree, state: ScheduleFreeState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, ScheduleFreeState]:
        grads, params = checked("schedule_free", grads, params, needs_params=True)
        check_state("schedule_free", state, ScheduleFreeState)
        check_match("schedule_free", "gradients", grads, "parameters given to init", state.z)
        hyper, count = settings.at(state.step, state.hyperparams), increment(state.step)
        # The weight is that of the schedule's next value, as optax's: after a warm-up from 0 they are the same.
        max_lr = fnp.maximum(state.max_lr, settings.at(count, state.hyperparams)["learning_rate"])
        weight = max_lr ** hyper["weight_lr_power"]
        total = state.weight_sum + weight
        share = fnp.where(total == 0, 0, weight / fnp.where(total == 0, 1, total))
        steps, inner_state = update_with(direction, grads, state.inner, params, extra)

        def moved(z: Array, u: Array) -> Array:
            return (z - hyper.cast("learning_rate", real_dtype(z)) * u).astype(z.dtype)

        def next_params(y: Array, z: Array, new_z: Array) -> Array:
            part = share.astype(real_dtype(z))
            x = (1 - part) * _average(hyper, y, z) + part * new_z
            return hyper.cast("b1", part.dtype) * x + hyper.complement("b1", part.dtype) * new_z

        z = tree.map(moved, state.z, steps)
        new_params = tree.map(next_params, params, state.z, z)
        updates = tree.map(lambda new, p, g: (new - p).astype(g.dtype), new_params, params, grads)
        return updates, ScheduleFreeState(count, hyper, total, max_lr, z, inner_state)

    return Transformation(init, update, "schedule_free")


def schedule_free_eval_params(state: PyTree, params: PyTree) -> PyTree:
    """The averaged parameters, to evaluate with.

    Args:
      state: the state of a transformation that has one `schedule_free` in it.
      params: the parameters that are trained with it.
    Returns:
      A pytree like `params`.
    Raises:
      ArgumentError: there is none in the state, or there are several; the parameters are of another
        structure.

    >>> float(schedule_free_eval_params(schedule_free_sgd().init(3.0), 3.0))
    3.0
    """
    part = only_part("schedule_free_eval_params", state, ScheduleFreeState, "schedule_free")
    params = as_arrays("schedule_free_eval_params", "parameter", params)
    check_match("schedule_free_eval_params", "parameters", params, "parameters given to init", part.z)
    return tree.map(lambda y, z: _average(part.hyperparams, y, z).astype(y.dtype), params, part.z)


@optimizer
def schedule_free_sgd(
    learning_rate: Hyperparam = 1.0,
    warmup_steps: int | None = None,
    b1: Hyperparam = 0.9,
    weight_decay: Hyperparam | None = None,
    weight_lr_power: Hyperparam = 2.0,
) -> Transformation:
    """Gradient descent without a schedule.

    Args:
      learning_rate: a number, a scalar array or (without `warmup_steps`) a schedule.
      warmup_steps: steps over which it grows from 0; None for none.
      b1, weight_lr_power: as in `schedule_free`.
      weight_decay: how much of the parameters is added to the gradient; None for none.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `b1`, `weight_lr_power`, `weight_decay`. Its
      update needs the parameters.
    Raises:
      ArgumentError: a number outside of the range of its name.
    Source: Defazio et al., The road less scheduled, NeurIPS (2024).

    >>> optimizer = schedule_free_sgd(0.5)
    >>> float(optimizer.update(4.0, optimizer.init(0.0), 0.0)[0])
    -2.0
    """
    direction = chain(*[] if weight_decay is None else [add_decayed_weights(weight_decay)])
    rate = _warmed_up(learning_rate, warmup_steps)
    return schedule_free(direction, rate, b1, weight_lr_power)


@optimizer
def schedule_free_adamw(
    learning_rate: Hyperparam = 0.0025,
    warmup_steps: int | None = None,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 0.0,
    weight_lr_power: Hyperparam = 2.0,
    mask: Mask = None,
) -> Transformation:
    """AdamW without a schedule: the average of the parameters is in the place of the first moment too.

    Args:
      learning_rate: a number, a scalar array or (without `warmup_steps`) a schedule.
      warmup_steps: steps over which it grows from 0; None for none.
      b1, weight_lr_power: as in `schedule_free`.
      b2, eps, weight_decay, mask: as in `adamw`.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `b1`, `weight_lr_power`, `decay` (b2), `eps`,
      `weight_decay`. Its update needs the parameters.
    Raises:
      ArgumentError: a number outside of the range of its name.
    Source: Defazio et al., The road less scheduled, NeurIPS (2024).

    >>> optimizer = schedule_free_adamw(0.5)
    >>> round(float(optimizer.update(4.0, optimizer.init(0.0), 0.0)[0]), 5)
    -0.5
    """
    scaled = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    direction = chain(scaled, add_decayed_weights(weight_decay, mask))
    rate = _warmed_up(learning_rate, warmup_steps)
    return schedule_free(direction, rate, b1, weight_lr_power)


def _average(hyper: Hyperparams, y: Array, z: Array) -> Array:
    """x, from `y = b1 x + (1 - b1) z`."""
    dtype = real_dtype(z)
    return (y - hyper.complement("b1", dtype) * z) / hyper.cast("b1", dtype)


def _warmed_up(learning_rate: Hyperparam, warmup_steps: int | None) -> Hyperparam:
    if warmup_steps is None:
        return learning_rate
    if callable(learning_rate):
        raise failure(
            ArgumentError, "schedule_free: the learning rate is a schedule; with warmup_steps a number was expected."
        )
    return linear_schedule(0.0, learning_rate, warmup_steps)
