"""Comparisons, logic and bits: results without a derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax, numpy as jnp

from functrace.ir import Atom, Aval, Builder
from functrace.primitives.elementwise import BOOL, C64, F32, I32, Formula, binary, unary, undoing

U32 = np.dtype(np.uint32)
ORDERED = (F32, I32)
INTEGERS = (I32, U32)
LOGICAL = (BOOL, I32)
# What the total order tells apart: both zeros, and what is not a number.
EDGES = [(np.array([0.0, np.nan, 1.0], np.float32), np.array([-0.0, np.nan, np.inf], np.float32))]


class _Predicate(Formula):
    """An elementwise function with boolean results."""

    def out_dtype(self, *xs: Aval) -> Any:
        super().out_dtype(*xs)
        return BOOL


def comparison(name: str, lower: Callable[..., Any], **how: Any) -> Formula:
    """An elementwise relation of two operands of one dtype."""
    how = {"dtypes": ORDERED, "edges": EDGES, **how}
    return _Predicate(name, lower, (None, None), **how)


def _total(jax_primitive: Any) -> Callable[..., Any]:
    """The lowering of a comparison in the total order of floats, which `jax.lax` has no function for."""

    def lower(x: Any, y: Any) -> Any:
        dtype = jnp.result_type(x, y)
        return jax_primitive.bind(*jnp.broadcast_arrays(jnp.asarray(x, dtype), jnp.asarray(y, dtype)))

    return lower


eq = comparison("eq", lax.eq, commutative=True, fold=np.equal, dtypes=(F32, I32, BOOL, C64))
ne = comparison("ne", lax.ne, commutative=True, fold=np.not_equal, dtypes=(F32, I32, BOOL, C64))
lt = comparison("lt", lax.lt, fold=np.less)
le = comparison("le", lax.le, fold=np.less_equal)
gt = comparison("gt", lax.gt, fold=np.greater)
ge = comparison("ge", lax.ge, fold=np.greater_equal)
eq_to = comparison("eq_to", _total(lax.eq_to_p), commutative=True)
lt_to = comparison("lt_to", _total(lax.lt_to_p))
le_to = comparison("le_to", _total(lax.le_to_p))
is_finite = _Predicate("is_finite", lax.is_finite, (None,), edges=[(np.array([1.0, np.inf, np.nan], np.float32),)])


def _absorbing(name: str, dual: str) -> Callable[..., Atom | None]:
    """How "and" and "or" simplify: x or x, and x or (x and y), are x; x or (x or y) is x or y."""

    def simplify(b: Builder, x: Atom, y: Atom) -> Atom | None:
        if x is y:
            return x
        for one, other in ((x, y), (y, x)):
            made = b.definition(one)
            if made is not None and other in made.inputs:
                if made.primitive.name == name:
                    return one
                if made.primitive.name == dual and other.aval is one.aval:
                    return other
        return None

    return simplify


logical_and = binary(
    "and", lax.bitwise_and, None, None, commutative=True, dtypes=LOGICAL, simplify=_absorbing("and", "or")
)
logical_or = binary(
    "or", lax.bitwise_or, None, None, commutative=True, dtypes=LOGICAL, simplify=_absorbing("or", "and")
)
logical_xor = binary("xor", lax.bitwise_xor, None, None, commutative=True, dtypes=LOGICAL)
logical_not = unary("not", lax.bitwise_not, None, dtypes=LOGICAL, simplify=undoing("not"))

SHIFTS = [(np.array([-9, 5, 1], np.int32), np.array([1, 3, 40], np.int32))]
shift_left = binary("shift_left", lax.shift_left, None, None, dtypes=INTEGERS, edges=SHIFTS)
shift_right_arithmetic = binary(
    "shift_right_arithmetic", lax.shift_right_arithmetic, None, None, dtypes=INTEGERS, edges=SHIFTS
)
shift_right_logical = binary("shift_right_logical", lax.shift_right_logical, None, None, dtypes=INTEGERS, edges=SHIFTS)
population_count = unary("population_count", lax.population_count, None, dtypes=INTEGERS)
clz = unary("clz", lax.clz, None, dtypes=INTEGERS)
mulhi = binary("mulhi", lax.mulhi, None, None, commutative=True, dtypes=INTEGERS)
