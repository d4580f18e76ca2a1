"""Convolution in any number of spatial dimensions, grouped, strided and dilated.

With m the batch, j the input features, k the output features and g groups, and spatial axes left
out, `x` is convolved with `w` and transposed as products are:

    plain               [m, j] [j, k] -> [m, k]
    feature groups      [m, gj] [j, gk] -> [m, gk]      in x: feature groups     in w: batch groups
    batch groups        [gm, j] [j, gk] -> [m, gk]      in x: feature groups     in w: feature groups
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Sample, Work, primitive
from functrace.ir.dependence import Matrix, Site
from functrace.primitives.contraction import (
    BF16,
    Bilinear,
    Dims,
    Precision,
    as_dtype,
    behind,
    dtype_or_none,
    jax_precision,
    matrices,
    precision_names,
    products,
    squares_of_product,
)
from functrace.primitives.elementwise import C64, F32, I32
from functrace.primitives.space import move_axis, reshape, transpose, zeros
from functrace.primitives.stacking import stack
from functrace.primitives.structural import pad, rev, slice_

Padding = tuple[tuple[int, int], ...]

MOST_PATCHES = 256  # that are taken out one by one


def dilated(n: int, dilation: int) -> int:
    """The length of `n` elements with gaps between them."""
    return 0 if n == 0 else 1 + dilation * (n - 1)


def dilated_shape(shape: Dims, dilation: Dims) -> Dims:
    """The lengths of all axes with gaps between their elements."""
    return tuple([dilated(n, d) for n, d in zip(shape, dilation, strict=True)])


def window_count(n: int, window: int, stride: int) -> int:
    """How many windows there are in a length `n`."""
    return 0 if n < window else (n - window) // stride + 1


def extents(
    x: Dims, window: Dims, strides: Dims, y: Dims, padding: Padding, x_dilation: Dims, dilation: Dims
) -> list[tuple[int, int, int, int]]:
    """For each spatial axis the lengths of input, window and result, gaps counted, and the low padding."""
    lengths = dilated_shape(x, x_dilation), dilated_shape(window, dilation), dilated_shape(y, strides)
    return list(zip(*lengths, [low for low, _ in padding], strict=True))


def meeting(n: int, window: int, m: int, stride: int, padding: tuple[int, int], x_dilation: int, dilation: int) -> int:
    """How often, along one axis, an element of a window meets one of the input: not padding, and no gap."""
    places = [i * stride + k * dilation - padding[0] for i in range(m) for k in range(window)]
    return sum([p >= 0 and p % x_dilation == 0 and p // x_dilation < n for p in places])


def padding_in_input(*dims: Any) -> Padding:
    """Padding of the result's cotangent in the convolution that is the transpose in the input.

    The arguments are those of `extents`.
    """
    return tuple([(w - low - 1, n + low - m) for n, w, m, low in extents(*dims)])


def padding_in_window(*dims: Any) -> Padding:
    """Padding of the input in the convolution that is the transpose in the window: see `extents`."""
    return tuple([(low, m - n + w - low - 1) for n, w, m, low in extents(*dims)])


def places_of_windows(
    x: Dims, window: Dims, strides: Dims, padding: Padding, x_dilation: Dims, dilation: Dims
) -> Any:
    """For each window and each place in it, row by row, the number of the entry there; -1 for padding and gaps."""
    found = np.zeros((1, 1), np.int64)
    for n, m, stride, (low, high), gap, spread in zip(x, window, strides, padding, x_dilation, dilation, strict=True):
        windows = window_count(low + dilated(n, gap) + high, dilated(m, spread), stride)
        at = np.arange(windows)[:, None] * stride + np.arange(m) * spread - low
        along = np.where((at >= 0) & (at % gap == 0) & (at // gap < n), at // gap, -1)
        both = np.where((found[:, None, :, None] < 0) | (along[None, :, None, :] < 0), -1,
                        found[:, None, :, None] * n + along[None, :, None, :])  # fmt: skip
        found = both.reshape(found.shape[0] * windows, found.shape[1] * m)
    return found


def merge_axis(x: Atom, source: int, destination: int) -> Atom:
    """`x` with an axis merged into another as its slower part.

    `destination` is that axis's number once `source` is gone.
    """
    moved = move_axis(x, source, destination)
    shape = moved.aval.shape
    d = destination
    return reshape(moved, (*shape[:d], shape[d] * shape[d + 1], *shape[d + 2 :]))


def split_axis(x: Atom, axis: int, size: int) -> Atom:
    """`x` with an axis taken apart into one of `size` and the rest, the undoing of `merge_axis`."""
    shape = x.aval.shape
    return reshape(x, (*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :]))


def swapped(spec: Dims) -> Dims:
    """Axis numbers with batch and feature exchanged."""
    return (spec[1], spec[0], *spec[2:])


def at(shape: Dims, axes: Dims) -> Dims:
    """The sizes of some axes."""
    return tuple([shape[i] for i in axes])


@primitive
class ConvGeneralDilated(Bilinear):
    """Windows `w` moved over `x`, products summed over the window and the input features.

    `dimension_numbers` are the axes (batch, feature, spatial ...) of x, (output feature, input
    feature, spatial ...) of w, and (batch, feature, spatial ...) of the result. Precision is as of
    `dot_general`, without algorithms.
    """

    name = "conv_general_dilated"
    jax_names = ("conv_general_dilated",)
    window_strides: Dims
    padding: Padding
    lhs_dilation: Dims
    rhs_dilation: Dims
    dimension_numbers: tuple[Dims, Dims, Dims]
    feature_group_count: int = 1
    batch_group_count: int = 1
    precision: Precision = None
    preferred_element_type: Any = None

    def samples(self) -> Iterator[Sample]:
        line: Any = ((0, 1, 2),) * 3
        channels_last = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        mixed = ((2, 1, 0), (1, 2, 0), (1, 0, 2))
        plain = ConvGeneralDilated((1,), ((0, 0),), (1,), (1,), line)
        yield Sample(plain, (Aval((2, 3, 5), F32), Aval((4, 3, 2), F32)))
        yield Sample(plain, (Aval((1, 2, 4), C64), Aval((2, 2, 3), C64)))
        yield Sample(plain, (Aval((1, 2, 4), I32), Aval((2, 2, 3), I32)))
        yield Sample(plain, (Aval((0, 2, 4), F32), Aval((2, 2, 3), F32)))
        yield Sample(plain, (Aval((2, 2, 2), F32), Aval((2, 2, 3), F32)))
        image = ConvGeneralDilated((2, 1), ((1, 0), (0, 2)), (1, 2), (2, 1), channels_last)
        yield Sample(image, (Aval((2, 5, 3, 2), F32), Aval((2, 3, 2, 3), F32)))
        cropped = ConvGeneralDilated((2,), ((-1, 1),), (2,), (2,), mixed)
        yield Sample(cropped, (Aval((5, 3, 2), F32), Aval((2, 4, 3), F32)))
        grouped = replace(image, feature_group_count=2)
        yield Sample(grouped, (Aval((2, 5, 3, 4), F32), Aval((2, 2, 2, 6), F32)))
        yield Sample(replace(cropped, feature_group_count=3), (Aval((5, 6, 2), F32), Aval((2, 3, 2), F32)))
        batches = replace(image, batch_group_count=2)
        yield Sample(batches, (Aval((4, 5, 3, 2), F32), Aval((2, 2, 2, 6), F32)))
        yield Sample(replace(cropped, batch_group_count=2), (Aval((5, 3, 4), F32), Aval((2, 4, 3), F32)))
        none = ConvGeneralDilated((), (), (), (), ((0, 1), (1, 0), (0, 1)))
        yield Sample(none, (Aval((2, 3), F32), Aval((3, 4), F32)))
        wide = replace(plain, precision=("HIGHEST", "HIGHEST"), preferred_element_type=F32)
        yield Sample(wide, (Aval((1, 2, 4), BF16), Aval((2, 2, 3), BF16)))

    def shape(self, *xs: Aval) -> Aval:
        x, w = xs
        of_x, of_w, of_y = self.dimension_numbers
        rank, groups, batches = len(of_x) - 2, self.feature_group_count, self.batch_group_count
        params = (self.window_strides, self.padding, self.lhs_dilation, self.rhs_dilation)
        if x.ndim != len(of_x) or w.ndim != len(of_w) or any([len(p) != rank for p in params]):
            raise ShapeError(
                f"conv_general_dilated: {x} and {w} do not have the ranks of {self.dimension_numbers} "
                f"with {rank} spatial axes"
            )
        n, features, out = x.shape[of_x[0]], x.shape[of_x[1]], w.shape[of_w[0]]
        if features != groups * w.shape[of_w[1]]:
            raise ShapeError(
                f"conv_general_dilated: {x} has {features} features and the windows {w} take "
                f"{w.shape[of_w[1]]} in each of {groups} groups"
            )
        if out % groups or out % batches or n % batches or (groups > 1 and batches > 1):
            raise ShapeError(
                f"conv_general_dilated: {x} and {w} cannot be taken in {groups} feature groups and "
                f"{batches} batch groups: they must divide the output features and the batch, and "
                "one of them must be 1"
            )
        if x.dtype != w.dtype:
            raise ShapeError(f"conv_general_dilated: dtypes of {x} and {w} differ; cast one of them")
        windows = dilated_shape(at(w.shape, of_w[2:]), self.rhs_dilation)
        sizes = [
            low + high + m
            for m, (low, high) in zip(
                dilated_shape(at(x.shape, of_x[2:]), self.lhs_dilation), self.padding, strict=True
            )
        ]
        if any([m < 0 for m in sizes]):
            raise ShapeError(f"conv_general_dilated: padding {self.padding} takes more than {x} has")
        counts = map(window_count, sizes, windows, self.window_strides)
        shape = [0] * len(of_y)
        for axis, m in zip(of_y, (n // batches, out, *counts), strict=True):
            shape[axis] = m
        dtype = self.preferred_element_type
        dtype = x.dtype if dtype is None else dtype
        return Aval(tuple(shape), dtype, x.weak_type and w.weak_type)

    def work(self, *xs: Aval) -> Work:
        x, w = xs
        of_x, of_w, of_y = self.dimension_numbers
        y = self.shape(*xs)
        geometry = zip(
            at(x.shape, of_x[2:]), at(w.shape, of_w[2:]), at(y.shape, of_y[2:]), self.window_strides, self.padding,
            self.lhs_dilation, self.rhs_dilation, strict=True,
        )  # fmt: skip
        meetings = math.prod([meeting(*along) for along in geometry])
        return Work(2 * y.shape[of_y[0]] * y.shape[of_y[1]] * w.shape[of_w[1]] * meetings)

    def lower(self, x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(
            x,
            w,
            self.window_strides,
            self.padding,
            self.lhs_dilation,
            self.rhs_dilation,
            lax.ConvDimensionNumbers(*self.dimension_numbers),
            self.feature_group_count,
            self.batch_group_count,
            jax_precision(self.precision),
            self.preferred_element_type,
        )

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        (x, w), (y,) = [v.aval for v in at.operands], at.results
        xs, ws, ys = [
            np.arange(a.size).reshape(a.shape).transpose(spec)
            for a, spec in zip((x, w, y), self.dimension_numbers, strict=True)
        ]
        groups, batches = self.feature_group_count, self.batch_group_count
        out, features, *window = ws.shape
        places = places_of_windows(
            xs.shape[2:], tuple(window), self.window_strides, self.padding, self.lhs_dilation, self.rhs_dilation
        )
        # Axes: batch, output feature, place of the window, input feature, place in the window.
        counts = (ys.shape[0], out, len(places), features, math.prod(window))
        n, o, p, i, k = np.ix_(*[np.arange(m) for m in counts])
        group = o // max(out // groups, 1)
        row_of_x = n + o // max(out // batches, 1) * ys.shape[0]
        place = places[p, k]
        there = np.broadcast_to(place >= 0, counts)
        flat = [a.reshape(*a.shape[:2], math.prod(a.shape[2:])) for a in (xs, ws, ys)]
        of_x = flat[0][row_of_x, group * features + i, place] if x.size else place
        met = np.broadcast_arrays(flat[2][n, o, p], of_x, flat[1][o, i, k])
        return [products(at, *[a[there] for a in met])]

    def in_common(self, i: int, x: Aval, other: Aval) -> list[tuple[int, int]]:
        of_x, of_w, of_y = self.dimension_numbers
        if i == 0:
            return [(of_y[0], of_x[0])] if self.batch_group_count == 1 else []
        return [(of_y[1], of_w[0])]

    def transpose_in(self, i: int, ct: Atom, x: Aval, other: Atom) -> Atom | None:
        of_x, of_w, of_y = self.dimension_numbers
        shapes = (x.shape, other.aval.shape) if i == 0 else (other.aval.shape, x.shape)
        geometry = (
            at(shapes[0], of_x[2:]),
            at(shapes[1], of_w[2:]),
            self.window_strides,
            at(ct.aval.shape, of_y[2:]),
            self.padding,
            self.lhs_dilation,
            self.rhs_dilation,
        )
        other = as_dtype(other, ct.aval.dtype)
        if i == 0:
            return as_dtype(self.transpose_in_x(ct, other, padding_in_input(*geometry)), x.dtype)
        if ct.aval.size == 0:
            return None
        groups, batches = self.feature_group_count, self.batch_group_count
        conv = replace(
            self,
            window_strides=self.rhs_dilation,
            padding=padding_in_window(*geometry),
            rhs_dilation=self.window_strides,
            dimension_numbers=(swapped(of_x), swapped(of_y), swapped(of_w)),
            feature_group_count=batches,
            batch_group_count=groups,
        )
        return as_dtype(conv(other, ct), x.dtype)

    def transpose_in_x(self, ct: Atom, w: Atom, padding: Padding) -> Atom:
        """The cotangent of the input: the cotangent convolved with the windows reversed."""
        of_x, of_w, of_y = self.dimension_numbers
        groups, batches = self.feature_group_count, self.batch_group_count
        if groups > 1 or batches > 1:  # a group's windows go from the output to the input features
            w = merge_axis(split_axis(w, of_w[0], max(groups, batches)), of_w[0], of_w[1])
        conv = replace(
            self,
            window_strides=self.lhs_dilation,
            padding=padding,
            lhs_dilation=self.window_strides,
            dimension_numbers=(of_y, swapped(of_w), of_x),
            feature_group_count=max(groups, batches),
            batch_group_count=1,
        )
        ct_x = conv(ct, rev(w, of_w[2:]))
        if batches > 1:
            ct_x = merge_axis(split_axis(ct_x, of_x[1], batches), of_x[1], of_x[0])
        return ct_x

    def squares(self, *xs: Any) -> Any:
        x, w = xs
        of_x, of_w, of_y = self.dimension_numbers
        places = at(self.shape(x.aval, w.aval).shape, of_y[2:])
        if max(self.feature_group_count, self.batch_group_count) > 1 or not 0 < math.prod(places) <= MOST_PATCHES:
            return None
        seen = self.patches(transpose(x, of_x), at(w.aval.shape, of_w[2:]), places)
        rows = tuple(range(1, len(of_w)))  # the features, and the window
        left, right = matrices(seen, (), behind(rows)), matrices(transpose(w, of_w), (), rows)
        return squares_of_product(left, right, self.precision)

    def patches(self, x: Atom, window: Dims, places: Dims) -> Atom:
        """What each place of the result sees of `x`, whose axes are batch, feature, spatial: places come first."""
        gaps = [(low, high, gap - 1) for (low, high), gap in zip(self.padding, self.lhs_dilation, strict=True)]
        x = pad(x, 0, ((0, 0, 0), (0, 0, 0), *gaps))
        spans = [(n - 1) * step + 1 for n, step in zip(window, self.rhs_dilation, strict=True)]
        seen = []
        for place in itertools.product(*[range(n) for n in places]):
            starts = [p * stride for p, stride in zip(place, self.window_strides, strict=True)]
            stops = [start + span for start, span in zip(starts, spans, strict=True)]
            seen.append(slice_(x, (0, 0, *starts), (*x.aval.shape[:2], *stops), (1, 1, *self.rhs_dilation)))
        return stack(seen, 0)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        x, w = xs
        of_x, of_w, of_y = self.dimension_numbers
        groups, batches = self.feature_group_count, self.batch_group_count
        if size == 0:
            avals = [v.aval.with_shape(v.aval.shape[b:]) for v, b in zip(xs, batched, strict=True)]
            y = self.shape(*avals)
            return zeros(y.with_shape((0, *y.shape))), True
        if all(batched):  # as one more grouping
            w = merge_axis(w, 0, of_w[0])
            if batches > 1:
                conv = replace(self, batch_group_count=batches * size)
                y = conv(merge_axis(x, 0, of_x[0]), w)
            else:
                conv = replace(self, feature_group_count=groups * size)
                y = conv(merge_axis(x, 0, of_x[1]), w)
            return move_axis(split_axis(y, of_y[1], size), of_y[1], 0), True
        if batched[0]:  # as part of the batch
            x = merge_in_groups(x, of_x[0], batches)
            return move_axis(split_axis(self(x, w), of_y[0], size), of_y[0], 0), True
        # As part of the output features, where groups come first.
        count = max(groups, batches)
        y = self(x, merge_in_groups(w, of_w[0], count))
        if count == 1:
            return move_axis(split_axis(y, of_y[1], size), of_y[1], 0), True
        y = split_axis(split_axis(y, of_y[1], count), of_y[1] + 1, size)
        return move_axis(merge_axis(y, of_y[1], of_y[1] + 1), of_y[1], 0), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> ConvGeneralDilated | None:
        if params["out_sharding"] is not None:
            return None

        def ints(values: Any) -> Dims:
            return tuple([int(v) for v in values])

        numbers = params["dimension_numbers"]
        return cls(
            ints(params["window_strides"]),
            tuple([(int(low), int(high)) for low, high in params["padding"]]),
            ints(params["lhs_dilation"]),
            ints(params["rhs_dilation"]),
            (ints(numbers.lhs_spec), ints(numbers.rhs_spec), ints(numbers.out_spec)),
            int(params["feature_group_count"]),
            int(params["batch_group_count"]),
            precision_names(params["precision"]),
            dtype_or_none(params["preferred_element_type"]),
        )


def merge_in_groups(x: Atom, axis: int, groups: int) -> Atom:
    """`x` with its leading axis merged into what is `axis` without it, inside of its groups."""
    if groups == 1:
        return merge_axis(x, 0, axis)
    return merge_axis(merge_axis(split_axis(x, axis + 1, groups), 0, axis + 1), axis, axis)


def conv_general_dilated(
    x: Atom,
    w: Atom,
    window_strides: Dims,
    padding: Padding,
    lhs_dilation: Dims,
    rhs_dilation: Dims,
    dimension_numbers: tuple[Dims, Dims, Dims],
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Precision = None,
    preferred_element_type: Any = None,
) -> Atom:
    """Windows `w` moved over `x`; every parameter as in `ConvGeneralDilated`."""
    conv = ConvGeneralDilated(
        window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
        batch_group_count, precision, dtype_or_none(preferred_element_type),
    )  # fmt: skip
    return conv(x, w)
