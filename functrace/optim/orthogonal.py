"""Muon: steps along the orthogonal matrix nearest to the mean gradient of a matrix."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as onp

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError, ShapeError
from functrace.optim.base import Transformation, chain, increment, optimizer, real_dtype, transformation
from functrace.optim.checking import check_count, failure, leaf_paths
from functrace.optim.grouping import partition
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.optim.masks import Mask, chosen_leaves
from functrace.optim.norms import leaf_norm
from functrace.optim.scaling import mean, scale_by_adam, unbiased, zeros
from functrace.optim.stepping import StepState, scale_by_learning_rate
from functrace.optim.weight_decay import add_decayed_weights

Array = jax.Array
PyTree = Any
Coefficients = Sequence[float] | Sequence[Sequence[float]]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class MuonState(NamedTuple):
    """State of `scale_by_muon`: the mean gradient."""

    step: Array
    hyperparams: Hyperparams
    mu: PyTree


def scale_by_muon(
    ns_coeffs: Coefficients = NEWTON_SCHULZ,
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    kernels: bool = False,
) -> Transformation:
    """Muon's direction: the mean gradient of each matrix, made nearly orthogonal.

    Each iteration is `x -> a x + (b x x' + c (x x')^2) x`; all singular values come near to 1.

    Args:
      ns_coeffs: a, b and c, or three for each iteration.
      ns_steps: how many iterations, an integer of 1 or more.
      beta: decay of the mean gradient, 0 to 1.
      eps: added to the Frobenius norm that the mean is first divided by.
      mu_dtype: the dtype in which it is kept; by default the parameter's, float32 at least.
      nesterov: look ahead.
      adaptive: scale the direction by its product with the mean gradient.
      kernels: whether a leaf of more axes, `[*window, in, out]`, is the matrix `[prod(window) * in, out]`.
    Returns:
      A transformation with a `MuonState`; hyper-parameters `beta`, `eps`. All leaves must be matrices:
      `muon` gives others to Adam.
    Raises:
      ArgumentError: `beta` outside 0 to 1, a negative `eps`, coefficients that are not threes.
      ShapeError: a leaf is not a matrix.
    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).

    >>> part = scale_by_muon()
    >>> grads = fnp.array([[3.0, 0.0], [0.0, 5.0]])
    >>> direction, _ = part.update(grads, part.init(grads))
    >>> bool(fnp.abs(direction - fnp.eye(2)).max() < 0.3)
    True
    """
    check_count("scale_by_muon", "ns_steps", ns_steps)
    rows = onp.asarray(ns_coeffs, float)
    if rows.ndim == 1:
        rows = onp.tile(rows, (ns_steps, 1))
    if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) < ns_steps:
        raise failure(
            ArgumentError,
            f"scale_by_muon: ns_coeffs has shape {onp.shape(ns_coeffs)}; (3,), or ({ns_steps}, 3) for {ns_steps} "
            "iterations, was expected.",
        )
    rows = rows[-ns_steps:]

    def memory(params: PyTree) -> dict[str, PyTree]:
        for path, leaf in leaf_paths(params):
            if leaf.ndim < 2 or (leaf.ndim > 2 and not kernels):
                remedy = "" if leaf.ndim < 2 else ", or kernels=True if it is [*window, in, out]"
                raise failure(
                    ShapeError,
                    f"scale_by_muon: leaf {path} has shape {leaf.shape}; a matrix was expected. Use `muon`, which "
                    f"gives other leaves to Adam, or `masked`{remedy}.",
                )
        return {"mu": zeros(params, mu_dtype)}

    def step(grads: PyTree, state: MuonState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        mu = tree.map(lambda g, m: mean(hyper, "beta", g, m), grads, state.mu)

        def direction(g: Array, m: Array) -> Array:
            m_hat = unbiased(hyper, count, g, m, nesterov, "beta")
            found = orthogonalized(as_matrix(m_hat), rows, hyper.cast("eps", real_dtype(m_hat))).reshape(m_hat.shape)
            return fnp.sum(fnp.conj(m_hat) * found) * found if adaptive else found

        return tree.map(direction, grads, mu), {"mu": mu}

    settings = Settings("scale_by_muon", {"beta": beta, "eps": eps}, decays=("beta",))
    return transformation(settings, MuonState, step, memory, like="mu")


def scale_by_shape(consistent_rms: Hyperparam | None = None) -> Transformation:
    """Every matrix, of n rows and m columns, times `sqrt(max(1, m / n))`.

    A leaf of more axes is a kernel `[*window, in, out]`, of `prod(window) * in` rows and `out` columns.

    Args:
      consistent_rms: if given, times `consistent_rms * sqrt(max(n, m))` in its place: 0.2 brings an
        orthogonal direction to the size of Adam's.
    Returns:
      A transformation with a `StepState`; hyper-parameter `consistent_rms`, if given.
    Raises:
      ArgumentError: a negative `consistent_rms`.
    Source: Bernstein, Deriving Muon (2025); Liu et al., Muon is scalable for LLM training (2025).

    >>> part = scale_by_shape()
    >>> part.update(fnp.ones((1, 4)), part.init(fnp.ones((1, 4))))[0].tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """

    def step(grads: PyTree, state: StepState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        def scaled(g: Array) -> Array:
            rows, columns = as_matrix(g).shape
            if consistent_rms is None:
                return math.sqrt(max(1, columns / rows)) * g
            return state.hyperparams.cast("consistent_rms", real_dtype(g)) * math.sqrt(max(rows, columns)) * g

        return tree.map(scaled, grads), {}

    given = {} if consistent_rms is None else {"consistent_rms": consistent_rms}
    return transformation(Settings("scale_by_shape", given), StepState, step)


@optimizer
def muon(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = NEWTON_SCHULZ,
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    kernels: Mask = False,
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.999,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    consistent_rms: Hyperparam | None = None,
) -> Transformation:
    """Muon for the matrices, AdamW for the other leaves.

    To have it for the kernels of convolutions too, name them: `muon(0.02, kernels=at_paths("*/kernel"))`. As in
    the authors' code a kernel is one matrix, from all entries of its window to the channels that come out.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      ns_coeffs, ns_steps, beta, eps, mu_dtype, nesterov, adaptive: as in `scale_by_muon`; `eps`,
        `mu_dtype` and `nesterov` are Adam's too.
      kernels: which leaves of more than two axes, `[*window, in, out]`, are matrices `[prod(window) * in, out]` too:
        True for all, a pytree of booleans, or a function from the parameters to one. The kernels of `nn.conv` and
        `nn.conv_transpose` have that layout; PyTorch's, `[out, in, *window]`, have not.
      weight_decay, weight_decay_mask: of the matrices, as in `adamw`.
      adam_b1, adam_b2, adam_eps_root, adam_weight_decay: of the other leaves, as in `adamw`.
      adam_learning_rate: theirs; None for the same.
      consistent_rms: as in `scale_by_shape`.
    Returns:
      A transformation; hyper-parameters those of its parts, `muon` and `adam`. Its update needs the
      parameters.
    Raises:
      ArgumentError: a number outside of the range of its name, coefficients that are not threes.
    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).

    >>> optimizer = muon(0.1, adam_learning_rate=0.01)
    >>> params = {"w": fnp.ones((2, 3)), "b": fnp.ones(3)}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> [round(x, 4) for x in updates["b"].tolist()]
    [-0.01, -0.01, -0.01]
    """

    def kinds(params: PyTree) -> PyTree:
        chosen = chosen_leaves("muon", kernels, params, "kernels")
        return tree.map(
            lambda is_kernel, p: "muon" if p.ndim == 2 or (is_kernel and p.ndim > 2) else "adam", chosen, params
        )

    orthogonal = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, nesterov=nesterov, adaptive=adaptive, kernels=True),
        scale_by_shape(consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
    )
    adaptive_moments = chain(
        scale_by_adam(adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(adam_weight_decay),
    )
    if adam_learning_rate is None:
        directions = partition({"muon": orthogonal, "adam": adaptive_moments}, kinds)
        return chain(directions, scale_by_learning_rate(learning_rate))
    steps = {
        "muon": chain(orthogonal, scale_by_learning_rate(learning_rate)),
        "adam": chain(adaptive_moments, scale_by_learning_rate(adam_learning_rate)),
    }
    return partition(steps, kinds)


def orthogonalized(matrix: Array, rows: Any, eps: Array) -> Array:
    """Newton and Schulz's iteration for the orthogonal factor of a matrix.

    Args:
      matrix: f[n, m], or complex.
      rows: the three coefficients of each iteration.
      eps: added to the Frobenius norm.
    """
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (leaf_norm(x).value + eps)
    for a, b, c in rows:
        gram = x @ fnp.conj(x).T
        x = float(a) * x + (float(b) * gram + float(c) * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def as_matrix(kernel: Array) -> Array:
    """A kernel `[*window, in, out]` as a matrix `[prod(window) * in, out]`."""
    return kernel if kernel.ndim == 2 else kernel.reshape(math.prod(kernel.shape[:-1]), kernel.shape[-1])
