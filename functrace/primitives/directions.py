"""Directions of the input space, as a leading axis of what moves along them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from functrace.ir import Atom, Aval
from functrace.primitives.comparison import eq
from functrace.primitives.elementwise import add, convert_element_type
from functrace.primitives.space import reshape
from functrace.primitives.structural import iota

I32 = np.dtype(np.int32)


def unit_directions(avals: Sequence[Aval]) -> list[Atom]:
    """For values of these types, their parts of all unit vectors of the whole space, along a leading axis."""
    total = sum(a.size for a in avals)
    parts, start = [], 0
    for a in avals:
        rows, columns = iota(I32, (total, a.size), 0), iota(I32, (total, a.size), 1)
        part = convert_element_type(eq(rows, add(columns, start) if start else columns), a.dtype)
        parts.append(reshape(part, (total, *a.shape)))
        start += a.size
    return parts
