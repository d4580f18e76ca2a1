"""The values that leave the parts of a model, watched: every `named_scope`, and the carry of every scan.

instrumented : Program(x -> y) -> Program(x -> y)       the same, with taps of numbers about each value that leaves a
                                                       scope, and about its cotangent

A scope's values are those made within it and read outside. What is tapped is small: norm, extremes and zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from functrace import numpy as fnp
from functrace.control import Call, OnBackward, Scan
from functrace.ir import Aval, Builder, Equation, Primitive, Program, Var
from functrace.rewrites import memoised
from functrace.rewrites.memo import copy_input
from functrace.tracing import trace

NUMBERS = ("norm", "max", "min", "zero_fraction")
MARK = "flow:"  # before the labels of these taps, which are no names that a user gives


class Numbers(NamedTuple):
    """What is known of one array: its 2-norm, largest and smallest entry, and fraction of zeros."""

    norm: float
    max: float
    min: float
    zero_fraction: float


def numbers(x: Any) -> Any:
    """`Numbers` of an array, as one array of four; of complex entries, those of their moduli.

    The norm neither overflows nor underflows where its value does not. Zeros are counted along the first axis, if
    there are more: an entry counts as zero that is so for every row, as the output of a dead unit is.
    """
    real = fnp.abs(x) if np.issubdtype(x.dtype, np.complexfloating) else x
    real = real.astype(fnp.promote_types(real.dtype, np.float32))
    size = fnp.abs(real)
    largest = fnp.max(size)
    unit = fnp.clip(fnp.where(fnp.isfinite(largest), largest, 1.0), 1e-30, 1e30)  # its reciprocal is a normal number
    norm = unit * fnp.sqrt(fnp.sum((real / unit) ** 2))
    is_zero = (fnp.max(size, axis=0) if x.ndim > 1 else size) == 0
    return fnp.stack([norm, fnp.max(real), fnp.min(real), fnp.mean(is_zero.astype(real.dtype))])


@lru_cache(maxsize=4096)
def numbers_of(aval: Aval) -> Program:
    """`numbers` for arrays of one type."""
    return trace(numbers, [0], transform="gradient_flow", avals=[aval.strong()]).program


def label(kind: str, scopes: Sequence[str]) -> str:
    """What the numbers of a value (or of its cotangent) that leaves these scopes are tapped as."""
    return MARK + kind + ":" + "|".join(scopes)


def read_label(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Kind and scopes of a label; None for the name of another tap."""
    if not text.startswith(MARK):
        return None
    kind, scopes = text[len(MARK) :].split(":", 1)
    return kind, tuple(scopes.split("|"))


def watched(b: Builder, x: Any, scopes: Sequence[str]) -> Any:
    """`x` with its numbers tapped, and those of its cotangent."""
    tap, stop = Primitive.named["tap"], Primitive.named["stop_gradient"]
    tap(label("value", scopes))(*b.inline(numbers_of(x.aval), [stop(x)]))
    return OnBackward(looking(x.aval, tuple(scopes)), 0, label("cotangent", scopes))(x)[0]


@lru_cache(maxsize=4096)
def looking(aval: Aval, scopes: tuple[str, ...]) -> Program:
    """The identity on cotangents, whose numbers are tapped."""
    with Builder() as b:
        ct = b.input(aval.strong())
        Primitive.named["tap"](label("cotangent", scopes))(*b.inline(numbers_of(ct.aval), [ct]))
        return b.build([ct])


@memoised
def instrumented(program: Program, around: str = "") -> Program:
    """The Program with every value that leaves a scope watched; `around` is the scope that its results go to."""
    readers: dict[Any, list[str]] = {}
    for eqn in program.equations:
        for x in eqn.inputs:
            readers.setdefault(x, []).append(scope_of(eqn, around))
    for y in program.outputs:
        readers.setdefault(y, []).append(around)
    with Builder() as b:
        env: dict[Any, Any] = {v: copy_input(b, v) for v in program.inputs}
        given: set[Any] = set(program.inputs)  # and all that depends on them: constants belong to no scope
        for eqn in program.equations:
            if not given.isdisjoint(eqn.inputs):
                given.update(eqn.outputs)
            b.source = eqn.source
            prim = watching(eqn, scope_of(eqn, around))
            ys = b.emit(prim, tuple([env.get(x, x) for x in eqn.inputs]))
            for v, y in zip(eqn.outputs, ys, strict=True):
                left = scopes_left(scope_of(eqn, around), readers.get(v, ()))
                env[v] = watched(b, y, left) if left and v in given and can_be_watched(y) else y
        b.source = None
        return b.build([env.get(y, y) for y in program.outputs])


def scope_of(eqn: Equation, around: str) -> str:
    """The scope that an equation belongs to."""
    return eqn.source.scope or around if eqn.source else around


def scopes_left(scope: str, readers: Sequence[str]) -> list[str]:
    """The scopes, from the innermost out, that a value of `scope` leaves for one of its readers."""
    left = []
    while scope:
        if any(r != scope and not r.startswith(scope + "/") for r in readers):
            left.append(scope)
        scope = scope.rpartition("/")[0]
    return left


def can_be_watched(x: Any) -> bool:
    """Whether a value has a cotangent, and entries."""
    return type(x) is Var and x.aval.is_inexact and x.aval.size > 0


def watching(eqn: Equation, scope: str) -> Primitive:
    """The primitive of an equation with the Programs in it instrumented; of a scan, the carry too."""
    prim = eqn.primitive.with_programs(lambda p: instrumented(p, scope))
    if not isinstance(prim, Scan) or prim.carry == 0 or eqn.source is None:
        return prim
    place = f"scan at {eqn.source}" + (" (backwards)" if prim.reverse else "")
    return prim.with_programs(lambda p: carry_watched(p, prim.consts, prim.carry, f"{scope}/{place}".lstrip("/")))


@memoised
def carry_watched(body: Program, consts: int, carry: int, name: str) -> Program:
    """The body of a scan with what it is handed from the step before watched."""
    with Builder() as b:
        xs: list[Any] = [copy_input(b, v) for v in body.inputs]
        for i in range(consts, consts + carry):
            if can_be_watched(xs[i]):
                xs[i] = watched(b, xs[i], [name])
        return b.build(b.inline(body, xs))


class Layout(NamedTuple):
    """What depends on what in an instrumented Program, without values.

    names: of the parts: parameters first, then scopes in the order in which values leave them first. upstream: of
    each part, the set (as bits) of the parts that it is computed from, itself included. factor: of each parameter,
    whether what it meets is multiplied by it.
    """

    names: tuple[str, ...]
    parameters: int
    upstream: tuple[int, ...]
    factor: tuple[bool, ...]


FACTORS = ("mul", "dot_general", "conv_general_dilated")


def layout(program: Program, inputs: Sequence[int], names: Sequence[str]) -> Layout:
    """The layout of an instrumented Program, whose parameters stand at these inputs."""
    n, data = len(names), 1  # bit 0: depends on something that is no parameter; bit k + 1: on part k
    parts: dict[Any, int] = {i: i for i in range(n)}
    upstream: dict[int, int] = {}
    factor: set[int] = set()
    apart = (1 << (n + 1)) - 2  # parameters that have met no data yet

    def walk(p: Program, given: Sequence[int]) -> list[int]:
        nonlocal apart
        of: dict[Any, int] = dict(zip(p.inputs, given, strict=True))
        for eqn in p.equations:
            prim = eqn.primitive
            reads = [of.get(x, 0) for x in eqn.inputs]
            if isinstance(prim, Call):
                of.update(zip(eqn.outputs, walk(prim.program, reads), strict=True))
                continue
            found = 0 if any(reads) else data
            for d in reads:
                found |= d
            here = [parts.setdefault(scope, len(parts)) for scope in scopes_watched(prim)]
            for k in here:
                found |= 2 << k
            for k in here:
                upstream[k] = upstream.get(k, 0) | found >> 1
            met = found & apart if found & data else 0
            apart &= ~met
            while met:
                k = met.bit_length() - 2
                met &= ~(2 << k)
                upstream[k] = found >> 1
                if prim.name in FACTORS:
                    factor.add(k)
            of.update(dict.fromkeys(eqn.outputs, found))
        return [of.get(y, 0) for y in p.outputs]

    at = {i: 2 << k for k, i in enumerate(inputs)}
    walk(program, [at.get(i, data) for i in range(len(program.inputs))])
    return Layout(
        (*names, *list(parts)[n:]), n, tuple([upstream.get(k, 0) | 1 << k for k in range(len(parts))]),
        tuple([k in factor for k in range(n)]),
    )  # fmt: skip


def scopes_watched(prim: Primitive) -> list[str]:
    """The scopes that values leave at this equation, or inside it."""
    if isinstance(prim, OnBackward):
        read = read_label(prim.label)
        return list(read[1]) if read else []
    return list(dict.fromkeys([s for p in held_by(prim) for eqn in p.equations for s in scopes_watched(eqn.primitive)]))


def held_by(prim: Primitive) -> list[Program]:
    """The Programs that instrumentation went into."""
    found: list[Program] = []

    def see(p: Program) -> Program:
        found.append(p)
        return p

    prim.with_programs(see)
    return found
