"""A fence: XLA must not find out that a computation has been done before, nor do it early.

`lax.optimization_barrier` is one, but XLA for CPU takes it away before it looks for equal computations (up to
the version in jax 0.10; later ones keep it). There the computation is the branch of a conditional that is always
taken, which XLA cannot know: it depends on a value, and none is below minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax, numpy as jnp

from functrace.ir import Program
from functrace.lower.evaluate import evaluate
from functrace.lower.staging import staged


def fenced(program: Program, xs: Sequence[Any]) -> list[Any]:
    """The outputs of a Program, computed once all its operands are there, whatever was computed before."""
    xs = [jnp.asarray(x) for x in xs]
    asked = [i for i, x in enumerate(xs) if x.size and jnp.issubdtype(x.dtype, np.inexact)]
    if not asked:
        return evaluate(program, xs)

    def behind_branch(*xs: Any) -> list[Any]:
        value = jnp.real(xs[asked[-1]].ravel()[0])
        return lax.cond(value < -np.inf, absent, compute, *xs)

    def absent(*xs: Any) -> list[Any]:
        return [jnp.zeros(v.aval.shape, v.aval.dtype) for v in program.outputs]

    def compute(*xs: Any) -> list[Any]:
        return [strong(y, v.aval) for y, v in zip(staged(program, xs), program.outputs, strict=True)]

    def behind_barrier(*xs: Any) -> list[Any]:
        return compute(*lax.optimization_barrier(xs))

    return lax.platform_dependent(*xs, cpu=behind_branch, default=behind_barrier)


def strong(y: Any, aval: Any) -> Any:
    """`y` with the strong type that all ways to compute it must share."""
    return lax.convert_element_type(y, aval.dtype) if jax.typeof(y).weak_type else jnp.asarray(y)
