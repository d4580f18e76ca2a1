"""Normalisation: shift and scale to mean 0 and variance 1, over the batch, the features, or groups of channels.

Channels are the last axis. Statistics are computed in float32 at least, whatever the dtype of x, which is the dtype of
the result. Every layer learns a scale, which begins with ones, and a shift called bias, which begins with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.nn.checking import Parts, channels_last, count, counts, failure, initial, number_between, parameters
from functrace.nn.initializers import ones, zeros
from functrace.nn.layer import Layer, StatefulLayer
from functrace.nn.scoping import scoped

Sizes = tuple[int, ...]


def batch_norm(
    features: int,
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    axis_name: Any = None,
    dtype: Any = None,
    name: str = "batch_norm",
) -> StatefulLayer:
    """The layer that normalises each channel over all other axes: in training by the batch, else by running statistics.

    Params: `{"scale": [features], "bias": [features]}`. State: `{"mean": [features], "variance": [features]}`, float32;
    in training each becomes `momentum * old + (1 - momentum) * batch`, with no gradient, where the batch's variance is
    the unbiased one. These are PyTorch's numbers, whose own momentum is 1 minus this one.

    Args:
      features: the length of the last axis.
      momentum: from 0 to 1: how much of the old statistics a step of training keeps.
      epsilon: added to the variance.
      use_scale, use_bias: False leaves that param out.
      axis_name: a name, or names, of a mapped axis (`vmap(..., axis_name=...)`) whose batches are to be one.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A StatefulLayer from `[batch, ..., features]` to the same.
    Raises:
      ArgumentError: `features` is not at least 1, `momentum` is not from 0 to 1; from `apply` in training, when there
        is only one value for each channel, whose variance says nothing.
      ShapeError: from `apply`, when x, params or state do not fit.
    Source: Ioffe and Szegedy, Batch normalization, ICML 2015.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.batch_norm(1)
    >>> params, state = layer.init(random.key(0))
    >>> y, state = layer.apply(params, state, fnp.array([[1.0], [3.0]]), training=True)
    >>> [round(v, 3) for v in y[:, 0].tolist()], round(float(state["mean"][0]), 3)
    ([-1.0, 1.0], 0.2)
    """
    owner = "batch_norm"
    shape = (count(owner, "features", features),)
    momentum = number_between(owner, "momentum", momentum, 0, 1)
    epsilon = number_between(owner, "epsilon", epsilon, 0, math.inf)
    parts = _affine(shape, use_scale, use_bias)

    def init(key: Any) -> Any:
        state = {"mean": fnp.zeros(shape, fnp.float32), "variance": fnp.ones(shape, fnp.float32)}
        return initial(key, parts, dtype), state

    def apply(params: Any, state: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        affine = dict(zip(parts, parameters(owner, params, {part: shape for part in parts}), strict=True))
        running = parameters(owner, state, {"mean": shape, "variance": shape}, "state")
        x = _channels(owner, x, shape[0], 1)
        if not training:
            return _normalise(x, running[0], running[1], epsilon, affine), state
        values = math.prod(x.shape[:-1]) * (1 if axis_name is None else lax.axis_size(axis_name))
        if values < 2:
            raise failure(
                ArgumentError,
                owner,
                f"x has shape {x.shape}: {values or 'no'} value for each channel, of which there is no variance, in "
                "training. Give a batch of 2 or more, pass training=False, or take group_norm or layer_norm. In a vmap "
                "give it an axis_name, and the same to batch_norm.",
            )
        mean, variance = _moments(x, tuple(range(x.ndim - 1)), axis_name)
        unbiased = variance * (values / (values - 1))
        new = [
            (momentum * old + (1 - momentum) * lax.stop_gradient(now).reshape(shape)).astype(old.dtype)
            for old, now in zip(running, (mean, unbiased), strict=True)
        ]
        return _normalise(x, mean, variance, epsilon, affine), {"mean": new[0], "variance": new[1]}

    return scoped(StatefulLayer(init, apply, name))


def layer_norm(
    features: int | Sequence[int],
    *,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    dtype: Any = None,
    name: str = "layer_norm",
) -> Layer:
    """The layer that normalises each example over its last axis, or its last axes.

    Params: `{"scale": features, "bias": features}`, arrays of that shape.

    Args:
      features: the length of the last axis, or the lengths of the last axes.
      epsilon: added to the variance.
      use_scale, use_bias: False leaves that param out.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[..., *features]` to the same.
    Raises:
      ArgumentError: `features` are not at least 1.
      ShapeError: from `apply`, when x or params do not fit.
    Source: Ba, Kiros and Hinton, Layer normalization, arXiv:1607.06450.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.layer_norm(2)
    >>> [round(v, 3) for v in layer.apply(layer.init(random.key(0)), fnp.array([1.0, 3.0])).tolist()]
    [-1.0, 1.0]
    """

    def normalise(x: Any, axes: Sizes, epsilon: float, affine: dict[str, Any]) -> Any:
        return _normalise(x, *_moments(x, axes), epsilon, affine)

    return _over_last_axes("layer_norm", features, epsilon, use_scale, use_bias, dtype, name, normalise)


def rms_norm(
    features: int | Sequence[int],
    *,
    epsilon: float = 1e-6,
    use_scale: bool = True,
    dtype: Any = None,
    name: str = "rms_norm",
) -> Layer:
    """The layer that divides each example by its root mean square over its last axis, or its last axes; no shift.

    Params: `{"scale": features}`, an array of that shape.

    Args:
      features: the length of the last axis, or the lengths of the last axes.
      epsilon: added to the mean square.
      use_scale: False leaves the param out.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[..., *features]` to the same.
    Raises:
      ArgumentError: `features` are not at least 1.
      ShapeError: from `apply`, when x or params do not fit.
    Source: Zhang and Sennrich, Root mean square layer normalization, NeurIPS 2019.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.rms_norm(2)
    >>> [round(v, 3) for v in layer.apply(layer.init(random.key(0)), fnp.array([1.0, 7.0])).tolist()]
    [0.2, 1.4]
    """

    def normalise(x: Any, axes: Sizes, epsilon: float, affine: dict[str, Any]) -> Any:
        wide = _wide(x)
        return _normalise(x, 0.0, fnp.mean(wide * wide, axes, keepdims=True), epsilon, affine)

    return _over_last_axes("rms_norm", features, epsilon, use_scale, False, dtype, name, normalise)


def group_norm(
    features: int,
    groups: int = 32,
    *,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    batch_axes: int = 1,
    dtype: Any = None,
    name: str = "group_norm",
) -> Layer:
    """The layer that normalises each group of channels of each example, over the spatial axes too.

    Params: `{"scale": [features], "bias": [features]}`.

    Args:
      features: the length of the last axis.
      groups: how many groups of equal size the channels are cut into.
      epsilon: added to the variance.
      use_scale, use_bias: False leaves that param out.
      batch_axes: how many leading axes count examples; 0 for one alone, as in a vmap.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[batch, ..., features]` to the same.
    Raises:
      ArgumentError: a number is not at least 1, or the groups do not divide the channels.
      ShapeError: from `apply`, when x or params do not fit.
    Source: Wu and He, Group normalization, ECCV 2018.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.group_norm(4, groups=2)
    >>> x = fnp.array([[1.0, 3.0, 10.0, 30.0]])
    >>> [round(v, 3) for v in layer.apply(layer.init(random.key(0)), x)[0].tolist()]
    [-1.0, 1.0, -1.0, 1.0]
    """
    return _grouped("group_norm", features, groups, epsilon, use_scale, use_bias, batch_axes, dtype, name)


def instance_norm(
    features: int,
    *,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    batch_axes: int = 1,
    dtype: Any = None,
    name: str = "instance_norm",
) -> Layer:
    """The layer that normalises each channel of each example over the spatial axes.

    Params: `{"scale": [features], "bias": [features]}`. There are no running statistics.

    Args:
      features: the length of the last axis.
      epsilon: added to the variance.
      use_scale, use_bias: False leaves that param out.
      batch_axes: how many leading axes count examples; 0 for one alone, as in a vmap.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[batch, *spatial, features]` to the same.
    Raises:
      ArgumentError: `features` is not at least 1; from `apply`, when the spatial axes hold only one value, whose
        variance says nothing.
      ShapeError: from `apply`, when x or params do not fit.
    Source: Ulyanov, Vedaldi and Lempitsky, Instance normalization, arXiv:1607.08022.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.instance_norm(1)
    >>> x = fnp.array([1.0, 3.0]).reshape(1, 2, 1)
    >>> [round(v, 3) for v in layer.apply(layer.init(random.key(0)), x).ravel().tolist()]
    [-1.0, 1.0]
    """
    return _grouped("instance_norm", features, features, epsilon, use_scale, use_bias, batch_axes, dtype, name)


def _over_last_axes(
    owner: str, features: Any, epsilon: float, use_scale: bool, use_bias: bool, dtype: Any, name: str, normalise: Any
) -> Layer:
    """A layer that normalises each example over its last axes, and whose params have the shape of those."""
    shape = (
        (count(owner, "features", features),)
        if isinstance(features, int)
        else counts(owner, "features", features, "the last axes")
    )
    epsilon = number_between(owner, "epsilon", epsilon, 0, math.inf)
    parts = _affine(shape, use_scale, use_bias)

    def init(key: Any) -> Any:
        return initial(key, parts, dtype)

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        affine = dict(zip(parts, parameters(owner, params, {part: shape for part in parts}), strict=True))
        x = _floating(owner, fnp.asarray(x))
        if x.shape[-len(shape) :] != shape:
            raise failure(
                ShapeError, owner, f"x has shape {x.shape}; its last axes were expected to be the features, {shape}."
            )
        return normalise(x, tuple(range(x.ndim - len(shape), x.ndim)), epsilon, affine)

    return scoped(Layer(init, apply, name))


def _grouped(
    owner: str,
    features: int,
    groups: int,
    epsilon: float,
    use_scale: bool,
    use_bias: bool,
    batch_axes: int,
    dtype: Any,
    name: str,
) -> Layer:
    """A layer that normalises each example by groups of channels."""
    shape = (count(owner, "features", features),)
    epsilon = number_between(owner, "epsilon", epsilon, 0, math.inf)
    if features % count(owner, "groups", groups):
        raise failure(ArgumentError, owner, f"{groups} groups do not divide {features} features.")
    if batch_axes:
        count(owner, "batch_axes", batch_axes)
    parts = _affine(shape, use_scale, use_bias)

    def init(key: Any) -> Any:
        return initial(key, parts, dtype)

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        affine = dict(zip(parts, parameters(owner, params, {part: shape for part in parts}), strict=True))
        x = _channels(owner, x, features, batch_axes)
        if math.prod(x.shape[batch_axes:-1]) * (features // groups) == 1:
            raise failure(
                ArgumentError,
                owner,
                f"x has shape {x.shape} and {groups} groups: one value for each of an example, of which there is no "
                "variance. Take fewer groups, or layer_norm.",
            )
        cut = x.reshape(*x.shape[:-1], groups, features // groups)
        axes = (*range(batch_axes, x.ndim - 1), x.ndim)
        mean, variance = _moments(cut, axes)
        scale = {part: p.reshape(groups, features // groups) for part, p in affine.items()}
        return _normalise(cut, mean, variance, epsilon, scale).reshape(x.shape)

    return scoped(Layer(init, apply, name))


def _affine(shape: Sizes, use_scale: bool, use_bias: bool) -> Parts:
    """The params that are wanted, with shape and initialiser."""
    wanted = {"scale": (use_scale, ones), "bias": (use_bias, zeros)}
    return {part: (shape, init) for part, (use, init) in wanted.items() if use}


def _channels(owner: str, x: Any, features: int, batch_axes: int) -> Any:
    """`x` as a floating array `[batch, *spatial, features]`."""
    spatial = max(fnp.ndim(x) - batch_axes - 1, 0)
    return _floating(owner, channels_last(owner, x, features, spatial, f"params of shape {(features,)}"))


def _floating(owner: str, x: Any) -> Any:
    """`x`, which must be of floating dtype."""
    if not fnp.issubdtype(x.dtype, fnp.floating):
        raise failure(DtypeError, owner, f"x has dtype {x.dtype}; a floating one was expected. Cast it.")
    return x


def _wide(x: Any) -> Any:
    """`x` in a dtype that sums of squares can be trusted to."""
    return x.astype(fnp.promote_types(x.dtype, fnp.float32))


def _moments(x: Any, axes: Sizes, axis_name: Any = None) -> tuple[Any, Any]:
    """Mean and variance along those axes, which are kept with length 1, and over the mapped axes of those names."""
    over = (lambda m: m) if axis_name is None else (lambda m: lax.pmean(m, axis_name))
    wide = _wide(x)
    mean = over(fnp.mean(wide, axes, keepdims=True))
    centred = wide - mean
    return mean, over(fnp.mean(centred * centred, axes, keepdims=True))


def _normalise(x: Any, mean: Any, variance: Any, epsilon: float, affine: dict[str, Any]) -> Any:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias`, in the dtype of x."""
    y = (_wide(x) - mean) * lax.rsqrt(variance + epsilon)
    if "scale" in affine:
        y = y * affine["scale"]
    if "bias" in affine:
        y = y + affine["bias"]
    return y.astype(x.dtype)
