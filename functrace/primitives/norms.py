"""The root of a sum of squares, and its square: a cone has no derivative at its tip, and its square has.

As `sqrt(reduce_sum(square(x)))` the derivative at 0 is 0 / 0, and squares of huge and tiny numbers leave the
range of floats. As one function it is x / norm(x), which at 0 is taken to be 0, and the derivative of the square
is 2 x everywhere, to any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax, numpy as jnp

from functrace.ir import Atom, Aval, Builder, Sample, primitive
from functrace.primitives.comparison import eq
from functrace.primitives.elementwise import F32, mul
from functrace.primitives.quotients import div
from functrace.primitives.reductions import Reduction
from functrace.primitives.selection import where
from functrace.primitives.space import broadcast_in_dim, reduce_sum


@dataclass(frozen=True, repr=False)
class RootReduction(Reduction):
    """A reduction of real numbers with a divisor, `count`, of the sum of squares."""

    count: float

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        return None

    def repeated(self, y: Atom, x: Atom) -> Atom:
        """A result for each element of `x`."""
        return broadcast_in_dim(y, x.aval.shape, tuple([i for i in range(x.aval.ndim) if i not in self.axes]))


@primitive
class Norm(RootReduction):
    """`sqrt(sum(x ** 2) / count)` over axes. Its slope at 0 is 0."""

    name = "norm"
    axes: tuple[int, ...]
    count: float = 1.0

    def samples(self) -> Iterator[Sample]:
        yield Sample(Norm((0,)), (Aval((4,), F32),))
        yield Sample(Norm((0, 2), 5.0), (Aval((2, 3, 2), F32),))

    def lower(self, x: Any) -> Any:
        if x.dtype.itemsize < 4:
            return jnp.sqrt(jnp.sum(x * x, self.axes) / self.count).astype(x.dtype)
        # Powers of two, which change no digit, bring numbers whose squares do not fit into range.
        half = np.finfo(x.dtype).maxexp // 2
        largest = jnp.max(jnp.abs(x), self.axes, keepdims=True, initial=0)
        power = lambda n: jnp.asarray(2.0**n, x.dtype)
        small = jnp.where(largest < power(-half + 20), power(half), power(0))
        scale = jnp.where(largest > power(half - 20), power(-half), small)
        squares = jnp.sum(lax.square(x * scale), self.axes)
        return jnp.sqrt(squares / self.count) / scale.reshape(squares.shape)

    def tangent(self, x: Atom, dx: Atom, y: Atom) -> Atom:
        size = self.repeated(y, x)
        tip = eq(size, 0)
        slope = div(x, where(tip, 1, size))
        dy = reduce_sum(mul(where(tip, 0, dx), slope), self.axes)
        return dy if self.count == 1 else div(dy, float(self.count))

    def squared(self, *xs: Atom) -> Atom:
        return SquaredNorm(self.axes, self.count)(*xs)


@primitive
class SquaredNorm(RootReduction):
    """The square of `Norm`, to the last bit; it has a derivative at 0."""

    name = "squared_norm"
    axes: tuple[int, ...]
    count: float = 1.0

    def samples(self) -> Iterator[Sample]:
        yield Sample(SquaredNorm((0,)), (Aval((4,), F32),))
        yield Sample(SquaredNorm((0, 2), 5.0), (Aval((2, 3, 2), F32),))

    def lower(self, x: Any) -> Any:
        return lax.square(Norm(self.axes, self.count).lower(x))

    def tangent(self, x: Atom, dx: Atom, y: Atom) -> Atom:
        return mul(reduce_sum(mul(dx, x), self.axes), 2 / self.count)


def norm(x: Atom, axes: tuple[int, ...], count: float = 1.0) -> Atom:
    """The root of the sum of squares over axes, divided by `count`."""
    return Norm(axes, float(count))(x)
