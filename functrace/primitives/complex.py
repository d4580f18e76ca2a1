"""Complex numbers and their parts, absolute value and sign.

Transposes are those of the pairing <v, w> = Re sum v * w, which does not conjugate; this is JAX's
convention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Primitive, Undefined
from functrace.ir.aval import is_complex
from functrace.primitives.binary import one_for_zero
from functrace.primitives.comparison import ge
from functrace.primitives.elementwise import (
    C64,
    F32,
    I32,
    ConvertElementType,
    Formula,
    convert_element_type,
    literal,
    mul,
    neg,
    undoing,
)
from functrace.primitives.quotients import div
from functrace.primitives.selection import where
from functrace.primitives.space import broadcast_to, unbroadcast

C128 = np.dtype(np.complex128)
F64 = np.dtype(np.float64)
COMPLEX_OF = {F32: C64, F64: C128}
REAL_OF = {C64: F32, C128: F64}


class _Part(Formula):
    """real, imag: a real result of a complex operand."""

    def out_dtype(self, *xs: Aval) -> Any:
        if xs[0].dtype not in REAL_OF:
            raise ShapeError(f"{self.name}: the operand must be complex, got {xs[0]}")
        return REAL_OF[xs[0].dtype]

    def transpose(self, ct: Any, *xs: Any) -> Any:
        zero = literal(0, ct.aval)
        return [complex_(ct, zero) if self is real else complex_(zero, neg(ct))]


def _simplify_part(index: int) -> Any:
    def simplify(b: Builder, x: Atom) -> Atom | None:
        made = b.definition(x)
        if made is None or made.primitive is not complex_:
            return None
        part = made.inputs[index]
        return part if part.aval.shape == x.aval.shape else None

    return simplify


class _Complex(Formula):
    """complex: real and imaginary part together, linear in both jointly."""

    locally_linear = True

    def out_dtype(self, *xs: Aval) -> Any:
        dtype = super().out_dtype(*xs)
        if dtype not in COMPLEX_OF:
            raise ShapeError(f"complex: the parts must be f32 or f64, got {', '.join(map(str, xs))}")
        return COMPLEX_OF[dtype]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        if dxs[0] is None and dxs[1] is None:
            return y, None
        parts = [literal(0, x.aval) if dx is None else dx for x, dx in zip(xs, dxs, strict=True)]
        return y, broadcast_to(self(*parts), y.aval.shape)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        parts = (real(ct), neg(imag(ct)))
        return [
            unbroadcast(part, x.aval) if isinstance(x, Undefined) else None for part, x in zip(parts, xs, strict=True)
        ]


class _Conj(Formula):
    """conj: of a complex operand; JAX's of a real one is a conversion."""

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), None if dxs[0] is None else self(dxs[0])

    def transpose(self, ct: Any, *xs: Any) -> Any:
        return [self(ct)]

    def from_jax(self, params: dict[str, Any], avals: Sequence[Aval]) -> Primitive | None:
        (x,) = avals
        return self if is_complex(x.dtype) else ConvertElementType(COMPLEX_OF[x.dtype], x.weak_type)


real = _Part("real", lax.real, (None,), linear_in=(0,), simplify=_simplify_part(0), dtypes=(C64,))
imag = _Part("imag", lax.imag, (None,), linear_in=(0,), simplify=_simplify_part(1), dtypes=(C64,))
complex_ = _Complex("complex", lax.complex, (None, None), linear_in=(0, 1))
conj = _Conj("conj", lax.conj, (None,), linear_in=(0,), simplify=undoing("conj"), dtypes=(C64,))
conj.analytic = False


class _Abs(Formula):
    """abs: of a complex operand it is real; its slope at a real zero is 1."""

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return None if is_complex(xs[0].aval.dtype) else super().series(xs, ys)

    def out_dtype(self, *xs: Aval) -> Any:
        return REAL_OF.get(xs[0].dtype, xs[0].dtype)

    def term(self, i: int, dx: Atom, xs: Any, y: Any) -> Any:
        (x,) = xs
        if not is_complex(x.aval.dtype):
            return mul(dx, where(ge(x, 0), literal(1, x.aval), -1))
        size = convert_element_type(one_for_zero(y), x.aval.dtype)
        return real(mul(dx, div(conj(x), size)))


abs_ = _Abs(
    "abs",
    lax.abs,
    (None,),
    fold=np.abs,
    dtypes=(F32, C64, I32),
    edges=[(np.array([0.0, -0.0], np.float32),), (np.array([0, 1j], np.complex64),)],
)



class _Sign(Formula):
    """sign: constant on both sides of 0; of a complex operand z / |z|, which moves along the circle."""

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return None if is_complex(xs[0].aval.dtype) else super().series(xs, ys)

    analytic = False

    def term(self, i: int, dx: Atom, xs: Any, y: Any) -> Any:
        (x,) = xs
        if not is_complex(x.aval.dtype):
            return None
        angle = div(imag(mul(conj(y), dx)), one_for_zero(abs_(x)))
        return mul(y, complex_(literal(0, angle.aval), angle))


# No complex samples: the older versions of JAX take the derivative to be 0.
sign = _Sign("sign", lax.sign, (None,), dtypes=(F32, I32), edges=[(np.array([0.0, -0.0], np.float32),)])

__all__ = ["abs_", "complex_", "conj", "imag", "real", "sign"]
