"""Neural networks are functions of parameter pytrees; here are the pieces that need care.

Activations and losses are ordinary functions of arrays, written with `functrace.numpy`, and an
initialiser is a function of a key and a shape. Names and meaning are `jax.nn`'s; what is added is
that derivatives stay finite at the edges and that shapes which do not fit are refused. A layer is a
pair of pure functions, `init(key) -> params` and `apply(params, x) -> y`; where it has state, such
as running statistics, that is an argument and a result (`layer.py`). Layers are made into models by
`sequential`, `residual` and `combine`, or by functions of your own.

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
from functrace.nn.attention import multi_head_attention
from functrace.nn.composition import combine, remat, residual, sequential
from functrace.nn.convolution import conv, conv_transpose
from functrace.nn.dense import dense
from functrace.nn.dropout import dropout
from functrace.nn.embedding import embedding, rotary
from functrace.nn.functions import as_layer, prelu_layer
from functrace.nn.layer import Layer, SequenceLayer, StatefulLayer
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
from functrace.nn.models import generate, mlp, resnet18, resnet50, transformer_block, transformer_lm
from functrace.nn.normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from functrace.nn.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    flatten,
    global_avg_pool,
    global_max_pool,
    max_pool,
)
from functrace.nn.recurrent import gru, lstm, rnn
from functrace.nn.reparametrization import spectral_norm, weight_norm

__all__ = [
    "Layer", "SequenceLayer", "StatefulLayer", "adaptive_avg_pool", "adaptive_max_pool", "as_layer", "avg_pool",
    "batch_norm", "celu", "combine", "conv", "conv_transpose", "dense", "dot_product_attention", "dropout", "elu",
    "embedding", "flatten", "gelu", "generate", "global_avg_pool", "global_max_pool", "glu", "group_norm", "gru",
    "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "huber", "identity", "initializers", "instance_norm",
    "layer_norm", "leaky_relu", "log1mexp", "log_sigmoid", "log_softmax", "logmeanexp", "logsumexp", "lstm", "max_pool",
    "mish", "mlp", "mse", "multi_head_attention", "one_hot", "prelu", "prelu_layer", "relu", "relu6", "remat",
    "residual", "resnet18", "resnet50", "rms_norm", "rnn", "rotary", "selu", "sequential", "sigmoid",
    "sigmoid_binary_cross_entropy", "silu", "soft_sign", "softmax", "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels", "softplus", "sparse_plus", "sparse_sigmoid", "spectral_norm",
    "squared_error", "squareplus", "standardize", "swish", "tanh", "transformer_block", "transformer_lm", "weight_norm",
]  # fmt: skip
