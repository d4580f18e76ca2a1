"""The updates of many parameters, compiled apart: one executable for several that are alike, called again and again.

An optimizer does the same to each parameter, and nothing but the caller reads what it makes. In one module with the
gradients each of those results is a kernel that XLA plans, copies and places by itself, 1 to 2 ms for each: two thirds
of what a 96-layer transformer with Adam takes to compile, whose layers are a loop. So equations that make results,
entry by entry, are taken out of a Program; `main` is what is left, and hands out what they read. Those that belong
together are an update. Of n that are alike a few are an executable, which is called as often as there are layers.

It pays where the gradients are what loops have stacked: an entry is then read where it is, after the loop, and no
sooner in one module either. Where each is made by itself, XLA runs updates beside what makes the next one, and gives
its memory up at once. A call costs about 10 us, and 1 us for each value that it reads or makes; so a Program is to be
one that takes long to run, and to have many results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from functrace.control.together import Entry, entries_in, is_elementwise, is_entry_by_entry
from functrace.ir import Atom, Aval, Builder, Equation, Literal, Program, Var
from functrace.lower.execute import compiled
from functrace.lower.kinds import type_of
from functrace.primitives.indexing import dynamic_slice
from functrace.primitives.space import reshape

MOST = 128  # calls of a module
A_MODULE = 40  # results that take as long to compile as a module does by itself
LEAST = 300  # results that are to be saved, each 1 ms or more
WORK = 2_000_000  # operations of a Program for each value that calls read or make, so that they cost little beside it
SLIGHT = 8  # how many times the memory of gradients that no loop has stacked results are to have
PLACE = Aval((), np.dtype(np.int32))


@dataclass
class Update:
    """Equations that make results of a Program, and the variables that they read."""

    equations: list[Equation] = field(default_factory=list)
    operands: list[Var] = field(default_factory=list)
    results: list[Var] = field(default_factory=list)
    key: list[Any] = field(default_factory=list)  # the same for those that are alike
    numbers: dict[Var, int] = field(default_factory=dict)  # of variables in the key

    def add(self, eqn: Equation, taken: dict[Any, Entry], results: Collection[Any]) -> None:
        """One equation more."""
        self.key.append(eqn.primitive)
        for x in eqn.inputs:
            if type(x) is Var and x not in self.numbers:
                self.numbers[x] = len(self.numbers)
                self.operands.append(x)
                self.key += [x.aval, taken[x].stack.aval if x in taken else None]
            self.key.append(self.numbers[x] if type(x) is Var else x)
        (y,) = eqn.outputs
        self.numbers[y] = len(self.numbers)
        self.equations.append(eqn)
        if y in results:
            self.results.append(y)
        self.key.append(y in results)


class Part(NamedTuple):
    """A Program of updates, and what it is called with each time, and what that makes."""

    program: Program
    donated: tuple[int, ...]  # inputs whose buffers its results may have
    calls: list[tuple[list[Var], list[Var]]]

    @property
    def types(self) -> list[Any]:
        """JAX's types of the inputs."""
        return [type_of(v.aval) for v in self.program.inputs]


@dataclass(eq=False)
class Divided:
    """A Program as `main`, and parts that are called then."""

    program: Program
    main: Program
    parts: list[Part]
    places: dict[Var, int]  # of entries, by the variable that stands for each in the calls

    def outputs(self, inputs: Sequence[Any], made: Sequence[Any], runs: Sequence[Any] | None = None) -> list[Any]:
        """The outputs of the Program at its inputs, where `main` has made its own; `runs` are the parts, if they are
        compiled already."""
        env: dict[Any, Any] = dict(self.known)
        env.update(zip(self.program.inputs, inputs, strict=True))
        env.update(zip(self.main.outputs, made, strict=True))
        for run, part in zip(runs or self.runs, self.parts, strict=True):
            for xs, ys in part.calls:
                env.update(zip(ys, run(*[env[x] for x in xs]), strict=True))
        return [env[y] for y in self.program.outputs]

    @cached_property
    def known(self) -> dict[Var, Any]:
        """The places, as the calls read them."""
        with jax.ensure_compile_time_eval():
            values = jax.device_put([np.int32(i) for i in self.places.values()])
        return dict(zip(self.places, values, strict=True))

    @cached_property
    def runs(self) -> list[Any]:
        """The parts as functions that XLA compiles when they are called."""
        return [compiled(part.program, part.donated) for part in self.parts]


def divided(program: Program, donated: Collection[int] = ()) -> Divided | None:
    """A Program without its updates, and those; None where that does not pay.

    Inputs that are donated and that updates read are returned by `main`, as they are, before all else: so XLA leaves
    their buffers to the updates. Where others are donated, whose buffers no result of `main` can have, it is None too.
    """
    outputs = len(program.outputs)
    if outputs < LEAST or not is_on_one_cpu():
        return None
    if program.has_effects or len({*program.outputs}) < outputs:  # one result twice has two buffers in JAX
        return None
    taken = entries_in(program)
    calls_of = [*modules(alike(program, taken))]
    updates = [update for calls in calls_of for call in calls for update in call]
    read = Counter([x for u in updates for x in u.operands])
    results = {y for u in updates for y in u.results}
    given = {program.inputs[i] for i in donated} & read.keys()
    left = sum([A_MODULE + sum([len(u.results) for u in calls[0]]) for calls in calls_of])
    if len(results) - left < LEAST or program.work.total < WORK * len(results):
        return None
    if SLIGHT * bytes_of(read.keys() - taken.keys() - {*program.inputs}) > bytes_of(results):
        return None
    lent = {x for x in given - {*program.outputs} if read[x] == 1}
    places: dict[int, Var] = {}
    parts = [part_of(calls, taken, places, lent) for calls in calls_of]
    values = sum([len(xs) + len(ys) for part in parts for xs, ys in part.calls])
    if program.work.total < WORK * values:
        return None
    gone = {eqn for u in updates for eqn in u.equations}
    rest = Builder()
    rest.inputs = [*program.inputs]
    rest.equations = [eqn for eqn in program.equations if eqn not in gone]
    known = {*program.inputs, *places.values(), *results}
    others = [x for part in parts for xs, _ in part.calls for x in xs if x not in known]
    returned = [x for x in program.inputs if x in given]
    main = rest.build([*dict.fromkeys([*returned, *[y for y in program.outputs if y not in results], *others])])
    types = Counter([program.inputs[i].aval for i in donated])
    in_vain, before = [(types - Counter([y.aval for y in p.outputs])).total() for p in (main, program)]
    if in_vain > before:
        return None
    return Divided(program, main, parts, {v: i for i, v in places.items()})


def is_on_one_cpu() -> bool:
    """Whether what is compiled is for one processor. On others nothing was measured; of several devices, how arrays are
    spread would be decided for each module."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def bytes_of(values: Iterable[Atom]) -> int:
    """Those of all of them."""
    return sum([x.aval.nbytes for x in values])


def alike(program: Program, taken: dict[Any, Entry]) -> list[list[Update]]:
    """The updates of a Program, by what they are."""
    results = {*program.outputs}
    needed = Counter([x for eqn in program.equations for x in eqn.inputs if type(x) is Var])
    read_late: Counter[Any] = Counter()
    late: list[Equation] = []
    for eqn in reversed(program.equations):
        is_of_entry = len(eqn.outputs) == 1 and is_elementwise(eqn) and not taken.keys().isdisjoint(eqn.inputs)
        if not is_entry_by_entry(eqn) and not (is_of_entry and eqn.outputs[0].aval.size == 1):
            continue
        y = eqn.outputs[0]
        if needed[y] == read_late[y] and (needed[y] or y in results):
            late.append(eqn)
            read_late.update([x for x in eqn.inputs if type(x) is Var])
    late.reverse()
    first: dict[Any, Any] = {}  # by variable that is made late, one of its update that may know a yet earlier one

    def root(v: Any) -> Any:
        while first[v] is not v:
            first[v] = v = first[first[v]]
        return v

    for eqn in late:
        (y,) = eqn.outputs
        first[y] = y
        for x in eqn.inputs:
            if x in first:
                first[root(x)] = root(y)
    updates: dict[Any, Update] = {}
    for eqn in late:
        updates.setdefault(root(eqn.outputs[0]), Update()).add(eqn, taken, results)
    groups: dict[Any, list[Update]] = {}
    for update in updates.values():
        groups.setdefault(tuple(update.key), []).append(update)
    return [*groups.values()]


def modules(groups: Sequence[list[Update]]) -> Iterator[list[list[Update]]]:
    """The calls of each module: updates that are made at once, in each call as many of a group."""
    while groups:
        results: Counter[int] = Counter()
        for group in groups:
            results[len(group)] += len(group[0].results)
        saved = {n: sum([r * (size // n) * (n - 1) for size, r in results.items()]) for n in range(2, MOST + 1)}
        n = max(saved, key=saved.__getitem__)
        if saved[n] <= A_MODULE:
            return
        each = [(group, len(group) // n) for group in groups]
        yield [[u for group, k in each for u in group[k * i : k * (i + 1)]] for i in range(n)]
        groups = [rest for group, k in each if (rest := group[k * n :])]


def part_of(
    calls: Sequence[Sequence[Update]], taken: dict[Any, Entry], places: dict[int, Var], donated: set[Var]
) -> Part:
    """A module and its calls; what is the same in all of them is one input, whatever reads it."""
    columns: dict[tuple[Var, ...], Var] = {}
    builder = Builder()

    def column(xs: tuple[Var, ...]) -> Var:
        if xs not in columns:
            columns[xs] = builder.input(xs[0].aval)
        return columns[xs]

    def value(xs: tuple[Var, ...]) -> Atom:
        """What stands for a variable, and for its like in the other calls."""
        if xs[0] not in taken:
            return column(xs)
        at = [taken[x] for x in xs]
        stack = column(tuple([entry.stack for entry in at]))
        place = column(tuple([places.setdefault(entry.place, Var(PLACE)) for entry in at]))
        zeros = [Literal(0, PLACE)] * (stack.aval.ndim - 1)
        window = dynamic_slice(stack, [place, *zeros], (1, *stack.aval.shape[1:]))
        return reshape(window, xs[0].aval.shape)

    outputs: list[Atom] = []
    with builder:
        for same in zip(*calls, strict=True):
            reads = zip(*[update.operands for update in same], strict=True)
            env: dict[Any, Any] = {xs[0]: value(xs) for xs in reads}
            for eqn in same[0].equations:
                builder.source = eqn.source
                made = builder.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs]))
                env.update(zip(eqn.outputs, made, strict=True))
            outputs += [env[y] for y in same[0].results]
    program = builder.build(outputs)
    results = [[y for update in call for y in update.results] for call in calls]
    each = [([xs[i] for xs in columns], ys) for i, ys in enumerate(results)]
    return Part(program, reusable(program, [*columns], donated), each)


def reusable(program: Program, columns: Sequence[tuple[Var, ...]], donated: set[Var]) -> tuple[int, ...]:
    """Numbers of the inputs that are donated and read by one call each, as many as there are results of their types."""
    room = Counter([y.aval for y in program.outputs])
    found: list[int] = []
    for i, xs in enumerate(columns):
        aval = xs[0].aval
        if len(donated & {*xs}) == len(xs) and room[aval]:
            room[aval] -= 1
            found.append(i)
    return tuple(found)
