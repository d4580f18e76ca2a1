"""Runs of equations that come again and again are one function, called as often.

A module costs MLIR its reading operation by operation, and JAX what it does to it then; a function that it calls often
is there once. So the layers of a deep model, forward and backward, and the updates of its optimizer are a function
each. XLA puts functions in place of their calls before anything else, so that its code is the same.

Repetitions are found by the numbers of their kinds, as those of a loop are (`control/rolling.py`), but less is asked of
them: that each input is made at the same place in the repetition, or elsewhere, wherever that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import NamedTuple

from functrace.ir import Var
from functrace.ir.repeats import Stretch, stretches
from functrace.lower.block import Block, call_of
from functrace.lower.kinds import Call, Kind

LEAST = 64  # operations that a function saves
A_CALL = 8  # operations that its call costs as much as


class Repetition(NamedTuple):
    """A part of the calls that is like others: what each of its inputs is, what is read from elsewhere, what is made.

    An input is the number of what the part has made before, or -1 for the next of those from elsewhere.
    """

    reads: tuple[int, ...]
    outside: list[Var]
    made: dict[Var, int]


def repetition(calls: Sequence[Call]) -> Repetition:
    """These calls as a part of all."""
    reads: list[int] = []
    outside: list[Var] = []
    made: dict[Var, int] = {}
    count = 0
    for _, xs, ys, _ in calls:
        for x in xs:
            reads.append(made.get(x, -1))
            if x not in made:
                outside.append(x)
        for y in ys:  # a value may be put in the place of another one
            made[y] = count
            count += 1
    return Repetition(tuple(reads), outside, made)


def reading(calls: Sequence[Call], outside: Iterator[Var]) -> list[Call]:
    """These calls with other values from elsewhere, in the order in which they are read."""
    made: set[Var] = set()
    found: list[Call] = []
    for call in calls:
        found.append(call._replace(inputs=[x if x in made else next(outside) for x in call.inputs]))
        made.update(call.outputs)
    return found


def grouped(stretch: Stretch, sizes: Sequence[int]) -> Stretch | None:
    """The stretch with so many repetitions in one that the function and its calls are least; None where that is much.

    n repetitions of size p are a function of size k p, and n / k calls of size c: least where k k = n c / p.
    """
    start, stop, period = stretch
    count, size = (stop - start) // period, sum(sizes[start : start + period])
    k = min(max(1, round(sqrt(count * A_CALL / size))), count // 2)
    left = k * size + count // k * A_CALL + count % k * size
    return Stretch(start, stop, k * period) if count * size - left >= LEAST else None


def outlined(
    calls: Sequence[Call], kinds: Sequence[Kind], results: Sequence[Var]
) -> tuple[Sequence[Call], Sequence[Kind]]:
    """Calls that make the same `results`, each run that comes again one call of a new kind."""
    sizes = [kinds[call.kind].size for call in calls]
    runs: list[Stretch] = []
    for stretch in stretches([call.kind for call in calls], sizes, fewest=2, least=LEAST):
        if not any([stretch.overlaps(run) for run in runs]) and (run := grouped(stretch, sizes)):
            runs.append(run)
    read = {x: i for i, call in enumerate(calls) for x in call.inputs}  # where a value is read last
    read.update(dict.fromkeys(results, len(calls)))
    more = list(kinds)
    calls_at: dict[int, tuple[Call, int]] = {}  # by where it begins, what stands for a part, and the part's length
    for run in runs:
        starts = range(run.start, run.stop - run.period + 1, run.period)
        parts = {i: repetition(calls[i : i + run.period]) for i in starts}
        usual = Counter([part.reads for part in parts.values()]).most_common(1)[0][0]
        alike = {i: part for i, part in parts.items() if part.reads == usual}
        # An operand is a value from elsewhere: one that is the same in all of them, or one for each. Two operands may
        # be one value in the first repetition, so that the function has variables of its own for them.
        read_at = list(zip(*[part.outside for part in alike.values()], strict=True))
        operands = {xs: Var(xs[0].aval) for xs in read_at}
        names = {i: {number: v for v, number in part.made.items()} for i, part in alike.items()}
        needed = sorted({n for i in alike for n, v in names[i].items() if read.get(v, -1) >= i + run.period})
        first = next(iter(alike))
        own = reading(calls[first : first + run.period], iter([operands[xs] for xs in read_at]))
        more.append(function(own, kinds, [*operands.values()], [names[first][n] for n in needed]))
        for k, i in enumerate(alike):
            call = Call(len(more) - 1, [xs[k] for xs in operands], [names[i][n] for n in needed])
            calls_at[i] = call, run.period
    fewer: list[Call] = []
    i = 0
    while i < len(calls):
        call, length = calls_at.get(i) or (calls[i], 1)
        fewer.append(call)
        i += length
    return fewer, more


def function(calls: Sequence[Call], kinds: Sequence[Kind], inputs: Sequence[Var], outputs: Sequence[Var]) -> Kind:
    """The kind that is one call of the function of these calls."""
    constants = list(dict.fromkeys([x for call in calls for x in kinds[call.kind].variables]))
    return call_of(Block(calls, kinds, [*constants, *inputs], outputs, "repeated"), constants)
