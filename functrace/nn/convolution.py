"""Convolutions over any number of spatial axes, with the channels last: NWC, NHWC, NDHWC.

That is the layout of JAX, flax and TensorFlow, and the one that XLA likes best. For channels first, PyTorch's NCHW,
move the axis at the model's edges: `fnp.moveaxis(x, 1, -1)` before, `fnp.moveaxis(y, -1, 1)` after.
A kernel has shape `[*kernel_size, in_channels // groups, out_channels]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError
from functrace.nn.checking import (
    Padding,
    Parts,
    channels_last,
    count,
    counts,
    failure,
    for_each,
    initial,
    pads,
    parameters,
    same_pads,
)
from functrace.nn.initializers import Initializer, lecun_normal, zeros
from functrace.nn.layer import Layer
from functrace.nn.scoping import scoped


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer = zeros,
    dtype: Any = None,
    name: str = "conv",
) -> Layer:
    """The layer that convolves (cross-correlates, as everywhere in deep learning) x with a kernel, and adds a bias.

    `len(kernel_size)` is the number of spatial axes: `(3,)` for sequences, `(3, 3)` for images, `(3, 3, 3)` for
    volumes. Params: `{"kernel": [*kernel_size, in_channels // groups, out_channels], "bias": [out_channels]}`.

    Args:
      in_channels, out_channels: the lengths of the last axis of x and of y.
      kernel_size: a size for each spatial axis.
      strides, dilation: one for all spatial axes, or one for each.
      padding: "SAME", as many outputs as inputs over the stride; "VALID", none; one number for all ends; or for each
        spatial axis a number or a pair (before, after). With strides "SAME" may pad more after than before; for what
        PyTorch computes give its number.
      groups: channels are cut into so many groups, each with a kernel of its own.
      use_bias: False leaves the bias out, as before a batch norm.
      kernel_init: by default `lecun_normal()`; before a ReLU `he_normal()`.
      bias_init: an initialiser; zeros.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A Layer from `[..., *spatial, in_channels]` to `[..., *spatial, out_channels]`, with any number of batch axes,
      also none.
    Raises:
      ArgumentError: a size is not at least 1, the groups do not divide the channels; from `apply`, when the kernel is
        larger than x with its padding.
      ShapeError: from `apply`, when x or params do not fit.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.conv(3, 8, (5, 5), strides=2)
    >>> layer.apply(layer.init(random.key(0)), fnp.ones((4, 32, 32, 3))).shape
    (4, 16, 16, 8)
    """
    parts = _parts("conv", in_channels, out_channels, kernel_size, groups, use_bias, kernel_init, bias_init)
    size = parts["kernel"][0][:-2]
    axes = len(size)
    strides, dilation = for_each("conv", "strides", strides, axes), for_each("conv", "dilation", dilation, axes)
    spans = _spans(size, dilation)
    pads("conv", padding, axes, lambda axis: (0, 0))

    def convolved(x: Any, kernel: Any) -> Any:
        spatial = x.shape[-axes - 1 : -1]
        pairs = pads("conv", padding, axes, lambda i: same_pads(spatial[i], spans[i], strides[i]))
        if any(n + sum(pair) < span for n, pair, span in zip(spatial, pairs, spans, strict=True)):
            raise failure(
                ArgumentError,
                "conv",
                f"x has shape {x.shape} and the kernel spans {spans} with dilation {dilation}; it is larger than the "
                f"spatial axes {spatial} with padding {pairs}. Pad more, or take a smaller kernel.",
            )
        return _convolve(x, kernel, strides, pairs, (1,) * axes, dilation, groups)

    return _layer("conv", name, in_channels, parts, dtype, convolved)


def conv_transpose(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer = zeros,
    dtype: Any = None,
    name: str = "conv_transpose",
) -> Layer:
    """The layer that is the transpose of a convolution: it makes spatial axes `strides` times longer.

    Each entry of x adds the kernel, times itself, to y at `strides` times its place, and `padding` is then cut off the
    ends: the transpose of the `conv` with these options, as in PyTorch. An axis of n entries gets
    `(n - 1) * stride + dilation * (kernel_size - 1) + 1 - cut + output_padding`, which is `n * stride` for "SAME".
    Params: `{"kernel": [*kernel_size, in_channels // groups, out_channels], "bias": [out_channels]}`.

    Args:
      in_channels, out_channels: the lengths of the last axis of x and of y.
      kernel_size: a size for each spatial axis; their number is that of the spatial axes.
      strides, dilation: one for all spatial axes, or one for each.
      padding: what to cut off: "SAME", "VALID" for nothing, or numbers as for `conv`.
      output_padding: how much longer to leave the far end, which tells apart the lengths that a `conv` with strides
        makes equal; less than the stride, and 0 with "SAME".
      groups, use_bias, kernel_init, bias_init, dtype, name: as for `conv`.
    Returns:
      A Layer from `[..., *spatial, in_channels]` to `[..., *spatial, out_channels]`.
    Raises:
      ArgumentError: a size is not at least 1, the groups do not divide the channels, an output_padding is not less
        than its stride; from `apply`, when the padding cuts everything off.
      ShapeError: from `apply`, when x or params do not fit.
    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.conv_transpose(8, 3, (4, 4), strides=2)
    >>> layer.apply(layer.init(random.key(0)), fnp.ones((1, 16, 16, 8))).shape
    (1, 32, 32, 3)
    """
    owner = "conv_transpose"
    parts = _parts(owner, in_channels, out_channels, kernel_size, groups, use_bias, kernel_init, bias_init)
    size = parts["kernel"][0][:-2]
    axes = len(size)
    strides, dilation = for_each(owner, "strides", strides, axes), for_each(owner, "dilation", dilation, axes)
    spans = _spans(size, dilation)
    extra = (output_padding,) * axes if isinstance(output_padding, int) else tuple(output_padding)
    same = isinstance(padding, str) and padding.upper() == "SAME"
    bounds = [1 if same else stride for stride in strides]
    if len(extra) != axes or not all(0 <= e < bound for e, bound in zip(extra, bounds, strict=True)):
        raise failure(
            ArgumentError,
            owner,
            f"output_padding is {output_padding!r}; with strides {strides} and padding {padding!r} numbers from 0 to "
            f"{tuple([bound - 1 for bound in bounds])} were expected.",
        )

    def cut(axis: int) -> tuple[int, int]:  # may be negative: y is then longer than what the kernels reach
        total = spans[axis] - strides[axis]
        return max(total, 0) // 2, total - max(total, 0) // 2

    cuts = pads(owner, padding, axes, cut)
    pairs = tuple([
        (span - 1 - low, span - 1 - high + e) for span, (low, high), e in zip(spans, cuts, extra, strict=True)
    ])  # fmt: skip

    def convolved(x: Any, kernel: Any) -> Any:
        spatial = x.shape[-axes - 1 : -1]
        grown = [(n - 1) * s + 1 + sum(p) - k + 1 for n, s, p, k in zip(spatial, strides, pairs, spans, strict=True)]
        if min(grown) < 1:
            raise failure(
                ArgumentError,
                owner,
                f"x has shape {x.shape}; padding {cuts} cuts off all there is, and leaves spatial axes of {grown}.",
            )
        flipped = fnp.flip(kernel, tuple(range(axes)))
        return _convolve(x, flipped, (1,) * axes, pairs, strides, dilation, groups)

    return _layer(owner, name, in_channels, parts, dtype, convolved)


def _parts(
    owner: str,
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    groups: int,
    use_bias: bool,
    kernel_init: Initializer | None,
    bias_init: Initializer,
) -> Parts:
    """The shapes of the params, with their initialisers."""
    ins, outs = count(owner, "in_channels", in_channels), count(owner, "out_channels", out_channels)
    size, groups = counts(owner, "kernel_size", kernel_size), count(owner, "groups", groups)
    if ins % groups or outs % groups:
        raise failure(
            ArgumentError, owner, f"{groups} groups must divide both in_channels {ins} and out_channels {outs}."
        )
    parts: Parts = {"kernel": ((*size, ins // groups, outs), kernel_init or lecun_normal())}
    if use_bias:
        parts["bias"] = ((outs,), bias_init)
    return parts


def _layer(
    owner: str, name: str, in_channels: int, parts: Parts, dtype: Any, convolved: Callable[[Any, Any], Any]
) -> Layer:
    """The layer `convolved(x, kernel) + bias`."""
    shapes = {part: shape for part, (shape, _) in parts.items()}
    axes = len(shapes["kernel"]) - 2

    def init(key: Any) -> Any:
        return initial(key, parts, dtype)

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        kernel, *bias = parameters(owner, params, shapes)
        x = channels_last(owner, x, in_channels, axes, f"params['kernel'] of shape {shapes['kernel']}")
        y = convolved(x, kernel)
        return y + bias[0] if bias else y

    return scoped(Layer(init, apply, name))


def _spans(size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How many entries the ends of a dilated kernel are apart, both included."""
    return tuple([(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)])


def _convolve(x: Any, kernel: Any, strides: Any, pairs: Any, x_dilation: Any, kernel_dilation: Any, groups: int) -> Any:
    """`lax.conv_general_dilated` of channels-last operands, with any number of batch axes."""
    axes = len(strides)
    dtype = fnp.promote_types(x.dtype, kernel.dtype)
    batch = x.shape[: -axes - 1]
    rows = x.reshape(math.prod(batch), *x.shape[-axes - 1 :]) if len(batch) != 1 else x
    outer, inner = (0, axes + 1), tuple(range(1, axes + 1))
    layout = lax.ConvDimensionNumbers((*outer, *inner), (axes + 1, axes, *range(axes)), (*outer, *inner))
    y = lax.conv_general_dilated(
        rows.astype(dtype), kernel.astype(dtype), strides, pairs, x_dilation, kernel_dilation, layout, groups
    )
    return y.reshape(*batch, *y.shape[1:]) if len(batch) != 1 else y
