"""Which entries of one array depend on which of another: boolean matrices, a row an entry of the result.

Entries are counted row by row. A rule of a primitive, `Primitive.pattern`, gives such a matrix for each result and
operand; those of a Program are their products and unions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from functrace.errors import ArgumentError
from functrace.ir.aval import Aval

Matrix = Any  # a boolean `scipy.sparse.csr_array`: what its operators return has no static type


LARGEST = 2**28  # entries of a full block


class Operand:
    """An operand of an equation whose pattern is asked for: its type, whether it moves, its value if that is known."""

    __slots__ = ("_find", "aval", "moves")

    def __init__(self, aval: Aval, moves: bool, find: Callable[[], Any]):
        self.aval, self.moves, self._find = aval, moves, find

    @property
    def value(self) -> Any:
        """The operand as a NumPy array, or None where data decides."""
        return None if self.moves else self._find()


class Unbounded(NamedTuple):
    """Why an entry is taken to depend on more than it may: an equation, and what is not known of it."""

    name: str
    why: str
    source: Any

    def __str__(self) -> str:
        where = "" if self.source is None else f" at {self.source}, in {self.source.function}"
        return f"{self.name}{where}: {self.why}"


class Site(NamedTuple):
    """The equation whose pattern is asked for, and where a rule says what it does not know."""

    operands: Sequence[Operand]
    results: Sequence[Aval]
    source: Any
    unbounded: list[Unbounded]

    def note(self, name: str, why: str) -> None:
        """Say why the pattern is wider than it might be."""
        self.unbounded.append(Unbounded(name, why, self.source))

    def each(self, rule: Callable[[Operand, Aval], Any]) -> list[list[Any]]:
        """`rule(operand, result)` for each result that has a derivative and each operand that moves."""
        return [[rule(x, y) if x.moves and y.is_inexact else None for x in self.operands] for y in self.results]

    def everything(self) -> list[list[Any]]:
        """Every entry of every result depends on all entries that move."""
        return self.each(lambda x, y: full(y.size, x.aval.size))

    def batched(self, axes: int) -> list[list[Any]]:
        """As `everything`, for each index of as many leading axes as all share."""

        def blocks(x: Operand, y: Aval) -> Matrix:
            return meeting(*[np.repeat(np.arange(count(a.shape[:axes])), count(a.shape[axes:])) for a in (y, x.aval)])

        return self.each(blocks)


class Writes(NamedTuple):
    """Operand `of` is written into operand `into`, where `reader(into, *operands at)` would read it.

    `replaces` says whether nothing is left of what was there.
    """

    into: int
    of: int
    reader: Any
    at: tuple[int, ...]
    replaces: bool


def count(shape: Sequence[int]) -> int:
    """How many entries an array of this shape has."""
    return int(np.prod(shape, dtype=np.int64))


def full(rows: int, columns: int) -> Matrix:
    """The matrix without a hole."""
    if rows * columns > LARGEST:
        raise ArgumentError(
            f"a sparsity pattern has a full block of {rows} x {columns} entries, more than {LARGEST}: all of a result "
            "depends on all of an operand. Differentiate smaller parts, or use jvp and vjp."
        )
    return sparse.csr_array(np.ones((rows, columns), bool))


def nothing(rows: int, columns: int) -> Matrix:
    """The empty matrix."""
    return sparse.csr_array((rows, columns), dtype=bool)


def identity(n: int) -> Matrix:
    """Each entry depends on itself."""
    return moved(np.arange(n), n)


def stacked(parts: Sequence[Matrix], width: int) -> Matrix:
    """Matrices of one width, one below the other."""
    return sparse.vstack([nothing(0, width), *parts], format="csr")


def moved(index: Any, size: int) -> Matrix:
    """Row i is entry `index[i]` of `size`; nothing, where that is negative."""
    index = np.asarray(index).ravel()
    there = index >= 0
    starts = np.concatenate([[0], np.cumsum(there)])
    return sparse.csr_array((np.ones(int(starts[-1]), bool), index[there], starts), shape=(index.size, size))


def linked(rows: Any, columns: Any, shape: tuple[int, int]) -> Matrix:
    """The matrix of these pairs, some of which may be given more than once."""
    rows, columns = np.ravel(rows), np.ravel(columns)
    return sparse.coo_array((np.ones(rows.size, bool), (rows, columns)), shape=shape).tocsr()


def meeting(of_rows: Any, of_columns: Any) -> Matrix:
    """Row i and column j meet where their labels, numbers from 0 on, agree."""
    labels = int(max([np.max(a, initial=-1) for a in (of_rows, of_columns)])) + 1
    return (moved(of_rows, labels) @ moved(of_columns, labels).T).tocsr()


def union(x: Matrix | None, y: Matrix | None) -> Matrix | None:
    """The union; None is the empty one."""
    return y if x is None else x if y is None else x + y


def product(x: Matrix | None, y: Matrix | None) -> Matrix | None:
    """What depends on what through what is between."""
    return None if x is None or y is None else (x @ y).tocsr()


def closure(step: Matrix) -> Matrix:
    """What is reached in any number of steps, none included."""
    reached = step + identity(step.shape[0])
    while True:
        further = (reached @ reached).tocsr()
        if further.nnz == reached.nnz:
            return reached
        reached = further


def repeated(x: Aval, shape: tuple[int, ...], where: Any = None) -> Matrix:
    """Entries of an operand repeated to `shape`, as the elementwise primitives do; only where `where` holds."""
    index = np.broadcast_to(np.arange(x.size).reshape(x.shape), shape)
    if where is not None:
        index = np.where(np.broadcast_to(where, shape), index, -1)
    return moved(index, x.size)
