"""The parts of optimizers that turn gradients into better directions.

Formulas and argument names are optax's. Moments are kept in float32 at least.
"""

from typing import Any, NamedTuple

import jax

from functrace import lax, numpy as fnp, tree
from functrace.optim.base import (
    Transformation,
    computing_dtype,
    increment,
    real_dtype,
    transformation,
)
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Number, Settings

Array = jax.Array
PyTree = Any


class TraceState(NamedTuple):
    """State of `trace`: the velocity, of the parameters' structure."""

    step: Array
    hyperparams: Hyperparams
    trace: PyTree


class SquaresState(NamedTuple):
    """State of `scale_by_rms` and `scale_by_rss`: mean or sum of squared gradients."""

    step: Array
    hyperparams: Hyperparams
    nu: PyTree


class FirstMomentState(NamedTuple):
    """State of `scale_by_lion`: the mean gradient."""

    step: Array
    hyperparams: Hyperparams
    mu: PyTree


class MomentsState(NamedTuple):
    """State of Adam's kin and `scale_by_stddev`: the mean gradient, and the mean (or, of
    `scale_by_adamax`, the largest) of what it is held against.
    """

    step: Array
    hyperparams: Hyperparams
    mu: PyTree
    nu: PyTree


def trace(decay: Hyperparam, nesterov: bool = False, accumulator_dtype: Any = None) -> Transformation:
    """Momentum: `t = g + decay * t`, the update being `t`, or with Nesterov's `g + decay * t`.

    Args:
      decay: 0 to 1, a number, a scalar array or a schedule; hyper-parameter `momentum`.
      nesterov: look ahead.
      accumulator_dtype: the dtype of the velocity; by default the parameter's, float32 at least.
    Returns:
      A transformation with a `TraceState`.
    Raises:
      ArgumentError: `decay` outside 0 to 1.
    Source: Sutskever et al., On the importance of initialization and momentum, ICML (2013).

    >>> part = trace(0.5)
    >>> _, state = part.update(4.0, part.init(0.0))
    >>> float(part.update(1.0, state)[0])
    3.0
    """

    def step(grads: PyTree, state: TraceState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        def follow(g: Array, t: Array) -> Array:
            return g + state.hyperparams.cast("momentum", real_dtype(g)) * t

        velocity = tree.map(follow, grads, state.trace)
        return tree.map(follow, grads, velocity) if nesterov else velocity, {"trace": velocity}

    return transformation(
        Settings("trace", {"momentum": decay}),
        TraceState,
        step,
        lambda params: {"trace": zeros(params, accumulator_dtype)},
        like="trace",
    )


def scale_by_adam(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Transformation:
    """Adam's direction: `mu_hat / (sqrt(nu_hat + eps_root) + eps)`, of bias-corrected moments.

    Args:
      b1, b2: decay of the first and second moment, 0 to 1.
      eps: added outside of the root.
      eps_root: added inside of it, for derivatives through the optimizer at zero gradients.
      mu_dtype: the dtype in which the first moment is kept; by default the parameter's, float32 at
        least.
      nesterov: NAdam's look ahead.
    Returns:
      A transformation with a `MomentsState`. The four numbers are its hyper-parameters, each may be
      a schedule.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps.
    Source: Kingma and Ba, Adam, ICLR (2015); Dozat, NAdam, ICLR workshop (2016).

    >>> part = scale_by_adam()
    >>> round(float(part.update(7.0, part.init(0.0))[0]), 4)
    1.0
    """

    def step(grads: PyTree, state: MomentsState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        mu = tree.map(lambda g, m: mean(hyper, "b1", g, m), grads, state.mu)
        nu = tree.map(lambda g, v: mean(hyper, "b2", squared(g), v), grads, state.nu)

        def direction(g: Array, m: Array, v: Array) -> Array:
            v_hat = v / correction(hyper, "b2", count, v)
            root = fnp.sqrt(v_hat + hyper.cast("eps_root", v.dtype))
            return unbiased(hyper, count, g, m, nesterov) / (root + hyper.cast("eps", v.dtype))

        return tree.map(direction, grads, mu, nu), {"mu": mu, "nu": nu}

    return transformation(
        Settings(
            "scale_by_adam",
            {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root},
            decays=("b1", "b2"),
        ),
        MomentsState,
        step,
        lambda params: {"mu": zeros(params, mu_dtype), "nu": _real_full(params, 0.0)},
        like="mu",
    )


def scale_by_adamax(b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8) -> Transformation:
    """Adamax's direction: the bias-corrected mean gradient over a decaying largest magnitude.

    Args:
      b1: decay of the mean gradient, 0 to 1.
      b2: decay of the largest magnitude, 0 to 1.
      eps: added to each magnitude.
    Returns:
      A transformation with a `MomentsState`, whose `nu` is the largest magnitude; hyper-parameters
      `b1`, `b2`, `eps`.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative `eps`.
    Source: Kingma and Ba, Adam, section 7.1, ICLR (2015).

    >>> part = scale_by_adamax(b2=0.5)
    >>> _, state = part.update(8.0, part.init(0.0))
    >>> float(part.update(1.0, state)[1].nu)
    4.0
    """

    def step(grads: PyTree, state: MomentsState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        mu = tree.map(lambda g, m: mean(hyper, "b1", g, m), grads, state.mu)

        def largest(g: Array, v: Array) -> Array:
            magnitude = fnp.abs(g).astype(v.dtype) + hyper.cast("eps", v.dtype)
            return fnp.maximum(magnitude, hyper.cast("b2", v.dtype) * v)

        nu = tree.map(largest, grads, state.nu)
        updates = tree.map(lambda g, m, v: unbiased(hyper, count, g, m) / v, grads, mu, nu)
        return updates, {"mu": mu, "nu": nu}

    return transformation(
        Settings("scale_by_adamax", {"b1": b1, "b2": b2, "eps": eps}, decays=("b1",)),
        MomentsState,
        step,
        lambda params: {"mu": zeros(params), "nu": _real_full(params, 0.0)},
        like="mu",
    )


def scale_by_radam(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    threshold: Hyperparam = 5.0,
    *,
    nesterov: bool = False,
) -> Transformation:
    """RAdam's direction: Adam's, times how far the mean square is to be trusted.

    While the mean square rests on too few gradients to have a variance, it is left out: the
    direction is the bias-corrected mean gradient itself.

    Args:
      b1, b2, eps, eps_root, nesterov: as in `scale_by_adam`.
      threshold: the least length of the average (the paper's rho) to trust it at; above 4.
    Returns:
      A transformation with a `MomentsState`; hyper-parameters `b1`, `b2`, `eps`, `eps_root`,
      `rho_threshold`.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps, a threshold below 4.
    Source: Liu et al., On the variance of the adaptive learning rate and beyond, ICLR (2020).

    >>> part = scale_by_radam()
    >>> round(float(part.update(7.0, part.init(0.0))[0]), 4)
    7.0
    """

    def step(grads: PyTree, state: MomentsState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        mu = tree.map(lambda g, m: mean(hyper, "b1", g, m), grads, state.mu)
        nu = tree.map(lambda g, v: mean(hyper, "b2", squared(g), v), grads, state.nu)
        longest = 2 / hyper.complement("b2", hyper["b2"].dtype) - 1
        power = hyper["b2"] ** count
        length = longest - 2 * count * power / (1 - power)
        is_known = length >= hyper["rho_threshold"]
        # Where it is not known, any length above 4 will do: derivatives then stay finite.
        known, longest = fnp.where(is_known, length, 8.0), fnp.where(is_known, longest, 9.0)
        trust = fnp.sqrt((known - 4) * (known - 2) * longest / ((longest - 4) * (longest - 2) * known))

        def direction(g: Array, m: Array, v: Array) -> Array:
            v_hat = v / correction(hyper, "b2", count, v)
            m_hat = unbiased(hyper, count, g, m, nesterov)
            root = fnp.sqrt(fnp.where(is_known, v_hat, 1) + hyper.cast("eps_root", v.dtype))
            return fnp.where(is_known, trust.astype(v.dtype) * m_hat / (root + hyper.cast("eps", v.dtype)), m_hat)

        return tree.map(direction, grads, mu, nu), {"mu": mu, "nu": nu}

    given = {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root, "rho_threshold": threshold}
    return transformation(
        Settings("scale_by_radam", given, decays=("b1", "b2")),
        MomentsState,
        step,
        lambda params: {"mu": zeros(params), "nu": _real_full(params, 0.0)},
        like="mu",
    )


def scale_by_lion(b1: Hyperparam = 0.9, b2: Hyperparam = 0.99, mu_dtype: Any = None) -> Transformation:
    """Lion's direction: the sign of `(1 - b1) g + b1 mu`.

    Args:
      b1: how much of the mean gradient goes into the sign, 0 to 1.
      b2: decay of the mean gradient, 0 to 1.
      mu_dtype: the dtype in which it is kept; by default the parameter's, float32 at least.
    Returns:
      A transformation with a `FirstMomentState`; hyper-parameters `b1`, `b2`.
    Raises:
      ArgumentError: a decay outside 0 to 1.
    Source: Chen et al., Symbolic discovery of optimization algorithms, NeurIPS (2023).

    >>> part = scale_by_lion()
    >>> part.update(fnp.array([0.1, -20.0]), part.init(fnp.zeros(2)))[0].tolist()
    [1.0, -1.0]
    """

    def step(grads: PyTree, state: FirstMomentState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper = state.hyperparams
        updates = tree.map(lambda g, m: fnp.sign(mean(hyper, "b1", g, m)), grads, state.mu)
        return updates, {"mu": tree.map(lambda g, m: mean(hyper, "b2", g, m), grads, state.mu)}

    return transformation(
        Settings("scale_by_lion", {"b1": b1, "b2": b2}, decays=("b1", "b2")),
        FirstMomentState,
        step,
        lambda params: {"mu": zeros(params, mu_dtype)},
        like="mu",
    )


def scale_by_rms(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Transformation:
    """RMSProp's direction: the gradient over the root of its mean square.

    Args:
      decay: of the mean square, 0 to 1.
      eps: added to it, within the root or (`eps_in_sqrt=False`) outside.
      initial_scale: the mean square to start from.
      bias_correction: correct the mean for its start, as Adam does.
    Returns:
      A transformation with a `SquaresState`; hyper-parameters `decay`, `eps`.
    Raises:
      ArgumentError: `decay` outside 0 to 1, a negative `eps`.
    Source: Tieleman and Hinton, Neural networks for machine learning, lecture 6.5 (2012).

    >>> part = scale_by_rms(decay=0.75)
    >>> round(float(part.update(7.0, part.init(0.0))[0]), 5)
    2.0
    """

    def step(grads: PyTree, state: SquaresState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        nu = tree.map(lambda g, v: mean(hyper, "decay", squared(g), v), grads, state.nu)

        def direction(g: Array, v: Array) -> Array:
            v_hat = v / correction(hyper, "decay", count, v) if bias_correction else v
            return g * _reciprocal_root(v_hat, hyper, eps_in_sqrt)

        return tree.map(direction, grads, nu), {"nu": nu}

    return transformation(
        Settings("scale_by_rms", {"decay": decay, "eps": eps}, decays=("decay",)),
        SquaresState,
        step,
        lambda params: {"nu": _real_full(params, initial_scale)},
        like="nu",
    )


def scale_by_stddev(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Transformation:
    """Centred RMSProp's direction: the gradient over the root of its variance.

    Args:
      decay: of mean and mean square, 0 to 1.
      eps: added to the variance, within the root or (`eps_in_sqrt=False`) outside.
      initial_scale: the mean square to start from.
      bias_correction: correct the means for their start, as Adam does.
    Returns:
      A transformation with a `MomentsState`; hyper-parameters `decay`, `eps`.
    Raises:
      ArgumentError: `decay` outside 0 to 1, a negative `eps`.
    Source: Graves, Generating sequences with recurrent neural networks, section 2.1 (2013).

    >>> part = scale_by_stddev(decay=0.5)
    >>> round(float(part.update(7.0, part.init(0.0))[0]), 5)
    2.0
    """

    def step(grads: PyTree, state: MomentsState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        hyper, count = state.hyperparams, increment(state.step)
        mu = tree.map(lambda g, m: mean(hyper, "decay", g, m), grads, state.mu)
        nu = tree.map(lambda g, v: mean(hyper, "decay", squared(g), v), grads, state.nu)

        def direction(g: Array, m: Array, v: Array) -> Array:
            share = correction(hyper, "decay", count, v) if bias_correction else 1
            return g * _reciprocal_root(v / share - squared(m / share), hyper, eps_in_sqrt)

        return tree.map(direction, grads, mu, nu), {"mu": mu, "nu": nu}

    return transformation(
        Settings("scale_by_stddev", {"decay": decay, "eps": eps}, decays=("decay",)),
        MomentsState,
        step,
        lambda params: {"mu": zeros(params), "nu": _real_full(params, initial_scale)},
        like="mu",
    )


def scale_by_rss(initial_accumulator_value: Number = 0.1, eps: Hyperparam = 1e-7) -> Transformation:
    """Adagrad's direction: the gradient over the root of the sum of its squares; 0 where that is 0.

    Args:
      initial_accumulator_value: the sum to start from.
      eps: added within the root.
    Returns:
      A transformation with a `SquaresState`; hyper-parameter `eps`.
    Raises:
      ArgumentError: a negative `eps`.
    Source: Duchi et al., Adaptive subgradient methods, JMLR 12 (2011).

    >>> part = scale_by_rss(initial_accumulator_value=9.0)
    >>> round(float(part.update(4.0, part.init(0.0))[0]), 5)
    0.8
    """

    def step(grads: PyTree, state: SquaresState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        nu = tree.map(lambda g, v: squared(g) + v, grads, state.nu)

        def direction(g: Array, v: Array) -> Array:
            inverse = lax.rsqrt(fnp.where(v > 0, v, 1) + state.hyperparams.cast("eps", v.dtype))
            return g * fnp.where(v > 0, inverse, 0)

        return tree.map(direction, grads, nu), {"nu": nu}

    return transformation(
        Settings("scale_by_rss", {"eps": eps}),
        SquaresState,
        step,
        lambda params: {"nu": _real_full(params, initial_accumulator_value)},
        like="nu",
    )


def squared(x: Array) -> Array:
    """`|x|^2`, real, computed in float32 at least."""
    x = x.astype(computing_dtype(x))
    return fnp.real(x * fnp.conj(x)) if fnp.issubdtype(x.dtype, fnp.complexfloating) else x * x


def mean(hyper: Hyperparams, decay: str, new: Array, old: Array) -> Array:
    """The exponential moving average `(1 - decay) new + decay old`."""
    dtype = real_dtype(new)
    return hyper.complement(decay, dtype) * new + hyper.cast(decay, dtype) * old


def correction(hyper: Hyperparams, decay: str, count: Array, like: Array) -> Array:
    """`1 - decay ** count`, what an average that started at zero falls short by."""
    return (1 - hyper[decay] ** count).astype(real_dtype(like))


def unbiased(hyper: Hyperparams, count: Array, g: Array, m: Array, nesterov: bool = False, decay: str = "b1") -> Array:
    """The mean gradient without the bias of its start; with Nesterov's look ahead, NAdam's."""
    if not nesterov:
        return m / correction(hyper, decay, count, m)
    g_hat = g / correction(hyper, decay, count, m)
    m_hat = m / correction(hyper, decay, increment(count), m)
    return hyper.cast(decay, real_dtype(m)) * m_hat + hyper.complement(decay, real_dtype(m)) * g_hat


def _reciprocal_root(squares: Array, hyper: Hyperparams, eps_in_sqrt: bool) -> Array:
    eps = hyper.cast("eps", squares.dtype)
    return lax.rsqrt(squares + eps) if eps_in_sqrt else 1 / (fnp.sqrt(squares) + eps)


def zeros(params: PyTree, dtype: Any = None) -> PyTree:
    return tree.map(lambda p: fnp.zeros(p.shape, computing_dtype(p) if dtype is None else dtype), params)


def _real_full(params: PyTree, value: Number) -> PyTree:
    return tree.map(lambda p: fnp.full(p.shape, value, real_dtype(p)), params)
