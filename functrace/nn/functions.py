"""Layers made of functions of arrays: of any, and of the activation whose slope is learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from functrace.errors import DtypeError
from functrace.nn.activations import prelu
from functrace.nn.checking import channels_last, count, failure, inexact, initial, parameters
from functrace.nn.initializers import constant
from functrace.nn.layer import Layer
from functrace.nn.scoping import scoped


def as_layer(function: Callable[..., Any], *, name: str | None = None, **options: Any) -> Layer:
    """The layer without params that applies a function of arrays: an activation, a pool, a reshape.

    Args:
      function: of x, and of `options`.
      name: what errors and reports call it; by default the function's own name.
      **options: keyword arguments for the function.
    Returns:
      A Layer whose params are `{}`.
    Raises:
      DtypeError: `function` cannot be called.

    >>> from functrace import nn
    >>> pool = nn.as_layer(nn.max_pool, window=(2, 2))
    >>> pool.name
    'max_pool'
    """
    if not callable(function):
        raise failure(
            DtypeError, "as_layer", f"function is of type {type(function).__name__}; a function was expected."
        )
    named = function
    while isinstance(named, partial):
        named = named.func
    own = getattr(named, "__name__", type(named).__name__)

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        return function(x, **options)

    return scoped(Layer(lambda key: {}, apply, name or own.strip("<>")))


def prelu_layer(channels: int = 1, *, slope: float = 0.25, dtype: Any = None, name: str = "prelu") -> Layer:
    """The layer `nn.prelu(x, slope)` with a slope that is learned, one for each channel or one for all.

    Params: `{"slope": [channels]}`.

    Args:
      channels: the length of the last axis of x, or 1 for one slope for all.
      slope: at first.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[..., channels]` to the same.
    Raises:
      ArgumentError: `channels` is not at least 1.
      ShapeError: from `apply`, when x or params do not fit.
    Source: He et al., Delving deep into rectifiers, ICCV 2015.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.prelu_layer()
    >>> layer.apply(layer.init(random.key(0)), fnp.array([-4.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    shape = (count("prelu", "channels", channels),)
    parts = {"slope": (shape, constant(slope))}

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        (learned,) = parameters("prelu", params, {"slope": shape})
        x = inexact("prelu", x)
        if channels != 1:
            channels_last("prelu", x, channels, 0, f"params['slope'] of shape {shape}")
        return prelu(x, learned)

    return scoped(Layer(lambda key: initial(key, parts, dtype), apply, name))
