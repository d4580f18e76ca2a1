"""Comparisons and logic: results without a derivative."""

from __future__ import annotations

import numpy as np
from jax import lax

from functrace.ir import Aval
from functrace.primitives.elementwise import BOOL, I32, binary, unary


def _boolean(*xs: Aval) -> np.dtype:
    return BOOL


INTEGERS = (I32, BOOL)

eq = binary("eq", lax.eq, None, None, commutative=True, out_dtype=_boolean)
ne = binary("ne", lax.ne, None, None, commutative=True, out_dtype=_boolean)
lt = binary("lt", lax.lt, None, None, out_dtype=_boolean)
le = binary("le", lax.le, None, None, out_dtype=_boolean)
gt = binary("gt", lax.gt, None, None, out_dtype=_boolean)
ge = binary("ge", lax.ge, None, None, out_dtype=_boolean)
logical_and = binary("and", lax.bitwise_and, None, None, commutative=True, dtypes=INTEGERS)
logical_or = binary("or", lax.bitwise_or, None, None, commutative=True, dtypes=INTEGERS)
logical_xor = binary("xor", lax.bitwise_xor, None, None, commutative=True, dtypes=INTEGERS)
logical_not = unary("not", lax.bitwise_not, None, dtypes=INTEGERS)
