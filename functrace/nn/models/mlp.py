"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from functrace.errors import ArgumentError
from functrace.nn.activations import relu
from functrace.nn.checking import counts, failure
from functrace.nn.composition import sequential
from functrace.nn.dense import dense
from functrace.nn.dropout import dropout
from functrace.nn.functions import as_layer
from functrace.nn.initializers import Initializer, he_normal, lecun_normal
from functrace.nn.layer import Layer


def mlp(
    widths: Sequence[int],
    *,
    activation: Callable[[Any], Any] = relu,
    dropout_rate: float = 0.0,
    kernel_init: Initializer | None = None,
    dtype: Any = None,
    name: str = "mlp",
) -> Layer:
    """Dense layers with an activation, and dropout if wanted, between.

    Params: a dict by layer, `dense_0`, `dense_1`, ... for the dense ones.

    Args:
      widths: the number of inputs, of each hidden layer, and of outputs: `(784, 256, 10)`.
      activation: a function of arrays.
      dropout_rate: from 0 to 1; after each activation.
      kernel_init: of all layers; by default `he_normal()` for those before an activation, which suits the ReLU and its
        kin, and `lecun_normal()` for the last.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[..., widths[0]]` to `[..., widths[-1]]`.
    Raises:
      ArgumentError: fewer than two widths, or one that is not at least 1.

    >>> from functrace import nn, numpy as fnp, random
    >>> model = nn.mlp((64, 32, 10))
    >>> params = model.init(random.key(0))
    >>> model.apply(params, fnp.ones((8, 64))).shape
    (8, 10)
    """
    widths = counts("mlp", "widths", widths, "the widths from inputs to outputs, such as (784, 256, 10)")
    if len(widths) < 2:
        raise failure(ArgumentError, "mlp", f"widths are {widths}; at least those of inputs and outputs were expected.")
    layers: list[Layer] = []
    *inner, last = pairwise(widths)
    for number, sizes in enumerate(inner):
        layers.append(dense(*sizes, kernel_init=kernel_init or he_normal(), dtype=dtype, name=f"dense_{number}"))
        layers.append(as_layer(activation))
        if dropout_rate:
            layers.append(dropout(dropout_rate))
    final = dense(*last, kernel_init=kernel_init or lecun_normal(), dtype=dtype, name=f"dense_{len(inner)}")
    return sequential(*layers, final, name=name)
