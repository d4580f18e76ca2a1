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
    """A derivative is not the one that finite differences give.

    Its fields say where, as far as that is known, and are None else. `leaf` and `index`: the argument's
    leaf and the entry in it; `output` and `output_index`: the same of the result; `analytic`, `numerical`
    and `error`: both derivatives of that entry by that entry, and how far they are apart; `step`: that of
    the differences; `kink`: whether the function is not smooth there, so that the fault may be the point's.
    """

    def __init__(
        self,
        message: str,
        *,
        leaf: str | None = None,
        index: tuple[int, ...] | None = None,
        output: str | None = None,
        output_index: tuple[int, ...] | None = None,
        analytic: float | None = None,
        numerical: float | None = None,
        error: float | None = None,
        step: float | None = None,
        kink: bool | None = None,
    ):
        super().__init__(message)
        self.leaf, self.index = leaf, index
        self.output, self.output_index = output, output_index
        self.analytic, self.numerical, self.error = analytic, numerical, error
        self.step, self.kink = step, kink


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


class FileError(FunctraceError, ValueError):
    """A file is damaged, cut short, or not what it should be; the message names it."""


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""
