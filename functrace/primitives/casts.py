"""The same values in another representation: bits, precision, copies, and constants to derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax, numpy as jnp

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Primitive, Sample, Work
from functrace.ir.primitive import primitive
from functrace.primitives.elementwise import F32, I32, Elementwise, Formula, unary

U8, U16, U32 = (np.dtype(t) for t in (np.uint8, np.uint16, np.uint32))


@primitive
class ReducePrecision(Elementwise):
    """Rounded to a float format of fewer bits. As in JAX, its derivative rounds the tangent."""

    name = "reduce_precision"
    jax_names = ("reduce_precision",)
    exponent_bits: int
    mantissa_bits: int
    linear_in = (0,)

    def samples(self) -> Iterator[Sample]:
        yield Sample(ReducePrecision(8, 7), (Aval((3,), F32),), differentiable=False)
        yield Sample(ReducePrecision(5, 10), (Aval((), F32),), differentiable=False)

    def lower(self, x: Any) -> Any:
        return lax.reduce_precision(x, self.exponent_bits, self.mantissa_bits)

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> ReducePrecision:
        return cls(int(params["exponent_bits"]), int(params["mantissa_bits"]))


@primitive
class BitcastConvertType(Primitive):
    """The bits read as another dtype; a trailing axis takes up the difference of widths."""

    name = "bitcast_convert_type"
    work_each = Work(0)
    jax_names = ("bitcast_convert_type",)
    new_dtype: Any

    def samples(self) -> Iterator[Sample]:
        yield Sample(BitcastConvertType(I32), (Aval((3,), F32),), differentiable=False)
        yield Sample(BitcastConvertType(U16), (Aval((2, 3), F32),), differentiable=False)
        yield Sample(BitcastConvertType(F32), (Aval((3,), U32),), differentiable=False)
        yield Sample(BitcastConvertType(U32), (Aval((3, 4), U8),), differentiable=False)

    def shape(self, x: Aval) -> Aval:
        old, new = x.dtype.itemsize, self.new_dtype.itemsize
        if old == new:
            return Aval(x.shape, self.new_dtype)
        if old > new:
            return Aval((*x.shape, old // new), self.new_dtype)
        if not x.shape or x.shape[-1] != new // old:
            raise ShapeError(
                f"bitcast_convert_type: the last axis of {x} must have {new // old} elements to become "
                f"one of {self.new_dtype}"
            )
        return Aval(x.shape[:-1], self.new_dtype)

    def lower(self, x: Any) -> Any:
        return lax.bitcast_convert_type(x, self.new_dtype)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), None

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(*xs), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> BitcastConvertType | None:
        dtype = np.dtype(params["new_dtype"])
        # Types of four bits share bytes, and their width is not their itemsize.
        narrow = any("int4" in d.name or "int2" in d.name for d in (dtype, avals[0].dtype))
        return None if narrow else cls(dtype)


def bitcast_convert_type(x: Atom, dtype: Any) -> Atom:
    """The bits of `x` as another dtype."""
    return BitcastConvertType(np.dtype(dtype))(x)


def reduce_precision(x: Atom, exponent_bits: int, mantissa_bits: int) -> Atom:
    """`x` rounded to a float format."""
    return ReducePrecision(exponent_bits, mantissa_bits)(x)


copy = unary("copy", lambda x: lax.copy_p.bind(jnp.asarray(x)), None, linear_in=(0,), dtypes=(F32, I32), takes=(0, 0))


class _StopGradient(Formula):
    """The identity, constant to every derivative."""

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), None


stop_gradient = _StopGradient(
    "stop_gradient", lax.stop_gradient, (None,), differentiable=False, dtypes=(F32, I32), takes=(0, 0)
)

__all__ = [
    "BitcastConvertType", "ReducePrecision", "bitcast_convert_type", "copy", "reduce_precision",
    "stop_gradient",
]  # fmt: skip
