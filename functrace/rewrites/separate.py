"""What depends on the unknown inputs of a Program, apart from what does not.

separate : Program((a, b) -> y) -> the same, with no equation whose results depend on b only in part
split    : Program((a, b) -> (y, z)) -> Program(a -> (y, r)), Program((r, b) -> z)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.ir import Atom, Builder, Equation, Program, Var
from functrace.rewrites.memo import copy_input, memoised


def separate(
    builder: Builder, program: Program, xs: Sequence[Atom], known: Sequence[bool]
) -> tuple[list[Atom], list[bool]]:
    """Write a Program into `builder`, and say which of its outputs depend on known operands alone.

    An equation that holds a Program, some of whose results are known and some not, is written as two.
    """
    env: dict[Any, Atom] = dict(zip(program.inputs, xs, strict=True))
    late = {v for v, k in zip(program.inputs, known, strict=True) if not k}
    outer = builder.source
    for eqn in program.equations:
        builder.source = eqn.source or outer
        operands = tuple([env.get(x, x) for x in eqn.inputs])
        flags = tuple([x not in late for x in eqn.inputs])
        if eqn.primitive.multiple_results and any(flags) and not all(flags):
            ys, ys_known = eqn.primitive.separate(operands, flags)
        else:
            ys, ys_known = builder.emit(eqn.primitive, operands), (all(flags),) * len(eqn.outputs)
        env.update(zip(eqn.outputs, ys, strict=True))
        late.update([v for v, k in zip(eqn.outputs, ys_known, strict=True) if not k])
    builder.source = outer
    return [env.get(y, y) for y in program.outputs], [y not in late for y in program.outputs]


@memoised
def separated(program: Program, known: tuple[bool, ...]) -> tuple[Program, tuple[bool, ...]]:
    """The Program written by `separate`, and which of its outputs depend on known inputs alone."""
    with Builder() as b:
        ys, flags = separate(b, program, [copy_input(b, v) for v in program.inputs], known)
        return b.build(ys), tuple(flags)


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
