"""Arrays written out in a Program's text: the constants of rules, which a Program cannot close over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import numpy as jnp

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Primitive, Sample, Work, primitive
from functrace.primitives.elementwise import BOOL, C64, F32


@primitive
class Constant(Primitive):
    """The array whose bytes, row by row and in little-endian order, are `data` in hexadecimal."""

    name = "constant"
    work_each = Work(0)
    dtype: Any
    new_shape: tuple[int, ...]
    data: str

    def samples(self) -> Iterator[Sample]:
        for values in ([[1.5, np.nan], [-0.0, np.inf]], [], [1.0 + 2.0j]):
            dtype = C64 if values and isinstance(values[0], complex) else F32
            yield Sample(of_array(np.array(values, dtype)), ())
        yield Sample(of_array(np.array([True, False], BOOL)), ())

    def shape(self, *xs: Aval) -> Aval:
        y = Aval(self.new_shape, self.dtype)
        if 2 * y.nbytes != len(self.data):
            raise ShapeError(f"constant: {y} has {y.nbytes} bytes, data has {len(self.data) // 2}")
        return y

    def lower(self, *xs: Any) -> Any:
        array = np.frombuffer(bytes.fromhex(self.data), self.dtype).reshape(self.new_shape)
        return jnp.asarray(array)


def of_array(array: np.ndarray[Any, Any]) -> Constant:
    """The primitive that gives this array."""
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.kind in "fciu" else array
    return Constant(array.dtype, array.shape, little.tobytes().hex())


def constant(array: np.ndarray[Any, Any]) -> Atom:
    """An array as an equation of the Program."""
    return of_array(array)()
