"""trace: a Python function and the types of its arguments -> a Program and what it closed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax import tree_util

from functrace.config import config
from functrace.control.rolling import rolled
from functrace.errors import DtypeError, FunctraceError
from functrace.ir import Program, Var
from functrace.ir.builder import Builder
from functrace.ir.primitive import AMBIENT, Primitive, open_builder
from functrace.ir.source import caller_source
from functrace.lower.execute import execute, forget_programs, known
from functrace.rewrites.memo import collector_paused
from functrace.tracing.axes import AXES
from functrace.tracing.replay import Replay, recordings
from functrace.tracing.tracer import TraceInfo, Tracer, at, atom_of, aval_of, handed_to_jax

WRAPPED = 16  # functions in one another by which one is known


class Traced(NamedTuple):
    """`program(*captures, *leaves)`: captured values fill the leading inputs."""

    program: Program
    captures: tuple[Any, ...]
    out_tree: Any


def with_captures(values: Sequence[Any], traces: Sequence[Traced]) -> list[Program]:
    """Each Program with all these values, which hold its own captured ones, as its leading inputs."""
    programs = []
    for t in traces:
        own = {id(c): v for c, v in zip(t.captures, t.program.inputs, strict=False)}
        leading = tuple([own.get(id(c)) or Var(aval_of(c)) for c in values])
        inputs = (*leading, *t.program.inputs[len(t.captures) :])
        programs.append(Program(inputs, t.program.equations, t.program.outputs))
    return programs


def all_captures(values: Sequence[Any], traces: Sequence[Traced]) -> list[Any]:
    """The values, and what else the traces captured, each once."""
    found = {id(c): c for c in [*values, *[c for t in traces for c in t.captures]]}
    return list(found.values())


def leaf_names(args: Any, kwargs: Any, parameters: Sequence[str]) -> list[str]:
    """A name a leaf: `params.layers.0.W` of the parameter's name and the path below it."""
    if not kwargs and tree_util.all_leaves(args):
        return [*parameters[: len(args)], *[f"x{i}" for i in range(len(parameters), len(args))]]
    names = []
    for path, _ in tree_util.tree_flatten_with_path((args, kwargs))[0]:
        first = getattr(path[1], "idx", getattr(path[1], "key", 0))
        if not isinstance(first, str):
            first = parameters[first] if first < len(parameters) else f"x{first}"
        steps = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path[2:]]
        names.append(".".join([first, *steps]))
    return names


def parameter_names(fun: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's positional parameters, as far as Python knows them."""
    wrapped = getattr(fun, "__wrapped__", None)
    if wrapped is not None:
        return parameter_names(wrapped)
    code = getattr(fun, "__code__", None)
    if code is None:
        return ()
    names = code.co_varnames[: code.co_argcount]
    return names[1:] if hasattr(fun, "__self__") else names


def codes_of(fun: Any) -> tuple[Any, ...]:
    """What tells functions apart that are made anew for each call: their code, and that of those that they wrap."""
    codes = []
    while fun is not None and len(codes) < WRAPPED:
        codes.append(getattr(fun, "__code__", None) or type(fun))
        fun = getattr(fun, "made_of", None) or getattr(fun, "__wrapped__", None)
    return tuple(codes)


def trace(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    transform: str,
    concrete: bool = False,
    avals: Sequence[Any] | None = None,
    result: str = "the output",
    names: Sequence[str] = (),
    own_lines: bool = False,
    like: Callable[..., Any] | None = None,
) -> Traced:
    """Run `fun(*args, **kwargs)` on tracers.

    Args:
      fun: a pure function of pytrees of arrays to a pytree of arrays.
      args: positional arguments, pytrees of arrays, scalars or tracers.
      kwargs: keyword arguments, likewise.
      transform: who traces, for messages.
      concrete: whether Python may ask for the values of `args` while tracing.
      avals: types to trace with, one a leaf of `args`, where they are not those of the leaves.
      result: what the output is called in messages.
      names: names of the positional arguments, where they are not the function's own.
      own_lines: whether the Program must have the lines of this function, and not of one that was equal to it.
      like: the user's function that `fun` is made of. An earlier trace of its code is followed as far as this one goes
        the same way; within one that is compiled, from the second time on.
    Raises:
      DtypeError: an output is not an array.
    """
    outer = open_builder()
    if outer is None:
        AMBIENT.session = set()
    whole = (tuple(args), kwargs or {})
    leaves, in_tree = tree_util.tree_flatten(whole)
    if avals is None:
        avals = [checked_aval(x, transform, whole, i) for i, x in enumerate(leaves)]
    for_running = concrete and outer is None and not own_lines and not config.is_checking
    key = earlier = None
    is_compiled = outer is not None and not (type(outer) is Replay and not outer.is_compiled)
    if like is not None and not (own_lines or config.is_checking or AXES.bound):
        key = (codes_of(like), transform, for_running, in_tree, *avals)
        try:
            if not is_compiled or comes_again(key):
                earlier = recordings.find(key)
            else:
                key = None
        except (TypeError, ValueError):  # a pytree that has data of its own, which cannot be compared
            key = None
    builder = Replay(earlier, is_compiled) if key else Builder()
    if earlier is None:
        for aval, name in zip(avals, leaf_names(*whole, names or parameter_names(fun)), strict=True):
            builder.input(aval, name)
    inputs = builder.inputs
    values = dict(zip(inputs, leaves, strict=True)) if concrete else None
    builder.trace = TraceInfo(transform, values, {}, frozenset(inputs), None if key else {})
    with builder:
        try:
            tracers = [Tracer(v, builder) for v in inputs]
            traced_args, traced_kwargs = tree_util.tree_unflatten(in_tree, tracers)
            try:
                out = fun(*traced_args, **traced_kwargs)
            except (TypeError, ValueError, IndexError) as error:
                if not isinstance(error, FunctraceError) and (clearer := handed_to_jax(error)):
                    raise clearer from error
                raise
            out_leaves, out_tree = tree_util.tree_flatten(out)
            atoms = []
            for i, y in enumerate(out_leaves):
                try:
                    atoms.append(atom_of(y, builder))
                except TypeError as error:
                    raise not_an_array(y, out, i, transform, result) from error
            program = builder.build(atoms)
        finally:
            builder.is_open = False
    captures = tuple(value for _, value in builder.captures.values())
    if earlier is None or program is not earlier.program:
        if for_running:
            program = known(program)
        recording = builder.recording(atoms, program) if type(builder) is Replay else None
        if recording is not None:
            recordings.keep(key, recording)
    return Traced(program, captures, out_tree)


def comes_again(key: Any) -> bool:
    """Whether there was a trace of this kind since the outermost one began."""
    before = key in AMBIENT.session
    AMBIENT.session.add(key)
    return before


def checked_aval(x: Any, transform: str, args: Any, i: int) -> Any:
    """The type of an argument's leaf, or an error that names it."""
    try:
        return aval_of(x)
    except TypeError as error:
        path = tree_util.tree_flatten_with_path(args)[0][i][0][1:]
        raise DtypeError(
            f"{transform}: argument {describe(path)} is a {type(x).__name__} ({x!r}), not an array; close over it, "
            f"or name it in the static_argnums of jit.{at(caller_source())}"
        ) from error


def not_an_array(y: Any, out: Any, i: int, transform: str, result: str) -> DtypeError:
    """The error for an output leaf that is not an array."""
    path = tree_util.tree_flatten_with_path(out)[0][i][0]
    where = f" leaf {tree_util.keystr(path)}" if path else ""
    return DtypeError(
        f"{transform}: {result}{where} is a {type(y).__name__} ({y!r}), and must be an array or a scalar; return it "
        f"through has_aux where the transform has it, or leave it out.{at(caller_source())}"
    )


def describe(path: Any) -> str:
    """`0 leaf ['W']` for the path of a leaf in a tuple of arguments."""
    rest = tree_util.keystr(path[1:])
    first = getattr(path[0], "idx", getattr(path[0], "key", path[0]))
    return f"{first!r}{f' leaf {rest}' if rest else ''}"


def apply(program: Program, values: Sequence[Any]) -> list[Any]:
    """Run a finished Program on `values`; inside a trace, write it there and return tracers."""
    builder = open_builder()
    if builder is None:
        return execute(program, values, rolled)
    with collector_paused():
        atoms = builder.inline(program, [atom_of(x, builder) for x in values])
    return [Tracer(x, builder) for x in atoms]


def record(primitive: Primitive, operands: Sequence[Any]) -> list[Any]:
    """The results of a primitive with multiple results: recorded in the running trace, or computed."""
    builder = open_builder()
    if builder is not None:
        return [Tracer(y, builder) for y in primitive(*[atom_of(x, builder) for x in operands])]
    with Builder() as b:
        program = b.build(primitive(*[b.input(aval_of(x)) for x in operands]))
    return execute(program, operands, rolled)


def clear_caches() -> None:
    """Forget every Program, what was made of it, and how functions were traced."""
    forget_programs()
    recordings.clear()
