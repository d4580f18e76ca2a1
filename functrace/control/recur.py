"""recur: a function with a custom derivative, called inside its own derivative rule.

A rule may call its function: `fwd(x)` that begins with `y = f(x)` is the usual form. Its Program would
hold itself without end; `Recur` stands for it, and is replaced when the rule is written out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from functrace.control.call import Applies, Call, forced, uses_axis
from functrace.control.groups import needed_equations
from functrace.ir import Aval, Builder, Equation, Program, Sample, primitive
from functrace.ir.primitive import Primitive
from functrace.ir.program import held_programs
from functrace.primitives.space import batched_operand
from functrace.primitives.unary import sin
from functrace.rewrites import memoised
from functrace.rewrites.memo import derived


@primitive
class Recur(Applies):
    """The primitive whose rule this stands in, `depth` rules further out; its value is `program`'s."""

    name = "recur"
    multiple_results = True
    program: Program
    label: str
    depth: int

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            program = b.build([sin(b.input(aval))])
        # Its derivative is that of the primitive around it.
        yield Sample(Recur(program, "sample", 0), (aval,), fixed=(0,))

    def shape(self, *xs: Aval) -> Any:
        return self.program.out_avals

    def lower(self, *xs: Any) -> Any:
        return Call(self.program, self.label).lower(*xs)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        # The primitive around it has every operand batched then.
        operands = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)]
        program = forced(self.program, size, (True,) * len(xs), name)
        return Recur(program, self.label, self.depth)(*operands), (True,) * len(program.outputs)

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.program, name)


RULES = ("rule", "forward", "backward")  # the fields of a custom derivative that hold its rules


@memoised
def recurs(program: Program, depth: int = 0) -> bool:
    """Whether a rule calls the function whose rule it is."""
    for eqn in program.equations:
        prim = eqn.primitive
        if isinstance(prim, Recur) and prim.depth == depth:
            return True
        if any(recurs(p, depth + (name in RULES)) for name, held in prim.params.items() for p in held_programs(held)):
            return True
    return False


@memoised
def unrolled(program: Program, around: Primitive, depth: int = 0) -> Program:
    """A rule with `around`, the primitive whose rule it is, in the place of each `Recur` that means it."""
    if not recurs(program, depth):
        return program
    return Program(
        program.inputs,
        tuple([
            Equation(replaced(eqn.primitive, around, depth), eqn.inputs, eqn.outputs, eqn.source)
            for eqn in program.equations
        ]),
        program.outputs,
    )  # fmt: skip


def replaced(prim: Primitive, around: Primitive, depth: int) -> Primitive:
    """The primitive with `around` for itself, or in the Programs that it holds."""
    if isinstance(prim, Recur):
        return around if prim.depth == depth else prim
    return with_held(prim, lambda name, p: unrolled(p, around, depth + (name in RULES)))


def with_held(prim: Primitive, change: Callable[[str, Program], Program]) -> Primitive:
    """The primitive with `change(parameter, program)` for each Program that it holds."""
    changed: dict[str, Any] = {}
    for name, value in prim.params.items():
        if programs := tuple([change(name, p) for p in held_programs(value)]):
            changed[name] = programs if isinstance(value, tuple) else programs[0]
    return dataclasses.replace(prim, **changed) if changed else prim  # pyright: ignore[reportArgumentType]


def attributed(program: Program, values: int, rewrite: str, label: str) -> Program:
    """A rule whose equations say that they belong to a derivative: those that its first `values` outputs, which are
    no derivatives, do not need."""
    own = {v for eqn in needed_equations(program, program.outputs[:values]) for v in eqn.outputs}
    needed = lambda eqn: eqn.primitive.has_effects or not own.isdisjoint(eqn.outputs)
    return Program(
        program.inputs,
        tuple([eqn if needed(eqn) else told(eqn, rewrite, label) for eqn in program.equations]),
        program.outputs,
    )


def told(eqn: Equation, rewrite: str, label: str) -> Equation:
    """The equation, and those in the Programs that it holds, made by `rewrite` of a function."""
    prim = with_held(eqn.primitive, lambda _, p: attributed(p, 0, rewrite, label))
    return Equation(prim, eqn.inputs, eqn.outputs, derived(eqn.source, rewrite, label))
