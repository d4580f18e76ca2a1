"""Residual networks for images.

The downsampling convolution of a bottleneck is its 3 by 3 one, as in torchvision's models and NVIDIA's "v1.5", so that
weights trained there fit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

from functrace.errors import ArgumentError
from functrace.nn.activations import relu
from functrace.nn.checking import count, failure
from functrace.nn.composition import combine, sequential
from functrace.nn.convolution import conv
from functrace.nn.dense import dense
from functrace.nn.initializers import variance_scaling
from functrace.nn.layer import StatefulLayer
from functrace.nn.normalization import batch_norm
from functrace.nn.pooling import global_avg_pool, max_pool

HE_NORMAL = variance_scaling(2.0, "fan_out", "normal")


def resnet18(
    classes: int = 1000,
    *,
    channels: int = 3,
    stem: Literal["large", "small"] = "large",
    dtype: Any = None,
    name: str = "resnet18",
) -> StatefulLayer:
    """The residual network of 18 layers with weights, 11.7 million parameters.

    Params and state are dicts: `stem`, `stage_0` to `stage_3` with blocks `block_0`, `block_1`, and `head`.

    Args:
      classes: the number of logits.
      channels: of the images.
      stem: "large" begins with strides 2 and a max-pool, for images such as 224 by 224; "small" with strides 1, for
        those such as 32 by 32.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A StatefulLayer from `[batch, height, width, channels]` to logits `[batch, classes]`.
    Raises:
      ArgumentError: a number is not at least 1, or another stem.
      ShapeError: from `apply`, when x does not fit.
    Source: He et al., Deep residual learning for image recognition, CVPR 2016.

    >>> import functrace as ft
    >>> from functrace import nn, random
    >>> params, state = ft.eval_shape(nn.resnet18().init, random.key(0))
    >>> sum(leaf.size for leaf in ft.tree.leaves(params))
    11689512
    """
    return _resnet(name, _basic, (2, 2, 2, 2), 1, classes, channels, stem, dtype)


def resnet50(
    classes: int = 1000,
    *,
    channels: int = 3,
    stem: Literal["large", "small"] = "large",
    dtype: Any = None,
    name: str = "resnet50",
) -> StatefulLayer:
    """The residual network of 50 layers with weights, 25.6 million parameters.

    Params and state are dicts: `stem`, `stage_0` to `stage_3` with blocks `block_0`, `block_1`, ..., and `head`.

    Args:
      classes, channels, stem, dtype, name: as for `resnet18`.
    Returns:
      A StatefulLayer from `[batch, height, width, channels]` to logits `[batch, classes]`.
    Raises:
      ArgumentError: a number is not at least 1, or another stem.
      ShapeError: from `apply`, when x does not fit.
    Source: He et al., Deep residual learning for image recognition, CVPR 2016.

    >>> import functrace as ft
    >>> from functrace import nn, random
    >>> params, state = ft.eval_shape(nn.resnet50().init, random.key(0))
    >>> sum(leaf.size for leaf in ft.tree.leaves(params))
    25557032
    """
    return _resnet(name, _bottleneck, (3, 4, 6, 3), 4, classes, channels, stem, dtype)


def _resnet(
    name: str,
    block: Callable[..., StatefulLayer],
    depths: tuple[int, ...],
    growth: int,
    classes: int,
    channels: int,
    stem: str,
    dtype: Any,
) -> StatefulLayer:
    """A stem, stages of blocks of which the first of each halves the image, and a head."""
    if stem not in ("large", "small"):
        raise failure(ArgumentError, name, f"stem is {stem!r}; 'large' or 'small' was expected.")
    classes, channels = count(name, "classes", classes), count(name, "channels", channels)
    convolution = partial(conv, use_bias=False, kernel_init=HE_NORMAL, dtype=dtype)
    norm = partial(batch_norm, dtype=dtype)
    if stem == "large":
        first = [convolution(channels, 64, (7, 7), strides=2, padding=3), norm(64), relu]
        first.append(partial(max_pool, window=(3, 3), strides=2, padding=1))
    else:
        first = [convolution(channels, 64, (3, 3), padding=1), norm(64), relu]
    parts: dict[str, Any] = {"stem": sequential(*first)}
    width = 64
    for stage, depth in enumerate(depths):
        inner = 64 << stage
        blocks = []
        for number in range(depth):
            strides = 2 if stage and not number else 1
            blocks.append(block(convolution, norm, width, inner, strides, f"block_{number}"))
            width = inner * growth
        parts[f"stage_{stage}"] = sequential(*blocks)
    parts["head"] = dense(width, classes, dtype=dtype)

    def forward(x: Any, head: Callable[..., Any], **trunk: Callable[..., Any]) -> Any:
        for part in trunk.values():
            x = part(x)
        return head(global_avg_pool(x))

    return cast(StatefulLayer, combine(parts, forward, name=name))


def _basic(convolution: Any, norm: Any, width: int, inner: int, strides: int, name: str) -> StatefulLayer:
    """Two convolutions of 3 by 3."""
    parts = {
        "conv_0": convolution(width, inner, (3, 3), strides=strides, padding=1),
        "norm_0": norm(inner),
        "conv_1": convolution(inner, inner, (3, 3), padding=1),
        "norm_1": norm(inner),
    }
    return _block(parts, convolution, norm, width, inner, strides, name)


def _bottleneck(convolution: Any, norm: Any, width: int, inner: int, strides: int, name: str) -> StatefulLayer:
    """A convolution of 3 by 3 between two of 1 by 1, of which the last has four times the channels."""
    parts = {
        "conv_0": convolution(width, inner, (1, 1)),
        "norm_0": norm(inner),
        "conv_1": convolution(inner, inner, (3, 3), strides=strides, padding=1),
        "norm_1": norm(inner),
        "conv_2": convolution(inner, 4 * inner, (1, 1)),
        "norm_2": norm(4 * inner),
    }
    return _block(parts, convolution, norm, width, 4 * inner, strides, name)


def _block(
    parts: dict[str, Any], convolution: Any, norm: Any, width: int, wider: int, strides: int, name: str
) -> StatefulLayer:
    """Convolutions and norms in turn with ReLU between, added to x, or to what makes x fit, and a last ReLU."""
    if strides != 1 or width != wider:
        down = convolution(width, wider, (1, 1), strides=strides, padding=0)
        parts = {**parts, "shortcut": sequential(down, norm(wider))}

    def forward(x: Any, shortcut: Callable[..., Any] | None = None, **trunk: Callable[..., Any]) -> Any:
        y = x
        for number in range(len(trunk) // 2):
            y = relu(y) if number else y
            y = trunk[f"norm_{number}"](trunk[f"conv_{number}"](y))
        return relu(y + (x if shortcut is None else shortcut(x)))

    return cast(StatefulLayer, combine(parts, forward, name=name))
