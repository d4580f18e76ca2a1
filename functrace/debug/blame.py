"""Which equation is to blame, told from when each result was first not finite.

A NaN or an Inf in an output is followed back, through results that were not finite, to the equations that made one
from finite operands. What a `where` masked is on no such path. An Inf that somebody wrote down, or handed in, is
meant: if it becomes NaN (inf - inf), the equation that made the NaN is to blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrace.debug.cost import placed
from functrace.debug.finiteness import NEVER, Target, sees, together
from functrace.ir import Equation, Literal, Program, Source, Var
from functrace.ir.source import NOWHERE
from functrace.rewrites.thread import Watch, extent, held_by

BAD, NAN = 0, 1  # not finite; NaN
Steps = tuple[int, ...]


class Frame:
    """A Program where it runs: inside equation `at` of the frame around it, its equations numbered from `first`."""

    def __init__(self, program: Program, watch: Watch, first: int = 0, around: Frame | None = None, at: int = 0):
        self.program = program
        self.watch = watch
        self.around = around
        self.at = at
        self.definitions = {v: (i, j) for i, eqn in enumerate(program.equations) for j, v in enumerate(eqn.outputs)}
        self.position = {v: i for i, v in enumerate(program.inputs)}
        seen = [i for i, eqn in enumerate(program.equations) if sees(eqn)]
        self.numbers = {i: first + n for n, i in enumerate(seen)}
        order = [i for group in together([program.equations[i] for i in seen]) for i in group]
        self.rows = {seen[i]: first + n for n, i in enumerate(order)}  # those of the record
        self.after = first + len(seen)  # the number from which those of the Programs held here go on
        self.children: dict[int, list[Frame]] = {}
        self.depth: int = 0 if around is None else around.depth + (self.holder.primitive.turns is not None)

    @property
    def holder(self) -> Equation:
        """The equation that this Program is held by."""
        assert self.around is not None
        return self.around.program.equations[self.at]

    def inside(self, i: int) -> list[Frame]:
        """The Programs that equation i holds."""
        if i not in self.children:
            first = self.after
            for eqn in self.program.equations[:i]:
                first += sum(extent(p, self.watch) for p in held_by(eqn))
            found = []
            for program in held_by(self.program.equations[i]):
                found.append(Frame(program, self.watch, first, self, i))
                first += extent(program, self.watch)
            self.children[i] = found
        return self.children[i]

    def outer(self, position: int) -> Any:
        """What the input at a position is outside, at the first turn: an operand of the holder."""
        return self.holder.inputs[len(self.holder.inputs) - len(self.program.inputs) + position]

    def carried(self, position: int) -> Any:
        """What the input at a position is at a later turn of a loop: an output of this Program; None for the same."""
        turns = self.holder.primitive.turns if self.around is not None else None
        return self.program.outputs[position - turns.start] if turns is not None and position in turns else None


class Event(NamedTuple):
    """An equation at the turn of the loops around it at which its result was first not finite."""

    frame: Frame
    index: int
    steps: Steps

    @property
    def equation(self) -> Equation:
        """The equation itself."""
        return self.frame.program.equations[self.index]

    @property
    def target(self) -> Target:
        """What there is to capture."""
        return Target(self.equation, self.frame.numbers[self.index], self.steps)

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts events as they come to pass."""
        key, frame = [self.index], self.frame
        while frame.around is not None:
            if frame.holder.primitive.turns is not None:
                key.append(self.steps[frame.depth - 1])
            key.append(frame.at)
            frame = frame.around
        return tuple(reversed(key))

    @property
    def source(self) -> Source:
        """The user's line: the equation's, or that of the innermost one around it that has one."""
        around = self.frame.around
        return placed(self.equation.source, NOWHERE if around is None else Event(around, self.frame.at, ()).source)

    @property
    def is_derivative(self) -> bool:
        """Whether the equation belongs to a derivative."""
        source = self.equation.source
        return source is not None and source.is_derivative


class Cause(NamedTuple):
    """Who is to blame: an event, or the input of the Program that was NaN already.

    `spoiled` is the event that made a NaN from the Inf that the first one made, if one did.
    """

    event: Event | None
    spoiled: Event | None = None
    argument: Var | None = None


class Record:
    """When the values of a Program were first not finite.

    Args:
      frame: the Program.
      first: i32[equation, 2, loop], as `Finiteness` leaves it.
      inputs: for each input, whether it is not finite, and whether it has a NaN.
    """

    def __init__(self, frame: Frame, first: np.ndarray[Any, Any], inputs: Sequence[tuple[bool, bool]]):
        self.root = frame
        self.first = first
        self.inputs = inputs
        self.known: dict[Any, Steps | None] = {}

    def when(self, frame: Frame, x: Any, kind: int) -> Steps | None:
        """The steps at which a value was first not finite, or NaN, as far as is known; None for never."""
        if type(x) is Literal:
            value = x.value if x.aval.is_inexact else 0
            bad = np.isnan(value) if kind == NAN else not np.isfinite(value)
            return (NEVER,) * frame.depth if bad else None
        key = (id(frame), x, kind)
        if key not in self.known:
            self.known[key] = None  # of a value that waits for itself
            self.known[key] = self._when(frame, x, kind)
        return self.known[key]

    def _when(self, frame: Frame, x: Any, kind: int) -> Steps | None:
        if x in frame.position:
            return self._when_input(frame, frame.position[x], kind)
        i, j = frame.definitions[x]
        eqn = frame.program.equations[i]
        if i in frame.numbers:
            steps = tuple(map(int, self.first[frame.rows[i], kind]))
            return None if steps[0] == NEVER else steps[: frame.depth]
        if inside := frame.inside(i):
            found = [self.when(f, y, kind) for f in inside for y in results(f, j)]
            return earliest([steps[: frame.depth] for steps in found if steps is not None])
        return self.when(frame, eqn.inputs[0], kind) if eqn.primitive.keeps_values else None

    def _when_input(self, frame: Frame, position: int, kind: int) -> Steps | None:
        if frame.around is None:
            return () if self.inputs[position][kind] else None
        start = self.when(frame.around, frame.outer(position), kind)
        if frame.depth == frame.around.depth:
            return start
        found = [] if start is None else [(*start, NEVER)]
        later = frame.carried(position)
        if later is not None and (end := self.when(frame, later, kind)) is not None:
            found.append((*end[:-1], end[-1] + 1))
        return earliest(found)

    def blame(self, outputs: Iterable[tuple[Any, int]]) -> Cause | None:
        """The first cause of what is not finite among outputs and their kinds; None where all of it is meant."""
        causes = [c for x, kind in outputs for c in self.causes([(self.root, x)], kind)]
        return min(causes, key=lambda c: () if c.event is None else c.event.order, default=None)

    def causes(self, values: Sequence[tuple[Frame, Any]], kind: int) -> list[Cause]:
        """All causes of values that are NaN, or not finite."""
        found: list[Cause] = []
        waiting, met = list(values), set()
        while waiting:
            frame, x = waiting.pop()
            if type(x) is Literal or (id(frame), x) in met:
                continue
            met.add((id(frame), x))
            if x in frame.position:
                waiting += self._before(frame, frame.position[x], kind)
                if frame.around is None and kind == NAN:
                    found.append(Cause(None, argument=x))
                continue
            i, j = frame.definitions[x]
            eqn = frame.program.equations[i]
            if i in frame.numbers:
                steps = self.when(frame, x, kind)
                assert steps is not None
                found += self._made(Event(frame, i, steps), kind, waiting)
            elif inside := frame.inside(i):
                waiting += [(f, y) for f in inside for y in results(f, j) if self.when(f, y, kind) is not None]
            else:
                waiting.append((frame, eqn.inputs[0]))
        return found

    def _before(self, frame: Frame, position: int, kind: int) -> list[tuple[Frame, Any]]:
        """What an input that is not finite was outside, or the turn before."""
        if frame.around is None:
            return []
        before = [(frame.around, frame.outer(position))]
        if (later := frame.carried(position)) is not None:
            before.append((frame, later))
        return [(f, y) for f, y in before if self.when(f, y, kind) is not None]

    def _made(self, event: Event, kind: int, waiting: list[tuple[Frame, Any]]) -> list[Cause]:
        """The causes that an event is, or those of its operands, some of which wait to be looked at."""
        operands = self._spoiled_operands(event, kind)
        if kind == NAN and any(type(x) is Literal for x in operands):
            return [Cause(event)]
        if operands:
            waiting += [(event.frame, x) for x in operands]
            return []
        if kind == BAD:
            return [Cause(event)]
        infinite = self._spoiled_operands(event, BAD)
        deeper = self.causes([(event.frame, x) for x in infinite], BAD) if infinite else []
        return [Cause(c.event, event) for c in deeper] or [Cause(event)]

    def _spoiled_operands(self, event: Event, kind: int) -> list[Any]:
        """The operands that were not finite, or NaN, when the event came to pass."""
        found = []
        for x in event.equation.inputs:
            steps = self.when(event.frame, x, kind)
            if steps is not None and steps <= event.steps:
                found.append(x)
        return found


def results(frame: Frame, j: int) -> list[Any]:
    """The outputs of a Program that result j of its holder is made of: its own, or any for the states that it kept."""
    outputs = frame.program.outputs
    return [outputs[j]] if j < len(outputs) else list(outputs)


def earliest(found: Sequence[Steps]) -> Steps | None:
    """The first of some moments."""
    return min(found, default=None)
