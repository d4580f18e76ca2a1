"""What is observed inside a Program becomes an output.

collect : Program(x -> y) -> Program(x -> (y, observed)), names          fst (collect P x) = P x
"""

from __future__ import annotations

from typing import Any

from functrace.ir import Builder, Equation, Primitive, Program
from functrace.ir.program import held_programs
from functrace.rewrites.memo import copy_input, memoised


@memoised
def collect(program: Program) -> tuple[Program, tuple[str, ...]]:
    """The Program whose further outputs are the observed values, in order, and their names."""
    if not any_observed(program):
        return program, ()
    with Builder() as b:
        env: dict[Any, Any] = {v: copy_input(b, v) for v in program.inputs}
        names: list[str] = []
        values: list[Any] = []
        for eqn in program.equations:
            prim, b.source = eqn.primitive, eqn.source
            operands = tuple([env.get(x, x) for x in eqn.inputs])
            if is_observed(prim):
                ys, found = prim.collect(operands)
                names += [name for name, _ in found]
                values += [value for _, value in found]
                ys = ys if prim.multiple_results else (ys,)
            else:
                ys = b.emit(prim, operands)
            env.update(zip(eqn.outputs, ys, strict=True))
        b.source = None
        return b.build([*[env.get(y, y) for y in program.outputs], *values]), tuple(names)


def programs_of(prim: Primitive) -> list[Program]:
    """The Programs that a primitive holds."""
    return [p for value in prim.params.values() for p in held_programs(value)]


def is_observed(prim: Primitive) -> bool:
    """Whether a primitive is observed, or holds one that is."""
    return prim.observed or any([any_observed(p) for p in programs_of(prim)])


@memoised
def any_observed(program: Program) -> bool:
    """Whether something in a Program is observed."""
    return any([is_observed(eqn.primitive) for eqn in program.equations])


def acts(prim: Primitive) -> bool:
    """Whether a primitive has an effect in the world: one that must not happen twice."""
    held = programs_of(prim)
    return prim.has_effects and not prim.observed and (not held or any([any_acts(p) for p in held]))


@memoised
def any_acts(program: Program) -> bool:
    """Whether something in a Program has an effect in the world."""
    return program.has_effects and any([acts(eqn.primitive) for eqn in program.equations])


@memoised
def unobserved(program: Program) -> Program:
    """The same Program with nothing observed: for where it is computed a second time."""
    if not any_observed(program):
        return program
    same: dict[Any, Any] = {}
    kept: list[Equation] = []
    for eqn in program.equations:
        inputs = tuple([same.get(x, x) for x in eqn.inputs])
        if eqn.primitive.observed:
            same[eqn.outputs[0]] = inputs[0]
        else:
            kept.append(Equation(eqn.primitive.with_programs(unobserved), inputs, eqn.outputs, eqn.source))
    return Program(program.inputs, tuple(kept), tuple([same.get(y, y) for y in program.outputs]))
