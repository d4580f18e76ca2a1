"""What is known of numbers from how they are made: whether they are finite, and on which side of zero.

A sum of squares and a small number, as in a norm, is above zero: what is divided by it has met no pole.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from jax import numpy as jnp

from functrace.ir import Atom, Equation, Literal, ambient

UNKNOWN, NOT_NEGATIVE, POSITIVE = range(3)
# What the last operand of a primitive is to be where its pole is out of reach.
AWAY = {"div": POSITIVE, "integer_pow": POSITIVE, "log": POSITIVE, "log1p": NOT_NEGATIVE, "rsqrt": POSITIVE}
ORDERS = 3  # a number is above zero if its inverse to this power, as slopes of a few orders have it, is a number too
DEEPEST = 8  # equations that are looked at one behind the other


def is_mild(x: Atom, depth: int = 3) -> bool:
    """Whether zero times `x`, or divided by it, is surely zero: it is a finite number, or a choice of such."""
    if type(x) is Literal:
        return x.aval.kind == "b" or (bool(np.isfinite(x.value)) and x.value != 0)
    made = ambient().definition(x)
    return x.aval.kind == "b" or bool(
        depth and made is not None and made.primitive.picks and all([is_mild(v, depth - 1) for v in made.inputs])
    )


def meets_pole(eqn: Equation) -> bool:
    """Whether an equation may make an infinity of ordinary numbers, by all that is seen of its operands."""
    if not eqn.primitive.has_pole:
        return False
    away = AWAY.get(eqn.primitive.name)
    return away is None or sign(eqn.inputs[-1]) < away


def is_least(eqn: Equation, x: Atom) -> bool:
    """Whether `x` is the -inf of a maximum, which takes the other operand."""
    return eqn.primitive.name == "max" and type(x) is Literal and bool(np.all(x.value == -np.inf))


@cache
def nearest(dtype: Any) -> float:
    """How near to zero a number of this type may be that is above zero; 1e-13 in float32."""
    return float(jnp.finfo(dtype).max) ** (-1 / ORDERS) if jnp.issubdtype(dtype, np.floating) else 1


def sign(x: Atom, depth: int = DEEPEST) -> int:
    """On which side of zero `x` is, if its own operands are numbers at all."""
    if x.aval.kind in ("c", "key"):
        return UNKNOWN
    if type(x) is Literal:
        least = np.min(x.value)
        return POSITIVE if least >= nearest(x.aval.dtype) else NOT_NEGATIVE if least >= 0 else UNKNOWN
    made = ambient().definition(x)
    if made is None or not depth:
        return UNKNOWN
    prim, xs = made.primitive, [v for v in made.inputs if v.aval.kind != "b"]
    name: str = prim.name
    if name in ("abs", "exp", "logistic", "square") or (name == "mul" and xs[0] is xs[1]):
        return NOT_NEGATIVE
    if name == "reduce_sum" and holds_one(made):
        return POSITIVE
    signs = [sign(v, depth - 1) for v in xs]
    low, high = min(signs, default=UNKNOWN), max(signs, default=UNKNOWN)
    if name == "integer_pow":
        return NOT_NEGATIVE if prim.params["exponent"] % 2 == 0 else min(low, NOT_NEGATIVE)
    if name == "add":
        return high if low else UNKNOWN
    if name in ("mul", "div"):
        return min(low, NOT_NEGATIVE)
    if name == "max":
        return high
    if name in ("min", "sqrt", "reduce_sum", "reduce_max", "reduce_min") or prim.picks:
        return low
    return low if prim.keeps_values and name != "neg" else UNKNOWN


def holds_one(total: Equation) -> bool:
    """Whether a sum is of exp(u - max u), of which one is 1."""
    ones = ambient().definition(total.inputs[0])
    difference = ones and ones.primitive.name == "exp" and ambient().definition(ones.inputs[0])
    if not difference or difference.primitive.name != "sub":
        return False
    u, greatest = difference.inputs
    made = ambient().definition(plain(greatest, "reshape"))
    if made is None or made.primitive.name != "reduce_max" or plain(made.inputs[0]) is not plain(u):
        return False
    axes, shape = made.params["axes"], greatest.aval.shape
    stands = not shape or (len(shape) == u.aval.ndim and all([shape[a] == 1 for a in axes]))  # beside what it is of
    return stands and set(total.params["axes"]).issuperset(axes)


def plain(x: Atom, *makers: str) -> Atom:
    """`x` before it was taken without its derivative, made no less than -inf, or made by one of these."""
    while (made := ambient().definition(x)) is not None and made.inputs:
        if is_least(made, made.inputs[0]):
            x = made.inputs[1]
        elif made.primitive.name in ("stop_gradient", *makers):
            x = made.inputs[0]
        else:
            break
    return x
