"""Compile a function through `jax.jit`.

jit : (a -> b) -> (a -> b)                      jit f = f, faster
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial, update_wrapper
from typing import Any

import jax
import jax.core
from jax import tree_util

from functrace.config import config
from functrace.control.call import Call
from functrace.control.rolling import rolled
from functrace.control.updates import divided
from functrace.errors import ArgumentError
from functrace.ir import Program
from functrace.ir.primitive import AMBIENT, open_builder
from functrace.ir.source import SCOPE, caller_source
from functrace.lower import executable, staged
from functrace.lower.kinds import settings
from functrace.rewrites.memo import collector_paused
from functrace.tracing import Tracer, aval_of, trace
from functrace.tracing.axes import AXES
from functrace.tracing.trace import Traced, parameter_names
from functrace.tracing.tracer import at, atom_of
from functrace.transforms.arguments import check_callable, fun_name
from functrace.transforms.custom import FRAMES
from functrace.transforms.stages import Plan, Unfinished, lower

SHARED = 1024  # Programs that one jitted function keeps for its calls inside traces


def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    keep_unused: bool = False,
    inline: bool = False,
    roll: bool | str = "auto",
    **options: Any,
) -> Any:
    """Compile `fun` with XLA, once for each combination of argument types and static values.

    Args:
      fun: a pure function of pytrees of arrays. Without it, a decorator is returned.
      static_argnums: positions of arguments that are Python values; hashable.
      static_argnames: names of such arguments.
      donate_argnums: positions of arguments whose buffers the result may reuse.
      donate_argnames: names of such arguments.
      keep_unused: keep arguments that the function does not use.
      inline: write nested calls in place of a shared `call`.
      roll: whether repeated equations, as those of the steps of a solver that is a Python loop, and of their backward
        pass, are compiled as loops: the body once. Values are those without it up to rounding. "auto", the default,
        makes the loops that pay: those that save hundreds of equations and copy few arrays, as of steps that share
        their parameters; on a CPU, those over the layers of a deep model too whose parameters, which a loop copies,
        are few beside what it keeps for the backward pass: the first step comes much sooner, and a step may take a
        few percent longer. There, what an optimizer then does to hundreds of parameters is an executable of its own,
        for one layer, that is called for all; no option of `jax.jit` but those named here may be given for that. True
        makes all loops, False none. `debug.explain_roll` tells what is found. Inside a trace it does nothing.
      **options: what `jax.jit` takes besides: in_shardings, out_shardings, device, backend,
        compiler_options.
    Returns:
      The compiled function, with the stages of `jax.jit`: `.lower(*args)`, and `.compile()` on its result; `.trace`,
      `.eval_shape` and `.clear_cache`. Where updates are apart, calls, types and memory of the first two are of the
      whole, text and cost of what comes before the updates. Inside a trace a call becomes a `call` equation whose
      Program all calls share.

    >>> import functrace as ft
    >>> step = ft.jit(lambda x, n: x * n, static_argnums=1)
    >>> float(step(2.0, 3))
    6.0
    """
    if fun is None:
        return lambda f: jit(
            f, static_argnums=static_argnums, static_argnames=static_argnames,
            donate_argnums=donate_argnums, donate_argnames=donate_argnames, keep_unused=keep_unused,
            inline=inline, roll=roll, **options,
        )  # fmt: skip
    check_callable("jit", fun)
    if roll not in (True, False, "auto"):
        raise ArgumentError(f"jit: roll must be True, False or 'auto', got {roll!r}.{at(caller_source())}")
    loops = (lambda program: rolled(program, roll is True)) if roll else lambda program: program
    parameters = parameter_names(fun)
    numbers, names = positions_and_names(parameters, static_argnums, static_argnames)
    donate = positions_and_names(parameters, donate_argnums, donate_argnames)
    may_divide = bool(roll) and not options

    def traced_by_jax(args: Any, kwargs: Any, divides: bool) -> Any:
        of_arrays, xs, keyed = without_static(fun, args, kwargs, numbers, names)
        with collector_paused():
            traced = trace(of_arrays, xs, keyed, transform="jit", names=dynamic_names(parameters, len(args), numbers))
            inputs = [*traced.captures, *tree_util.tree_leaves((tuple(xs), keyed))]
            program, n = loops(traced.program), len(traced.captures)
            if divides and not any([isinstance(c, jax.core.Tracer) for c in traced.captures]):
                parts = divided(program, [n + i for i in donated_leaves(args, keyed, numbers, donate)])
                if parts:
                    plan = Plan(parts, traced.captures, traced.out_tree)
                    return Unfinished(plan, staged(parts.main, inputs))
            outputs = staged(program, inputs)
        return tree_util.tree_unflatten(traced.out_tree, outputs)

    def in_parts(*args: Any, **kwargs: Any) -> Any:
        return traced_by_jax(args, kwargs, may_divide)

    def as_one(*args: Any, **kwargs: Any) -> Any:
        return traced_by_jax(args, kwargs, False)

    kept = {
        "static_argnums": static_argnums, "static_argnames": static_argnames, "keep_unused": keep_unused, **options,
    }  # fmt: skip
    donating = {**kept, "donate_argnums": donate_argnums, "donate_argnames": donate_argnames}

    def by_jax(function: Any, taken: dict[str, Any]) -> Any:
        function.__name__ = function.__qualname__ = fun_name(fun)
        if hasattr(fun, "__code__") or hasattr(fun, "__wrapped__"):
            function.__wrapped__ = fun
        return jax.jit(function, **taken)

    compiled = by_jax(in_parts, donating)
    whole = cache(lambda: by_jax(as_one, donating) if may_divide else compiled)
    keeps = donate_argnums is None and donate_argnames is None
    undonated = cache(lambda: compiled if keeps else by_jax(as_one, kept))

    def checked(args: Any, kwargs: Any) -> Any:
        result = finished(undonated()(*args, **kwargs), args, kwargs)
        config.check_call(result, *without_static(fun, args, kwargs, numbers, names))
        return result

    def finished(result: Any, args: Any, kwargs: Any) -> Any:
        if type(result) is not Unfinished:
            return result
        _, xs, keyed = without_static(fun, args, kwargs, numbers, names)
        return result.plan.results((tuple(xs), keyed), result.made)

    shared: dict[Any, Traced] = {}

    def in_trace(builder: Any, args: Any, kwargs: Any) -> Any:
        of_arrays, xs, keyed = without_static(fun, args, kwargs, numbers, names)
        leaves, tree = tree_util.tree_flatten((tuple(xs), keyed))
        avals = tuple(aval_of(x) for x in leaves)
        fixed = static_values(args, kwargs, numbers, names)
        key = (tree, avals, settings(), fixed, AXES.bound, SCOPE.path, AMBIENT.collects)
        traced = shared.get(key)
        if traced is None:
            borrowed = AXES.borrowed
            traced = trace(of_arrays, xs, keyed, transform="jit", avals=avals)
            # What closes over an outer trace, an axis of JAX's or a rule being traced is good there only.
            outer = any(isinstance(c, Tracer | jax.core.Tracer) for c in traced.captures)
            if not outer and AXES.borrowed == borrowed and not FRAMES.open:
                if len(shared) >= SHARED:
                    shared.clear()
                shared[key] = traced
        atoms = [atom_of(x, builder) for x in (*traced.captures, *leaves)]
        if inline:
            outputs = builder.inline(traced.program, atoms)
        else:
            outputs = Call(traced.program, fun_name(fun))(*atoms)
        return tree_util.tree_unflatten(traced.out_tree, [Tracer(y, builder) for y in outputs])

    loaded: dict[Any, tuple[Any, Any]] = {}
    of_disk = set(options) <= {"compiler_options"}

    def on_disk(program: Program, inputs: Sequence[Any], donated: tuple[int, ...]) -> Any:
        parts = divided(program, donated) if may_divide else None
        main = executable(parts.main if parts else program, inputs, donated, {**options, "keep_unused": keep_unused})
        if main is None or parts is None:
            return main
        runs = [executable(part.program, part.types, part.donated, {}) for part in parts.parts]
        return lambda *xs: parts.outputs(xs, main(*xs), runs)

    def from_disk(args: Any, kwargs: Any) -> Any:
        of_arrays, xs, keyed = without_static(fun, args, kwargs, numbers, names)
        leaves, tree = tree_util.tree_flatten((tuple(xs), keyed))
        if not of_disk or not all(map(is_of_default_device, leaves)):
            return whole()(*args, **kwargs)
        fixed = static_values(args, kwargs, numbers, names)
        key = (tree, tuple(map(aval_of, leaves)), fixed, settings())
        if key not in loaded:
            known = dynamic_names(parameters, len(args), numbers)
            with collector_paused():
                traced = trace(of_arrays, xs, keyed, transform="jit", names=known)
            run = None
            if all(map(is_of_default_device, traced.captures)):
                captures = [jax.numpy.asarray(c) for c in traced.captures]
                donated = tuple([len(captures) + i for i in donated_leaves(args, keyed, numbers, donate)])
                run = on_disk(loops(traced.program), [*captures, *leaves], donated)
                run = run and partial(run, *captures)
            if len(loaded) >= SHARED:
                loaded.clear()
            loaded[key] = run, traced.out_tree
        run, out_tree = loaded[key]
        return tree_util.tree_unflatten(out_tree, run(*leaves)) if run else whole()(*args, **kwargs)

    own, builder_here = config, open_builder

    def jitted(*args: Any, **kwargs: Any) -> Any:
        if (builder := builder_here()) is not None:
            return in_trace(builder, args, kwargs)
        try:
            if own.diverts:
                return checked(args, kwargs) if own.is_checking else from_disk(args, kwargs)
            result = compiled(*args, **kwargs) if kwargs else compiled(*args)  # no keywords handed on: 0.1 us less
            return finished(result, args, kwargs) if type(result) is Unfinished else result
        except ValueError as error:
            if "hashable" in str(error).lower():
                raise unhashable(args, kwargs, numbers, names) from error
            raise

    update_wrapper(jitted, fun)
    jitted.lower = partial(lower, compiled)  # pyright: ignore[reportFunctionMemberAccess]
    jitted.trace = lambda *args, **kwargs: whole().trace(*args, **kwargs)  # pyright: ignore[reportFunctionMemberAccess]
    jitted.eval_shape = lambda *args, **kwargs: whole().eval_shape(*args, **kwargs)  # pyright: ignore[reportFunctionMemberAccess]

    def clear_cache() -> None:
        for function in (compiled, whole(), undonated()):
            function.clear_cache()
        loaded.clear()

    jitted.clear_cache = clear_cache  # pyright: ignore[reportFunctionMemberAccess]
    return jitted


def positions_and_names(parameters: Sequence[str], argnums: Any, argnames: Any) -> Any:
    """Arguments given by position or name: the positions of those that have one, and all names."""
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames or ())
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums or ())
    names = (*names, *(parameters[i] for i in numbers if -len(parameters) <= i < len(parameters)))
    return (*numbers, *(parameters.index(n) for n in names if n in parameters)), names


def places(numbers: Sequence[int], count: int) -> set[int]:
    """Positions among `count` arguments, those counted from the end too; what is beyond them is left out."""
    return {i % count for i in numbers if -count <= i < count}


def donated_leaves(args: Sequence[Any], keyed: dict[str, Any], static: Sequence[int], donate: Any) -> list[int]:
    """Numbers of the leaves of `args` without the static ones, and of `keyed`, whose buffers may be reused."""
    numbers, names = donate
    fixed, given = places(static, len(args)), places(numbers, len(args))
    parts = [(i in given, x) for i, x in enumerate(args) if i not in fixed]
    parts += [(k in names, keyed[k]) for k in sorted(keyed)]
    flags = [flag for flag, x in parts for _ in tree_util.tree_leaves(x)]
    return [i for i, flag in enumerate(flags) if flag]


def is_of_default_device(x: Any) -> bool:
    """Whether a value is, or will be, where JAX computes unless told otherwise."""
    if isinstance(x, jax.core.Tracer) or jax.config.jax_default_device is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return not isinstance(x, jax.Array) or x.devices() == {jax.devices()[0]}


def dynamic_names(parameters: Sequence[str], count: int, numbers: Sequence[int]) -> list[str]:
    """Names of the positional arguments that are traced."""
    static = places(numbers, count)
    return [n for i, n in enumerate(parameters[:count]) if i not in static]


def without_static(
    fun: Callable[..., Any], args: Any, kwargs: Any, numbers: Any, names: Any
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """`fun` as a function of the arguments that are not static, and those arguments."""
    if not numbers and not names:
        return fun, list(args), kwargs
    static = places(numbers, len(args))
    fixed = {k: v for k, v in kwargs.items() if k in names}

    def of_arrays(*xs: Any, **keyed: Any) -> Any:
        rest = iter(xs)
        full = [a if i in static else next(rest) for i, a in enumerate(args)]
        return fun(*full, **fixed, **keyed)

    of_arrays.__name__ = fun_name(fun)
    xs = [a for i, a in enumerate(args) if i not in static]
    return of_arrays, xs, {k: v for k, v in kwargs.items() if k not in names}


def static_values(args: Any, kwargs: Any, numbers: Any, names: Any) -> Any:
    """The static values as a key, or the error that names the one that does not hash."""
    count = len(args)
    values = [(i % count, args[i]) for i in numbers if -count <= i < count]
    values += [(k, v) for k, v in sorted(kwargs.items()) if k in names]
    try:
        hash(tuple(values))
    except TypeError:
        raise unhashable(args, kwargs, numbers, names) from None
    return tuple((k, type(v), v) for k, v in values)


def unhashable(args: Any, kwargs: Any, numbers: Any, names: Any) -> ArgumentError:
    """The error that names the static argument that does not hash."""
    count = len(args)
    values = [(i % count, args[i]) for i in numbers if -count <= i < count]
    values += [(repr(k), v) for k, v in kwargs.items() if k in names]
    for where, value in values:
        try:
            hash(value)
        except TypeError:
            return ArgumentError(
                f"jit: static argument {where} is a {type(value).__name__} ({value!r}), which is not hashable; pass a "
                f"tuple or another hashable value, or do not mark it static.{at(caller_source())}"
            )
    return ArgumentError("jit: a static argument is not hashable")


