"""Calling a jitted function that is compiled already: what functrace adds to `jax.jit`."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft

TITLE = "Dispatch of a cached jitted call"


def scaled(tree):
    """Every leaf times two."""
    return jax.tree.map(lambda x: x * 2.0, tree)


def measure() -> list[Row]:
    """Rows for pytrees of 1 to 1,000 leaves."""
    rows = []
    for leaves in (1, 10, 200, 1000):
        tree = {f"w{i}": jnp.full((8,), float(i)) for i in range(leaves)}
        ours, theirs = ft.jit(scaled), jax.jit(scaled)
        for a, b in zip(ours(tree).values(), theirs(tree).values(), strict=True):
            np.testing.assert_array_equal(a, b)
        contenders = {
            "functrace": lambda f=ours, t=tree: jax.block_until_ready(f(t)),
            "jax": lambda f=theirs, t=tree: jax.block_until_ready(f(t)),
        }
        task = f"{leaves:,} {'leaf' if leaves == 1 else 'leaves'}"
        rows.append(Row(task, alternate(contenders, rounds=31, calls=2000 // leaves)))
    return rows
