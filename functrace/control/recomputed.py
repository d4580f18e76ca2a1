"""What loops stack for later ones: the values of fewest bytes from which those compute the rest again cheaply.

    least_stacked : Program -> Program

A loop over the steps of a backward pass reads what the loop of the forward pass has stacked. Much of it is a sum or a
product of other values; XLA would compute it twice in a Program without loops, and does so here. So a loop stacks a
minimum cut (`control/again.py`) between what it reads and what the others want of it. Entries of two loops that stand
at the same place of a stack belong together, whichever way the loops run. What is read of a stack besides, an entry or
two for a step that is no part of the loop, is computed from the same entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from functrace.control.again import least_kept
from functrace.control.groups import cut, needed_equations
from functrace.control.scan import Scan
from functrace.control.stacks import entry, rows_of
from functrace.ir import Atom, Builder, Equation, Literal, Program, Var
from functrace.primitives.space import Reshape
from functrace.primitives.structural import Slice, slice_along

FEW = 4  # entries of a stack that are rather computed again one by one than kept with it

Uses = dict[Any, list[Equation | None]]  # by variable, the equations that read it, and None for a result of the Program


class Read(NamedTuple):
    """A part of a stack, from `start` on, that a scan reads entry by entry, or one entry that a slice takes."""

    reader: Equation
    part: Any
    stack: Any
    start: int


class Plan(NamedTuple):
    """What a scan is to stack, and how the others make of it what they read.

    `stacks` and `consts` say what variables of the body are outside: entry by entry, and at each step.
    """

    maker: Equation
    results: list[tuple[Any, Any]]  # what is stacked, in the body and outside
    stacks: dict[Any, Any]
    consts: dict[Any, Any]
    again: list[Equation]
    gone: dict[Any, Any]  # by stack that is no more, the variable of the body
    reads: list[Read]  # of these


def least_stacked(program: Program) -> Program:
    """The Program with loops that stack least for one another."""
    uses, k = uses_in(program), 0
    while True:
        scans = [eqn for eqn in program.equations if type(eqn.primitive) is Scan]
        if k >= len(scans):
            return program
        plan = planned(scans[k], uses)
        if plan is not None:
            program = followed(program, plan)
            uses = uses_in(program)
        k += 1


def uses_in(program: Program) -> Uses:
    """Who reads what."""
    uses: Uses = defaultdict(list)
    for eqn in program.equations:
        for x in eqn.inputs:
            uses[x].append(eqn)
    for x in program.outputs:
        uses[x].append(None)
    return uses


def planned(maker: Equation, uses: Uses) -> Plan | None:
    """What a scan had better stack; None where that is what it does."""
    scan: Any = maker.primitive
    body = scan.body
    inner, outer = (cut(xs, scan.consts, scan.carry) for xs in (body.inputs, maker.inputs))
    consts, rows = (dict(zip(inner[i], outer[i], strict=True)) for i in (0, 2))
    made = [*zip(body.outputs, maker.outputs, strict=True)][scan.carry :]
    reads = {stack: reads_of(stack, uses) for _, stack in made}
    stay = [(x, stack) for x, stack in made if reads[stack] is None or (type(x) is not Var and reads[stack])]
    whole = {x: stack for x, stack in stay if type(x) is Var}
    wanted = {stack: x for x, stack in made if reads[stack] and type(x) is Var}
    given = {*consts, *rows, *whole}
    kept, again = least_kept(body.equations, given, [x for x in dict.fromkeys(wanted.values()) if x not in given])
    if set(kept) == set(wanted.values()):
        return None
    known = {x: stack for stack, x in wanted.items()}
    stacks = {x: known.get(x) or Var(x.aval.with_shape((scan.length, *x.aval.shape))) for x in kept} | whole | rows
    # Two stacks of one variable are one.
    gone = {stack: x for stack, x in wanted.items() if stacks.get(x) is not stack}
    results = [*stay, *[(x, stacks[x]) for x in kept]]
    return Plan(maker, results, stacks, consts, again, gone, [read for stack in gone for read in reads[stack] or ()])


def reads_of(stack: Any, uses: Uses) -> list[Read] | None:
    """Who reads a stack, where each is a scan that reads it entry by entry, or takes one of a few entries."""
    found: list[Read] = []
    singles = 0
    for eqn in uses.get(stack, ()):
        if eqn is not None and reads_rows(eqn, stack):
            found.append(Read(eqn, stack, stack, 0))
            continue
        if eqn is None or type(eqn.primitive) is not Slice:
            return None
        part = eqn.outputs[0]
        array, start = rows_of({part: eqn}.get, part, part.aval.shape[0])
        readers = uses.get(part, [])
        if array is stack and readers and all([reads_rows(reader, part) for reader in readers]):
            found += [Read(reader, part, stack, start) for reader in readers if reader is not None]
        elif array is stack and part.aval.shape[0] == 1 and singles < FEW:
            found.append(Read(eqn, part, stack, start))
            singles += 1
        else:
            return None
    return found


def reads_rows(eqn: Equation | None, stack: Any) -> bool:
    """Whether an equation is a scan that reads a stack entry by entry alone."""
    scan: Any = eqn.primitive if eqn is not None else None
    return eqn is not None and type(scan) is Scan and stack not in eqn.inputs[: scan.consts + scan.carry]


def followed(program: Program, plan: Plan) -> Program:
    """The Program with what is planned."""
    scan: Any = plan.maker.primitive
    slices = {eqn.outputs[0]: eqn for eqn in program.equations if type(eqn.primitive) is Slice}
    of_reader: dict[Any, list[Read]] = defaultdict(list)
    for read in plan.reads:
        of_reader[read.reader].append(read)
    equations: list[Equation] = []
    for eqn in program.equations:
        if eqn is plan.maker:
            inner, outer = zip(*plan.results, strict=True) if plan.results else ((), ())
            body = Program(scan.body.inputs, scan.body.equations, (*scan.body.outputs[: scan.carry], *inner))
            outputs = (*eqn.outputs[: scan.carry], *outer)
            equations.append(Equation(replace(scan, body=body), eqn.inputs, outputs, eqn.source))
            with Builder() as b:
                entries = [entry_again(b, plan, read) for read in plan.reads if read.reader.outputs[0] in slices]
            equations += [*b.equations, *entries]
        elif eqn not in of_reader:
            equations.append(eqn)
        elif eqn.outputs[0] not in slices:
            with Builder() as b:
                loop = read_again(b, plan, eqn, of_reader[eqn], slices)
            equations += [*b.equations, loop]
    whole = Program(program.inputs, tuple(equations), program.outputs)
    return Program(program.inputs, needed_equations(whole, program.outputs), program.outputs)


def needed(plan: Plan, wanted: Sequence[Any]) -> tuple[list[Equation], list[Any]]:
    """The equations that make variables of the body again, and what these read and what is there."""
    missing, equations = set(wanted), []
    for eqn in reversed(plan.again):
        if not missing.isdisjoint(eqn.outputs):
            equations.append(eqn)
            missing.update(eqn.inputs)
    return equations[::-1], [x for x in [*plan.consts, *plan.stacks] if x in missing]


def entry_again(b: Builder, plan: Plan, read: Read) -> Equation:
    """One entry of a stack that is no more; what it is made of is written in `b`."""
    b.source = read.reader.source
    variable = plan.gone[read.stack]
    equations, sources = needed(plan, [variable])
    values = {x: plan.consts[x] if x in plan.consts else entry(plan.stacks[x], read.start) for x in sources}
    copy(b, equations, values)
    return Equation(Reshape(read.part.aval.shape), (values[variable],), (read.part,), read.reader.source)


def read_again(b: Builder, plan: Plan, eqn: Equation, reads: Sequence[Read], slices: dict[Any, Equation]) -> Equation:
    """A scan that read stacks which are no more; the parts of others that it reads are written in `b`."""
    b.source = eqn.source
    scan: Any = eqn.primitive
    gone = {read.part: read for read in reads}
    consts, inits, parts = cut(eqn.inputs, scan.consts, scan.carry)
    inner = cut(scan.body.inputs, scan.consts, scan.carry)
    rest = [k for k, part in enumerate(parts) if part not in gone]
    with Builder() as inside:
        fixed, carry = ([inside.input(v.aval) for v in vs] for vs in inner[:2])
        entries: dict[int, Atom] = {k: inside.input(inner[2][k].aval) for k in rest}
        there = {rows_of(slices.get, parts[k], scan.length): entries[k] for k in rest}
        more_consts: dict[Atom, Var] = {}
        more_stacks: dict[Atom, Var] = {}
        for start in dict.fromkeys([read.start for read in reads]):
            equations, sources = needed(plan, [plan.gone[read.stack] for read in reads if read.start == start])
            values: dict[Any, Any] = {}
            for x in sources:
                outside = plan.consts.get(x) or plan.stacks[x]
                if type(outside) is Literal:
                    values[x] = outside
                elif x in plan.consts:
                    values[x] = more_consts.setdefault(outside, Var(outside.aval))
                elif (outside, start) in there:
                    values[x] = there[outside, start]
                else:
                    with b:
                        part = slice_along(outside, 0, start, start + scan.length)
                    values[x] = there[outside, start] = more_stacks.setdefault(part, Var(row(part)))
            copy(inside, equations, values)
            for k, part in enumerate(parts):
                if part in gone and gone[part].start == start:
                    entries[k] = values[plan.gone[gone[part].stack]]
        outputs = inside.inline(scan.body, [*fixed, *carry, *[entries[k] for k in range(len(parts))]])
        inside.inputs[len(fixed) : len(fixed)] = more_consts.values()
        inside.inputs.extend(more_stacks.values())
        body = inside.build(outputs)
    operands = (*consts, *more_consts, *inits, *[parts[k] for k in rest], *more_stacks)
    return Equation(replace(scan, body=body, consts=scan.consts + len(more_consts)), operands, eqn.outputs, eqn.source)


def copy(b: Builder, equations: Sequence[Equation], env: dict[Any, Atom]) -> None:
    """Write equations again, their operands looked up in `env`, where their results go."""
    for eqn in equations:
        b.source = eqn.source
        env.update(zip(eqn.outputs, b.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs])), strict=True))


def row(stack: Atom) -> Any:
    """The type of an entry of a stack."""
    return stack.aval.with_shape(stack.aval.shape[1:])
