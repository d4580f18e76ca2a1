"""Tracer: stands for one atom of one Program being built. Operators and methods record equations."""

from __future__ import annotations

import linecache
import re
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from functrace.errors import ConcretizationError, FunctraceError, IndexingError, LeakedTracerError
from functrace.ir import Atom, Aval, Builder, Literal, Program, Source
from functrace.ir.primitive import open_builder, write_to
from functrace.ir.source import at as at, caller_source, is_internal
from functrace.lower.evaluate import evaluate
from functrace.primitives.space import full
from functrace.tracing.axes import AXES, MappedValueError, within_axes


class Tracer:
    """A value of a function being traced: an atom and the Builder it belongs to."""

    __slots__ = ("atom", "builder")
    __array_priority__ = 1000

    def __init__(self, atom: Atom, builder: Builder):
        self.atom = atom
        self.builder = builder

    @property
    def aval(self) -> Aval:
        """Type of the value."""
        return self.atom.aval

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.atom.aval.shape

    @property
    def dtype(self) -> Any:
        """Element type."""
        return self.atom.aval.dtype

    @property
    def weak_type(self) -> bool:
        """Whether the type gives way to its partner's, as a Python scalar's does."""
        return self.atom.aval.weak_type

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.atom.aval.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.atom.aval.size

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a scalar tracer")
        return self.shape[0]

    def __repr__(self) -> str:
        info = self.builder.trace
        return f"Tracer<{self.aval}>{f' in {info.transform}' if info else ''}"

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    # What Python asks of a value. Each is the value itself where the trace knows it.

    def __bool__(self) -> bool:
        return bool(concrete(self, "bool()"))

    def __float__(self) -> float:
        return float(concrete(self, "float()"))

    def __int__(self) -> int:
        return int(concrete(self, "int()"))

    def __complex__(self) -> complex:
        return complex(concrete(self, "complex()"))

    def __index__(self) -> int:
        return concrete(self, "use as an index or a length").__index__()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.asarray(concrete(self, "conversion to a NumPy array"), dtype)

    def __format__(self, spec: str) -> str:
        return format(concrete(self, "format()"), spec) if spec else repr(self)

    def item(self) -> Any:
        """The one element as a Python scalar."""
        return np.asarray(concrete(self, ".item()")).item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return np.asarray(concrete(self, ".tolist()")).tolist()

MOST_ALIKE = 16_384  # entries of arrays that are compared


class TraceInfo(NamedTuple):
    """What a trace knows beside its Builder.

    `values` are those of the inputs (arrays, or tracers of an outer trace) where Python may decide on
    them; None under jit and vmap, whose Programs are for values not yet known: there only what was
    captured is known. `known` keeps what was evaluated. `alike` has the small arrays that are captured, by type and
    content, so that equal ones become one; None where comparing them takes longer than that saves.
    """

    transform: str
    values: dict[Any, Any] | None
    known: dict[Any, Any]
    arguments: frozenset[Any]
    alike: dict[Aval, dict[Any, Any]] | None = None


def aval_of(x: Any) -> Aval:
    """The type of an array, a tracer, or a scalar."""
    if type(x) is Tracer:
        return x.atom.aval
    if type(x) is float:
        return Aval((), jax.dtypes.canonicalize_dtype(np.float64), True)
    if isinstance(x, jax.ShapeDtypeStruct):
        return Aval(x.shape, x.dtype, bool(getattr(x, "weak_type", False)))
    aval = jax.typeof(x)
    return Aval(aval.shape, aval.dtype, bool(aval.weak_type))


def atom_of(x: Any, builder: Builder) -> Atom:
    """The atom of `builder` that stands for `x`: its own, a literal, or a captured input."""
    if type(x) is Tracer:
        if x.builder is builder:
            return x.atom
        if isinstance(x.atom, Literal):
            return x.atom
        if not x.builder.is_open:
            raise leaked(x)
        return builder.capture(x, x.atom.aval, x.atom.name)
    aval = aval_of(x)
    if not aval.shape and not isinstance(x, jax.Array):
        return Literal(x, aval)
    return captured(x, aval, builder)


def captured(x: Any, aval: Aval, builder: Builder) -> Atom:
    """The input that stands for an array.

    That is the one of an equal array before, of small ones, as a table that is computed anew in each layer. Arrays of
    one entry, as times and rates that are cut from a schedule, are numbers.
    """
    alike = builder.trace.alike if builder.trace is not None else None
    if alike is None or aval.size > MOST_ALIKE or id(x) in builder.captures or not is_at_hand(x):
        return builder.capture(x, aval)
    if aval.size == 1:
        with builder:
            return full(aval, np.asarray(x).reshape(())[()])
    before = alike.setdefault(aval, {})
    if not before:
        before[None] = x  # its content is looked at when there is another one of its type
        return builder.capture(x, aval)
    if None in before:
        first = before.pop(None)
        before[np.asarray(first).tobytes()] = first
    return builder.capture(before.setdefault(np.asarray(x).tobytes(), x), aval)


def is_at_hand(x: Any) -> bool:
    """Whether the entries of an array are in this process's memory."""
    if isinstance(x, jax.core.Tracer) or jax.numpy.issubdtype(x.dtype, jax.dtypes.extended):
        return False
    # NumPy's arrays, and those that jax.numpy makes of numbers, have no devices.
    devices = x.devices() if isinstance(x, jax.Array) and hasattr(x, "devices") else ()
    return all([d.platform == "cpu" for d in devices]) and getattr(x, "is_fully_addressable", True)


def leaked(x: Tracer) -> LeakedTracerError:
    """The error for a tracer whose trace has ended."""
    made = x.builder.definition(x.atom)
    where = f" It was made at {made.source}, in {made.source.function}." if made and made.source else ""
    return LeakedTracerError(
        f"a tracer of type {x.aval} is used after the function it belongs to has returned: it was kept in "
        f"a variable outside (a global, an attribute, a list).{where} Return the value from the "
        f"function instead.{at(caller_source())}"
    )


def concrete(x: Tracer, asked: str) -> Any:
    """The value of a tracer where its trace knows one; ConcretizationError where it does not."""
    if type(x.atom) is Literal:
        return x.atom.value
    builder = x.builder
    if not builder.is_open:
        raise leaked(x)
    info: TraceInfo = builder.trace
    if info.values is None and not info.arguments.isdisjoint(sources_of(x)):
        raise ConcretizationError(unknown_value(x, info, asked))
    known = info.known
    if x.atom not in known:
        for var, value in (info.values or {}).items():
            if var not in known:
                known[var] = concrete(value, asked) if type(value) is Tracer else value
        for var, value in builder.captures.values():
            if var not in known:
                known[var] = concrete(value, asked) if type(value) is Tracer else value
        try:
            run(builder, x.atom, known)
        except MappedValueError as error:
            raise ConcretizationError(unknown_value(x, info, asked)) from error
    value = known[x.atom]
    if isinstance(value, jax.core.Tracer):
        raise ConcretizationError(unknown_value(x, info, asked))
    return value


def run(builder: Builder, atom: Any, known: dict[Any, Any]) -> None:
    """Evaluate the equations that `atom` depends on, each once in the life of the trace."""
    needed, wanted = [], {atom}
    for eqn in reversed(builder.equations):
        if not wanted.isdisjoint(eqn.outputs) and eqn.outputs[0] not in known:
            needed.append(eqn)
            wanted.update(v for v in eqn.inputs if type(v) is not Literal and v not in known)
    needed.reverse()
    made = [v for eqn in needed for v in eqn.outputs]
    inputs = tuple(known)
    program = Program(inputs, tuple(needed), tuple(made))
    values = [known[v] for v in inputs]
    with suspended():
        if any([eqn.primitive.uses_axis(name) for eqn in needed for name, _ in AXES.bound]):
            outputs = within_axes(lambda *xs: evaluate(program, xs), *values)
        else:
            outputs = evaluate(program, values)
    known.update(zip(made, outputs, strict=True))


def handed_to_jax(error: Exception) -> FunctraceError | None:
    """The error for a tracer that was handed to a jax function, if that is what `error` says."""
    if "Tracer<" not in str(error) and Tracer.__module__ not in str(error):
        return None
    source, entry, called = None, error.__traceback__, None
    while entry is not None:
        code = entry.tb_frame.f_code
        if not is_internal(code):
            source = Source(code.co_filename, entry.tb_lineno, code.co_name)
            called = jax_function_on(source, entry.tb_frame)
        entry = entry.tb_next
    if isinstance(error, IndexError):
        return IndexingError(
            "a functrace tracer is the index of a jax array that the function closes over, which cannot record it; use "
            "functrace.numpy.take(array, index, axis=0), or pass the array to the function as an argument, and index "
            f"that.{at(source)}"
        )
    what, instead = "a jax function", "the function of the same name in functrace.numpy, functrace.lax, or functrace.nn"
    if called is not None:
        what, instead = called, called.replace("jax", "functrace", 1)
    return ConcretizationError(
        f"a functrace tracer was handed to {what}, which cannot record it; use {instead}, or wrap a function of your "
        f"own that calls jax with functrace.from_jax.{at(source)}"
    )


def jax_function_on(source: Source, frame: FrameType) -> str | None:
    """The first function of a jax module that a line of the user's calls, by its full name."""
    known = {**frame.f_globals, **frame.f_locals}
    for path in re.findall(r"([A-Za-z_]\w*(?:\.\w+)+)\s*\(", linecache.getline(source.file, source.line)):
        first, *between, function = path.split(".")
        module = known.get(first)
        for name in between:
            module = getattr(module, name, None)
        if isinstance(module, ModuleType) and module.__name__.split(".")[0] == "jax":
            return f"{module.__name__}.{function}"
    return None


class suspended:
    """Compute instead of recording, within `with suspended():`."""

    def __enter__(self) -> None:
        self.builder = open_builder()
        write_to(None)

    def __exit__(self, *error: object) -> None:
        write_to(self.builder)


def unknown_value(x: Tracer, info: TraceInfo, asked: str) -> str:
    """The message for a value that is asked for and not known."""
    inputs = [f"argument {v.name!r}" for v in sources_of(x) if v in info.arguments]
    origin = f", which depends on {', '.join(inputs)}," if inputs else ""
    return (
        f"{info.transform}: {asked} of a value of type {x.aval}{origin} that is not known while the "
        "function is being traced. For a branch use functrace.numpy.where or functrace.lax.cond, for "
        "a loop functrace.lax.while_loop; to have a Python value, mark the argument with "
        f"static_argnums, or leave {info.transform} out.{at(caller_source())}"
    )


def sources_of(x: Tracer) -> list[Any]:
    """The inputs of its trace that a tracer depends on."""
    wanted = {x.atom}
    for eqn in reversed(x.builder.equations):
        if not wanted.isdisjoint(eqn.outputs):
            wanted.update(eqn.inputs)
    return [v for v in x.builder.inputs if v in wanted]
