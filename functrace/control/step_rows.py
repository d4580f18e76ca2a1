"""What the values of a loop's body depend on, at all of its steps together, and what that makes of the whole loop.

In its body a value depends on entries of the constants, the carry and what is scanned: its atoms. Most rows are those
of every step; those that differ, because the loop's counter says where it reads or writes, stand beside them. So the
step `s.at[i].set(x[i - 1] + x[i + 1])` has one row a step beside the identity, of whatever size s is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from functrace.ir.dependence import Matrix, nothing

MOST = 2**22  # rows and entries that differ between steps
BITS = 2**32  # of the rows of a carry that chains make full


class TooMany(Exception):
    """There is more to follow than is worth it."""


class Rows(NamedTuple):
    """Of each entry of a value the atoms that it depends on: `usual` but for row r at step t, if its key is there.

    The key is `t * size + r`; keys are in order, and `other` has a row for each.
    """

    usual: Matrix
    keys: np.ndarray[Any, Any]
    other: Matrix

    @property
    def size(self) -> int:
        """How many entries the value has."""
        return self.usual.shape[0]

    def find(self, keys: Any) -> Any:
        """Where these keys' rows stand in `pool`."""
        if not self.keys.size:
            return keys % max(self.size, 1)
        at = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        return np.where(self.keys[at] == keys, self.size + at, keys % max(self.size, 1))

    def pool(self) -> Matrix:
        """All rows."""
        return sparse.vstack([self.usual, self.other], format="csr") if self.keys.size else self.usual

    def rows(self, keys: Any) -> Matrix:
        """The rows with these keys."""
        return self.pool()[self.find(keys)]

    def gathered(self, starts: Any, keys: Any) -> Matrix:
        """Row i is the union of the rows with `keys[starts[i]:starts[i + 1]]`."""
        pool = self.pool()
        links = sparse.csr_array(
            (np.ones(keys.size, bool), self.find(keys), starts), shape=(starts.size - 1, pool.shape[0])
        )
        return (links @ pool).tocsr()


def steady(usual: Matrix) -> Rows:
    """The same rows at every step."""
    return Rows(usual, np.zeros(0, np.int64), nothing(0, usual.shape[1]))


def within(count: int) -> None:
    """Raise if it is too many."""
    if count > MOST:
        raise TooMany


def through_link(link: Matrix, x: Rows) -> Rows:
    """What depends on `x` in the same way at every step."""
    usual = (link @ x.usual).tocsr()
    if not x.keys.size:
        return steady(usual)
    step, entry = np.divmod(x.keys, x.size)
    by_entry = link.tocsc()
    counts = np.diff(by_entry.indptr)[entry]
    within(int(counts.sum()))
    reached = by_entry.indices[ranges(by_entry.indptr[entry], counts)]
    keys = np.unique(np.repeat(step, counts) * link.shape[0] + reached)
    step, row = np.divmod(keys, link.shape[0])
    counts = np.diff(link.indptr)[row]
    within(int(counts.sum()))
    read = np.repeat(step, counts) * x.size + link.indices[ranges(link.indptr[row], counts)]
    return Rows(usual, keys, x.gathered(starts_of(counts), read))


def through_links(links: Matrix, x: Rows, steps: int) -> Rows:
    """What depends on `x` in a way of its own at each step: rows of `links` are those of all steps."""
    size = links.shape[0] // steps
    counts = np.diff(links.indptr)
    keys = np.flatnonzero(counts)
    read = np.repeat(keys // max(size, 1), counts[keys]) * x.size + links.indices
    return Rows(nothing(size, x.usual.shape[1]), keys, x.gathered(starts_of(counts[keys]), read))


def overlaid(x: Rows, update: Rows | None, places: Matrix, steps: int, replaces: bool) -> Rows:
    """`x` with an update put in its place, or added: row `t * update.size + k` of `places` says where entry k goes."""
    links = places.tocoo()
    size = places.shape[0] // steps
    step, k = np.divmod(links.row, size)
    target = step * x.size + links.col
    order = np.argsort(target, kind="stable")
    keys, counts = np.unique(target, return_counts=True)
    if update is None:
        put = nothing(keys.size, x.usual.shape[1])
    else:
        put = update.gathered(starts_of(counts), (step * size + k)[order])
    if not replaces:
        put = (put + x.rows(keys)).tocsr()
    kept = ~np.isin(x.keys, keys)
    both = np.concatenate([keys, x.keys[kept]])
    order = np.argsort(both)
    rows: Any = sparse.vstack([put, x.other[kept]], format="csr")
    return Rows(x.usual, both[order], rows[order])


def either(x: Rows | None, y: Rows | None) -> Rows | None:
    """The union; None is the empty one."""
    if x is None or y is None:
        return y if x is None else x
    usual = (x.usual + y.usual).tocsr()
    keys = np.union1d(x.keys, y.keys)
    return Rows(usual, keys, (x.rows(keys) + y.rows(keys)).tocsr()) if keys.size else steady(usual)


def ranges(starts: Any, counts: Any) -> Any:
    """`start, start + 1, ...` for each start, as many as it counts."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(starts - (ends - counts), counts)


def starts_of(counts: Any) -> Any:
    """Where each of consecutive runs starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)])


class Atoms(NamedTuple):
    """What atoms are: those from `carry` to `scanned` are entries of the carry; atom i of the others is, at step t,
    column `first[i] + t * stride[i]` of `width`."""

    carry: int
    scanned: int
    first: np.ndarray[Any, Any]
    stride: np.ndarray[Any, Any]
    width: int


def unrolled(
    carry: Rows, ys: Sequence[Rows | None], start: Matrix, atoms: Atoms, order: Sequence[int]
) -> tuple[Matrix, list[Matrix | None]]:
    """The last carry and all ys by columns, of a loop whose first carry is `start`; `order` is that of its steps."""
    steps = len(order)
    stays = np.arange(carry.size) + atoms.carry
    one = np.diff(carry.usual.indptr) == 1
    alone = np.zeros(carry.size, bool)
    alone[one] = carry.usual.indices[carry.usual.indptr[:-1][one]] == stays[one]
    busy = np.flatnonzero(~alone)
    parts = [Expanded(carry, busy, atoms, steps)]
    parts += [Expanded(y, np.arange(y.size), atoms, steps) for y in ys if y is not None]
    try:
        last, read = walked(parts, start, order, Few)
    except Full:
        if (carry.size + sum([p.chained for p in parts])) * atoms.width > BITS:
            raise TooMany from None
        last, read = walked(parts, start, order, Bits)
    found = iter(zip(parts[1:], read, strict=True))
    whole = []
    for y in ys:
        if y is not None:
            part, rows = next(found)
            y = (part.direct(steps * part.size) + rows).tocsr()
        whole.append(y)
    return last, whole


class Expanded:
    """Rows with a key, all steps written out: their columns, and which entries of the carry they read."""

    def __init__(self, rows: Rows, usual: Any, atoms: Atoms, steps: int):
        self.size, self.width = rows.size, atoms.width
        some = rows.usual[usual]
        within(steps * max(some.nnz, usual.size) + rows.other.nnz)
        keys = (np.arange(steps)[:, None] * rows.size + usual).ravel()
        kept = ~np.isin(keys, rows.keys)
        picked = np.concatenate([np.tile(np.arange(usual.size), steps)[kept], usual.size + np.arange(rows.keys.size)])
        keys = np.concatenate([keys[kept], rows.keys])
        order = np.argsort(keys)
        pool: Any = sparse.vstack([some, rows.other], format="csr")
        pool = pool[picked[order]]
        self.keys = keys[order]
        self.bounds = np.searchsorted(self.keys, np.arange(steps + 1) * rows.size)
        owner = np.repeat(np.arange(self.keys.size), np.diff(pool.indptr))
        carried = (pool.indices >= atoms.carry) & (pool.indices < atoms.scanned)
        atom = pool.indices[~carried]
        step = self.keys[owner[~carried]] // max(rows.size, 1)
        self.columns = atoms.first[atom] + step * atoms.stride[atom]
        self.owners = owner[~carried]
        self.reads = pool.indices[carried] - atoms.carry
        self.read_starts = starts_of(np.bincount(owner[carried], minlength=self.keys.size))
        self.column_starts = starts_of(np.bincount(self.owners, minlength=self.keys.size))

    @property
    def chained(self) -> int:
        """How many rows read the carry."""
        return int(np.count_nonzero(np.diff(self.read_starts)))

    def direct(self, height: int) -> Matrix:
        """What does not come through the carry."""
        pairs = (self.keys[self.owners], self.columns)
        return sparse.coo_array((np.ones(self.columns.size, bool), pairs), shape=(height, self.width)).tocsr()


class Full(Exception):
    """Sets of numbers have become too many."""


class Few:
    """Sets of columns as sets of numbers."""

    none: Any = frozenset()

    def __init__(self) -> None:
        self.count = 0

    def of(self, columns: Iterable[int]) -> Any:
        """The set of these."""
        return frozenset(columns)

    def union(self, sets: Sequence[Any]) -> Any:
        """The union of sets."""
        if len(sets) == 1:
            return sets[0]
        found = frozenset().union(*sets)
        self.count += len(found)
        if self.count > MOST // 2:
            raise Full
        return found

    def columns(self, found: Any) -> Any:
        """The numbers of one, in order."""
        return sorted(found)


class Bits(Few):
    """Sets of columns as the bits of numbers."""

    none = 0

    def of(self, columns: Iterable[int]) -> Any:
        """The set of these."""
        found = 0
        for c in columns:
            found |= 1 << c
        return found

    def union(self, sets: Sequence[Any]) -> Any:
        """The union of sets."""
        found = 0
        for x in sets:
            found |= x
        return found

    def columns(self, found: Any) -> Any:
        """The numbers of one, in order."""
        raw = np.frombuffer(found.to_bytes((found.bit_length() + 7) // 8, "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(raw, bitorder="little"))


def walked(
    parts: Sequence[Expanded], start: Matrix, order: Sequence[int], kind: type[Few]
) -> tuple[Matrix, list[Matrix]]:
    """The last carry, and what the others read of it at each step."""
    sets = kind()
    state = [sets.of(start.indices[a:b].tolist()) for a, b in zip(start.indptr, start.indptr[1:], strict=False)]
    carry, *ys = parts
    lists = [[a.tolist() for a in (p.keys, p.bounds, p.reads, p.read_starts)] for p in parts]
    columns, column_starts = carry.columns.tolist(), carry.column_starts.tolist()
    keys, bounds, reads, starts = lists[0]
    kept: list[dict[int, Any]] = [{} for _ in ys]
    chained = [p.chained > 0 for p in ys]
    for t in order:
        for own, (y_keys, y_bounds, y_reads, y_starts), asked in zip(kept, lists[1:], chained, strict=True):
            for i in range(y_bounds[t], y_bounds[t + 1]) if asked else ():
                if y_starts[i] < y_starts[i + 1]:
                    own[y_keys[i]] = sets.union([state[r] for r in y_reads[y_starts[i] : y_starts[i + 1]]])
        first, end = bounds[t], bounds[t + 1]
        new = []
        for i in range(first, end):
            read = [state[r] for r in reads[starts[i] : starts[i + 1]]]
            given = columns[column_starts[i] : column_starts[i + 1]]
            if given:
                read.append(sets.of(given))
            new.append(sets.union(read) if read else sets.none)
        base = t * carry.size
        for i, row in zip(range(first, end), new, strict=True):
            state[keys[i] - base] = row
    last = matrix_of(sets, enumerate(state), (carry.size, carry.width))
    return last, [
        matrix_of(sets, own.items(), (len(order) * p.size, p.width)) for own, p in zip(kept, ys, strict=True)
    ]


def matrix_of(sets: Few, rows: Iterable[tuple[int, Any]], shape: tuple[int, int]) -> Matrix:
    """The matrix with these rows."""
    found = list(rows)
    columns = [np.asarray(sets.columns(row), np.int64) for _, row in found]
    owners = np.repeat(np.asarray([r for r, _ in found], np.int64), [len(c) for c in columns])
    flat = np.concatenate(columns) if columns else np.zeros(0, np.int64)
    return sparse.coo_array((np.ones(flat.size, bool), (owners, flat)), shape=shape).tocsr()


def blocks(found: Matrix, heights: Sequence[int]) -> Iterator[Matrix]:
    """The rows of each result."""
    start = 0
    for h in heights:
        yield found[start : start + h]
        start += h
