"""Colouring: which columns of a sparse matrix one product can tell apart.

Columns of one colour have no row in common. Their sum, a product of the matrix with a vector of zeros and ones, then
has in each row one entry at most. Of a symmetric matrix less is asked: of each pair of entries (i, j) and (j, i) one
must stand alone. That is a star colouring: neighbours differ, and no path of four vertices has two colours.

Source: Gebremedhin, Manne, Pothen, What color is your Jacobian? Graph coloring for computing derivatives, SIAM
Review 47 (2005); algorithms 3.2 (columns) and 4.1 (stars).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from functrace.ir.dependence import Matrix


class Coloring(NamedTuple):
    """How to compress a matrix, and where each of its entries is found again.

    `by_columns` says whether products are with its columns (a pushforward) or its rows (a pullback). Entry k, at
    `(rows[k], columns[k])`, is entry `(color[k], place[k])` of the products. `colors` has the colour of each column,
    or row; -1 for one that is empty.
    """

    by_columns: bool
    colors: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    columns: np.ndarray[Any, Any]
    color: np.ndarray[Any, Any]
    place: np.ndarray[Any, Any]

    @property
    def count(self) -> int:
        """How many products there are."""
        return int(self.colors.max(initial=-1)) + 1

    def seeds(self, dtype: Any) -> np.ndarray[Any, Any]:
        """A row of zeros and ones for each colour."""
        seeds = np.zeros((self.count, self.colors.size), dtype)
        there = np.flatnonzero(self.colors >= 0)
        seeds[self.colors[there], there] = 1
        return seeds


def color_either(matrix: Matrix) -> Coloring:
    """Columns or rows, whichever need fewer colours; columns where that is equal."""
    columns = color_columns(matrix)
    least = int(np.diff(matrix.tocsc().indptr).max(initial=0))  # no fewer colours do for the rows
    if columns.count <= least:
        return columns
    back = color_columns(matrix.T.tocsr())
    if columns.count <= back.count:
        return columns
    rows, cols = matrix.nonzero()
    return Coloring(False, back.colors, rows, cols, back.colors[rows], cols)


def color_columns(matrix: Matrix) -> Coloring:
    """The best of several greedy colourings of the columns."""
    by_column = matrix.tocsc()
    rows_of = np.split(by_column.indices, by_column.indptr[1:-1])
    needed = int(np.diff(matrix.indptr).max(initial=0))  # the columns of one row all differ
    best: np.ndarray[Any, Any] | None = None
    for order in orders(by_column):
        colors = greedy([r.tolist() for r in rows_of], order, matrix.shape[0])
        if best is None or colors.max(initial=-1) < best.max(initial=-1):
            best = colors
        if best.max(initial=-1) + 1 <= needed:
            break
    assert best is not None
    rows, columns = matrix.nonzero()
    return Coloring(True, best, rows, columns, best[columns], rows)


def orders(by_column: Any) -> Iterable[Any]:
    """The natural order of columns, the fullest first, and the one that a column's overlap with others gives."""
    n = by_column.shape[1]
    degree = np.diff(by_column.indptr)
    yield np.arange(n)
    yield np.argsort(-degree, kind="stable")
    length = np.diff(by_column.tocsr().indptr).astype(np.int64)
    overlap = by_column.T.astype(np.int64) @ length
    yield np.argsort(-overlap, kind="stable")
    yield np.argsort(np.arange(n) * 2654435761 % 2**32, kind="stable")  # as good as at random


def greedy(rows_of: list[list[int]], order: Any, height: int) -> np.ndarray[Any, Any]:
    """The least colour that no column with a row in common has, one column after the other.

    The colours seen in each row are the bits of a number.
    """
    seen = [0] * height
    colors = np.full(len(rows_of), -1)
    for column in order.tolist():
        rows = rows_of[column]
        if not rows:
            continue
        taken = 0
        for row in rows:
            taken |= seen[row]
        bit = ~taken & (taken + 1)
        for row in rows:
            seen[row] |= bit
        colors[column] = bit.bit_length() - 1
    return colors


def color_symmetric(matrix: Matrix) -> Coloring:
    """A star colouring, of a symmetric matrix: an entry is found in its column or its row, where it is alone."""
    matrix = (matrix + matrix.T).tocsr()
    neighbours = [
        [j for j in matrix.indices[a:b].tolist() if j != i]
        for i, (a, b) in enumerate(pairwise(matrix.indptr))
    ]
    best: np.ndarray[Any, Any] | None = None
    for order in orders(matrix.tocsc()):
        colors = stars(neighbours, order.tolist())
        if best is None or colors.max(initial=-1) < best.max(initial=-1):
            best = colors
    assert best is not None
    best[np.diff(matrix.indptr) == 0] = -1
    rows, columns = matrix.nonzero()
    count = int(best.max(initial=-1)) + 1
    at = rows * count + best[columns]  # entry (i, j) as part of column best[j] of the products
    alone = np.bincount(at, minlength=1)[at] == 1
    color = np.where(alone, best[columns], best[rows])
    place = np.where(alone, rows, columns)
    return Coloring(True, best, rows, columns, color, place)


def stars(neighbours: list[list[int]], order: list[int]) -> np.ndarray[Any, Any]:
    """A greedy star colouring."""
    colors = [-1] * len(neighbours)
    for v in order:
        taken: set[int] = set()
        for w in neighbours[v]:
            c = colors[w]
            if c >= 0:
                taken.add(c)
            for x in neighbours[w]:
                if x == v or colors[x] < 0 or colors[x] in taken:
                    continue
                if c < 0 or any([y != w and colors[y] == c for y in neighbours[x]]):
                    taken.add(colors[x])
        color = 0
        while color in taken:
            color += 1
        colors[v] = color
    return np.asarray(colors, np.int64)
