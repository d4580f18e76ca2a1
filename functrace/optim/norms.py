"""Norms of anything finite: computed scaled by the largest magnitude, in float32 at least.

A norm is a pair `(peak, root)` that stands for `peak * root`: `peak` is the largest magnitude and
`root` the norm of what is left when that is divided out, between 1 and sqrt(n). Neither overflows,
whatever the finite input. XLA divides by a scalar by multiplying with its reciprocal, and flushes
subnormal numbers to zero, so a peak whose reciprocal would be subnormal is cut short (and `root` is
up to 16 times larger). Subnormal float32 and bfloat16 magnitudes themselves count as zero.
"""

import functools
from typing import Any, NamedTuple

import jax

from functrace import lax, numpy as fnp, tree
from functrace.optim.base import real_dtype
from functrace.optim.checking import as_arrays

Array = jax.Array
PyTree = Any
Axes = int | tuple[int, ...] | None


class Norm(NamedTuple):
    """`peak * root`; both real arrays of one dtype, float32 or float64."""

    peak: Array
    root: Array

    @property
    def value(self) -> Array:
        """The norm itself: Inf beyond the largest number of the dtype, and for Inf; NaN for NaN."""
        return fnp.where(self.peak == fnp.inf, self.peak, self.peak * self.root)


def leaf_norm(leaf: Array, axes: Axes = None, *, mean: bool = False) -> Norm:
    """Euclidean norm of an array, or with `mean` its root mean square.

    The axes are kept with size 1; None is all of them, to a scalar.
    """
    magnitude = fnp.abs(leaf).astype(real_dtype(leaf))
    peak = _peak([magnitude], axes)
    squares = _scaled_squares(magnitude, peak, axes)
    reduced = leaf.size // max(squares.size, 1)
    return Norm(peak, _root(squares / max(reduced, 1) if mean else squares))


def tree_norm(pytree: PyTree) -> Norm:
    """Euclidean norm of all leaves together."""
    leaves = tree.leaves(pytree)
    if not leaves:
        return Norm(fnp.zeros((), fnp.float32), fnp.ones((), fnp.float32))
    dtype = functools.reduce(fnp.promote_types, [real_dtype(leaf) for leaf in leaves])
    magnitudes = [fnp.abs(leaf).astype(dtype) for leaf in leaves]
    peak = _peak(magnitudes, None)
    return Norm(peak, _root(sum(_scaled_squares(magnitude, peak, None) for magnitude in magnitudes)))


def global_norm(pytree: PyTree) -> Array:
    """Euclidean norm of all leaves of a pytree together.

    Args:
      pytree: arrays of any floating or complex dtypes.
    Returns:
      f32[], or f64[] if a leaf is of 64 bits. No intermediate overflows or underflows; NaN if there
      is a NaN, else Inf if there is an Inf or the norm is beyond the dtype.
    Raises:
      DtypeError: a leaf is of integer or boolean dtype.
    Source: scaling as in LAPACK's nrm2; Blue, ACM TOMS 4 (1978).

    >>> float(global_norm({"a": fnp.array([3e25, 4e25]), "b": 0.0}) / 1e25)
    5.0
    """
    return tree_norm(as_arrays("global_norm", "pytree", pytree)).value


def shrink(leaf: Array, norm: Norm, max_norm: Array) -> tuple[Array, Array]:
    """`leaf * (max_norm / norm)` where the norm is larger than `max_norm`, the leaf elsewhere.

    The factor is at most 1. Where it is too small for the dtype, or the norm too large, its square
    root is applied twice: no intermediate is then smaller than the result.

    Returns:
      The shrunk leaf, in the leaf's dtype, and where it was shrunk (of the norm's shape). What
      depends on a non-finite norm is NaN.
    """
    dtype = norm.root.dtype
    max_norm = max_norm.astype(dtype)
    value = norm.value
    shrunk = ~(value <= max_norm)
    safe = Norm(fnp.where(norm.peak == 0, 1, norm.peak), norm.root)
    factor = max_norm / safe.value
    is_normal = (factor >= fnp.finfo(dtype).tiny) & (value <= _largest_divisor(dtype))
    half = fnp.sqrt(max_norm) / (fnp.sqrt(safe.root) * fnp.sqrt(safe.peak))
    first, second = fnp.where(is_normal, factor, half), fnp.where(is_normal, 1, half)
    return fnp.where(shrunk, (leaf * first * second).astype(leaf.dtype), leaf), shrunk


def _peak(magnitudes: list[Array], axes: Axes) -> Array:
    """The largest magnitude, or what can safely be divided by; Inf and NaN as they are.

    A norm does not depend on what it was scaled by, so its derivative need not either.
    """
    peaks = [fnp.max(m, axis=axes, keepdims=axes is not None, initial=0) for m in magnitudes]
    largest = functools.reduce(fnp.maximum, peaks)
    safe = fnp.minimum(largest, _largest_divisor(largest.dtype))
    return lax.stop_gradient(fnp.where(largest == fnp.inf, largest, safe))


def _largest_divisor(dtype: Any) -> float:
    return float(fnp.finfo(dtype).max) / 16


def _scaled_squares(magnitude: Array, peak: Array, axes: Axes) -> Array:
    scaled = magnitude / fnp.where(peak == 0, 1, peak)
    return fnp.sum(scaled * scaled, axis=axes, keepdims=axes is not None)


def _root(squares: Any) -> Array:
    """The square root, 1 at 0 (where the peak is 0 too), so that its derivative is finite."""
    return fnp.sqrt(fnp.where(squares == 0, 1, squares))
