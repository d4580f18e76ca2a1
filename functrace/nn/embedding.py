"""Tokens as vectors, and the positions that they stand at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import Array

from functrace import numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.nn.checking import channels_last, count, failure, inexact, initial, known_integers, parameters
from functrace.nn.initializers import Initializer, normal
from functrace.nn.layer import Layer
from functrace.nn.scoping import scoped


def embedding(
    vocabulary: int,
    features: int,
    *,
    table_init: Initializer | None = None,
    dtype: Any = None,
    name: str = "embedding",
) -> Layer:
    """The layer that looks up a vector for each integer.

    Params: `{"table": [vocabulary, features]}`. `apply(params, x, attend=True)` goes the other way, from vectors to a
    score for each integer, `x @ table.T`: output weights that are tied to the input's.

    Args:
      vocabulary: how many integers there are; 0 is the first.
      features: the length of the vectors.
      table_init: an initialiser; by default `normal(1.0)`.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from integers `[...]` to `[..., features]`. Where they are known only when the program runs, one outside
      of `[0, vocabulary)` makes its vector NaN.
    Raises:
      ArgumentError: a size is not at least 1; from `apply`, when NumPy's or Python's integers are outside of
        `[0, vocabulary)`.
      DtypeError: from `apply`, when x is not of integers.
      ShapeError: from `apply`, when params do not fit.

    >>> from functrace import nn, random
    >>> layer = nn.embedding(100, 8)
    >>> layer.apply(layer.init(random.key(0)), [[3, 1, 4], [1, 5, 9]]).shape
    (2, 3, 8)
    """
    owner = "embedding"
    shape = count(owner, "vocabulary", vocabulary), count(owner, "features", features)
    parts = {"table": (shape, table_init or normal(1.0))}

    def apply(params: Any, x: Any, *, attend: bool = False, training: bool = False, key: Any = None) -> Any:
        (table,) = parameters(owner, params, {"table": shape})
        if attend:
            return channels_last(owner, x, shape[1], 0, f"params['table'] of shape {shape}") @ table.T
        known = known_integers(x)
        x = fnp.asarray(x)
        if not fnp.issubdtype(x.dtype, fnp.integer):
            raise failure(DtypeError, owner, f"x has dtype {x.dtype}; integers were expected, the tokens' numbers.")
        if known is not None and known.size and not 0 <= known.min() <= known.max() < shape[0]:
            raise failure(
                ArgumentError,
                owner,
                f"x goes from {known.min()} to {known.max()}; 0 to {shape[0] - 1} was expected, as params['table'] has "
                f"shape {shape}.",
            )
        valid = (x >= 0) & (x < shape[0])
        return fnp.where(valid[..., None], fnp.take(table, fnp.where(valid, x, 0), axis=0), math.nan)

    return scoped(Layer(lambda key: initial(key, parts, dtype), apply, name))


def rotary(x: Any, positions: Any, *, base: float = 10_000.0) -> Array:
    """Turn the vectors by angles that grow with their positions: products of two then depend on the distance alone.

    The i-th element of the first half and that of the second turn together, by `position / base ** (2 i / features)`.

    Args:
      x: floating, of shape `[..., t, heads, features]`; features are even.
      positions: numbers of shape `[..., t]`.
      base: of the geometric sequence of wavelengths.
    Returns:
      An array of the shape and dtype of x.
    Raises:
      ShapeError: features are odd, or positions do not fit.
    Source: Su et al., RoFormer, arXiv:2104.09864.

    >>> x = fnp.array([[[1.0, 0.0]]])
    >>> [round(v, 3) for v in rotary(x, [1.0])[0, 0].tolist()]
    [0.54, 0.841]
    """
    x, positions = inexact("rotary", x), fnp.asarray(positions)
    if x.ndim < 3 or x.shape[-1] % 2 or positions.ndim < 1 or positions.shape[-1] not in (1, x.shape[-3]):
        raise failure(
            ShapeError,
            "rotary",
            f"x has shape {x.shape} and positions {positions.shape}; [..., t, heads, features] with even features, and "
            "[..., t], were expected.",
        )
    half, dtype = x.shape[-1] // 2, fnp.promote_types(x.dtype, fnp.float32)
    frequencies = (base ** (-np.arange(half) / half)).astype(dtype)
    angles = positions[..., None, None].astype(dtype) * frequencies
    cos, sin = fnp.cos(angles), fnp.sin(angles)
    first, second = x[..., :half].astype(dtype), x[..., half:].astype(dtype)
    turned = fnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
