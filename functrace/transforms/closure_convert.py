"""What a function closes over, as arguments.

closure_convert : (a -> b) -> ((a, c) -> b, c)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import tree_util

from functrace.errors import DtypeError
from functrace.ir.source import caller_source
from functrace.tracing import apply, aval_of, trace
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, check_same_tree, fun_name, leaf_label


def closure_convert(fun: Callable[..., Any], *example_args: Any) -> tuple[Callable[..., Any], list[Any]]:
    """`fun` as a function of its arguments and of what it closes over, for a custom derivative to see.

    Args:
      fun: a pure function of pytrees of arrays.
      example_args: arguments of the types that it will be called with.
    Returns:
      `(converted, consts)`, where `converted(*args, *consts)` is `fun(*args)`, and consts are the arrays that
      fun closes over: those it reads, in functions that it calls too.
    Raises:
      DtypeError: the converted function is called with arguments of another structure or other types.

    >>> import functrace as ft
    >>> def slope(a):
    ...     f, consts = ft.closure_convert(lambda x: a * x, 1.0)
    ...     return f(5.0, *consts)
    >>> float(ft.grad(slope)(2.0))
    5.0
    """
    check_callable("closure_convert", fun)
    traced = trace(fun, example_args, transform="closure_convert")
    avals = traced.program.in_avals[len(traced.captures) :]
    n = len(example_args)

    def converted(*args: Any) -> Any:
        given, consts = args[:n], args[n:]
        check_same_tree("closure_convert", "the arguments", given, example_args, "the example arguments")
        if len(consts) != len(traced.captures):
            raise DtypeError(
                f"{fun_name(fun)}: converted from its closure, it takes {n} arguments and {len(traced.captures)} "
                f"constants, got {len(args)} in all.{at(caller_source())}"
            )
        leaves = tree_util.tree_leaves(given)
        for i, (x, aval) in enumerate(zip(leaves, avals, strict=True)):
            if not aval_of(x).matches(aval):
                raise DtypeError(
                    f"{fun_name(fun)}: converted from its closure for {leaf_label(given, i)} of type {aval!r}, called "
                    f"with {aval_of(x)!r}.{at(caller_source())}"
                )
        return tree_util.tree_unflatten(traced.out_tree, apply(traced.program, [*consts, *leaves]))

    converted.__name__ = fun_name(fun)
    return converted, list(traced.captures)
