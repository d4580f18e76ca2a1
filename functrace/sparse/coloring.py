"""Colouring: which columns of a sparse matrix one product can tell apart.

Columns of one colour have no row in common. Their sum, a product of the matrix with a vector of zeros and ones, then
has in each row one entry at most. Of a symmetric matrix less is asked: of each pair of entries (i, j) and (j, i) one
must stand alone. That is a star colouring: neighbours differ, and no path of four vertices has two colours.

A full row makes all columns differ, and a full column all rows. Then the fullest rows (or columns) are computed on
their own by the products of the other side, and what is left of the matrix needs few colours.

Source: Gebremedhin, Manne, Pothen, What color is your Jacobian? Graph coloring for computing derivatives, SIAM
Review 47 (2005); algorithms 3.2 (columns) and 4.1 (stars). Both sides: Coleman, Verma, The efficient computation of
sparse Jacobian matrices using automatic differentiation, SIAM Journal on Scientific Computing 19 (1998).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from functrace.ir.dependence import Matrix

FEW = 2  # colours that need not become fewer


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


def color_sides(matrix: Matrix) -> tuple[Coloring, ...]:
    """Columns, rows, or some entries by columns and the others by rows: what needs the fewest colours in all."""
    best, back = color_columns(matrix), matrix.T.tocsr()
    if best.count > np.diff(back.indptr).max(initial=0):  # no fewer colours do for the rows
        rows = transposed(color_columns(back))
        best = best if best.count <= rows.count else rows
    if best.count <= FEW:
        return (best,)
    both = [split_rows(matrix, best.count), [transposed(c) for c in split_rows(back, best.count)]]
    least = min(both, key=lambda c: sum([x.count for x in c]) if c else best.count)
    return tuple(least) if least and sum([x.count for x in least]) < best.count else (best,)


def transposed(x: Coloring) -> Coloring:
    """The same of the transpose."""
    return x._replace(by_columns=not x.by_columns, rows=x.columns, columns=x.rows)


def split_rows(matrix: Matrix, most: int) -> list[Coloring]:
    """The fullest rows by rows and the others by columns, if that may take less than `most` colours; else nothing."""
    degree = np.diff(matrix.indptr)
    order = np.argsort(-degree, kind="stable")
    seen, shared = np.zeros(matrix.shape[1], np.int64), 0
    best, count = most, 0
    for k, row in enumerate(order[:-1].tolist()):
        own = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        seen[own] += 1
        shared = max(shared, int(seen[own].max(initial=0)))  # colours that these rows need
        needed = shared + int(degree[order[k + 1]])
        if needed < best:
            best, count = needed, k + 1
        if shared >= best:
            break
    if not count:
        return []
    alone, rest = np.sort(order[:count]), np.sort(order[count:])
    by_rows, by_columns = transposed(color_columns(matrix[alone].T.tocsr())), color_columns(matrix[rest])
    colors = np.full(matrix.shape[0], -1)
    colors[alone] = by_rows.colors
    return [
        by_columns._replace(rows=rest[by_columns.rows], place=rest[by_columns.place]),
        by_rows._replace(rows=alone[by_rows.rows], colors=colors),
    ]


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
