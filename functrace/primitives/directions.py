"""Directions of the input space, and what moves along them: Jacobians of which only the blocks not zero exist.

The entries of each input are directions, one axis of directions for each of its axes. A `Part` of the Jacobian of a
value may be tied along some of them: then an axis of the value is that axis of directions, and entry i moves along
direction i alone. The identity is tied along all its axes; a layer applied to particles one by one stays tied along
the axis of particles. What is left, the free directions together, is the leading axis of the part's data. A Jacobian
is the sum of its parts; dense, all its directions are free, those of all inputs one after the other.

Source of the idea of a sparse Jacobian: Gao, Koehler and Foster, folx (2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from functrace.ir import Atom, Aval
from functrace.primitives.comparison import eq, logical_and
from functrace.primitives.elementwise import add
from functrace.primitives.selection import where
from functrace.primitives.space import broadcast_to, full, reshape, zeros
from functrace.primitives.structural import concatenate, iota

I32 = np.dtype(np.int32)


class Part(NamedTuple):
    """`sizes` are those of the axes of directions of input `leaf`, `ties` the value's axes they are, None where free.

    `data` has the free directions as its leading axis, and behind that the axes of the value.
    """

    leaf: int
    sizes: tuple[int, ...]
    ties: tuple[int | None, ...]
    data: Atom

    @property
    def kind(self) -> tuple[int, tuple[int, ...], tuple[int | None, ...]]:
        """What parts that can be added agree in."""
        return self.leaf, self.sizes, self.ties

    @property
    def free(self) -> int:
        """How many directions the leading axis has."""
        return math.prod([n for n, tie in zip(self.sizes, self.ties, strict=True) if tie is None])

    def untied(self, k: int) -> Part:
        """The same with axis k of directions free."""
        n, axis = self.sizes[k], self.ties[k]
        if axis is None:
            return self
        shape = self.data.aval.shape[1:]
        before = math.prod([m for m, tie in zip(self.sizes[:k], self.ties[:k], strict=True) if tie is None])
        wide = (before, n, self.free // max(before, 1), *shape)
        data = reshape(self.data, (before, 1, *wide[2:]))
        here = mask((1, n, 1, *shape), 1, 3 + axis)
        spread = where(broadcast_to(here, wide), broadcast_to(data, wide), 0)
        ties = (*self.ties[:k], None, *self.ties[k + 1 :])
        return Part(self.leaf, self.sizes, ties, reshape(spread, (self.free * n, *shape)))

    def all_free(self) -> Part:
        """The same with no ties, and one axis of directions."""
        part = self
        for k in range(len(self.sizes)):
            part = part.untied(k)
        return Part(self.leaf, (math.prod(self.sizes),), (None,), part.data)


def mask(shape: tuple[int, ...], first: int, second: int) -> Atom:
    """Where the indices along two axes are equal, with size 1 along all others."""
    rows, columns = (iota(I32, tuple([m if i == a else 1 for i, m in enumerate(shape)]), a) for a in (first, second))
    return eq(rows, columns)


def identity(avals: Sequence[Aval]) -> list[tuple[Part, ...]]:
    """For inputs of these types, the Jacobian of each of them."""
    found = []
    for i, a in enumerate(avals):
        axes = tuple([k for k, n in enumerate(a.shape) if n != 1])
        found.append((Part(i, tuple([a.shape[k] for k in axes]), axes, full(a.with_shape((1, *a.shape)), 1)),))
    return found


def dense(parts: Sequence[Part], leaves: Sequence[int]) -> Atom:
    """The sum of the parts with all directions of all inputs free; `leaves` has the size of each input."""
    found: dict[int, Atom] = {}
    for part in parts:
        data = part.all_free().data
        found[part.leaf] = add(found[part.leaf], data) if part.leaf in found else data
    like = parts[0].data.aval
    missing = lambda n: zeros(like.with_shape((n, *like.shape[1:])))
    rows = [found[i] if i in found else missing(n) for i, n in enumerate(leaves)]
    return rows[0] if len(rows) == 1 else concatenate(rows, 0)


def matched(parts: Sequence[Part]) -> list[Part]:
    """The same parts, such that each two of one input have their axes of directions in common, and are both tied along
    one of them, to whatever axes, or both free."""
    result = list(parts)
    for leaf in {p.leaf for p in parts}:
        own = [i for i, p in enumerate(result) if p.leaf == leaf]
        if len({result[i].sizes for i in own}) > 1:
            for i in own:
                result[i] = result[i].all_free()
        for k in range(len(result[own[0]].sizes)):
            if any([result[i].ties[k] is None for i in own]):
                for i in own:
                    result[i] = result[i].untied(k)
    return result


def meeting(one: Any, other: Any, shape: tuple[int, ...]) -> Atom | bool:
    """Where in a value of this shape matched parts of two kinds move along the same directions: a mask, True for
    everywhere, or False."""
    if one[0] != other[0]:
        return False
    where_equal: Atom | bool = True
    for a, b in zip(one[2], other[2], strict=True):
        if a != b:
            assert a is not None and b is not None, "parts are matched"
            here = mask(shape, a, b)
            where_equal = logical_and(where_equal, here) if isinstance(where_equal, Atom) else here
    return where_equal
