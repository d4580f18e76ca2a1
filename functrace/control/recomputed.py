"""What one loop makes for a later one, that one computes again, where this takes less than to write and to read it.

    recomputed    : operands of a scan -> operands of a scan
    entries_again : Program -> Program

A loop over the steps of a backward pass reads what the loop of the forward pass has stacked. Much of it is a sum or a
product of two other stacks that are read too; XLA would compute it twice in a Program without loops, and does so here.
Entries of two loops that stand at the same place of a stack belong together, whichever way the loops run. What is read
of a stack besides, an entry or two for a step that is no part of the loop, is computed from the same entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from functrace.control.again import found_again
from functrace.control.groups import cut
from functrace.control.scan import Scan
from functrace.control.stacks import entry, rows_of
from functrace.ir import Atom, Builder, Equation, Literal, Program, Var
from functrace.primitives.space import reshape
from functrace.primitives.structural import Slice, slice_along
from functrace.rewrites.memo import copy_input

FEW = 4  # entries of a stack that are rather computed again one by one than kept with it


class Places(NamedTuple):
    """By variable of a scan's body what it is outside: a constant, an entry of an operand, an entry of a result."""

    consts: dict[Any, Atom]
    rows: dict[Any, Atom]
    results: dict[Any, Atom]


def places(maker: Equation) -> Places:
    """What the variables of a scan's body are outside."""
    scan: Any = maker.primitive
    inner, outer = (cut(xs, scan.consts, scan.carry) for xs in (scan.body.inputs, maker.inputs))
    results = zip(scan.body.outputs[scan.carry :], maker.outputs[scan.carry :], strict=True)
    return Places(dict(zip(inner[0], outer[0], strict=True)), dict(zip(inner[2], outer[2], strict=True)), dict(results))


def recomputed(
    b: Builder, body: Program, consts: Sequence[Atom], inits: Sequence[Atom], stacks: Sequence[Atom], length: int
) -> tuple[Program, list[Atom], list[Atom]]:
    """The body, constants and stacks of a scan that needs fewer stacks."""
    consts, read = list(consts), dict(enumerate(stacks))
    recipes: list[tuple[Places, int, dict[int, list[Equation]], dict[int, Any]]] = []
    parts = [rows_of(b.definition, x, length) for x in stacks]
    for maker, start in dict.fromkeys([(b.definition(x), start) for x, start in parts]):
        if maker is None or type(maker.primitive) is not Scan:
            continue
        at = places(maker)
        results = {x: v for v, x in at.results.items()}
        made = {k: results[x] for k, (x, first) in enumerate(parts) if x in results and first == start}
        found = found_again(maker.primitive.body.equations, {*at.consts, *at.rows}, made)
        if found:
            recipes.append((at, start, found, made))
            for k in found:
                del read[k]
    if not recipes:
        return body, consts, list(stacks)
    with Builder() as inner:
        first = [inner.input(x.aval) for x in consts]
        carry = [inner.input(x.aval) for x in inits]
        entries = {k: inner.input(row(x)) for k, x in read.items()}
        more_consts: dict[Atom, Var] = {}
        more_stacks: dict[Atom, Var] = {}
        for at, start, found, made in recipes:
            env: dict[Any, Any] = {made[k]: x for k, x in entries.items() if k in made}
            needed = {x for equations in found.values() for eqn in equations for x in eqn.inputs}
            for v, x in at.consts.items():
                if v in needed:
                    env[v] = x if type(x) is Literal else more_consts.setdefault(x, Var(x.aval))
            for v, x in at.rows.items():
                if v in needed and v not in env:
                    with b:
                        part = slice_along(x, 0, start, start + length)
                    env[v] = more_stacks.setdefault(part, Var(row(part)))
            for k in found:
                copy(inner, found[k], env)
                entries[k] = env[made[k]]
        outputs = inner.inline(body, [*first, *carry, *[entries[k] for k in range(len(stacks))]])
        inner.inputs[len(first) : len(first)] = more_consts.values()
        inner.inputs.extend(more_stacks.values())
        return inner.build(outputs), [*consts, *more_consts], [*read.values(), *more_stacks]


def entries_again(program: Program) -> Program:
    """The Program without stacks of which a few entries are read, and which others tell."""
    scans = {eqn: places(eqn) for eqn in program.equations if type(eqn.primitive) is Scan}
    makers = {x: eqn for eqn, at in scans.items() for x in at.results.values()}
    slices = {eqn.outputs[0]: eqn for eqn in program.equations if type(eqn.primitive) is Slice}
    taken = {v: place for v in slices if (place := rows_of(slices.get, v, 1))[0] in makers}
    reads = Counter([x for eqn in program.equations for x in eqn.inputs if x in makers])
    singles = Counter([stack for stack, _ in taken.values()])
    whole = {x for x in makers if reads[x] > min(singles[x], FEW)}.union(program.outputs)
    found: dict[Any, list[Equation]] = {}
    for eqn, at in scans.items():
        scan: Any = eqn.primitive
        given = {*at.consts, *at.rows, *[v for v, x in at.results.items() if x in whole]}
        made = {x: v for v, x in at.results.items() if x not in whole}
        found |= found_again(scan.body.equations, given, made)
    if not found:
        return program
    with Builder() as b:
        env: dict[Any, Atom] = {v: copy_input(b, v) for v in program.inputs}
        for eqn in program.equations:
            place = taken.get(eqn.outputs[0]) if eqn.outputs else None
            if place is None or place[0] not in found:
                copy(b, [eqn], env)
                continue
            stack, i = place
            at = scans[makers[stack]]
            [made] = [v for v, x in at.results.items() if x is stack]
            again = [each for x, equations in found.items() if makers[x] is makers[stack] for each in equations]
            needed = {x for each in again for x in each.inputs}
            stacks = {v: x for v, x in (at.rows | at.results).items() if v in needed and x not in found}
            values = {v: env.get(x, x) for v, x in at.consts.items()}
            values |= {v: entry(env.get(x, x), i) for v, x in stacks.items()}
            copy(b, again, values)
            env[eqn.outputs[0]] = reshape(values[made], eqn.outputs[0].aval.shape)
        return b.build([env.get(x, x) for x in program.outputs])


def copy(b: Builder, equations: Sequence[Equation], env: dict[Any, Atom]) -> None:
    """Write equations again, their operands looked up in `env`, where their results go."""
    for eqn in equations:
        b.source = eqn.source
        env.update(zip(eqn.outputs, b.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs])), strict=True))


def row(stack: Atom) -> Any:
    """The type of an entry of a stack."""
    return stack.aval.with_shape(stack.aval.shape[1:])
