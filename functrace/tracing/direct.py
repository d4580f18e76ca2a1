"""The calls that models are made of, recorded without asking jax, which takes a millisecond for each new shape.

Each function has the arguments of one of jax.numpy's, and returns what that would record where all is plain: tracers of
one floating type, and arguments as most users give them. Otherwise it returns None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from functrace.ir import Atom, Aval, Builder, Literal
from functrace.ir.primitive import open_builder
from functrace.primitives import div, sub
from functrace.primitives.contraction import dot_general
from functrace.primitives.selection import select_n
from functrace.primitives.space import full, reduce_sum, reshape
from functrace.primitives.unary import square
from functrace.tracing.tracer import Tracer, atom_of

FLOAT, ORDERED, ANY = "fcV", "fViu", "fcViu"  # dtype kinds; bfloat16's is V


def literal_like(x: Any, aval: Aval) -> Literal | None:
    """A scalar of Python's or NumPy's as a literal of the type of its partner, where the partner absorbs it."""
    kind = type(x)
    if (kind is float and aval.is_inexact) or (kind is int and aval.kind in ANY):
        return literal(x, aval) if x else literal.__wrapped__(x, aval)  # zeros of either sign are equal
    if isinstance(x, np.number) and not aval.weak_type and jax.dtypes.canonicalize_dtype(x.dtype) == aval.dtype:
        return Literal(x, Aval((), aval.dtype))
    return None


@lru_cache(4096, typed=True)
def literal(x: Any, aval: Aval) -> Literal | None:
    """A scalar as a literal of this element type, which gives way; None where it is too large for it."""
    try:
        return Literal(x, Aval((), aval.dtype, True))
    except OverflowError:
        return None


def level(x: Atom, y: Atom) -> tuple[Atom, Atom] | None:
    """Operands of one element type, the shorter shape with ones in front; None where they are not jax.numpy's to fit.

    Sizes of 1 and scalars are for the primitive to repeat.
    """
    a, b = x.aval, y.aval
    if a.dtype != b.dtype or a.weak_type != b.weak_type:
        return None
    more = a.ndim - b.ndim
    if not a.shape or not b.shape:
        return x, y
    if more and jax.config.jax_numpy_rank_promotion != "allow":  # pyright: ignore[reportAttributeAccessIssue]
        return None
    if not all([m == n or m == 1 or n == 1 for m, n in zip(a.shape[::-1], b.shape[::-1], strict=False)]):
        return None
    return reshape(x, (1,) * -more + a.shape), reshape(y, (1,) * more + b.shape)


def chosen(condition: Any, x: Any = None, y: Any = None, **others: Any) -> Tracer | None:
    """`where` of arrays of one shape, one of them perhaps a Python scalar that the type of the other absorbs."""
    like = x if type(x) is Tracer else y
    if others or type(condition) is not Tracer or type(like) is not Tracer or like.atom.aval.weak_type:
        return None
    builder, aval, which = open_builder(), like.atom.aval, condition.atom.aval
    if builder is None or which.dtype != bool or which.shape != aval.shape or not aval.shape:
        return None
    atoms = [atom_of(condition, builder)]
    for v in (y, x):
        if type(v) is Tracer and v.atom.aval is aval:
            atoms.append(atom_of(v, builder))
        elif (scalar := literal_like(v, aval)) is not None:
            atoms.append(full(aval, scalar.value))
        else:
            return None
    return Tracer(select_n(*atoms), builder)


def plain(*xs: Any) -> Builder | None:
    """The running trace, where all are tracers of numbers that jax.numpy adds up in their own type."""
    for x in xs:
        if type(x) is not Tracer or x.atom.aval.weak_type:
            return None
        dtype = x.atom.aval.dtype
        if dtype.kind != "f" or dtype.itemsize < 4:
            return None
    return open_builder()


def product(a: Any, b: Any, **others: Any) -> Tracer | None:
    """`matmul` of a matrix, or of a stack of rows, by a matrix, or by a stack of as many matrices."""
    builder = None if others else plain(a, b)
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if builder is None or a.dtype != b.dtype or precision is not None:
        return None
    m, n = a.ndim, b.ndim
    batch = tuple(range(n - 2))
    if n < 2 or m < 1 or (batch and (m != n or a.shape[:-2] != b.shape[:-2])) or a.shape[-1] != b.shape[-2]:
        return None
    numbers = (((m - 1,), (n - 2,)), (batch, batch))
    return Tracer(dot_general(atom_of(a, builder), atom_of(b, builder), numbers), builder)


def axes_of(a: Tracer, axis: Any) -> tuple[int, ...] | None:
    """The axes that a reduction over `axis` takes; None where it takes none, or what is not clear."""
    if axis is None:
        return tuple(range(a.ndim)) or None
    axes = axis if type(axis) is tuple else (axis,)
    if not all([type(i) is int and -a.ndim <= i < a.ndim for i in axes]):
        return None
    found = {i % a.ndim for i in axes}
    return (tuple(sorted(found)) or None) if len(found) == len(axes) else None


def total(x: Atom, axes: tuple[int, ...], keepdims: bool) -> Atom:
    """The sum over axes, which stay with size 1 if they are to be kept."""
    y = reduce_sum(x, axes)
    return reshape(y, tuple([1 if i in axes else n for i, n in enumerate(x.aval.shape)])) if keepdims else y


def average(x: Atom, axes: tuple[int, ...], keepdims: bool) -> Atom:
    """The mean over axes."""
    n = math.prod([x.aval.shape[i] for i in axes])
    return div(total(x, axes, keepdims), Literal(n, Aval((), x.aval.dtype)))


def spread(x: Atom, axes: tuple[int, ...], keepdims: bool) -> Atom:
    """The variance over axes."""
    return average(square(sub(x, average(x, axes, True))), axes, keepdims)


def reduction(write: Callable[[Atom, tuple[int, ...], bool], Atom]) -> Callable[..., Tracer | None]:
    """`sum` and its like, of real arrays with entries."""

    def direct(a: Any, axis: Any = None, *others: Any, keepdims: Any = False, **more: Any) -> Tracer | None:
        builder = None if others or more else plain(a)
        if builder is None or not a.size or (axes := axes_of(a, axis)) is None:
            return None
        return Tracer(write(atom_of(a, builder), axes, bool(keepdims)), builder)

    return direct


DIRECT = {
    "matmul": product, "mean": reduction(average), "sum": reduction(total), "var": reduction(spread), "where": chosen
}  # fmt: skip
