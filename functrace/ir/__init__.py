"""The IR: a small typed language. Programs are values; transforms are functions on them.

Read `aval`, `program`, `primitive`, `builder` in that order; `text` prints and parses, `verify` checks.
"""

from functrace.ir.aval import Aval, dtype_text, is_complex, is_inexact
from functrace.ir.builder import Builder
from functrace.ir.primitive import Masked, Primitive, Run, Sample, Through, Undefined, Work, ambient, primitive
from functrace.ir.program import Atom, Equation, Literal, Program, Var
from functrace.ir.source import Source, named_scope

__all__ = [
    "Atom", "Aval", "Builder", "Equation", "Literal", "Masked", "Primitive", "Program", "Run", "Sample",
    "Source", "Through", "Undefined", "Var", "Work", "ambient", "dtype_text", "is_complex", "is_inexact", "named_scope",
    "primitive",
]  # fmt: skip
