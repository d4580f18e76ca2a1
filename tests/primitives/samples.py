"""The samples of every primitive, and the values on which a sample is tested."""

from __future__ import annotations

import dataclasses
import inspect
import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

import functrace.primitives  # noqa: F401  (defines the primitives that are walked here)
from functrace.ir import Aval, Equation, Primitive, Program, Sample, Var, is_complex, is_inexact

WIDER = {np.dtype(np.float32): np.dtype(np.float64), np.dtype(np.complex64): np.dtype(np.complex128)}


class Case(NamedTuple):
    """A sample with its drawn operands, and what the laws need of them."""

    name: str
    sample: Sample
    avals: tuple[Aval, ...]
    moving: tuple[bool, ...]

    @property
    def primitive(self) -> Primitive:
        return self.sample.primitive

    @property
    def in_double(self) -> bool:
        """Whether derivatives are held to double precision: they exist, and no operand is narrow."""
        narrow = any(a.is_inexact and a.dtype not in WIDER for a in self.avals)
        return self.sample.differentiable and any(self.moving) and not narrow

    def values(self, seed: int = 0) -> list[Any]:
        """Operands: those the sample fixes, the others drawn from its domain."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        return [
            np.asarray(operand, aval.dtype) if is_concrete(operand) else draw(rng, aval, self.sample.domain)
            for operand, aval in zip(self.sample.operands, self.avals, strict=True)
        ]

    def another(self, operand: int, seed: int) -> Any:
        """Another legal value of an operand: a concrete one is rearranged, others are drawn."""
        value = self.sample.operands[operand]
        if not is_concrete(value):
            return self.values(seed)[operand]
        aval, value = self.avals[operand], np.asarray(value, self.avals[operand].dtype)
        if value.ndim and not getattr(self.primitive, "indices_are_sorted", False):
            return np.flip(value, 0) if seed % 2 else value
        if value.ndim == 0 and aval.dtype == np.bool_:
            return np.asarray(bool(value) != bool(seed % 2))
        if value.ndim == 0 and aval.dtype.kind in "iu":  # an index or a count: what is below is legal
            return np.asarray(max(int(value) - seed % 2, 0), aval.dtype)
        return value

    def tangents(self, seed: int = 100) -> list[Any]:
        """A tangent for each moving operand, of either sign."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        return [draw(rng, a, "real") for a, m in zip(self.avals, self.moving, strict=True) if m]

    @property
    def program(self) -> Program:
        """The one equation, not simplified."""
        inputs = tuple(Var(a) for a in self.avals)
        results = self.primitive.shape(*self.avals)
        results = tuple(results) if self.primitive.multiple_results else (results,)
        outputs = tuple(Var(a) for a in results)
        return Program(inputs, (Equation(self.primitive, inputs, outputs, None),), outputs)

    def function(self, *xs: Any) -> list[Any]:
        """The lowering, as a function with a list of results."""
        ys = self.primitive.lower(*xs)
        return list(ys) if self.primitive.multiple_results else [ys]

    def of_moving(self, values: list[Any]) -> Callable[..., list[Any]]:
        """The lowering as a function of the moving operands."""

        def f(*moving_values: Any) -> list[Any]:
            rest = iter(moving_values)
            xs = [next(rest) if m else x for m, x in zip(self.moving, values, strict=True)]
            return self.function(*xs)

        return f


def is_concrete(operand: Any) -> bool:
    """Whether the sample fixes this operand's value."""
    return not isinstance(operand, Aval)


def draw(rng: np.random.Generator, aval: Aval, domain: str) -> Any:
    """Random values: away from zero, where kinks and poles are."""
    shape, dtype = aval.shape, aval.dtype
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    if not is_inexact(dtype):
        low = 0 if dtype.kind == "u" or domain != "real" else -4
        return rng.integers(low, 5, shape).astype(dtype)

    def real() -> Any:
        unit = rng.uniform(0.1, 1.0, shape)
        signed = unit * rng.choice([-1.0, 1.0], shape)
        return {
            "real": 2.0 * signed, "positive": 0.5 + unit, "unit": 0.9 * signed, "above_one": 1.0 + unit,
        }[domain]  # fmt: skip

    if is_complex(dtype):
        return np.asarray(real() + 0.7j * rng.uniform(-1.0, 1.0, shape), dtype)
    return np.asarray(real(), dtype)


def all_samples() -> list[Sample]:
    """Every sample of every primitive, in the order of definition."""
    found: list[Sample] = []
    for definition in Primitive.named.values():
        is_class = inspect.isclass(definition)
        found += definition.samples(None) if is_class else definition.samples()
    return found


def case(sample: Sample, name: str = "") -> Case:
    """The sample with the types of its operands and which of them move."""
    avals = tuple(Aval(np.shape(x), np.asarray(x).dtype) if is_concrete(x) else x for x in sample.operands)
    moving = tuple(a.is_inexact and i not in sample.fixed for i, a in enumerate(avals))
    if not any(a.is_inexact for a in result_avals(sample.primitive, avals)):
        moving = (False,) * len(avals)
    return Case(name or case_name(sample, avals), sample, avals, moving)


def case_name(sample: Sample, avals: tuple[Aval, ...]) -> str:
    """A readable test id; a parameter that is a Program is left out of it."""
    prim = sample.primitive
    params = ", ".join(f"{k}={v}" for k, v in prim.params.items() if not isinstance(v, Program))
    text = f"{prim.name}{f'[{params[:90]}]' if params else ''} {', '.join(map(str, avals))}"
    return re.sub(r"\s+", " ", text)


def result_avals(primitive: Primitive, avals: tuple[Aval, ...]) -> tuple[Aval, ...]:
    """The types of all results."""
    results = primitive.shape(*avals)
    return tuple(results) if primitive.multiple_results else (results,)


def widened(c: Case) -> Case:
    """The case in double precision, types among the parameters included."""
    operands = tuple(
        np.asarray(x, WIDER.get(a.dtype, a.dtype)) if is_concrete(x) else widen(a)
        for x, a in zip(c.sample.operands, c.avals, strict=True)
    )
    sample = c.sample._replace(primitive=widen(c.primitive), operands=operands)
    return case(sample, c.name)


def widen(value: Any) -> Any:
    """A parameter, type, primitive or Program with each f32 and c64 in double precision."""
    if isinstance(value, np.dtype):
        return WIDER.get(value, value)
    if isinstance(value, Aval):
        return Aval(value.shape, WIDER.get(value.dtype, value.dtype), value.weak_type)
    if isinstance(value, tuple):
        return tuple(widen(v) for v in value)
    if isinstance(value, Program):
        env: dict[Any, Any] = {}

        def atom(x: Any) -> Any:
            if x not in env:
                aval = widen(x.aval)
                env[x] = Var(aval) if isinstance(x, Var) else type(x)(x.value, aval)
            return env[x]

        return Program(
            tuple(map(atom, value.inputs)),
            tuple(
                Equation(widen(e.primitive), tuple(map(atom, e.inputs)), tuple(map(atom, e.outputs)), None)
                for e in value.equations
            ),
            tuple(map(atom, value.outputs)),
        )
    if isinstance(value, Primitive) and dataclasses.is_dataclass(value):
        fields = {k: widen(v) for k, v in value.params.items()}
        return dataclasses.replace(value, **fields) if fields else value
    return value


def epsilon(*dtypes: Any) -> float:
    """The unit of the coarsest inexact dtype."""
    inexact = [d for d in dtypes if is_inexact(d)]
    return max((float(ml_dtypes.finfo(d).eps) for d in inexact), default=0.0)


def struct(aval: Aval) -> Any:
    """What `jax.eval_shape` takes for a value of this type."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
