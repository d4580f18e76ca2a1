"""Run a Program on values now: what was made of an equal one before is found by its hash."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core

from functrace.config import config
from functrace.ir import Program
from functrace.lower.evaluate import evaluate
from functrace.lower.staging import staged

Rewrite = Callable[[Program], Program]

CAPACITY = 4096  # Programs kept; the least recently used one goes first


class Cache:
    """Bounded and thread-safe: Program -> anything made of it."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.entries: OrderedDict[Program, Any] = OrderedDict()
        self.lock = threading.Lock()

    def find(self, program: Program) -> Any:
        """What was kept for a Program, or None."""
        with self.lock:
            found = self.entries.get(program)
            if found is not None:
                self.entries.move_to_end(program)
            return found

    def keep(self, program: Program, made: Any) -> None:
        """Remember what was made of a Program."""
        with self.lock:
            self.entries[program] = made
            while len(self.entries) > self.capacity:
                self.entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self.entries.clear()


compiled_programs = Cache(CAPACITY)
known_programs = Cache(CAPACITY)


def known(program: Program) -> Program:
    """The first Program equal to this one: the rewrites that were made of it stand in its memo.

    Its names and source lines are those of the first one, so this is for running only.
    """
    found = known_programs.find(program)
    if found is None:
        known_programs.keep(program, program)
        return program
    return found


MET = object()  # kept in place of a compiled Program that has run once, equation by equation

# Milliseconds on a CPU, roughly: to compile one equation alone, and to compile a Program.
ONE_ALONE, WHOLE, WHOLE_PER_EQUATION = 15, 30, 1
ran_alone: set[Any] = set()


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

    A Program met for the first time runs equation by equation where that is quicker than compiling
    it, as it is when Python decides on values and no two calls have one Program.
    """
    if not program.equations or any([isinstance(x, jax.core.Tracer) for x in values]):
        return [jax.numpy.asarray(y) for y in evaluate(program, values)]
    run = compiled_programs.find(program)
    if run is None:
        new = {(eqn.primitive, *[x.aval for x in eqn.inputs]) for eqn in program.equations} - ran_alone
        if ONE_ALONE * len(new) <= WHOLE + WHOLE_PER_EQUATION * len(program.equations):
            if len(ran_alone) > 100_000:
                ran_alone.clear()
            ran_alone.update(new)
            compiled_programs.keep(program, MET)
            return [jax.numpy.asarray(y) for y in evaluate(program, [jax.numpy.asarray(x) for x in values])]
    elif run is not MET:
        return run(*values)
    return run_compiled(program, values, shorten)


def run_compiled(program: Program, values: Sequence[Any], shorten: Rewrite = lambda program: program) -> list[Any]:
    """The outputs of `program` at concrete `values`, compiled whatever it costs; an equal one is compiled once."""
    run = compiled_programs.find(program)
    if run is None or run is MET:
        run = compiled(shorten(program))
        compiled_programs.keep(program, run)
    return run(*values)


def compiled(program: Program) -> Any:
    """The Program as a function that XLA compiles when it is called."""

    def functrace_program(*xs: Any) -> list[Any]:
        return staged(program, xs)

    return jax.jit(functrace_program)


def clear_caches() -> None:
    """Forget every Program, and what was made of it."""
    compiled_programs.clear()
    known_programs.clear()
    ran_alone.clear()
