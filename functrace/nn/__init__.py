"""Functions of neural networks: activations, initialisers, losses. All pure; names are `jax.nn`'s.

>>> import numpy as np
>>> from functrace import nn
>>> nn.relu(np.array([-1.0, 2.0])).tolist()
[0.0, 2.0]
"""

from functrace.nn import initializers
from functrace.nn.activations import (
    celu,
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_silu,
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
    swish,
)
from functrace.nn.losses import huber, mse, softmax_cross_entropy, softmax_cross_entropy_with_integer_labels

__all__ = [
    "celu", "elu", "gelu", "glu", "hard_sigmoid", "hard_silu", "hard_tanh", "huber", "initializers",
    "leaky_relu", "log_sigmoid", "log_softmax", "logsumexp", "mish", "mse", "one_hot", "prelu", "relu",
    "relu6", "selu", "sigmoid", "silu", "soft_sign", "softmax", "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels", "softplus", "swish",
]  # fmt: skip
