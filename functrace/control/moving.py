"""What moves when a walk along the states of a loop does: which of its values have a tangent, and their parts apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from functrace.control.scan import grown
from functrace.ir import Program
from functrace.primitives.elementwise import add
from functrace.primitives.space import zeros
from functrace.rewrites import jvp, memoised
from functrace.rewrites.memo import select


class Moving(NamedTuple):
    """Which constants, states and walked values have a tangent, once all that must have one do."""

    c: tuple[bool, ...]
    s: tuple[bool, ...]
    l: tuple[bool, ...]


def moving_of(walk: Any, flags: tuple[bool, ...], rule: str) -> Moving:
    """From those of c, s and l that have one at the start."""
    n, m = walk.consts, walk.carry
    states = grown(walk.body, n, m, flags[: n + m], rule)
    walked = grown(walk.along, n + m, len(walk.along.outputs), states + flags[n + m :], rule)
    return Moving(states[:n], states[n:], walked[n + m :])


def filled(flags: Sequence[bool], xs: Sequence[Any], dxs: Sequence[Any]) -> list[Any]:
    """Tangents at the set flags, zeros where there is none."""
    return [zeros(x.aval) if dx is None else dx for x, dx, f in zip(xs, dxs, flags, strict=True) if f]


def unknown_part(program: Program, known: tuple[bool, ...], outputs: Sequence[bool]) -> Program:
    """`(known, unknown) -> unknown` of a settled step."""
    late = tuple([not k for k in known])
    inputs = (*select(known, program.inputs), *select(late, program.inputs))
    results = [y for y, k in zip(program.outputs, outputs, strict=True) if not k]
    return Program(inputs, program.equations, tuple(results))


@memoised
def tangents(program: Program, moving: tuple[bool, ...], fill: tuple[bool, ...]) -> Program:
    """The pushforward without the values: `(x, dx) -> dy`."""
    pushed, _ = jvp(program, moving, "linearize", fill)
    return Program(pushed.inputs, pushed.equations, pushed.outputs[len(program.outputs) :])


def total(like: Any, terms: Sequence[Any]) -> Any:
    """The sum of the terms that are there."""
    there = [t for t in terms if t is not None]
    result = there[0] if there else zeros(like.aval)
    for t in there[1:]:
        result = add(result, t)
    return result
