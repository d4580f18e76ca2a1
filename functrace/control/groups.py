"""Operands in groups, as loops have them: constants, carry, scanned values.

Rewrites put what they add (tangents, residuals, cotangents) behind all operands; a loop wants it behind
the operands of its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.ir import Program
from functrace.ir.builder import pruned
from functrace.rewrites.memo import memoised, select


def cut(items: Sequence[Any], *sizes: int) -> list[list[Any]]:
    """Consecutive groups of these sizes, and the rest."""
    groups, start = [], 0
    for n in sizes:
        groups.append(list(items[start : start + n]))
        start += n
    return [*groups, list(items[start:])]


def beside(sizes: Sequence[int], flags: Sequence[bool], items: Sequence[Any]) -> list[Any]:
    """Of all items and then one more for each flagged: each group followed by what is added to it."""
    n = len(flags)
    firsts, added = list(items[:n]), iter(items[n:])
    ordered: list[Any] = []
    for group, marks in zip(cut(firsts, *sizes), cut(flags, *sizes), strict=True):
        ordered += [*group, *[next(added) for m in marks if m]]
    return ordered


def apart(sizes: Sequence[int], flags: Sequence[bool], items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The inverse of `beside`: all items, and what was added, None at entries without a flag."""
    rest = iter(items)
    firsts: list[Any] = []
    added: list[Any] = []
    for marks in cut(flags, *sizes):
        firsts += [next(rest) for _ in marks]
        added += [next(rest) if m else None for m in marks]
    return firsts, added


def counted(sizes: Sequence[int], flags: Sequence[bool]) -> list[int]:
    """How many flags are set in each group."""
    return [sum(group) for group in cut(flags, *sizes)]


@memoised
def arranged(
    program: Program, in_sizes: tuple[int, ...], in_flags: tuple[bool, ...], out_sizes: tuple[int, ...],
    out_flags: tuple[bool, ...],
) -> Program:  # fmt: skip
    """A pushforward `(x, dx) -> (y, dy)` with each tangent in its group."""
    return Program(
        tuple(beside(in_sizes, in_flags, program.inputs)),
        program.equations,
        tuple(beside(out_sizes, out_flags, program.outputs)),
    )


@memoised
def reads(program: Program) -> tuple[bool, ...]:
    """Which inputs the equations or the outputs read."""
    read = {x for eqn in program.equations for x in eqn.inputs} | set(program.outputs)
    return tuple([v in read for v in program.inputs])


@memoised
def narrowed(program: Program, inputs: tuple[bool, ...], outputs: tuple[bool, ...]) -> Program:
    """The Program with the flagged outputs, and the flagged inputs, which are all that those read."""
    wanted = select(outputs, program.outputs)
    return Program(tuple(select(inputs, program.inputs)), needed_equations(program, wanted), tuple(wanted))


def needed_equations(program: Program, wanted: Sequence[Any]) -> tuple[Any, ...]:
    """The equations that compute `wanted`, without results that it does not need, and those with effects."""
    needed, kept = set(wanted), []
    for eqn in reversed(program.equations):
        if eqn.primitive.has_effects or not needed.isdisjoint(eqn.outputs):
            kept.append(eqn if eqn.primitive.has_effects else pruned(eqn, needed))
            needed.update(kept[-1].inputs)
    return tuple(reversed(kept))


@memoised
def needed_inputs(program: Program, outputs: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which inputs the flagged outputs depend on."""
    wanted = select(outputs, program.outputs)
    needed = set(wanted).union(*[eqn.inputs for eqn in needed_equations(program, wanted)])
    return tuple([v in needed for v in program.inputs])


@memoised
def output_kinds(program: Program, others: tuple[Program, ...] = ()) -> tuple[int, ...]:
    """Of each output the first one that is the same, in this Program and in others of its type."""
    first: dict[Any, int] = {}
    rows = zip(*[p.outputs for p in (program, *others)], strict=True)
    return tuple([first.setdefault(row, i) for i, row in enumerate(rows)])


def firsts(kinds: Sequence[Any]) -> tuple[bool, ...]:
    """Which are the first of their kind."""
    return tuple([k == i for i, k in enumerate(kinds)])


def of_each_kind(kinds: Sequence[int], found: Sequence[Any]) -> list[Any]:
    """What was found for the first of each kind, for all."""
    by_kind = dict(zip([k for i, k in enumerate(kinds) if k == i], found, strict=True))
    return [by_kind[k] for k in kinds]
