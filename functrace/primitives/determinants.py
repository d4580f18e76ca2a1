"""Determinants and inverses of square matrices, along the last two axes.

The derivative of log |det A| is the inner product of its inverse with dA, so that all derivatives along all directions
share one inverse, and are products of matrices; JAX's solves a linear system for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import numpy as jnp

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Primitive, Sample, Work, is_complex
from functrace.primitives.complex import REAL_OF, complex_, imag, real
from functrace.primitives.contraction import dot_general, matmul
from functrace.primitives.elementwise import C64, F32, literal, mul, neg
from functrace.primitives.space import move_axis, reduce_sum

if TYPE_CHECKING:
    from functrace.rewrites.laplacian import Directions

MATRICES = [
    (np.array([[2.0, 1.0, 0.5], [0.3, -1.5, 1.0], [1.0, 0.2, 1.7]], F32),),
    (np.array([[[2.0, 1.0], [0.3, -1.5]], [[0.5, 1.0], [-2.0, 0.4]]], F32),),
    (np.array([[2.0 + 1.0j, 1.0], [0.3j, -1.5]], C64),),
]


class OfMatrices(Primitive):
    """A function of the square matrices along the last two axes, one by one."""

    def matrices(self, x: Aval) -> tuple[int, ...]:
        """The axes before those of the matrices."""
        if x.ndim < 2 or x.shape[-1] != x.shape[-2] or not x.is_inexact:
            raise ShapeError(f"{self.name}: needs square matrices of floating or complex dtype, got {x}")
        return x.shape[:-2]

    def samples(self) -> Iterator[Sample]:
        for operands in MATRICES:
            yield Sample(self, operands)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(*xs), [True, True] if self.multiple_results else True


class _Inverse(OfMatrices):
    """The inverse, Y; dY = -Y dX Y."""

    name = "inverse"

    def shape(self, x: Aval) -> Aval:
        self.matrices(x)
        return x

    def lower(self, x: Any) -> Any:
        return jnp.linalg.inv(x)

    def work(self, *xs: Aval) -> Work:
        return Work(2 * xs[0].size * xs[0].shape[-1])

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        return y, neg(product(product(y, dxs[0]), y))


class _SlogDet(OfMatrices):
    """The sign of the determinant, and the logarithm of its absolute value."""

    name = "slogdet"
    multiple_results = True

    def shape(self, *xs: Aval) -> Any:
        (x,) = xs
        leading = self.matrices(x)
        return Aval(leading, x.dtype, x.weak_type), Aval(leading, REAL_OF.get(x.dtype, x.dtype), x.weak_type)

    def lower(self, *xs: Any) -> Any:
        return tuple(jnp.linalg.slogdet(*xs))

    def work(self, *xs: Aval) -> Work:
        return Work(2 * xs[0].size * xs[0].shape[-1] // 3)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        (x,), (dx,) = xs, dxs
        sign, size = self(x)
        n = x.aval.ndim
        growth = reduce_sum(mul(move_axis(inverse(x), n - 1, n - 2), dx), (n - 2, n - 1))
        if not is_complex(x.aval.dtype):
            return (sign, size), [None, growth]
        turn = imag(growth)
        return (sign, size), [mul(sign, complex_(literal(0, turn.aval), turn)), real(growth)]

    def laplacian(self, at: Directions, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> Any:
        (x,), (j,) = xs, js
        if is_complex(x.aval.dtype):
            return super().laplacian(at, xs, js, ls)
        # d2 log |det| along J is the trace of -(Y J)^2, with Y the inverse.
        n = x.aval.ndim
        leading = tuple(range(n - 2))
        numbers = (((n - 1,), (n - 1,)), (tuple([a + 1 for a in leading]), leading))
        steps = dot_general(j, inverse(x), numbers, ("HIGHEST", "HIGHEST"))  # of the transposed Y J, directions behind
        bend = reduce_sum(mul(steps, move_axis(steps, n, n - 1)), (n - 2, n - 1, n))
        ys, jys, lys = at.push(self, xs, js, ls)
        return ys, jys, [lys[0], at.total(lys[1], neg(bend))]


def product(x: Atom, y: Atom) -> Atom:
    """The matrix product to the last digit that the backend has."""
    return matmul(x, y, ("HIGHEST", "HIGHEST"))


inverse = _Inverse()
slogdet = _SlogDet()
for prim in (inverse, slogdet):
    Primitive.named[prim.name] = prim
