"""Primitives that are an operation or two of StableHLO, as text.

JAX takes 100 us to trace a kind of equation, and 200 us to write it, once in a process. More than half of those of a
model are arithmetic, comparisons, sums and other shapes of an array, whose text is put together here, in 10 us. It is
what JAX writes, on every platform, which is tested for each (`tests/lower/test_stablehlo.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from functrace.ir import Aval, Literal, Primitive

FLOATS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
INTEGERS = {f"{sign}int{n}": f"{sign}i{n}" for sign in ("", "u") for n in (8, 16, 32, 64)}
BOOLEANS = {"bool": "i1"}
TYPES = FLOATS | INTEGERS | BOOLEANS

OF_FLOATS = {
    "exp": "exponential", "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "tanh": "tanh", "sin": "sine",
    "cos": "cosine",
}  # fmt: skip
OF_NUMBERS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "max": "maximum", "min": "minimum",
    "neg": "negate",
}  # fmt: skip
OF_BITS = {"and": "and", "or": "or", "not": "not"}
COMPARISONS = {"eq": "EQ", "ne": "NE", "lt": "LT", "le": "LE", "gt": "GT", "ge": "GE"}
AXES = {"reshape": "", "broadcast_in_dim": "dimensions", "transpose": "permutation"}
REDUCTIONS = {"reduce_sum": "add", "reduce_or": "or", "reduce_and": "and"}


class Text(NamedTuple):
    """Operations: {0} is the number of the call, and part of all names in them, {1}, {2}... are the operands' names.

    {at} is where they come from, and {called} the name of the block that they call.
    """

    template: str
    outputs: Sequence[str]
    functions: Mapping[str, str] = MappingProxyType({})  # that are called besides, at any depth, by name
    called: Any = None


@cache
def type_text(aval: Aval) -> str:
    """MLIR's type of an array."""
    return f"tensor<{''.join([f'{n}x' for n in aval.shape])}{TYPES[aval.dtype.name]}>"


def listed(axes: Iterable[Any]) -> str:
    """Axes, which may be numbers of NumPy's."""
    return f"[{', '.join([f'{i}' for i in axes])}]"


class Lines:
    """Operations that are written one after the other."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, operation: str, dialect: str = "stablehlo") -> str:
        """The name of what an operation makes."""
        name = f"%v{{0}}_{len(self.lines)}"
        self.lines.append(f"{name} = {dialect}.{operation} loc({{at}})\n")
        return name

    def constant(self, value: Any, aval: Aval) -> str:
        """A scalar."""
        if aval.dtype.name in FLOATS:
            shown = "0x" + np.asarray(value, aval.dtype).tobytes()[::-1].hex().upper()  # exact
        else:
            shown = str(np.asarray(value, aval.dtype).item()).lower()
        return self.add(f"constant dense<{shown}> : {type_text(aval)}")

    def broadcast(self, x: str, aval: Aval, shape: tuple[int, ...]) -> str:
        """An array of a shape that NumPy broadcasts it to."""
        if aval.shape == shape:
            return x
        dims, to = listed(range(len(shape) - aval.ndim, len(shape))), type_text(aval.with_shape(shape))
        return self.add(f"broadcast_in_dim {x}, dims = {dims} : ({type_text(aval)}) -> {to}")


def plain(primitive: Primitive, operands: Sequence[Aval | Literal], out: Aval) -> Text | None:
    """The text of a primitive with one result, where it is written here."""
    avals = [x.aval if isinstance(x, Literal) else x for x in operands]
    is_array = any([isinstance(x, Literal) and x.aval.shape for x in operands])
    if is_array or any([x.dtype.name not in TYPES for x in (*avals, out)]):
        return None
    lines, places = Lines(), count(1)
    names = [lines.constant(x.value, x.aval) if isinstance(x, Literal) else f"{{{next(places)}}}" for x in operands]
    result = operation(primitive, names, avals, out, lines)
    return None if result is None else Text("".join(lines.lines), [result])


def operation(primitive: Any, xs: Sequence[str], avals: Sequence[Aval], out: Aval, lines: Lines) -> str | None:
    """The name of what a primitive makes of operands."""
    name, result = primitive.name, type_text(out)
    dtype = avals[0].dtype if avals else out.dtype
    is_uniform = all([x.dtype == dtype for x in avals])

    def whole() -> str:
        return ", ".join([lines.broadcast(x, aval, out.shape) for x, aval in zip(xs, avals, strict=True)])

    for table, types in ((OF_FLOATS, FLOATS), (OF_NUMBERS, FLOATS | INTEGERS), (OF_BITS, BOOLEANS)):
        if name in table and is_uniform and dtype == out.dtype and dtype.name in types:
            return lines.add(f"{table[name]} {whole()} : {result}")
    if name in COMPARISONS and is_uniform:
        kind = "FLOAT" if dtype.name in FLOATS else "SIGNED" if dtype.kind == "i" else "UNSIGNED"
        of = type_text(avals[0].with_shape(out.shape))
        return lines.add(f"compare {COMPARISONS[name]}, {whole()}, {kind} : ({of}, {of}) -> {result}")
    if name == "select_n" and len(xs) == 3 and dtype.name in BOOLEANS and avals[1].shape == avals[2].shape == out.shape:
        return lines.add(f"select {xs[0]}, {xs[2]}, {xs[1]} : {type_text(avals[0])}, {result}")
    if name in REDUCTIONS and dtype.name in (FLOATS | INTEGERS if name == "reduce_sum" else BOOLEANS):
        scalar = out.with_shape(())
        start = lines.constant(name == "reduce_and", scalar)
        of = f"({type_text(avals[0])}, {type_text(scalar)}) -> {result}"
        dims = listed(primitive.axes)
        return lines.add(
            f"reduce({xs[0]} init: {start}) applies stablehlo.{REDUCTIONS[name]} across dimensions = {dims} : {of}"
        )
    if name == "square" and dtype.name in FLOATS:
        return lines.add(f"square {xs[0]} : {result} -> {result}", "chlo")
    if name == "integer_pow" and primitive.exponent in (2, -1, -2) and dtype.name in FLOATS:
        power = xs[0] if primitive.exponent == -1 else lines.add(f"multiply {xs[0]}, {xs[0]} : {result}")
        if primitive.exponent == 2:
            return power
        one = lines.constant(1, out.with_shape(()))
        return lines.add(f"divide {lines.broadcast(one, out.with_shape(()), out.shape)}, {power} : {result}")
    if name == "slice":
        ends = zip(primitive.start, primitive.limit, primitive.strides, strict=True)
        cut = ", ".join([f"{start}:{limit}{f':{stride}' if stride > 1 else ''}" for start, limit, stride in ends])
        return lines.add(f"slice {xs[0]} [{cut}] : ({type_text(avals[0])}) -> {result}")
    if name in AXES:
        axes = getattr(primitive, AXES[name] or "new_shape")
        dims = f", dims = {listed(axes)}" if AXES[name] else ""
        return lines.add(f"{name} {xs[0]}{dims} : ({type_text(avals[0])}) -> {result}")
    return None
