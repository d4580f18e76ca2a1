"""Sorting along an axis. Tangents follow the elements: they are gathered where those came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Primitive, Sample, Work, primitive
from functrace.primitives.elementwise import F32, I32
from functrace.primitives.gather_scatter import Gather
from functrace.primitives.space import batched_operand, reshape
from functrace.primitives.structural import axis_in, iota, with_size

TIES = np.array([[2, 1, 2, 1], [0, 3, 3, -1]], np.float32)


def take_along(x: Atom, indices: Atom, axis: int) -> Atom:
    """`x` at an index along one axis for each element of `indices`; no index repeats."""
    others = tuple([i for i in range(x.aval.ndim) if i != axis])
    ones = (1,) * x.aval.ndim
    gather = Gather((), (axis,), others, others, (axis,), ones, False, True, "promise_in_bounds", None)
    return gather(x, reshape(indices, (*indices.aval.shape, 1)))


@primitive
class Sort(Primitive):
    """Operands in the order that sorts the first `num_keys` of them, along `dimension`."""

    name = "sort"
    at_once = True
    jax_names = ("sort",)
    multiple_results = True
    dimension: int
    is_stable: bool
    num_keys: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(Sort(0, True, 1), (Aval((4,), F32),))
        yield Sample(Sort(1, True, 1), (Aval((2, 3, 2), F32),))
        yield Sample(Sort(0, True, 1), (Aval((0,), F32),))
        yield Sample(Sort(1, True, 1), (Aval((2, 4), F32), Aval((2, 4), F32), Aval((2, 4), I32)))
        yield Sample(Sort(1, True, 2), (TIES, Aval((2, 4), F32)), fixed=(0,))
        yield Sample(Sort(1, True, 1), (TIES,), differentiable=False)
        yield Sample(Sort(0, True, 1), (np.array([1, np.nan, -np.inf, 0], np.float32),), differentiable=False)

    def shape(self, *xs: Aval) -> tuple[Aval, ...]:
        axis_in(self.name, self.dimension, xs[0])
        if any([x.shape != xs[0].shape for x in xs]) or not 1 <= self.num_keys <= len(xs):
            raise ShapeError(
                f"sort: operands must agree in shape and hold the {self.num_keys} keys: {', '.join(map(str, xs))}"
            )
        return xs

    def work(self, *xs: Aval) -> Work:
        return Work(xs[0].size * (xs[0].shape[self.dimension] - 1).bit_length())  # comparisons, by merging

    def lower(self, *xs: Any) -> Any:
        return lax.sort(xs, self.dimension, self.is_stable, self.num_keys)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        places = iota(I32, xs[0].aval.shape, self.dimension)
        *ys, order = self(*xs, places)
        return ys, [None if dx is None else take_along(dx, order, self.dimension) for dx in dxs]

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        firsts = [x[0] for x in xs]
        *ys, order = self(*firsts, iota(I32, firsts[0].aval.shape, self.dimension))
        moved = [[None if c is None else take_along(c, order, self.dimension) for c in x[1:]] for x in xs]
        return [[y, *coefficients] for y, coefficients in zip(ys, moved, strict=True)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        operands = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)]
        ys = Sort(self.dimension + 1, self.is_stable, self.num_keys)(*operands)
        return ys, [True] * len(xs)

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Sort:
        return cls(int(params["dimension"]), bool(params["is_stable"]), int(params["num_keys"]))


@primitive
class TopK(Primitive):
    """The `k` greatest elements along an axis, greatest first, and their indices."""

    name = "top_k"
    locally_linear = True
    jax_names = ("top_k",)
    multiple_results = True
    k: int
    axis: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(TopK(2, 0), (Aval((4,), F32),))
        yield Sample(TopK(3, 1), (Aval((2, 3, 2), F32),))
        yield Sample(TopK(0, 0), (Aval((3,), F32),))
        yield Sample(TopK(2, 1), (Aval((2, 3), I32),))
        yield Sample(TopK(3, 1), (TIES,), differentiable=False)

    def shape(self, x: Aval) -> tuple[Aval, Aval]:
        axis_in(self.name, self.axis, x)
        if not 0 <= self.k <= x.shape[self.axis]:
            raise ShapeError(f"top_k: {x} has fewer than {self.k} elements along axis {self.axis}")
        shape = with_size(x.shape, self.axis, self.k)
        return x.with_shape(shape), Aval(shape, I32)

    def work(self, *xs: Aval) -> Work:
        return Work(xs[0].size * (xs[0].shape[self.axis] - 1).bit_length())

    def lower(self, x: Any) -> Any:
        return lax.top_k(x, self.k, axis=self.axis)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y, places = self(*xs)
        return [y, places], [take_along(dxs[0], places, self.axis) if y.aval.is_inexact else None, None]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return TopK(self.k, self.axis + 1)(*xs), [True, True]

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> TopK | None:
        return cls(int(params["k"]), int(params["axis"])) if params.get("is_stable", True) else None
