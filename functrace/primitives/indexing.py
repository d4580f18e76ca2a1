"""One window of an array, read or replaced at a place given by integer operands.

Both move the window inside if it is not. Where a batch has a place for each row they become the
gather and the scatter of one window a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Literal, Primitive, Sample, Undefined, primitive
from functrace.ir.dependence import Matrix, Site, Writes, identity, meeting
from functrace.primitives.elementwise import C64, F32, I32
from functrace.primitives.families import Linear, literal
from functrace.primitives.gather_scatter import Dims, Gather, int_tuple, labels_without
from functrace.primitives.scatter import Scatter
from functrace.primitives.space import batched_operand, broadcast_in_dim, zeros
from functrace.primitives.structural import JointlyLinear, concatenate, slice_


def check_starts(name: str, x: Aval, starts: Sequence[Aval]) -> None:
    """Raise unless there is one integer scalar an axis, all of one dtype."""
    integers = all([not s.shape and s.dtype.kind in "iu" for s in starts])
    if len(starts) != x.ndim or not integers or len({s.dtype for s in starts}) > 1:
        raise ShapeError(
            f"{name}: {x} needs {x.ndim} integer scalars of one dtype as start, got: "
            f"{', '.join(map(str, starts)) or 'none'}"
        )


def free_axes(shape: Dims, sizes: Dims) -> list[int]:
    """The axes along which a window of these sizes can be elsewhere than at the start."""
    return [i for i, (n, m) in enumerate(zip(shape, sizes, strict=True)) if n != m]


def leading_zero(starts: Sequence[Atom]) -> Literal:
    """The start along a batch axis."""
    return literal(0, starts[0].aval if starts else Aval((), I32))


def index_rows(size: int, starts: Sequence[Atom], batched: Sequence[bool]) -> Atom:
    """The indices `[size, len(starts)]` of one window each."""
    columns = [
        broadcast_in_dim(s, (size, 1), (0,) if b else ())
        for s, b in zip(starts, batched, strict=True)
    ]
    return concatenate(columns, 1)


@primitive
class DynamicSlice(Linear):
    """The window of `sizes` at `starts`, moved inside if need be: operands `x, *starts`."""

    name = "dynamic_slice"
    adds_up = False
    jax_names = ("dynamic_slice",)
    sizes: Dims

    def samples(self) -> Iterator[Sample]:
        for i in (1, 5, -1):
            yield Sample(DynamicSlice((2,)), (Aval((4,), F32), np.int32(i)))
        yield Sample(DynamicSlice((2, 1)), (Aval((3, 4), C64), np.int32(0), np.int32(3)))
        yield Sample(DynamicSlice((0, 2)), (Aval((3, 2), F32), np.int32(1), np.int32(0)))
        yield Sample(DynamicSlice((2,)), (Aval((4,), I32), np.uint8(1)))

    def shape(self, x: Aval, *starts: Aval) -> Aval:
        check_starts(self.name, x, starts)
        fits = len(self.sizes) == x.ndim and all(
            [0 <= m <= n for m, n in zip(self.sizes, x.shape, strict=True)]
        )
        if not fits:
            raise ShapeError(f"dynamic_slice: {x} has no window of {self.sizes}")
        return x.with_shape(self.sizes)

    def lower(self, x: Any, *starts: Any) -> Any:
        # Not lax.dynamic_slice, for which a negative start counts from the end.
        return lax.dynamic_slice_p.bind(x, *starts, slice_sizes=self.sizes)

    def simplify(self, builder: Builder, x: Atom, *starts: Atom) -> Atom | None:
        shape = x.aval.shape
        if self.sizes == shape:
            return x
        if not all([type(s) is Literal for s in starts]):
            return None
        self.shape(x.aval, *[s.aval for s in starts])
        room = [n - m for n, m in zip(shape, self.sizes, strict=True)]
        wanted = [int(s.value) for s in starts]  # pyright: ignore[reportAttributeAccessIssue]
        first = [min(max(i, 0), r) for i, r in zip(wanted, room, strict=True)]
        return slice_(x, tuple(first), tuple(a + m for a, m in zip(first, self.sizes, strict=True)))

    def anywhere(self, at: Site) -> list[list[Matrix | None]]:
        shape = at.operands[0].aval.shape
        labels = labels_without(shape, free_axes(shape, self.sizes))
        window = labels[tuple([slice(n) for n in self.sizes])]
        return [[meeting(window, labels), *[None] * len(shape)]]

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, *starts = xs
        return [dynamic_update_slice(zeros(x.aval), ct, *starts), *[None] * len(starts)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        x, *starts = xs
        if not any(batched[1:]):
            return dynamic_slice(x, [leading_zero(starts), *starts], (size, *self.sizes)), True
        dims = tuple(range(len(starts)))
        one = Gather(dims, (), (), (), dims, self.sizes, True, True, "clip", None)
        return one.batch(size, (x, index_rows(size, starts, batched[1:])), (batched[0], True))

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> DynamicSlice | None:
        return cls(int_tuple(params["slice_sizes"])) if len(avals) == avals[0].ndim + 1 else None


class _DynamicUpdateSlice(JointlyLinear):
    """`x` with the window at `starts` replaced: operands `x, update, *starts`."""

    name = "dynamic_update_slice"
    adds_up = False
    jax_names = ("dynamic_update_slice",)

    def fixed(self, i: int) -> bool:
        return i > 1

    def samples(self) -> Iterator[Sample]:
        for i in (1, 5, -1):
            yield Sample(self, (Aval((4,), F32), Aval((2,), F32), np.int32(i)))
        window = (Aval((3, 4), C64), Aval((2, 1), C64))
        yield Sample(self, (*window, np.int32(0), np.int32(3)))
        yield Sample(self, (Aval((3,), F32), Aval((0,), F32), np.int32(0)))
        yield Sample(self, (Aval((3,), I32), Aval((1,), I32), np.uint8(2)))
        yield Sample(self, (Aval((), F32), Aval((), F32)))

    def shape(self, x: Aval, update: Aval, *starts: Aval) -> Aval:
        check_starts(self.name, x, starts)
        fits = update.ndim == x.ndim and all(
            [m <= n for m, n in zip(update.shape, x.shape, strict=True)]
        )
        if not fits or update.dtype != x.dtype:
            raise ShapeError(f"dynamic_update_slice: {update} is no window of {x}")
        return x.with_dtype(x.dtype, all([a.weak_type for a in (x, update, *starts)]))

    def lower(self, x: Any, update: Any, *starts: Any) -> Any:
        return lax.dynamic_update_slice_p.bind(x, update, *starts)

    def simplify(self, builder: Builder, x: Atom, update: Atom, *starts: Atom) -> Atom | None:
        if update.aval.shape != x.aval.shape:
            return None
        result = self.shape(x.aval, update.aval, *[s.aval for s in starts])
        return update if update.aval is result else None

    def anywhere(self, at: Site) -> list[list[Matrix | None]]:
        x, update, *starts = at.operands
        sizes = update.aval.shape
        labels = labels_without(x.aval.shape, free_axes(x.aval.shape, sizes))
        written = meeting(labels, labels[tuple([slice(n) for n in sizes])]) if update.moves else None
        return [[identity(x.aval.size) if x.moves else None, written, *[None] * len(starts)]]

    def writes(self, *xs: Aval) -> Writes:
        return Writes(0, 1, DynamicSlice(xs[1].shape), tuple(range(2, len(xs))), True)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, update, *starts = xs
        ct_x = ct_update = None
        if isinstance(x, Undefined):
            ct_x = self(ct, zeros(update.aval), *starts)
        if isinstance(update, Undefined):
            ct_update = dynamic_slice(ct, starts, update.aval.shape)
        return [ct_x, ct_update, *[None] * len(starts)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        x, update, *starts = xs
        if any(batched[2:]):
            dims = tuple(range(len(starts)))
            one = Scatter(dims, (), (), (), dims, True, True, "clip")
            rows = index_rows(size, starts, batched[2:])
            return one.batch(size, (x, rows, update), (batched[0], True, batched[1]))
        x, update = (batched_operand(v, b, size) for v, b in zip(xs[:2], batched[:2], strict=True))
        return self(x, update, leading_zero(starts), *starts), True

    def from_jax(self, params: dict[str, Any], avals: Sequence[Aval]) -> _DynamicUpdateSlice:
        return self


dynamic_update_slice = _DynamicUpdateSlice()
Primitive.named["dynamic_update_slice"] = dynamic_update_slice


def dynamic_slice(x: Atom, starts: Sequence[Atom], sizes: Dims) -> Atom:
    """The window of `x` at `starts`."""
    return DynamicSlice(sizes)(x, *starts)
