"""What custom_jvp and custom_vjp share: binding arguments, and Programs that close over one list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
from jax import tree_util

from functrace.errors import DtypeError
from functrace.ir import Program, Var
from functrace.ir.source import caller_source
from functrace.lower import evaluate
from functrace.tracing.trace import Traced, trace
from functrace.tracing.tracer import at
from functrace.transforms.arguments import fun_name


def positional(fun: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, ...]:
    """All arguments by position, keywords and defaults put in their places."""
    if not kwargs:
        return args
    try:
        bound = inspect.signature(fun).bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{fun_name(fun)}: {error}.{at(caller_source())}") from error
    bound.apply_defaults()
    if bound.kwargs:
        raise DtypeError(
            f"{fun_name(fun)}: a function with a custom derivative cannot have keyword-only arguments "
            f"({', '.join(bound.kwargs)}); make them positional.{at(caller_source())}"
        )
    return bound.args


def outside_traces(function: Any, args: Sequence[Any]) -> Any:
    """Call a function with a custom derivative where nothing is traced here.

    JAX may be tracing; then its equation holds the rule.
    """
    if not any(isinstance(x, jax.core.Tracer) for x in leaves_of(args)):
        return function.fun(*args)
    numbers = function.nondiff_argnums
    moving, _ = split_nondiff(numbers, args)
    traced = trace(
        lambda *xs: function(*merge_nondiff(numbers, args, xs)), moving, transform=fun_name(function.fun)
    )
    outputs = evaluate(traced.program, [*traced.captures, *leaves_of(moving)])
    return tree_util.tree_unflatten(traced.out_tree, outputs)


def capture_together(traces: Sequence[Traced]) -> tuple[list[Any], list[Program]]:
    """All captured values, and each Program with all of them as its leading inputs."""
    values: dict[int, Any] = {id(c): c for t in traces for c in t.captures}
    order = list(values)
    programs = []
    for t in traces:
        own = {id(c): v for c, v in zip(t.captures, t.program.inputs, strict=False)}
        avals = {id(c): v.aval for s in traces for c, v in zip(s.captures, s.program.inputs, strict=False)}
        leading = tuple(own.get(i) or Var(avals[i]) for i in order)
        inputs = (*leading, *t.program.inputs[len(t.captures) :])
        programs.append(Program(inputs, t.program.equations, t.program.outputs))
    return list(values.values()), programs


def split_nondiff(nondiff: Sequence[int], args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The differentiated arguments and the others."""
    fixed = {i % len(args) for i in nondiff} if args else set()
    return [a for i, a in enumerate(args) if i not in fixed], [args[i] for i in sorted(fixed)]


def merge_nondiff(nondiff: Sequence[int], args: Sequence[Any], moving: Sequence[Any]) -> list[Any]:
    """`args` with the differentiated ones replaced by `moving`."""
    fixed = {i % len(args) for i in nondiff} if args else set()
    rest = iter(moving)
    return [a if i in fixed else next(rest) for i, a in enumerate(args)]


def check_tree(who: str, what: str, found: Any, expected: Any, of: str) -> None:
    """A rule must return the structure that the function has."""
    if found != expected:
        raise DtypeError(
            f"{who}: {what} must have the pytree structure of {of}, {expected}, got {found}.{at(caller_source())}"
        )


def leaves_of(tree: Any) -> list[Any]:
    """Leaves of a pytree."""
    return tree_util.tree_leaves(tree)
