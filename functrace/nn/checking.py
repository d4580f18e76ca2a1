"""What every layer asks of its arguments, and the messages when it is not so.

A message begins with the layer's place in the model, which is the `named_scope` that it runs in:
`mlp/dense_1: x has shape (8, 3); ...`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import jax.core
import numpy as np

from functrace import numpy as fnp, random
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.ir.source import SCOPE, caller_source
from functrace.nn.initializers import Initializer
from functrace.tracing.lift import known_value
from functrace.tracing.tracer import Tracer, at

Sizes = tuple[int, ...]
Parts = dict[str, tuple[Sizes, Initializer]]  # a layer's params: their names, shapes and initialisers
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def failure(error: type[Exception], owner: str, message: str) -> Exception:
    """The error to raise: where in the model, what is wrong, and the user's line."""
    place = SCOPE.path
    if not place:
        place = owner
    elif not place.rsplit("/", 1)[-1].startswith(owner):
        place = f"{owner} in {place}"
    return error(f"{place}: {message}{at(caller_source())}")


def known_integers(x: Any) -> np.ndarray | None:
    """The values of integers where they are known already; None inside of jit and vmap."""
    x = known_value(x)
    return None if isinstance(x, Tracer | jax.core.Tracer) else np.asarray(x)


def count(owner: str, name: str, value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise failure(ArgumentError, owner, f"{name} is {value!r}; a whole number of at least 1 was expected.")
    return value.__index__()


def counts(
    owner: str, name: str, value: Any, what: str = "a size for each spatial axis, such as (3, 3) for images"
) -> Sizes:
    """A tuple of whole numbers of at least 1; `what` tells of what."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise failure(ArgumentError, owner, f"{name} is {value!r}; a tuple was expected: {what}.")
    return tuple([count(owner, name, size) for size in value])


def for_each(owner: str, name: str, value: Any, axes: int) -> Sizes:
    """A whole number of at least 1 for each spatial axis; one alone is meant for all."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (count(owner, name, value),) * axes
    if len(value) != axes:
        raise failure(
            ArgumentError,
            owner,
            f"{name} is {tuple(value)}; one number, or {axes}, was expected: one for each spatial axis.",
        )
    return counts(owner, name, value)


def number_between(owner: str, name: str, value: Any, low: float, high: float) -> float:
    """A number of that range, ends included."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        limit = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise failure(ArgumentError, owner, f"{name} is {value!r}; a number {limit} was expected.")
    return float(value)


def pads(owner: str, padding: Any, axes: int, same: Callable[[int], tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Padding as a pair for each spatial axis; `same` tells what "SAME" is along one.

    One number is for both ends of all axes, and a number for each axis is for both of its ends.
    """
    if isinstance(padding, str) and padding.upper() in ("SAME", "VALID"):
        return tuple([same(i) if padding.upper() == "SAME" else (0, 0) for i in range(axes)])
    given = [padding] * axes if isinstance(padding, int) else padding
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == axes:
        pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in given]
        if all(len(pair) == 2 and all(isinstance(p, int) and p >= 0 for p in pair) for pair in pairs):
            return tuple(pairs)  # pyright: ignore[reportReturnType]
    raise failure(
        ArgumentError,
        owner,
        f"padding is {padding!r}; 'SAME', 'VALID', a number that is not negative, or {axes} such numbers or pairs "
        "(before, after), one for each spatial axis, were expected.",
    )


def same_pads(size: int, span: int, stride: int) -> tuple[int, int]:
    """The padding with which windows of that span, a stride apart, number `size / stride`, rounded up."""
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


def inexact(owner: str, x: Any) -> Any:
    """`x` as an array of floating or complex dtype."""
    x = fnp.asarray(x)
    if not fnp.issubdtype(x.dtype, fnp.inexact):
        raise failure(
            DtypeError,
            owner,
            f"x has dtype {x.dtype}; a floating one was expected. Cast it (`.astype(float)`; images of bytes are "
            "best divided by 255).",
        )
    return x


def channels_last(owner: str, x: Any, channels: int, spatial: int, beside: str, axis: str = "spatial") -> Any:
    """`x` as an inexact array `[..., spatial axes, channels]`; `beside` tells what else has a shape."""
    x = inexact(owner, x)
    if x.ndim > spatial and x.shape[-1] == channels:
        return x
    expected = ", ".join(["...", *[axis] * spatial, str(channels)])
    remedy = ""
    if spatial and x.ndim > spatial and x.shape[-spatial - 1] == channels:
        between = f"{axis} axis" if spatial == 1 else f"{axis} axes"
        remedy = f" Its channels stand before the {between}: give fnp.moveaxis(x, {-spatial - 1}, -1)."
    raise failure(ShapeError, owner, f"x has shape {x.shape}; [{expected}] was expected, to fit {beside}.{remedy}")


def check_keys(owner: str, role: str, given: Any, expected: Iterable[str]) -> None:
    """Params or state must be a dict with just those keys."""
    if not isinstance(given, Mapping) or set(given) != set(expected):
        raise failure(
            ArgumentError,
            owner,
            f"{keys_of(role, given)}; a dict with keys {sorted(expected)} was expected. Give what init(key) made.",
        )


def keys_of(role: str, given: Any) -> str:
    """What came, where a dict was expected."""
    if isinstance(given, Mapping):
        return f"the keys of {role} are {sorted(map(str, given))}"
    return f"{role} came as a {type(given).__name__}"


def parameters(owner: str, params: Any, shapes: Mapping[str, Sizes], role: str = "params") -> list[Any]:
    """The arrays of those names and shapes out of a layer's params or state, in that order."""
    check_keys(owner, role, params, shapes)
    for name, shape in shapes.items():
        if fnp.shape(params[name]) != shape:
            raise failure(
                ShapeError, owner, f"{role}[{name!r}] has shape {fnp.shape(params[name])}; {shape} was expected."
            )
    return [params[name] for name in shapes]


def initial(key: Any, parts: Parts, dtype: Any) -> dict[str, Any]:
    """An array for each name, of that shape, from its initialiser and a key of its own."""
    keys = random.split(key, len(parts)) if len(parts) > 1 else [key]
    return {name: init(k, shape, dtype) for k, (name, (shape, init)) in zip(keys, parts.items(), strict=True)}
