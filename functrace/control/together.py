"""What is added up of each entry of a stack is added up of the stack.

    together : Program -> Program     [sum(f(y)) for y in ys]  ->  list(vmap(lambda y: sum(f(y)))(ys)), ys of a loop

Where a loop has made the gradients of all layers, clipping asks for the norm of each, and a guard whether it is finite:
for XLA a kernel or more for each parameter, which it compiles in 1 to 2 ms. Here they are one for all layers, that
reads the stack from end to end.

Entries of one stack are lanes. Equations that do the same to each, entry by entry, are a family, and its results lanes
too; what else they read, numbers as a rule, is the same for all. A family that makes much less than it reads is taken
together. Others stay: to write a stack anew would cost time and memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from functrace.ir import Atom, Builder, Equation, Program, Var
from functrace.lower.entries import entries
from functrace.primitives.elementwise import Elementwise
from functrace.primitives.space import reshape
from functrace.primitives.stacking import unstack

FEWEST = 8  # entries that are worth it
LESS = 16  # how many times more entries are read than made
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "dot_general"})


class Entry(NamedTuple):
    """An entry, along its first axis, of a stack that a loop has made, or of a row of numbers."""

    stack: Var
    place: int


@dataclass(eq=False)
class Family:
    """Equations that do the same to entries of one stack, by the entries' places; without any, the entries."""

    number: int  # in the order in which they are met
    stack: Var
    shape: tuple[int, ...]  # of an entry
    equations: dict[int, Equation] = field(default_factory=dict)

    @property
    def is_reduction(self) -> bool:
        """Whether it is to be taken together: of most entries of a stack, and little is made of much."""
        if len(self.equations) < max(FEWEST, self.stack.aval.shape[0] / 2):
            return False
        eqn = next(iter(self.equations.values()))
        read = max([x.aval.size for x in eqn.inputs])
        return eqn.primitive.name in REDUCTIONS and LESS * eqn.outputs[0].aval.size <= read


def is_elementwise(eqn: Equation) -> bool:
    """Whether XLA may do an equation in the kernel that reads it."""
    return eqn.primitive.fuses or isinstance(eqn.primitive, Elementwise)


def is_entry_by_entry(eqn: Equation) -> bool:
    """Whether an equation makes each entry of an array of entries at one place, or of numbers."""
    if len(eqn.outputs) != 1 or not is_elementwise(eqn):
        return False
    size = eqn.outputs[0].aval.size
    return size > 1 and all([x.aval.size in (1, size) for x in eqn.inputs])


def entries_in(program: Program) -> dict[Any, Entry]:
    """By variable that is an entry, in whatever shape, which it is."""
    stacks: set[Any] = set()
    found: dict[Any, Entry] = {}
    for eqn in program.equations:
        name = eqn.primitive.name
        if eqn.primitive.runs():
            stacks.update(eqn.outputs)
            continue
        if name == "unstack" and eqn.inputs[0].aval.ndim == 1:
            stacks.update(eqn.inputs)
        stack: Any = eqn.inputs[0] if eqn.inputs else None
        if stack in stacks:
            found.update([(v, Entry(stack, i)) for v, i in zip(eqn.outputs, entries(eqn), strict=False)])
        elif name == "reshape" and stack in found:
            found[eqn.outputs[0]] = found[stack]
    return found


def families(program: Program, taken: dict[Any, Entry]) -> dict[Any, tuple[Family, int]]:
    """By variable that is a lane, of which family it is, and its place."""
    found: dict[Any, Family] = {}
    lanes: dict[Any, tuple[Family, int]] = {}
    for v, (stack, place) in taken.items():
        family = found.setdefault((stack, v.aval), Family(len(found), stack, v.aval.shape))
        lanes[v] = family, place
    for eqn in program.equations:
        read = [lanes[x] for x in eqn.inputs if x in lanes]
        if len({(family.stack.aval.shape[0], place) for family, place in read}) != 1:
            continue
        is_done = not lanes.keys().isdisjoint(eqn.outputs)  # an entry in another shape
        if not is_done and (eqn.primitive.name in REDUCTIONS or is_entry_by_entry(eqn)):
            key = eqn.primitive, *[lanes[x][0] if x in lanes else x for x in eqn.inputs]
            (first, place), *_ = read
            family = found.setdefault(key, Family(len(found), first.stack, eqn.outputs[0].aval.shape))
            if place not in family.equations:
                family.equations[place] = eqn
                lanes[eqn.outputs[0]] = family, place
    return lanes


def together(program: Program) -> Program:
    """The Program whose reductions of entries of one stack are one reduction."""
    taken = entries_in(program)
    if len(taken) < FEWEST or program.has_effects:
        return program
    lanes = families(program, taken)
    chosen = {eqn: family for family, _ in lanes.values() if family.is_reduction for eqn in family.equations.values()}
    if not chosen:
        return program
    rest = Builder()
    rest.inputs = [*program.inputs]
    env: dict[Any, Atom] = {}
    made: dict[Family, Atom] = {}
    with rest:
        for eqn in program.equations:
            family = chosen.get(eqn)
            if family is None:
                inputs = tuple([env.get(x, x) for x in eqn.inputs])
                rest.equations.append(Equation(eqn.primitive, inputs, eqn.outputs, eqn.source))
            elif eqn.outputs[0] not in env:
                rest.source = eqn.source
                for needed in sources(family, lanes):
                    if needed not in made:
                        made[needed] = whole(needed, lanes, made, env)
                rows = unstack(made[family], 0)
                env.update([(q.outputs[0], rows[place]) for place, q in family.equations.items()])
    return rest.build([env.get(y, y) for y in program.outputs])


def sources(family: Family, lanes: dict[Any, tuple[Family, int]]) -> list[Family]:
    """A family and those that it reads, at any remove, each after those that it reads."""
    found = {family}
    todo = [family]
    while todo:
        read = {lanes[x][0] for eqn in [*todo.pop().equations.values()][:1] for x in eqn.inputs if x in lanes}
        todo += read - found
        found |= read
    return sorted(found, key=lambda each: each.number)


def whole(family: Family, lanes: dict[Any, tuple[Family, int]], made: dict[Family, Atom], env: dict[Any, Atom]) -> Atom:
    """What a family makes of all entries, along a leading axis, from what those that it reads make."""
    size = family.stack.aval.shape[0]
    if not family.equations:
        return reshape(family.stack, (size, *family.shape))
    eqn = next(iter(family.equations.values()))
    operands = [made[lanes[x][0]] if x in lanes else env.get(x, x) for x in eqn.inputs]
    y, _ = eqn.primitive.batch(size, operands, [x in lanes for x in eqn.inputs])
    return y
