"""bind: a primitive applied by hand, to arrays or in a trace."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import jax

from functrace.errors import ArgumentError, DtypeError, ProgramError
from functrace.foreign import Foreign, reading
from functrace.foreign.importing import from_jax_aval, to_jax_struct
from functrace.ir import Aval, Builder, Primitive, Program
from functrace.ir.primitive import Member, open_builder
from functrace.ir.source import caller_source
from functrace.ir.text import read_aval
from functrace.lower.execute import execute
from functrace.tracing.trace import trace
from functrace.tracing.tracer import Tracer, at, atom_of, aval_of

FOREIGN = "foreign."


def bind(primitive: Primitive | str, *operands: Any, **params: Any) -> Any:
    """Apply a primitive to arrays, or to tracers of the running trace.

    This is how a primitive of one's own is called, and how `Program.to_python` spells those that have no function.

    Args:
      primitive: a Primitive with its parameters; or the name that it has in the text of a Program.
      *operands: arrays, scalars or tracers.
      **params: of a primitive that is named: its parameters. For a Program, a function whose arguments are annotated
        with their types may stand: `def body(x: "f32[3]"): ...`.
    Returns:
      The result, or a list of them where the primitive has several.
    Raises:
      ArgumentError: there is no primitive of that name, or it has other parameters.
      ShapeError: the operands do not fit.

    >>> import functrace as ft, numpy as np
    >>> bind("cumsum", np.array([1.0, 2.0, 3.0]), axis=0, reverse=False).tolist()
    [1.0, 3.0, 6.0]
    >>> float(ft.grad(lambda x: bind("tanh", x))(0.0))
    1.0
    """
    if isinstance(primitive, str):
        primitive = named(primitive, params, operands)
    elif params:
        raise ArgumentError(
            f"bind: {primitive!r} has its parameters already; got {', '.join(params)} besides.{at(caller_source())}"
        )
    if not isinstance(primitive, Primitive):
        raise DtypeError(
            f"bind: expected a Primitive or its name, got {type(primitive).__name__} ({primitive!r})."
            f"{at(caller_source())}"
        )
    builder = open_builder()
    if builder is not None:
        results = [Tracer(y, builder) for y in builder.emit(primitive, tuple([atom_of(x, builder) for x in operands]))]
    else:
        with Builder() as b:
            program = b.build(b.emit(primitive, tuple([b.input(aval_of(x)) for x in operands])))
        results = execute(program, operands)
    return results if primitive.multiple_results else results[0]


def named(name: str, params: dict[str, Any], operands: Any) -> Primitive:
    """The primitive of this name with these parameters."""
    params = {k: program_of(v) for k, v in params.items()}
    try:
        if name.startswith(FOREIGN):
            return foreign(name.removeprefix(FOREIGN), params, operands)
        found = Primitive.named.get(name)
        if found is None:
            near = difflib.get_close_matches(name, Primitive.named, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ArgumentError(f"bind: no primitive is called {name!r}{hint}{at(caller_source())}")
        if isinstance(found, type):
            return found(**params)
    except (TypeError, ProgramError) as error:
        raise ArgumentError(f"bind: {name}: {error}{at(caller_source())}") from error
    if params:
        raise ArgumentError(f"bind: {name} takes no parameters, got {', '.join(params)}.{at(caller_source())}")
    return found


def program_of(x: Any) -> Any:
    """A parameter's value, functions being traced at the types that their arguments are annotated with."""
    if type(x) is tuple:
        return tuple(map(program_of, x))
    if isinstance(x, Program) or not inspect.isfunction(x):
        return x
    avals = [annotated(x, p) for p in inspect.signature(x).parameters.values()]
    traced = trace(x, [to_jax_struct(a) for a in avals], transform="bind")
    if traced.captures:
        raise ArgumentError(
            f"bind: {x.__name__} closes over {len(traced.captures)} values, and must be closed: pass them as operands."
            f"{at(caller_source())}"
        )
    return traced.program


def annotated(fun: Callable[..., Any], parameter: inspect.Parameter) -> Aval:
    """The type that an argument is annotated with."""
    try:
        return read_aval(parameter.annotation)
    except (TypeError, ProgramError) as error:
        raise ArgumentError(
            f"bind: the argument {parameter.name!r} of {fun.__name__} must be annotated with its type, as in "
            f"`{parameter.name}: \"f32[3]\"`.{at(caller_source())}"
        ) from error


def foreign(name: str, params: dict[str, Any], operands: Any) -> Primitive:
    """JAX's primitive of this name; the types of its results are JAX's to say."""
    known = {**reading.enums(), "generator": None}
    members = {
        k: Member(*v.split(".")) if isinstance(v, str) and v.split(".")[0] in known else v for k, v in params.items()
    }
    found: Any = Primitive.foreign.primitive(name, members, ())
    results = jax.eval_shape(found.lower, *[to_jax_struct(aval_of(x)) for x in operands])
    return Foreign(found.jax_primitive, found.jax_params, tuple(map(from_jax_aval, results)), False)
