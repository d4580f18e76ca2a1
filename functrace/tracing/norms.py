"""Norms and standard deviations: jax.numpy's, with derivatives where theirs are 0 / 0."""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import jax.numpy as jnp

from functrace.ir import is_complex
from functrace.ir.primitive import open_builder
from functrace.primitives import norms
from functrace.primitives.space import reshape
from functrace.tracing.lift import lift
from functrace.tracing.tracer import Tracer, atom_of

jax_norm, jax_std, jax_hypot = lift(jnp.linalg.norm), lift(jnp.std), lift(jnp.hypot)
stacked = lift(lambda x, y: jnp.stack([v.astype(jnp.result_type(x, y)) for v in jnp.broadcast_arrays(x, y)]), "hypot")
jax_vector_norm, jax_matrix_norm = lift(jnp.linalg.vector_norm), lift(jnp.linalg.matrix_norm)
absolute, mean, astype = lift(jnp.abs), lift(jnp.mean), lift(jnp.astype)


def power_norm(x: Any, p: float, axis: Any, keepdims: bool) -> Any:
    """The p-norm; at 0 the root, whose slope is infinite there, is not taken."""
    total = jnp.sum(jnp.abs(x) ** p, axis, keepdims=keepdims)
    return jnp.where(total == 0, 0, total ** (1 / p))


lifted_power_norm = lift(power_norm, "norm")


@wraps(jnp.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    axes = axes_of(x, axis)
    if axes and (ord is None or (ord == "fro" and len(axes) == 2) or (ord == 2 and len(axes) == 1)):
        return root_of_squares(x, axes, keepdims)
    if axes and len(axes) == 1 and isinstance(ord, int | float) and 1 < ord < math.inf:
        return lifted_power_norm(x, float(ord), axes[0], keepdims)
    return jax_norm(x, ord, axis, keepdims)


@wraps(jnp.linalg.vector_norm)
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    axes = axes_of(x, axis)
    if axes and ord == 2:
        return root_of_squares(x, axes, keepdims)
    return jax_vector_norm(x, axis=axis, keepdims=keepdims, ord=ord)


@wraps(jnp.linalg.matrix_norm)
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    axes = axes_of(x, (-2, -1))
    if axes and ord == "fro":
        return root_of_squares(x, axes, keepdims)
    return jax_matrix_norm(x, keepdims=keepdims, ord=ord)


@wraps(jnp.hypot)
def hypot(x1: Any, x2: Any, /) -> Any:
    both: Any = stacked(x1, x2) if type(x1) is Tracer or type(x2) is Tracer else None
    if not axes_of(both, 0) or is_complex(both.dtype):
        return jax_hypot(x1, x2)
    return root_of_squares(both, (0,), False)


@wraps(jnp.std)
def std(
    a: Any, axis: Any = None, dtype: Any = None, out: None = None, ddof: int = 0, keepdims: bool = False, **how: Any
) -> Any:
    axes = axes_of(a, axis)
    count = math.prod([a.shape[i] for i in axes]) - ddof if axes else 0
    if dtype is not None or out is not None or how or count <= 0:
        return jax_std(a, axis, dtype, out, ddof, keepdims, **how)
    wide = a if a.dtype.itemsize >= 4 else astype(a, jnp.float32)
    return astype(root_of_squares(wide - mean(wide, axes, keepdims=True), axes, keepdims, count), absolute(a).dtype)


def axes_of(x: Any, axis: Any) -> tuple[int, ...]:
    """The axes of a floating tracer with elements; none of anything else, or if they are not axes of it."""
    if type(x) is not Tracer or not x.aval.is_inexact or not x.aval.size:
        return ()
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    if not all([isinstance(i, int) and -x.ndim <= i < x.ndim for i in axes]):
        return ()
    return tuple(sorted({i % x.ndim for i in axes}))


def root_of_squares(x: Tracer, axes: tuple[int, ...], keepdims: bool, count: float = 1) -> Tracer:
    """`sqrt(sum(|x| ** 2) / count)` over axes."""
    builder = open_builder()
    x = absolute(x) if is_complex(x.dtype) else x
    assert builder is not None  # there is a tracer
    y = norms.norm(atom_of(x, builder), axes, count)
    if keepdims:
        y = reshape(y, tuple([1 if i in axes else n for i, n in enumerate(x.shape)]))
    return Tracer(y, builder)
