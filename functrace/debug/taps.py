"""taps: what a function taps inside, beside its result.

taps : (a -> b) -> (a -> (b, {name: value}))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from jax import tree_util

from functrace import rewrites
from functrace.ir.primitive import AMBIENT
from functrace.tracing import apply, trace
from functrace.transforms.arguments import check_call, check_callable


def taps(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` with what is tapped inside as a second result: no side effect, so every transform applies.

    Order says what is collected: `taps(grad(f))` collects from the gradient, cotangents included, and
    `grad(lambda x: taps(f)(x)[0])` from the function alone.

    - In `vmap` a value that depends on the mapped argument has its axis first.
    - In `scan`, values are stacked over the steps; in `while_loop` the value is the last step's (a cotangent, that of
      the step undone last, which is the first one); where a loop takes no step it is not there.
    - Of `cond` the branch taken gives the value. What is not there is NaN, or 0 where the dtype has no NaN.
    - In a function with a rule of its own (`custom_vjp`), values are those of the function where it is not
      differentiated, and those of its rule where it is.
    - In `checkpoint` a value is collected when it is computed first.

    Args:
      fun: a function of pytrees of arrays that calls `functrace.tap`.
    Returns:
      A function of the same arguments that returns `(fun(...), {name: value})`. A name that was tapped more than
      once has a tuple of values, in the order of the program.
    Raises:
      RuleError: a tap inside a linear solve, a root or a while loop's second derivative, from which nothing can be
        collected.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> f = lambda x: fnp.sum(ft.tap(fnp.sin(x), "sine") ** 2)
    >>> y, seen = ft.debug.taps(f)(fnp.zeros(2))
    >>> seen["sine"].tolist()
    [0.0, 0.0]
    """
    check_callable("taps", fun)

    @wraps(fun)
    def with_taps(*args: Any, **kwargs: Any) -> Any:
        check_call("taps", fun, args, kwargs)
        outer, AMBIENT.collects = AMBIENT.collects, True
        try:
            traced = trace(fun, args, kwargs, transform="taps", concrete=True)
        finally:
            AMBIENT.collects = outer
        program, names = rewrites.collect(traced.program)
        outputs = apply(program, [*traced.captures, *tree_util.tree_leaves((args, kwargs))])
        n = len(traced.program.outputs)
        return tree_util.tree_unflatten(traced.out_tree, outputs[:n]), by_name(names, outputs[n:])

    return with_taps


def by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values by name; a tuple where there are several."""
    found: dict[str, list[Any]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(name, []).append(value)
    return {name: several[0] if len(several) == 1 else tuple(several) for name, several in found.items()}
