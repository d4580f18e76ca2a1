"""Arrays that are entries of one array: which, and that array put together from them or cut to some of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from functrace.ir import Atom, Equation, Literal, Program, Var
from functrace.primitives.constant import constant
from functrace.primitives.elementwise import convert_element_type
from functrace.primitives.space import Reshape, reshape, transpose
from functrace.primitives.stacking import Stack, Unstack
from functrace.primitives.structural import Concatenate, Slice, concatenate, rev, slice_along, with_size

Place = tuple[Any, int]  # what an entry is of, as `(array, axis, shape of the entry)`, and which one
Part = tuple[Any, int, int]  # the same of several entries in order: the first one and the last one


def in_parts(program: Program) -> Program:
    """The Program whose arrays are taken apart by slices and put together by concatenation, as this file knows them.

    An entry of several axes, `x[i, j]`, is an entry of an entry. The axis whose entries change least often from one
    slice to the next comes first: it is that of the outermost loop.
    """
    equations: list[Equation] = []
    changes = changes_of_axes(program.equations)
    entries: dict[Any, Var] = {}  # by array, axis and number
    for eqn in program.equations:
        prim: Any = eqn.primitive
        if type(prim) is Unstack:
            (array,) = eqn.inputs
            shape, d = array.aval.shape, prim.axis
            for i, v in enumerate(eqn.outputs):
                cuts = with_size((0,) * len(shape), d, i), with_size(shape, d, i + 1), (1,) * len(shape)
                part = Var(array.aval.with_shape(with_size(shape, d, 1)))
                equations.append(Equation(Slice(*cuts), (array,), (part,), eqn.source))
                equations.append(Equation(Reshape(v.aval.shape), (part,), (v,), eqn.source))
        elif type(prim) is Stack:
            thick = with_size(eqn.outputs[0].aval.shape, prim.axis, 1)
            pieces = [Var(x.aval.with_shape(thick)) for x in eqn.inputs]
            equations += [
                Equation(Reshape(thick), (x,), (v,), eqn.source) for x, v in zip(eqn.inputs, pieces, strict=True)
            ]
            equations.append(Equation(Concatenate(prim.axis), tuple(pieces), eqn.outputs, eqn.source))
        elif type(prim) is Slice:
            equations += axis_by_axis(eqn, changes[eqn.inputs[0]], entries)
        else:
            equations.append(eqn)
    return Program(program.inputs, tuple(equations), program.outputs)


def axis_by_axis(eqn: Equation, changes: Counter[int], entries: dict[Any, Var]) -> Iterator[Equation]:
    """A slice as one along each axis of which it takes one entry, and one of the rest; `entries` are those that there
    are."""
    prim: Any = eqn.primitive
    (x,), start, limit = eqn.inputs, prim.start, prim.limit
    cut = cut_axes(prim, x)
    single = [a for a in cut if limit[a] == start[a] + 1]
    for d in sorted(single, key=lambda a: changes[a])[: len(cut) - 1]:
        shape, place = x.aval.shape, (x, d, start[d])
        if place not in entries:
            entries[place] = Var(x.aval.with_shape(with_size(shape, d, 1)))
            one = Slice(with_size((0,) * len(shape), d, start[d]), with_size(shape, d, limit[d]), (1,) * len(shape))
            yield Equation(one, (x,), (entries[place],), eqn.source)
        x, start, limit = entries[place], with_size(start, d, 0), with_size(limit, d, 1)
    yield Equation(Slice(start, limit, prim.strides), (x,), eqn.outputs, eqn.source)


def cut_axes(prim: Slice, array: Atom) -> list[int]:
    """The axes of which a slice does not take all."""
    return [a for a, n in enumerate(array.aval.shape) if (prim.start[a], prim.limit[a], prim.strides[a]) != (0, n, 1)]


def changes_of_axes(equations: Sequence[Equation]) -> dict[Any, Counter[int]]:
    """By array, how often a slice of it begins elsewhere along an axis than the one before."""
    found: dict[Any, Counter[int]] = defaultdict(Counter)
    last: dict[Any, tuple[int, ...]] = {}
    for eqn in equations:
        prim: Any = eqn.primitive
        if type(prim) is Slice:
            (array,) = eqn.inputs
            before = last.get(array, prim.start)
            found[array].update([a for a, (i, j) in enumerate(zip(before, prim.start, strict=True)) if i != j])
            last[array] = prim.start
    return found


def entry(stack: Atom, i: int) -> Atom:
    """Entry i of a stack, along its first axis."""
    return reshape(slice_along(stack, 0, i, i + 1), stack.aval.shape[1:])


def entry_of(definition: Callable[[Any], Equation | None], x: Atom) -> Place | None:
    """What `x` is an entry of, as `array[..., i, ...]` is written, in whatever shape, and which one."""
    taken = definition(x)
    while taken is not None and type(taken.primitive) is Reshape:
        taken = definition(taken.inputs[0])
    if taken is None or type(taken.primitive) is not Slice:
        return None
    prim, (array,) = taken.primitive, taken.inputs
    cut = cut_axes(prim, array)
    if len(cut) != 1 or prim.limit[cut[0]] != prim.start[cut[0]] + 1:
        return None
    return (array, cut[0], x.aval.shape), prim.start[cut[0]]


def rows_of(definition: Callable[[Any], Equation | None], x: Atom, length: int) -> tuple[Atom, int]:
    """The stack that `x`, of `length` entries, is a part of, and the first of them; itself where it is none."""
    made = definition(x)
    if made is None or type(made.primitive) is not Slice:
        return x, 0
    prim, (array,) = made.primitive, made.inputs
    start, shape = prim.start[0], array.aval.shape
    is_part = (prim.start[1:], prim.limit) == ((0,) * len(shape[1:]), (start + length, *shape[1:]))
    return (array, start) if is_part and set(prim.strides) == {1} else (x, 0)


def parts(xs: Sequence[Atom], place: Callable[[Atom], Place | None]) -> list[Part | Atom]:
    """What a stack of `xs` is put together from: pieces of other stacks, and single values."""
    found: list[Part | Atom] = []
    for x in xs:
        at = place(x)
        before = found[-1] if found else None
        if at is None:
            found.append(x)
        elif type(before) is tuple and before[0] == at[0] and (
            at[1] == before[2] + 1 >= before[1] + 1 or at[1] == before[2] - 1 <= before[1] - 1
        ):
            found[-1] = (before[0], before[1], at[1])
        else:
            found.append((at[0], at[1], at[1]))
    return found


def stacked(xs: Sequence[Part | Atom]) -> Atom:
    """The stack that is put together from these parts."""
    literals = [x for x in xs if type(x) is Literal]
    if len(literals) == len(xs):
        aval = literals[0].aval
        return convert_element_type(constant(np.array([x.value for x in literals])), aval.dtype, aval.weak_type)
    pieces: list[Atom] = []
    for x in xs:
        if type(x) is tuple:
            (array, axis, shape), i, k = x
            first = transpose(array, (axis, *[a for a in range(array.aval.ndim) if a != axis])) if axis else array
            rows = reshape(first, (array.aval.shape[axis], *shape))
            piece = slice_along(rows, 0, min(i, k), max(i, k) + 1)
            pieces.append(rev(piece, (0,)) if k < i else piece)
        elif isinstance(x, Atom):
            pieces.append(reshape(x, (1, *x.aval.shape)))
    return pieces[0] if len(pieces) == 1 else concatenate(pieces, 0)


def joined_entries(eqn: Equation, xs: Sequence[Atom], place: Callable[[Atom], Place | None]) -> Atom | None:
    """What an equation that joins `xs` makes, entries of one array that are in order as a part of it; None where there
    are none."""
    prim = eqn.primitive
    found = parts(xs, place) if type(prim) is Concatenate else []
    if len(found) == len(xs) or type(prim) is not Concatenate:
        return None
    d, ndim = prim.dimension, xs[0].aval.ndim
    pieces: list[Atom] = []
    rest = iter(xs)
    for part in found:
        own = [next(rest) for _ in range(abs(part[2] - part[1]) + 1 if type(part) is tuple else 1)]
        if len(own) > 1:
            rows = stacked([part])
            before_axis = transpose(rows, (*range(1, d + 1), 0, *range(d + 1, ndim + 1))) if d else rows
            own = [reshape(before_axis, with_size(own[0].aval.shape, d, sum([x.aval.shape[d] for x in own])))]
        pieces += own
    return concatenate(pieces, d)
