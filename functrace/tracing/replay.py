"""A trace that goes as an earlier one of the same function went is not written anew.

Python runs the function each time, for it may do something else. But as long as each step is the one of last time, the
same primitive of the same atoms at the same line, its outcome is known: it is looked up, and nothing is simplified,
typed or shared again. At the first step that differs what has been looked up becomes the beginning of a Program that is
written on. Where none differs, the Program is the earlier one, and so is all that was made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from functrace.ir import Aval, Builder, Equation, Program, Var
from functrace.ir.primitive import Primitive
from functrace.ir.program import Atom
from functrace.ir.source import caller_source
from functrace.lower.execute import Cache

STEPS = 100_000  # of all traces that are remembered
RECORDING, WRITING = -1, -2  # places of a trace that is ahead of the earlier one, and of one that is not recorded
THE_END = (None, (), (), None, 0)


class Recording(NamedTuple):
    """A trace: its variables, its steps, what the steps wrote, and the Program.

    A step is a primitive, its operands and results, the user's line, and how many equations there were after it.
    """

    inputs: list[Var]
    captured: list[Var]
    steps: list[tuple[Any, ...]]
    equations: list[Equation]
    definitions: dict[Var, Equation]
    outputs: tuple[Atom, ...]
    program: Program


# The last trace of each function at arguments of each type.
recordings = Cache(STEPS, lambda recording: len(recording.steps))


class Replay(Builder):
    """A Builder that is at a `place` among the steps of an earlier trace, as long as it takes the same ones.

    Until then its equations are those of the earlier trace, of which the later ones are nobody's operands yet. Within
    a trace that is compiled, a Program has variables of its own also where it begins as an earlier one.
    """

    __slots__ = ("earlier", "is_compiled", "place", "steps")

    def __init__(self, earlier: Recording | None, is_compiled: bool = False):
        super().__init__()
        self.earlier, self.is_compiled = earlier, is_compiled
        self.steps: list[tuple[Any, ...]] = []
        self.place = RECORDING
        if earlier is not None:
            self.place, self.steps = 0, earlier.steps
            self.inputs, self.equations, self._definitions = earlier.inputs, earlier.equations, earlier.definitions

    def emit(self, primitive: Primitive, inputs: tuple[Atom, ...]) -> tuple[Atom, ...]:
        place = self.place
        if place == WRITING:
            return Builder.emit(self, primitive, inputs)
        source = self.source or caller_source()
        if place >= 0:
            known, operands, results, line, _ = self.steps[place]
            if line is source and operands == inputs and (known is primitive or known == primitive):
                self.place = place + 1
                return results
            self.leave()
        outer = self.source
        self.place, self.source = WRITING, source  # what a primitive simplifies to is no step
        try:
            results = Builder.emit(self, primitive, inputs)
        finally:
            self.source = outer
        self.place = RECORDING
        self.steps.append((primitive, inputs, results, source, len(self.equations)))
        return results

    def append(
        self, primitive: Primitive, inputs: tuple[Atom, ...], like: tuple[Var, ...] | None = None
    ) -> tuple[Atom, ...]:
        if self.place != WRITING:  # a step that is not one of those that are told apart
            self.leave()
            self.place = WRITING
        return Builder.append(self, primitive, inputs, like)

    def inline(self, program: Program, inputs: Sequence[Atom]) -> list[Atom]:
        place = self.place
        if place == WRITING:
            return Builder.inline(self, program, inputs)
        source, operands = self.source or caller_source(), tuple(inputs)
        if place >= 0:
            known, xs, results, line, _ = self.steps[place]
            if known is program and line is source and xs == operands:
                self.place = place + 1
                return list(results)
            self.leave()
        self.place = WRITING
        results = Builder.inline(self, program, inputs)
        self.place = RECORDING
        self.steps.append((program, operands, tuple(results), source, len(self.equations)))
        return results

    def capture(self, value: Any, aval: Aval, name: str | None = None) -> Var:
        if self.place >= 0 and self.earlier and id(value) not in self.captures:
            i, known = len(self.captures), self.earlier.captured
            if i < len(known) and known[i].aval is aval and known[i].name == name:
                self.captures[id(value)] = known[i], value
                return known[i]
            self.leave()
        return Builder.capture(self, value, aval, name)

    def leave(self) -> None:
        """Make what is the same as in the earlier trace one's own."""
        if self.place < 0:
            return
        self.steps = self.steps[: self.place]
        self.place = RECORDING
        self.inputs = list(self.inputs)
        self.equations = self.equations[: self.steps[-1][-1] if self.steps else 0]
        self._definitions = {v: eqn for eqn in self.equations for v in eqn.outputs}
        self._shared = {(e.primitive, e.inputs): e.outputs for e in self.equations if not e.primitive.has_effects}

    def build(self, outputs: Sequence[Atom]) -> Program:
        earlier = self.earlier
        if earlier is not None and self.place >= 0:
            is_over = self.steps[self.place] is THE_END and len(self.captures) == len(earlier.captured)
            if is_over and earlier.outputs == tuple(outputs):
                return earlier.program
        self.leave()
        program = Builder.build(self, outputs)
        return renewed(program) if earlier is not None and self.is_compiled else program

    def recording(self, outputs: Sequence[Atom], program: Program) -> Recording | None:
        """This trace, where it is none that is known."""
        if self.place != RECORDING:
            return None
        captured = [v for v, _ in self.captures.values()]
        steps = [*self.steps, THE_END]
        return Recording(self.inputs, captured, steps, self.equations, self._definitions, tuple(outputs), program)


def renewed(program: Program) -> Program:
    """The same with variables of its own."""
    env: dict[Atom, Any] = {v: Var(v.aval, v.name) for v in program.inputs}
    equations = []
    for eqn in program.equations:
        inputs = tuple([env.get(x, x) for x in eqn.inputs])
        env.update([(v, Var(v.aval, v.name)) for v in eqn.outputs])
        equations.append(Equation(eqn.primitive, inputs, tuple([env[v] for v in eqn.outputs]), eqn.source))
    inputs = tuple([env[v] for v in program.inputs])
    return Program(inputs, tuple(equations), tuple([env.get(x, x) for x in program.outputs]))
