"""A scan over a part of a stack reads the stack where it is.

    read_in_place : Program -> Program          scan(body, xs[a:b])  ->  scan(body', a, xs)

XLA copies a part of an array that a loop runs over. What a loop of a forward pass has stacked, the one of the backward
pass often reads but for the first entry or the last, as the equations of its first step differ: all would be there
twice. So the body gets the whole stack and counts its steps, which is how XLA runs a scan anyway. Stacks that no loop
has made stay operands: where JAX differentiates a compiled function, it adds up whole arrays for what a body indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from functrace.control.groups import cut, needed_equations
from functrace.control.scan import Scan
from functrace.control.stacks import rows_of
from functrace.ir import Atom, Aval, Builder, Equation, Literal, Program, Var
from functrace.primitives.elementwise import add
from functrace.primitives.indexing import dynamic_slice
from functrace.primitives.space import reshape
from functrace.primitives.structural import Slice

COUNTER = Aval((), np.dtype(np.int32))


def read_in_place(program: Program) -> Program:
    """The Program whose scans have no part of another scan's result as an operand."""
    scans = [eqn for eqn in program.equations if type(eqn.primitive) is Scan]
    made = {v for eqn in scans for v in eqn.outputs}
    slices = [eqn for eqn in program.equations if type(eqn.primitive) is Slice]
    definitions = {eqn.outputs[0]: eqn for eqn in slices if eqn.inputs[0] in made}
    equations = [in_place(eqn, definitions) if type(eqn.primitive) is Scan else eqn for eqn in program.equations]
    if all([new is old for new, old in zip(equations, program.equations, strict=True)]):
        return program
    whole = Program(program.inputs, tuple(equations), program.outputs)
    return Program(program.inputs, needed_equations(whole, program.outputs), program.outputs)


def in_place(eqn: Equation, definitions: dict[Any, Equation]) -> Equation:
    """A scan that reads parts of stacks in place."""
    scan: Any = eqn.primitive
    consts, inits, stacks = cut(eqn.inputs, scan.consts, scan.carry)
    places = [rows_of(definitions.get, x, scan.length) for x in stacks]
    found = {k: place for k, place in enumerate(places) if place[0] is not stacks[k]}
    if not found:
        return eqn
    rest = [x for k, x in enumerate(stacks) if k not in found]
    arrays = [array for array, _ in found.values()]
    first, step = (scan.length - 1, -1) if scan.reverse else (0, 1)
    inputs = (*consts, *arrays, *inits, Literal(first, COUNTER), *rest)
    carried, stacked = cut(eqn.outputs, scan.carry)
    body = counting(scan, [x.aval for x in arrays], {k: start for k, (_, start) in found.items()}, step)
    counts = replace(scan, body=body, consts=scan.consts + len(arrays), carry=scan.carry + 1)
    return Equation(counts, inputs, (*carried, Var(COUNTER), *stacked), eqn.source)


def counting(scan: Scan, avals: Sequence[Aval], starts: dict[int, int], step: int) -> Program:
    """The body of a scan that takes the entries `starts` says of whole stacks by the number of its step."""
    consts, carry, rows = cut(scan.body.inputs, scan.consts, scan.carry)
    with Builder() as b:
        fixed = [b.input(v.aval) for v in consts]
        arrays = [b.input(aval) for aval in avals]
        carried = [b.input(v.aval) for v in carry]
        counter = b.input(COUNTER)
        entries: dict[int, Atom] = {k: b.input(v.aval) for k, v in enumerate(rows) if k not in starts}
        for (k, start), array in zip(starts.items(), arrays, strict=True):
            shape = array.aval.shape
            corner = [add(counter, start), *[Literal(0, COUNTER)] * (len(shape) - 1)]
            entries[k] = reshape(dynamic_slice(array, corner, (1, *shape[1:])), shape[1:])
        outputs = b.inline(scan.body, [*fixed, *carried, *[entries[k] for k in range(len(rows))]])
        after, made = cut(outputs, scan.carry)
        return b.build([*after, add(counter, step), *made])
