"""Activations: elementwise functions, and the softmax family. Values and derivatives are jax.nn's.

Each takes an array of any shape of floating dtype and returns one of the same shape and dtype, unless it
says otherwise. Derivatives are finite wherever the mathematical one is: the branch of a `where` that is
not taken never sees a value that would make it overflow.
"""

from __future__ import annotations

import math
from typing import Any

import jax

from functrace import lax, numpy as fnp
from functrace.tracing import lift

logsumexp = lift(jax.scipy.special.logsumexp)
one_hot = lift(jax.nn.one_hot)
sigmoid = lift(jax.lax.logistic, "sigmoid")


def relu(x: Any) -> Any:
    """max(x, 0), with derivative 0 at 0."""
    return fnp.where(x > 0, x, 0)


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return fnp.minimum(fnp.maximum(x, 0), 6)


def leaky_relu(x: Any, negative_slope: Any = 1e-2) -> Any:
    """x where it is not negative, `negative_slope * x` where it is."""
    return fnp.where(x >= 0, x, negative_slope * x)


def prelu(x: Any, slope: Any) -> Any:
    """leaky_relu with a learned slope (He et al. 2015, equation 1); `slope` broadcasts against `x`."""
    return leaky_relu(x, slope)


def elu(x: Any, alpha: Any = 1.0) -> Any:
    """x where positive, `alpha * (exp(x) - 1)` elsewhere."""
    return fnp.where(x > 0, x, alpha * fnp.expm1(fnp.where(x > 0, 0, x)))


def celu(x: Any, alpha: Any = 1.0) -> Any:
    """elu with a continuous derivative: `alpha * (exp(x / alpha) - 1)` for negative x."""
    return fnp.where(x > 0, x, alpha * fnp.expm1(fnp.where(x > 0, 0, x) / alpha))


def selu(x: Any) -> Any:
    """Self-normalising elu (Klambauer et al. 2017)."""
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def gelu(x: Any, approximate: bool = True) -> Any:
    """x times the normal distribution function at x; by default its tanh approximation."""
    if approximate:
        return x * (0.5 * (1.0 + fnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x**3)))))
    return 0.5 * x * lax.erfc(-x * math.sqrt(0.5))


def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


swish = silu


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), with no overflow."""
    return fnp.logaddexp(x, 0)


def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), with no underflow."""
    return -softplus(-x)


def soft_sign(x: Any) -> Any:
    """x / (|x| + 1)."""
    return x / (fnp.abs(x) + 1)


def hard_tanh(x: Any) -> Any:
    """x clipped to [-1, 1]."""
    return fnp.where(x > 1, 1, fnp.where(x < -1, -1, x))


def hard_sigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6."""
    return relu6(x + 3.0) / 6.0


def hard_silu(x: Any) -> Any:
    """x * hard_sigmoid(x)."""
    return x * hard_sigmoid(x)


def mish(x: Any) -> Any:
    """x * tanh(softplus(x))."""
    return x * fnp.tanh(softplus(x))


def glu(x: Any, axis: int = -1) -> Any:
    """The first half along `axis` times the sigmoid of the second; the axis has even length."""
    a, b = fnp.split(x, 2, axis)
    return a * sigmoid(b)


def softmax(x: Any, axis: Any = -1) -> Any:
    """exp(x) over its sum along `axis`."""
    unnormalised = fnp.exp(x - lax.stop_gradient(fnp.max(x, axis, keepdims=True)))
    return unnormalised / fnp.sum(unnormalised, axis, keepdims=True)


def log_softmax(x: Any, axis: Any = -1) -> Any:
    """log(softmax(x)), with no overflow or underflow."""
    shifted = x - lax.stop_gradient(fnp.max(x, axis, keepdims=True))
    return shifted - fnp.log(fnp.sum(fnp.exp(shifted), axis, keepdims=True))
