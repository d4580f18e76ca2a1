"""custom_vmap: a function with a batching rule of your own.

rule : (n, which of a are batched, [n] a) -> ([n] b, which of b are batched)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any

import jax.core
import numpy as np
from jax import tree_util

from functrace.control.custom_vmap import CustomVmap
from functrace.errors import DtypeError, LeakedTracerError, RuleError, ShapeError
from functrace.ir import Builder, Program
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.primitives.constant import constant
from functrace.tracing import Tracer, aval_of, trace
from functrace.tracing.trace import Traced, record
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name
from functrace.transforms.custom import check_tree, positional


class custom_vmap:
    """A function that `vmap` batches by the rule that `def_vmap` gives it.

    Derivatives, in every order with `vmap`, are those of the function where it is not batched and those of
    the rule where it is, forward and reverse mode alike. Where only tangents or cotangents are batched, as
    in `jacfwd`, or the rule's transpose does not exist, they are the function's, batched as any function is;
    that is the same where the rule computes what the function does. A value that the function closes over
    is no argument of the rule, and cannot be batched. A Program is one of functrace's: what JAX itself batches
    is the function without the rule.

    Args:
      fun: a pure function of pytrees of arrays.
    Raises:
      RuleError: called before a rule was given, or a value that the function closes over is batched, or the
        rule closes over a traced value that the function does not.
      DtypeError, ShapeError: the rule's results do not have the structure, types or leading sizes they must.

    >>> import functrace as ft, numpy as np
    >>> @ft.custom_vmap
    ... def dot(x, y):
    ...     return x @ y
    >>> @dot.def_vmap
    ... def dot_rule(axis_size, in_batched, xs, ys):
    ...     x_batched, y_batched = in_batched
    ...     return (xs * ys).sum(-1), x_batched or y_batched
    >>> ft.vmap(dot, in_axes=(0, None))(np.ones((2, 3)), np.ones(3)).tolist()
    [3.0, 3.0]
    """

    def __init__(self, fun: Callable[..., Any]):
        check_callable("custom_vmap", fun)
        self.fun = fun
        self.vmap_rule: Callable[..., Any] | None = None
        update_wrapper(self, fun)

    def def_vmap(self, vmap_rule: Callable[..., Any]) -> Callable[..., Any]:
        """Give the rule; returns it.

        Args:
          vmap_rule: `vmap_rule(axis_size, in_batched, *args)` returns `(output, out_batched)`. A batched leaf
            of an argument or of the output has the batch axis first; `in_batched` is a list with a pytree of
            bools an argument, `out_batched` a pytree of bools of the structure of the output.
        """
        check_callable("def_vmap", vmap_rule)
        self.vmap_rule = vmap_rule
        return vmap_rule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the function."""
        name, rule = fun_name(self.fun), self.vmap_rule
        args = positional(self.fun, args, kwargs)
        if rule is None:
            raise RuleError(f"{name}: no batching rule was given; call {name}.def_vmap first.{at(caller_source())}")
        if open_builder() is None:
            return self.fun(*args)
        traced = trace(self.fun, args, transform=name)
        leaves, in_tree = tree_util.tree_flatten(args)
        prim = CustomVmap(traced.program, TracedWhenAsked(rule, name, traced, in_tree), name)
        return tree_util.tree_unflatten(traced.out_tree, record(prim, [*traced.captures, *leaves]))


class TracedWhenAsked:
    """A rule of the user's as `CustomVmap` holds it: traced for an axis size and a choice of batched operands.

    What it was traced to is kept. Two of one rule, for one call form that closes over the same values, are
    equal, so that a Program is compiled once however often its function is traced.
    """

    def __init__(self, rule: Callable[..., Any], name: str, function: Traced, in_tree: Any):
        self.rule, self.name, self.function, self.in_tree = rule, name, function, in_tree
        self.made: dict[Any, tuple[Program, tuple[bool, ...]]] = {}
        self.key = (id(rule), in_tree, function.out_tree, tuple([id(c) for c in function.captures]))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TracedWhenAsked) and self.key == other.key

    def __repr__(self) -> str:
        return fun_name(self.rule)

    def refuse(self, batched: Sequence[bool]) -> None:
        """A rule cannot be told of what the function closes over."""
        if any(batched[: len(self.function.captures)]):
            raise RuleError(
                f"{self.name}: a function with a batching rule of its own closes over a value that is batched; the "
                f"rule is not told of that value. Pass it as an argument.{at(caller_source())}"
            )

    def __call__(self, size: int, batched: tuple[bool, ...]) -> tuple[Program, tuple[bool, ...]] | None:
        """The rule's Program, of the operands of the function's, and which of its outputs are batched."""
        if any(batched[: len(self.function.captures)]):
            return None
        if (size, batched) not in self.made:
            self.made[size, batched] = self._traced(size, batched)
        return self.made[size, batched]

    def _traced(self, size: int, batched: tuple[bool, ...]) -> tuple[Program, tuple[bool, ...]]:
        captures = self.function.captures
        flags = batched[len(captures) :]
        avals = [
            a.with_shape((size, *a.shape)) if f else a
            for a, f in zip(self.function.program.in_avals, batched, strict=True)
        ]
        out_flags: list[bool] = []

        def flat(*args: Any) -> Any:
            ys, flags_of_ys = self._checked(size, self.rule(size, list(in_batched), *args))
            out_flags.extend(flags_of_ys)
            return ys

        in_batched = tree_util.tree_unflatten(self.in_tree, flags)
        args = tree_util.tree_unflatten(self.in_tree, [0] * len(flags))
        # What the function closes over is what the rule closes over, though its trace may have ended by now.
        ended = [c.builder for c in captures if type(c) is Tracer and not c.builder.is_open]
        for builder in ended:
            builder.is_open = True
        try:
            traced = trace(flat, args, transform=f"the batching rule of {self.name}", avals=avals[len(captures) :])
        except LeakedTracerError as error:
            raise self._unknown() from error
        finally:
            for builder in ended:
                builder.is_open = False
        place = {id(c): i for i, c in enumerate(captures)}
        with Builder() as b:
            xs = [b.input(a, v.name) for a, v in zip(avals, self.function.program.inputs, strict=True)]
            closed = []
            for c in traced.captures:
                if id(c) not in place and isinstance(c, Tracer | jax.core.Tracer):
                    raise self._unknown()
                closed.append(xs[place[id(c)]] if id(c) in place else constant(np.asarray(c)))
            ys = b.inline(traced.program, [*closed, *xs[len(captures) :]])
            return b.build(ys), tuple(out_flags)

    def _unknown(self) -> RuleError:
        return RuleError(
            f"{self.name}: its batching rule closes over a traced value that the function does not close over. Pass "
            f"the value as an argument of the function.{at(caller_source())}"
        )

    def _checked(self, size: int, result: Any) -> tuple[list[Any], list[bool]]:
        """The leaves of the rule's output and their flags, checked against the function's output."""
        where, of = f"{self.name}: its batching rule {fun_name(self.rule)}", self.function.out_tree
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise DtypeError(
                f"{where} must return a pair (output, out_batched), got {type(result).__name__}.{at(caller_source())}"
            )
        ys, y_tree = tree_util.tree_flatten(result[0])
        flags, flag_tree = tree_util.tree_flatten(result[1])
        rule = f"its batching rule {fun_name(self.rule)}"
        check_tree(self.name, f"the output of {rule}", y_tree, of, "the function's output")
        check_tree(self.name, f"the out_batched of {rule}", flag_tree, of, "the function's output")
        for i, (y, flag, aval) in enumerate(zip(ys, flags, self.function.program.out_avals, strict=True)):
            if not isinstance(flag, bool | np.bool_):
                raise DtypeError(
                    f"{where} must say True or False in out_batched for each leaf of the output, got {flag!r} for leaf "
                    f"{i}.{at(caller_source())}"
                )
            expected = aval.with_shape((size, *aval.shape)) if flag else aval
            found = aval_of(y)
            if not found.matches(expected):
                kind = ShapeError if found.dtype == expected.dtype else DtypeError
                says = f"batched, with the axis of size {size} first" if flag else "not batched"
                raise kind(
                    f"{where} returned {found} for leaf {i} of the output, and must return {expected}: out_batched "
                    f"says that it is {says}.{at(caller_source())}"
                )
        return ys, [bool(f) for f in flags]
