"""Tracing a function with a second output that is not differentiated: `has_aux`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import tree_util

from functrace.errors import DtypeError
from functrace.ir.source import caller_source
from functrace.rewrites.memo import select
from functrace.tracing import aval_of, trace
from functrace.tracing.trace import Traced
from functrace.tracing.tracer import at


class Aux:
    """The second output of a `has_aux` function: arrays are traced, anything else is kept aside."""

    tree: Any
    is_array: tuple[bool, ...]
    others: list[Any]

    def __init__(self, transform: str, has_aux: bool):
        self.transform = transform
        self.has_aux = has_aux

    def split(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """`fun` as a function of arrays alone: `(out, array leaves of aux)`."""

        def returning_arrays(*args: Any) -> Any:
            out = fun(*args)
            if not self.has_aux:
                return out, []
            if not (isinstance(out, tuple | list) and len(out) == 2):
                raise DtypeError(
                    f"{self.transform}: with has_aux=True the function must return a pair (output, aux), got "
                    f"{type(out).__name__}.{at(caller_source())}"
                )
            out, aux = out
            leaves, self.tree = tree_util.tree_flatten(aux)
            self.is_array = tuple(is_array(x) for x in leaves)
            self.others = [x for x, flag in zip(leaves, self.is_array, strict=True) if not flag]
            return out, select(self.is_array, leaves)

        returning_arrays.__name__ = getattr(fun, "__name__", "function")
        return returning_arrays

    def join(self, arrays: Sequence[Any]) -> Any:
        """The aux output again."""
        given, others = iter(arrays), iter(self.others)
        leaves = [next(given) if flag else next(others) for flag in self.is_array]
        return tree_util.tree_unflatten(self.tree, leaves)


def is_array(x: Any) -> bool:
    """Whether a leaf can be traced."""
    try:
        aval_of(x)
    except TypeError:
        return False
    return True


def trace_with_aux(
    transform: str, fun: Callable[..., Any], args: Sequence[Any], has_aux: bool, own_lines: bool = False,
    like: Callable[..., Any] | None = None,
) -> tuple[Traced, Aux, Any, int]:
    """Trace a function of arrays: the trace, its aux, the output's tree and number of leaves."""
    aux = Aux(transform, has_aux)
    traced = trace(aux.split(fun), args, transform=transform, concrete=True, own_lines=own_lines, like=like)
    out_tree, _aux_tree = traced.out_tree.children()
    return traced, aux, out_tree, out_tree.num_leaves
