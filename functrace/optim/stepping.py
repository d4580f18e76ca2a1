"""The parts of optimizers that turn a direction into a step, with no memory of gradients."""

from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.optim.base import Transformation, real_dtype, transformation
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.optim.norms import leaf_norm

Array = jax.Array
PyTree = Any


class StepState(NamedTuple):
    """State of a part that remembers nothing but its step count and hyper-parameters."""

    step: Array
    hyperparams: Hyperparams


def scale(step_size: Hyperparam) -> Transformation:
    """`step_size * grads`.

    Args:
      step_size: a number, a scalar array or a schedule; hyper-parameter `step_size`.
    Returns:
      A transformation with a `StepState`.

    >>> part = scale(0.5)
    >>> float(part.update(4.0, part.init(0.0))[0])
    2.0
    """
    return _multiplied(Settings("scale", {"step_size": step_size}), "step_size", 1)


def scale_by_learning_rate(learning_rate: Hyperparam, *, flip_sign: bool = True) -> Transformation:
    """`-learning_rate * grads`: from a direction to a step downhill, as the last part of a chain.

    Args:
      learning_rate: a number, a scalar array or a schedule; hyper-parameter `learning_rate`.
      flip_sign: False for a step uphill.
    Returns:
      A transformation with a `StepState`.

    >>> part = scale_by_learning_rate(0.5)
    >>> float(part.update(4.0, part.init(0.0))[0])
    -2.0
    """
    settings = Settings("scale_by_learning_rate", {"learning_rate": learning_rate})
    return _multiplied(settings, "learning_rate", -1 if flip_sign else 1)


def scale_by_trust_ratio(
    min_norm: Hyperparam = 0.0, trust_coefficient: Hyperparam = 1.0, eps: Hyperparam = 0.0
) -> Transformation:
    """Every leaf times `trust_coefficient * |params| / (|grads| + eps)`, or 1 if a norm is 0.

    Args:
      min_norm: norms below it count as it.
      trust_coefficient: a factor.
      eps: added to the norm of the gradients; hyper-parameter `trust_ratio_eps`.
    Returns:
      A transformation with a `StepState`. Its update needs the parameters.
    Raises:
      ArgumentError: a negative `min_norm` or `eps`; no parameters given to `update`.
    Source: You et al., Large batch optimization for deep learning, ICLR (2020).

    >>> part = scale_by_trust_ratio()
    >>> params = fnp.array([3.0, 4.0])
    >>> part.update(fnp.array([0.0, 2.0]), part.init(params), params)[0].tolist()
    [0.0, 5.0]
    """

    def step(grads: PyTree, state: StepState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        def scaled(g: Array, p: Array) -> Array:
            dtype = real_dtype(g)
            floor, coefficient, small = (
                state.hyperparams.cast(name, dtype) for name in ("min_norm", "trust_coefficient", "trust_ratio_eps")
            )
            g_norm = fnp.maximum(leaf_norm(g).value, floor)
            p_norm = fnp.maximum(leaf_norm(p).value.astype(dtype), floor)
            unknown = (g_norm == 0) | (p_norm == 0)
            return g * fnp.where(unknown, 1, coefficient * p_norm / fnp.where(unknown, 1, g_norm + small))

        return tree.map(scaled, grads, params), {}

    given = {"min_norm": min_norm, "trust_coefficient": trust_coefficient, "trust_ratio_eps": eps}
    return transformation(Settings("scale_by_trust_ratio", given), StepState, step, needs_params=True)


def _multiplied(settings: Settings, name: str, sign: int) -> Transformation:
    def step(grads: PyTree, state: StepState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        return tree.map(lambda g: sign * state.hyperparams.cast(name, real_dtype(g)) * g, grads), {}

    return transformation(settings, StepState, step)
