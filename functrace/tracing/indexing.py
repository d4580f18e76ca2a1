"""Indexing by integers and slices that Python knows: a slice and a reshape, recorded directly.

All other indices (arrays, masks, places outside, negative steps) are jax.numpy's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrace.ir import Atom
from functrace.primitives.space import reshape
from functrace.primitives.structural import slice_


def is_int(i: Any) -> bool:
    """Whether an index is a Python or NumPy integer; a bool is a mask."""
    return type(i) is int or isinstance(i, np.integer)


def is_plain(i: Any) -> bool:
    """Whether an index is an integer, an Ellipsis, a None, or a forward slice of integers."""
    if isinstance(i, slice):
        ends = all([e is None or is_int(e) for e in (i.start, i.stop, i.step)])
        return ends and (i.step is None or i.step > 0)
    return i is None or i is Ellipsis or is_int(i)


def static_index(x: Atom, index: Any) -> Atom | None:
    """`x[index]`, or None where the index is not one of these."""
    parts = index if isinstance(index, tuple) else (index,)
    if not all([is_plain(i) for i in parts]):
        return None
    shape = x.aval.shape
    missing = len(shape) - sum([i is not None and i is not Ellipsis for i in parts])
    places = [k for k, i in enumerate(parts) if i is Ellipsis]
    if missing < 0 or len(places) > 1:
        return None
    k = places[0] if places else len(parts)
    parts = (*parts[:k], *(slice(None),) * missing, *parts[k + 1 :])
    start, limit, strides, result = [], [], [], []
    for i in parts:
        if i is None:
            result.append(1)
            continue
        n = shape[len(start)]
        if isinstance(i, slice):
            first, stop, step = i.indices(n)
            result.append(len(range(first, stop, step)))
        else:
            if not -n <= i < n:
                return None
            first, step = int(i) % n, 1
            stop = first + 1
        start.append(first)
        limit.append(max(first, stop))
        strides.append(step)
    if start != [0] * len(shape) or limit != list(shape) or any([s != 1 for s in strides]):
        x = slice_(x, tuple(start), tuple(limit), tuple(strides))
    return reshape(x, tuple(result))
