"""Every public exception: a FunctraceError that is also the builtin a caller would catch."""

from typing import Any


class FunctraceError(Exception):
    """Base class of every error that functrace raises on purpose."""


class ArgumentError(FunctraceError, ValueError):
    """An argument has a value, a shape or a structure that the function cannot use."""


class DtypeError(FunctraceError, TypeError):
    """An argument has a dtype or a type that the function cannot use."""


class ShapeError(FunctraceError, TypeError):
    """Operands of a primitive have shapes that do not fit together."""


class ProgramError(FunctraceError, ValueError):
    """A Program, or its text, breaks a law of the IR."""


class RuleError(FunctraceError, NotImplementedError):
    """A primitive has no rule for the transform that was asked of it."""


class LeakedTracerError(FunctraceError, RuntimeError):
    """A tracer was used after its trace had ended."""


class ConcretizationError(FunctraceError, TypeError):
    """A Python value was asked of a tracer that has none."""


class IndexingError(FunctraceError, IndexError):
    """An index that an array of this shape does not have."""


class UnboundAxisError(FunctraceError, NameError):
    """A collective names an axis that no enclosing map has."""


class DerivativeError(FunctraceError, AssertionError):
    """A derivative is not the one that finite differences give."""


class BudgetInfeasible(FunctraceError, MemoryError):
    """No plan keeps as little as was asked; `smallest` is the least that one does, in bytes."""

    def __init__(self, message: str, smallest: int):
        super().__init__(message)
        self.smallest = smallest


class NonfiniteError(FunctraceError, FloatingPointError):
    """A result has a NaN or an Inf; `report` says where that came from."""

    def __init__(self, message: str, report: Any):
        super().__init__(message)
        self.report = report
