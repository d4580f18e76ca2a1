"""Parts of a Program that look like another one, replaced by a third.

replace : Program, pattern(x -> y), replacement(x -> y) -> Program         the same function, where those two are one

A pattern is matched from its outputs to its operands, against equations of the old Program only: an old value and what
was written for it are equal, so matches may overlap. A value inside a match that something else reads too is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from functrace.ir import Atom, Builder, Equation, Literal, Primitive, Program, Var
from functrace.ir.program import held_programs
from functrace.primitives.elementwise import convert_element_type
from functrace.rewrites.memo import copy_input

SWAPPED = 6  # commutative equations of a pattern that are tried in both orders
Bound = dict[Any, Any]


class Pattern:
    """A Program to be found, in all the orders that commutative primitives have their operands in."""

    def __init__(self, program: Program):
        self.program = program
        self.orders = list(orders(program))
        self.root = self.orders[0][program.outputs[0]].primitive.name

    def shape(self) -> tuple[Any, ...]:
        """What tells patterns apart that are matched by the names of primitives alone."""
        number: dict[Any, int] = {v: i for i, v in enumerate(self.program.inputs)}
        for eqn in self.program.equations:
            number.update({v: len(number) + i for i, v in enumerate(eqn.outputs)})
        reads = lambda xs: tuple([number.get(x, -1) for x in xs])
        return tuple([(e.primitive.name, reads(e.inputs)) for e in self.program.equations]), reads(self.program.outputs)


def orders(program: Program) -> Iterator[dict[Any, Equation]]:
    """The equations of a pattern by what they define, in each order of the operands of commutative ones."""
    swapped = [e for e in program.equations if e.primitive.commutative and e.inputs[0] != e.inputs[1]][:SWAPPED]
    for flags in product((False, True), repeat=len(swapped)):
        turned = {id(e) for e, flag in zip(swapped, flags, strict=True) if flag}
        yield {
            v: Equation(e.primitive, e.inputs[::-1], e.outputs, None) if id(e) in turned else e
            for e in program.equations for v in e.outputs
        }  # fmt: skip


class Graph:
    """Who defines and who reads a value of a Program, and where equations stand."""

    def __init__(self, program: Program):
        self.definition: dict[Any, Equation] = {}
        self.position: dict[Any, int] = {}
        self.readers: dict[Any, list[Equation]] = {}
        for i, eqn in enumerate(program.equations):
            for v in eqn.outputs:
                self.definition[v], self.position[v] = eqn, i
            for x in dict.fromkeys(eqn.inputs):
                self.readers.setdefault(x, []).append(eqn)


def grow(
    graph: Graph, define: dict[Any, Equation], found: Bound, sought: Any, value: Atom, exact: bool
) -> Bound | None:
    """`found`, with what `sought` and all that it is made of are in the Program, if that is so; None if not.

    Exactly, primitives and literals are equal; otherwise primitives have one name, and any literal will do.
    """
    found = dict(found)
    stack = [(sought, value)]
    while stack:
        p, x = stack.pop()
        if type(p) is Literal:
            if type(x) is not Literal or (exact and (p.bits, p.aval.dtype) != (x.bits, x.aval.dtype)):
                return None
        elif p in found:
            if found[p] != x:
                return None
        else:
            found[p] = x
            made = define.get(p)
            if made is None:
                continue  # an operand: any value
            eqn = graph.definition.get(x) if type(x) is Var else None
            if eqn is None or len(eqn.inputs) != len(made.inputs) or len(eqn.outputs) != len(made.outputs):
                return None
            same = eqn.primitive == made.primitive if exact else eqn.primitive.name == made.primitive.name
            if not same or eqn.outputs.index(x) != made.outputs.index(p):
                return None
            stack += zip(made.inputs, eqn.inputs, strict=True)
    return found


def matched(graph: Graph, pattern: Pattern, root: Atom, exact: bool) -> Iterator[Bound]:
    """Every way in which the pattern is found with its first output at `root`."""
    first, *others = pattern.program.outputs
    for define in pattern.orders:
        begun = grow(graph, define, {}, first, root, exact)
        if begun is not None:
            yield from completed(graph, define, begun, others, exact)


def completed(
    graph: Graph, define: dict[Any, Equation], found: Bound, outputs: Sequence[Any], exact: bool
) -> Iterator[Bound]:
    """`found` with further outputs: those are sought among what is computed from the values that are found."""
    if not outputs:
        yield found
        return
    output, *rest = outputs
    for value in candidates(graph, define, found, output):
        more = grow(graph, define, found, output, value, exact)
        if more is not None:
            yield from completed(graph, define, more, rest, exact)


def candidates(graph: Graph, define: dict[Any, Equation], found: Bound, output: Any) -> list[Atom]:
    """What may be an output of the pattern: the way to it from a value that is found is followed through readers."""
    way: list[Any] = []
    at = output
    while at not in found:
        way.append(at)
        reads = define[at].inputs
        ahead = [x for x in reads if x in found] or [x for x in reads if x in define]
        if not ahead:
            return []
        at = ahead[0]
    values: list[Atom] = [found[at]]
    for v in reversed(way):
        made = define[v]
        values = [
            eqn.outputs[made.outputs.index(v)]
            for x in values
            for eqn in graph.readers.get(x, ())
            if eqn.primitive.name == made.primitive.name and len(eqn.outputs) == len(made.outputs)
        ]
    return values


class Match(NamedTuple):
    """Values of a Program and the operands from which `replacement` computes them."""

    roots: tuple[Any, ...]
    operands: tuple[Atom, ...]
    replacement: Program


Find = Callable[[Graph, Any], Match | None]


def matches(program: Program, find: Find) -> dict[int, list[Match]]:
    """The matches by the position at which their replacements are written; no value is replaced twice."""
    graph, taken = Graph(program), set()
    placed: dict[int, list[Match]] = {}
    for eqn in program.equations:
        for v in eqn.outputs:
            match = None if v in taken else find(graph, v)
            if match is None or not taken.isdisjoint(match.roots):
                continue
            here = min(graph.position[r] for r in match.roots)
            if all([graph.position.get(x, -1) < here for x in match.operands]):  # all is there before the first root
                taken.update(match.roots)
                placed.setdefault(here, []).append(match)
    return placed


def replace(program: Program, find: Find) -> tuple[Program, int]:
    """One pass: the Program with what `find` finds replaced, nested Programs too, and how many matches there were."""
    passed: dict[int, tuple[Program, Program, int]] = {}  # by identity, so that a shared one stays shared

    def once(program: Program) -> tuple[Program, int]:
        if id(program) not in passed:
            passed[id(program)] = (program, *walk(program))
        _, made, count = passed[id(program)]
        return made, count

    def walk(program: Program) -> tuple[Program, int]:
        placed = matches(program, find)
        total = sum(map(len, placed.values()))
        with Builder() as b:
            env: dict[Any, Atom] = {v: copy_input(b, v) for v in program.inputs}
            replaced: set[Any] = set()
            for i, eqn in enumerate(program.equations):
                b.source = eqn.source
                for match in placed.get(i, ()):
                    operands = [env.get(x, x) for x in match.operands]
                    results = b.inline(match.replacement, operands)
                    env.update({v: typed(y, v) for v, y in zip(match.roots, results, strict=True)})
                    replaced.update(match.roots)
                if replaced.issuperset(eqn.outputs):
                    continue
                prim, inside = with_programs(eqn.primitive, once)
                total += inside
                ys = b.emit(prim, tuple([env.get(x, x) for x in eqn.inputs]))
                for v, y in zip(eqn.outputs, ys, strict=True):
                    if v not in replaced:
                        env[v] = y
                        if v.name is not None and type(y) is Var and y.name is None:
                            y.name = v.name
            b.source = None
            return (b.build([env.get(y, y) for y in program.outputs]) if total else program), total

    return once(program)


def with_programs(prim: Primitive, change: Callable[[Program], tuple[Program, int]]) -> tuple[Primitive, int]:
    """A primitive with all Programs that it holds changed, and the sum of what was counted."""
    fields: dict[str, Any] = {}
    count = 0
    for name, value in prim.params.items():
        if made := [change(p) for p in held_programs(value)]:
            fields[name] = tuple([p for p, _ in made]) if isinstance(value, tuple) else made[0][0]
            count += sum([n for _, n in made])
    return (dataclasses.replace(prim, **fields) if count else prim), count  # pyright: ignore[reportArgumentType]


def typed(y: Atom, like: Var) -> Atom:
    """A value of the very type, weak or not, of the one it replaces."""
    return y if y.aval is like.aval else convert_element_type(y, like.aval.dtype, like.aval.weak_type)
