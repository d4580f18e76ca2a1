"""Running sums, products, extrema and log-sum-exps along an axis.

The sum is linear. The others differentiate through a scan of pairs `(value, tangent)`, combined by
the derivative of the binary primitive that they repeat.
Source of the scan: Blelloch, Prefix sums and their applications, CMU-CS-90-190 (1990).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from jax import lax, numpy as jnp

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Primitive, Sample, Work, primitive
from functrace.ir.dependence import Matrix, Site, linked
from functrace.primitives.binary import max_, min_
from functrace.primitives.comparison import eq, ge, is_finite, logical_and, logical_not
from functrace.primitives.elementwise import C64, F32, I32, Elementwise, add, binary, mul, sub
from functrace.primitives.families import Linear
from functrace.primitives.recurrences import total
from functrace.primitives.selection import where
from functrace.primitives.space import reshape
from functrace.primitives.stacking import stack
from functrace.primitives.structural import concatenate, rev, slice_, slice_along, with_size
from functrace.primitives.unary import exp, logistic

BF16 = np.dtype(ml_dtypes.bfloat16)


def share_of(x: Atom, z: Atom) -> Atom:
    """exp(x - z), where x is part of the log-sum-exp z; 1 if they are the same infinity."""
    return exp(where(_are_same_infinity(x, z), 0.0, sub(x, z)))


def _higher(x: Atom, y: Atom) -> Atom:
    """The greater of two numbers; their sum if they are the same infinity."""
    return where(_are_same_infinity(x, y), add(x, y), where(ge(x, y), x, y))


def _gap(x: Atom, y: Atom) -> Atom:
    """The lesser of two numbers, less the greater."""
    first = ge(x, y)
    return where(_are_same_infinity(x, y), 0.0, sub(where(first, y, x), where(first, x, y)))


def _are_same_infinity(x: Atom, y: Atom) -> Atom:
    return logical_and(eq(x, y), logical_not(is_finite(x)))


def _series_of_logaddexp(xs: Any, ys: Any) -> Callable[[int], Any]:
    """z = high + log(1 + exp(gap)).

    By the shares a second derivative would be the small difference of large numbers, where one operand is much less.
    """
    walk = xs[0].walk
    high, gap = walk.formula(_higher, *xs), walk.formula(_gap, *xs)
    small = gap.slope.through(mul, gap.through(logistic))

    def rule(k: int) -> Any:
        return total([high[k], small[k - 1] and mul(small[k - 1], 1 / k)])

    return rule


logaddexp = binary(
    "logaddexp",
    jnp.logaddexp,
    lambda x, y, z: share_of(x, z),
    lambda x, y, z: share_of(y, z),
    # Where one operand is inf, JAX's derivative in the other is not zero.
    edges=[(np.array([-np.inf, np.inf, 1.0], np.float32), np.array([0.0, np.inf, 1.0], np.float32))],
    in_jax=False,
    takes=(8, 2),
    series=_series_of_logaddexp,
)

Pair = Sequence[Atom]


def at_even(x: Atom, axis: int, start: int) -> Atom:
    """Every other element along an axis."""
    ones = (1,) * x.aval.ndim
    first = with_size((0,) * x.aval.ndim, axis, start)
    return slice_(x, first, x.aval.shape, with_size(ones, axis, 2))


def interleave(evens: Atom, odds: Atom, axis: int) -> Atom:
    """Elements by turns; there are as many even ones as odd ones, or one more."""
    n = odds.aval.shape[axis]
    pairs = stack((slice_along(evens, axis, 0, n), odds), axis + 1)
    whole = reshape(pairs, with_size(odds.aval.shape, axis, 2 * n))
    rest = evens.aval.shape[axis] - n
    return concatenate((whole, slice_along(evens, axis, n, n + 1)), axis) if rest else whole


def scan_pairs(combine: Callable[[Pair, Pair], Pair], pair: Pair, axis: int) -> Pair:
    """All prefixes along an axis combined, in about log2 n rounds."""
    n = pair[0].aval.shape[axis]
    if n < 2:
        return pair
    evens = [at_even(slice_along(v, axis, 0, n - 1), axis, 0) for v in pair]
    odds = [at_even(v, axis, 1) for v in pair]
    odd_prefixes = scan_pairs(combine, combine(evens, odds), axis)
    even_prefixes = [slice_along(v, axis, 0, 1) for v in pair]
    if n > 2:
        before = [slice_along(v, axis, 0, (n - 1) // 2) for v in odd_prefixes]
        later = combine(before, [at_even(v, axis, 2) for v in pair])
        even_prefixes = [concatenate(vs, axis) for vs in zip(even_prefixes, later, strict=True)]
    return [interleave(e, o, axis) for e, o in zip(even_prefixes, odd_prefixes, strict=True)]


@dataclass(frozen=True, repr=False)
class Cumulative(Primitive):
    """The results for all prefixes along an axis, or for all suffixes if `reverse`."""

    axis: int
    reverse: bool
    scan: ClassVar[Callable[..., Any]]
    combine: ClassVar[Elementwise]

    def shape(self, x: Aval) -> Aval:
        if not 0 <= self.axis < x.ndim:
            raise ShapeError(f"{self.name}: {x} has no axis {self.axis}")
        return x

    def lower(self, x: Any) -> Any:
        return type(self).scan(x, self.axis, self.reverse)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        if not y.aval.is_inexact:
            return y, None

        def turned(x: Atom) -> Atom:
            return rev(x, (self.axis,)) if self.reverse else x

        def combine(low: Pair, high: Pair) -> Pair:
            return self.combine.jvp((low[0], high[0]), (low[1], high[1]))

        return y, turned(scan_pairs(combine, [turned(xs[0]), turned(dxs[0])], self.axis)[1])

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return replace(self, axis=self.axis + 1)(*xs), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Any:
        return cls(int(params["axis"]), bool(params["reverse"]))


def cumulative_samples(cls: Any, dtypes: Sequence[Any], edges: Sequence[Any] = ()) -> Iterator[Sample]:
    """Samples of a running reduction: both ways, of lengths 0 to 6."""
    for n in (0, 1, 2, 5, 6):
        yield Sample(cls(0, False), (Aval((n,), F32),))
    yield Sample(cls(1, True), (Aval((2, 3, 2), F32),))
    for dtype in dtypes:
        yield Sample(cls(1, False), (Aval((2, 3), dtype),))
    for edge in edges:
        for reverse in (False, True):
            yield Sample(cls(0, reverse), (np.array(edge, np.float32),), differentiable=False)


@primitive
class CumSum(Linear, Cumulative):
    """Running sum; its transpose is the running sum from the other end."""

    name = "cumsum"
    spelling = "lax.cumsum({0}, {axis}, {reverse})"
    moves = False
    work_each = Work(1)
    jax_names = ("cumsum",)
    scan = lax.cumsum

    def samples(self) -> Iterator[Sample]:
        return cumulative_samples(CumSum, (I32, C64, BF16))

    def transpose(self, ct: Any, *xs: Any) -> Any:
        return [CumSum(self.axis, not self.reverse)(ct)]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        (x,) = at.operands
        n = x.aval.shape[self.axis]
        numbers = np.moveaxis(np.arange(x.aval.size).reshape(x.aval.shape), self.axis, -1).reshape(-1, n)
        last, first = np.tril_indices(n)
        rows, columns = (first, last) if self.reverse else (last, first)
        return [[linked(numbers[:, rows], numbers[:, columns], (x.aval.size, x.aval.size))]]


@primitive
class CumProd(Cumulative):
    """Running product."""

    name = "cumprod"
    spelling = "lax.cumprod({0}, {axis}, {reverse})"
    jax_names = ("cumprod",)
    scan = lax.cumprod
    combine = mul

    def samples(self) -> Iterator[Sample]:
        return cumulative_samples(CumProd, (I32, C64, BF16), ([2, 0, 3, 0, 1],))


@primitive
class CumMax(Cumulative):
    """Running maximum."""

    name = "cummax"
    spelling = "lax.cummax({0}, {axis}, {reverse})"
    jax_names = ("cummax",)
    scan = lax.cummax
    locally_linear = True
    combine = max_

    def samples(self) -> Iterator[Sample]:
        return cumulative_samples(CumMax, (I32, BF16), ([1, 3, 3, 2, 3], [1, np.nan, 2]))


@primitive
class CumMin(Cumulative):
    """Running minimum."""

    name = "cummin"
    spelling = "lax.cummin({0}, {axis}, {reverse})"
    jax_names = ("cummin",)
    scan = lax.cummin
    locally_linear = True
    combine = min_

    def samples(self) -> Iterator[Sample]:
        return cumulative_samples(CumMin, (I32, BF16), ([4, 3, 3, 5, 3], [1, np.nan, 2]))


@primitive
class CumLogSumExp(Cumulative):
    """Running log of a sum of exponentials."""

    name = "cumlogsumexp"
    spelling = "lax.cumlogsumexp({0}, {axis}, {reverse})"
    jax_names = ("cumlogsumexp",)
    scan = lax.cumlogsumexp
    work_each = logaddexp.work_each
    combine = logaddexp

    def samples(self) -> Iterator[Sample]:
        return cumulative_samples(CumLogSumExp, (BF16,), ([90, -90, 90], [1, 1, 1, 1]))


def cumsum(x: Atom, axis: int, reverse: bool = False) -> Atom:
    """The running sum along an axis."""
    return CumSum(axis, reverse)(x)
