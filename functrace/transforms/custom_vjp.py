"""custom_vjp: a function with a pullback of your own.

forward : a -> (b, r),  backward : (r, T* b) -> T* a       linear in the cotangent, so its transpose is
                                                          the pushforward: every mode works
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any

from jax import tree_util

from functrace.control.custom_vjp import CustomVjp
from functrace.control.recur import attributed
from functrace.errors import DtypeError, RuleError
from functrace.ir import Program
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.tracing import aval_of, trace
from functrace.tracing.trace import Traced, all_captures, with_captures
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name, is_zero_tangent, zero_tangent
from functrace.transforms.custom import (
    apply_custom,
    check_tree,
    leaves_of,
    merge_nondiff,
    outside_traces,
    positional,
)


class custom_vjp:
    """A function whose derivative is the pair of rules that `defvjp` gives it.

    One rule serves all modes: forward mode, `jacfwd` and `hessian` use the transpose of the backward
    function. A backward function that is not linear in the cotangent (a gradient clip, say) works in
    reverse mode and says so in forward mode.

    Args:
      fun: a pure function of pytrees of arrays.
      nondiff_argnums: positions of arguments that are Python values, handed to `bwd` first.
    Raises:
      RuleError: called inside a transform before rules were given, or a value that the functions
        close over is differentiated, or forward mode of a backward that is not linear.
      DtypeError: results of the rules do not have the structure, shapes or dtypes they must.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> @ft.custom_vjp
    ... def clip_gradient(x):
    ...     return x
    >>> clip_gradient.defvjp(lambda x: (x, None), lambda _, ct: (fnp.clip(ct, -1.0, 1.0),))
    >>> float(ft.grad(lambda x: 10.0 * clip_gradient(x))(2.0))
    1.0
    """

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: Sequence[int] = ()):
        check_callable("custom_vjp", fun)
        self.fun = fun
        self.nondiff_argnums = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)
        self.fwd: Callable[..., Any] | None = None
        self.bwd: Callable[..., Any] | None = None
        self.made: tuple[object, dict[Any, Any]] = (None, {})  # in this session, by argument types
        update_wrapper(self, fun)

    def defvjp(
        self, fwd: Callable[..., Any], bwd: Callable[..., Any], symbolic_zeros: bool = False
    ) -> None:
        """Give the rules.

        Args:
          fwd: with the arguments of the function, returns `(output, residuals)`.
          bwd: `bwd(*nondiff, residuals, cotangent)` returns a tuple with a cotangent for each
            differentiated argument, None where it is zero.
          symbolic_zeros: not supported; cotangents are arrays.
        """
        if symbolic_zeros:
            raise RuleError(f"{fun_name(self.fun)}: symbolic_zeros is not supported; cotangents are arrays")
        self.fwd, self.bwd = fwd, bwd
        self.made = (None, {})

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the function."""
        name = fun_name(self.fun)
        args = positional(self.fun, args, kwargs)
        if self.fwd is None or self.bwd is None:
            raise RuleError(f"{name}: no derivative rules were given; call {name}.defvjp first.{at(caller_source())}")
        if open_builder() is None:
            return outside_traces(self, args)
        merge = lambda xs: merge_nondiff(self.nondiff_argnums, args, xs)
        return apply_custom(self, args, lambda *given: self._traced(merge, *given))

    def _traced(
        self, merge: Any, primal: Traced, moving: list[Any], fixed: list[Any], values: list[Any]
    ) -> Any:
        """Trace the rules: the captured values, and the primitive."""
        fwd, bwd, name = self.fwd, self.bwd, fun_name(self.fun)
        assert fwd is not None and bwd is not None
        avals = [aval_of(x) for x in leaves_of(moving)]
        structure: list[Any] = []

        def forward_flat(*xs: Any) -> Any:
            result = fwd(*merge(xs))
            if not (isinstance(result, tuple | list) and len(result) == 2):
                raise DtypeError(
                    f"{name}: its fwd must return a pair (output, residuals), got {type(result).__name__}."
                    f"{at(caller_source())}"
                )
            ys, y_tree = tree_util.tree_flatten(result[0])
            check_tree(name, "the output of its fwd", y_tree, primal.out_tree, "the function's output")
            for i, (y, a) in enumerate(zip(ys, primal.program.out_avals, strict=True)):
                if not aval_of(y).matches(a):
                    raise DtypeError(
                        f"{name}: leaf {i} of the output of its fwd has type {aval_of(y)}, and must have {a}, as the "
                        f"function's output.{at(caller_source())}"
                    )
            residuals, residual_tree = tree_util.tree_flatten(result[1])
            structure.append(residual_tree)
            return ys, residuals

        forward = trace(forward_flat, moving, transform=f"the fwd of {name}")
        n = len(primal.program.outputs)
        out_avals = primal.program.out_avals
        residual_avals = forward.program.out_avals[n:]
        ct_avals = [a.strong() for a in out_avals if a.is_inexact]

        def backward_flat(residuals: Any, given: Any) -> Any:
            rest = iter(given)
            cts = [next(rest) if a.is_inexact else zero_tangent(a) for a in out_avals]
            ct_xs = bwd(
                *fixed,
                tree_util.tree_unflatten(structure[-1], residuals),
                tree_util.tree_unflatten(primal.out_tree, cts),
            )
            return self._checked(name, ct_xs, moving, avals)

        placeholders = (list(residual_avals), ct_avals)
        backward = trace(
            backward_flat, ([0] * len(residual_avals), [0] * len(ct_avals)),
            transform=f"the bwd of {name}", avals=[*placeholders[0], *placeholders[1]],
        )  # fmt: skip
        captures = all_captures(values, [primal, forward, backward])
        program, forward_program = with_captures(captures, [primal, forward])
        # What bwd closes over travels as residuals.
        place = {id(c): v for c, v in zip(captures, forward_program.inputs, strict=False)}
        carried = [place[id(c)] for c in backward.captures]
        forward_program = Program(
            forward_program.inputs, forward_program.equations, (*forward_program.outputs, *carried)
        )
        backward_program = _residuals_first(backward, len(residual_avals))
        forward_program = attributed(forward_program, n, "vjp", name)
        backward_program = attributed(backward_program, 0, "vjp", name)
        return captures, CustomVjp(program, forward_program, backward_program, len(captures), name)

    def _checked(self, name: str, ct_xs: Any, moving: Any, avals: Any) -> list[Any]:
        """The cotangents of the inexact leaves, zeros filled in, checked against the arguments."""
        if isinstance(ct_xs, list):
            ct_xs = tuple(ct_xs)
        if not isinstance(ct_xs, tuple) or len(ct_xs) != len(moving):
            found = f"a tuple of {len(ct_xs)}" if isinstance(ct_xs, tuple) else type(ct_xs).__name__
            raise DtypeError(
                f"{name}: its bwd must return a tuple with a cotangent for each of its {len(moving)} differentiated "
                f"arguments, got {found}.{at(caller_source())}"
            )
        flat: list[Any] = []
        for i, (ct, x) in enumerate(zip(ct_xs, moving, strict=True)):
            count = tree_util.tree_structure(x).num_leaves
            if ct is None:
                flat.extend([None] * count)
                continue
            leaves, tree = tree_util.tree_flatten(ct, is_leaf=lambda v: v is None)
            expected = tree_util.tree_structure(x)
            whole = tree_util.tree_structure(tree_util.tree_unflatten(tree, [0] * len(leaves)))
            check_tree(name, f"the cotangent of argument {i} that its bwd returns", whole, expected, "the argument")
            flat.extend(leaves)
        kept = []
        for i, (ct, a) in enumerate(zip(flat, avals, strict=True)):
            if not a.is_inexact:
                continue
            if ct is None or is_zero_tangent(ct):
                kept.append(zero_tangent(a))
            elif not aval_of(ct).matches(a):
                raise DtypeError(
                    f"{name}: leaf {i} of the cotangents that its bwd returns has type {aval_of(ct)}, and must have "
                    f"{a}, the type of its argument.{at(caller_source())}"
                )
            else:
                kept.append(ct)
        return kept


def _residuals_first(backward: Any, n: int) -> Program:
    """The backward Program with inputs (residuals, captured, cotangents), as `forward` returns them."""
    program, k = backward.program, len(backward.captures)
    inputs = (*program.inputs[k : k + n], *program.inputs[:k], *program.inputs[k + n :])
    return Program(inputs, program.equations, program.outputs)


