"""Timing contenders in alternation, so that what slows the machine for a while slows all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax

QUICK = 2.0  # seconds to a first result that is had three times
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Row(NamedTuple):
    """One task: median seconds and bytes of memory by contender, the first of them functrace."""

    task: str
    seconds: Mapping[str, float]
    note: str = ""
    memory: Mapping[str, int] = MappingProxyType({})


def alternate(contenders: Mapping[K, Callable[[], object]], rounds: int = 15, calls: int = 1) -> dict[K, float]:
    """Median seconds a call of each contender.

    Every other round goes backward, and a turn of several calls begins with one that does not count: the contender
    that comes after a slow one finds its caches cold, and threads that still spin.

    Args:
      contenders: functions without arguments, by name; each is called once before the clock runs.
      rounds: how often each has its turn.
      calls: how many calls a turn has.
    """
    for run in contenders.values():
        run()
    # What earlier benchmarks left is out of the collector's sight, so that a turn pays for its own garbage alone.
    gc.collect()
    gc.freeze()
    seconds: dict[K, list[float]] = {name: [] for name in contenders}
    try:
        for turn in range(rounds):
            for name, run in list(contenders.items())[:: -1 if turn % 2 else 1]:
                gc.collect()
                if calls > 1:
                    run()
                start = time.perf_counter()
                for _ in range(calls):
                    run()
                seconds[name].append((time.perf_counter() - start) / calls)
    finally:
        gc.unfreeze()
    return {name: statistics.median(times) for name, times in seconds.items()}


class First(NamedTuple):
    """By contender: its executable, its first result, the median seconds to that, and bytes of temporary memory."""

    runs: dict[str, Callable[..., Any]]
    results: dict[str, Any]
    seconds: dict[str, float]
    memory: dict[str, int]


def firsts(contenders: Mapping[K, Callable[[], R]]) -> tuple[dict[K, R], dict[K, float]]:
    """What each contender returns when it starts anew, and the median seconds to that.

    If all are quick, they have three turns in changing order, since the first of a process to call a library pays for
    its start.
    """
    results: dict[K, R] = {}
    seconds: dict[K, list[float]] = {name: [] for name in contenders}
    for turn in range(3):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            results[name] = contenders[name]()
            seconds[name].append(time.perf_counter() - start)
        if max(times[0] for times in seconds.values()) > QUICK:
            break
    return results, {name: statistics.median(times) for name, times in seconds.items()}


def first_results(contenders: Mapping[str, Callable[[], Any]], args: Sequence[Any]) -> First:
    """What each contender takes to its first result, compilation included.

    Args:
      contenders: by name, what makes a fresh jitted function.
      args: what they are called with.
    """

    def first(make: Callable[[], Any]) -> tuple[Any, Any]:
        run = make().lower(*args).compile()
        return run, jax.block_until_ready(run(*args))

    started, seconds = firsts({name: lambda make=make: first(make) for name, make in contenders.items()})
    runs = {name: run for name, (run, _) in started.items()}
    memory = {name: run.memory_analysis().temp_size_in_bytes for name, run in runs.items()}
    return First(runs, {name: result for name, (_, result) in started.items()}, seconds, memory)


def calls(first: First, args: Sequence[Any], rounds: int) -> dict[str, float]:
    """Median seconds a call of what is compiled."""
    return alternate({k: lambda run=run: jax.block_until_ready(run(*args)) for k, run in first.runs.items()}, rounds)


def human(seconds: float) -> str:
    """A duration in its natural unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def mebibytes(size: float) -> str:
    """A number of bytes in MiB."""
    return f"{size / 2**20:,.1f} MiB"


def cell(row: Row, name: str) -> str:
    """What one contender took; beside a rival's time, how many times functrace's median it is."""
    parts = []
    if name in row.seconds:
        ours = next(iter(row.seconds))
        ratio = "" if name == ours else f" ({row.seconds[name] / row.seconds[ours]:.2f}x)"
        parts.append(human(row.seconds[name]) + ratio)
    if name in row.memory:
        parts.append(mebibytes(row.memory[name]))
    return ", ".join(parts)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in (*row.seconds, *row.memory)))
    lines = [
        "| task | " + " | ".join(names) + " | |",
        "| --- |" + " ---: |" * len(names) + " --- |",
    ]
    for row in rows:
        lines.append(f"| {row.task} | " + " | ".join(cell(row, name) for name in names) + f" | {row.note} |")
    return "\n".join(lines)
