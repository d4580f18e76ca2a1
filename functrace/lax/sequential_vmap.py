"""sequential_vmap: a function that vmap applies to one entry of the batch after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import tree_util

from functrace.lax.loops import map as map_
from functrace.transforms.custom_vmap import custom_vmap


def sequential_vmap(f: Callable[..., Any]) -> custom_vmap:
    """`f`, batched by a loop: one entry at a time, and no more memory than one needs.

    Args:
      f: a pure function of pytrees of arrays.
    Returns:
      A `custom_vmap` whose rule is `functrace.lax.map`.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(ft.sequential_vmap(lambda x: x + 1.0))(np.arange(3.0)).tolist()
    [1.0, 2.0, 3.0]
    """
    function = custom_vmap(f)

    @function.def_vmap
    def one_by_one(axis_size: int, in_batched: Any, *args: Any) -> Any:
        leaves, tree = tree_util.tree_flatten(args)
        flags = tree_util.tree_leaves(in_batched)

        def at_entry(entries: Any) -> Any:
            rest = iter(entries)
            full = [next(rest) if f else x for x, f in zip(leaves, flags, strict=True)]
            return function(*tree_util.tree_unflatten(tree, full))

        out = map_(at_entry, [x for x, f in zip(leaves, flags, strict=True) if f])
        return out, tree_util.tree_map(lambda _: True, out)

    return function
