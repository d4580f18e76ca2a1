"""Batches: every example once, the same for the same seed, in shards as in one; and reading ahead."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from functrace.errors import ArgumentError, DtypeError
from functrace.io import batches, prefetch

X = {"x": np.arange(23) * 10.0, "y": np.arange(23)}


def joined(**options):
    return [b["y"].tolist() for b in batches(X, options.pop("batch_size", 4), **{"seed": 0, "epoch": 0, **options})]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_once(shuffle, drop_last):
    found = joined(shuffle=shuffle, drop_last=drop_last)
    sizes = [4] * 5 + ([] if drop_last else [3])
    assert [len(b) for b in found] == sizes
    everything = list(itertools.chain(*found))
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(23))
    assert (everything == list(range(len(everything)))) != shuffle
    for batch in batches(X, 4, seed=0, epoch=0, shuffle=shuffle):
        np.testing.assert_array_equal(batch["x"], batch["y"] * 10)


def test_seed_and_epoch_fix_the_order():
    orders = [joined(seed=seed, epoch=epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert orders == [joined(seed=seed, epoch=epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({str(order) for order in orders}) == 9


def test_start():
    whole = joined()
    assert all(joined(start=i) == whole[i:] for i in range(6))


@pytest.mark.parametrize("shuffle", [True, False])
def test_shards_together_are_the_batch(shuffle):
    whole = joined(batch_size=6, shuffle=shuffle)
    parts = [joined(batch_size=6, shuffle=shuffle, shard=(i, 3)) for i in range(3)]
    assert [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ({"x": np.ones(5), "y": np.ones(4)}, {}, ArgumentError,
         r"batches: the arrays differ in length: arrays\['x'\]: 5, arrays\['y'\]: 4\.  \(test_batching\.py"),
        (np.ones((0, 3)), {}, ArgumentError, "batches: there are no examples in the arrays"),
        ({}, {}, ArgumentError, "batches: there are no examples in the arrays"),
        (np.ones(3), {}, ArgumentError, "batches: batch_size is 4, and there are 3 examples; give at most that"),
        (np.ones(8), {"batch_size": 0}, ArgumentError, "batches: batch_size must be at least 1, got 0"),
        (np.ones(8), {"batch_size": 2.0}, DtypeError, r"batches: batch_size must be a Python int, got 2\.0"),
        (np.ones(8), {"seed": -1}, ArgumentError, "batches: seed must be at least 0, got -1"),
        (np.ones(8), {"epoch": -1}, ArgumentError, "batches: epoch must be at least 0, got -1"),
        (np.ones(8), {"start": 3}, ArgumentError, "batches: start is 3; the epoch has 2 batches"),
        (np.ones(8), {"shard": (2, 2)}, ArgumentError, r"batches: shard is \(2, 2\); \(i, n\) with i from 0 to n - 1"),
        (np.ones(8), {"shard": (0, 3)}, ArgumentError,
         "batches: batch_size is 4, which 3 shards do not divide; give a multiple of it"),
        (np.ones(9), {"shard": (0, 2), "drop_last": False}, ArgumentError,
         "batches: the last batch is 1, which 2 shards do not divide; give drop_last=True"),
        ([1, 2, 3], {}, DtypeError, r"batches: arrays\[0\] is of type int; an array with an axis of examples"),
        ((np.ones(8), np.ones(())), {}, DtypeError, r"batches: arrays\[1\] is a scalar; an array"),
    ],
)  # fmt: skip
def test_bad_input(arrays, options, error, message):
    with pytest.raises(error, match=message):
        batches(arrays, options.pop("batch_size", 4), **{"seed": 0, "epoch": 0, **options})


@pytest.mark.parametrize("size", [1, 2, 10])
def test_prefetch_gives_the_same(size):
    items = [{"x": np.full(3, i), "name": f"{i}", "n": i, "none": None} for i in range(5)]
    found = list(prefetch(iter(items), size))
    assert [type(item["x"]) is not np.ndarray and isinstance(item["x"], jax.Array) for item in found] == [True] * 5
    assert [(item["x"].tolist(), item["name"], item["n"], item["none"]) for item in found] == [
        ([i] * 3, f"{i}", i, None) for i in range(5)
    ]


def test_prefetch_reads_ahead_in_a_thread_and_no_further():
    made, threads = [], set()

    def source():
        for i in range(10):
            threads.add(threading.current_thread().name)
            made.append(i)
            yield np.ones(1)

    ahead = prefetch(source(), 3)
    next(ahead)
    deadline = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    ahead.close()
    assert not any(thread.name in threads for thread in threading.enumerate())


def test_prefetch_raises_in_turn():
    def source():
        yield np.ones(1)
        raise KeyError("third file")

    ahead = prefetch(source(), 4)
    next(ahead)
    with pytest.raises(KeyError, match="third file"):
        next(ahead)


def test_prefetch_keeps_to_the_settings_of_its_caller():
    with jax.enable_x64(True):
        assert next(prefetch([np.ones(1)])).dtype == np.float64
    assert next(prefetch([np.ones(1)])).dtype == np.float32
    device = jax.devices()[0]
    assert next(prefetch([np.ones(1)], device=device)).devices() == {device}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 0), ArgumentError, "prefetch: size must be at least 1, got 0"),
        ((3,), DtypeError, r"prefetch: iterator is of type int; something to iterate over was .*\(test_batching"),
    ],
)
def test_prefetch_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        prefetch(*arguments)
