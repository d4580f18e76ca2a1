"""associative_scan: all prefixes of an associative operation, in logarithmic depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import lax, tree_util

from functrace.errors import ArgumentError
from functrace.ir.source import caller_source
from functrace.lax.bodies import Names, check_carry, integer, leaf_avals, paths
from functrace.tracing import aval_of, lift
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name

slice_in_dim = lift(lax.slice_in_dim)
concatenate = lift(lax.concatenate)
pad = lift(lax.pad)
rev = lift(lax.rev)
add = lift(lax.add)
bitwise_or = lift(lax.bitwise_or)


def associative_scan(fn: Callable[[Any, Any], Any], elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """`[e0, fn(e0, e1), fn(fn(e0, e1), e2), ...]` along an axis, computed in parallel.

    Args:
      fn: an associative function of two pytrees of the structure of `elems`, applied to slices of any
        length along `axis` at once.
      elems: a pytree of arrays of one size along `axis`.
      reverse: combine from the end.
      axis: the axis.
    Returns:
      A pytree like `elems`.
    Raises:
      ArgumentError: sizes along the axis differ, or there are no elements.

    Reference: Blelloch, "Prefix sums and their applications" (1990).

    >>> import functrace as ft, numpy as np
    >>> ft.lax.associative_scan(lambda a, b: a * b, np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [1.0, 2.0, 6.0, 24.0]
    """
    check_callable("associative_scan", fn, "fn")
    leaves, tree = tree_util.tree_flatten(elems)
    avals = leaf_avals("associative_scan", "elems", elems)
    axis = integer("associative_scan", "axis", axis)
    sizes: dict[str, int] = {}
    for name, a in zip(paths("elems", elems), avals, strict=True):
        if not -a.ndim <= axis < a.ndim:
            raise ArgumentError(
                f"associative_scan: {name} has type {a!r}, which has no axis {axis}.{at(caller_source())}"
            )
        sizes[name] = a.shape[axis]
    if len(set(sizes.values())) != 1:
        listing = ", ".join(f"{name}: {n}" for name, n in sizes.items()) or "no arrays"
        raise ArgumentError(
            f"associative_scan: elems must have arrays of one size along the axis, got {listing}.{at(caller_source())}"
        )
    axes = [axis % a.ndim for a in avals]
    names = Names("associative_scan", "its arguments", f"fn ({fun_name(fn)})")

    def combine(a: list[Any], b: list[Any]) -> list[Any]:
        result = fn(tree_util.tree_unflatten(tree, a), tree_util.tree_unflatten(tree, b))
        types = tree_util.tree_unflatten(tree, [aval_of(x) for x in a])
        leaf_avals("associative_scan", f"the result of {names.body}", result)
        check_carry(names, types, tree_util.tree_map(aval_of, result))
        return tree_util.tree_leaves(result)

    def every(xs: list[Any], start: int | None, stop: int | None, stride: int = 1) -> list[Any]:
        return [slice_in_dim(x, start, stop, stride, i) for x, i in zip(xs, axes, strict=True)]

    def prefixes(xs: list[Any]) -> list[Any]:
        n = xs[0].shape[axes[0]]
        if n < 2:
            return xs
        odd = prefixes(combine(every(xs, 0, n - 1, 2), every(xs, 1, None, 2)))
        if n == 2:
            even = every(xs, 0, 1)
        else:
            later = combine(every(odd, 0, (n - 1) // 2), every(xs, 2, None, 2))
            even = [concatenate([x, y], i) for x, y, i in zip(every(xs, 0, 1), later, axes, strict=True)]
        return [interleaved(x, y, i) for x, y, i in zip(even, odd, axes, strict=True)]

    flip = lambda xs: [rev(x, (i,)) for x, i in zip(xs, axes, strict=True)] if reverse else xs
    return tree_util.tree_unflatten(tree, flip(prefixes(flip(leaves))))


def interleaved(even: Any, odd: Any, axis: int) -> Any:
    """Entries of two arrays by turns; `even` has as many as `odd`, or one more."""
    n, m = even.shape[axis], odd.shape[axis]
    zero = odd.dtype.type(0)

    def spread(x: Any, low: int, high: int) -> Any:
        return pad(x, zero, [(low, high, 1) if i == axis else (0, 0, 0) for i in range(len(x.shape))])

    join = bitwise_or if odd.dtype == bool else add
    return join(spread(even, 0, n == m), spread(odd, 1, n != m))
