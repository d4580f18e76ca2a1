"""Split a pushforward into what depends on x and what is linear in dx.

linearize : Program(x -> y) -> Program(x -> (y, r)), Program((r, dx) -> dy)
"""

from __future__ import annotations

from typing import NamedTuple

from functrace.ir import Program
from functrace.rewrites.jvp import jvp
from functrace.rewrites.memo import memoised
from functrace.rewrites.separate import split


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
