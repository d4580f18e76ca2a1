"""Run a Program on values now: find its compiled form by its hash, or make it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax

from functrace.ir import Program
from functrace.lower.evaluate import evaluate

CAPACITY = 4096  # Programs kept; the least recently used one goes first


class Cache:
    """Bounded and thread-safe: Program -> compiled callable."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.entries: OrderedDict[Program, Any] = OrderedDict()
        self.lock = threading.Lock()

    def find(self, program: Program) -> Any:
        """The compiled callable of a Program, or None."""
        with self.lock:
            found = self.entries.get(program)
            if found is not None:
                self.entries.move_to_end(program)
            return found

    def keep(self, program: Program, run: Any) -> None:
        """Remember a compiled callable."""
        with self.lock:
            self.entries[program] = run
            while len(self.entries) > self.capacity:
                self.entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self.entries.clear()


compiled_programs = Cache(CAPACITY)


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
    """Forget every compiled Program."""
    compiled_programs.clear()
