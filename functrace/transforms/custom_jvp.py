"""custom_jvp: a function with a pushforward of your own.

rule : (a, T a) -> (b, T b)                     linear in the tangents, so reverse mode follows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any

from jax import numpy as jnp, tree_util

from functrace.control.custom_jvp import CustomJvp
from functrace.control.recur import attributed
from functrace.errors import DtypeError, RuleError
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.tracing import aval_of, lift, trace
from functrace.tracing.trace import Traced, all_captures, with_captures
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name, is_zero_tangent, zero_tangent
from functrace.transforms.custom import (
    apply_custom,
    check_tree,
    leaves_of,
    outside_traces,
    positional,
)

zeros_like = lift(jnp.zeros_like)


class custom_jvp:
    """A function whose derivative is the rule that `defjvp` gives it.

    Args:
      fun: a pure function of pytrees of arrays.
      nondiff_argnums: positions of arguments that are Python values, handed to the rule first.
    Raises:
      RuleError: called inside a transform before a rule was given, or a value that the function or
        its rule closes over is differentiated.
      DtypeError: the rule's results do not have the function's structure, shapes or dtypes.

    >>> import functrace as ft
    >>> @ft.custom_jvp
    ... def cube(x):
    ...     return x ** 3
    >>> @cube.defjvp
    ... def cube_jvp(primals, tangents):
    ...     (x,), (dx,) = primals, tangents
    ...     return x ** 3, 100.0 * dx
    >>> float(ft.grad(cube)(1.0))
    100.0
    """

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = ()):
        check_callable("custom_jvp", fun)
        self.fun = fun
        self.nondiff_argnums = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)
        self.rule: Callable[..., Any] | None = None
        self.made: tuple[object, dict[Any, Any]] = (None, {})  # in this session, by argument types
        update_wrapper(self, fun)

    def defjvp(self, jvp: Callable[..., Any], symbolic_zeros: bool = False) -> Callable[..., Any]:
        """Give the rule: `jvp(*nondiff, primals, tangents) -> (output, tangent)`; returns it."""
        if symbolic_zeros:
            raise RuleError(f"{fun_name(self.fun)}: symbolic_zeros is not supported; tangents are arrays")
        self.rule = jvp
        self.made = (None, {})
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """Give a rule an argument: `jvps[i](tangent, output, *primals)`; None where it is zero."""
        if self.nondiff_argnums:
            raise RuleError(f"{fun_name(self.fun)}: defjvps cannot be used with nondiff_argnums")

        def rule(primals: Any, tangents: Any) -> Any:
            out = self(*primals)
            given = zip(jvps, tangents, strict=True)
            terms = [f(dx, out, *primals) for f, dx in given if f is not None and not is_zero_tangent(dx)]
            total = tree_util.tree_map(zeros_like, out)
            for term in terms:
                total = tree_util.tree_map(lambda a, b: a + b, total, term)
            return out, total

        self.rule = rule
        self.made = (None, {})

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the function."""
        name = fun_name(self.fun)
        args = positional(self.fun, args, kwargs)
        if self.rule is None:
            raise RuleError(f"{name}: no derivative rule was given; call {name}.defjvp first.{at(caller_source())}")
        if open_builder() is None:
            return outside_traces(self, args)
        return apply_custom(self, args, self._traced)

    def _traced(self, primal: Traced, moving: list[Any], fixed: list[Any], values: list[Any]) -> Any:
        """Trace the rule: the captured values, and the primitive."""
        rule, name = self.rule, fun_name(self.fun)
        assert rule is not None
        leaves = leaves_of(moving)
        avals = [aval_of(x) for x in leaves]
        inexact = [a.is_inexact for a in avals]
        tree = tree_util.tree_structure(tuple(moving))
        out_avals = primal.program.out_avals

        def pushforward(xs: Any, dxs: Any) -> Any:
            rest = iter(dxs)
            tangents = [next(rest) if flag else zero_tangent(a) for a, flag in zip(avals, inexact, strict=True)]
            result = rule(*fixed, tree_util.tree_unflatten(tree, xs), tree_util.tree_unflatten(tree, tangents))
            if not (isinstance(result, tuple | list) and len(result) == 2):
                raise DtypeError(
                    f"{name}: its jvp rule must return a pair (output, tangent), got {type(result).__name__}."
                    f"{at(caller_source())}"
                )
            ys, y_tree = tree_util.tree_flatten(result[0])
            dys, dy_tree = tree_util.tree_flatten(result[1])
            check_tree(name, "the output of its jvp rule", y_tree, primal.out_tree, "the function's output")
            check_tree(name, "the tangent of its jvp rule", dy_tree, primal.out_tree, "the function's output")
            kept = []
            for i, (y, dy, a) in enumerate(zip(ys, dys, out_avals, strict=True)):
                for value, what in ((y, "output"), (dy, "tangent"))[: 2 if a.is_inexact else 1]:
                    if not aval_of(value).matches(a):
                        raise DtypeError(
                            f"{name}: leaf {i} of the {what} of its jvp rule has type {aval_of(value)}, and must have "
                            f"{a}, as the function's output.{at(caller_source())}"
                        )
                if a.is_inexact:
                    kept.append(dy)
            return ys, kept

        dx_leaves = [x for x, flag in zip(leaves, inexact, strict=True) if flag]
        pushed = trace(
            pushforward, (leaves, dx_leaves), transform=f"the jvp rule of {name}",
            avals=[*avals, *[a.strong() for a, flag in zip(avals, inexact, strict=True) if flag]],
        )  # fmt: skip
        captures = all_captures(values, [primal, pushed])
        program, rule_program = with_captures(captures, [primal, pushed])
        rule_program = attributed(rule_program, len(program.outputs), "jvp", name)
        return captures, CustomJvp(program, rule_program, len(captures), name)
