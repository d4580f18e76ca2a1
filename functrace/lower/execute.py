"""Run a Program on values now: what was made of an equal one before is found by its hash."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.core

from functrace.config import config
from functrace.ir import Equation, Literal, Program, Var
from functrace.lower.evaluate import evaluate, literal_value
from functrace.lower.kinds import known_kinds
from functrace.lower.staging import staged

Rewrite = Callable[[Program], Program]

PROGRAMS = 4096  # Programs that are remembered; the least recently used one goes first
EXECUTABLES = 512  # compiled ones: the smallest has a megabyte of memory


class Cache:
    """Bounded and thread-safe: Program, or another key -> anything made of it, the least recently used going first.

    `capacity` is the sum of what `size_of` says of the entries: by default, how many there are.
    """

    def __init__(self, capacity: int, size_of: Callable[[Any], int] = lambda made: 1):
        self.capacity, self.size_of, self.size = capacity, size_of, 0
        self.entries: OrderedDict[Any, Any] = OrderedDict()
        self.lock = threading.Lock()

    def find(self, key: Any) -> Any:
        """What was kept for a key, or None."""
        with self.lock:
            found = self.entries.get(key)
            if found is not None:
                self.entries.move_to_end(key)
            return found

    def keep(self, key: Any, made: Any) -> None:
        """Remember what was made."""
        with self.lock:
            if key in self.entries:
                self.size -= self.size_of(self.entries.pop(key))
            self.entries[key] = made
            self.size += self.size_of(made)
            while self.size > self.capacity:
                self.size -= self.size_of(self.entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self.entries.clear()
            self.size = 0


compiled_programs = Cache(EXECUTABLES)
known_programs = Cache(PROGRAMS)
met_programs = Cache(PROGRAMS)  # those that have run, and what they are without their numbers
numbered_programs = Cache(EXECUTABLES)  # those that run as another one with other numbers does


def known(program: Program) -> Program:
    """The first Program equal to this one: the rewrites that were made of it stand in its memo.

    Its names and source lines are those of the first one, so this is for running only.
    """
    found = known_programs.find(program)
    if found is None:
        known_programs.keep(program, program)
        return program
    return found


# Milliseconds on a CPU, roughly: to compile one equation alone, and to compile a Program.
ONE_ALONE, WHOLE, WHOLE_PER_EQUATION = 15, 30, 1
KINDS = 100_000  # kinds of equation that are remembered
ran_alone: set[Any] = set()


def is_quicker_alone(program: Program) -> bool:
    """Whether a Program that was not met before had better run equation by equation than be compiled.

    A kind of equation is compiled alone once.
    """
    if len(ran_alone) > KINDS:
        ran_alone.clear()
    new = {(eqn.primitive, *[x.aval for x in eqn.inputs]) for eqn in program.equations} - ran_alone
    if ONE_ALONE * len(new) > WHOLE + WHOLE_PER_EQUATION * len(program.equations):
        return False
    ran_alone.update(new)
    return True


def without_numbers(program: Program) -> tuple[Program, list[Any]]:
    """The Program as a function of its floating numbers too, its first inputs, and these."""
    numbers: dict[Any, Var] = {}

    def lifted(xs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple([
            numbers.setdefault(x, Var(x.aval)) if type(x) is Literal and x.aval.kind in "fc" else x for x in xs
        ])

    equations = tuple([Equation(e.primitive, lifted(e.inputs), e.outputs, e.source) for e in program.equations])
    outputs = lifted(program.outputs)
    return Program((*numbers.values(), *program.inputs), equations, outputs), [literal_value(x) for x in numbers]


def shared_run(program: Program, is_new: bool, shorten: Rewrite) -> Callable[..., list[Any]] | None:
    """The Program as one that is compiled for all numbers in it, as it is once a second one that is new differs in
    them alone; None where there is none."""
    general, numbers = without_numbers(program)
    if not numbers:
        return None
    run = compiled_programs.find(general)
    if run is None:
        was_met = met_programs.find(general)
        met_programs.keep(general, True)
        if not (is_new and was_met):
            return None
        run = compiled(shorten(general))
        compiled_programs.keep(general, run)
    return partial(run, *numbers)


def execute(program: Program, values: Sequence[Any], shorten: Rewrite = lambda program: program) -> list[Any]:
    """The outputs of `program` at concrete `values` (or JAX tracers, which it is written into).

    What is compiled is what `shorten` makes of it.
    """
    results = executed(program, values, shorten)
    if config.is_checking:
        config.check_program(results, program, values)
    return results


def executed(program: Program, values: Sequence[Any], shorten: Rewrite) -> list[Any]:
    """The outputs of `program`.

    A Program met for the first time runs equation by equation where that is quicker than compiling it, as it is when
    Python decides on values and no two calls have one Program. Where Programs differ in their numbers alone, the second
    one is compiled for all of them.
    """
    if not program.equations or any([isinstance(x, jax.core.Tracer) for x in values]):
        return [jax.numpy.asarray(y) for y in evaluate(program, values)]
    run = compiled_programs.find(program) or numbered_programs.find(program)
    if run is not None:
        return run(*values)
    is_new = met_programs.find(program) is None
    met_programs.keep(program, True)
    run = shared_run(program, is_new, shorten)
    if run is not None:
        numbered_programs.keep(program, run)
        return run(*values)
    if is_new and is_quicker_alone(program):
        return [jax.numpy.asarray(y) for y in evaluate(program, [jax.numpy.asarray(x) for x in values])]
    return run_compiled(program, values, shorten)


def run_compiled(program: Program, values: Sequence[Any], shorten: Rewrite = lambda program: program) -> list[Any]:
    """The outputs of `program` at concrete `values`, compiled whatever it costs; an equal one is compiled once."""
    run = compiled_programs.find(program)
    if run is None:
        run = compiled(shorten(program))
        compiled_programs.keep(program, run)
    return run(*values)


def compiled(program: Program, donated: tuple[int, ...] = ()) -> Any:
    """The Program as a function that XLA compiles when it is called; results may have the buffers of `donated`."""

    def functrace_program(*xs: Any) -> list[Any]:
        return staged(program, xs)

    return jax.jit(functrace_program, donate_argnums=donated)


def forget_programs() -> None:
    """Forget every Program, and what was made of it."""
    for cache in (compiled_programs, known_programs, met_programs, numbered_programs):
        cache.clear()
    ran_alone.clear()
    known_kinds.clear()
