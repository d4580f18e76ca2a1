"""Dynamic loss scaling: small gradients kept from vanishing in float16.

The loss is multiplied before it is differentiated, and its gradients divided by the same before
they are used. The factor is as large as it can be: where a gradient overflows, the step is left out
and the factor lowered; after many good steps it is raised. bfloat16 has the range of float32 and
needs none of this.
"""

from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.optim.base import Transformation, check_part, computing_dtype, increment
from functrace.optim.checking import as_arrays, check_count, check_state, only_part
from functrace.optim.guards import SkipState, skip_nonfinite
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings

Array = jax.Array
PyTree = Any


class LossScaleState(NamedTuple):
    """State of `dynamic_loss_scale`.

    Args:
      step: i32[], updates so far, skipped ones among them.
      hyperparams: factors and bounds.
      scale: f32[], what the next loss is to be multiplied by.
      good_steps: i32[], steps without overflow since it last changed.
      inner: of the inner transformation within `skip_nonfinite`, with the count of skipped steps.
    """

    step: Array
    hyperparams: Hyperparams
    scale: Array
    good_steps: Array
    inner: SkipState


def dynamic_loss_scale(
    inner: Transformation,
    initial_scale: Hyperparam = 2.0**16,
    growth_factor: Hyperparam = 2.0,
    backoff_factor: Hyperparam = 0.5,
    growth_interval: int = 2000,
    min_scale: Hyperparam = 1.0,
) -> Transformation:
    """`inner` on gradients of a scaled loss, standing still where they overflow.

    The loss is scaled by `scale_loss(loss, state)`. Updates are made of gradients divided by the same, in float32 at
    least; where one has an Inf or NaN, updates are zero, the inner state stays as it was, and the scale is lowered.

    Args:
      inner: any transformation.
      initial_scale: the scale to start from.
      growth_factor: what the scale is multiplied by after `growth_interval` steps without overflow.
      backoff_factor: what it is multiplied by after an overflow, 0 to 1.
      growth_interval: an integer of 1 or more.
      min_scale: the scale is not lowered below it.
    Returns:
      A transformation with a `LossScaleState`; hyper-parameters the factors and `min_scale`.
    Raises:
      ArgumentError: a number that is negative, a `backoff_factor` above 1, a `growth_interval` below 1.
    Source: Micikevicius et al., Mixed precision training, ICLR (2018). Defaults and numerics are those of
      PyTorch's GradScaler, which has no `min_scale`.

    >>> import functrace as ft, functrace.optim as optim
    >>> optimizer = optim.dynamic_loss_scale(optim.sgd(0.5), initial_scale=1024.0)
    >>> state = optimizer.init({"w": 4.0})
    >>> grads = ft.grad(lambda p: optim.scale_loss(p["w"] ** 2, state))({"w": 4.0})
    >>> updates, state = optimizer.update(grads, state)
    >>> float(grads["w"]), float(updates["w"])
    (8192.0, -4.0)
    """
    check_part("dynamic_loss_scale", "inner", inner)
    check_count("dynamic_loss_scale", "growth_interval", growth_interval)
    held = skip_nonfinite(inner)
    given = {"growth_factor": growth_factor, "backoff_factor": backoff_factor, "min_scale": min_scale}
    settings = Settings("dynamic_loss_scale", given)
    first = Settings("dynamic_loss_scale", {"initial_scale": initial_scale})

    def init(params: PyTree) -> LossScaleState:
        scale = first.initial()["initial_scale"].astype(fnp.float32)
        zero = fnp.zeros((), fnp.int32)
        return LossScaleState(zero, settings.initial(), scale, zero, held.init(params))

    def update(
        grads: PyTree, state: LossScaleState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, LossScaleState]:
        grads = as_arrays("dynamic_loss_scale", "gradient", grads)
        check_state("dynamic_loss_scale", state, LossScaleState)
        hyper = settings.at(state.step, state.hyperparams)
        unscaled = tree.map(lambda g: (g.astype(computing_dtype(g)) / state.scale).astype(computing_dtype(g)), grads)
        updates, inner_state = held.update(unscaled, state.inner, params, **extra)
        is_bad = inner_state.consecutive > 0
        good_steps = fnp.where(is_bad, 0, increment(state.good_steps))
        lowered = fnp.maximum(state.scale * hyper["backoff_factor"], hyper["min_scale"])
        raised = state.scale * hyper["growth_factor"]
        grows = (good_steps >= growth_interval) & fnp.isfinite(raised)
        scale = fnp.where(is_bad, lowered, fnp.where(grows, raised, state.scale))
        return updates, LossScaleState(
            step=increment(state.step),
            hyperparams=hyper,
            scale=scale.astype(state.scale.dtype),
            good_steps=fnp.where(good_steps >= growth_interval, 0, good_steps),
            inner=inner_state,
        )

    return Transformation(init, update, "dynamic_loss_scale")


def scale_loss(loss: Array, state: PyTree) -> Array:
    """The loss times the scale that a `dynamic_loss_scale` is at; to be differentiated in its place.

    Args:
      loss: an array of any floating dtype.
      state: the state of a transformation that has one `dynamic_loss_scale` in it.
    Returns:
      An array of the loss's shape, float32 at least.
    Raises:
      ArgumentError: there is none in the state, or there are several.

    >>> import functrace.optim as optim
    >>> float(scale_loss(0.5, optim.dynamic_loss_scale(optim.sgd(0.1)).init(1.0)))
    32768.0
    """
    scale = loss_scale(state)
    loss = fnp.asarray(loss)
    return loss.astype(computing_dtype(loss)) * scale


def loss_scale(state: PyTree) -> Array:
    """The scale that a `dynamic_loss_scale` is at: f32[], to divide a scaled loss by before it is logged.

    Args:
      state: the state of a transformation that has one `dynamic_loss_scale` in it.
    Raises:
      ArgumentError: there is none in the state, or there are several.

    >>> import functrace.optim as optim
    >>> float(loss_scale(optim.dynamic_loss_scale(optim.sgd(0.1)).init(1.0)))
    65536.0
    """
    return only_part("loss_scale", state, LossScaleState, "dynamic_loss_scale").scale
