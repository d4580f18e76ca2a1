"""Optimizers, each one line of `chain`. Arguments, defaults and numerics are optax's."""

from typing import Any

from functrace.optim.averaging import ema
from functrace.optim.base import Transformation, chain, optimizer
from functrace.optim.clipping import clip_by_block_rms
from functrace.optim.factored import scale_by_factored_rms, scale_by_param_block_rms
from functrace.optim.hyperparameters import Hyperparam, Number
from functrace.optim.masks import Mask
from functrace.optim.scaling import (
    scale_by_adam,
    scale_by_adamax,
    scale_by_lion,
    scale_by_radam,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
    trace,
)
from functrace.optim.stepping import scale, scale_by_learning_rate, scale_by_trust_ratio
from functrace.optim.weight_decay import add_decayed_weights


@optimizer
def sgd(
    learning_rate: Hyperparam,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> Transformation:
    """Gradient descent, with momentum if given.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      momentum: decay of the velocity, 0 to 1; None for none.
      nesterov: Nesterov's momentum.
      accumulator_dtype: the dtype of the velocity; by default the parameter's, float32 at least.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `momentum`.
    Raises:
      ArgumentError: `momentum` outside 0 to 1.
    Source: Sutskever et al., On the importance of initialization and momentum, ICML (2013).

    >>> optimizer = sgd(0.5)
    >>> updates, state = optimizer.update({"w": 4.0}, optimizer.init({"w": 0.0}))
    >>> float(updates["w"])
    -2.0
    """
    velocity = [] if momentum is None else [trace(momentum, nesterov, accumulator_dtype)]
    return chain(*velocity, scale_by_learning_rate(learning_rate))


@optimizer
def rmsprop(
    learning_rate: Hyperparam,
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Transformation:
    """RMSProp: gradients over the root of their mean square.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      decay: of the mean square, 0 to 1.
      eps: added to it, within the root or (`eps_in_sqrt=False`) outside.
      initial_scale: the mean square to start from.
      eps_in_sqrt: where `eps` is added.
      centered: use the variance, not the mean square.
      momentum: decay of a velocity after the step, 0 to 1; None for none.
      nesterov: Nesterov's momentum.
      bias_correction: correct the means for their start, as Adam does.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `decay`, `eps`, `momentum`.
    Raises:
      ArgumentError: a decay or momentum outside 0 to 1, a negative `eps`.
    Source: Tieleman and Hinton, lecture 6.5 (2012); Graves, arXiv:1308.0850 (2013).

    >>> optimizer = rmsprop(0.5, decay=0.75)
    >>> round(float(optimizer.update(7.0, optimizer.init(0.0))[0]), 5)
    -1.0
    """
    scaled = (scale_by_stddev if centered else scale_by_rms)(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    velocity = [] if momentum is None else [trace(momentum, nesterov)]
    return chain(scaled, scale_by_learning_rate(learning_rate), *velocity)


@optimizer
def adafactor(
    learning_rate: Hyperparam | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Hyperparam = 0.8,
    decay_offset: Hyperparam = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Hyperparam | None = 1.0,
    momentum: Hyperparam | None = None,
    dtype_momentum: Any = None,
    weight_decay_rate: Hyperparam | None = None,
    eps: Hyperparam = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask = None,
) -> Transformation:
    """Adafactor: adaptive steps with little memory, for large matrices means of rows and columns.

    Args:
      learning_rate: a number, a scalar array or a schedule; None is 1, as the scale of the parameters
        sets the step.
      min_dim_size_to_factor, decay_rate, eps, factored: as in `scale_by_factored_rms`.
      decay_offset: its `step_offset`.
      multiply_by_parameter_scale: steps in parts of the parameters' root mean square.
      clipping_threshold: the largest root mean square of a leaf's direction; None for no limit.
      momentum: decay of a moving average of the steps, 0 to 1; None for none.
      dtype_momentum: the dtype in which it is kept; by default the parameter's, float32 at least.
      weight_decay_rate: how much of the parameters is taken off at each step, whatever the learning
        rate; None for none.
      weight_decay_mask: which leaves decay, as in `add_decayed_weights`.
    Returns:
      A transformation; hyper-parameters those of its parts. Its update needs the parameters, unless
      `multiply_by_parameter_scale=False` and nothing decays.
    Raises:
      ArgumentError: a number outside of the range of its name.
    Source: Shazeer and Stern, Adafactor, ICML (2018).

    >>> optimizer = adafactor(0.5)
    >>> float(optimizer.update(7.0, optimizer.init(8.0), 8.0)[0])
    -4.0
    """
    parts = [scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps)]
    if clipping_threshold is not None:
        parts.append(clip_by_block_rms(clipping_threshold))
    if learning_rate is not None:
        parts.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        parts.append(scale_by_param_block_rms())
    if momentum is not None:
        parts.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        parts.append(add_decayed_weights(weight_decay_rate, weight_decay_mask))
    return chain(*parts, scale(-1.0))


@optimizer
def adagrad(
    learning_rate: Hyperparam, initial_accumulator_value: Number = 0.1, eps: Hyperparam = 1e-7
) -> Transformation:
    """Adagrad: gradients over the root of the sum of their squares.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      initial_accumulator_value: the sum to start from.
      eps: added within the root.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `eps`.
    Raises:
      ArgumentError: a negative `eps`.
    Source: Duchi et al., Adaptive subgradient methods, JMLR 12 (2011).

    >>> optimizer = adagrad(1.0, initial_accumulator_value=9.0)
    >>> round(float(optimizer.update(4.0, optimizer.init(0.0))[0]), 5)
    -0.8
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def adam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Transformation:
    """Adam: steps along the mean gradient over the root of the mean square.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2: decay of the first and second moment, 0 to 1.
      eps: added outside of the root.
      eps_root: added inside of it, for derivatives through the optimizer at zero gradients.
      mu_dtype: the dtype in which the first moment is kept; by default the parameter's, float32 at
        least.
      nesterov: NAdam.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `b1`, `b2`, `eps`, `eps_root`.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps.
    Source: Kingma and Ba, Adam, ICLR (2015).

    >>> optimizer = adam(0.5)
    >>> round(float(optimizer.update(7.0, optimizer.init(0.0))[0]), 5)
    -0.5
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def adamw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparam = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = False,
) -> Transformation:
    """Adam with decoupled weight decay.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `adam`.
      weight_decay: how much of the parameters is added to the direction; a number, a scalar array
        or a schedule.
      mask: which leaves decay, as in `add_decayed_weights`.
    Returns:
      A transformation; hyper-parameters those of `adam` and `weight_decay`. Its update needs the
      parameters.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps or `weight_decay`.
    Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR (2019).

    >>> optimizer = adamw(0.5, weight_decay=0.25)
    >>> round(float(optimizer.update(7.0, optimizer.init(8.0), 8.0)[0]), 5)
    -1.5
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def nadam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
) -> Transformation:
    """NAdam: `adam` with Nesterov's look ahead.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2, eps, eps_root, mu_dtype: as in `adam`.
    Returns:
      A transformation; hyper-parameters those of `adam`.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps.
    Source: Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop (2016).

    >>> optimizer = nadam(1.0, b1=0.5)
    >>> round(float(optimizer.update(7.0, optimizer.init(0.0))[0]), 5)
    -1.33333
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=True)


@optimizer
def nadamw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparam = 1e-4,
    mask: Mask = None,
) -> Transformation:
    """NAdam with decoupled weight decay: `adamw` with Nesterov's look ahead.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2, eps, eps_root, mu_dtype, weight_decay, mask: as in `adamw`.
    Returns:
      A transformation; hyper-parameters those of `adamw`. Its update needs the parameters.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps or `weight_decay`.
    Source: Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop (2016).

    >>> optimizer = nadamw(1.0, b1=0.5, weight_decay=0.25)
    >>> round(float(optimizer.update(7.0, optimizer.init(8.0), 8.0)[0]), 4)
    -3.3333
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=True)


@optimizer
def adamax(
    learning_rate: Hyperparam, b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8
) -> Transformation:
    """Adamax: steps along the mean gradient over a decaying largest magnitude.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1: decay of the mean gradient, 0 to 1.
      b2: decay of the largest magnitude, 0 to 1.
      eps: added to each magnitude.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `b1`, `b2`, `eps`.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative `eps`.
    Source: Kingma and Ba, Adam, section 7.1, ICLR (2015).

    >>> optimizer = adamax(0.5)
    >>> round(float(optimizer.update(7.0, optimizer.init(0.0))[0]), 5)
    -0.5
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@optimizer
def adamaxw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 1e-4,
    mask: Mask = None,
) -> Transformation:
    """Adamax with decoupled weight decay.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2, eps: as in `adamax`.
      weight_decay, mask: as in `adamw`.
    Returns:
      A transformation; hyper-parameters those of `adamax` and `weight_decay`. Its update needs the
      parameters.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps or `weight_decay`.
    Source: Kingma and Ba, Adam, section 7.1, ICLR (2015).

    >>> optimizer = adamaxw(0.5, weight_decay=0.25)
    >>> round(float(optimizer.update(7.0, optimizer.init(8.0), 8.0)[0]), 5)
    -1.5
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def radam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    threshold: Hyperparam = 5.0,
    *,
    nesterov: bool = False,
) -> Transformation:
    """Rectified Adam: Adam that warms up by itself, by how far its mean square is to be trusted.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2, eps, eps_root, nesterov: as in `adam`.
      threshold: the least length of the average to trust it at, as in `scale_by_radam`.
    Returns:
      A transformation; hyper-parameters those of `adam` and `rho_threshold`.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps, a threshold below 4.
    Source: Liu et al., On the variance of the adaptive learning rate and beyond, ICLR (2020).

    >>> optimizer = radam(0.5)
    >>> round(float(optimizer.update(7.0, optimizer.init(0.0))[0]), 4)
    -3.5
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def lion(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    mu_dtype: Any = None,
    weight_decay: Hyperparam = 1e-3,
    mask: Mask = None,
) -> Transformation:
    """Lion: steps of one size, along the sign of a mean gradient, with decoupled weight decay.

    Args:
      learning_rate: a number, a scalar array or a schedule; about a tenth of Adam's.
      b1: how much of the mean gradient goes into the sign, 0 to 1.
      b2: decay of the mean gradient, 0 to 1.
      mu_dtype: the dtype in which it is kept; by default the parameter's, float32 at least.
      weight_decay, mask: as in `adamw`.
    Returns:
      A transformation; hyper-parameters `learning_rate`, `b1`, `b2`, `weight_decay`. Its update
      needs the parameters.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative `weight_decay`.
    Source: Chen et al., Symbolic discovery of optimization algorithms, NeurIPS (2023).

    >>> optimizer = lion(0.5, weight_decay=0.25)
    >>> float(optimizer.update(7.0, optimizer.init(8.0), 8.0)[0])
    -1.5
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def lamb(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam = 0.0,
    mask: Mask = None,
) -> Transformation:
    """LAMB: AdamW's direction, each leaf at the norm of its parameters.

    Args:
      learning_rate: a number, a scalar array or a schedule.
      b1, b2, eps, eps_root: as in `adam`.
      weight_decay, mask: as in `adamw`.
    Returns:
      A transformation; hyper-parameters those of `adamw` and of `scale_by_trust_ratio`. Its update
      needs the parameters.
    Raises:
      ArgumentError: a decay outside 0 to 1, a negative eps or `weight_decay`.
    Source: You et al., Large batch optimization for deep learning, ICLR (2020).

    >>> optimizer = lamb(0.5)
    >>> round(float(optimizer.update(7.0, optimizer.init(8.0), 8.0)[0]), 5)
    -4.0
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )

