"""Tracer's operators and methods: the table of jax.Array's.

Operators on operands of one element type, or with a Python scalar that the type absorbs, are recorded
directly, as are the calls in `tracing/direct.py`; everything else goes through the lifted jax.numpy function.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from functrace.ir.primitive import open_builder
from functrace.primitives import add, div, mul, neg, sub
from functrace.primitives.comparison import eq, ge, gt, le, lt, ne
from functrace.primitives.stacking import unstack
from functrace.primitives.unary import integer_pow
from functrace.tracing.direct import ANY, DIRECT, FLOAT, ORDERED, level, literal_like
from functrace.tracing.indexing import static_index
from functrace.tracing.lift import lift
from functrace.tracing.norms import std
from functrace.tracing.tracer import Tracer, atom_of


def direct(prim: Any, kinds: str, lifted: Callable[..., Any]) -> tuple[Any, Any]:
    """An operator and its reflection: one equation where it can be, else the lifted function."""

    def forward(x: Tracer, y: Any) -> Any:
        builder = open_builder()
        if builder is not None and (aval := x.atom.aval).kind in kinds:
            a = x.atom if x.builder is builder else atom_of(x, builder)
            if type(y) is Tracer:
                b = y.atom if y.builder is builder else atom_of(y, builder)
                if b.aval is aval:
                    return Tracer(builder.emit(prim, (a, b))[0], builder)
                if (operands := level(a, b)) is not None:
                    return Tracer(builder.emit(prim, operands)[0], builder)
            elif (scalar := literal_like(y, aval)) is not None:
                return Tracer(builder.emit(prim, (a, scalar))[0], builder)
        if not is_arraylike(y):
            return NotImplemented
        return lifted(x, y)

    def reflected(x: Tracer, y: Any) -> Any:
        builder = open_builder()
        if builder is not None and x.atom.aval.kind in kinds:
            scalar = literal_like(y, x.atom.aval)
            if scalar is not None:
                return Tracer(builder.emit(prim, (scalar, atom_of(x, builder)))[0], builder)
        if not is_arraylike(y):
            return NotImplemented
        return lifted(y, x)

    return forward, reflected


def is_arraylike(y: Any) -> bool:
    """Whether an operator takes `y`; lists and strings are not taken, as in JAX."""
    return isinstance(y, Tracer | int | float | complex | np.generic | np.ndarray) or hasattr(
        y, "__jax_array__"
    ) or hasattr(y, "aval")


def power(x: Tracer, y: Any) -> Any:
    """`x ** y`; a small integer exponent is one integer_pow."""
    builder = open_builder()
    if type(y) is int and builder is not None and x.atom.aval.is_inexact and abs(y) < 1000:
        return Tracer(integer_pow(atom_of(x, builder), y), builder)
    return lift_power(x, y) if is_arraylike(y) else NotImplemented


lift_power = lift(operator.pow, "power")


def reflected_lift(fun: Callable[..., Any], name: str) -> Any:
    """`y op x` through the lifted function."""
    lifted = lift(fun, name, DIRECT.get(name))
    return lambda x, y: lifted(y, x) if is_arraylike(y) else NotImplemented


def plain_lift(fun: Callable[..., Any], name: str) -> Any:
    """`x op y` through the lifted function."""
    lifted = lift(fun, name, DIRECT.get(name))
    return lambda x, y: lifted(x, y) if is_arraylike(y) else NotImplemented


def _negative(x: Tracer) -> Any:
    builder = open_builder()
    if builder is not None and x.atom.aval.kind in ANY:
        return Tracer(neg(atom_of(x, builder)), builder)
    return lift(jnp.negative)(x)


ARITHMETIC = {
    "add": (add, ANY, jnp.add),
    "sub": (sub, ANY, jnp.subtract),
    "mul": (mul, ANY, jnp.multiply),
    "truediv": (div, FLOAT, jnp.true_divide),
}
UFUNCS: dict[Any, Any] = {}  # NumPy's functions that are operators, with two of a tracer's
for _name, (_prim, _kinds, _fun) in ARITHMETIC.items():
    _forward, _reflected = direct(_prim, _kinds, lift(_fun, _name))
    UFUNCS[getattr(np, _fun.__name__)] = _forward, _reflected
    setattr(Tracer, f"__{_name}__", _forward)
    setattr(Tracer, f"__r{_name}__", _reflected)

COMPARISONS = {
    "lt": (lt, ORDERED, jnp.less), "le": (le, ORDERED, jnp.less_equal), "gt": (gt, ORDERED, jnp.greater),
    "ge": (ge, ORDERED, jnp.greater_equal), "eq": (eq, ANY, jnp.equal), "ne": (ne, ANY, jnp.not_equal),
}  # fmt: skip
for _name, (_prim, _kinds, _fun) in COMPARISONS.items():
    setattr(Tracer, f"__{_name}__", direct(_prim, _kinds, lift(_fun, _name))[0])

LIFTED_OPERATORS = {
    "mod": jnp.remainder, "floordiv": jnp.floor_divide, "divmod": jnp.divmod, "matmul": jnp.matmul,
    "and": jnp.bitwise_and, "or": jnp.bitwise_or, "xor": jnp.bitwise_xor,
    "lshift": jnp.left_shift, "rshift": jnp.right_shift,
}  # fmt: skip
for _name, _fun in LIFTED_OPERATORS.items():
    setattr(Tracer, f"__{_name}__", plain_lift(_fun, _name))
    setattr(Tracer, f"__r{_name}__", reflected_lift(_fun, _name))

Tracer.__pow__ = power  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__rpow__ = reflected_lift(operator.pow, "power")  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__neg__ = _negative  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__pos__ = lambda x: x  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__abs__ = lift(jnp.abs)  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__invert__ = lift(jnp.invert)  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__round__ = lift(lambda x, ndigits=None: jnp.round(x, ndigits or 0), "round")  # pyright: ignore[reportAttributeAccessIssue]


lifted_getitem = lift(operator.getitem, "indexing")


def _getitem(x: Tracer, index: Any) -> Any:
    builder = open_builder()
    y = None if builder is None else static_index(atom_of(x, builder), index)
    return lifted_getitem(x, index) if y is None or builder is None else Tracer(y, builder)


Tracer.__getitem__ = _getitem  # pyright: ignore[reportAttributeAccessIssue]


def _iterate(x: Tracer) -> Any:
    if not x.shape:
        raise TypeError("iteration over a scalar tracer")
    builder = open_builder()
    if builder is not None:
        return iter([Tracer(y, builder) for y in unstack(atom_of(x, builder), 0)])
    return iter([lifted_getitem(x, i) for i in range(x.shape[0])])


Tracer.__iter__ = _iterate  # pyright: ignore[reportAttributeAccessIssue]

METHODS = (
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "choose", "clip", "compress",
    "conj", "conjugate", "cumprod", "cumsum", "diagonal", "dot", "flatten", "max", "mean", "min", "nonzero",
    "prod", "ptp", "ravel", "repeat", "reshape", "round", "searchsorted", "sort", "squeeze", "sum",
    "swapaxes", "take", "trace", "transpose", "var", "view",
)  # fmt: skip
PROPERTIES = ["T", "mT", "real", "imag"]


def method(name: str) -> Any:
    """jax.Array's method of this name, lifted."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    lifted = lift(call, name, DIRECT.get(name))

    def bound(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        return lifted(self, *args, **kwargs)

    bound.__name__ = name
    bound.__doc__ = getattr(getattr(jnp.ndarray, name, None), "__doc__", None)
    return bound


def attribute(name: str) -> Any:
    """jax.Array's property of this name, lifted."""
    lifted = lift(lambda x: getattr(x, name), name)
    return property(lambda self: lifted(self))


for _name in METHODS:
    setattr(Tracer, _name, method(_name))
Tracer.std = std  # pyright: ignore[reportAttributeAccessIssue]
for _name in PROPERTIES:
    setattr(Tracer, _name, attribute(_name))
Tracer.copy = lambda self: self  # pyright: ignore[reportAttributeAccessIssue]
Tracer.block_until_ready = lambda self: self  # pyright: ignore[reportAttributeAccessIssue]


class IndexUpdate:
    """`x.at`: functional updates, with the methods of jax.Array's."""

    def __init__(self, array: Tracer):
        self.array = array

    def __getitem__(self, index: Any) -> IndexedUpdate:
        return IndexedUpdate(self.array, index)


class IndexedUpdate:
    """`x.at[index]`: `.set(y)`, `.add(y)`, `.get()`, ..."""

    def __init__(self, array: Tracer, index: Any):
        self.array = array
        self.index = index


def update_method(name: str) -> Any:
    """The update of this name, lifted."""

    def call(x: Any, index: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x.at[index], name)(*args, **kwargs)

    lifted = lift(call, f"at[].{name}")

    def bound(self: IndexedUpdate, *args: Any, **kwargs: Any) -> Any:
        return lifted(self.array, self.index, *args, **kwargs)

    return bound


for _name in ["set", "add", "subtract", "multiply", "mul", "divide", "power", "min", "max", "get", "apply"]:
    setattr(IndexedUpdate, _name, update_method(_name))
Tracer.at = property(IndexUpdate)  # pyright: ignore[reportAttributeAccessIssue]


def array_ufunc(self: Tracer, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """`np.sin(tracer)`, `np.add.reduce(tracer)`: the jax.numpy function of the same name, or its method."""
    if method == "__call__" and not kwargs and ufunc in UFUNCS:  # `np.float32(2) * tracer` among them
        forward, reflected = UFUNCS[ufunc]
        x, y = inputs
        known = forward(x, y) if type(x) is Tracer else reflected(y, x)
        if known is not NotImplemented:
            return known
    fun = getattr(jnp, ufunc.__name__, None)
    if method != "__call__":
        fun = getattr(fun, method, None)
    if fun is None or kwargs.get("out") is not None:
        return NotImplemented
    return lift(fun)(*inputs, **kwargs)


# What NumPy asks of an array's type has a Python value, not an array.
ABOUT_TYPES: dict[Any, Callable[..., Any]] = {
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
    np.iscomplexobj: lambda x: x.dtype.kind == "c",
    np.isrealobj: lambda x: x.dtype.kind != "c",
    np.result_type: lambda *xs: jnp.result_type(*[x.dtype if isinstance(x, Tracer) else x for x in xs]),
}


def array_function(self: Tracer, fun: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """`np.concatenate([tracer, tracer])`: the jax.numpy function of the same name."""
    if fun in ABOUT_TYPES:
        return ABOUT_TYPES[fun](*args, **kwargs)
    space = jnp.linalg if fun.__module__ == "numpy.linalg" else jnp.fft if "fft" in fun.__module__ else jnp
    found = getattr(space, fun.__name__, None)
    return NotImplemented if found is None else lift(found)(*args, **kwargs)


Tracer.__array_ufunc__ = array_ufunc  # pyright: ignore[reportAttributeAccessIssue]
Tracer.__array_function__ = array_function  # pyright: ignore[reportAttributeAccessIssue]
