"""Forward mode.

jvp : Program(x -> y) -> Program((x, dx) -> (y, dy))            jvp(g . f) = jvp g . jvp f
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.ir import Atom, Builder, Program, Var
from functrace.primitives.space import zeros
from functrace.rewrites.memo import copy_input, derived, memoised, select


def push(
    builder: Builder,
    program: Program,
    xs: Sequence[Atom],
    dxs: Sequence[Atom | None],
    rule: str = "jvp",
) -> tuple[list[Atom], list[Atom | None]]:
    """Walk the equations forward into `builder`, carrying primals and tangents.

    `rule` is "jvp", or "linearize" where primal and tangent equations must stay apart.
    """
    primal: dict[Any, Atom] = dict(zip(program.inputs, xs, strict=True))
    tangent: dict[Any, Atom] = {
        v: dx for v, dx in zip(program.inputs, dxs, strict=True) if dx is not None
    }
    outer = builder.source
    for eqn in program.equations:
        prim = eqn.primitive
        operands = tuple([primal[x] if type(x) is Var else x for x in eqn.inputs])
        moves = [tangent.get(x) for x in eqn.inputs]
        if moves.count(None) == len(moves):
            builder.source = eqn.source
            ys = builder.emit(prim, operands)
        else:
            builder.source = derived(eqn.source, rule, prim.name)
            ys, dys = getattr(prim, rule)(operands, moves)
            if not prim.multiple_results:
                made = builder.definition(ys)
                if made is not None and made.primitive is prim and made.source is builder.source:
                    made.source = eqn.source  # the value is no derivative
                ys, dys = (ys,), (dys,)
            for v, dy in zip(eqn.outputs, dys, strict=True):
                if dy is not None:
                    tangent[v] = dy
        for v, y in zip(eqn.outputs, ys, strict=True):
            primal[v] = y
            if v.name is not None and type(y) is Var and y.name is None:
                y.name = v.name
    builder.source = outer
    outs = [primal[x] if type(x) is Var else x for x in program.outputs]
    return outs, [tangent.get(x) if type(x) is Var else None for x in program.outputs]


@memoised
def jvp(
    program: Program, moving: tuple[bool, ...], rule: str = "jvp", fill: tuple[bool, ...] = ()
) -> tuple[Program, tuple[bool, ...]]:
    """The pushforward and which outputs move.

    Args:
      program: x -> y.
      moving: which inputs have a tangent.
      rule: see `push`.
      fill: outputs that must have a tangent; zeros are put where there is none.
    Returns:
      `(x, dx) -> (y, dy)` with a tangent for each moving input and each moving output, and the
      flags of the moving outputs; the others' tangents are zero.
    """
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        dxs = [
            b.input(v.aval, f"d{v.name}" if v.name else None) if m else None
            for v, m in zip(program.inputs, moving, strict=True)
        ]
        ys, dys = push(b, program, xs, dxs, rule)
        if fill:
            dys = [zeros(y.aval) if dy is None and f else dy for y, dy, f in zip(ys, dys, fill, strict=True)]
        moved = tuple(dy is not None for dy in dys)
        return b.build([*ys, *select(moved, dys)]), moved
