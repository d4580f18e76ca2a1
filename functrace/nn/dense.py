"""Dense layers."""

from __future__ import annotations

from typing import Any

from functrace.nn.checking import Parts, channels_last, count, initial, parameters
from functrace.nn.initializers import Initializer, lecun_normal, zeros
from functrace.nn.layer import Layer
from functrace.nn.scoping import scoped


def dense(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer = zeros,
    dtype: Any = None,
    name: str = "dense",
) -> Layer:
    """The layer `x @ kernel + bias`.

    Params: `{"kernel": [in_features, out_features], "bias": [out_features]}`.

    Args:
      in_features, out_features: the lengths of the last axis of x and of y.
      use_bias: False leaves the bias out.
      kernel_init: by default `lecun_normal()`, variance 1 / in_features; before a ReLU `he_normal()` keeps the
        variance of the signal.
      bias_init: an initialiser; zeros.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[..., in_features]` to `[..., out_features]`.
    Raises:
      ArgumentError: a number of features is not at least 1.
      ShapeError: from `apply`, when x or params do not fit.
      DtypeError: from `apply`, when x is of integers.

    >>> from functrace import nn, random
    >>> layer = nn.dense(3, 2)
    >>> params = layer.init(random.key(0))
    >>> layer.apply(params, [[1.0, 2.0, 3.0]]).shape
    (1, 2)
    """
    sizes = count("dense", "in_features", in_features), count("dense", "out_features", out_features)
    parts: Parts = {"kernel": (sizes, kernel_init or lecun_normal())}
    if use_bias:
        parts["bias"] = (sizes[1:], bias_init)
    shapes = {part: shape for part, (shape, _) in parts.items()}

    def init(key: Any) -> Any:
        return initial(key, parts, dtype)

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        kernel, *bias = parameters("dense", params, shapes)
        x = channels_last("dense", x, sizes[0], 0, f"params['kernel'] of shape {sizes}")
        y = x @ kernel
        return y + bias[0] if bias else y

    return scoped(Layer(init, apply, name))
