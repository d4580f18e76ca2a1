"""Run a Program on values now: what was made of an equal one before is found by its hash."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax
import jax.core

from functrace.ir import Program
from functrace.lower.evaluate import evaluate

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


def execute(program: Program, values: Sequence[Any]) -> list[Any]:
    """The outputs of `program` at concrete `values` (or JAX tracers, which it is written into)."""
    if not program.equations or any([isinstance(x, jax.core.Tracer) for x in values]):
        return [jax.numpy.asarray(y) for y in evaluate(program, values)]
    run = compiled_programs.find(program)
    if run is None:

        def functrace_program(*xs: Any) -> list[Any]:
            return evaluate(program, xs)

        run = jax.jit(functrace_program)
        compiled_programs.keep(program, run)
    return run(*values)


def clear_caches() -> None:
    """Forget every Program, and what was made of it."""
    compiled_programs.clear()
    known_programs.clear()
