"""Reductions over moving windows, which are pooling: sum, maximum, minimum.

    reduce_window_sum        linear; its transpose sums windows of the padded cotangent
    reduce_window_max, min   their derivative is select_and_gather_add
    select_and_gather_add    tangents picked where the operand is extreme in each window
    select_and_scatter_add   its transpose: cotangents added up where they were picked

Where several elements of a window are extreme, the first is picked. `select` says which are: "ge"
the greatest, "le" the least. Windows with gaps fall apart into threads, of which each has its own
entries and no gaps among them; XLA scatters along each.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Literal, Primitive, Sample, Work, primitive
from functrace.ir.dependence import Matrix, Site, linked
from functrace.primitives.convolution import (
    Dims,
    Padding,
    dilated_shape,
    padding_in_input,
    places_of_windows,
    window_count,
)
from functrace.primitives.elementwise import C64, F32, I32, add
from functrace.primitives.families import Linear
from functrace.primitives.space import batched_operand, zeros
from functrace.primitives.structural import pad, slice_

BF16 = np.dtype(ml_dtypes.bfloat16)
SELECT = {"ge": lax.ge_p, "le": lax.le_p}
GAPS: Any = ((2, 2), (2, 1), ((1, 1), (0, 0)), (1, 2), (3, 3))
TIES = np.array([[1, 3, 3, 2], [3, 3, 0, 2], [-1, -1, 3, 2]], np.float32)


def window_shape(name: str, x: Aval, window: Any) -> Dims:
    """How many windows there are along each axis of `x`."""
    parameters = (
        window.window_dimensions, window.window_strides, window.padding, window.base_dilation,
        window.window_dilation,
    )  # fmt: skip
    if any([len(p) != x.ndim for p in parameters]):
        raise ShapeError(f"{name}: {x} does not have the rank of its window, {window!r}")
    spans = dilated_shape(window.window_dimensions, window.window_dilation)
    lengths = [
        low + n + high
        for n, (low, high) in zip(dilated_shape(x.shape, window.base_dilation), window.padding, strict=True)
    ]
    return tuple(map(window_count, lengths, spans, window.window_strides))


def int_pairs(padding: Any) -> Padding:
    """Padding as Python numbers."""
    return tuple([(int(low), int(high)) for low, high in padding])


def int_tuple(values: Any) -> Dims:
    """Sizes as Python numbers: JAX's may be NumPy's."""
    return tuple([int(v) for v in values])


class Thread(NamedTuple):
    """Windows along an axis that have every so many of its entries in common, and among those no gaps."""

    windows: range
    entries: range
    stride: int
    padding: tuple[int, int]


def threads_of(
    windows: int, n: int, size: int, stride: int, padding: tuple[int, int], dilation: int
) -> Iterator[Thread]:
    """Threads that have all windows along an axis of `n` entries, and no entry twice; without gaps it is one."""
    if dilation == 1:
        yield Thread(range(windows), range(n), stride, padding)
        return
    together = math.gcd(stride, dilation)
    for first in range(min(dilation // together, windows)):
        mine = range(first, windows, dilation // together)
        start = first * stride - padding[0]
        before = max(-(start // dilation), 0)
        used = (len(mine) - 1) * (stride // together) + size - before
        entries = range(start + before * dilation, n, dilation)[: max(used, 0)]
        if entries:
            yield Thread(mine, entries, stride // together, (before, used - len(entries)))


def taken(x: Any, along: Sequence[range]) -> Any:
    """Some of the entries along each axis."""
    return slice_(x, tuple([r.start for r in along]), tuple([end(r) for r in along]), tuple([r.step for r in along]))


def end(places: range) -> int:
    """Where the places end."""
    return places[-1] + 1 if places else places.start


@dataclass(frozen=True, repr=False)
class Window(Primitive):
    """What a window is, and where it moves: the parameters of `lax.reduce_window`."""

    window_dimensions: Dims
    window_strides: Dims
    padding: Padding
    base_dilation: Dims
    window_dilation: Dims

    def places(self, x: Aval) -> Matrix:
        """Which entries of an operand are in each window."""
        found = places_of_windows(
            x.shape, self.window_dimensions, self.window_strides, self.padding, self.base_dilation, self.window_dilation
        )
        rows = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
        return linked(rows[found >= 0], found[found >= 0], (len(found), x.size))

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        return at.each(lambda x, _: self.places(x.aval))

    def with_axis(self) -> Any:
        """The same of operands with a leading axis, of which each window has one index."""
        return replace(
            self,
            window_dimensions=(1, *self.window_dimensions),
            window_strides=(1, *self.window_strides),
            padding=((0, 0), *self.padding),
            base_dilation=(1, *self.base_dilation),
            window_dilation=(1, *self.window_dilation),
        )

    def simplify(self, builder: Builder, *xs: Atom) -> Atom | None:
        # XLA's selections over windows of a scalar crash.
        return None if xs[0].aval.shape else xs[0]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        operands = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)]
        return self.with_axis()(*operands), True

    def work(self, *xs: Aval) -> Work:
        return Work(self.shape(*xs).size * max(math.prod(self.window_dimensions) - 1, 0))

    @property
    def jax_window(self) -> dict[str, Any]:
        """The parameters of JAX's primitive."""
        return {f: getattr(self, f) for f in WINDOW_FIELDS}

    @staticmethod
    def window_fields(params: dict[str, Any]) -> tuple[Any, ...]:
        """The fields from the parameters of JAX's primitive."""
        return tuple([
            int_pairs(params[f]) if f == "padding" else int_tuple(params[f]) for f in WINDOW_FIELDS
        ])  # fmt: skip

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        return cls(*cls.window_fields(params))


WINDOW_FIELDS = tuple(Window.__dataclass_fields__)


def window_samples() -> Iterator[tuple[tuple[Any, ...], Dims]]:
    """Windows, and the shapes they move over."""
    yield ((3,), (1,), ((0, 0),), (1,), (1,)), (5,)
    yield ((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (1, 1)), (4, 4)
    yield ((1, 3), (1, 2), ((0, 0), (1, 2)), (1, 1), (1, 1)), (2, 4)
    yield ((2, 2), (1, 3), ((1, 0), (0, 1)), (2, 1), (1, 1)), (3, 5)


@primitive
class ReduceWindowSum(Window, Linear):
    """Sum over each window."""

    name = "reduce_window_sum"
    jax_names = ("reduce_window_sum",)

    def samples(self) -> Iterator[Sample]:
        for window, shape in window_samples():
            yield Sample(ReduceWindowSum(*window), (Aval(shape, F32),))
        yield Sample(ReduceWindowSum(*((),) * 5), (Aval((), F32),))
        dilated: Any = ((2, 3), (2, 1), ((-1, 2), (1, 1)), (2, 1), (1, 2))
        yield Sample(ReduceWindowSum(*dilated), (Aval((4, 5), C64),))
        short: Any = ((3,), (1,), ((0, 0),), (1,), (1,))
        yield Sample(ReduceWindowSum(*short), (Aval((2,), F32),))
        yield Sample(ReduceWindowSum(*short), (Aval((4,), I32),))
        yield Sample(ReduceWindowSum(*short), (Aval((4,), BF16),))

    def shape(self, x: Aval) -> Aval:
        return x.with_shape(window_shape(self.name, x, self))

    def lower(self, x: Any) -> Any:
        return lax.reduce_window_sum_p.bind(x, **self.jax_window)

    def transpose(self, ct: Any, x: Any) -> Any:
        pads = padding_in_input(
            x.aval.shape, self.window_dimensions, self.window_strides, ct.aval.shape, self.padding,
            self.base_dilation, self.window_dilation,
        )  # fmt: skip
        config = tuple([
            (low, high, stride - 1)
            for (low, high), stride in zip(pads, self.window_strides, strict=True)
        ])  # fmt: skip
        ones = (1,) * x.aval.ndim
        back = replace(
            self,
            window_strides=self.base_dilation,
            padding=((0, 0),) * x.aval.ndim,
            base_dilation=ones,
        )
        return [back(pad(ct, 0, config))]


@dataclass(frozen=True, repr=False)
class Extremum(Window):
    """The greatest or least of each window."""

    locally_linear = True
    select: ClassVar[str]
    jax_primitive: ClassVar[Any]

    def shape(self, x: Aval) -> Aval:
        return x.with_shape(window_shape(self.name, x, self))

    def lower(self, x: Any) -> Any:
        return self.jax_primitive.bind(x, **self.jax_window)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        if not y.aval.is_inexact:
            return y, None
        return y, SelectAndGatherAdd(**self.jax_window, select=self.select)(dxs[0], xs[0])


def extremum_samples(make: Any) -> Iterator[Sample]:
    """Samples of an extremum over windows."""
    for window, shape in window_samples():
        yield Sample(make(*window), (Aval(shape, F32),))
    pool: Any = ((2, 2), (1, 1), ((0, 1), (1, 0)), (1, 1), (1, 1))
    yield Sample(make(*pool), (TIES,), differentiable=False)
    yield Sample(make(*pool), (Aval((3, 3), BF16),))
    yield Sample(make(*pool), (Aval((3, 3), I32),))
    yield Sample(make(*GAPS), (Aval((5, 4), F32),))


@primitive
class ReduceWindowMax(Extremum):
    """The greatest element of each window."""

    name = "reduce_window_max"
    jax_names = ("reduce_window_max",)
    select = "ge"
    jax_primitive = lax.reduce_window_max_p

    def samples(self) -> Iterator[Sample]:
        return extremum_samples(ReduceWindowMax)


@primitive
class ReduceWindowMin(Extremum):
    """The least element of each window."""

    name = "reduce_window_min"
    jax_names = ("reduce_window_min",)
    select = "le"
    jax_primitive = lax.reduce_window_min_p

    def samples(self) -> Iterator[Sample]:
        return extremum_samples(ReduceWindowMin)


class Picking(Primitive):
    """Linear in its first operand, and constant in the second, whose order decides."""

    locally_linear = True
    singular = False

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        # Of a mask of many entries it is not followed where they are picked: that would be a second picking.
        there = cts[0].there
        return [None if there.shape else there, None]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        # Where the order changes, the result jumps; elsewhere a small change does not matter.
        return self(*xs), None if dxs[0] is None else self(dxs[0], xs[1])


@primitive
class SelectAndGatherAdd(Picking, Window):
    """Of the operands `t, x`: the elements of `t` where `x` is extreme in each window."""

    name = "select_and_gather_add"
    jax_names = ("select_and_gather_add",)
    select: str = "ge"

    def samples(self) -> Iterator[Sample]:
        for select in SELECT:
            for window, shape in window_samples():
                yield Sample(SelectAndGatherAdd(*window, select=select), (Aval(shape, F32), Aval(shape, F32)))
            pool: Any = ((2, 2), (1, 1), ((0, 1), (1, 0)), (1, 1), (1, 1))
            yield Sample(
                SelectAndGatherAdd(*pool, select=select), (Aval((3, 4), F32), TIES), differentiable=False
            )
        yield Sample(SelectAndGatherAdd(*GAPS, select="ge"), (Aval((5, 4), F32), Aval((5, 4), F32)))

    def shape(self, *xs: Aval) -> Aval:
        t, x = xs
        if t.shape != x.shape or t.dtype != x.dtype:
            raise ShapeError(f"select_and_gather_add: {t} and {x} must have one type")
        return Aval(window_shape(self.name, x, self), t.dtype, t.weak_type and x.weak_type)

    def lower(self, t: Any, x: Any) -> Any:
        select = SELECT[self.select]
        return lax.select_and_gather_add_p.bind(t, x, select_prim=select, **self.jax_window)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x = xs[1]
        gaps = any([d != 1 for d in self.base_dilation])
        if gaps:
            worst = Literal(-np.inf if self.select == "ge" else np.inf, Aval((), x.aval.dtype))
            x = pad(x, worst, tuple([(0, 0, d - 1) for d in self.base_dilation]))
        sizes = zip(
            ct.aval.shape, x.aval.shape, self.window_dimensions, self.window_strides, self.padding,
            self.window_dilation, strict=True,
        )  # fmt: skip
        parts = [self.along(threads, ct, x) for threads in itertools.product(*[threads_of(*axis) for axis in sizes])]
        ct_t = functools.reduce(add, parts) if parts else zeros(x.aval)
        if gaps:
            ct_t = slice_(ct_t, (0,) * x.aval.ndim, ct_t.aval.shape, self.base_dilation)
        return [ct_t, None]

    def along(self, threads: Sequence[Thread], ct: Any, x: Any) -> Any:
        """What the windows of one thread along each axis give to `x`."""
        windows, entries, strides, padding = zip(*threads, strict=True) if threads else [()] * 4
        part = SelectAndScatterAdd(self.select, self.window_dimensions, strides, padding)(
            taken(ct, windows), taken(x, entries)
        )
        around = [(e.start, n - end(e), e.step - 1) for n, e in zip(x.aval.shape, entries, strict=True)]
        return pad(part, 0, tuple(around))

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> SelectAndGatherAdd:
        return cls(*cls.window_fields(params), select=params["select_prim"].name)


@primitive
class SelectAndScatterAdd(Picking):
    """Of the operands `s, x`: each element of `s` added where `x` is extreme in its window."""

    name = "select_and_scatter_add"
    jax_names = ("select_and_scatter_add",)
    select: str
    window_dimensions: Dims
    window_strides: Dims
    padding: Padding

    def samples(self) -> Iterator[Sample]:
        for select in SELECT:
            pool = SelectAndScatterAdd(select, (2, 2), (2, 2), ((0, 0), (0, 0)))
            yield Sample(pool, (Aval((2, 2), F32), Aval((4, 4), F32)))
            overlapping = SelectAndScatterAdd(select, (2, 2), (1, 1), ((0, 1), (1, 0)))
            yield Sample(overlapping, (Aval((3, 4), F32), TIES), differentiable=False)
            yield Sample(overlapping, (Aval((3, 4), BF16), Aval((3, 4), BF16)))
            yield Sample(overlapping, (Aval((2, 3), F32), Aval((2, 3), F32)))

    def shape(self, *xs: Aval) -> Aval:
        s, x = xs
        if s.dtype != x.dtype or window_shape(self.name, x, self.gathering(x.ndim)) != s.shape:
            raise ShapeError(f"select_and_scatter_add: {s} has not one element a window of {x}: {self!r}")
        return Aval(x.shape, s.dtype, s.weak_type and x.weak_type)

    def gathering(self, ndim: int) -> SelectAndGatherAdd:
        """The primitive that reads where this one writes."""
        ones = (1,) * ndim
        return SelectAndGatherAdd(
            self.window_dimensions, self.window_strides, self.padding, ones, ones, self.select
        )

    def work(self, *xs: Aval) -> Work:
        return Work(xs[0].size * math.prod(self.window_dimensions))  # of which one is the addition

    def lower(self, s: Any, x: Any) -> Any:
        return lax.select_and_scatter_add_p.bind(
            s,
            x,
            select_prim=SELECT[self.select],
            window_dimensions=self.window_dimensions,
            window_strides=self.window_strides,
            padding=self.padding,
        )

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        x = at.results[0]
        return [[self.gathering(x.ndim).places(x).T.tocsr(), None]]

    def transpose(self, ct: Any, *xs: Any) -> Any:
        return [self.gathering(xs[1].aval.ndim)(ct, xs[1]), None]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        with_axis = SelectAndScatterAdd(
            self.select,
            (1, *self.window_dimensions),
            (1, *self.window_strides),
            ((0, 0), *self.padding),
        )
        operands = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)]
        return with_axis(*operands), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> SelectAndScatterAdd:
        return cls(
            params["select_prim"].name,
            int_tuple(params["window_dimensions"]),
            int_tuple(params["window_strides"]),
            int_pairs(params["padding"]),
        )


def reduce_window_sum(x: Atom, *window: Any) -> Atom:
    """The sum over each window; further arguments are the fields of `Window`."""
    return ReduceWindowSum(*window)(x)


def reduce_window_max(x: Atom, *window: Any) -> Atom:
    """The greatest element of each window; further arguments are the fields of `Window`."""
    return ReduceWindowMax(*window)(x)


def reduce_window_min(x: Atom, *window: Any) -> Atom:
    """The least element of each window; further arguments are the fields of `Window`."""
    return ReduceWindowMin(*window)(x)
