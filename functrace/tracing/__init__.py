"""Tracing: run a Python function once on tracers and write down what it did.

One class, `Tracer`, which only records. `trace` runs a function; `lift` makes a jax function
record itself; `apply` runs a finished Program on values, or writes it into the trace that is running; `replay`
follows the last trace of a function as far as the next one goes the same way.
"""

from functrace.tracing import (
    methods as methods,  # gives Tracer its operators
    programs as programs,  # makes Programs functions
)
from functrace.tracing.lift import from_jax, lift
from functrace.tracing.trace import Traced, apply, clear_caches, trace
from functrace.tracing.tracer import Tracer, aval_of

__all__ = ["Traced", "Tracer", "apply", "aval_of", "clear_caches", "from_jax", "lift", "trace"]
