"""Neural networks are functions of parameter pytrees; here are the pieces that need care.

Activations and losses are ordinary functions of arrays, written with `functrace.numpy`, and an
initialiser is a function of a key and a shape. Names and meaning are `jax.nn`'s; what is added is
that derivatives stay finite at the edges and that shapes which do not fit are refused. Layers and
models are yours to write, as functions: `examples/train_digits.py` has an MLP, convolution and
batch norm.

>>> import functrace as ft
>>> from functrace import nn
>>> [float(ft.grad(nn.relu)(x)) for x in (-1.0, 0.0, 2.0)]
[0.0, 0.0, 1.0]
"""

from functrace.nn import initializers
from functrace.nn.activations import (
    celu,
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    logsumexp,
    mish,
    one_hot,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    standardize,
    swish,
)
from functrace.nn.lifted import (
    dot_product_attention,
    identity,
    log1mexp,
    logmeanexp,
    sparse_plus,
    sparse_sigmoid,
    squareplus,
    tanh,
)
from functrace.nn.losses import (
    huber,
    mse,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    squared_error,
)

__all__ = [
    "celu", "dot_product_attention", "elu", "gelu", "glu", "hard_sigmoid", "hard_silu",
    "hard_swish", "hard_tanh", "huber", "identity", "initializers", "leaky_relu", "log1mexp",
    "log_sigmoid", "log_softmax", "logmeanexp", "logsumexp", "mish", "mse", "one_hot", "prelu",
    "relu", "relu6", "selu", "sigmoid", "sigmoid_binary_cross_entropy", "silu", "soft_sign",
    "softmax", "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels", "softplus",
    "sparse_plus", "sparse_sigmoid", "squared_error", "squareplus", "standardize", "swish", "tanh",
]  # fmt: skip
