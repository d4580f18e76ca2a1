"""Pools: functions of arrays with the channels last, `[..., *spatial, channels]`, and any number of batch axes.

They have no params: as a layer of a model, `nn.as_layer(nn.max_pool, window=(2, 2))`, or in `sequential`
`partial(nn.max_pool, window=(2, 2))`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import Array

from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.nn.checking import Padding, counts, failure, for_each, inexact, pads, same_pads

ArrayLike = Any


def max_pool(
    x: ArrayLike,
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> Array:
    """The largest element of each window. The gradient goes to the first one that is largest.

    Args:
      x: floating or of integers, `[..., *spatial, channels]`.
      window: a size for each spatial axis.
      strides: how far windows are apart; by default the window, so that they touch.
      padding: "VALID", "SAME", one number for all ends, or for each spatial axis a number or a pair (before, after).
        No padding is ever the largest.
      dilation: how far the elements of a window are apart, one number for all spatial axes, or one for each.
    Returns:
      An array of the dtype of x.
    Raises:
      ArgumentError: a size is not at least 1; the window is larger than x with its padding, or some window would have
        padding only.
      ShapeError: x has too few axes.

    >>> max_pool(fnp.arange(8.0).reshape(4, 2), (2,)).tolist()
    [[2.0, 3.0], [6.0, 7.0]]
    >>> max_pool(fnp.arange(6.0)[:, None], (2,), strides=1, dilation=3).tolist()
    [[3.0], [4.0], [5.0]]
    """
    x = fnp.asarray(x)
    if fnp.issubdtype(x.dtype, fnp.floating):
        lowest = -np.inf
    elif fnp.issubdtype(x.dtype, fnp.integer):
        lowest = int(fnp.iinfo(x.dtype).min)
    else:
        raise failure(DtypeError, "max_pool", f"x has dtype {x.dtype}; a floating one or integers were expected.")
    return _pool("max_pool", x, lowest, lax.max, window, strides, padding, dilation)


def avg_pool(
    x: ArrayLike,
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    *,
    count_padding: bool = True,
) -> Array:
    """The mean of each window.

    Args:
      x: floating or complex, `[..., *spatial, channels]`.
      window: a size for each spatial axis.
      strides: how far windows are apart; by default the window, so that they touch.
      padding, dilation: as for `max_pool`; padding is zeros.
      count_padding: False divides by the number of elements that are not padding.
    Returns:
      An array of the dtype of x.
    Raises:
      ArgumentError: a size is not at least 1; the window is larger than x with its padding, or some window would have
        padding only.
      ShapeError: x has too few axes.
      DtypeError: x is of integers.

    >>> avg_pool(fnp.arange(8.0).reshape(4, 2), (2,)).tolist()
    [[1.0, 2.0], [5.0, 6.0]]
    """
    x = inexact("avg_pool", x)
    wide = x.astype(fnp.promote_types(x.dtype, fnp.float32))
    total = _pool("avg_pool", wide, 0.0, lax.add, window, strides, padding, dilation)
    if count_padding:
        members = np.prod(window)
    else:
        ones = fnp.ones((*x.shape[-len(window) - 1 : -1], 1), wide.dtype)
        members = _pool("avg_pool", ones, 0.0, lax.add, window, strides, padding, dilation)
    return (total / members).astype(x.dtype)


def adaptive_max_pool(x: ArrayLike, output_size: Sequence[int]) -> Array:
    """The largest element of each of `output_size` windows, which cover each spatial axis as evenly as they can.

    Window i of m along an axis of n goes from `floor(i n / m)` to `ceil((i + 1) n / m)`, as in PyTorch.

    Args:
      x: floating, `[..., *spatial, channels]`.
      output_size: the number of windows along each spatial axis.
    Returns:
      An array `[..., *output_size, channels]`.
    Raises:
      ArgumentError: a size is not at least 1.
      ShapeError: x has too few axes, or an empty spatial one.

    >>> adaptive_max_pool(fnp.arange(5.0)[:, None], (2,)).tolist()
    [[2.0], [4.0]]
    """
    return _adaptive("adaptive_max_pool", x, output_size, fnp.max, initial=-np.inf)


def adaptive_avg_pool(x: ArrayLike, output_size: Sequence[int]) -> Array:
    """The mean of each of `output_size` windows, which cover each spatial axis as evenly as they can.

    Args:
      x: floating or complex, `[..., *spatial, channels]`.
      output_size: the number of windows along each spatial axis; they are those of `adaptive_max_pool`.
    Returns:
      An array `[..., *output_size, channels]`.
    Raises:
      ArgumentError: a size is not at least 1.
      ShapeError: x has too few axes, or an empty spatial one.

    >>> adaptive_avg_pool(fnp.arange(5.0)[:, None], (2,)).tolist()
    [[1.0], [3.0]]
    """
    return _adaptive("adaptive_avg_pool", x, output_size, fnp.mean)


def global_max_pool(x: ArrayLike, *, batch_axes: int = 1) -> Array:
    """The largest element of each channel of each example.

    Args:
      x: `[batch, *spatial, channels]`.
      batch_axes: how many leading axes count examples; 0 for one alone, as in a vmap.
    Returns:
      An array `[batch, channels]`.
    Raises:
      ShapeError: x has no spatial axis.

    >>> global_max_pool(fnp.arange(8.0).reshape(2, 2, 2)).tolist()
    [[2.0, 3.0], [6.0, 7.0]]
    """
    return fnp.max(fnp.asarray(x), _spatial("global_max_pool", x, batch_axes))


def global_avg_pool(x: ArrayLike, *, batch_axes: int = 1) -> Array:
    """The mean of each channel of each example.

    Args:
      x: `[batch, *spatial, channels]`.
      batch_axes: how many leading axes count examples; 0 for one alone, as in a vmap.
    Returns:
      An array `[batch, channels]`.
    Raises:
      ShapeError: x has no spatial axis.
      DtypeError: x is of integers.

    >>> global_avg_pool(fnp.arange(8.0).reshape(2, 2, 2)).tolist()
    [[1.0, 2.0], [5.0, 6.0]]
    """
    return fnp.mean(inexact("global_avg_pool", x), _spatial("global_avg_pool", x, batch_axes))


def flatten(x: ArrayLike, *, batch_axes: int = 1) -> Array:
    """All axes but the leading ones made one.

    Args:
      x: of any shape.
      batch_axes: how many leading axes stay.
    Returns:
      An array `[batch, features]`.
    Raises:
      ShapeError: x has fewer axes than those.

    >>> flatten(fnp.ones((8, 4, 4, 3))).shape
    (8, 48)
    """
    x = fnp.asarray(x)
    if x.ndim < batch_axes:
        raise failure(ShapeError, "flatten", f"x has shape {x.shape}; {batch_axes} batch axes were expected.")
    return x.reshape(*x.shape[:batch_axes], int(np.prod(x.shape[batch_axes:])))


def _pool(
    owner: str, x: Any, start: Any, combine: Any, window: Any, strides: Any, padding: Padding, dilation: Any
) -> Any:
    """`lax.reduce_window` over the spatial axes, the last ones but one."""
    window = counts(owner, "window", window)
    axes = len(window)
    strides = window if strides is None else for_each(owner, "strides", strides, axes)
    dilation = for_each(owner, "dilation", dilation, axes)
    spatial = _sizes(owner, x, axes)
    spans = tuple([(size - 1) * d + 1 for size, d in zip(window, dilation, strict=True)])
    pairs = pads(owner, padding, axes, lambda i: same_pads(spatial[i], spans[i], strides[i]))
    shown = f"window {window}" + (f" with dilation {dilation}" if spans != window else "")
    for n, pair, span, stride, d in zip(spatial, pairs, spans, strides, dilation, strict=True):
        if n + sum(pair) < span:
            raise failure(
                ArgumentError,
                owner,
                f"x has shape {x.shape} and {shown} is larger than the spatial axes "
                f"{spatial} with padding {pairs}. Pad more, take a smaller window, or a global or an adaptive pool.",
            )
        starts = np.arange(0, n + sum(pair) - span + 1, stride)
        first = starts + np.maximum(-((starts - pair[0]) // d), 0) * d  # the first place that is not before x
        if np.any(first >= np.minimum(starts + span, pair[0] + n)):
            raise failure(
                ArgumentError,
                owner,
                f"x has spatial axes {spatial} with padding {pairs}; some {shown} would hold padding only. Pad less.",
            )
    lead = x.ndim - axes - 1
    around = lambda middle, end: (*[end] * lead, *middle, end)
    return lax.reduce_window(
        x, start, combine, around(window, 1), around(strides, 1), around(pairs, (0, 0)), None, around(dilation, 1)
    )


def _adaptive(owner: str, x: Any, output_size: Any, reduce: Callable[..., Any], **options: Any) -> Any:
    """The spatial axes reduced to `output_size`, one after the other."""
    x = inexact(owner, x)
    sizes = counts(owner, "output_size", output_size)
    spatial = _sizes(owner, x, len(sizes))
    if 0 in spatial:
        raise failure(ShapeError, owner, f"x has shape {x.shape}, with nothing along a spatial axis.")
    for axis, (n, m) in enumerate(zip(spatial, sizes, strict=True), start=x.ndim - len(sizes) - 1):
        if n % m == 0:
            x = reduce(x.reshape(*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]), axis + 1)
            continue
        starts, ends = np.arange(m) * n // m, -(-(np.arange(m) + 1) * n // m)
        longest = (ends - starts).max()
        places = starts[:, None] + np.arange(longest)  # [m, longest], of which each row uses those before its end
        inside = (places < ends[:, None]).reshape(m, longest, *[1] * (x.ndim - axis - 1))
        x = reduce(fnp.take(x, np.minimum(places, n - 1), axis), axis + 1, where=inside, **options)
    return x


def _sizes(owner: str, x: Any, axes: int) -> tuple[int, ...]:
    """The lengths of that many spatial axes."""
    if x.ndim < axes + 1:
        expected = ", ".join(["...", *["spatial"] * axes, "channels"])
        raise failure(ShapeError, owner, f"x has shape {x.shape}; [{expected}] was expected.")
    return x.shape[-axes - 1 : -1]


def _spatial(owner: str, x: Any, batch_axes: int) -> tuple[int, ...]:
    """The axes between those of the batch and that of the channels."""
    shape = fnp.shape(x)
    if len(shape) < batch_axes + 2:
        raise failure(
            ShapeError,
            owner,
            f"x has shape {shape}; {batch_axes} batch axes, spatial ones and channels were expected.",
        )
    return tuple(range(batch_axes, len(shape) - 1))
