"""A pytree as plain data and named arrays: what a file says of the structure, and how it differs from another.

    None, True, 3, 0.5, "text"                 themselves
    {"complex": [re, im]}
    {"array": name, "dtype": ..., "shape": ..., "kind": ...}     kind: jax, numpy, scalar or key
    {"list": [...]}, {"tuple": [...]}, {"dict": [[key, ...], ...]}
    {"node": [[field, ...], ...], "type": ...}                   named tuples and other registered pytrees
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.core
import numpy as np
from jax import Array, numpy as jnp, tree_util

from functrace.errors import DtypeError
from functrace.io.safetensors import NAMES
from functrace.ir.source import caller_source
from functrace.lower.evaluate import weakly_typed
from functrace.tracing import Tracer
from functrace.tracing.tracer import at

PyTree = Any
Spec = Any  # JSON
SCALARS = (bool, int, float, str, type(None))
CONTAINERS = ("list", "tuple", "dict", "node")


def describe(who: str, tree: PyTree, keep: Callable[[str, Any], str], path: tuple[Any, ...] = ()) -> Spec:
    """The plain data for a pytree.

    Args:
      who: what messages begin with.
      keep: `(path, leaf) -> name` is called for each array, and says what its data is called.
      path: of the pytree in that which the messages are about.
    Raises:
      DtypeError: a leaf is no array, number or text, or a key of a dict no text or integer; the message names its path.
    """
    if type(tree) in SCALARS:
        return tree
    if type(tree) is complex:
        return {"complex": [tree.real, tree.imag]}
    where = tree_util.keystr(path) or "(the whole tree)"
    if isinstance(tree, Tracer | jax.core.Tracer):
        raise DtypeError(
            f"{who}: {where} is a value of a function that is being traced; call {who} outside of jit and grad, on "
            f"their results.{at(caller_source())}"
        )
    if isinstance(tree, Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        kind = type_of(who, where, tree)
        return {"array": keep(tree_util.keystr(path, simple=True, separator="."), tree), **kind}
    children, _ = one_level(tree)
    if len(children) == 1 and not children[0][0]:
        raise DtypeError(
            f"{who}: {where} is of type {type(tree).__name__}; arrays, numbers, texts and None in dicts, lists, tuples "
            f"and other pytrees were expected. Leave it out.{at(caller_source())}"
        )
    parts = []
    for (key,), child in children:
        name = getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))
        if type(name) not in (str, int):
            raise DtypeError(
                f"{who}: {where} has the key {name!r} of type {type(name).__name__}; keys must be texts or integers."
                f"{at(caller_source())}"
            )
        parts.append([name, describe(who, child, keep, (*path, key))])
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [spec for _, spec in parts]}
    return {"dict": parts} if type(tree) is dict else {"node": parts, "type": type(tree).__name__}


def one_level(tree: PyTree) -> tuple[list[tuple[Any, Any]], Any]:
    """The children of a pytree, each with its path of one key, and its structure; a leaf is its own child."""
    return tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)


def type_of(who: str, where: str, x: Any) -> Spec:
    """What a file says of an array besides its data."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        impl = None if isinstance(x, jax.ShapeDtypeStruct) else str(jax.random.key_impl(x))
        return {"kind": "key", "dtype": str(x.dtype), "shape": list(x.shape), "impl": impl}
    is_small = jnp.issubdtype(x.dtype, np.number) and x.dtype.itemsize == 1
    if x.dtype.name not in (*NAMES, "complex128") and not is_small:
        raise DtypeError(
            f"{who}: {where} has dtype {x.dtype}; booleans, integers, floating and complex numbers were expected."
            f"{at(caller_source())}"
        )
    kind = "numpy" if isinstance(x, np.ndarray) else "scalar" if isinstance(x, np.generic) else "jax"
    spec = {"kind": kind, "dtype": x.dtype.name, "shape": list(x.shape)}
    return {**spec, "weak": True} if getattr(x, "weak_type", False) else spec


def stored(x: Any) -> np.ndarray:
    """The data of an array, in a dtype that the format has: complex128 as pairs, other small types as bytes."""
    if isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    data = np.asarray(x)
    if data.dtype.name in NAMES:
        return data
    if data.dtype == np.complex128:
        return data.astype("=c16", copy=False)[..., None].view(np.float64)
    return data.view(np.uint8)


def restored(data: np.ndarray, spec: Spec) -> Any:
    """The array that `stored` and `type_of` gave data and spec for."""
    if spec["kind"] == "key":
        return jax.random.wrap_key_data(jnp.asarray(data), impl=spec["impl"])
    dtype = np.dtype(spec["dtype"])
    if data.dtype != dtype:
        data = data.view(dtype)
    data = data.reshape(spec["shape"])
    if spec["kind"] == "jax":
        return as_jax(data, spec.get("weak", False))
    return data if spec["kind"] == "numpy" else data[()]


def as_jax(data: np.ndarray, weak: bool = False) -> Array:
    """An array of JAX's; that of a weak type gives way to its partner's, as a Python scalar's does."""
    x = jnp.asarray(data)
    return weakly_typed(x) if weak else x


def rebuilt(spec: Spec, array: Callable[[Spec], Any]) -> PyTree:
    """The pytree that plain data tells of; of nodes whose class it does not know, a dict from fields to values."""
    match spec:
        case {"complex": [real, imag]}:
            return complex(real, imag)
        case {"array": _}:
            return array(spec)
        case {"list": children}:
            return [rebuilt(child, array) for child in children]
        case {"tuple": children}:
            return tuple(rebuilt(child, array) for child in children)
        case {"dict": parts} | {"node": parts}:
            return {key: rebuilt(child, array) for key, child in parts}
    return spec


def rebuilt_like(spec: Spec, like: PyTree, array: Callable[[Spec, Any], Any]) -> PyTree:
    """The pytree of the structure of `like`; `array` is also given the leaf there."""
    match spec:
        case {"complex": [real, imag]}:
            return complex(real, imag)
        case {"array": _}:
            return array(spec, like)
        case dict():
            children, structure = one_level(like)
            inner = [child for _, child in parts_of(spec)]
            return structure.unflatten([rebuilt_like(s, c, array) for s, (_, c) in zip(inner, children, strict=True)])
    return spec


def differences(spec: Spec, other: Spec, path: str = "") -> Iterator[str]:
    """Where `spec`, of a file, and `other`, of `like`, differ: a sentence for each."""
    here = path or "(the whole tree)"
    kind, other_kind = container(spec), container(other)
    if kind is None or kind != other_kind:
        if (found := summary(spec)) != (wanted := summary(other)):
            yield f"{here} is {found} in the file and {wanted} in `like`"
        return
    mine, theirs = ({key: child for key, child in parts_of(s)} for s in (spec, other))
    step = "[{!r}]" if kind != "node" else ".{}"
    for key in {**mine, **theirs}:
        inner = path + step.format(key)
        if key not in theirs:
            yield f"{inner}, {summary(mine[key])}, is in the file only"
        elif key not in mine:
            yield f"{inner}, {summary(theirs[key])}, is in `like` only"
        else:
            yield from differences(mine[key], theirs[key], inner)


def container(spec: Spec) -> str | None:
    """Which container it is, if any."""
    return next((name for name in CONTAINERS if isinstance(spec, dict) and name in spec), None)


def parts_of(spec: Spec) -> list[Any]:
    """The children of a container with their keys."""
    kind = container(spec)
    children = spec[kind]
    return [[i, child] for i, child in enumerate(children)] if kind in ("list", "tuple") else children


def summary(spec: Spec) -> str:
    """The type of an array, or what else it is, in words."""
    kind = container(spec)
    if kind is not None:
        name = spec["type"] if kind == "node" else kind
        return f"a {name} of {len(spec[kind])}"
    if isinstance(spec, dict) and "array" in spec:
        return f"{spec['dtype']}[{','.join(map(str, spec['shape']))}]"
    if spec is None:
        return "None"
    return f"a Python {'complex' if isinstance(spec, dict) else type(spec).__name__}"
