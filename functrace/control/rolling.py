"""Repeated runs of equations become one loop.

    rolled : Program -> Program        n times the same equations -> one scan of length n

A deep model that is written as a Python loop over its layers is a Program in which the same equations come again and
again: in the forward pass, in the backward pass, and in the updates of the optimizer. XLA takes more than twice as long
to compile twice as many; a scan compiles its body once.

A run is found by its period. Equations that have the same primitive, parameters and types have one number, so a Program
is a string of numbers, and a run of n repetitions is a place where the string is its own copy, shifted by the period.
In a run each operand is one of five things, the same one in every repetition:

    a number            the body has it too; one each where they differ, as the times of a solver do
    internal            made by the same repetition: a variable of the body
    carried             made by the repetition before, or two or three before: a carry of the scan, one for each
    constant            one value, made before the run: a constant of the scan
    one each            another value for each repetition, made before the run: an operand of the scan, stacked

What later equations read of one repetition or of several comes out stacked. A run that reads what another one made
finds it stacked already, in the same order or in the opposite one, as the backward pass does; nothing is copied then.

Whether a loop pays is a matter of the arrays that it copies. XLA compiles a kernel once however often it comes, so
that layers with parameters of their own cost little more than to write them down; to stack those parameters, and to
take their gradients out of a stack, costs a piece of code and time for each. Repetitions that share their parameters,
as the steps of a solver, of a recurrent network, of a training loop inside a loss, copy nothing. So `rolled(program)`
makes the loops that save `ENOUGH` equations, and that cut no kernel in two: where all that is repeated is elementwise,
XLA runs many repetitions as one kernel. Of these it keeps those that together are worth most, a loop put at `A_LOOP`
equations, and an array put into a stack or taken out of one at `EACH`: where the steps of a solver are differentiated
twice, the first loop copies much, and the others read what it stacks; a loop that saves but `SOME` may stack for many.
In a loop of fewer than `SHORT` repetitions an array is put at `MORE`: its kernels are compiled besides those of the
repetition that differs, which would serve all without it. Where all are single numbers such a loop takes longer to
compile and to run: XLA makes one kernel of them, however many they are.

Where what one repetition does has runs in it, as the steps of recurrent layers, loops over the steps come first, or
those over the layers, whichever leaves less to compile. Calls of jitted functions in a loop are written out.

On a CPU, loops that save `MUCH`, as those over the layers of a deep model, forward and backward, may copy an array for
`LESS` equations. What XLA for CPU does grows with the square of the kernels, and it loads fewer: a deep transformer
starts in two thirds to half of the time, or, found on disk, in a third. Such a loop holds all that it copies until it
ends. So what it copies must be little beside what it keeps, which is there without it too: parameters beside a large
batch. `rolled(program, always=True)` makes all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any, NamedTuple

import jax

from functrace.control.call import Call
from functrace.control.in_place import read_in_place
from functrace.control.recomputed import copy, least_stacked, row
from functrace.control.scan import Scan
from functrace.control.stacks import entry, entry_of, in_parts, joined_entries, parts, stacked
from functrace.control.together import is_elementwise, together
from functrace.ir import Atom, Builder, Equation, Literal, Program
from functrace.ir.repeats import Stretch, stretches
from functrace.primitives.space import Reshape, zeros
from functrace.primitives.structural import Concatenate, Slice
from functrace.rewrites import memoised
from functrace.rewrites.memo import copy_input

LEAST = 16  # equations that a loop saves
ENOUGH = 256  # equations that it saves where nobody asked for it: XLA compiles fewer in less than half a second
A_LOOP = 128  # equations that a loop costs as much as
SOME = 64  # equations that a loop saves that stacks what others read
EACH = 16  # equations that it saves for each array that is copied
SHORT, MORE = 8, 64  # the same for a loop of fewer repetitions
MUCH, LESS = 600, 4  # the same for a loop that saves so many
ROOM = 4  # bytes that loops keep for one another, to each byte that is copied, for copies to be that cheap
SMALL = 1024  # entries of an array below which a kernel of its own costs nothing
FEWEST = 3  # repetitions that are worth a loop
OLDEST = 3  # repetitions ago that a value is carried from, as two-step methods do


def sizes(equations: Sequence[Equation]) -> list[int]:
    """The number of equations that each one is, with those of the Programs that it runs."""
    return [1 + sum([size(run.program) for run in eqn.primitive.runs()]) for eqn in equations]


@memoised
def size(program: Program) -> int:
    """The number of its equations, with those of the Programs that they run."""
    return sum(sizes(program.equations))


def numbered(equations: Sequence[Equation]) -> list[int]:
    """A number for each equation: equal for equal primitives, parameters and types, whatever literals they read."""
    numbers: dict[Any, int] = {}
    return [
        numbers.setdefault(
            (
                eqn.primitive,
                tuple([(type(x), x.aval) for x in eqn.inputs]),
                tuple([v.aval for v in eqn.outputs]),
            ),
            len(numbers),
        )
        for eqn in equations
    ]


class Carried(NamedTuple):
    """Result `j` of equation `q`, of as many repetitions before as there are `inits`.

    These are what it is in the first repetition, the youngest one first.
    """

    q: int
    j: int
    inits: tuple[Atom, ...]


@dataclass(frozen=True)
class Loop:
    """`count` repetitions of `period` equations from `start` on, as a scan.

    Operands of the body are numbered as they come. `constants`, `carried` and `each` say for an operand what it is: its
    value; which result it is, of a repetition before; its values by repetition. Of results `(q, j)` that are read
    outside, those of the last repetitions that are carried anyway are `final`, with how many before the end, if no
    others are read. The rest is in `every`.
    """

    start: int
    period: int
    count: int
    constants: dict[int, Atom]
    carried: dict[int, Carried]
    each: dict[int, tuple[Atom, ...]]
    final: tuple[tuple[int, int, int], ...]
    every: tuple[tuple[int, int], ...]

    @property
    def stretch(self) -> Stretch:
        """Where it is."""
        return Stretch(self.start, self.start + self.period * self.count, self.period)


def beginnings(program: Program, stretch: Stretch) -> list[int]:
    """Where in its first period a stretch may begin, so that fewest values go from one repetition to the next."""
    start, stop, period = stretch
    made = {v: i for i, eqn in enumerate(program.equations[start:stop]) for v in eqn.outputs}
    change = [0] * (stop - start + 1)
    last: dict[Any, int] = {}
    for i, eqn in enumerate(program.equations[start:stop]):
        last.update([(x, i) for x in eqn.inputs if x in made])
    for v, i in last.items():
        if i - made[v] <= OLDEST * period:
            change[made[v] + 1] += 1
            change[i + 1] -= 1
    alive = list(accumulate(change))
    middle = (stop - start) // period // 2 * period
    counts = [alive[middle + offset] for offset in range((stop - start) % period + 1)]
    fewest = min(counts)
    return [offset for offset, count in enumerate(counts) if count == fewest]


@memoised
def last_reads(program: Program) -> dict[Any, int]:
    """By variable, the equation that reads it last, or the number of all for what is returned."""
    found: dict[Any, int] = {x: i for i, eqn in enumerate(program.equations) for x in eqn.inputs}
    return {**found, **dict.fromkeys(program.outputs, len(program.equations))}


def found_in(program: Program, stretch: Stretch, offset: int) -> Loop | None:
    """The longest run in a stretch, begun so much later, whose repetitions have operands of the same kinds."""
    period = stretch.period
    base = stretch.start + offset
    count = (stretch.stop - base) // period
    repetitions = [program.equations[base + n * period : base + (n + 1) * period] for n in range(count)]
    made: dict[Any, tuple[int, int, int]] = {
        v: (n, q, j)
        for n, equations in enumerate(repetitions)
        for q, eqn in enumerate(equations)
        for j, v in enumerate(eqn.outputs)
    }
    operands = [[x for eqn in equations for x in eqn.inputs] for equations in repetitions]

    def kind(n: int, x: Atom) -> tuple[int, int, int] | None:
        # How many repetitions ago it was made, 0 to OLDEST, and where.
        if x not in made:
            return None
        m, q, j = made[x]
        return (n - m, q, j) if n - m <= OLDEST else None

    kinds = [[kind(n, x) for x in xs] for n, xs in enumerate(operands)]
    usual = kinds[count // 2]
    first, stop = count // 2, count // 2 + 1
    # What is made before, and is the same in two repetitions in a row, is a constant: the run ends where it changes.
    pairs = zip(operands[first], operands[min(stop, count - 1)], strict=True)
    fixed = [i for i, (x, y) in enumerate(pairs) if usual[i] is None and x is y and type(x) is not Literal]

    def is_fixed(n: int) -> bool:
        return all([operands[n][i] is operands[count // 2][i] for i in fixed])

    def begins(n: int) -> bool:
        # What the others have from a repetition before, the first ones have from elsewhere.
        return all([k == u or (k is None and u is not None and u[0] > 0) for k, u in zip(kinds[n], usual, strict=True)])

    while first > 0 and begins(first - 1) and is_fixed(first - 1):
        first -= 1
    while stop < count and kinds[stop] == usual and is_fixed(stop):
        stop += 1
    # From elsewhere are as many as it was made ago. What was made in the stretch, and longer ago than that, must have
    # been made before the run.
    for n in range(stop - 1, first - 1, -1):
        for x, k, u in zip(operands[n], kinds[n], usual, strict=True):
            if k is None and ((u is not None and n - first >= u[0]) or (x in made and made[x][0] >= first)):
                first = max(first, n - u[0] + 1 if u is not None else made[x][0] + 1)
    if stop - first < FEWEST:
        return None
    constants: dict[int, Atom] = {}
    carried: dict[int, Carried] = {}
    each: dict[int, tuple[Atom, ...]] = {}
    for i, k in enumerate(usual):
        xs = tuple([operands[n][i] for n in range(first, stop)])
        if k is not None and k[0]:
            carried[i] = Carried(k[1], k[2], xs[: k[0]][::-1])
        elif k is None and len(set(xs)) == 1:
            if type(xs[0]) is not Literal:
                constants[i] = xs[0]
        elif k is None:
            each[i] = xs
    if any([x.aval is not repetitions[first][q].outputs[j].aval for q, j, inits in carried.values() for x in inits]):
        return None
    begin, end = base + first * period, base + stop * period
    last = last_reads(program)
    read: dict[tuple[int, int], set[int]] = {}
    for v, (n, q, j) in made.items():
        if first <= n < stop and last.get(v, -1) >= end:
            read.setdefault((q, j), set()).add(n)
    ages = dict.fromkeys(read, 1)
    for q, j, inits in carried.values():
        ages[q, j] = max(len(inits), ages.get((q, j), 1))
    late = {at: ns for at, ns in read.items() if stop - min(ns) <= ages[at]}
    final = tuple([(*at, stop - n) for at, ns in late.items() for n in sorted(ns)])
    every = tuple([at for at in read if at not in late])
    return Loop(begin, period, stop - first, constants, carried, each, final, every)


def written(program: Program, loops: Sequence[Loop]) -> Program:
    """The Program with loops in the places of their equations."""
    with Builder() as b:
        env: dict[Any, Atom] = {v: copy_input(b, v) for v in program.inputs}
        place = lambda x: entry_of(b.definition, x)

        def write(equations: Sequence[Equation]) -> None:
            for eqn in equations:
                joined = joined_entries(eqn, [env.get(x, x) for x in eqn.inputs], place)
                if joined is not None:
                    env[eqn.outputs[0]] = joined
                else:
                    copy(b, [eqn], env)

        done = 0
        for loop in sorted(loops, key=lambda loop: loop.start):
            write(program.equations[done : loop.start])
            write_loop(b, program, loop, env)
            done = loop.stretch.stop
        write(program.equations[done:])
        return b.build([env.get(x, x) for x in program.outputs])


def write_loop(b: Builder, program: Program, loop: Loop, env: dict[Any, Atom]) -> None:
    """Write one loop; `env` says what stands for the variables of the Program."""
    constants = list(dict.fromkeys(loop.constants.values()))
    chains = loop.carried.values()
    slots = list(dict.fromkeys([Carried(q, j, xs[: n + 1]) for q, j, xs in chains for n in range(len(xs))]))
    each = list(dict.fromkeys(loop.each.values()))
    made = program.equations[loop.start : loop.start + loop.period]
    carries = {(slot.q, slot.j) for slot in slots}
    inits = [env.get(slot.inits[-1], slot.inits[-1]) for slot in slots]
    for q, j, _ in loop.final:
        if (q, j) not in carries:
            slots.append(Carried(q, j, made[q].outputs[j : j + 1]))
            inits.append(zeros(made[q].outputs[j].aval))
    values = [[env.get(x, x) for x in xs] for xs in each]
    place = lambda x: entry_of(b.definition, x)
    falling = [part[2] < part[1] for xs in values for part in parts(xs, place) if type(part) is tuple]
    backward = 2 * sum(falling) > len(falling)
    stacks = [stacked(parts(xs[::-1] if backward else xs, place)) for xs in values]
    fixed = [env.get(x, x) for x in constants]

    with Builder() as inner:
        of_constant = dict(zip(constants, [inner.input(x.aval) for x in fixed], strict=True))
        of_slot = dict(zip(slots, [inner.input(x.aval) for x in inits], strict=True))
        of_each = dict(zip(each, [inner.input(row(x)) for x in stacks], strict=True))
        stands: dict[int, Atom] = {
            **{i: of_constant[x] for i, x in loop.constants.items()},
            **{i: of_slot[slot] for i, slot in loop.carried.items()},
            **{i: of_each[xs] for i, xs in loop.each.items()},
        }
        values_in: dict[Any, Atom] = {}
        i = 0
        for eqn in made:
            places = range(i, i := i + len(eqn.inputs))
            operands = tuple([stands.get(k, values_in.get(x, x)) for k, x in zip(places, eqn.inputs, strict=True)])
            inner.source = eqn.source
            if type(eqn.primitive) is Call:  # so that it is seen what of its results follows from what
                results = inner.inline(eqn.primitive.program, operands)
            else:
                results = inner.emit(eqn.primitive, operands)
            values_in.update(zip(eqn.outputs, results, strict=True))
        younger = [of_slot.get(slot._replace(inits=slot.inits[:-1])) for slot in slots]
        carry = [y or values_in[made[slot.q].outputs[slot.j]] for y, slot in zip(younger, slots, strict=True)]
        body = inner.build([*carry, *[values_in[made[q].outputs[j]] for q, j in loop.every]])
    b.source = made[0].source
    results = Scan(body, len(fixed), len(slots), loop.count, backward)(*fixed, *inits, *stacks)
    for (q, j, ages), y in zip(slots, results, strict=False):
        env[program.equations[loop.stretch.stop - len(ages) * loop.period + q].outputs[j]] = y
    for (q, j), ys in zip(loop.every, results[len(slots) :], strict=True):
        for n in range(loop.count):
            v = program.equations[loop.start + n * loop.period + q].outputs[j]
            env[v] = entry(ys, loop.count - 1 - n if backward else n)


def hoisted(program: Program) -> Program:
    """The Program with what is made for all repetitions in front.

    That is what depends on no input, numbers that depend on numbers, and parts of arrays, as the rows of a sequence:
    those of inputs come first, those of what is made follow it at once. Parts of parts stay where they are, and so does
    what is made of a number that is another one each time.
    """
    free: set[Any] = set()
    own = of_own_numbers(program)
    numbers: set[Any] = {v for v in program.inputs if not v.aval.shape}
    whole: dict[Any, Any] = {}  # by what is a part of an array or all of it, the array
    cut: set[Any] = set()  # what is a part
    inputs = set(program.inputs)
    early: list[Equation] = []
    late: list[Equation] = []
    parts_of: dict[Any, list[Equation]] = {}
    for eqn in in_parts(program).equations:
        needs = [x for x in eqn.inputs if type(x) is not Literal and x not in free]
        if not needs and own.isdisjoint(eqn.outputs):
            free.update(eqn.outputs)
            early.append(eqn)
        elif needs and numbers.issuperset(needs) and all([not v.aval.shape for v in eqn.outputs]):
            numbers.update(eqn.outputs)
            early.append(eqn)
        elif needs and (type(eqn.primitive) is Reshape or (type(eqn.primitive) is Slice and needs[0] not in cut)):
            if type(eqn.primitive) is Slice or needs[0] in cut:
                cut.add(eqn.outputs[0])
            array = whole[eqn.outputs[0]] = whole.get(needs[0], needs[0])
            in_front = array in inputs or array in numbers
            (early if in_front else parts_of.setdefault(array, [])).append(eqn)
        else:
            late.append(eqn)
    equations = [each for eqn in late for each in (eqn, *[part for v in eqn.outputs for part in parts_of.get(v, ())])]
    return Program(program.inputs, (*early, *equations), program.outputs)


def of_own_numbers(program: Program) -> set[Any]:
    """What depends on no input and is made of a number that is another one in equations that are else the same: the
    times of a solver, the keys of layers. Zeros and ones are not: more equations read each than there are such."""
    free: set[Any] = set()
    alike: dict[Any, dict[tuple[Atom, ...], tuple[Any, ...]]] = {}
    for eqn in program.equations:
        needs = [x for x in eqn.inputs if type(x) is not Literal]
        if free.issuperset(needs):
            free.update(eqn.outputs)
            key = eqn.primitive, tuple([x.aval if type(x) is Literal else x for x in eqn.inputs])
            alike.setdefault(key, {})[eqn.inputs] = eqn.outputs
    kinds = [[v for vs in made.values() for v in vs] for made in alike.values() if len(made) >= FEWEST]
    asked = {v for made in kinds for v in made}
    reads = Counter([x for eqn in program.equations for x in eqn.inputs if x in asked] if asked else ())
    return {v for made in kinds if sum([reads[v] for v in made]) < len(made) ** 2 for v in made}


@memoised
def rolled(program: Program, always: bool = False) -> Program:
    """The Program with its repeated runs as loops, those that pay or `always` all."""
    if program.has_effects:
        return program
    current = within(program, always)
    if always or len(current.equations) >= ENOUGH:
        found = steps(current, always)
        if len(found) > 1:  # the steps of a loop may have loops themselves
            current = within(found[-1].before, always)
    return together(read_in_place(least_stacked(current)))


class Step(NamedTuple):
    """What was found in a Program, and the Program with the loops that pay; None where none does. `has_inner` says
    whether one of these has runs in its steps that pay by themselves."""

    before: Program
    found: list[Verdict]
    after: Program | None
    has_inner: bool


def steps(program: Program, always: bool = False) -> list[Step]:
    """The loops of a Program as they are written, until none pays: one may be seen once another one is written.

    Where there are runs in what one repetition of another run is, those that save most come first, or the inner ones,
    whichever leaves fewer equations.
    """
    outer_first = list(in_order(program, always, stretches))
    if not any([step.has_inner for step in outer_first]):
        return outer_first
    inner_first = list(in_order(program, always, lambda *args: sorted(stretches(*args), key=lambda s: s.period)))
    return min(outer_first, inner_first, key=lambda found: size(within(found[-1].before, always)))


def in_order(program: Program, always: bool, runs: Callable[..., list[Stretch]]) -> Iterator[Step]:
    """The same, runs being looked at in an order."""
    front = hoisted(program)
    while True:
        pending = runs(numbered(front.equations), sizes(front.equations), FEWEST, LEAST)
        found = verdicts(front, pending, always)
        paying = [(loop, v.stretch) for v in found if (loop := v.loop) and not v.why_not]
        has_inner = any([pays_inside(front, s, stretch, always) for s in pending for _, stretch in paying])
        before, front = front, written(front, [loop for loop, _ in paying]) if paying else front
        yield Step(before, found, front if paying else None, has_inner)
        if not paying:
            return


def pays_inside(program: Program, stretch: Stretch, outer: Stretch, always: bool) -> bool:
    """Whether a stretch is one that pays, in what one repetition of an outer one is."""
    if not outer.start <= stretch.start <= stretch.stop <= outer.stop or stretch.stop - stretch.start > outer.period:
        return False
    verdict = judged(program, stretch, always)
    return verdict is not None and not verdict.why_not and (always or verdict.saved >= ENOUGH)


def within(program: Program, always: bool) -> Program:
    """The Program with those that it calls rolled."""
    if not any([eqn.primitive.runs() for eqn in program.equations]):
        return program
    equations = tuple([
        Equation(eqn.primitive.with_programs(lambda p: rolled(p, always)), eqn.inputs, eqn.outputs, eqn.source)
        for eqn in program.equations
    ])  # fmt: skip
    return Program(program.inputs, equations, program.outputs)


class Verdict(NamedTuple):
    """Of a run: the equations that a loop saves, the arrays that it copies, and why there is none; "" where it pays.

    `whole` is what the run was found in: the run, and what of further repetitions is beside it.
    """

    stretch: Stretch
    loop: Loop | None
    saved: int
    copied: int
    why_not: str
    whole: Stretch


def verdicts(program: Program, runs: Sequence[Stretch], always: bool = False) -> list[Verdict]:
    """Of those runs that have no equation in common with an earlier one that pays.

    Where a run that is dropped has others within it, these are judged with all that was dropped beside it.
    """
    found: list[Verdict] = []
    pending = list(runs)
    definitions = {v: eqn for eqn in program.equations for v in eqn.outputs}
    seen: set[Stretch] = set()
    while True:
        overlapping: list[Stretch] = []
        for stretch in pending:
            if stretch in seen:
                continue
            taken = next((v.stretch for v in found if not v.why_not and stretch.overlaps(v.stretch)), None)
            if taken is not None:
                overlapping.append(stretch)
                pending += beside(stretch, taken)
                continue
            if any([stretch.is_many(v.stretch) for v in found]):
                continue
            seen.add(stretch)
            if (verdict := judged(program, stretch, always)) is not None:
                found.append(verdict)
                if not verdict.why_not:
                    pending += beside(stretch, verdict.stretch)
        found = aligned(program, found, definitions)
        kept = worth_most(program, found, always, definitions)
        if not any([w.why_not and not v.why_not for v, w in zip(found, kept, strict=True)]):
            return kept
        loops = [w.stretch for w in kept if not w.why_not]
        free = [s for s in overlapping if not any([s.overlaps(loop) for loop in loops])]
        if free:
            kept = [
                w if any([s.overlaps(v.stretch) for s in free]) else v for v, w in zip(found, kept, strict=True)
            ]  # fmt: skip
        found, pending = kept, overlapping


def beside(stretch: Stretch, part: Stretch) -> list[Stretch]:
    """What is left of a stretch in front of one of its parts and behind it, where it is long enough for a loop."""
    rest = Stretch(stretch.start, part.start, stretch.period), Stretch(part.stop, stretch.stop, stretch.period)
    return [s for s in rest if s.stop - s.start >= FEWEST * s.period]


def aligned(program: Program, found: Sequence[Verdict], definitions: dict[Any, Equation]) -> list[Verdict]:
    """The verdicts, each loop begun where all copy least, of the places at which as few values are carried.

    Where the first layer needs no gradient of its input, its repetition is not whole: a loop over the others may begin
    with the second layer, or in the middle of the first one. What the loop forward stacks from one place on, the loop
    backward reads as a whole only if it begins there too.
    """
    current = list(found)
    for i, v in enumerate(current):
        others = [loop for w in current if w is not v and (loop := w.loop) and not w.why_not]
        if v.loop and not v.why_not and others:
            loop = begun_best(program, v.loop, v.whole, others, definitions)
            current[i] = v._replace(loop=loop, stretch=loop.stretch)
    return current


def begun_best(
    program: Program, loop: Loop, whole: Stretch, others: Sequence[Loop], definitions: dict[Any, Equation]
) -> Loop:
    """A loop of a stretch, or one that begins elsewhere in it and is as long, if fewer arrays are copied then."""
    places = beginnings(program, whole)
    if len(places) == 1:
        return loop
    begun = [x for place in places if (x := found_in(program, whole, place)) and x.count == loop.count]
    free = [x for x in begun if not any([x.stretch.overlaps(other.stretch) for other in others])]
    return min([loop, *free], key=lambda x: sum(copies(program, [x, *others], definitions).counts))


def worth_most(
    program: Program, found: Sequence[Verdict], always: bool, definitions: dict[Any, Equation]
) -> list[Verdict]:
    """The verdicts with all loops but those that are dropped, the one that loses most first, as long as it helps.

    What one loop makes is no copy where another one reads it: a loop that loses may pay for those beside it.
    """
    current = list(found)
    best, most = current, -inf
    while True:
        made = [i for i, v in enumerate(current) if not v.why_not]
        found_copies = copies(program, [loop for v in current if (loop := v.loop) and not v.why_not], definitions)
        for i, count in zip(made, found_copies.counts, strict=True):
            current[i] = current[i]._replace(copied=count)
        has_room = ROOM * found_copies.copied <= found_copies.kept
        costs = {
            i: A_LOOP + price(v.saved, loop.count, has_room) * v.copied
            for i in made if (loop := (v := current[i]).loop)
        }  # fmt: skip
        worth = sum([current[i].saved - cost for i, cost in costs.items()])
        is_enough = worth >= ENOUGH - A_LOOP
        if worth > most and (is_enough or not made):
            best, most = list(current), worth
        losing = [i for i, cost in costs.items() if current[i].saved < cost or not is_enough]
        if always or not losing:
            return best
        worst = current[min(losing, key=lambda i: current[i].saved / costs[i])]
        why = f"a loop copies {worst.copied} arrays to save {worst.saved} equations"
        if worst.saved < ENOUGH:
            why = f"a loop saves fewer than {ENOUGH} equations"
        elif worst.saved >= MUCH and not has_room:
            why += f"; all loops copy {found_copies.copied:,} bytes, and keep {found_copies.kept:,} for one another"
        current[current.index(worst)] = worst._replace(why_not=why)


def price(saved: int, count: int, has_room: bool) -> int:
    """The equations that a loop of `count` repetitions, saving so many, is to save for each array that it copies."""
    if saved >= MUCH and has_room and jax.default_backend() == "cpu":
        return LESS
    return EACH if count >= SHORT else MORE


def judged(program: Program, stretch: Stretch, always: bool) -> Verdict | None:
    """What a stretch is worth, whatever is copied between loops; None where it is no loop."""
    start, stop, period = stretch
    repetition = program.equations[start : start + period]
    size = sum(sizes(repetition))
    if not computes(repetition):
        return None
    own = own_inputs(program, stretch)
    count = (stop - start) // period
    saved = size * (count - 1)
    if not always and own * price(saved, count, True) > size:
        why = f"each repetition of {size} equations reads {own} inputs of its own, which a loop copies"
        return Verdict(stretch, None, 0, own, why, stretch)
    if not always and (why := reason(program, stretch, saved)):
        return Verdict(stretch, None, saved, own, why, stretch)
    loop = found_in(program, stretch, beginnings(program, stretch)[0])
    if loop is None:
        return None
    saved = size * (loop.count - 1)
    if saved < LEAST:
        return None
    return Verdict(loop.stretch, loop, saved, 0, "" if always else reason(program, loop.stretch, saved), stretch)


def own_inputs(program: Program, stretch: Stretch) -> int:
    """How many arrays among the inputs one repetition reads and the next one does not."""
    start, stop, period = stretch
    count = (stop - start) // period
    inputs = set(program.inputs)
    counts = []
    for n in {count // 4, count // 2 - 1, count // 2}:
        one, other = (program.equations[i : i + period] for i in (start + n * period, start + (n + 1) * period))
        read, next_read = ({x for eqn in part for x in eqn.inputs if x in inputs} for part in (one, other))
        counts.append(len([x for x in read - next_read if x.aval.shape]))
    return min(counts)


def computes(body: Sequence[Equation]) -> bool:
    """Whether the body computes; what only moves values, as stacking does, stays."""
    return any([eqn.primitive.work(*[x.aval for x in eqn.inputs]).total for eqn in body])


def reason(program: Program, stretch: Stretch, saved: int) -> str:
    """Why a loop does not pay, whatever it copies."""
    if saved < SOME:
        return f"a loop saves fewer than {ENOUGH} equations"
    start, stop, period = stretch
    body = program.equations[start : start + period]
    if (stop - start) // period < SHORT and all([v.aval.size == 1 for eqn in body for v in eqn.outputs]):
        return "all are single numbers: XLA runs few repetitions as one kernel"
    if not all(map(is_elementwise, body)) or not any([v.aval.size >= SMALL for eqn in body for v in eqn.outputs]):
        return ""
    # But for the last ones, results of the steps that others read cut kernels anyway.
    made = {v for eqn in program.equations[start : stop - 2 * period] for v in eqn.outputs}
    if any([not is_elementwise(eqn) and not made.isdisjoint(eqn.inputs) for eqn in program.equations[stop:]]):
        return ""
    return "all is elementwise: XLA runs many repetitions as one kernel"


class Copies(NamedTuple):
    """Of each loop, how many arrays it puts into stacks and takes out of them; the bytes of all these, and of what
    loops keep for one another."""

    counts: list[int]
    copied: int
    kept: int


def copies(program: Program, loops: Sequence[Loop], definitions: dict[Any, Equation]) -> Copies:
    """What these loops copy and keep."""
    equations = program.equations
    results: dict[Any, tuple[Any, int]] = {
        equations[loop.start + n * loop.period + q].outputs[j]: ((k, q, j), n)
        for k, loop in enumerate(loops)
        for q, j in loop.every
        for n in range(loop.count)
    }

    def place(x: Atom) -> tuple[Any, int] | None:
        return results.get(x) or entry_of(definitions.get, x)

    alone: set[Any] = set(program.outputs)  # what is read one by one
    done = 0
    for start, stop in sorted([*[loop.stretch[:2] for loop in loops], (len(equations), 0)]):
        for eqn in equations[done:start]:
            if type(eqn.primitive) is Concatenate:
                alone.update([x for x in parts(eqn.inputs, place) if type(x) is not tuple])
            else:
                alone.update(eqn.inputs)
        done = stop
    counts = [0] * len(loops)
    single: set[Any] = set()  # what is put into stacks one by one
    for k, loop in enumerate(loops):
        alone.update(loop.constants.values(), [x for slot in loop.carried.values() for x in slot.inits])
        for xs in dict.fromkeys(loop.each.values()):
            if type(xs[0]) is Literal:  # they are all, and make one constant
                continue
            pieces = parts(xs, place)
            single.update([x for x in pieces if type(x) is not tuple])
            counts[k] += len(pieces) if len(pieces) > 1 or type(pieces[0]) is not tuple else 0
    alone |= single
    taken = [x for x in results if x in alone]
    for x in taken:
        counts[results[x][0][0]] += 1
    copied = sum([x.aval.nbytes for x in [*single, *taken]])
    return Copies(counts, copied, sum([x.aval.nbytes for x in results if x not in alone]))
