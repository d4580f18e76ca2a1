"""The checker: every variable bound once, before use, at the type its shape rule gives."""

from __future__ import annotations

from functrace.errors import ProgramError
from functrace.ir.program import Atom, Program, Var, held_programs


def verify(program: Program) -> None:
    """Raise ProgramError at the first equation that breaks a law of the IR."""
    bound: set[Var] = set()

    def bind(v: Var, where: str) -> None:
        if v in bound:
            raise ProgramError(f"{where}: {v!r} is bound twice")
        bound.add(v)

    def check_read(x: Atom, where: str) -> None:
        if isinstance(x, Var) and x not in bound:
            raise ProgramError(f"{where}: {x!r} is read before it is bound")

    for v in program.inputs:
        bind(v, "inputs")
    for i, eqn in enumerate(program.equations):
        where = f"equation {i} ({eqn.primitive.name}{f' at {eqn.source}' if eqn.source else ''})"
        for x in eqn.inputs:
            check_read(x, where)
        hash(eqn.primitive)
        expected = eqn.primitive.shape(*[x.aval for x in eqn.inputs])
        avals = tuple(expected) if eqn.primitive.multiple_results else (expected,)
        found = tuple(v.aval for v in eqn.outputs)
        if len(avals) != len(found) or not all(
            a.matches(b) for a, b in zip(avals, found, strict=True)
        ):
            raise ProgramError(f"{where}: the shape rule gives {avals}, the Program says {found}")
        for value in eqn.params.values():
            for held in held_programs(value):
                verify(held)
        for v in eqn.outputs:
            bind(v, where)
    for x in program.outputs:
        check_read(x, "outputs")
