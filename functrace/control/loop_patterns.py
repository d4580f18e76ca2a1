"""What the results of a loop depend on: its steps followed while they are few, and the closure of one step beyond."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from functrace.control.groups import cut
from functrace.ir import Program
from functrace.ir.dependence import Matrix, Operand, Site, closure, moved, nothing, stacked
from functrace.rewrites.pattern import Known, apart, through

FOLLOWED = 128  # steps that are followed one by one


def unknown(x: Operand, moves: bool) -> Operand:
    """An operand of which the value changes from step to step."""
    return Operand(x.aval, moves, lambda: None)


def assembled(rows: Sequence[Sequence[Matrix | None]], heights: Sequence[int], widths: Sequence[int]) -> Matrix:
    """One matrix of blocks, None for an empty one."""
    whole = [
        sparse.hstack([nothing(h, 0), *[nothing(h, w) if m is None else m for m, w in zip(row, widths, strict=True)]])
        for row, h in zip(rows, heights, strict=True)
    ]
    return stacked(whole, sum(widths))


def one_step(
    body: Program, consts: Sequence[Operand], carry: Sequence[Operand], xs: Sequence[Operand], at: Site
) -> tuple[list[Operand], list[list[Matrix | None]]]:
    """The carry, moving where a step makes it move, and the pattern of any step."""
    while True:
        found = through(body, [*consts, *carry, *xs], notes := [])
        grown = [unknown(c, c.moves or any([m is not None for m in row])) for c, row in zip(carry, found, strict=False)]
        if [c.moves for c in grown] == [c.moves for c in carry]:
            at.unbounded.extend(notes)
            return grown, found
        carry = grown


def sizes(operands: Sequence[Operand]) -> list[int]:
    """How many entries of each operand move."""
    return [x.aval.size if x.moves else 0 for x in operands]


def of_moving(row: Sequence[Matrix | None], operands: Sequence[Operand]) -> list[Matrix | None]:
    """The blocks of operands, those without an entry that moves empty."""
    return [m if x.moves else None for m, x in zip(row, operands, strict=True)]


def while_pattern(body: Program, consts: Sequence[Operand], carry: Sequence[Operand], at: Site) -> list[list[Any]]:
    """Of the carry after any number of steps, by constants and first carry."""
    carried, rows = one_step(body, consts, [unknown(c, c.moves) for c in carry], (), at)
    heights = sizes(carried)
    n = len(consts)
    flags = [c.moves for c in carried]
    kept = [of_moving(row, [*consts, *carried]) if f else [None] * len(row) for row, f in zip(rows, flags, strict=True)]
    of_consts = assembled([row[:n] for row in kept], heights, sizes(consts))
    reach = closure(assembled([row[n:] for row in kept], heights, heights))
    starts = assembled(
        [[_first(c, g) if i == j else None for j, c in enumerate(carry)] for i, g in enumerate(carried)],
        heights, sizes(carry),
    )  # fmt: skip
    whole: Any = sparse.hstack([reach @ of_consts, reach @ starts], format="csr")
    return split_rows(whole, heights, [*consts, *carry])


def _first(given: Operand, grown: Operand) -> Matrix | None:
    """The first carry, of what moves."""
    n = given.aval.size
    return moved(np.arange(n), n) if given.moves and grown.moves else None


def split_rows(whole: Matrix, heights: Sequence[int], operands: Sequence[Operand]) -> list[list[Any]]:
    """The matrix by results and operands, None where nothing moves."""
    found, start = [], 0
    for h in heights:
        own = whole[start : start + h] if h else None
        found.append(apart(own, [x.aval.size if x.moves else None for x in operands]))
        start += h
    return found


def scan_pattern(
    body: Program, operands: Sequence[Operand], counts: tuple[int, int], length: int, reverse: bool, at: Site
) -> list[list[Any]]:
    """Of the last carry and of all ys, by constants, first carry and scanned operands."""
    consts, carry, scanned = cut(operands, *counts)
    entries = [Operand(x.aval.with_shape(x.aval.shape[1:]), x.moves, lambda: None) for x in scanned]
    known = any([not c.moves and c.aval.dtype.kind in "iu" and c.value is not None for c in (*carry, *scanned)])
    follow = length <= FOLLOWED
    notes = at._replace(unbounded=[]) if known and follow else at
    carried, rows = one_step(body, consts, [unknown(c, c.moves) for c in carry], entries, notes)
    inside, heights = [*consts, *carried, *entries], sizes(carried)
    y_avals = [y.aval for y in body.outputs[len(carry) :]]
    y_moves = [any([m is not None for m in row]) for row in rows[len(carry) :]]
    y_heights = [y.size if m else 0 for y, m in zip(y_avals, y_moves, strict=True)]
    out_flags, outs = [*[c.moves for c in carried], *y_moves], [*heights, *y_heights]

    def whole(rows: Sequence[Sequence[Matrix | None]]) -> Matrix:
        kept = [of_moving(r, inside) if f else [None] * len(r) for r, f in zip(rows, out_flags, strict=True)]
        return assembled(kept, outs, sizes(inside))

    width = sum(sizes(operands))
    n_consts, n_carry, n_scanned = (sum(sizes(group)) for group in (consts, carry, scanned))
    starts = assembled(
        [[_first(c, g) if i == j else None for j, c in enumerate(carry)] for i, g in enumerate(carried)],
        heights, sizes(carry),
    )  # fmt: skip
    h = sum(heights)
    state: Any = sparse.hstack([nothing(h, n_consts), starts, nothing(h, n_scanned)], format="csr")
    constants = moved(np.arange(n_consts), width)

    def scanned_at(steps: Any) -> Matrix:
        """The rows of one entry of each scanned operand, or of any of several."""
        found, start = [], n_consts + n_carry
        for size in sizes(scanned):
            if size:
                each = size // length
                links = [moved(np.arange(start + t * each, start + (t + 1) * each), width) for t in steps]
                found.append(sum(links[1:], links[0]))
            start += size
        return stacked(found, width)

    def rows_of_ys(made: Sequence[Matrix]) -> list[list[Any]]:
        cuts = np.cumsum([0, *y_heights])
        ys = [
            stacked([m[a:b] for m in made], width) if b > a else None
            for a, b in pairwise(cuts)
        ]  # fmt: skip
        return [apart(y, [x.aval.size if x.moves else None for x in operands]) for y in ys]

    if follow:
        made: list[Any] = [None] * length
        values = [None if c.moves else c.value for c in carry]
        step = whole(rows)
        for t in reversed(range(length)) if reverse else range(length):
            if known:
                now = [_entry(x, e, t) for x, e in zip(scanned, entries, strict=True)]
                given = [*consts, *_with(carried, values), *now]
                step = whole(through(body, given, at.unbounded))
                asked = Known(body, [lambda x=x: x.value for x in given])
                values = [
                    None if c.moves or c.aval.is_inexact else asked(y)
                    for c, y in zip(carried, body.outputs, strict=False)
                ]
            result = (step @ stacked([constants, state, scanned_at([t])], width)).tocsr()
            state, made[t] = result[:h], result[h:]
        return [*split_rows(state, heights, operands), *rows_of_ys(made)]
    step = whole(rows)
    a, b = n_consts, n_consts + h
    any_entry = scanned_at(range(length)) if n_scanned else nothing(0, width)
    new = (step[:h, :a] @ constants + step[:h, b:] @ any_entry).tocsr()
    state = (closure(step[:h, a:b]) @ (state + new)).tocsr()
    before = (step[h:, :a] @ constants + step[h:, a:b] @ state).tocsr()
    made = [(before + step[h:, b:] @ scanned_at([t])).tocsr() for t in range(length)] if sum(y_heights) else []
    return [*split_rows(state, heights, operands), *rows_of_ys(made)]


def _with(carried: Sequence[Operand], values: Sequence[Any]) -> list[Operand]:
    """The carry with what is known of it at this step."""
    return [Operand(c.aval, c.moves, lambda v=v: v) for c, v in zip(carried, values, strict=True)]


def _entry(x: Operand, entry: Operand, t: int) -> Operand:
    """Entry t of a scanned operand, known where that is."""
    return Operand(entry.aval, entry.moves, lambda: None if x.value is None else x.value[t])
