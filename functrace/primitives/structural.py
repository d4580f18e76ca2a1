"""Putting arrays together and taking them apart along axes, at places fixed by the parameters.

All are linear. Joining has cutting as its transpose, and the other way round: slice and pad,
concatenate and split; rev is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Primitive, Sample, Through, Undefined, Work, ambient, primitive
from functrace.primitives.elementwise import BOOL, C64, F32, I32, is_constant
from functrace.primitives.families import Linear, OneSign, literal
from functrace.primitives.selection import select_n
from functrace.primitives.space import (
    alike,
    batched_operand,
    broadcast_in_dim,
    full,
    reduce_sum,
    reshape,
    zeros,
)

BF16 = Aval((), "bfloat16").dtype


class JointlyLinear(OneSign):
    """Linear in all operands jointly but the `fixed` ones; a missing tangent becomes zeros.

    Most only move entries, as `Linear` says.
    """

    work_each = Work(0)

    def fixed(self, i: int) -> bool:
        """Whether operand i is an index, in which nothing is linear."""
        return False

    def index(self, i: int) -> bool:
        return self.fixed(i)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moved = [
            x if self.fixed(i) else zeros(x.aval) if dx is None else dx
            for i, (x, dx) in enumerate(zip(xs, dxs, strict=True))
        ]
        return self(*xs), self(*moved)


def joined_aval(name: str, xs: Sequence[Aval], shape: tuple[int, ...]) -> Aval:
    """The type of a result of `shape` made of operands that must agree in dtype."""
    if any([x.dtype != xs[0].dtype for x in xs]):
        raise ShapeError(
            f"{name}: operand dtypes differ: {', '.join(map(str, xs))}; cast one of them"
        )
    return Aval(shape, xs[0].dtype, all([x.weak_type for x in xs]))


def axis_in(name: str, axis: int, x: Aval) -> None:
    """Raise unless `x` has this axis."""
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"{name}: {x} has no axis {axis}")


def with_size(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    """`shape` with the size of one axis replaced."""
    return (*shape[:axis], size, *shape[axis + 1 :])


@primitive
class Concatenate(JointlyLinear):
    """Operands one after the other along an axis; its transpose cuts the cotangent apart."""

    name = "concatenate"
    spelling = "lax.concatenate({tuple}, {dimension})"
    adds_up = False
    jax_names = ("concatenate",)
    dimension: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(Concatenate(0), (Aval((2,), F32), Aval((3,), F32)))
        yield Sample(Concatenate(1), (Aval((2, 1), C64), Aval((2, 0), C64), Aval((2, 3), C64)))
        yield Sample(Concatenate(0), (Aval((2, 2), BF16), Aval((1, 2), BF16)), differentiable=False)
        yield Sample(Concatenate(0), (Aval((2,), I32), Aval((1,), I32)))

    def shape(self, *xs: Aval) -> Aval:
        d = self.dimension
        axis_in(self.name, d, xs[0])
        rest = with_size(xs[0].shape, d, 0)
        if any([x.ndim != len(rest) or with_size(x.shape, d, 0) != rest for x in xs]):
            raise ShapeError(
                f"concatenate: sizes must agree but for axis {d}: {', '.join(map(str, xs))}"
            )
        return joined_aval(self.name, xs, with_size(rest, d, sum(x.shape[d] for x in xs)))

    def lower(self, *xs: Any) -> Any:
        return lax.concatenate(xs, self.dimension)

    def simplify(self, builder: Builder, *xs: Atom) -> Atom | None:
        return xs[0] if len(xs) == 1 else alike(builder, self, *xs)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        cts: list[Any] = []
        start = 0
        for x in xs:
            stop = start + x.aval.shape[self.dimension]
            linear = isinstance(x, Undefined)
            cts.append(slice_along(ct, self.dimension, start, stop) if linear else None)
            start = stop
        return cts

    def squares(self, *xs: Any) -> Any:
        return [Through(x) for x in xs]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        xs = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)]
        return concatenate(xs, self.dimension + 1), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        return {a: ((a, n),) for a, n in enumerate(xs[i].shape) if a != self.dimension}

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Concatenate:
        return cls(int(params["dimension"]))


@primitive
class Pad(JointlyLinear):
    """`(low, high, interior)` values put before, after and between those of each axis.

    A negative low or high takes values away.
    """

    name = "pad"
    fuses = True
    spelling = "lax.pad({0}, {1}, {config})"
    adds_up = False
    jax_names = ("pad",)
    config: tuple[tuple[int, int, int], ...]

    def samples(self) -> Iterator[Sample]:
        # The value is fixed because JAX's own transpose in it alone fails.
        configs: list[tuple[Any, Any]] = [
            (((1, 2, 0),), Aval((3,), F32)),
            (((-1, 2, 0), (1, -2, 1)), Aval((3, 4), F32)),
            (((0, 0, 2), (-1, -1, 0)), Aval((2, 3), C64)),
            (((-2, 0, 3),), Aval((2,), F32)),
            (((1, 1, 0), (0, 0, 0)), Aval((0, 2), F32)),
            (((-2, -2, 0),), Aval((4,), F32)),
            (((1, 0, 1),), Aval((2,), I32)),
            ((), Aval((), F32)),
        ]
        for config, x in configs:
            yield Sample(Pad(config), (x, Aval((), x.dtype)), fixed=(1,))

    def shape(self, *xs: Aval) -> Aval:
        x, value = xs
        if len(self.config) != x.ndim or value.shape or any(i < 0 for _, _, i in self.config):
            raise ShapeError(
                f"pad: {x} with {value} does not fit {self.config}: one (low, high, interior) an "
                "axis, interior not negative, and a scalar value"
            )
        sizes = tuple(
            low + high + n + max(n - 1, 0) * interior
            for n, (low, high, interior) in zip(x.shape, self.config, strict=True)
        )
        if any(n < 0 for n in sizes):
            raise ShapeError(f"pad: {self.config} takes more from {x} than it has")
        return joined_aval(self.name, xs, sizes)

    def lower(self, x: Any, value: Any) -> Any:
        return lax.pad(x, value, self.config)

    def simplify(self, builder: Builder, x: Atom, value: Atom) -> Atom | None:
        nothing = all([axis == (0, 0, 0) for axis in self.config])
        return x if nothing and self.shape(x.aval, value.aval) is x.aval else alike(builder, self, x, value)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, value = xs
        shape = x.aval.shape
        ct_x = ct_value = None
        if isinstance(x, Undefined):
            undone = pad(ct, 0, tuple((-low, -high, 0) for low, high, _ in self.config))
            strides = tuple(interior + 1 for _, _, interior in self.config)
            ct_x = slice_(undone, (0,) * len(shape), undone.aval.shape, strides)
        if isinstance(value, Undefined):
            outside = select_n(self.mask(shape), ct, zeros(ct.aval))
            ct_value = reduce_sum(outside, tuple(range(ct.aval.ndim)))
        return [ct_x, ct_value]

    def squares(self, *xs: Any) -> Any:
        return [Through(xs[0])] if self.support(*xs) else None

    def support(self, *xs: Any) -> tuple[tuple[int, int], ...] | None:
        x, value = xs
        if not is_constant(value, 0) or any([low < 0 or high < 0 for low, high, _ in self.config]):
            return None
        sizes = self.shape(x.aval, value.aval).shape
        return tuple([(low, n - high) for (low, high, _), n in zip(self.config, sizes, strict=True)])

    def united(self, xs: Sequence[Any], other: Pad, ys: Sequence[Any]) -> Atom | None:
        """Two neighbours along one axis, of which one is a third of the whole at most: joined, and padded together.

        Two halves XLA adds up as quickly, in the kernel that reads the sum.
        """
        if not (is_constant(xs[1], 0) and is_constant(ys[1], 0)):
            return None
        axes = [a for a, (p, q) in enumerate(zip(self.config, other.config, strict=True)) if p != q]
        if len(axes) != 1 or any([low < 0 or high < 0 or i for low, high, i in (*self.config, *other.config)]):
            return None
        axis = axes[0]
        (low, high, _), (other_low, other_high, _) = self.config[axis], other.config[axis]
        sizes = [x.aval.shape[axis] for x in (xs[0], ys[0])]
        if 3 * min(xs[0].aval.size, ys[0].aval.size) > self.shape(xs[0].aval, xs[1].aval).size:
            return None
        if other_low == low + sizes[0]:
            pieces, ends = [*pieces_of(xs[0], axis), *pieces_of(ys[0], axis)], (low, other_high, 0)
        elif low == other_low + sizes[1]:
            pieces, ends = [*pieces_of(ys[0], axis), *pieces_of(xs[0], axis)], (other_low, high, 0)
        else:
            return None
        return pad(concatenate(pieces, axis), xs[1], (*self.config[:axis], ends, *self.config[axis + 1 :]))

    def mask(self, shape: tuple[int, ...]) -> Atom:
        """Where the result holds values of an operand of this shape."""
        inside = full(Aval(shape, BOOL), True)
        return Pad(self.config)(inside, full(Aval((), BOOL), False))

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        x, value = xs
        config = ((0, 0, 0), *self.config)
        if not batched[1]:
            return pad(x, value, config), True
        y = pad(batched_operand(x, batched[0], size), 0, config)
        shape = y.aval.shape
        mask = broadcast_in_dim(
            self.mask(x.aval.shape[batched[0] :]), shape, tuple(range(1, y.aval.ndim))
        )
        return select_n(mask, broadcast_in_dim(value, shape, (0,)), y), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Pad:
        return cls(tuple((int(a), int(b), int(c)) for a, b, c in params["padding_config"]))


@primitive
class Slice(Linear):
    """Elements from `start` up to `limit` in steps of `strides`; its transpose pads with zeros."""

    name = "slice"
    fuses = True
    spelling = "lax.slice({0}, {start}, {limit}, {strides})"
    adds_up = False
    jax_names = ("slice",)
    start: tuple[int, ...]
    limit: tuple[int, ...]
    strides: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(Slice((1,), (3,), (1,)), (Aval((4,), F32),))
        yield Sample(Slice((1, 0), (5, 3), (2, 1)), (Aval((6, 3), F32),))
        yield Sample(Slice((0, 1), (7, 4), (3, 2)), (Aval((7, 4), C64),))
        yield Sample(Slice((2,), (2,), (3,)), (Aval((4,), F32),))
        yield Sample(Slice((0,), (2,), (1,)), (Aval((3,), I32),))

    def shape(self, x: Aval) -> Aval:
        bounds = tuple(zip(self.start, self.limit, self.strides, strict=False))
        lengths = {x.ndim, len(self.start), len(self.limit), len(self.strides)}
        if len(lengths) > 1 or not all(
            [0 <= a <= b <= n and s > 0 for n, (a, b, s) in zip(x.shape, bounds, strict=True)]
        ):
            raise ShapeError(
                f"slice: {x} has no elements from {self.start} to {self.limit} by {self.strides}"
            )
        return x.with_shape(tuple([-(-(b - a) // s) for a, b, s in bounds]))

    def lower(self, x: Any) -> Any:
        plain = all([s == 1 for s in self.strides])
        return lax.slice(x, self.start, self.limit, None if plain else self.strides)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if self.limit == x.aval.shape and not any(self.start) and self.shape(x.aval) is x.aval:
            return x
        return alike(builder, self, x)

    def transpose(self, ct: Any, x: Any) -> Any:
        config = []
        for n, m, start, stride in zip(
            x.aval.shape, ct.aval.shape, self.start, self.strides, strict=True
        ):
            end = start + (m - 1) * stride + 1 if m else start
            config.append((start, n - end, stride - 1))
        return [pad(ct, 0, tuple(config))]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return slice_(xs[0], (0, *self.start), (size, *self.limit), (1, *self.strides)), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        kept = zip(xs[0].shape, self.shape(xs[0]).shape, strict=True)
        return {a: ((a, n),) for a, (n, m) in enumerate(kept) if n == m}

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Slice:
        start, limit, strides = (params[k] for k in ("start_indices", "limit_indices", "strides"))
        strides = (1,) * len(start) if strides is None else strides
        return cls(*(tuple(int(i) for i in v) for v in (start, limit, strides)))


@primitive
class Rev(Linear):
    """Elements in reverse order along axes; its own transpose and its own inverse."""

    name = "rev"
    fuses = True
    spelling = "lax.rev({0}, {dimensions})"
    adds_up = False
    keeps_values = True
    permutes = True
    jax_names = ("rev",)
    dimensions: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(Rev((0,)), (Aval((3,), F32),))
        yield Sample(Rev((0, 2)), (Aval((2, 1, 3), C64),))
        yield Sample(Rev((1,)), (Aval((2, 0), F32),))

    def shape(self, x: Aval) -> Aval:
        if len(set(self.dimensions)) != len(self.dimensions):
            raise ShapeError(f"rev: axes {self.dimensions} repeat")
        for d in self.dimensions:
            axis_in(self.name, d, x)
        return x

    def lower(self, x: Any) -> Any:
        return lax.rev(x, self.dimensions)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if not self.dimensions:
            return x
        made = builder.definition(x)
        if made is not None and isinstance(made.primitive, Rev):
            once = set(self.dimensions) ^ set(made.primitive.dimensions)
            return rev(made.inputs[0], tuple(sorted(once)))
        return alike(builder, self, x)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [self(ct)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return rev(xs[0], tuple(d + 1 for d in self.dimensions)), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Rev:
        return cls(tuple(int(d) for d in params["dimensions"]))


@primitive
class Iota(Primitive):
    """An array whose elements are their index along one axis."""

    name = "iota"
    spelling = "lax.broadcasted_iota({dtype}, {new_shape}, {dimension})"
    work_each = Work(0)
    jax_names = ("iota",)
    dtype: Any
    new_shape: tuple[int, ...]
    dimension: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(Iota(I32, (3,), 0), ())
        yield Sample(Iota(F32, (2, 3), 1), ())
        yield Sample(Iota(BF16, (0, 2), 1), ())

    def shape(self, *xs: Aval) -> Aval:
        y = Aval(self.new_shape, self.dtype)
        axis_in(self.name, self.dimension, y)
        return y

    def lower(self, *xs: Any) -> Any:
        return lax.broadcasted_iota(self.dtype, self.new_shape, self.dimension)

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Iota | None:
        dtype, shape = params["dtype"], params["shape"]
        if avals or params.get("sharding") is not None:
            return None
        return cls(np.dtype(dtype), tuple(int(n) for n in shape), int(params["dimension"]))


@primitive
class Split(Linear):
    """Consecutive pieces of given sizes along an axis; its transpose joins them."""

    name = "split"
    adds_up = False
    jax_names = ("split",)
    multiple_results = True
    sizes: tuple[int, ...]
    axis: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(Split((1, 3), 0), (Aval((4,), F32),))
        yield Sample(Split((2, 0, 1), 1), (Aval((2, 3), C64),))

    def shape(self, *xs: Aval) -> Any:
        (x,) = xs
        axis_in(self.name, self.axis, x)
        if sum(self.sizes) != x.shape[self.axis] or any(n < 0 for n in self.sizes):
            raise ShapeError(f"split: sizes {self.sizes} do not add up to axis {self.axis} of {x}")
        return tuple([x.with_shape(with_size(x.shape, self.axis, n)) for n in self.sizes])

    def lower(self, x: Any) -> Any:
        return lax.split(x, self.sizes, self.axis)

    def simplify(self, builder: Builder, x: Atom) -> Any:
        return (x,) if len(self.sizes) == 1 else None

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x = xs[0].aval
        return [concatenate(filled(ct, self.shape(x)), self.axis)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return split(xs[0], self.sizes, self.axis + 1), [True] * len(self.sizes)

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Split:
        return cls(tuple(int(n) for n in params["sizes"]), int(params["axis"]))


@primitive
class Tile(Linear):
    """The array repeated `reps` times along each axis; its transpose sums the copies."""

    name = "tile"
    jax_names = ("tile",)
    reps: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(Tile((2,)), (Aval((3,), F32),))
        yield Sample(Tile((1, 3)), (Aval((2, 2), C64),))
        yield Sample(Tile((2, 0)), (Aval((1, 2), F32),))

    def shape(self, x: Aval) -> Aval:
        if len(self.reps) != x.ndim or any(r < 0 for r in self.reps):
            raise ShapeError(f"tile: {x} cannot be repeated {self.reps} times")
        return x.with_shape(tuple([n * r for n, r in zip(x.shape, self.reps, strict=True)]))

    def lower(self, x: Any) -> Any:
        return lax.tile(x, self.reps)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        return x if all([r == 1 for r in self.reps]) else alike(builder, self, x)

    def transpose(self, ct: Any, x: Any) -> Any:
        pairs = [n for pair in zip(self.reps, x.aval.shape, strict=True) for n in pair]
        return [reduce_sum(reshape(ct, tuple(pairs)), tuple(range(0, len(pairs), 2)))]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return tile(xs[0], (1, *self.reps)), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Tile:
        return cls(tuple(int(n) for n in params["reps"]))


class _OptimizationBarrier(OneSign):
    """Its operands, which the compiler may not compute or move across it one by one.

    So are its derivative and its transpose, on the tangents or cotangents that there are.
    """

    name = "optimization_barrier"
    adds_up = False
    work_each = Work(0)
    jax_names = ("optimization_barrier",)
    multiple_results = True

    def samples(self) -> Iterator[Sample]:
        yield Sample(self, (Aval((3,), F32),))
        yield Sample(self, (Aval((), F32), Aval((2,), C64), np.array([1, 2], np.int32)))

    def shape(self, *xs: Aval) -> Any:
        return xs

    def lower(self, *xs: Any) -> Any:
        return lax.optimization_barrier(xs)

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        return None if xs else ()

    def present(self, values: Sequence[Any]) -> list[Any]:
        """The barrier over those values that are not None."""
        passed = iter(self(*[v for v in values if v is not None]))
        return [None if v is None else next(passed) for v in values]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), self.present(dxs)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        linear = [isinstance(x, Undefined) for x in xs]
        return self.present([c if flag else None for c, flag in zip(ct, linear, strict=True)])

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(*xs), list(batched)

    def from_jax(self, params: dict[str, Any], avals: Sequence[Aval]) -> _OptimizationBarrier:
        return self


optimization_barrier = _OptimizationBarrier()
Primitive.named["optimization_barrier"] = optimization_barrier


def filled(cts: Sequence[Any], avals: Sequence[Aval]) -> list[Atom]:
    """Cotangents with zeros in the place of what is absent."""
    return [zeros(a) if ct is None else ct for ct, a in zip(cts, avals, strict=True)]


def concatenate(xs: Sequence[Atom], dimension: int) -> Atom:
    """Arrays one after the other along an axis."""
    return Concatenate(dimension)(*xs)


def pieces_of(x: Atom, axis: int) -> Sequence[Atom]:
    """What `x` is joined from along an axis; itself alone where it is not."""
    made = ambient().definition(x)
    return made.inputs if made is not None and made.primitive == Concatenate(axis) else (x,)


def pad(x: Atom, value: Any, config: tuple[tuple[int, int, int], ...]) -> Atom:
    """`x` with `value` (an atom or a number) put `(low, high, interior)` around and between."""
    return Pad(config)(x, value if isinstance(value, Atom) else literal(value, x.aval))


def slice_(
    x: Atom,
    start: tuple[int, ...],
    limit: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
) -> Atom:
    """`x[start:limit:strides]`, one of each an axis."""
    return Slice(start, limit, strides or (1,) * len(start))(x)


def slice_along(x: Atom, axis: int, start: int, limit: int) -> Atom:
    """The part of `x` from `start` to `limit` along one axis."""
    shape = x.aval.shape
    return slice_(x, with_size((0,) * len(shape), axis, start), with_size(shape, axis, limit))


def rev(x: Atom, dimensions: tuple[int, ...]) -> Atom:
    """`x` in reverse order along axes."""
    return Rev(dimensions)(x)


def iota(dtype: Any, shape: tuple[int, ...], dimension: int) -> Atom:
    """Each element's index along one axis."""
    return Iota(np.dtype(dtype), shape, dimension)()


def split(x: Atom, sizes: tuple[int, ...], axis: int) -> tuple[Atom, ...]:
    """Consecutive pieces of `x` along an axis."""
    return Split(sizes, axis)(x)


def tile(x: Atom, reps: tuple[int, ...]) -> Atom:
    """`x` repeated along each axis."""
    return Tile(reps)(x)
