"""stop_gradient: the identity, with derivative zero."""

from __future__ import annotations

from typing import Any

from jax import tree_util

from functrace.ir.primitive import Primitive, open_builder
from functrace.tracing import Tracer
from functrace.tracing.tracer import atom_of


def stop_gradient(x: Any) -> Any:
    """`x`, taken as constant by every derivative.

    Args:
      x: a pytree of arrays.
    Returns:
      The same pytree.

    >>> import functrace as ft
    >>> float(ft.grad(lambda x: x * ft.stop_gradient(x))(3.0))
    3.0
    """
    builder = open_builder()
    if builder is None:
        return x
    stop = Primitive.named["stop_gradient"]

    def stopped(leaf: Any) -> Any:
        if type(leaf) is not Tracer or not leaf.aval.is_inexact:
            return leaf
        return Tracer(stop(atom_of(leaf, builder)), builder)

    return tree_util.tree_map(stopped, x)
