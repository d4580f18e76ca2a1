"""Reductions over axes other than the sum: products, extrema, bitwise ones, and where an extremum is.

A product's derivative comes from a tree of products of pairs, so that zeros among the factors do
no harm. An extremum's is shared equally by the elements that attain it, as in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Primitive, Sample, Work, is_complex, primitive
from functrace.primitives.comparison import eq, gt, logical_and, lt, ne
from functrace.primitives.elementwise import BOOL, C64, F32, I32, mul
from functrace.primitives.quotients import div
from functrace.primitives.selection import where
from functrace.primitives.space import BroadcastInDim, alike, broadcast_in_dim, full, reduce_sum, reshape, transpose
from functrace.primitives.structural import concatenate, slice_along

BF16 = np.dtype(ml_dtypes.bfloat16)
TIES = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
NANS = np.array([[1, np.nan, 3], [-np.inf, -np.inf, -np.inf]], np.float32)


@dataclass(frozen=True, repr=False)
class Reduction(Primitive):
    """One value for all that differ in `axes` only."""

    axes: tuple[int, ...]
    reducer: ClassVar[Callable[..., Any]]

    def shape(self, x: Aval) -> Aval:
        if len(set(self.axes)) < len(self.axes) or not all([0 <= a < x.ndim for a in self.axes]):
            raise ShapeError(f"{self.name}: axes {self.axes} of {x} repeat or do not exist")
        return x.with_shape(tuple([n for i, n in enumerate(x.shape) if i not in self.axes]))

    def lower(self, x: Any) -> Any:
        return type(self).reducer(x, self.axes)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        return None if self.axes else x

    def work(self, *xs: Aval) -> Work:
        return Work(xs[0].size - self.shape(*xs).size if xs[0].size else 0)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        (x,) = xs
        y = self(x)
        some = all([x.aval.shape[a] for a in self.axes])
        return y, self.tangent(x, dxs[0], y) if y.aval.is_inexact and some else None

    def tangent(self, x: Atom, dx: Atom, y: Atom) -> Atom | None:
        """The result's tangent; there is at least one element to each result."""
        return None

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return replace(self, axes=tuple([a + 1 for a in self.axes]))(xs[0]), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        kept = [a for a in range(xs[0].ndim) if a not in self.axes]
        return {a: ((k, xs[0].shape[a]),) for k, a in enumerate(kept)}

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        if params.get("out_sharding") is not None:
            return None
        return cls(tuple([int(a) for a in params["axes"]]))


def reduction_samples(
    cls: Any, dtypes: Sequence[Any], edges: Sequence[Any] = ()
) -> Iterator[Sample]:
    """Samples of a reduction: along one axis, several, none, and over nothing."""
    for axes, shape in (((0,), (4,)), ((1, 0), (2, 3, 2)), ((), (2,)), ((0,), (2, 0))):
        yield Sample(cls(axes), (Aval(shape, dtypes[0]),))
    # Of the floating extrema over nothing, JAX's derivative is NaN.
    yield Sample(cls((1,)), (Aval((2, 0), dtypes[1]),))
    for dtype in dtypes[1:]:
        yield Sample(cls((1,)), (Aval((2, 3), dtype),))
    for edge in edges:
        yield Sample(cls((1,)), (edge,), differentiable=False)


@primitive
class ReduceProd(Reduction):
    """Product over axes."""

    name = "reduce_prod"
    spelling = "lax.reduce_prod({0}, {axes})"
    jax_names = ("reduce_prod",)
    reducer = lax.reduce_prod

    def samples(self) -> Iterator[Sample]:
        zero = np.array([[0, 2, 3], [0, 0, 3]], np.float32)
        return reduction_samples(ReduceProd, (F32, I32, BF16, C64), (zero,))

    def tangent(self, x: Atom, dx: Atom, y: Atom) -> Atom:
        kept = tuple([i for i in range(x.aval.ndim) if i not in self.axes])
        count = x.aval.size // max(y.aval.size, 1)
        pair = [reshape(transpose(v, (*self.axes, *kept)), (count, *y.aval.shape)) for v in (x, dx)]
        while (n := pair[0].aval.shape[0]) > 1:
            half = n // 2
            low, high, rest = (
                [slice_along(v, 0, *ends) for v in pair] for ends in ((0, half), (half, 2 * half), (2 * half, n))
            )
            pair = list(mul.jvp((low[0], high[0]), (low[1], high[1])))
            if n % 2:
                pair = [concatenate((v, r), 0) for v, r in zip(pair, rest, strict=True)]
        return reshape(pair[1], y.aval.shape)


@dataclass(frozen=True, repr=False)
class ReduceExtremum(Reduction):
    """The greatest or least element."""

    locally_linear = True
    surpasses: ClassVar[Primitive]  # the comparison by which it is that

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        return x if not self.axes else alike(builder, self, x) if x.aval.size else None

    def tangent(self, x: Atom, dx: Atom, y: Atom) -> Atom:
        kept = tuple([i for i in range(x.aval.ndim) if i not in self.axes])
        # What is surpassed has no part in it, be its tangent infinite. Where there is a NaN, y is NaN, which surpasses
        # nothing: all have a part, and the derivative is NaN. One mask tells, so that no derivative keeps x; that it is
        # NaN is told of x in the kernel that counts, as XLA for CPU keeps x where it is told of y.
        extreme = broadcast_in_dim(y, x.aval.shape, kept)
        if is_complex(x.aval.dtype):  # of which none is the greater one
            surpassed = logical_and(ne(extreme, x), eq(extreme, extreme))
        else:
            surpassed = self.surpasses(extreme, x)
        each = where(ne(x, x), np.nan, full(dx.aval, 1))
        count = reduce_sum(where(surpassed, 0, each), self.axes)
        return div(reduce_sum(where(surpassed, 0, dx), self.axes), count)


@primitive
class ReduceMax(ReduceExtremum):
    """The greatest element over axes; NaN if there is one."""

    name = "reduce_max"
    spelling = "lax.reduce_max({0}, {axes})"
    jax_names = ("reduce_max",)
    reducer = lax.reduce_max
    surpasses = gt

    def samples(self) -> Iterator[Sample]:
        return reduction_samples(ReduceMax, (F32, I32, BF16, C64), (TIES, NANS))


@primitive
class ReduceMin(ReduceExtremum):
    """The least element over axes; NaN if there is one."""

    name = "reduce_min"
    spelling = "lax.reduce_min({0}, {axes})"
    jax_names = ("reduce_min",)
    reducer = lax.reduce_min
    surpasses = lt

    def samples(self) -> Iterator[Sample]:
        return reduction_samples(ReduceMin, (F32, I32, BF16, C64), (TIES, NANS))


@dataclass(frozen=True, repr=False)
class _Idempotent(Reduction):
    """One that is the same of a value as of its repetitions."""

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        made = builder.definition(x)
        if made is None or type(made.primitive) is not BroadcastInDim or not x.aval.size:
            return super().simplify(builder, x)
        (once,), dimensions = made.inputs, made.primitive.dimensions
        left = [a for a in range(x.aval.ndim) if a not in self.axes]
        y = replace(self, axes=tuple([i for i, a in enumerate(dimensions) if a in self.axes]))(once)
        kept = tuple([left.index(a) for a in dimensions if a not in self.axes])
        return broadcast_in_dim(y, tuple([x.aval.shape[a] for a in left]), kept)


@primitive
class ReduceAnd(_Idempotent):
    """Bitwise "and" over axes."""

    name = "reduce_and"
    spelling = "lax.reduce_and({0}, {axes})"
    jax_names = ("reduce_and",)
    reducer = lax.reduce_and

    def samples(self) -> Iterator[Sample]:
        return reduction_samples(ReduceAnd, (BOOL, I32))


@primitive
class ReduceOr(_Idempotent):
    """Bitwise "or" over axes."""

    name = "reduce_or"
    spelling = "lax.reduce_or({0}, {axes})"
    jax_names = ("reduce_or",)
    reducer = lax.reduce_or

    def samples(self) -> Iterator[Sample]:
        return reduction_samples(ReduceOr, (BOOL, I32))


@primitive
class ReduceXor(Reduction):
    """Bitwise "exclusive or" over axes."""

    name = "reduce_xor"
    jax_names = ("reduce_xor",)
    reducer = lax.reduce_xor

    def samples(self) -> Iterator[Sample]:
        return reduction_samples(ReduceXor, (BOOL, I32))


@dataclass(frozen=True, repr=False)
class ArgExtremum(Primitive):
    """Where along an axis the extreme element is: the first of several, or of the NaNs."""

    axis: int
    index_dtype: Any
    finder: ClassVar[Callable[..., Any]]

    def shape(self, x: Aval) -> Aval:
        if not 0 <= self.axis < x.ndim or not x.shape[self.axis]:
            raise ShapeError(f"{self.name}: {x} has no element along axis {self.axis}")
        return Aval((*x.shape[: self.axis], *x.shape[self.axis + 1 :]), self.index_dtype)

    def lower(self, x: Any) -> Any:
        return type(self).finder(x, self.axis, self.index_dtype)

    def work(self, *xs: Aval) -> Work:
        return Work(xs[0].size - self.shape(*xs).size)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), None

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return replace(self, axis=self.axis + 1)(*xs), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        (axis,) = params["axes"]
        return cls(int(axis), np.dtype(params["index_dtype"]))


def arg_samples(cls: Any) -> Iterator[Sample]:
    """Samples of where an extremum is."""
    for axis, x in ((0, Aval((4,), F32)), (1, Aval((2, 3, 2), I32)), (0, Aval((3, 0), BF16)), (1, TIES), (1, NANS)):
        yield Sample(cls(axis, I32), (x,))


@primitive
class ArgMax(ArgExtremum):
    """The index of the greatest element along an axis."""

    name = "argmax"
    spelling = "lax.argmax({0}, {axis}, {index_dtype})"
    jax_names = ("argmax",)
    finder = lax.argmax

    def samples(self) -> Iterator[Sample]:
        return arg_samples(ArgMax)


@primitive
class ArgMin(ArgExtremum):
    """The index of the least element along an axis."""

    name = "argmin"
    spelling = "lax.argmin({0}, {axis}, {index_dtype})"
    jax_names = ("argmin",)
    finder = lax.argmin

    def samples(self) -> Iterator[Sample]:
        return arg_samples(ArgMin)
