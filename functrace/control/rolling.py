"""Repeated runs of equations become one loop.

    rolled : Program -> Program        n times the same equations -> one scan of length n

A deep model that is written as a Python loop over its layers is a Program in which the same equations come again and
again: in the forward pass, in the backward pass, and in the updates of the optimizer. XLA takes more than twice as long
to compile twice as many; a scan compiles its body once.

A run is found by its period. Equations that have the same primitive, parameters and types have one number, so a Program
is a string of numbers, and a run of n repetitions is a place where the string is its own copy, shifted by the period.
In a run each operand is one of five things, the same one in every repetition:

    a literal           the body has it too
    internal            made by the same repetition: a variable of the body
    carried             made by the repetition before: a carry of the scan
    constant            one value, made before the run: a constant of the scan
    one each            another value for each repetition, made before the run: an operand of the scan, stacked

What later equations read of one repetition or of several comes out stacked. A run that reads what another one made
finds it stacked already, in the same order or in the opposite one, as the backward pass does; nothing is copied then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from functrace.control.scan import Scan
from functrace.ir import Atom, Builder, Equation, Literal, Program
from functrace.primitives.space import Reshape, reshape, zeros
from functrace.primitives.structural import Slice, concatenate, rev, slice_along
from functrace.rewrites import memoised
from functrace.rewrites.memo import copy_input

LEAST = 16  # equations saved
FEWEST = 3  # repetitions that are worth a loop
WINDOWS = (1, 4, 16)  # equations in a row by which places that look alike are found
PERIODS = 8  # periods that are tried


class Stretch(NamedTuple):
    """Equations `start` to `stop`, each like the one `period` further on, the last `period` but for that."""

    start: int
    stop: int
    period: int


def sizes(equations: Sequence[Equation]) -> list[int]:
    """The number of equations that each one is, with those of the Programs that it runs."""
    return [1 + sum([size(run.program) for run in eqn.primitive.runs()]) for eqn in equations]


@memoised
def size(program: Program) -> int:
    """The number of its equations, with those of the Programs that they run."""
    return sum(sizes(program.equations))


def numbered(equations: Sequence[Equation]) -> list[int]:
    """A number for each equation: equal for equal primitives, parameters, literals and types."""
    numbers: dict[Any, int] = {}
    return [
        numbers.setdefault(
            (
                eqn.primitive,
                tuple([x if type(x) is Literal else x.aval for x in eqn.inputs]),
                tuple([v.aval for v in eqn.outputs]),
            ),
            len(numbers),
        )
        for eqn in equations
    ]


def periods(numbers: Sequence[int]) -> list[int]:
    """Distances at which the string of numbers may repeat, those that most places speak for first."""
    votes: Counter[int] = Counter()
    for width in WINDOWS:
        last: dict[Any, int] = {}
        for i in range(len(numbers) - width + 1):
            window = tuple(numbers[i : i + width])
            if window in last:
                votes[i - last[window]] += 1
            last[window] = i
    return [period for period, _ in votes.most_common(PERIODS)]


def stretches(equations: Sequence[Equation]) -> list[Stretch]:
    """The places where equations repeat often enough to be worth a loop, those that save most first."""
    found: list[Stretch] = []
    numbers = numbered(equations)
    before = [0, *accumulate(sizes(equations))]

    def saved(stretch: Stretch) -> int:
        start, stop, period = stretch
        return before[start + (stop - start) // period * period] - before[start + period]

    for period in periods(numbers):
        start = 0
        for i in range(len(numbers) - period + 1):
            if i == len(numbers) - period or numbers[i] != numbers[i + period]:
                if i - start >= (FEWEST - 1) * period:
                    found.append(Stretch(start, i + period, period))
                start = i + 1
    worth = [(saved(s), s) for s in found]
    return [s for n, s in sorted(worth, key=lambda pair: (-pair[0], pair[1].period)) if n >= LEAST]


@dataclass(frozen=True)
class Loop:
    """`count` repetitions of `period` equations from `start` on, as a scan.

    Operands of the body are numbered as they come. `constants`, `carried` and `each` say for an operand what it is: its
    value; which result of which equation of the repetition before it is, and its first value; its values by repetition.
    Results `(q, j)` that are read outside are `final`, read after the last repetition alone, or in `every`.
    """

    start: int
    period: int
    count: int
    constants: dict[int, Atom]
    carried: dict[int, tuple[int, int, Atom]]
    each: dict[int, tuple[Atom, ...]]
    final: tuple[tuple[int, int], ...]
    every: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """The first equation behind it."""
        return self.start + self.period * self.count


def fewest_alive(program: Program, stretch: Stretch) -> int:
    """Where in its first period to begin a stretch, so that few values go from one repetition to the next."""
    start, stop, period = stretch
    made = {v: i for i, eqn in enumerate(program.equations[start:stop]) for v in eqn.outputs}
    change = [0] * (stop - start + 1)
    last: dict[Any, int] = {}
    for i, eqn in enumerate(program.equations[start:stop]):
        last.update([(x, i) for x in eqn.inputs if x in made])
    for v, i in last.items():
        if i - made[v] <= period:
            change[made[v] + 1] += 1
            change[i + 1] -= 1
    alive = list(accumulate(change))
    middle = (stop - start) // period // 2 * period
    return min(range((stop - start) % period + 1), key=lambda offset: alive[middle + offset])


def found_in(program: Program, stretch: Stretch) -> Loop | None:
    """The longest run in a stretch whose repetitions have operands of the same kinds."""
    period = stretch.period
    base = stretch.start + fewest_alive(program, stretch)
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
        # How many repetitions ago, 0 or 1, it was made, and where.
        if x not in made:
            return None
        m, q, j = made[x]
        return (n - m, q, j) if n - m <= 1 else None

    kinds = [[kind(n, x) for x in xs] for n, xs in enumerate(operands)]
    usual = kinds[count // 2]
    first, stop = count // 2, count // 2 + 1
    while first > 0 and kinds[first - 1] == usual:
        first -= 1
    while stop < count and kinds[stop] == usual:
        stop += 1
    # What the others have from the repetition before, the first one has from elsewhere.
    fits = [k == u or (k is None and u is not None and u[0] == 1) for k, u in zip(kinds[first - 1], usual, strict=True)]
    if first > 0 and all(fits):
        first -= 1
    # What was made in the stretch, and longer ago than that, must have been made before the run.
    pairs = [pair for n in range(first, stop) for pair in zip(operands[n], kinds[n], strict=True)]
    far = [made[x][0] for x, k in pairs if k is None and x in made]
    first = max([first, *[m + 1 for m in far]])
    if stop - first < FEWEST:
        return None
    constants: dict[int, Atom] = {}
    carried: dict[int, tuple[int, int, Atom]] = {}
    each: dict[int, tuple[Atom, ...]] = {}
    for i, k in enumerate(usual):
        xs = tuple([operands[n][i] for n in range(first, stop)])
        if type(xs[0]) is Literal:
            continue
        if k is not None and k[0] == 1:
            carried[i] = k[1], k[2], xs[0]
        elif k is None and len(set(xs)) == 1:
            constants[i] = xs[0]
        elif k is None:
            each[i] = xs
    begin, end = base + first * period, base + stop * period
    outside = [x for eqn in (*program.equations[:begin], *program.equations[end:]) for x in eqn.inputs]
    read: dict[tuple[int, int], set[int]] = {}
    for x in (*outside, *program.outputs):
        if x in made and first <= made[x][0] < stop:
            n, q, j = made[x]
            read.setdefault((q, j), set()).add(n)
    final = tuple([at for at, ns in read.items() if ns == {stop - 1}])
    every = tuple([at for at in read if at not in final])
    return Loop(begin, period, stop - first, constants, carried, each, final, every)


def entry(stack: Atom, i: int) -> Atom:
    """Entry i of a stack."""
    return reshape(slice_along(stack, 0, i, i + 1), stack.aval.shape[1:])


def entry_of(b: Builder, x: Atom) -> tuple[Atom, int] | None:
    """The stack that `x` is an entry of, and which one, as `entry` writes it."""
    shaped = b.definition(x)
    if shaped is None or type(shaped.primitive) is not Reshape:
        return None
    taken = b.definition(shaped.inputs[0])
    if taken is None or type(taken.primitive) is not Slice:
        return None
    prim, (stack,) = taken.primitive, taken.inputs
    is_entry = stack.aval.ndim > 0 and taken.outputs[0].aval.shape == (1, *x.aval.shape) == (1, *stack.aval.shape[1:])
    return (stack, prim.start[0]) if is_entry else None


def order(b: Builder, xs: Sequence[Atom]) -> int:
    """1 for entries of one stack in their order, -1 in the opposite one, 0 else."""
    found = [entry_of(b, x) for x in xs[:2]]
    if len(found) < 2 or found[0] is None or found[1] is None or found[0][0] is not found[1][0]:
        return 0
    step = found[1][1] - found[0][1]
    return step if abs(step) == 1 else 0


def stacked(b: Builder, xs: Sequence[Atom]) -> Atom:
    """The stack of `xs`: where they are entries of one already, that one or a part of it."""
    parts: list[Atom] = []
    runs: list[tuple[Atom, int, int] | Atom] = []  # a stack with the first entry and the last one, or one value
    for x in xs:
        found = entry_of(b, x)
        if found is None:
            runs.append(x)
            continue
        stack, i = found
        before = runs[-1] if runs else None
        if type(before) is tuple and before[0] is stack and (
            i == before[2] + 1 >= before[1] + 1 or i == before[2] - 1 <= before[1] - 1
        ):
            runs[-1] = stack, before[1], i
        else:
            runs.append((stack, i, i))
    for run in runs:
        if type(run) is tuple:
            stack, i, k = run
            part = slice_along(stack, 0, min(i, k), max(i, k) + 1)
            parts.append(rev(part, (0,)) if k < i else part)
        elif isinstance(run, Atom):
            parts.append(reshape(run, (1, *run.aval.shape)))
    return parts[0] if len(parts) == 1 else concatenate(parts, 0)


def written(program: Program, loop: Loop) -> Program | None:
    """The Program with a loop in the place of its equations; None where what it carries changes its type."""
    with Builder() as b:
        env: dict[Any, Atom] = {v: copy_input(b, v) for v in program.inputs}
        copy(b, program.equations[: loop.start], env)
        constants = list(dict.fromkeys(loop.constants.values()))
        slots = list(dict.fromkeys(loop.carried.values()))
        each = list(dict.fromkeys(loop.each.values()))
        made = program.equations[loop.start : loop.start + loop.period]
        carries = {(q, j) for q, j, _ in slots}
        inits = [env.get(x, x) for _, _, x in slots]
        for q, j in loop.final:
            if (q, j) not in carries:
                slots.append((q, j, made[q].outputs[j]))
                inits.append(zeros(made[q].outputs[j].aval))
        values = [[env.get(x, x) for x in xs] for xs in each]
        backward = sum([order(b, xs) for xs in values]) < 0
        stacks = [stacked(b, xs[::-1] if backward else xs) for xs in values]
        fixed = [env.get(x, x) for x in constants]

        with Builder() as inner:
            of_constant = dict(zip(constants, [inner.input(x.aval) for x in fixed], strict=True))
            of_slot = dict(zip(slots, [inner.input(x.aval) for x in inits], strict=True))
            of_each = dict(zip(each, [inner.input(x.aval.with_shape(x.aval.shape[1:])) for x in stacks], strict=True))
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
                values_in.update(zip(eqn.outputs, inner.emit(eqn.primitive, operands), strict=True))
            outputs = [values_in[made[q].outputs[j]] for q, j in [*[slot[:2] for slot in slots], *loop.every]]
            body = inner.build(outputs)
        if any([y.aval is not x.aval for x, y in zip(inits, outputs, strict=False)]):
            return None
        b.source = made[0].source
        results = Scan(body, len(fixed), len(slots), loop.count, backward)(*fixed, *inits, *stacks)
        last = loop.stop - loop.period
        for (q, j, _), y in zip(slots, results, strict=False):
            env[program.equations[last + q].outputs[j]] = y
        for (q, j), ys in zip(loop.every, results[len(slots) :], strict=True):
            for n in range(loop.count):
                v = program.equations[loop.start + n * loop.period + q].outputs[j]
                env[v] = entry(ys, loop.count - 1 - n if backward else n)
        copy(b, program.equations[loop.stop :], env)
        return b.build([env.get(x, x) for x in program.outputs])


def copy(b: Builder, equations: Sequence[Equation], env: dict[Any, Atom]) -> None:
    """Write equations again, their operands looked up in `env`, where their results go."""
    for eqn in equations:
        b.source = eqn.source
        env.update(zip(eqn.outputs, b.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs])), strict=True))


def hoisted(program: Program) -> Program:
    """The Program with what depends on no input, and numbers that depend on numbers, in front: made for all layers."""
    free: set[Any] = set()
    numbers: set[Any] = {v for v in program.inputs if not v.aval.shape}
    early: list[Equation] = []
    late: list[Equation] = []
    for eqn in program.equations:
        needs = [x for x in eqn.inputs if type(x) is not Literal]
        if all([x in free for x in needs]):
            free.update(eqn.outputs)
            early.append(eqn)
        elif all([not v.aval.shape for v in eqn.outputs]) and all([x in free or x in numbers for x in needs]):
            numbers.update(eqn.outputs)
            early.append(eqn)
        else:
            late.append(eqn)
    return Program(program.inputs, (*early, *late), program.outputs)


@memoised
def rolled(program: Program) -> Program:
    """The Program with its repeated runs as loops."""
    if program.has_effects:
        return program
    current = hoisted(within(program))
    while (shorter := shortened(current)) is not None:
        current = shorter
    return current


def within(program: Program) -> Program:
    """The Program with those that it calls rolled."""
    equations = tuple([
        Equation(eqn.primitive.with_programs(rolled), eqn.inputs, eqn.outputs, eqn.source) for eqn in program.equations
    ])  # fmt: skip
    return Program(program.inputs, equations, program.outputs)


def shortened(program: Program) -> Program | None:
    """With the first of its runs as a loop, so that later ones find stacked what it makes; None where there is none."""
    for loop in sorted(chosen(program), key=lambda loop: loop.start):
        found = written(program, loop)
        if found is not None:
            return found
    return None


def chosen(program: Program) -> list[Loop]:
    """Runs that are worth a loop and have no equation in common, those that save most first."""
    loops: list[Loop] = []
    for stretch in stretches(program.equations):
        loop = found_in(program, stretch)
        if loop is not None and worthwhile(program, loop):
            if all([loop.stop <= other.start or other.stop <= loop.start for other in loops]):
                loops.append(loop)
    return loops


def worthwhile(program: Program, loop: Loop) -> bool:
    """Whether the loop saves enough, and computes; what only moves values, as stacking does, stays."""
    body = program.equations[loop.start : loop.start + loop.period]
    computes = any([eqn.primitive.work(*[x.aval for x in eqn.inputs]).total for eqn in body])
    return computes and sum(sizes(body)) * (loop.count - 1) >= LEAST
