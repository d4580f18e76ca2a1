"""Program -> JAX: apply each equation's lowering to arrays or to JAX's tracers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from functrace.ir import Literal, Program, Var
from functrace.lower.fusion import computed_once, unknown_ones


def literal_value(x: Literal) -> Any:
    """What `jax.lax` is handed for a literal: a Python number where that keeps it weakly typed."""
    if x.aval.weak_type and x.aval.kind in "fic":
        kind = {"f": float, "i": int, "c": complex}[x.aval.kind]
        if jax.dtypes.canonicalize_dtype(np.dtype(kind)) == x.aval.dtype:
            return kind(x.value)
    return x.value


def weakly_typed(x: Any) -> Any:
    """An array whose type gives way to its partner's, as a Python number's does."""
    return lax.convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)


def evaluate(program: Program, values: Sequence[Any], once: frozenset[Var] = frozenset()) -> list[Any]:
    """The outputs of `program` at `values`, equation by equation; no kernel computes those in `once` again."""
    ones = unknown_ones(once, values) if once else {}
    env: dict[Any, Any] = dict(zip(program.inputs, values, strict=True))
    literals: dict[Literal, Any] = {}

    def read(x: Any) -> Any:
        if type(x) is not Literal:
            return env[x]
        if x not in literals:
            literals[x] = literal_value(x)
        return literals[x]

    for eqn in program.equations:
        primitive = eqn.primitive
        ys = primitive.lower(*[read(x) for x in eqn.inputs])
        if primitive.multiple_results:
            env.update(zip(eqn.outputs, ys, strict=True))
        else:
            env[eqn.outputs[0]] = ys
        if ones:
            env.update([(v, computed_once(env[v], ones[v.aval.dtype])) for v in eqn.outputs if v in once])
    # JAX makes strong types of loops and branches whose state is a number.
    outputs = [(read(x), x.aval.weak_type) for x in program.outputs]
    return [weakly_typed(y) if is_weak and not jax.typeof(y).weak_type else y for y, is_weak in outputs]


def at_once(function: Callable[..., Any], *values: Any) -> Any:
    """`function(*values)` as NumPy arrays, computed now even while JAX is tracing."""
    with jax.ensure_compile_time_eval():
        return jax.tree_util.tree_map(np.asarray, function(*values))
