"""Timing contenders in alternation, so that what slows the machine for a while slows all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One task: median seconds, or bytes, by contender, the first of them functrace."""

    task: str
    seconds: dict[str, float]
    note: str = ""
    unit: str = "s"


def alternate(
    contenders: dict[str, Callable[[], object]], rounds: int = 15, calls: int = 1
) -> dict[str, float]:
    """Median seconds a call of each contender.

    Args:
      contenders: functions without arguments, by name; each is called once before the clock runs.
      rounds: how often each has its turn.
      calls: how many calls a turn has.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(times) for name, times in seconds.items()}


SIZES = {
    "s": (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)),
    "bytes": (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("bytes", 1.0)),
}


def human(quantity: float, unit: str = "s") -> str:
    """A duration, or a number of bytes, in its natural unit."""
    sizes = SIZES[unit]
    name, size = next((pair for pair in sizes if quantity >= pair[1]), sizes[-1])
    return f"{quantity / size:.3g} {name}"


def table(rows: list[Row]) -> str:
    """The rows in Markdown; beside each rival, how many times functrace's median its own is."""
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    lines = [
        "| task | " + " | ".join(names) + " | |",
        "| --- |" + " ---: |" * len(names) + " --- |",
    ]
    for row in rows:
        ours = next(iter(row.seconds.values()))
        cells = []
        for name in names:
            if name not in row.seconds:
                cells.append("")
            elif name == next(iter(row.seconds)):
                cells.append(human(ours, row.unit))
            else:
                cells.append(f"{human(row.seconds[name], row.unit)} ({row.seconds[name] / ours:.2f}x)")
        lines.append(f"| {row.task} | " + " | ".join(cells) + f" | {row.note} |")
    return "\n".join(lines)
