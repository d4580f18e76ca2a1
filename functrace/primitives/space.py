"""The space that tangents and cotangents live in: the linear maps that every other rule needs.

Reshaping, permuting, broadcasting and summing, each the transpose of another one here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Literal, Primitive, Sample, Through, Work, ambient, primitive
from functrace.ir.dependence import Matrix, Site, moved
from functrace.primitives.families import Linear, literal

F32 = np.dtype(np.float32)


@primitive
class Reshape(Linear):
    """The same elements, row by row, in another shape. Its transpose reshapes back."""

    name = "reshape"
    fuses = True
    spelling = "lax.reshape({0}, {new_shape})"
    adds_up = False
    keeps_values = True
    permutes = True
    jax_names = ("reshape", "squeeze", "expand_dims")
    new_shape: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(Reshape((3, 2)), (Aval((2, 3), F32),))
        yield Sample(Reshape((1, 6)), (Aval((6,), F32),))
        yield Sample(Reshape(()), (Aval((1, 1), F32),))
        yield Sample(Reshape((0, 2)), (Aval((2, 0), F32),))

    def shape(self, x: Aval) -> Aval:
        y = x.with_shape(self.new_shape)
        if y.size != x.size:
            raise ShapeError(f"reshape: {x} has {x.size} elements, {self.new_shape} has {y.size}")
        return y

    def lower(self, x: Any) -> Any:
        return lax.reshape(x, self.new_shape)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if x.aval.shape == self.new_shape:
            return x
        made = builder.definition(x)
        if made is not None and isinstance(made.primitive, Reshape):
            return reshape(made.inputs[0], self.new_shape)
        return alike(builder, self, x) if made is not None and x.aval.shape else None

    def transpose(self, ct: Any, x: Any) -> Any:
        return [reshape(ct, x.aval.shape)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return reshape(xs[0], (size, *self.new_shape)), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        # Axes of size 1 aside, an axis that becomes one, or several of which it is the product.
        found, before = {}, 1
        wide = [(k, n) for k, n in enumerate(self.new_shape) if n != 1]
        sizes = [math.prod([n for _, n in wide[:k]]) for k in range(len(wide) + 1)]  # of what lies before each axis
        for a, n in enumerate(xs[0].shape):
            if n > 1 and before in sizes and before * n in sizes:
                found[a] = tuple(wide[sizes.index(before) : sizes.index(before * n)])
            before *= n
        return found

    def squares(self, *xs: Any) -> Any:
        return [Through(xs[0])]

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Reshape | None:
        if "new_sizes" in params:
            return None if params["dimensions"] is not None else cls(tuple(params["new_sizes"]))
        drop = {d % avals[0].ndim for d in params["dimensions"]}
        return cls(tuple(n for i, n in enumerate(avals[0].shape) if i not in drop))


@primitive
class Transpose(Linear):
    """Axes in another order. Its transpose is the inverse permutation."""

    name = "transpose"
    fuses = True
    spelling = "lax.transpose({0}, {permutation})"
    keeps_values = True
    permutes = True
    jax_names = ("transpose",)
    permutation: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(Transpose((1, 0)), (Aval((2, 3), F32),))
        yield Sample(Transpose((2, 0, 1)), (Aval((2, 3, 4), F32),))

    def shape(self, x: Aval) -> Aval:
        if sorted(self.permutation) != list(range(x.ndim)):
            raise ShapeError(f"transpose: {self.permutation} is no order of the axes of {x}")
        return x.with_shape(tuple(x.shape[i] for i in self.permutation))

    def lower(self, x: Any) -> Any:
        return lax.transpose(x, self.permutation)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if self.permutation == tuple(range(x.aval.ndim)):
            return x
        made = builder.definition(x)
        if made is not None and isinstance(made.primitive, Transpose):
            inner = made.primitive.permutation
            return transpose(made.inputs[0], tuple(inner[i] for i in self.permutation))
        return None if made is None else alike(builder, self, x)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [transpose(ct, self._inverse())]

    def factors(self, *xs: Any) -> Any:
        return Through(xs[0], lambda found: found.permuted(self.permutation))

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        return [cts[0].there.permuted(self._inverse())]

    def _inverse(self) -> tuple[int, ...]:
        return tuple(int(i) for i in np.argsort(self.permutation))

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return transpose(xs[0], (0, *(i + 1 for i in self.permutation))), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        return {a: ((k, xs[0].shape[a]),) for k, a in enumerate(self.permutation)}

    def squares(self, *xs: Any) -> Any:
        return [Through(xs[0])]

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Transpose:
        return cls(tuple(params["permutation"]))


@primitive
class BroadcastInDim(Linear):
    """Operand axis i becomes axis `dimensions[i]` of `new_shape`; its transpose sums what was repeated."""

    name = "broadcast_in_dim"
    fuses = True
    spelling = "lax.broadcast_in_dim({0}, {new_shape}, {dimensions})"
    picks = True
    keeps_values = True
    jax_names = ("broadcast_in_dim",)
    new_shape: tuple[int, ...]
    dimensions: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(BroadcastInDim((2, 3), (1,)), (Aval((3,), F32),))
        yield Sample(BroadcastInDim((2, 3), ()), (Aval((), F32),))
        yield Sample(BroadcastInDim((2, 3, 4), (0, 2)), (Aval((1, 4), F32),))
        yield Sample(BroadcastInDim((0, 3), (1,)), (Aval((3,), F32),))

    def shape(self, x: Aval) -> Aval:
        fits = len(self.dimensions) == x.ndim and all(
            n in (1, self.new_shape[d]) for n, d in zip(x.shape, self.dimensions, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"broadcast_in_dim: {x} does not broadcast to {self.new_shape} along axes {self.dimensions}"
            )
        return x.with_shape(self.new_shape)

    def lower(self, x: Any) -> Any:
        return lax.broadcast_in_dim(x, self.new_shape, self.dimensions)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if x.aval.shape == self.new_shape and self.dimensions == tuple(range(x.aval.ndim)):
            return x
        if x.aval.size == math.prod(self.new_shape) and sorted(self.dimensions) == list(self.dimensions):
            return reshape(x, self.shape(x.aval).shape)
        made = builder.definition(x)
        if made is not None and isinstance(made.primitive, BroadcastInDim):
            inner = tuple(self.dimensions[d] for d in made.primitive.dimensions)
            return broadcast_in_dim(made.inputs[0], self.new_shape, inner)
        return None

    def transpose(self, ct: Any, x: Any) -> Any:
        repeated, order = self.axes(x.aval)
        return [reshape(transpose(reduce_sum(ct, repeated), order), x.aval.shape)]

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        shape = xs[0].aval.shape
        repeated, order = self.axes(xs[0].aval)
        return [cts[0].there.over(repeated).permuted(order).then(shape, lambda m: reshape(m, shape))]

    def axes(self, x: Aval) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes along which `x` is repeated, and the order of its own among the others."""
        own = [d for n, d in zip(x.shape, self.dimensions, strict=True) if n == self.new_shape[d]]
        repeated = tuple([d for d in range(len(self.new_shape)) if d not in own])
        return repeated, tuple([sorted(own).index(d) for d in own])

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        dimensions = (0, *(d + 1 for d in self.dimensions))
        return broadcast_in_dim(xs[0], (size, *self.new_shape), dimensions), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        pairs = enumerate(zip(self.dimensions, xs[0].shape, strict=True))
        return {a: ((d, n),) for a, (d, n) in pairs if n == self.new_shape[d]}

    def squares(self, *xs: Any) -> Any:
        (x,) = xs
        if not x.aval.size:
            return None
        times = self.shape(x.aval).size // x.aval.size
        return [Through(x, lambda n: Primitive.named["mul"](n, literal(times, n.aval)))]

    def factors(self, *xs: Any) -> Any:
        return Through(xs[0], lambda found: found.repeated(self.new_shape, self.dimensions))

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> BroadcastInDim:
        return cls(tuple(params["shape"]), tuple(params["broadcast_dimensions"]))


@primitive
class ReduceSum(Linear):
    """Sum over axes; its transpose repeats along them."""

    name = "reduce_sum"
    spelling = "lax.reduce_sum({0}, {axes})"
    jax_names = ("reduce_sum",)
    moves = False
    axes: tuple[int, ...]

    def samples(self) -> Iterator[Sample]:
        yield Sample(ReduceSum((0,)), (Aval((3,), F32),))
        yield Sample(ReduceSum((0, 2)), (Aval((2, 3, 4), F32),))
        yield Sample(ReduceSum((1,)), (Aval((2, 0), F32),))

    def shape(self, x: Aval) -> Aval:
        if not all(0 <= a < x.ndim for a in self.axes):
            raise ShapeError(f"reduce_sum: {x} has no axes {self.axes}")
        return x.with_shape(tuple(n for i, n in enumerate(x.shape) if i not in self.axes))

    def lower(self, x: Any) -> Any:
        return lax.reduce_sum(x, self.axes)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        if not self.axes:
            return x
        value = value_everywhere(builder, x)
        return zeros(self.shape(x.aval)) if type(value) is Literal and not any(value.bits) else None  # of zeros, not -0

    def work(self, *xs: Aval) -> Work:
        return Work(xs[0].size - self.shape(*xs).size if xs[0].size else 0)

    def transpose(self, ct: Any, x: Any) -> Any:
        return [broadcast_in_dim(ct, x.aval.shape, self._kept(x.aval))]

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        return [cts[0].there.along(xs[0].aval.shape, self._kept(xs[0].aval))]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        # Each entry is added to one.
        (x,), (y,) = at.operands, at.results
        shape = [1 if i in self.axes else n for i, n in enumerate(x.aval.shape)]
        return [[moved(np.broadcast_to(np.arange(y.size).reshape(shape), x.aval.shape), y.size).T.tocsr()]]

    def _kept(self, x: Aval) -> tuple[int, ...]:
        return tuple(i for i in range(x.ndim) if i not in self.axes)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return reduce_sum(xs[0], tuple(a + 1 for a in self.axes)), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        return {a: ((k, xs[0].shape[a]),) for k, a in enumerate(self._kept(xs[0]))}

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> ReduceSum:
        return cls(tuple(params["axes"]))


def reshape(x: Atom, shape: tuple[int, ...]) -> Atom:
    """`x` with another shape."""
    return x if x.aval.shape == shape else Reshape(shape)(x)


def transpose(x: Atom, permutation: tuple[int, ...]) -> Atom:
    """`x` with its axes permuted."""
    return Transpose(permutation)(x)


def broadcast_in_dim(x: Atom, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> Atom:
    """`x` repeated to fill `shape`, its axis i as axis `dimensions[i]`."""
    return BroadcastInDim(shape, dimensions)(x)


def reduce_sum(x: Atom, axes: tuple[int, ...]) -> Atom:
    """The sum of `x` over `axes`."""
    return ReduceSum(axes)(x) if axes else x


def full(aval: Aval, value: Any) -> Atom:
    """An array of type `aval` that holds one value everywhere."""
    return broadcast_in_dim(Literal(value, Aval((), aval.dtype, aval.weak_type)), aval.shape, ())


def value_everywhere(builder: Builder, x: Atom) -> Atom | None:
    """The scalar that all entries of `x` are, where that is seen."""
    if not x.aval.shape:
        return x
    made = builder.definition(x)
    if made is None or type(made.primitive) is not BroadcastInDim or made.inputs[0].aval.shape:
        return None
    return made.inputs[0]


def alike(builder: Builder, prim: Primitive, *xs: Atom) -> Atom | None:
    """What `prim`, whose result has no entries but those of its operands, makes of operands that are one value
    everywhere; None where they are not seen to be."""
    first, *others = [value_everywhere(builder, x) for x in xs]
    if type(first) is Literal:
        same = all([type(v) is Literal and v.bits == first.bits for v in others])
        return full(prim.shape(*[x.aval for x in xs]), first.value) if same else None
    if first is None or any([v is not first for v in others]):
        return None
    return broadcast_in_dim(first, prim.shape(*[x.aval for x in xs]).shape, ())


_zeros: dict[Aval, tuple[Primitive, Literal]] = {}


def zeros(aval: Aval) -> Atom:
    """The zero of the space of `aval`."""
    found = _zeros.get(aval)
    if found is None:  # remembered: a select's derivative asks for two
        if len(_zeros) > 10_000:
            _zeros.clear()
        zero = Literal(0, Aval((), aval.dtype, aval.weak_type))
        found = _zeros[aval] = BroadcastInDim(aval.shape, ()), zero
    repeat, zero = found
    return ambient().emit(repeat, (zero,))[0]


def not_there(aval: Aval) -> Atom:
    """In the place of a value that was not computed: NaN, or zero where the dtype has none."""
    return full(aval, np.nan if aval.is_inexact else 0)


def broadcast_to(x: Atom, shape: tuple[int, ...]) -> Atom:
    """`x` (a scalar, or of the rank of `shape`) repeated to fill `shape`."""
    if x.aval.shape == shape:
        return x
    return broadcast_in_dim(x, shape, tuple(range(len(shape) - x.aval.ndim, len(shape))))


def unbroadcast(ct: Atom, aval: Aval) -> Atom:
    """The cotangent of an operand of type `aval` that was repeated to the shape of `ct`."""
    if ct.aval.shape == aval.shape:
        return ct
    if not aval.shape:
        return reduce_sum(ct, tuple(range(ct.aval.ndim)))
    axes = tuple(i for i, n in enumerate(aval.shape) if n != ct.aval.shape[i])
    return reshape(reduce_sum(ct, axes), aval.shape)


def move_axis(x: Atom, source: int, destination: int) -> Atom:
    """`x` with one axis moved."""
    order = [i for i in range(x.aval.ndim) if i != source]
    order.insert(destination, source)
    return transpose(x, tuple(order))


def batched_operand(x: Atom, is_batched: bool, size: int) -> Atom:
    """`x` with a leading batch axis, repeated along it if it had none."""
    if is_batched:
        return x
    return broadcast_in_dim(x, (size, *x.aval.shape), tuple(range(1, x.aval.ndim + 1)))


__all__ = [
    "BroadcastInDim", "ReduceSum", "Reshape", "Transpose", "ambient", "batched_operand",
    "broadcast_in_dim", "broadcast_to", "full", "literal", "move_axis", "reduce_sum", "reshape",
    "transpose", "unbroadcast", "zeros",
]  # fmt: skip
