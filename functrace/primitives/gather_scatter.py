"""Many windows read, or combined with an array, at places given by an integer operand.

Dimension numbers are XLA's, as plain tuples:

    gather                        scatter
    offset_dims                   update_window_dims
    collapsed_slice_dims          inserted_window_dims
    start_index_map               scatter_dims_to_operand_dims
    start_indices_batching_dims   scatter_indices_batching_dims
    operand_batching_dims         operand_batching_dims

so that each scatter has the gather that reads what it writes, and each gather its scatter.
`mode` says what becomes of windows not inside: "clip" moves them, "fill_or_drop" reads a fill value
and writes nothing, "promise_in_bounds" leaves it undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Sample, Through, Undefined, Work, ambient, primitive
from functrace.ir.dependence import Matrix, Site, Writes, meeting, moved
from functrace.lower.evaluate import at_once
from functrace.primitives.binary import clamp
from functrace.primitives.comparison import eq, ge, le, logical_and
from functrace.primitives.contraction import Factors
from functrace.primitives.elementwise import C64, F32, I32, convert_element_type, is_constant
from functrace.primitives.families import Linear, literal
from functrace.primitives.reductions import ArgMax
from functrace.primitives.selection import where
from functrace.primitives.space import (
    BroadcastInDim,
    batched_operand,
    broadcast_in_dim,
    reshape,
    transpose,
    zeros,
)
from functrace.primitives.structural import JointlyLinear, iota

U32 = np.dtype(np.uint32)
MODES = ("clip", "fill_or_drop", "promise_in_bounds")
Dims = tuple[int, ...]


def shifted(dims: Dims, *first: int) -> Dims:
    """The same axes behind a new leading axis, after `first`."""
    return (*first, *(d + 1 for d in dims))


def int_tuple(values: Any) -> Dims:
    """Sizes or axes as Python numbers: JAX's may be NumPy's."""
    return tuple(int(v) for v in values)


def one_window_each(
    x: Aval, indices: Aval, rank: int, map_: Dims, batching: tuple[Dims, Dims]
) -> bool:
    """Whether indices fit an operand that has `rank` window axes of size not fixed to 1."""
    of_x, of_indices = batching
    return (
        indices.ndim > 0
        and indices.dtype.kind in "iu"
        and indices.shape[-1] == len(map_)
        and rank == x.ndim
        and len(of_x) == len(of_indices)
        and all([0 <= d < x.ndim for d in (*map_, *of_x)])
        and [x.shape[d] for d in of_x] == [indices.shape[d] for d in of_indices]
    )


@primitive
class Gather(Linear):
    """Windows of `slice_sizes` read at `indices[..., :]`: operands `x, indices`.

    Its transpose adds the windows up where they were read. In mode "fill_or_drop" a window not
    inside is `fill_value`, where None stands for NaN (of integers, for what `lax.gather` takes).
    """

    name = "gather"
    jax_names = ("gather",)
    offset_dims: Dims
    collapsed_slice_dims: Dims
    operand_batching_dims: Dims
    start_indices_batching_dims: Dims
    start_index_map: Dims
    slice_sizes: Dims
    indices_are_sorted: bool
    unique_indices: bool
    mode: str
    fill_value: float | int | bool | None

    def samples(self) -> Iterator[Sample]:
        x = Aval((4, 3), F32)
        rows = np.array([[2], [0], [2]], np.int32)
        outside = np.array([[3], [-1], [7]], np.int32)
        for mode in MODES:
            take = Gather((1,), (0,), (), (), (0,), (1, 3), False, False, mode, None)
            yield Sample(take, (x, rows))
            if mode == "clip":
                yield Sample(take, (x, outside))
        fill = Gather((1,), (0,), (), (), (0,), (1, 3), False, False, "fill_or_drop", 0)
        yield Sample(fill, (x, outside))
        yield Sample(replace(fill, fill_value=2.5), (x, outside))
        yield Sample(replace(fill, fill_value=-7), (Aval((4, 3), I32), outside))
        corners = np.array([[[0, 1], [2, 2]]], np.int32)
        windows = Gather((0, 3), (), (), (), (0, 1), (2, 2), False, False, "clip", None)
        yield Sample(windows, (Aval((4, 3), C64), corners))
        along = Gather((), (1,), (0,), (0,), (1,), (1, 1), False, True, "promise_in_bounds", None)
        yield Sample(
            along, (x, np.array([[[0], [2]], [[1], [0]], [[2], [1]], [[0], [1]]], np.uint8))
        )
        one = Gather((), (0, 1), (), (), (0, 1), (1, 1), True, True, "fill_or_drop", None)
        yield Sample(one, (x, np.array([1, 2], np.int32)))
        yield Sample(fill, (x, np.zeros((0, 1), np.int32)))

    def shape(self, *xs: Aval) -> Aval:
        x, indices = xs
        dropped = {*self.collapsed_slice_dims, *self.operand_batching_dims}
        batching = (self.operand_batching_dims, self.start_indices_batching_dims)
        rank = len(self.offset_dims) + len(dropped)
        fits = one_window_each(x, indices, rank, self.start_index_map, batching)
        if (
            not fits
            or len(self.slice_sizes) != rank
            or (
                indices.size
                and any([not 0 <= m <= n for m, n in zip(self.slice_sizes, x.shape, strict=True)])
            )
        ):
            raise ShapeError(f"gather: {x} and indices {indices} do not fit {self!r}")
        sizes = iter([m for i, m in enumerate(self.slice_sizes) if i not in dropped])
        places = iter(indices.shape[:-1])
        ndim = len(self.offset_dims) + indices.ndim - 1
        return x.with_shape(
            tuple([next(sizes) if i in self.offset_dims else next(places) for i in range(ndim)])
        )

    def lower(self, x: Any, indices: Any) -> Any:
        numbers = lax.GatherDimensionNumbers(
            offset_dims=self.offset_dims,
            collapsed_slice_dims=self.collapsed_slice_dims,
            start_index_map=self.start_index_map,
            operand_batching_dims=self.operand_batching_dims,
            start_indices_batching_dims=self.start_indices_batching_dims,
        )
        return lax.gather(
            x,
            indices,
            numbers,
            self.slice_sizes,
            unique_indices=self.unique_indices,
            indices_are_sorted=self.indices_are_sorted,
            mode=lax.GatherScatterMode[self.mode.upper()],
            fill_value=self.fill_value,
        )

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        fill = 0 if self.mode == "fill_or_drop" else None
        return self(*xs), replace(self, fill_value=fill)(dxs[0], xs[1])

    def anywhere(self, at: Site) -> list[list[Matrix | None]]:
        x, indices = at.operands
        labels = labels_without(x.aval.shape, self.start_index_map)
        return [[meeting(at_origin(self, labels, indices.aval), labels), None]]

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, indices = xs
        written = ScatterAdd(
            self.offset_dims,
            self.collapsed_slice_dims,
            self.operand_batching_dims,
            self.start_indices_batching_dims,
            self.start_index_map,
            self.indices_are_sorted,
            self.unique_indices,
            self.mode,
        )
        return [written(zeros(x.aval), indices, ct), None]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        in_x, in_indices = batched
        if not in_x:
            # Rows that look into one array need not be in order, nor differ.
            moved = replace(
                self,
                offset_dims=shifted(self.offset_dims),
                start_indices_batching_dims=shifted(self.start_indices_batching_dims),
                indices_are_sorted=False,
                unique_indices=False,
            )
            return moved(*xs), True
        both = in_indices
        moved = replace(
            self,
            offset_dims=shifted(self.offset_dims, *(() if both else (0,))),
            collapsed_slice_dims=shifted(self.collapsed_slice_dims),
            operand_batching_dims=shifted(self.operand_batching_dims, *((0,) if both else ())),
            start_indices_batching_dims=shifted(self.start_indices_batching_dims, 0)
            if both
            else self.start_indices_batching_dims,
            start_index_map=shifted(self.start_index_map),
            slice_sizes=(min(size, 1) if both else size, *self.slice_sizes),
        )
        return moved(*xs), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Gather | None:
        numbers, mode = params["dimension_numbers"], params["mode"].name.lower()
        fill = params["fill_value"]
        if fill is not None:
            fill = np.asarray(fill).item()
            is_minus_zero = fill == 0 and str(fill).startswith(
                "-"
            )  # it would equal, and share with, 0
            if isinstance(fill, complex) or is_minus_zero:
                return None
            # NaN equals nothing, itself included; None stands for it.
            fill = None if fill != fill and avals[0].is_inexact else fill
        if mode not in MODES:
            return None
        return cls(
            int_tuple(numbers.offset_dims),
            int_tuple(numbers.collapsed_slice_dims),
            int_tuple(numbers.operand_batching_dims),
            int_tuple(numbers.start_indices_batching_dims),
            int_tuple(numbers.start_index_map),
            int_tuple(params["slice_sizes"]),
            bool(params["indices_are_sorted"]),
            bool(params["unique_indices"]),
            mode,
            fill,
        )


def labels_without(shape: Dims, axes: Sequence[int]) -> Any:
    """A number an entry, the same for all that differ in `axes` only."""
    sizes = [1 if i in axes else n for i, n in enumerate(shape)]
    return np.broadcast_to(np.arange(int(np.prod(sizes)), dtype=np.int32).reshape(sizes), shape)


def at_origin(gather: Gather, labels: Any, indices: Aval) -> Any:
    """What a gather reads of these labels if every window is at the origin."""
    plain = replace(gather, mode="clip", fill_value=None)
    return at_once(plain.lower, labels, np.zeros(indices.shape, indices.dtype))


def scatter_samples(
    cls: Any, dtypes: Sequence[Any] = (I32, C64), repeats: bool = True
) -> Iterator[Sample]:
    """Samples of a scatter; `repeats` says that updates move where indices may be equal."""
    x, updates = Aval((4, 3), F32), Aval((3, 3), F32)
    apart, outside = np.array([[2], [0], [3]], np.int32), np.array([[3], [-1], [7]], np.int32)
    for mode in MODES:
        yield Sample(cls((1,), (0,), (), (), (0,), False, True, mode), (x, apart, updates))
    yield Sample(cls((1,), (0,), (), (), (0,), False, True, "fill_or_drop"), (x, outside, updates))
    yield Sample(
        cls((1,), (0,), (), (), (0,), False, False, "fill_or_drop"),
        (x, np.array([[2], [0], [2]], np.int32), updates),
        fixed=() if repeats else (2,),
    )
    one = cls((), (0, 1), (), (), (0, 1), True, True, "clip")
    yield Sample(one, (x, np.array([1, 2], np.int32), Aval((), F32)))
    windows = cls((0, 2), (), (), (), (0, 1), False, True, "clip")
    corners = np.array([[0, 1], [2, 1]], np.int32)
    yield Sample(windows, (x, corners, Aval((2, 2, 2), F32)))
    along = cls((), (1,), (0,), (0,), (1,), False, True, "promise_in_bounds")
    places = np.array([[[0], [2]], [[1], [0]], [[2], [1]], [[0], [1]]], np.uint8)
    yield Sample(along, (x, places, Aval((4, 2), F32)))
    rows = cls((1,), (0,), (), (), (0,), False, True, "clip")
    yield Sample(rows, (x, np.zeros((0, 1), np.int32), Aval((0, 3), F32)))
    for dtype in dtypes:
        yield Sample(rows, (Aval((4, 3), dtype), apart, Aval((3, 3), dtype)))


@dataclass(frozen=True, repr=False)
class ScatterFamily(JointlyLinear):
    """Windows combined with `x` at `indices[..., :]`: operands `x, indices, updates`."""

    update_window_dims: Dims
    inserted_window_dims: Dims
    operand_batching_dims: Dims
    scatter_indices_batching_dims: Dims
    scatter_dims_to_operand_dims: Dims
    indices_are_sorted: bool
    unique_indices: bool
    mode: str

    moves: ClassVar[bool] = False
    replaces: ClassVar[bool] = False  # whether nothing is left of what is written over
    combine: ClassVar[Callable[..., Any]]  # what computes it
    work_each: ClassVar[Work] = Work(1)

    def fixed(self, i: int) -> bool:
        return i == 1

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        x, indices, updates = at.operands
        own = np.arange(x.aval.size)
        if indices.value is None:
            at.note(self.name, "where it writes is decided by data")
            labels = labels_without(x.aval.shape, self.scatter_dims_to_operand_dims)
            read = at_origin(self.reader(x.aval, updates.aval), labels, indices.aval) if updates.moves else None
            written = meeting(labels, read) if updates.moves else None
        else:
            numbers = np.arange(1, x.aval.size + 1, dtype=np.int32).reshape(x.aval.shape)
            places = at_once(self.reader(x.aval, updates.aval).lower, numbers, indices.value)
            written = moved(places.astype(np.int64) - 1, x.aval.size).T.tocsr() if updates.moves else None
            if self.replaces:
                own[places[places > 0] - 1] = -1
        return [[moved(own, x.aval.size) if x.moves else None, None, written]]

    def writes(self, *xs: Aval) -> Writes:
        return Writes(0, 2, self.reader(xs[0], xs[2]), (1,), self.replaces)

    def shape(self, *xs: Aval) -> Aval:
        x, indices, updates = xs
        dropped = {*self.inserted_window_dims, *self.operand_batching_dims}
        batching = (self.operand_batching_dims, self.scatter_indices_batching_dims)
        rank = len(self.update_window_dims) + len(dropped)
        fits = one_window_each(x, indices, rank, self.scatter_dims_to_operand_dims, batching)
        if fits and updates.dtype == x.dtype:
            sizes = [n for i, n in enumerate(x.shape) if i not in dropped]
            inside = [d for d in self.update_window_dims if 0 <= d < updates.ndim]
            places = tuple([n for i, n in enumerate(updates.shape) if i not in inside])
            fits = (
                len(inside) == len(sizes)
                and places == indices.shape[:-1]
                and all([updates.shape[d] <= n for d, n in zip(inside, sizes, strict=True)])
            )
        if not fits or updates.dtype != x.dtype:
            raise ShapeError(
                f"{self.name}: {x}, indices {indices}, updates {updates} do not fit {self!r}"
            )
        return x

    def work(self, *xs: Aval) -> Work:
        return self.work_each * xs[2].size

    def lower(self, x: Any, indices: Any, updates: Any) -> Any:
        numbers = lax.ScatterDimensionNumbers(
            update_window_dims=self.update_window_dims,
            inserted_window_dims=self.inserted_window_dims,
            scatter_dims_to_operand_dims=self.scatter_dims_to_operand_dims,
            operand_batching_dims=self.operand_batching_dims,
            scatter_indices_batching_dims=self.scatter_indices_batching_dims,
        )
        return self.combine(
            x,
            indices,
            updates,
            numbers,
            indices_are_sorted=self.indices_are_sorted,
            unique_indices=self.unique_indices,
            mode=lax.GatherScatterMode[self.mode.upper()],
        )

    def reader(self, x: Aval, updates: Aval) -> Gather:
        """The gather of the windows that are written; zero for one that is dropped."""
        windows = iter([updates.shape[d] for d in self.update_window_dims])
        sizes = [
            1 if i in self.inserted_window_dims
            else min(n, 1) if i in self.operand_batching_dims
            else next(windows)
            for i, n in enumerate(x.shape)
        ]  # fmt: skip
        return Gather(
            self.update_window_dims,
            self.inserted_window_dims,
            self.operand_batching_dims,
            self.scatter_indices_batching_dims,
            self.scatter_dims_to_operand_dims,
            tuple(sizes),
            self.indices_are_sorted,
            self.unique_indices,
            self.mode,
            0 if self.mode == "fill_or_drop" else None,
        )

    def adder(self) -> ScatterAdd:
        """The sum of the updates at the same places."""
        return ScatterAdd(*self.params.values())

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        x, indices, updates = xs
        rows = batched[
            1
        ]  # each row of the batch has its own indices, else the batch axis is a window axis
        moved = replace(
            self,
            update_window_dims=shifted(self.update_window_dims, *(() if rows else (0,))),
            inserted_window_dims=shifted(self.inserted_window_dims),
            operand_batching_dims=shifted(self.operand_batching_dims, *((0,) if rows else ())),
            scatter_indices_batching_dims=shifted(self.scatter_indices_batching_dims, 0)
            if rows
            else self.scatter_indices_batching_dims,
            scatter_dims_to_operand_dims=shifted(self.scatter_dims_to_operand_dims),
        )
        x = batched_operand(x, batched[0], size)
        updates = batched_operand(updates, batched[2], size)
        return moved(x, indices, updates), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        numbers, mode = params["dimension_numbers"], params["mode"].name.lower()
        # A plain scatter with a computation of its own (`lax.scatter_apply`) stays JAX's.
        if mode not in MODES or (cls.replaces and params["update_jaxpr"] is not None):
            return None
        return cls(
            int_tuple(numbers.update_window_dims),
            int_tuple(numbers.inserted_window_dims),
            int_tuple(numbers.operand_batching_dims),
            int_tuple(numbers.scatter_indices_batching_dims),
            int_tuple(numbers.scatter_dims_to_operand_dims),
            bool(params["indices_are_sorted"]),
            bool(params["unique_indices"]),
            mode,
        )


def other_sizes(x: Aval, axis: int) -> Dims:
    """The sizes of all axes but one."""
    return (*x.shape[:axis], *x.shape[axis + 1 :])


@primitive
class ScatterAdd(ScatterFamily):
    """Adds each window of the updates; its transpose reads the windows."""

    name = "scatter_add"
    jax_names = ("scatter-add",)
    combine = staticmethod(lax.scatter_add)

    def samples(self) -> Iterator[Sample]:
        return scatter_samples(ScatterAdd)

    def rows(self, *xs: Any) -> tuple[Atom, Atom] | None:
        """Of rows added to zeros: where each goes, `[k]` along the one axis that is written at places, and the rows
        `[k, ...]`, those that are dropped as zeros."""
        x, indices, updates = xs
        made = ambient().definition(x)
        is_zero = made is not None and type(made.primitive) is BroadcastInDim and is_constant(made.inputs[0], 0)
        if not is_zero or len(self.scatter_dims_to_operand_dims) != 1 or self.operand_batching_dims:
            return None
        (axis,) = self.scatter_dims_to_operand_dims
        if self.inserted_window_dims != (axis,) or updates.aval.size == 0 or any([
            updates.aval.shape[d] != n for d, n in zip(self.update_window_dims, other_sizes(x.aval, axis), strict=True)
        ]):  # fmt: skip
            return None
        count, last = math.prod(indices.aval.shape[:-1]), x.aval.shape[axis] - 1
        outer = [d for d in range(updates.aval.ndim) if d not in self.update_window_dims]
        rows = reshape(transpose(updates, (*outer, *self.update_window_dims)), (count, *other_sizes(x.aval, axis)))
        places = reshape(indices, (count,))
        if places.aval.dtype.itemsize < 4:  # which may not hold the number of the last row
            places = convert_element_type(places, I32)
        if self.mode == "clip":
            places = clamp(literal(0, places.aval), places, literal(last, places.aval))
        elif self.mode == "fill_or_drop":
            inside = logical_and(ge(places, 0), le(places, last))
            rows = where(broadcast_in_dim(inside, rows.aval.shape, (0,)), rows, 0)
        return places, rows

    def squares(self, *xs: Any) -> Any:
        """Those of an array with no rows but the ones that are written."""
        found = self.rows(*xs)
        if found is None:
            return None
        places, rows = found
        count = places.aval.size
        if count * count + rows.aval.size >= xs[0].aval.size:
            return None
        same = eq(reshape(places, (count, 1)), reshape(places, (1, count)))
        first = reshape(ArgMax(1, I32)(same), (count, 1))
        windows = tuple(range(1, rows.aval.ndim))
        apart = ScatterAdd(windows, (0,), (), (), (0,), False, False, "promise_in_bounds")
        return [Through(apart(zeros(rows.aval), first, rows))]

    def factors(self, *xs: Any) -> Any:
        found = self.rows(*xs)
        if found is None:
            return None
        places, rows = found
        (axis,) = self.scatter_dims_to_operand_dims
        numbers = iota(places.aval.dtype, (1, xs[0].aval.shape[axis]), 1)
        one_hot = convert_element_type(eq(reshape(places, (places.aval.size, 1)), numbers), rows.aval.dtype)
        return Factors((axis,), one_hot, rows)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, indices, updates = xs
        ct_updates = None
        if isinstance(updates, Undefined):
            ct_updates = self.reader(ct.aval, updates.aval)(ct, indices)
        return [ct if isinstance(x, Undefined) else None, None, ct_updates]
