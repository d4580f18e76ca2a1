"""What of JAX's equations has a text: primitives by name, and parameters that are plain values.

A primitive is found among JAX's public ones, or in the jaxpr of a public function that uses it.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives as public

from functrace.errors import ProgramError
from functrace.ir.primitive import Member

GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
ENUMS = ("FftType", "Precision", "GatherScatterMode", "RandomAlgorithm", "RoundingMethod", "AccuracyMode")
LINALG_ENUMS = ("SvdAlgorithm", "EigImplementation", "EighImplementation")


@cache
def primitives() -> dict[str, Any]:
    """JAX's primitives by name."""
    found = {p.name: p for name in dir(public) if name.endswith("_p") for p in [getattr(public, name)]}
    key = jax.random.key(0)
    for function, x in (
        (jax.random.key_data, key),
        (jax.random.wrap_key_data, np.zeros(2, np.uint32)),
        (lambda x: lax.linalg.lu_pivots_to_permutation(x, 3), np.zeros(2, np.int32)),
        (lambda x: lax.platform_dependent(x, cpu=lax.neg, default=lax.abs), np.zeros(2, np.int32)),
    ):
        for eqn in jax.make_jaxpr(function)(x).eqns:
            found.setdefault(eqn.primitive.name, eqn.primitive)
    return found


@cache
def generators() -> dict[str, Any]:
    """What JAX's equations hold of a generator of random numbers, by its name."""
    made = {}
    for name in GENERATORS:
        shape = jax.random.key_data(jax.random.key(0, impl=name)).shape
        wrap = lambda x, name=name: jax.random.wrap_key_data(x, impl=name)
        (eqn,) = jax.make_jaxpr(wrap)(np.zeros(shape, np.uint32)).eqns
        made[name] = eqn.params["impl"]
    return made


@cache
def key_dtypes() -> dict[str, Any]:
    """The dtypes of keys by their text."""
    keys = [jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)) for name in GENERATORS]
    return {key.dtype.name: key.dtype for key in keys}


@cache
def enums() -> dict[str, Any]:
    """The enumerations that parameters are of, by name."""
    found = [getattr(lax, name, None) for name in ENUMS] + [getattr(lax.linalg, name, None) for name in LINALG_ENUMS]
    return {e.__name__: e for e in found if isinstance(e, enum.EnumType)}


def plain(params: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters as values that have a text; None where one has not."""
    try:
        return {name: plain_value(x) for name, x in params.items()}
    except TypeError:
        return None


def plain_value(x: Any) -> Any:
    """A parameter as a value that has a text; TypeError where it has none."""
    if x is None or isinstance(x, bool | str | np.dtype) or type(x) in (int, float):
        return x
    if isinstance(x, enum.Enum) and type(x).__name__ in enums():
        return Member(type(x).__name__, x.name)
    if isinstance(x, np.integer):
        return int(x)
    if isinstance(x, tuple) and type(x) is tuple:
        return tuple([plain_value(item) for item in x])
    named = [name for name, generator in generators().items() if x is generator or x == generator]
    if named:
        return Member("generator", named[0])
    raise TypeError(f"{type(x).__name__} has no text")


def member(x: Any) -> Any:
    """The parameter that a value of the text stands for: the inverse of `plain_value`."""
    if isinstance(x, Member):
        names = generators() if x.kind == "generator" else getattr(enums().get(x.kind), "__members__", {})
        if x.name not in names:
            raise ProgramError(f"{x} is no value of a parameter of JAX's")
        return names[x.name]
    return tuple(map(member, x)) if type(x) is tuple else x
