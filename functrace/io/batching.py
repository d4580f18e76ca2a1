"""Batches of an epoch, in an order that follows from a seed; and reading ahead while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array, tree_util

from functrace.errors import ArgumentError, DtypeError
from functrace.ir.source import caller_source
from functrace.lax.bodies import integer
from functrace.tracing.tracer import at

PyTree = Any
END = object()


def batches(
    arrays: PyTree,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    drop_last: bool = True,
    shard: tuple[int, int] = (0, 1),
    start: int = 0,
) -> Iterator[PyTree]:
    """The batches of one epoch: every example once, in an order that `seed` and `epoch` fix.

    A position is two integers, the epoch and how many of its batches are done; begin again there with `start`:

        for epoch in range(position["epoch"], epochs):
            start = position["batch"] if epoch == position["epoch"] else 0
            todo = prefetch(batches((x, y), 64, seed=0, epoch=epoch, start=start))
            for done, batch in enumerate(todo, start + 1):
                params, state = train_step(params, state, batch)
                if done % 1000 == 0:
                    save(path, {"params": params, "state": state, "position": {"epoch": epoch, "batch": done}})

    Args:
      arrays: a pytree of arrays, of NumPy's or JAX's, with one leading size: the examples.
      batch_size: examples in a batch, those of all shards together.
      seed: not negative.
      epoch: which pass over the examples, from 0.
      shuffle: whether to take them in a new order each epoch, rather than as they stand.
      drop_last: whether to leave out the last examples if they do not fill a batch.
      shard: `(i, n)`: give the i-th of n equal parts of each batch, for the i-th of n processes; the parts together
        are the batch that one process would have.
      start: how many batches to pass over.
    Returns:
      An iterator of pytrees like `arrays`.
    Raises:
      ArgumentError: arrays that are empty or differ in length, a batch larger than they are or that n does not divide,
        or a number out of its range.
      DtypeError: a leaf is no array, or a number no integer.

    >>> [x.tolist() for x in batches(np.arange(7), 3, seed=0, epoch=0)]
    [[2, 4, 3], [6, 5, 0]]
    >>> [x.tolist() for x in batches(np.arange(7), 2, seed=0, epoch=0, shuffle=False, drop_last=False, start=2)]
    [[4, 5], [6]]
    """
    total = length_of(arrays)
    batch_size = integer("batches", "batch_size", batch_size, 1)
    seed, epoch = integer("batches", "seed", seed, 0), integer("batches", "epoch", epoch, 0)
    if batch_size > total:
        raise ArgumentError(
            f"batches: batch_size is {batch_size}, and there are {total} examples; give at most that."
            f"{at(caller_source())}"
        )
    part, parts = (integer("batches", f"shard[{k}]", n, 0) for k, n in enumerate(shard))
    if part >= parts:
        raise ArgumentError(
            f"batches: shard is {shard}; (i, n) with i from 0 to n - 1 was expected.{at(caller_source())}"
        )
    for name, size in (("batch_size", batch_size), ("the last batch", 0 if drop_last else total % batch_size)):
        if size % parts:
            fix = "a multiple of it" if name == "batch_size" else "drop_last=True"
            raise ArgumentError(
                f"batches: {name} is {size}, which {parts} shards do not divide; give {fix}.{at(caller_source())}"
            )
    count = total // batch_size if drop_last else -(-total // batch_size)
    start = integer("batches", "start", start, 0)
    if start > count:
        raise ArgumentError(f"batches: start is {start}; the epoch has {count} batches.{at(caller_source())}")
    order = np.random.default_rng([seed, epoch]).permutation(total) if shuffle else None

    def generate() -> Iterator[PyTree]:
        for i in range(start, count):
            first = i * batch_size
            size = min(batch_size, total - first) // parts
            rows = slice(first + part * size, first + (part + 1) * size)
            chosen = rows if order is None else order[rows]
            yield tree_util.tree_map(lambda x, chosen=chosen: x[chosen], arrays)

    return generate()


def length_of(arrays: PyTree) -> int:
    """The one leading size of the leaves."""
    sizes = {}
    for path, x in tree_util.tree_flatten_with_path(arrays)[0]:
        name = f"arrays{tree_util.keystr(path)}"
        if not getattr(x, "shape", ()):
            what = "a scalar" if hasattr(x, "shape") else f"of type {type(x).__name__}"
            raise DtypeError(
                f"batches: {name} is {what}; an array with an axis of examples was expected.{at(caller_source())}"
            )
        sizes[name] = x.shape[0]
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name}: {n}" for name, n in sizes.items())
        raise ArgumentError(f"batches: the arrays differ in length: {listing}.{at(caller_source())}")
    total = next(iter(sizes.values()), 0)
    if not total:
        raise ArgumentError(f"batches: there are no examples in the arrays.{at(caller_source())}")
    return total


def prefetch(iterator: Iterable[PyTree], size: int = 2, device: Any = None) -> Iterator[PyTree]:
    """The same items, made and sent to the device ahead of their turn, by a thread of their own.

    Args:
      iterator: gives pytrees; their arrays become JAX's, and what else they hold stays as it is.
      size: how many are kept ready.
      device: a device or a sharding to send them to; by default JAX's own.
    Returns:
      An iterator. What `iterator` raises is raised when its turn comes; to stop early, drop it or call its `close()`.
    Raises:
      DtypeError: `size` is no integer, or `iterator` cannot be iterated over.
      ArgumentError: `size` is less than 1.

    >>> [type(x).__name__ for x in prefetch(iter([np.ones(3), "text"]))]
    ['ArrayImpl', 'str']
    """
    size = integer("prefetch", "size", size, 1)
    try:
        source = iter(iterator)
    except TypeError as error:
        raise DtypeError(
            f"prefetch: iterator is of type {type(iterator).__name__}; something to iterate over was expected."
            f"{at(caller_source())}"
        ) from error
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def place(x: Any) -> Any:
        return jax.device_put(x, device) if isinstance(x, Array | np.ndarray | np.generic) else x

    def fetch() -> Any:
        with jax.enable_x64(x64):  # a setting of the thread that asks
            return next((tree_util.tree_map(place, item) for item in source), END)

    def generate() -> Iterator[PyTree]:
        pool = ThreadPoolExecutor(1, "prefetch")
        try:
            ready = deque(pool.submit(fetch) for _ in range(size))
            while (item := ready.popleft().result()) is not END:
                ready.append(pool.submit(fetch))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)

    return generate()
