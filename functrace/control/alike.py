"""Operands of a loop that are alike at every turn are one.

The tangent of a tangent has parts that are the same, one for each order in which they were taken; in straight code
the Builder shares them. In a loop they are carries that start alike and are stepped alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from functrace.control.groups import firsts
from functrace.ir import Atom, Builder, Literal, Program
from functrace.rewrites.memo import copy_input, memoised, select

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


class Kinds(NamedTuple):
    """Of each input, and of each output, the first one that is like it, or what it is."""

    inputs: Like
    outputs: tuple[int, ...]


@memoised
def merged(body: Program, sizes: tuple[int, int], like: Like) -> tuple[Program, Kinds]:
    """The body of one operand and result of each kind, constants that are literals written into it; and the kinds."""
    consts, carry = sizes
    while True:
        with Builder() as b:
            ys = b.inline(body, ones(b, body, like))
            first: dict[Any, int] = {}
            starts = [*like[consts : consts + carry], *[None] * (len(ys) - carry)]
            kinds = tuple([first.setdefault(pair, i) for i, pair in enumerate(zip(starts, ys, strict=True))])
            finer = (*like[:consts], *[consts + i for i in kinds[:carry]], *like[consts + carry :])
            if finer == like:
                return b.build(select(firsts(kinds), ys)), Kinds(like, kinds)
            like = finer


@memoised
def of_kinds(program: Program, like: Like) -> Program:
    """A Program of the same operands, of one of each kind."""
    with Builder() as b:
        return b.build(b.inline(program, ones(b, program, like)))


def ones(b: Builder, program: Program, like: Like) -> list[Atom]:
    """What stands for each input: an input for each kind, or a literal."""
    made = {i: copy_input(b, v) for i, (v, a) in enumerate(zip(program.inputs, like, strict=True)) if a == i}
    return [a if isinstance(a, Literal) else made[a] for a in like]
