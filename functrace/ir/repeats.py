"""Where a string repeats itself: a Program is one, of its equations' numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

WINDOWS = (1, 4, 16, 64)  # numbers in a row by which places that look alike are found, each four of those before
PERIODS = 8  # periods that are tried


class Stretch(NamedTuple):
    """Places `start` to `stop`, each like the one `period` further on, the last `period` but for that."""

    start: int
    stop: int
    period: int

    def overlaps(self, other: Stretch) -> bool:
        """Whether they have a place in common."""
        return self.start < other.stop and other.start < self.stop

    def is_many(self, other: Stretch) -> bool:
        """Whether each of these repetitions is three or more of the other's."""
        return self.overlaps(other) and self.period % other.period == 0 and self.period > 2 * other.period


def periods(numbers: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """Distances at which the string of numbers may repeat, those that places of most size speak for first."""
    distances, weights = [], []
    factors = np.random.default_rng(0).integers(1 << 62, size=4)
    hashes = numbers
    for width in WINDOWS:
        if width > 1:
            part = width // 4
            count = max(len(hashes) - 3 * part, 0)
            hashes = factors @ np.stack([hashes[k * part : k * part + count] for k in range(4)])
        order = np.argsort(hashes, kind="stable")  # places with one window, the next one after each
        alike = hashes[order[1:]] == hashes[order[:-1]]
        distances.append((order[1:] - order[:-1])[alike])
        weights.append(np.array(sizes)[order[1:][alike]])
    found, which = np.unique(np.concatenate(distances), return_inverse=True)
    votes = np.bincount(which, np.concatenate(weights))
    return found[np.argsort(-votes, kind="stable")][:PERIODS].tolist()


def stretches(numbers: Sequence[int], sizes: Sequence[int], fewest: int, least: int) -> list[Stretch]:
    """The places where `numbers` repeat at least `fewest` times, those that save most first.

    Repetitions save the `sizes` of all but one of them, and `least` at least.
    """
    found: list[tuple[int, Stretch]] = []
    string = np.array(numbers, np.int64)
    before = [0, *accumulate(sizes)]
    for period in periods(string, sizes):
        differs = np.flatnonzero(string[:-period] != string[period:])
        ends = np.concatenate([[-1], differs, [len(string) - period]])
        for k in np.flatnonzero(np.diff(ends) > (fewest - 1) * period).tolist():
            start, stop = int(ends[k]) + 1, int(ends[k + 1]) + period
            saved = before[start + (stop - start) // period * period] - before[start + period]
            found.append((saved, Stretch(start, stop, period)))
    return [s for n, s in sorted(found, key=lambda pair: (-pair[0], pair[1].period)) if n >= least]
