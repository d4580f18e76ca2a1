"""Run linear equations backwards.

transpose : Program((r, x) -> A(r) x) -> Program((r, ct_y) -> A(r)^T ct_y)    <A x, y> = <x, A^T y>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrace.ir import Atom, Aval, Builder, Equation, Masked, Program, Undefined, Var, ambient
from functrace.primitives.elementwise import add
from functrace.primitives.selection import written
from functrace.primitives.space import zeros
from functrace.rewrites.memo import copy_input, derived, memoised, scatter, select
from functrace.rewrites.separate import separated

Cotangent = Atom | Masked


def divide(equations: Iterable[Equation], given: Iterable[Var]) -> tuple[list[Equation], list[Equation], set[Any]]:
    """Equations that do not depend on the variables `given`, those that do, and all that depends."""
    unknown: set[Any] = set(given)
    early: list[Equation] = []
    late: list[Equation] = []
    for eqn in equations:
        if unknown.isdisjoint(eqn.inputs):
            early.append(eqn)
        else:
            late.append(eqn)
            unknown.update(eqn.outputs)
    return early, late, unknown


def plus(x: Cotangent, y: Cotangent) -> Cotangent:
    """The sum of two cotangents of one variable: there is what is there in either."""
    if type(x) is not Masked or type(y) is not Masked:
        return united(cleaned(x), cleaned(y))
    if x.there is y.there:
        ordinary = (x.ordinary or not x.dirty) and (y.ordinary or not y.dirty)
        return Masked(united(x.value, y.value), x.there, x.dirty or y.dirty, ordinary)
    total, there = united(x.clean(), y.clean()), x.there.either(y.there)
    return total if there is None else Masked(total, there)


def united(total: Atom, x: Atom) -> Atom:
    """`total + x`; parts of one array, as the cotangents of its slices are, are put together and not added up."""
    definition = ambient().definition
    last = definition(x)
    if last is None:
        return add(total, x)
    splits: list[tuple[Atom, Atom | None]] = [(total, None)]
    if (of_total := definition(total)) is not None and of_total.primitive is add:
        one, other = of_total.inputs
        splits += [(one, other), (other, one)]
    for term, rest in splits:
        made = definition(term)
        if made is not None and type(made.primitive) is type(last.primitive):
            both = made.primitive.united(made.inputs, last.primitive, last.inputs)
            if both is not None:
                return both if rest is None else united(rest, both)
    return add(total, x)


def cleaned(ct: Cotangent) -> Atom:
    """A cotangent with zeros where it is absent."""
    return ct.clean() if isinstance(ct, Masked) else ct


def pull(
    builder: Builder,
    equations: Sequence[Equation],
    unknown: set[Any],
    known: dict[Any, Atom],
    cts: Sequence[tuple[Atom, Cotangent | None]],
) -> dict[Any, Cotangent]:
    """Walk linear equations backward into `builder`, adding up one cotangent a variable.

    Args:
      equations: those that depend on the variables to be given a cotangent.
      unknown: these variables, and all outputs of `equations`.
      known: what stands in `builder` for a value that the equations read; by default, itself.
      cts: results with their cotangents, None where zero.
    Returns:
      The cotangents that are not zero, by variable; what a select has masked in them is still to be cleaned.
    """
    sums: dict[Any, Cotangent] = {}

    for x, ct in cts:
        if ct is not None and x in unknown:
            sums[x] = plus(sums[x], ct) if x in sums else ct
    outer = builder.source
    for eqn in reversed(equations):
        prim = eqn.primitive
        ct_y: Any
        if prim.multiple_results:
            ct_y = [sums.pop(v, None) for v in eqn.outputs]
            if not any([ct is not None for ct in ct_y]):
                continue
            masked = prim.masks or any([type(ct) is Masked for ct in ct_y])
        elif (ct_y := sums.pop(eqn.outputs[0], None)) is None:
            continue
        else:
            masked = prim.masks or type(ct_y) is Masked
        operands = [Undefined(x.aval) if x in unknown else known.get(x, x) for x in eqn.inputs]
        builder.source = derived(eqn.source, "transpose", prim.name)
        rule = prim.transpose_masked if masked else prim.transpose
        for x, ct in zip(eqn.inputs, rule(ct_y, *operands), strict=True):
            if ct is not None and x in unknown:
                sums[x] = plus(sums[x], ct) if x in sums else ct
    builder.source = outer
    return sums


class Transposed(NamedTuple):
    """`program: (r, ct_y, masks) -> ct_x` for the cotangents that are `found`; `there` has of each of them the type of
    its mask, as `Presence.type`, or None."""

    program: Program
    found: tuple[bool, ...]
    there: tuple[Any, ...]


def transpose(
    program: Program, linear: tuple[bool, ...], with_ct: tuple[bool, ...]
) -> tuple[Program, tuple[bool, ...]]:
    """The transposed Program and which linear inputs get a cotangent (the others' is zero).

    Args:
      program: (r, x) -> y, linear in the inputs flagged `linear`.
      linear: which inputs those are.
      with_ct: which outputs have a cotangent.
    Returns:
      `(r, ct_y) -> ct_x` for the flagged cotangents.
    """
    return transposed(program, linear, with_ct)[:2]


@memoised
def transposed(
    program: Program, linear: tuple[bool, ...], with_ct: tuple[bool, ...], masks: tuple[Any, ...] = ()
) -> Transposed:
    """As `transpose`, for cotangents of which some are masked: `masks` has the type of each one's mask, or None."""
    with Builder() as b:
        cts = walk(b, program, linear, with_ct, masks)
        there = tuple([ct.there.type if type(ct) is Masked else None for ct in cts if ct is not None])
        program = b.build([cleaned(ct) for ct in cts if ct is not None])
        return Transposed(program, tuple([ct is not None for ct in cts]), there)


@memoised
def presence(
    program: Program, linear: tuple[bool, ...], with_ct: tuple[bool, ...], masks: tuple[Any, ...] = ()
) -> Program:
    """`(r, ct_y, masks) -> masks of ct_x`, for those cotangents that `transposed` says have one."""
    with Builder() as b:
        cts = walk(b, program, linear, with_ct, masks)
        return b.build([ct.there.read() for ct in cts if type(ct) is Masked])


def walk(
    b: Builder, program: Program, linear: tuple[bool, ...], with_ct: tuple[bool, ...], masks: tuple[Any, ...]
) -> list[Cotangent | None]:
    """Write the known part of a Program and pull the rest: a cotangent for each linear input."""
    if any(eqn.primitive.multiple_results for eqn in program.equations):
        program, _ = separated(program, tuple([not flag for flag in linear]))
    moving = select(linear, program.inputs)
    early, late, unknown = divide(program.equations, moving)
    known: dict[Any, Atom] = {
        v: copy_input(b, v) for v, flag in zip(program.inputs, linear, strict=True) if not flag
    }
    given: list[Any] = [b.input(x.aval) for x in select(with_ct, program.outputs)]
    for i, mask in enumerate(masks):
        if mask is not None:
            given[i] = Masked(given[i], written(b.input(Aval(mask[0], np.dtype(bool))), mask))
    for eqn in early:
        b.source = eqn.source
        operands = tuple([known.get(x, x) for x in eqn.inputs])
        known.update(zip(eqn.outputs, b.emit(eqn.primitive, operands), strict=True))
    b.source = None
    cts = zip(program.outputs, scatter(with_ct, given), strict=True)
    sums = pull(b, late, unknown, known, list(cts))
    return [sums.get(v) for v in moving]


def instantiate(cts: Sequence[Atom | None], like: Sequence[Any]) -> list[Atom]:
    """Zeros in the place of what is absent; `like` has an aval an entry."""
    return [zeros(x.aval) if ct is None else ct for ct, x in zip(cts, like, strict=True)]
