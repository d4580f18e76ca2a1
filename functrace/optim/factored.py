"""Adafactor's second moments: of a large matrix only the means of rows and columns are kept."""

from typing import Any, NamedTuple

import jax
import numpy as onp

from functrace import numpy as fnp, tree
from functrace.optim.base import Transformation, real_dtype, transformation
from functrace.optim.checking import check_count, check_match
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.optim.norms import leaf_norm
from functrace.optim.scaling import squared
from functrace.optim.stepping import StepState

Array = jax.Array
PyTree = Any


class FactoredState(NamedTuple):
    """State of `scale_by_factored_rms`; every field is of the parameters' structure.

    Args:
      v_row, v_col: mean squares of the rows and columns of a factored leaf, else zeros of shape (1,).
      v: mean squares of the elements of a leaf that is not factored, else zeros of shape (1,).
    """

    step: Array
    hyperparams: Hyperparams
    v_row: PyTree
    v_col: PyTree
    v: PyTree


def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Hyperparam = 0.8,
    step_offset: Hyperparam = 0,
    min_dim_size_to_factor: int = 128,
    eps: Hyperparam = 1e-30,
) -> Transformation:
    """Adafactor's direction: gradients over the root of a mean square that is a product of means.

    Of a leaf of n x m elements, n + m means are kept. The weight of gradient t is `t^-decay_rate`.

    Args:
      factored: False keeps the mean square of each element.
      decay_rate: how fast old gradients are forgotten, zero or more.
      step_offset: the step to count from, when going on from other training.
      min_dim_size_to_factor: a leaf is factored along its two longest axes, if both are so long.
      eps: added to the squares.
    Returns:
      A transformation with a `FactoredState`; hyper-parameters `decay_rate`, `step_offset`, `eps`.
    Raises:
      ArgumentError: a negative `decay_rate` or `eps`, a `min_dim_size_to_factor` below 1.
    Source: Shazeer and Stern, Adafactor, ICML (2018).

    >>> part = scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> grads = fnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> part.update(grads, part.init(grads))[0].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    check_count("scale_by_factored_rms", "min_dim_size_to_factor", min_dim_size_to_factor)
    settings = Settings("scale_by_factored_rms", {"decay_rate": decay_rate, "step_offset": step_offset, "eps": eps})

    def axes_of(leaf: Array) -> tuple[int, int] | None:
        """The second longest axis and the longest, if the leaf is to be factored."""
        order = [int(axis) for axis in onp.argsort(leaf.shape)]
        is_long = len(order) >= 2 and leaf.shape[order[-2]] >= min_dim_size_to_factor
        return (order[-2], order[-1]) if factored and is_long else None

    def memory(params: PyTree) -> dict[str, PyTree]:
        def zeros(p: Array, role: str) -> Array:
            axes = axes_of(p)
            if (axes is None) == (role == "v"):
                dropped = {"v": None, "v_row": axes and axes[1], "v_col": axes and axes[0]}[role]
                return fnp.zeros([n for axis, n in enumerate(p.shape) if axis != dropped], real_dtype(p))
            return fnp.zeros((1,), real_dtype(p))

        return {role: tree.map(lambda p, role=role: zeros(p, role), params) for role in ("v_row", "v_col", "v")}

    def step(grads: PyTree, state: FactoredState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        for role, expected in memory(grads).items():
            check_match(settings.owner, "gradients' statistics", expected, "state", getattr(state, role))
        hyper = state.hyperparams
        count = (state.step + 1).astype(hyper["decay_rate"].dtype) - hyper["step_offset"]
        weight = count ** -hyper["decay_rate"]

        def leaf(g: Array, row: Array, col: Array, v: Array) -> tuple[Array, Array, Array, Array]:
            dtype = real_dtype(g)
            new = weight.astype(dtype)
            squares = squared(g) + hyper.cast("eps", dtype)
            axes = axes_of(g)
            if axes is None:
                v = (1 - new) * v + new * squares
                return g * v**-0.5, row, col, v
            row = (1 - new) * row + new * fnp.mean(squares, axis=axes[1])
            col = (1 - new) * col + new * fnp.mean(squares, axis=axes[0])
            mean = fnp.mean(row, axis=axes[0] - (axes[0] > axes[1]), keepdims=True)
            by_row, by_col = (row / mean) ** -0.5, col**-0.5
            return g * fnp.expand_dims(by_row, axes[1]) * fnp.expand_dims(by_col, axes[0]), row, col, v

        found = tree.map(leaf, grads, state.v_row, state.v_col, state.v)
        updates, row, col, v = tree.transpose(tree.structure(grads), tree.structure((0, 0, 0, 0)), found)
        return updates, {"v_row": row, "v_col": col, "v": v}

    return transformation(settings, FactoredState, step, memory)


def scale_by_param_block_rms(min_scale: Hyperparam = 1e-3) -> Transformation:
    """Every leaf times the root mean square of its parameters.

    Args:
      min_scale: root mean squares below it count as it.
    Returns:
      A transformation with a `StepState`; hyper-parameter `min_scale`. Its update needs the
      parameters.
    Raises:
      ArgumentError: a negative `min_scale`, no parameters given to `update`.
    Source: Shazeer and Stern, Adafactor, section 8, ICML (2018).

    >>> part = scale_by_param_block_rms()
    >>> params = fnp.array([2.0, -2.0])
    >>> part.update(fnp.array([1.0, 3.0]), part.init(params), params)[0].tolist()
    [2.0, 6.0]
    """

    def step(grads: PyTree, state: StepState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        def scaled(g: Array, p: Array) -> Array:
            rms = leaf_norm(p, mean=True).value.astype(real_dtype(g))
            return g * fnp.maximum(rms, state.hyperparams.cast("min_scale", rms.dtype))

        return tree.map(scaled, grads, params), {}

    settings = Settings("scale_by_param_block_rms", {"min_scale": min_scale})
    return transformation(settings, StepState, step, needs_params=True)
