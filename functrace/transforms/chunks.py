"""Apply a function to many directions: all at once, or some at a time to save memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import numpy as jnp, tree_util

from functrace.control import Scan
from functrace.errors import ArgumentError
from functrace.ir.source import caller_source
from functrace.tracing import lift, trace
from functrace.tracing.trace import record
from functrace.tracing.tracer import at
from functrace.transforms.vmap import vmap

concatenate = lift(jnp.concatenate)
reshape = lift(jnp.reshape)


def check_chunk_size(transform: str, chunk_size: Any) -> None:
    """It is None, or a positive integer."""
    if chunk_size is not None and (not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1):
        raise ArgumentError(
            f"{transform}: chunk_size must be a positive integer, or None for all directions at once, got "
            f"{chunk_size!r}.{at(caller_source())}"
        )


def in_chunks(transform: str, fun: Callable[[Any], Any], xs: Any, chunk_size: int | None) -> Any:
    """`vmap(fun)(xs)`, `chunk_size` entries at a time.

    Args:
      transform: who asks, for messages.
      fun: a pure function of a pytree of arrays to one.
      xs: a pytree of arrays, not tracers, with one leading size.
      chunk_size: how many entries are computed together; None for all.
    """
    n = len(tree_util.tree_leaves(xs)[0])
    if chunk_size is None or chunk_size >= n:
        return vmap(fun)(xs)
    steps, rest = divmod(n, chunk_size)
    rows = tree_util.tree_map(lambda x: x[: n - rest].reshape(steps, chunk_size, *x.shape[1:]), xs)
    traced = trace(vmap(fun), (tree_util.tree_map(lambda x: x[0], rows),), transform=transform, like=fun)
    scan = Scan(traced.program, len(traced.captures), 0, steps)
    found = [
        reshape(y, (n - rest, *y.shape[2:]))
        for y in record(scan, [*traced.captures, *tree_util.tree_leaves(rows)])
    ]  # fmt: skip
    if rest:
        last = vmap(fun)(tree_util.tree_map(lambda x: x[n - rest :], xs))
        found = [concatenate([y, z]) for y, z in zip(found, tree_util.tree_leaves(last), strict=True)]
    return tree_util.tree_unflatten(traced.out_tree, found)
