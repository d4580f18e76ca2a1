"""Abstract values: the type of an array, `dtype[shape]`, and its text."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

ABBREVIATIONS: dict[str, str] = {
    "bool": "bool",
    **{f"{kind}{bits}": f"{kind[0]}{bits}" for kind in ("int", "uint") for bits in (4, 8, 16, 32, 64)},
    **{f"float{bits}": f"f{bits}" for bits in (16, 32, 64)},
    "bfloat16": "bf16",
    "complex64": "c64",
    "complex128": "c128",
}
NARROW = ("int2", "uint2", "int4", "uint4", "float4_e2m1fn")  # than a byte, or another one of ml_dtypes'
DTYPES = {
    short: np.dtype(getattr(ml_dtypes, name, None) or name) for name, short in ABBREVIATIONS.items()
} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in dir(ml_dtypes)
    if name not in ABBREVIATIONS and (name in NARROW or name.startswith(("float8", "float6")))
}  # fmt: skip


class Aval:
    """Shape and dtype of an array, with no data. Interned: equal avals are the same object.

    `weak_type` marks the type of a Python scalar, which gives way to its partner's dtype.

    >>> Aval((8, 16), np.float32), Aval((3,), np.float32) is Aval((3,), np.float32)
    (f32[8,16], True)
    """

    __slots__ = ("dtype", "is_inexact", "kind", "shape", "size", "weak_type")
    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool
    is_inexact: bool
    kind: str  # the letter of the dtype's kind, as NumPy has it; "key" of random keys
    size: int  # number of elements
    _interned: ClassVar[dict[Any, Aval]] = {}

    def __new__(cls, shape: tuple[int, ...], dtype: Any, weak_type: bool = False) -> Aval:
        key = (shape, dtype, weak_type)
        found = cls._interned.get(key)
        if found is not None:
            return found
        # Extended dtypes (random keys) are objects of the backend's own; all others are NumPy's.
        if not hasattr(dtype, "_rules"):
            dtype = np.dtype(dtype)
        canonical = (tuple(int(n) for n in shape), dtype, bool(weak_type))
        self = cls._interned.get(canonical)
        if self is None:
            self = object.__new__(cls)
            self.shape, self.dtype, self.weak_type = canonical
            self.is_inexact = is_inexact(dtype)
            self.kind = getattr(dtype, "kind", "key")
            self.size = prod(self.shape)
            self = cls._interned.setdefault(canonical, self)
        if len(cls._interned) < 100_000:
            cls._interned[key] = self
        return self

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of an array of this type."""
        return self.size * self.dtype.itemsize

    def with_shape(self, shape: tuple[int, ...]) -> Aval:
        """The same dtype with another shape."""
        return Aval(shape, self.dtype, self.weak_type)

    def with_dtype(self, dtype: Any, weak_type: bool = False) -> Aval:
        """The same shape with another dtype."""
        return Aval(self.shape, dtype, weak_type)

    def strong(self) -> Aval:
        """The same type without weakness."""
        return Aval(self.shape, self.dtype) if self.weak_type else self

    def matches(self, other: Aval) -> bool:
        """Equal shape and dtype, weak or not."""
        return self is other or (self.shape == other.shape and self.dtype == other.dtype)

    def __repr__(self) -> str:
        dims = ",".join(map(str, self.shape))
        return f"{dtype_text(self.dtype)}[{dims}]{'~' if self.weak_type else ''}"

    def __reduce__(self) -> Any:
        return Aval, (self.shape, self.dtype, self.weak_type)


def dtype_text(dtype: Any) -> str:
    """The short name of a dtype: `f32`, `bf16`, `i8`, `bool`, `c64`."""
    return ABBREVIATIONS.get(dtype.name, str(dtype.name))


def is_inexact(dtype: Any) -> bool:
    """Whether values of this dtype have derivatives: floating or complex."""
    kind = getattr(dtype, "kind", None)
    if kind in ("f", "c"):
        return True
    name = getattr(dtype, "name", "")
    return kind == "V" and (name.startswith(("bfloat", "float")))


def is_complex(dtype: Any) -> bool:
    """Whether values of this dtype are complex."""
    return getattr(dtype, "kind", None) == "c"
