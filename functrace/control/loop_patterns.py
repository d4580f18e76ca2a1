"""What the results of a loop depend on: its steps one after the other, or the closure of one where they are too many.

The body is walked once for all steps (`step_rows`). Where a rule asks for a value that the loop's counter says, such as
the index of a gather, that one equation is batched over the steps, with the value of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jax import lax
from scipy import sparse

from functrace.control.groups import cut, needed_equations
from functrace.control.step_rows import (
    Atoms,
    Rows,
    TooMany,
    blocks,
    either,
    overlaid,
    steady,
    through_link,
    through_links,
    unrolled,
    within,
)  # fmt: skip
from functrace.ir import Builder, Equation, Literal, Program, Var
from functrace.ir.builder import pruned
from functrace.ir.dependence import Matrix, Operand, Site, closure, moved, nothing, product, stacked, union
from functrace.lower.evaluate import at_once, evaluate
from functrace.rewrites.batch import batch
from functrace.rewrites.memo import copy_input
from functrace.rewrites.pattern import Known, apart, dependence, links, through

FEW = 128  # steps of which matrices are multiplied
LONGEST = 2**20  # steps that are counted


def unknown(x: Operand, moves: bool) -> Operand:
    """An operand of which the value changes from step to step."""
    return Operand(x.aval, moves, lambda: None)


def assembled(rows: Sequence[Sequence[Matrix | None]], heights: Sequence[int], widths: Sequence[int]) -> Matrix:
    """One matrix of blocks, None for an empty one."""
    whole = [
        sparse.hstack([nothing(h, 0), *[nothing(h, w) if m is None else m for m, w in zip(row, widths, strict=True)]])
        for row, h in zip(rows, heights, strict=True)
    ]
    return stacked(whole, sum(widths))


def one_step(
    body: Program, consts: Sequence[Operand], carry: Sequence[Operand], xs: Sequence[Operand], at: Site
) -> tuple[list[Operand], list[list[Matrix | None]]]:
    """The carry, moving where a step makes it move, and the pattern of any step."""
    while True:
        found = through(body, [*consts, *carry, *xs], notes := [])
        grown = [unknown(c, c.moves or any([m is not None for m in row])) for c, row in zip(carry, found, strict=False)]
        if [c.moves for c in grown] == [c.moves for c in carry]:
            at.unbounded.extend(notes)
            return grown, found
        carry = grown


def sizes(operands: Sequence[Operand]) -> list[int]:
    """How many entries of each operand move."""
    return [x.aval.size if x.moves else 0 for x in operands]


def of_moving(row: Sequence[Matrix | None], operands: Sequence[Operand]) -> list[Matrix | None]:
    """The blocks of operands, those without an entry that moves empty."""
    return [m if x.moves else None for m, x in zip(row, operands, strict=True)]


def while_pattern(
    predicate: Program | None, body: Program, consts: Sequence[Operand], carry: Sequence[Operand], at: Site
) -> list[list[Any]]:
    """Of the carry after as many steps as the predicate says, or any number, by constants and first carry."""
    turns = None if predicate is None else counted(predicate, body, consts, carry)
    if turns is not None:
        return scan_pattern(body, [*consts, *carry], (len(consts), len(carry)), turns, False, at)
    carried, rows = one_step(body, consts, [unknown(c, c.moves) for c in carry], (), at)
    heights = sizes(carried)
    n = len(consts)
    flags = [c.moves for c in carried]
    kept = [of_moving(row, [*consts, *carried]) if f else [None] * len(row) for row, f in zip(rows, flags, strict=True)]
    of_consts = assembled([row[:n] for row in kept], heights, sizes(consts))
    reach = closure(assembled([row[n:] for row in kept], heights, heights))
    starts = assembled(
        [[_first(c, g) if i == j else None for j, c in enumerate(carry)] for i, g in enumerate(carried)],
        heights, sizes(carry),
    )  # fmt: skip
    whole: Any = sparse.hstack([reach @ of_consts, reach @ starts], format="csr")
    return split_rows(whole, heights, [*consts, *carry])


def _first(given: Operand, grown: Operand) -> Matrix | None:
    """The first carry, of what moves."""
    n = given.aval.size
    return moved(np.arange(n), n) if given.moves and grown.moves else None


def split_rows(whole: Matrix, heights: Sequence[int], operands: Sequence[Operand]) -> list[list[Any]]:
    """The matrix by results and operands, None where nothing moves."""
    found, start = [], 0
    for h in heights:
        own = whole[start : start + h] if h else None
        found.append(apart(own, [x.aval.size if x.moves else None for x in operands]))
        start += h
    return found


def walk_pattern(
    body: Program, along: Program, consts: Sequence[Operand], state: Sequence[Operand], rest: Sequence[Operand],
    turns: Any, backward: bool, at: Site,
) -> list[list[Any]]:  # fmt: skip
    """Of what is computed along the states of a loop, by constants, first state and the rest; `turns` is None, or how
    many steps it takes."""
    fixed, carried = cut(rest, len(rest) - len(along.outputs))
    n, m = len(consts), len(state)
    if turns is None or turns.ndim:
        return while_pattern(None, along, [*consts, *[unknown(x, False) for x in state], *fixed], carried, at)
    length = int(turns)
    numbers = Steps(body, [*consts, *state], (n, m), length, False)
    kept = Program(body.inputs, body.equations, (*body.outputs, *body.inputs[n:]))
    before = scan_pattern(kept, [*consts, *state], (n, m), length, False, at)[m:]
    moves = [any([p is not None for p in row]) for row in before]
    states = [
        Operand(x.aval.with_shape((length, *x.aval.shape)), m, lambda v=v: numbers.sequences.get(v))
        for x, v, m in zip(state, body.inputs[n:], moves, strict=True)
    ]
    inputs = (*along.inputs[:n], *along.inputs[n + m :], *along.inputs[n : n + m])
    step = Program(inputs, along.equations, along.outputs)
    found = scan_pattern(step, [*consts, *rest, *states], (n + len(fixed), len(carried)), length, backward, at)
    whole = []
    for row in found:
        own: list[Any] = [*row[:n], *[None] * m, *row[n : len(row) - m]]
        for link, through_state in zip(row[len(row) - m :], before, strict=True):
            for i, part in enumerate(through_state):
                own[i] = union(own[i], product(link, part))
        whole.append(own)
    return whole


def is_number(aval: Any) -> bool:
    """Whether values of this type are followed from step to step: floats may differ by how they are compiled."""
    return aval.kind in "iub"


class Steps:
    """What is known of the values of a body at each step: integers that nothing but the loop itself decides."""

    def __init__(
        self, body: Program, operands: Sequence[Operand], counts: tuple[int, int], length: int, reverse: bool
    ):
        self.body, self.operands, self.counts = body, operands, counts
        self.length, self.reverse = length, reverse
        n = counts[0]
        absent = [lambda: None] * (len(operands) - n)
        self.fixed = Known(body, [*[lambda x=x: x.value for x in operands[:n]], *absent])
        self.varied = False  # whether a value was asked for that differs between steps

    @property
    def unknown(self) -> set[Any]:
        """What cannot be known at all."""
        return self.fixed.unknown

    def __call__(self, atom: Any) -> Any:
        """The value that is the same at all steps, or None."""
        value = self.fixed(atom)
        self.varied |= value is None and atom in self.followed
        return value

    @cached_property
    def given(self) -> dict[Any, Any]:
        """Inputs of the body that are numbers, with the value of the whole operand."""
        pairs = zip(self.body.inputs, self.operands, strict=True)
        return {v: x.value for v, x in pairs if not x.moves and is_number(v.aval) and x.value is not None}

    @cached_property
    def followed(self) -> set[Any]:
        """What follows from numbers alone."""
        carried = cut(self.body.inputs, *self.counts)[1]
        known = set(self.given)
        while True:
            found = set(known)
            for eqn in self.body.equations:
                found.update([v for v in eqn.outputs if self.follows(eqn, v, found)])
            lost = [
                v for v, y in zip(carried, self.body.outputs, strict=False)
                if v in known and type(y) is Var and y not in found
            ]  # fmt: skip
            if not lost:
                return found
            known.difference_update(lost)

    def follows(self, eqn: Equation, v: Var, known: set[Any]) -> bool:
        """Whether a result needs nothing but what is known."""
        if eqn.primitive.has_effects:
            return False
        needed = eqn if len(eqn.outputs) == 1 else pruned(eqn, {v})
        return all([type(x) is Literal or x in known for x in needed.inputs])

    @cached_property
    def carried(self) -> tuple[list[Any], list[Any]]:
        """The numbers of the carry, and their places in it."""
        inputs = cut(self.body.inputs, *self.counts)[1]
        places = [i for i, v in enumerate(inputs) if v in self.followed]
        return [inputs[i] for i in places], places

    def step(self, wanted: Sequence[Any]) -> tuple[list[Any], Program]:
        """The Program that computes these from the inputs that it needs."""
        needed, equations = set(wanted), []
        for eqn in reversed(self.body.equations):
            own = needed.intersection(eqn.outputs)
            if own:
                equations.append(pruned(eqn, own))
                needed.update(equations[-1].inputs)
        inputs = [v for v in self.body.inputs if v in needed]
        return inputs, Program(tuple(inputs), tuple(reversed(equations)), tuple(wanted))

    @cached_property
    def sequences(self) -> dict[Any, Any]:
        """The numbers of the carry at each step, by its place in what is scanned."""
        variables, places = self.carried
        inputs, step = self.step([self.body.outputs[i] for i in places])
        consts, _, scanned = (set(group) for group in cut(self.body.inputs, *self.counts))
        entries = [v for v in inputs if v in scanned]
        constant = {v: self.given[v] for v in inputs if v in consts}

        def turn(carry: Any, xs: Any) -> Any:
            env = constant | dict(zip(variables, carry, strict=True)) | dict(zip(entries, xs, strict=True))
            found = evaluate(step, [env[v] for v in inputs])
            return of_types(found, variables), carry

        first = [np.asarray(self.given[v], v.aval.dtype) for v in variables]
        xs = [self.given[v] for v in entries]
        run = lambda: lax.scan(turn, first, xs, self.length, self.reverse)[1]
        return dict(zip(variables, at_once(run), strict=True))

    def each(self, atom: Any) -> Any:
        """The value at each step, along a leading axis."""
        within(self.length * atom.aval.size)
        inputs, step = self.step([atom])
        consts = set(self.body.inputs[: self.counts[0]])
        flags = tuple([v not in consts for v in inputs])
        values = [self.sequences[v] if v in self.sequences else self.given[v] for v in inputs]
        (value,) = at_once(evaluate, batch(step, self.length, flags, None, True)[0], values)
        return value


def of_types(values: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """Values as a carry must have them: each of the dtype of its variable."""
    return [lax.convert_element_type(y, v.aval.dtype) for y, v in zip(values, variables, strict=True)]


def counted(predicate: Program, body: Program, consts: Sequence[Operand], carry: Sequence[Operand]) -> int | None:
    """How many times a while loop turns, if nothing but numbers decides it."""
    steps = Steps(body, [*consts, *carry], (len(consts), len(carry)), 0, False)
    variables, places = steps.carried
    known = {v for v in body.inputs[: len(consts)] if v in steps.given} | set(variables)
    of_predicate = dict(zip(predicate.inputs, body.inputs, strict=True))
    equations = needed_equations(predicate, predicate.outputs)
    asked = {x for x in [*predicate.outputs, *[x for e in equations for x in e.inputs]] if x in of_predicate}
    if predicate.has_effects or not all([of_predicate[x] in known for x in asked]):
        return None
    inputs, step = steps.step([body.outputs[i] for i in places])
    constant = {v: x for v, x in steps.given.items() if v not in variables}
    order = [v for v in predicate.inputs if v in asked]
    test = Program(tuple(order), equations, predicate.outputs)

    def going(state: Any) -> Any:
        env = constant | dict(zip(variables, state[1:], strict=True))
        return evaluate(test, [env[of_predicate[v]] for v in order])[0] & (state[0] < LONGEST)

    def turn(state: Any) -> Any:
        env = constant | dict(zip(variables, state[1:], strict=True))
        found = evaluate(step, [env[v] for v in inputs])
        return [state[0] + 1, *of_types(found, variables)]

    first = [np.int32(0), *[np.asarray(steps.given[v], v.aval.dtype) for v in variables]]
    turns = int(at_once(lambda: lax.while_loop(going, turn, first)[0]))
    return turns if turns < LONGEST else None


def walked(steps: Steps, rows: Sequence[Rows | None], notes: list[Any]) -> list[Rows | None]:
    """What the outputs of the body depend on at each step, of what its inputs do."""
    found: dict[Any, Rows] = {v: x for v, x in zip(steps.body.inputs, rows, strict=True) if x is not None}
    local: dict[Any, Any] = {}
    for eqn in steps.body.equations:
        if not any([x in found for x in eqn.inputs]):
            steps.fixed.step(eqn)
            continue
        steps.varied, own = False, []
        linked = links(eqn, found, steps, own, local)
        made: list[Rows | None]
        try:
            if not steps.varied:
                raise TooMany
            made = varying(eqn, found, steps, own := [])
        except TooMany:  # or all steps are alike
            made = []
            for row in linked:
                y = None
                for link, x in zip(row, eqn.inputs, strict=True):
                    if link is not None:
                        y = either(y, through_link(link, found[x]))
                made.append(y)
        notes += own
        found.update({v: y for v, y in zip(eqn.outputs, made, strict=True) if y is not None and is_there(y)})
        steps.unknown.update([v for v in eqn.outputs if v in found])
    return [found.get(y) for y in steps.body.outputs]


def is_there(x: Rows) -> bool:
    """Whether there is any dependence."""
    return bool(x.usual.nnz or x.other.nnz)


def varying(eqn: Any, found: dict[Any, Rows], steps: Steps, notes: list[Any]) -> list[Rows | None]:
    """The results of an equation that does not do the same at each step."""
    writes = eqn.primitive.writes(*[x.aval for x in eqn.inputs])
    if writes is not None and steps.length * eqn.outputs[0].aval.size > 2**12:
        x, update = eqn.inputs[writes.into], eqn.inputs[writes.of]
        (places,), columns = each_step(writes.reader, [x, *[eqn.inputs[i] for i in writes.at]], {x}, steps, notes)
        base = found.get(x)
        if base is None:
            base = steady(nothing(x.aval.size, found[update].usual.shape[1]))
        assert columns == [x]
        return [overlaid(base, found.get(update), places, steps.length, writes.replaces)]
    within(steps.length * sum([y.aval.size for y in eqn.outputs]))
    matrices, columns = each_step(eqn.primitive, eqn.inputs, set(found), steps, notes)
    made: list[Rows | None] = []
    for matrix in matrices:
        y = None
        if matrix is not None:
            for v, part in zip(columns, apart(matrix, [v.aval.size for v in columns]), strict=True):
                y = either(y, through_links(part, found[v], steps.length))
        made.append(y)
    return made


def each_step(
    primitive: Any, operands: Sequence[Any], moving: set[Any], steps: Steps, notes: list[Any]
) -> tuple[list[Matrix | None], list[Any]]:
    """The pattern of one equation batched over the steps, and which operands its columns are entries of."""
    variables = list(dict.fromkeys([x for x in operands if type(x) is Var]))
    with Builder() as b:
        inner = dict(zip(variables, [copy_input(b, v) for v in variables], strict=True))
        made = primitive(*[inner[x] if type(x) is Var else x for x in operands])
        one = b.build(list(made) if primitive.multiple_results else [made])
    differs = {v for v in variables if v not in moving and v in steps.followed and steps.fixed(v) is None}
    program, _ = batch(one, steps.length, tuple([v in differs for v in variables]), None, True)
    values = [lambda v=v: steps.each(v) if v in differs else None if v in moving else steps.fixed(v) for v in variables]
    found = dependence(program, [v in moving for v in variables], values, notes)
    return found, [v for v in variables if v in moving]


def scan_pattern(
    body: Program, operands: Sequence[Operand], counts: tuple[int, int], length: int, reverse: bool, at: Site
) -> list[list[Any]]:
    """Of the last carry and of all ys, by constants, first carry and scanned operands."""
    consts, carry, scanned = cut(operands, *counts)
    widths = [x.aval.size if x.moves else None for x in operands]
    if not length:
        ends = [[_first(c, c) if c is d else None for d in operands] for c in carry]
        return [*ends, *[[None] * len(operands) for _ in body.outputs[len(carry) :]]]
    try:
        last, ys = followed(body, consts, carry, scanned, length, reverse, at)
    except TooMany:
        return in_any_order(body, consts, carry, scanned, length, reverse, at)
    return [apart(m, widths) for m in (*last, *ys)]


def followed(
    body: Program, consts: Sequence[Operand], carry: Sequence[Operand], scanned: Sequence[Operand], length: int,
    reverse: bool, at: Site,
) -> tuple[list[Matrix | None], list[Matrix | None]]:  # fmt: skip
    """The last carry and all ys by the columns of the operands, step after step."""
    within(length)
    entries = [Operand(x.aval.with_shape(x.aval.shape[1:]), x.moves, lambda: None) for x in scanned]
    carried = list(carry)
    while True:
        inside = [*consts, *carried, *entries]
        total, start, rows = sum(sizes(inside)), 0, []
        for n, x in zip(sizes(inside), inside, strict=True):
            rows.append(steady(moved(np.arange(start, start + n), total)) if x.moves else None)
            start += n
        steps = Steps(body, [*consts, *carried, *scanned], (len(consts), len(carry)), length, reverse)
        found = walked(steps, rows, notes := [])
        grown = [unknown(c, True) if y is not None and not c.moves else c for c, y in zip(carried, found, strict=False)]
        if all([a is b for a, b in zip(carried, grown, strict=True)]):
            break
        carried = grown
    heights = sizes(carried)
    parts = [
        either(found[i], steady(nothing(h, total))) if c.moves else None
        for i, (c, h) in enumerate(zip(carried, heights, strict=True))
    ]
    first, stride = columns_of(consts, carried, carry, scanned, length)
    width = sum(sizes([*consts, *carry, *scanned]))
    before = sum(sizes(consts))
    atoms = Atoms(before, before + sum(heights), first, stride, width)
    starts = assembled(
        [[_first(c, g) if i == j else None for j, c in enumerate(carry)] for i, g in enumerate(carried)],
        heights, sizes(carry),
    )  # fmt: skip
    begin: Any = sparse.hstack([nothing(sum(heights), before), starts], format="csr")
    begin.resize((sum(heights), width))
    order = range(length - 1, -1, -1) if reverse else range(length)
    last, ys = unrolled(joined(parts, total), found[len(carry) :], begin, atoms, order)
    at.unbounded.extend(notes)
    ends = [m if c.moves else None for c, m in zip(carried, blocks(last, heights), strict=True)]
    return ends, ys


def columns_of(
    consts: Sequence[Operand], carried: Sequence[Operand], carry: Sequence[Operand], scanned: Sequence[Operand],
    length: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Of each atom its column at the first step, and how far on it is at the next."""
    n_consts, n_carry, n_carried = (sum(sizes(group)) for group in (consts, carry, carried))
    first, stride = [np.arange(n_consts), np.zeros(n_carried, np.int64)], [np.zeros(n_consts + n_carried, np.int64)]
    start = n_consts + n_carry
    for size in sizes(scanned):
        each = size // length
        first.append(np.arange(start, start + each))
        stride.append(np.full(each, each))
        start += size
    return np.concatenate(first), np.concatenate(stride)


def joined(parts: Sequence[Rows | None], width: int) -> Rows:
    """The rows of all parts as those of one value."""
    there = [p for p in parts if p is not None]
    total, start, keys = sum([p.size for p in there]), 0, [np.zeros(0, np.int64)]
    for p in there:
        step, row = np.divmod(p.keys, max(p.size, 1))
        keys.append(step * total + row + start)
        start += p.size
    every = np.concatenate(keys)
    order = np.argsort(every)
    return Rows(stacked([p.usual for p in there], width), every[order], stacked([p.other for p in there], width)[order])


def in_any_order(
    body: Program, consts: Sequence[Operand], carry: Sequence[Operand], scanned: Sequence[Operand], length: int,
    reverse: bool, at: Site,
) -> list[list[Any]]:  # fmt: skip
    """The same of a loop with too much to follow: of few steps alike, else of any number in any order."""
    operands = [*consts, *carry, *scanned]
    entries = [Operand(x.aval.with_shape(x.aval.shape[1:]), x.moves, lambda: None) for x in scanned]
    carried, rows = one_step(body, consts, [unknown(c, c.moves) for c in carry], entries, at)
    inside, heights = [*consts, *carried, *entries], sizes(carried)
    y_avals = [y.aval for y in body.outputs[len(carry) :]]
    y_moves = [any([m is not None for m in row]) for row in rows[len(carry) :]]
    y_heights = [y.size if m else 0 for y, m in zip(y_avals, y_moves, strict=True)]
    out_flags, outs = [*[c.moves for c in carried], *y_moves], [*heights, *y_heights]

    def whole(rows: Sequence[Sequence[Matrix | None]]) -> Matrix:
        kept = [of_moving(r, inside) if f else [None] * len(r) for r, f in zip(rows, out_flags, strict=True)]
        return assembled(kept, outs, sizes(inside))

    width = sum(sizes(operands))
    n_consts, n_carry, n_scanned = (sum(sizes(group)) for group in (consts, carry, scanned))
    starts = assembled(
        [[_first(c, g) if i == j else None for j, c in enumerate(carry)] for i, g in enumerate(carried)],
        heights, sizes(carry),
    )  # fmt: skip
    h = sum(heights)
    state: Any = sparse.hstack([nothing(h, n_consts), starts, nothing(h, n_scanned)], format="csr")
    constants = moved(np.arange(n_consts), width)

    def scanned_at(steps: Any) -> Matrix:
        """The rows of one entry of each scanned operand, or of any of several."""
        found, start = [], n_consts + n_carry
        for size in sizes(scanned):
            if size:
                each = size // length
                links = [moved(np.arange(start + t * each, start + (t + 1) * each), width) for t in steps]
                found.append(sum(links[1:], links[0]))
            start += size
        return stacked(found, width)

    def rows_of_ys(made: Sequence[Matrix]) -> list[list[Any]]:
        cuts = np.cumsum([0, *y_heights])
        ys = [
            stacked([m[a:b] for m in made], width) if b > a else None
            for a, b in pairwise(cuts)
        ]  # fmt: skip
        return [apart(y, [x.aval.size if x.moves else None for x in operands]) for y in ys]

    step = whole(rows)
    if length <= FEW:
        made: list[Any] = [None] * length
        for t in reversed(range(length)) if reverse else range(length):
            result = (step @ stacked([constants, state, scanned_at([t])], width)).tocsr()
            state, made[t] = result[:h], result[h:]
        return [*split_rows(state, heights, operands), *rows_of_ys(made)]
    a, b = n_consts, n_consts + h
    any_entry = scanned_at(range(length)) if n_scanned else nothing(0, width)
    new = (step[:h, :a] @ constants + step[:h, b:] @ any_entry).tocsr()
    state = (closure(step[:h, a:b]) @ (state + new)).tocsr()
    before = (step[h:, :a] @ constants + step[h:, a:b] @ state).tocsr()
    made = [(before + step[h:, b:] @ scanned_at([t])).tocsr() for t in range(length)] if sum(y_heights) else []
    return [*split_rows(state, heights, operands), *rows_of_ys(made)]

