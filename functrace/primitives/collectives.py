"""Collectives: values that are combined or moved along the named axis of a map.

`vmap(f, axis_name="i")` turns each into an operation on the batch axis (`batch_axis`); where the name is
one of JAX's own axes (`jax.vmap`, `jax.shard_map`) it is lowered to JAX's collective. A linear one is
linear in the values at all indices together, and so is its transpose: that of a sum is a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import RuleError, ShapeError
from functrace.ir import Atom, Aval, Builder, Primitive, Sample, Work, primitive
from functrace.ir.dependence import Matrix, Site
from functrace.primitives.comparison import eq
from functrace.primitives.elementwise import C64, F32, I32, convert_element_type, mul
from functrace.primitives.families import Linear, literal
from functrace.primitives.quotients import div
from functrace.primitives.reductions import ReduceMax, ReduceMin
from functrace.primitives.space import (
    batched_operand,
    broadcast_in_dim,
    move_axis,
    reduce_sum,
    reshape,
    zeros,
)
from functrace.primitives.structural import axis_in, concatenate, iota, slice_along

Batched = tuple[Atom, bool]


@dataclass(frozen=True, repr=False)
class Collective(Primitive):
    """A primitive over named axes: the samples of one are under the axis "i" of size 3.

    Without its axis a collective has no value, so the laws of all primitives have no samples of it;
    its own laws are in `tests/primitives/test_collective_laws.py`.
    """

    goes_forward = False  # the gradient at one index is of the sum over all: its tangent is along all of them

    def samples(self) -> Iterator[Sample]:
        return iter(())

    def axis_samples(self) -> Iterator[Sample]:
        """Operands at one index of the axis "i" of size 3."""
        raise NotImplementedError

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        """The value for an operand whose named axis, if it has one, is axis 0."""
        raise NotImplementedError

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        return self.on_axis(size, xs[0], batched[0])

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        return Primitive.pattern(self, at)


@dataclass(frozen=True, repr=False)
class AllReduce(Collective):
    """One value for all indices of the named `axes`.

    `checked` says that `jax.shard_map(check_vma=True)` types values by these axes. The transpose is
    another one there (of a sum it is a copy), and depends on types that a Program does not have.
    """

    work_each = Work(1)
    axes: tuple[Any, ...]
    checked: bool = False

    def shape(self, x: Aval) -> Aval:
        return x

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        return None if self.axes else x

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(xs[0]), True

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        y, is_batched = self.on_axis(size, xs[0], batched[0])
        return replace(self, axes=tuple(a for a in self.axes if a != name))(y), is_batched

    def uses_axis(self, name: Any) -> bool:
        return name in self.axes

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        axes = tuple(params["axes"])
        by_position = any(isinstance(a, int) for a in axes)
        return None if by_position or params["axis_index_groups"] is not None else cls(axes)


@primitive
class PSum(AllReduce, Linear):
    """The sum over named axes; its own transpose."""

    name = "psum"
    jax_names = ("psum",)
    axes: tuple[Any, ...]
    checked: bool = False

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(PSum(("i",)), (Aval((2,), F32),))
        yield Sample(PSum(("i",)), (Aval((), C64),))
        yield Sample(PSum(("i",)), (Aval((2,), I32),))

    def lower(self, x: Any) -> Any:
        return lax.psum(x, self.axes)

    def transpose(self, ct: Any, x: Any) -> Any:
        if self.checked:
            raise RuleError(
                f"psum over {list(self.axes)}: reverse mode inside jax.shard_map needs check_vma=False, "
                "or differentiate outside, the mapped function as a whole, with jax.grad"
            )
        return [self(ct)]

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        return (reduce_sum(x, (0,)) if is_batched else mul(x, literal(size, x.aval))), False


@dataclass(frozen=True, repr=False)
class PExtremum(AllReduce):
    """The greatest or least value; its derivative is shared equally by the indices that attain it."""

    locally_linear = True

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        (x,), (dx,) = xs, dxs
        y = self(x)
        share = convert_element_type(eq(x, y), dx.aval.dtype)
        total = PSum(self.axes, self.checked)
        return y, div(total(mul(dx, share)), total(share))


@primitive
class PMax(PExtremum):
    """The greatest value over named axes; NaN if there is one."""

    name = "pmax"
    jax_names = ("pmax",)
    axes: tuple[Any, ...]
    checked: bool = False

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(PMax(("i",)), (Aval((2,), F32),))
        yield Sample(PMax(("i",)), (Aval((2,), I32),))

    def lower(self, x: Any) -> Any:
        return lax.pmax(x, self.axes)

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        return ReduceMax((0,))(x) if is_batched else x, False


@primitive
class PMin(PExtremum):
    """The least value over named axes; NaN if there is one."""

    name = "pmin"
    jax_names = ("pmin",)
    axes: tuple[Any, ...]
    checked: bool = False

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(PMin(("i",)), (Aval((2,), F32),))
        yield Sample(PMin(("i",)), (Aval((2,), I32),))

    def lower(self, x: Any) -> Any:
        return lax.pmin(x, self.axes)

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        return ReduceMin((0,))(x) if is_batched else x, False


@primitive
class AxisIndex(Collective):
    """The index along a named axis."""

    name = "axis_index"
    work_each = Work(0)
    jax_names = ("axis_index",)
    axis: Any

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(AxisIndex("i"), ())

    def shape(self, *xs: Aval) -> Aval:
        return Aval((), I32)

    def lower(self, *xs: Any) -> Any:
        return lax.axis_index(self.axis)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        return iota(I32, (size,), 0), True

    def uses_axis(self, name: Any) -> bool:
        return name == self.axis

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        return cls(params["axis_name"])


def one_axis(params: dict[str, Any]) -> Any:
    """The one axis name among JAX's parameters; None where there are several, groups, or tiles."""
    name = params["axis_name"]
    names = tuple(name) if isinstance(name, tuple | list) else (name,)
    plain = params.get("axis_index_groups") is None and not params.get("tiled", False)
    return names[0] if plain and len(names) == 1 else None


@dataclass(frozen=True, repr=False)
class Exchange(Collective, Linear):
    """Values moved along one named axis, the first field."""

    axis: Any

    def uses_axis(self, name: Any) -> bool:
        return name == self.axis


@primitive
class AllGather(Exchange):
    """The values at all indices, along a new array axis; its transpose is `ReduceScatter`."""

    name = "all_gather"
    jax_names = ("all_gather",)
    axis: Any
    size: int
    dimension: int

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(AllGather("i", 3, 0), (Aval((), F32),))
        yield Sample(AllGather("i", 3, 1), (Aval((2, 4), C64),))

    def shape(self, x: Aval) -> Aval:
        d = self.dimension
        if not 0 <= d <= x.ndim:
            raise ShapeError(f"all_gather: {x} has no place for a new axis {d}")
        return x.with_shape((*x.shape[:d], self.size, *x.shape[d:]))

    def lower(self, x: Any) -> Any:
        return lax.all_gather(x, self.axis, axis=self.dimension)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [ReduceScatter(self.axis, self.dimension)(ct)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return replace(self, dimension=self.dimension + 1)(xs[0]), True

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        if is_batched:
            return move_axis(x, 0, self.dimension), False
        shape = self.shape(x.aval).shape
        kept = tuple(i for i in range(len(shape)) if i != self.dimension)
        return broadcast_in_dim(x, shape, kept), False

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        axis = one_axis(params)
        return None if axis is None else cls(axis, params["axis_size"], params["all_gather_dimension"])


@primitive
class ReduceScatter(Exchange):
    """The sum over the named axis, of which each index keeps its own entry along `dimension`."""

    name = "reduce_scatter"
    jax_names = ("reduce_scatter",)
    axis: Any
    dimension: int

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(ReduceScatter("i", 0), (Aval((3,), F32),))
        yield Sample(ReduceScatter("i", 1), (Aval((2, 3, 2), C64),))

    def shape(self, x: Aval) -> Aval:
        axis_in(self.name, self.dimension, x)
        return x.with_shape((*x.shape[: self.dimension], *x.shape[self.dimension + 1 :]))

    def lower(self, x: Any) -> Any:
        return lax.psum_scatter(x, self.axis, scatter_dimension=self.dimension)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [AllGather(self.axis, x.aval.shape[self.dimension], self.dimension)(ct)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return replace(self, dimension=self.dimension + 1)(xs[0]), True

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        total, _ = PSum(()).on_axis(size, x, is_batched)
        return move_axis(total, self.dimension, 0), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        axis = one_axis(params)
        return None if axis is None else cls(axis, params["scatter_dimension"])


@primitive
class AllToAll(Exchange):
    """Part j of `split` goes to index j, where what comes from index k is part k of `concat`.

    Its transpose sends everything back.
    """

    name = "all_to_all"
    jax_names = ("all_to_all",)
    axis: Any
    size: int
    split: int
    concat: int

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(AllToAll("i", 3, 0, 0), (Aval((3,), F32),))
        yield Sample(AllToAll("i", 3, 0, 1), (Aval((6, 2), C64),))
        yield Sample(AllToAll("i", 3, 2, 0), (Aval((1, 4, 3), F32),))

    def shape(self, x: Aval) -> Aval:
        axis_in(self.name, self.split, x)
        axis_in(self.name, self.concat, x)
        if x.shape[self.split] % self.size:
            raise ShapeError(f"all_to_all: axis {self.split} of {x} has no {self.size} equal parts")
        shape = list(x.shape)
        shape[self.split] //= self.size
        shape[self.concat] *= self.size
        return x.with_shape(tuple(shape))

    def lower(self, x: Any) -> Any:
        return lax.all_to_all(x, self.axis, self.split, self.concat, tiled=True)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [replace(self, split=self.concat, concat=self.split)(ct)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return replace(self, split=self.split + 1, concat=self.concat + 1)(xs[0]), True

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        received = self.shape(x.aval.with_shape(x.aval.shape[1:]) if is_batched else x.aval)
        x = batched_operand(x, is_batched, size)
        shape, at = x.aval.shape, self.split + 1
        parts = reshape(x, (*shape[:at], size, shape[at] // size, *shape[at + 1 :]))
        # Senders on axis 0, receivers at `at`: receivers come first, senders stand before `concat`.
        exchanged = move_axis(move_axis(parts, at, 0), 1, self.concat + 1)
        return reshape(exchanged, (size, *received.shape)), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        # Its tiled form does not tell the size of the axis.
        axis, split = one_axis(params), params["split_axis"]
        return None if axis is None else cls(axis, avals[0].shape[split], split, params["concat_axis"])


@primitive
class PPermute(Exchange):
    """The value of index `source` goes to index `target`, for each pair; zeros where nothing comes."""

    name = "ppermute"
    jax_names = ("ppermute",)
    axis: Any
    pairs: tuple[tuple[int, int], ...]

    def axis_samples(self) -> Iterator[Sample]:
        yield Sample(PPermute("i", ((0, 1), (1, 2), (2, 0))), (Aval((2,), F32),))
        yield Sample(PPermute("i", ((0, 2), (1, 1), (2, 0))), (Aval((), C64),))
        yield Sample(PPermute("i", ((0, 1), (1, 2), (2, 0))), (Aval((2,), np.dtype(bool)),))

    def shape(self, x: Aval) -> Aval:
        return x

    def lower(self, x: Any) -> Any:
        return lax.ppermute(x, self.axis, self.pairs)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [PPermute(self.axis, tuple((target, source) for source, target in self.pairs))(ct)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(xs[0]), True

    def on_axis(self, size: int, x: Atom, is_batched: bool) -> Batched:
        source_of = {target: source for source, target in self.pairs}
        if not is_batched and len(source_of) == size:
            return x, False
        x = batched_operand(x, is_batched, size)
        pieces = []
        for start, count in runs([source_of.get(i) for i in range(size)]):
            if start is None:
                pieces.append(zeros(x.aval.with_shape((count, *x.aval.shape[1:]))))
            else:
                pieces.append(slice_along(x, 0, start, start + count))
        return concatenate(pieces, 0) if pieces else x, True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        axis = one_axis(params)
        return None if axis is None else cls(axis, tuple((int(s), int(t)) for s, t in params["perm"]))


def runs(sources: Sequence[int | None]) -> list[tuple[int | None, int]]:
    """`(first, count)` of the stretches of consecutive indices, or of None: a ring has two."""
    found: list[tuple[int | None, int]] = []
    for source in sources:
        first, count = found[-1] if found else (-1, 0)
        follows = source is None if first is None else source == first + count
        if found and follows:
            found[-1] = (first, count + 1)
        else:
            found.append((source, 1))
    return found


__all__ = [
    "AllGather", "AllReduce", "AllToAll", "AxisIndex", "Collective", "Exchange", "PMax", "PMin", "PPermute", "PSum",
    "ReduceScatter",
]  # fmt: skip
