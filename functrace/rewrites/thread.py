"""Carry a state through a Program, past every equation that somebody watches.

thread : Program(x -> y) -> Program((place, s, x) -> (s', y))          the results are those of the Program

A `Watch` says which equations it sees, and computes the next state from their operands and results. It is
asked once for a Program, at its end; the Programs that an equation holds have their own turn when that equation
runs: once a call, once a turn of a loop.

`place` says where one is: a number, and a step for each loop around. The equations seen have numbers, one after
the other from that of their Program on; then come those of the Programs that its equations hold, in order. So a
layer that is called 48 times is threaded once and has 48 numbers for each of its equations. A step counts from
0 up; in a loop that runs from its last entry to its first, the step of entry i is ~i, so that steps always grow.

A threaded Program is there to be run: its derivative is that of what it computes, with no custom rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from functrace.ir import Atom, Aval, Builder, Equation, Literal, Primitive, Program, Var
from functrace.primitives.elementwise import add
from functrace.rewrites.memo import copy_input, memoised

I32 = Aval((), np.dtype(np.int32))


class Seen(NamedTuple):
    """An equation that is watched, and what it reads and makes in the threaded Program."""

    equation: Equation
    operands: tuple[Atom, ...]
    results: tuple[Atom, ...]


class Place(NamedTuple):
    """Where a Program runs: the number of the first equation seen in it, and the steps of the loops around."""

    number: Atom
    steps: tuple[Atom, ...]


class Watch(Protocol):
    """Who looks on. Hashable, for threaded Programs are memoised on it."""

    @property
    def state(self) -> tuple[Aval, ...]:
        """The types of the state."""
        ...

    def sees(self, equation: Equation) -> bool:
        """Whether an equation is watched."""
        ...

    def __call__(self, place: Place, state: list[Atom], seen: list[Seen]) -> Sequence[Atom]:
        """The next state, written with primitives; equation i of `seen` has number `place.number + i`."""
        ...


class Thread(NamedTuple):
    """What a primitive that holds Programs threads them with."""

    watch: Watch
    number: Atom
    steps: tuple[Atom, ...]
    programs: tuple[Program, ...]

    @property
    def place(self) -> tuple[Atom, ...]:
        """The leading operands of `into`'s Programs."""
        return (self.number, *self.steps)

    def into(self, i: int = 0, deeper: bool = False) -> Program:
        """`(number, *steps, *state, *x) -> (*state, *y)` of the i-th Program; `deeper` adds one step, the last."""
        before = sum(extent(p, self.watch) for p in self.programs[:i])
        return threaded(self.programs[i], self.watch, len(self.steps) + deeper, before)

    @property
    def size(self) -> int:
        """How many arrays the state has."""
        return len(self.watch.state)


@memoised
def thread(program: Program, watch: Watch) -> Program:
    """`(*state, *x) -> (*state, *y)`, watched from number 0 on.

    Args:
      program: x -> y.
      watch: what is seen, and the state that is made of it.
    """
    inner = threaded(program, watch, 0)
    with Builder() as b:
        inputs = [copy_input(b, v) for v in inner.inputs[1:]]
        return b.build(b.inline(inner, [Literal(0, I32), *inputs]))


@memoised
def threaded(program: Program, watch: Watch, depth: int, before: int = 0) -> Program:
    """`(number, *steps, *state, *x) -> (*state, *y)`, with `depth` steps; its first number is `number + before`."""
    with Builder() as b:
        number, *steps = [b.input(I32) for _ in range(1 + depth)]
        first = add(number, before) if before else number
        state: list[Atom] = [b.input(a) for a in watch.state]
        env: dict[Any, Atom] = {v: copy_input(b, v) for v in program.inputs}
        inside = sum(watch.sees(eqn) for eqn in program.equations)
        seen = []
        for eqn in program.equations:
            b.source = eqn.source
            operands = tuple([env[x] if type(x) is Var else x for x in eqn.inputs])
            held = held_by(eqn)
            numbers = sum(extent(p, watch) for p in held)
            if numbers:
                at = Thread(watch, add(first, inside), tuple(steps), held)
                carried, ys = eqn.primitive.thread(at, state, operands)
                state = list(carried)
            else:
                ys = b.emit(eqn.primitive, operands)
            inside += numbers
            env.update(zip(eqn.outputs, ys, strict=True))
            if watch.sees(eqn):
                seen.append(Seen(eqn, operands, tuple(ys)))
        b.source = program.equations[-1].source if program.equations else None
        if seen:
            state = list(watch(Place(first, tuple(steps)), state, seen))
        return b.build([*state, *[env[x] if type(x) is Var else x for x in program.outputs]])


def held_by(eqn: Equation) -> tuple[Program, ...]:
    """The Programs that run when an equation does and through which a state can be threaded."""
    if not eqn.primitive.multiple_results:
        return ()
    return eqn.primitive.inner(*[x.aval for x in eqn.inputs])


@memoised
def extent(program: Program, watch: Watch) -> int:
    """How many numbers the equations seen in a Program have, with those in the Programs that it holds."""
    own = sum(watch.sees(eqn) for eqn in program.equations)
    return own + sum(extent(p, watch) for eqn in program.equations for p in held_by(eqn))


def threads_call(
    prim: Primitive, at: Thread, state: Sequence[Atom], xs: Sequence[Atom], *leading: Atom
) -> tuple[Any, Any]:
    """The rule of what applies a Program to its operands: `prim` of the threaded Program, some operands before all."""
    outputs = prim(*leading, *at.place, *state, *xs)
    return list(outputs[: at.size]), outputs[at.size :]
