"""Arrays of one shape put together along a new axis, and taken apart again: each the transpose of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Sample, Through, Undefined, primitive
from functrace.primitives.elementwise import C64, F32
from functrace.primitives.families import Linear
from functrace.primitives.space import alike, batched_operand
from functrace.primitives.structural import JointlyLinear, axis_in, filled, joined_aval


@primitive
class Stack(JointlyLinear):
    """Arrays of one shape along a new axis; its transpose takes them apart."""

    name = "stack"
    adds_up = False
    jax_names = ("stack",)
    axis: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(Stack(0), (Aval((), F32), Aval((), F32)))
        yield Sample(Stack(1), (Aval((2, 3), C64),) * 3)
        yield Sample(Stack(2), (Aval((2, 0), F32),) * 2)

    def shape(self, *xs: Aval) -> Aval:
        shape = xs[0].shape
        if any([x.shape != shape for x in xs]) or not 0 <= self.axis <= len(shape):
            raise ShapeError(
                f"stack: operands must have one shape, and axis {self.axis} must fit: "
                f"{', '.join(map(str, xs))}"
            )
        return joined_aval(self.name, xs, (*shape[: self.axis], len(xs), *shape[self.axis :]))

    def lower(self, *xs: Any) -> Any:
        return lax.stack(xs, self.axis)

    def simplify(self, builder: Builder, *xs: Atom) -> Atom | None:
        return alike(builder, self, *xs)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        pieces = unstack(ct, self.axis)
        return [p if isinstance(x, Undefined) else None for p, x in zip(pieces, xs, strict=True)]

    def squares(self, *xs: Any) -> Any:
        return [Through(x) for x in xs]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        xs = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)]
        return stack(xs, self.axis + 1), True

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        return {a: ((a + (a >= self.axis), n),) for a, n in enumerate(xs[i].shape)}

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Stack:
        return cls(int(params["axis"]) % (avals[0].ndim + 1))


@primitive
class Unstack(Linear):
    """The arrays along an axis, one by one; its transpose stacks them."""

    name = "unstack"
    adds_up = False
    jax_names = ("unstack",)
    multiple_results = True
    axis: int

    def samples(self) -> Iterator[Sample]:
        yield Sample(Unstack(0), (Aval((2,), F32),))
        yield Sample(Unstack(1), (Aval((2, 3), C64),))

    def shape(self, *xs: Aval) -> Any:
        (x,) = xs
        axis_in(self.name, self.axis, x)
        piece = x.with_shape((*x.shape[: self.axis], *x.shape[self.axis + 1 :]))
        return (piece,) * x.shape[self.axis]

    def lower(self, x: Any) -> Any:
        return lax.unstack(x, self.axis)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x = xs[0].aval
        return [stack(filled(ct, self.shape(x)), self.axis)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        ys = unstack(xs[0], self.axis + 1)
        return ys, [True] * len(ys)

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Unstack:
        return cls(int(params["axis"]) % avals[0].ndim)


def stack(xs: Sequence[Atom], axis: int) -> Atom:
    """Arrays of one shape along a new axis."""
    return Stack(axis)(*xs)


def unstack(x: Atom, axis: int) -> tuple[Atom, ...]:
    """The arrays along an axis of `x`."""
    return Unstack(axis)(x)
