"""What functions with custom rules share: binding arguments, tracing rules, and the calls of a function
inside its own rules."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
from jax import tree_util

from functrace.control import Recur
from functrace.errors import DtypeError, RuleError
from functrace.ir import Program
from functrace.ir.primitive import AMBIENT, open_builder
from functrace.ir.source import caller_source
from functrace.lower import evaluate
from functrace.lower.kinds import settings
from functrace.tracing import Tracer, aval_of
from functrace.tracing.axes import AXES
from functrace.tracing.trace import trace, with_captures
from functrace.tracing.tracer import at, atom_of
from functrace.transforms.arguments import fun_name


def positional(fun: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, ...]:
    """All arguments by position, keywords and defaults put in their places."""
    if not kwargs and not getattr(fun, "__defaults__", None):
        return args
    try:
        bound = inspect.signature(fun).bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"{fun_name(fun)}: {error}.{at(caller_source())}") from error
    bound.apply_defaults()
    if bound.kwargs:
        raise DtypeError(
            f"{fun_name(fun)}: a function with a custom rule cannot have keyword-only arguments "
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


class Frame(NamedTuple):
    """A function whose rules are being traced: with these arguments, it means itself."""

    function: Any
    key: Any
    program: Program  # (values, leaves) -> outputs
    values: list[Any]  # what its functions close over, as far as is known
    out_tree: Any
    called: list[bool]  # an entry for each call of itself inside its rules


class _Frames(threading.local):
    """The rules that are being traced, outermost first. What is traced inside may mean one of them by
    `Recur`, and so is not to be kept for use outside."""

    def __init__(self) -> None:
        self.open: list[Frame] = []


FRAMES = _Frames()


def apply_custom(function: Any, args: Sequence[Any], make: Callable[..., tuple[list[Any], Any]]) -> Any:
    """Record a call of a function with a custom derivative in the running trace.

    Args:
      function: the custom_jvp or custom_vjp.
      args: its arguments, by position.
      make: `make(primal, moving, fixed, values)` traces the rules, given the trace of the function and
        the values that come first among the captured ones; returns all captured values and the
        primitive, whose leading operands they are.
    """
    builder = open_builder()
    assert builder is not None
    numbers = function.nondiff_argnums
    moving, fixed = split_nondiff(numbers, args)
    leaves, tree = tree_util.tree_flatten(tuple(moving))
    key = (tree, tuple([aval_of(x) for x in leaves]), tuple([(type(x), x) for x in fixed]), settings(), AXES.bound)
    for depth, frame in enumerate(reversed(FRAMES.open)):
        if frame.function is function and same_key(frame.key, key):
            frame.called.append(True)
            prim: Any = Recur(frame.program, fun_name(function.fun), depth)
            return written(prim, [*frame.values, *leaves], frame.out_tree, builder)
    session, made = function.made
    if session is not AMBIENT.session:  # functions are traced anew outside: Python's state may differ
        made = {}
        function.made = AMBIENT.session, made
    kept = made.get(key) if is_hashable(key) else None
    if kept is None:
        kept = traced_rules(function, args, moving, fixed, key, make)
        if not kept[0] and not FRAMES.open and is_hashable(key):
            made[key] = kept
    captures, prim, out_tree = kept
    return written(prim, [*captures, *leaves], out_tree, builder)


def traced_rules(
    function: Any, args: Sequence[Any], moving: list[Any], fixed: list[Any], key: Any, make: Callable[..., Any]
) -> tuple[list[Any], Any, Any]:
    """Trace the function and its rules: what they close over, the primitive, the output's structure."""
    primal = trace(
        lambda *xs: function.fun(*merge_nondiff(function.nondiff_argnums, args, xs)), moving,
        transform=fun_name(function.fun),
    )  # fmt: skip
    values = list(primal.captures)
    for _ in range(2):
        (program,) = with_captures(values, [primal])
        frame = Frame(function, key, program, values, primal.out_tree, [])
        FRAMES.open.append(frame)
        try:
            captures, prim = make(primal, moving, fixed, values)
        finally:
            FRAMES.open.pop()
        if not frame.called or len(captures) == len(values):
            return captures, prim, primal.out_tree
        values = captures  # its rules close over more than it does: once more, now that this is known
    raise RuleError(
        f"{fun_name(function.fun)}: its derivative rule calls the function itself and makes arrays of its own each "
        f"time it is traced; make them once, outside.{at(caller_source())}"
    )


def written(prim: Any, operands: Sequence[Any], out_tree: Any, builder: Any) -> Any:
    """Emit the primitive, and give its results the structure of the function's output."""
    outputs = prim(*[atom_of(x, builder) for x in operands])
    return tree_util.tree_unflatten(out_tree, [Tracer(y, builder) for y in outputs])


def is_hashable(key: Any) -> bool:
    """Whether a key can be looked up."""
    try:
        hash(key)
    except TypeError:
        return False
    return True


def same_key(a: Any, b: Any) -> bool:
    """Whether two keys are equal; values that cannot say so are not."""
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return False


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
