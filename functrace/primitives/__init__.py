"""Primitives: each defined once, with all its rules, in the file of its family.

`families` and `space` come first: the linear maps that tangents and cotangents live among. In
`elementwise` is the arithmetic that derivatives are written in. Every other file stands on these.
"""

from functrace.primitives import (
    binary,
    casts,
    collectives,
    comparison,
    complex,
    constant,
    contraction,
    convolution,
    cumulative,
    determinants,
    elementwise,
    gather_scatter,
    indexing,
    naming,
    norms,
    observing,
    quotients,
    reductions,
    scatter,
    selection,
    sorting,
    space,
    special,
    stacking,
    structural,
    unary,
    windows,
)
from functrace.primitives.elementwise import add, mul, neg, sub
from functrace.primitives.quotients import div
from functrace.primitives.selection import select_n, where

__all__ = [
    "add", "binary", "casts", "collectives", "comparison", "complex", "constant", "contraction", "convolution",
    "cumulative", "determinants", "div", "elementwise", "gather_scatter", "indexing", "mul", "naming", "neg", "norms",
    "observing", "quotients", "reductions", "scatter", "select_n", "selection", "sorting", "space", "special",
    "stacking", "structural", "sub", "unary", "where", "windows",
]  # fmt: skip
