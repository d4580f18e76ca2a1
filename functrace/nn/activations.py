"""Activations: elementwise functions and the softmax family, with `jax.nn`'s names and meaning.

Each takes an array of any shape and floating dtype and returns one of the same shape and dtype,
unless it says otherwise. NaN stays NaN. Derivatives are `jax.nn`'s, of every order, and finite
wherever the mathematical ones are, at the largest finite numbers and at the infinities too:
`0 * inf` is kept out by giving the branch of a `where` that is not taken a harmless argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jax import Array

from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.primitives.selection import Within
from functrace.primitives.unary import softplus as softplus_p
from functrace.scipy.special import logsumexp as logsumexp
from functrace.tracing import Tracer
from functrace.tracing.binding import bind

ArrayLike = Any  # an array of JAX or NumPy, a tracer, a Python scalar
Axis = int | tuple[int, ...] | None


# Piecewise linear.


def relu(x: ArrayLike) -> Array:
    """max(x, 0), with derivative 0 at 0.

    Source: Nair and Hinton, ICML 2010.

    >>> relu(fnp.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    return fnp.where(x <= 0, 0, x)


def relu6(x: ArrayLike) -> Array:
    """min(max(x, 0), 6), with derivative 0 at 0 and at 6.

    Source: Krizhevsky, Convolutional deep belief networks on CIFAR-10 (2010).

    >>> relu6(fnp.array([-1.0, 2.0, 9.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    return fnp.where(x <= 0, 0, fnp.where(x >= 6, 6, x))


def leaky_relu(x: ArrayLike, negative_slope: ArrayLike = 1e-2) -> Array:
    """x where it is not negative, `negative_slope * x` where it is; the derivative at 0 is 1.

    Source: Maas et al., Rectifier nonlinearities improve neural network acoustic models (2013).

    >>> leaky_relu(fnp.array([-2.0, 3.0]), 0.5).tolist()
    [-1.0, 3.0]
    """
    return fnp.where(x >= 0, x, negative_slope * fnp.where(x >= 0, 0, x))


def prelu(x: ArrayLike, slope: ArrayLike) -> Array:
    """leaky_relu with a slope to be learned.

    Args:
      x: floating, of any shape.
      slope: of a shape that broadcasts to that of `x`: one for all, or one for each channel.
    Source: He et al., Delving deep into rectifiers, ICCV 2015, equation 1.

    >>> import functrace as ft
    >>> float(ft.grad(prelu, argnums=1)(-3.0, 0.25))
    -3.0
    """
    return leaky_relu(x, slope)


def hard_tanh(x: ArrayLike) -> Array:
    """x clipped to [-1, 1]; the derivative at both ends is 1.

    >>> hard_tanh(fnp.array([-3.0, 0.5])).tolist()
    [-1.0, 0.5]
    """
    return fnp.where(x > 1, 1, fnp.where(x < -1, -1, x))


def hard_sigmoid(x: ArrayLike) -> Array:
    """relu6(x + 3) / 6.

    Source: Howard et al., Searching for MobileNetV3, ICCV 2019.

    >>> hard_sigmoid(fnp.array([-4.0, 0.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return relu6(x + 3.0) / 6.0


def hard_silu(x: ArrayLike) -> Array:
    """x * hard_sigmoid(x), also called hard swish.

    Source: Howard et al., Searching for MobileNetV3, ICCV 2019.

    >>> hard_silu(fnp.array([-4.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """
    return _relu_beyond(3, x, lambda x: x * hard_sigmoid(x))


hard_swish = hard_silu


# With an exponential.


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x)), with no overflow.

    >>> sigmoid(fnp.array([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    return lax.logistic(x)


def log_sigmoid(x: ArrayLike) -> Array:
    """log(sigmoid(x)), with no underflow.

    >>> log_sigmoid(fnp.array([-1e4, 1e4])).tolist()
    [-10000.0, 0.0]
    """
    return -softplus(-x)


def softplus(x: ArrayLike) -> Array:
    """log(1 + exp(x)), with no overflow.

    >>> softplus(fnp.array([-1e4, 1e4])).tolist()
    [0.0, 10000.0]
    """
    is_real = type(x) is Tracer and x.atom.aval.is_inexact and x.atom.aval.kind != "c"
    return bind(softplus_p, x) if is_real else fnp.logaddexp(x, 0)


def soft_sign(x: ArrayLike) -> Array:
    """x / (1 + |x|).

    >>> soft_sign(fnp.array([-1.0, 0.0, fnp.inf])).tolist()
    [-0.5, 0.0, 1.0]
    """
    # 1 - 1 / (1 + |x|) for large x: there the quotient's derivative cancels to nothing.
    near = fnp.where(fnp.abs(x) > 1, 0, x)
    outer = fnp.sign(x) * (1 - 1 / (1 + fnp.abs(x)))
    return fnp.where(fnp.abs(x) > 1, outer, near / (1 + fnp.abs(near)))


def elu(x: ArrayLike, alpha: ArrayLike = 1.0) -> Array:
    """x where it is positive, `alpha * (exp(x) - 1)` elsewhere; the derivative at 0 is `alpha`.

    Source: Clevert et al., ELU, ICLR 2016.

    >>> elu(fnp.array([-fnp.inf, 2.0]), 0.5).tolist()
    [-0.5, 2.0]
    """
    return fnp.where(x > 0, x, alpha * fnp.expm1(fnp.where(x > 0, 0, x)))


def celu(x: ArrayLike, alpha: ArrayLike = 1.0) -> Array:
    """elu with a continuous derivative: `alpha * (exp(x / alpha) - 1)` where x is not positive.

    Source: Barron, Continuously differentiable exponential linear units, arXiv:1704.07483.

    >>> celu(fnp.array([-fnp.inf, 2.0]), 0.5).tolist()
    [-0.5, 2.0]
    """
    return fnp.where(x > 0, x, alpha * fnp.expm1(fnp.where(x > 0, 0, x) / alpha))


def selu(x: ArrayLike) -> Array:
    """The elu, scaled, that keeps activations near mean 0 and variance 1.

    Source: Klambauer et al., Self-normalizing neural networks, NeurIPS 2017.

    >>> [round(y, 4) for y in selu(fnp.array([-fnp.inf, 1.0])).tolist()]
    [-1.7581, 1.0507]
    """
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def silu(x: ArrayLike) -> Array:
    """x * sigmoid(x), also called swish.

    Source: Hendrycks and Gimpel, arXiv:1606.08415; Ramachandran et al., arXiv:1710.05941.

    >>> silu(fnp.array([-fnp.inf, 0.0, 1e4])).tolist()
    [0.0, 0.0, 10000.0]
    """
    return _relu_beyond(800, x, lambda x: x * sigmoid(x))


swish = silu


def mish(x: ArrayLike) -> Array:
    """x * tanh(softplus(x)).

    Source: Misra, Mish, BMVC 2020.

    >>> mish(fnp.array([-fnp.inf, 0.0, 1e4])).tolist()
    [0.0, 0.0, 10000.0]
    """
    return _relu_beyond(800, x, lambda x: x * fnp.tanh(softplus(x)))


def gelu(x: ArrayLike, approximate: bool = True) -> Array:
    """x times the standard normal distribution function at x.

    Args:
      x: floating, of any shape.
      approximate: take the usual approximation by tanh, not the error function.
    Source: Hendrycks and Gimpel, Gaussian error linear units, arXiv:1606.08415.

    >>> gelu(fnp.array([-fnp.inf, 0.0, 1e4])).tolist()
    [0.0, 0.0, 10000.0]
    """
    if not approximate:
        return _relu_beyond(40, x, lambda x: 0.5 * x * lax.erfc(-math.sqrt(0.5) * x))
    # (1 + tanh u) / 2 is sigmoid(2 u), which does not cancel where u is very negative.
    scale = 2 * math.sqrt(2 / math.pi)
    return _relu_beyond(30, x, lambda x: x * sigmoid(scale * (x + 0.044715 * x**3)))


def _relu_beyond(bound: float, x: Any, inner: Callable[[Any], Any]) -> Any:
    """`inner(x)` for |x| below `bound`; from there on max(x, 0), which `inner` equals to rounding.

    The derivatives of `inner` would multiply 0 by something that overflows. Beyond the bound it is asked about the
    bound, not about 0: XLA keeps one array less for the backward pass, as it computes a clip again and not a choice.
    """
    known = bind(Within(bound), x) if type(x) is Tracer else fnp.clip(x, -bound, bound)
    return fnp.where(fnp.abs(x) < bound, inner(known), relu(x))


def glu(x: ArrayLike, axis: int = -1) -> Array:
    """The first half of `x` along `axis` times the sigmoid of the second half.

    Args:
      x: floating, of shape `[..., 2 n, ...]`.
      axis: the axis of length 2 n.
    Returns:
      An array of shape `[..., n, ...]`.
    Raises:
      ShapeError: there is no such axis, or it has odd length.
    Source: Dauphin et al., Language modeling with gated convolutional networks, ICML 2017.

    >>> glu(fnp.array([1.0, 2.0, 0.0, 0.0])).tolist()
    [0.5, 1.0]
    """
    shape = fnp.shape(x)
    if not -len(shape) <= axis < len(shape) or shape[axis] % 2:
        raise ShapeError(
            f"glu: x has shape {shape}; axis {axis} is to be split in halves, so it must be there "
            "and have even length."
        )
    first, second = fnp.split(x, 2, axis)
    return first * sigmoid(second)


# Of a whole axis.


def softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> Array:
    """exp(x) over its sum along `axis`.

    Args:
      x: floating, of any shape.
      axis: the axis or axes to sum over.
      where: bool, of a shape that broadcasts to that of `x`: the elements to include. The others
        become 0 with derivative 0, whatever they are; so do all, if none is included.
    Source: Bridle, Probabilistic interpretation of feedforward network outputs (1990).

    >>> softmax(fnp.array([0.0, 1e4, 0.0]), where=fnp.array([True, False, True])).tolist()
    [0.5, 0.0, 0.5]
    """
    _, weights, total = _exponentials(x, axis, where)
    return weights / total


def log_softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> Array:
    """log(softmax(x)), with no overflow or underflow.

    Args:
      x: floating, of any shape.
      axis: the axis or axes to sum over.
      where: bool, of a shape that broadcasts to that of `x`: the elements to include; the others
        become -inf.

    >>> log_softmax(fnp.array([-1e4, 0.0])).tolist()
    [-10000.0, 0.0]
    """
    shifted, _, total = _exponentials(x, axis, where)
    return shifted - fnp.log(total)


def _exponentials(x: Any, axis: Axis, where: Any) -> tuple[Any, Any, Any]:
    """x with its largest element shifted to 0, the exponentials of that, and their sum."""
    if where is not None:
        x = fnp.where(where, x, -math.inf)
    largest = fnp.max(lax.stop_gradient(x), axis, keepdims=True, initial=-math.inf)
    if where is not None:  # nothing included: every weight is 0, and so is their quotient by 1
        largest = fnp.where(largest == -math.inf, 0, largest)
    shifted = x - largest
    weights = fnp.exp(shifted)
    total = fnp.sum(weights, axis, keepdims=True)
    return shifted, weights, total if where is None else fnp.where(total == 0, 1, total)


def standardize(
    x: ArrayLike,
    axis: Axis = -1,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-5,
    where: ArrayLike | None = None,
) -> Array:
    """x shifted and scaled to mean 0 and variance 1 along `axis`.

    Args:
      x: floating, of any shape.
      axis: the axis or axes of the statistics.
      mean, variance: what to use in their place; of shapes that broadcast to that of `x`.
      epsilon: added to the variance.
      where: bool, of a shape that broadcasts to that of `x`: the elements that the statistics see.

    >>> standardize(fnp.array([1.0, 3.0]), epsilon=0.0).tolist()
    [-1.0, 1.0]
    """
    if mean is None:
        mean = fnp.mean(x, axis, keepdims=True, where=where)
    centred = x - mean
    if variance is None:
        variance = fnp.mean(centred * centred, axis, keepdims=True, where=where)
    return centred * lax.rsqrt(variance + epsilon)


def one_hot(x: ArrayLike, num_classes: int, *, dtype: Any = None, axis: int = -1) -> Array:
    """Each integer as a vector of zeros with a 1 at that place.

    Args:
      x: integers, of any shape; those outside of `[0, num_classes)` become zeros.
      num_classes: the length of the vectors.
      dtype: of the result, by default the floating one.
      axis: where the new axis stands in the result.
    Returns:
      An array of one axis more than `x`.
    Raises:
      DtypeError: `x` is not of integers.
      ArgumentError: `axis` is not one of the result, or `num_classes` is negative.

    >>> one_hot(fnp.array([1, 0, 7]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    x = fnp.asarray(x)
    if not fnp.issubdtype(x.dtype, fnp.integer):
        raise DtypeError(f"one_hot: x has dtype {x.dtype}; integers were expected. Cast it.")
    if num_classes < 0:
        raise ArgumentError(f"one_hot: num_classes is {num_classes}; it must not be negative.")
    if not -x.ndim - 1 <= axis <= x.ndim:
        raise ArgumentError(f"one_hot: axis is {axis}; the result has {x.ndim + 1} axes.")
    place = axis % (x.ndim + 1)
    classes = fnp.arange(num_classes).reshape(-1, *[1] * (x.ndim - place))
    hot = fnp.expand_dims(x, place) == classes
    return hot.astype(fnp.result_type(float) if dtype is None else dtype)
