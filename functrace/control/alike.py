"""Operands of a loop that are alike at every turn are one.

The tangent of a tangent has parts that are the same, one for each order in which they were taken; in straight code
the Builder shares them. In a loop they are carries that start alike and are stepped alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.control.groups import cut
from functrace.ir import Atom, Builder, Literal, Program
from functrace.rewrites.memo import copy_input, memoised

Like = tuple[int | Literal, ...]  # of each input the first one that is like it, or what it is


def starts(body: Program, sizes: Sequence[int], operands: Sequence[Atom]) -> Like:
    """Which operands are alike before the first turn, among constants, carries and scanned values."""
    first: dict[Any, int] = {}
    found: list[int | Literal] = []
    for i, (v, x) in enumerate(zip(body.inputs, operands, strict=True)):
        group = sum(i >= end for end in (sizes[0], sizes[0] + sizes[1]))
        is_known = group == 0 and type(x) is Literal and not v.aval.shape
        found.append(Literal(x.value, v.aval) if is_known else first.setdefault((group, x, v.aval), i))  # pyright: ignore[reportAttributeAccessIssue]
    return tuple(found)


@memoised
def merged(body: Program, sizes: tuple[int, int], like: Like) -> tuple[Program, Like]:
    """The body whose inputs are one of each kind, constants that are literals written into it; and the kinds."""
    consts, carry = sizes
    while True:
        with Builder() as b:
            ones = {i: copy_input(b, v) for i, (v, a) in enumerate(zip(body.inputs, like, strict=True)) if a == i}
            ys = b.inline(body, [a if type(a) is Literal else ones[a] for a in like])
            first: dict[Any, int] = {}
            pairs = zip(cut(like, *sizes)[1], ys, strict=False)
            finer = [first.setdefault(pair, consts + i) for i, pair in enumerate(pairs)]
            if finer == list(like[consts : consts + carry]):
                kept = [y for i, y in enumerate(ys) if i >= carry or like[consts + i] == consts + i]
                return b.build(kept), like
            like = (*like[:consts], *finer, *like[consts + carry :])


@memoised
def narrowed_alike(program: Program, like: Like) -> Program:
    """A Program of the same inputs as that body, of one of each kind."""
    with Builder() as b:
        ones = {i: copy_input(b, v) for i, (v, a) in enumerate(zip(program.inputs, like, strict=True)) if a == i}
        return b.build(b.inline(program, [a if type(a) is Literal else ones[a] for a in like]))


def own(like: Like) -> tuple[bool, ...]:
    """Which inputs are the first of their kind."""
    return tuple([a == i for i, a in enumerate(like)])


def of_each(like: Like, sizes: tuple[int, int], outputs: Sequence[Any]) -> list[Any]:
    """The results of the loop of `merged`, as those of the loop that it was made of."""
    kinds = cut(like, *sizes)[1]
    ones = sorted(set(kinds))
    finals = dict(zip(ones, outputs, strict=False))
    return [*[finals[a] for a in kinds], *outputs[len(ones) :]]


__all__ = ["merged", "narrowed_alike", "of_each", "own", "starts"]
