"""Split a pushforward into what depends on x and what is linear in dx.

linearize : Program(x -> y) -> Program(x -> (y, r)), Program((r, dx) -> dy)
"""

from __future__ import annotations

from typing import NamedTuple

from functrace.ir import Equation, Program, Var
from functrace.rewrites.jvp import jvp
from functrace.rewrites.memo import memoised


def split(
    program: Program, known: tuple[bool, ...], early_outputs: int
) -> tuple[Program, Program, int]:
    """Cut one Program in two along data dependence.

    `(a, b) -> (y, z)` becomes `a -> (y, r)` and `(r, b) -> z`. The residuals r are the known values
    that the second half reads; `early_outputs` says how many outputs are y. Returns both halves and
    the number of residuals.
    """
    late = {v for v, k in zip(program.inputs, known, strict=True) if not k}
    first: list[Equation] = []
    second: list[Equation] = []
    for eqn in program.equations:
        if late.isdisjoint(eqn.inputs):
            first.append(eqn)
        else:
            second.append(eqn)
            late.update(eqn.outputs)
    y, z = program.outputs[:early_outputs], program.outputs[early_outputs:]
    reads = [x for eqn in second for x in eqn.inputs] + list(z)
    residuals = tuple(dict.fromkeys(x for x in reads if type(x) is Var and x not in late))
    now = tuple(v for v, k in zip(program.inputs, known, strict=True) if k)
    later = tuple(v for v, k in zip(program.inputs, known, strict=True) if not k)
    return (
        Program(now, tuple(first), (*y, *residuals)),
        Program((*residuals, *later), tuple(second), z),
        len(residuals),
    )


class Linearized(NamedTuple):
    """`forward: x -> (y, r)`, `linear: (r, dx) -> dy`, for moving inputs and `moved` outputs only."""

    forward: Program
    linear: Program
    residuals: int
    moved: tuple[bool, ...]


@memoised
def linearize(program: Program, moving: tuple[bool, ...]) -> Linearized:
    """The linearization in the inputs flagged `moving`: the work on x is done in `forward`."""
    joint, moved = jvp(program, moving, "linearize")
    known = (True,) * len(moving) + (False,) * sum(moving)
    forward, linear, residuals = split(joint, known, len(program.outputs))
    return Linearized(forward, linear, residuals, moved)
