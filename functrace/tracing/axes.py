"""The named axes that a trace is inside of: `vmap(axis_name=...)` binds them, collectives ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax


class _Axes(threading.local):
    bound: tuple[tuple[Any, int], ...] = ()  # name and size, the innermost last
    borrowed: int = 0  # how often the size of one of JAX's own axes was asked for


AXES = _Axes()


class named_axis:
    """`name` is an axis of this size within `with named_axis(name, size):`; None binds nothing."""

    def __init__(self, name: Any, size: int):
        self.entry = () if name is None else ((name, size),)

    def __enter__(self) -> None:
        self.outer = AXES.bound
        AXES.bound = (*self.outer, *self.entry)

    def __exit__(self, *error: object) -> None:
        AXES.bound = self.outer


class MappedValueError(ValueError):
    """A value that differs along a named axis was asked for as one value."""


def within_axes(fun: Callable[..., Any], *xs: Any) -> Any:
    """`fun(*xs)`, a JAX function of values that are the same at every index of the bound axes.

    Raises:
      MappedValueError: its result is not the same at every index.
    """
    for name, size in AXES.bound:
        fun = jax.vmap(fun, in_axes=None, out_axes=None, axis_name=name, axis_size=size)
    try:
        return fun(*xs)
    except ValueError as error:
        raise MappedValueError(str(error)) from error
