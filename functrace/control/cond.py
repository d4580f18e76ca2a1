"""cond: one of several Programs of one type, chosen by an index.

Its pushforward chooses between pushforwards. Its linearization is two conds on the same index: what
the second reads of each branch stands in slots that the branches share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax import lax

from functrace.control.call import bound, uses_axis
from functrace.control.groups import cut, firsts, narrowed, needed_inputs, of_each_kind, output_kinds, reads
from functrace.control.masked import given, with_masks
from functrace.control.scan import Scan
from functrace.ir import Atom, Aval, Builder, Literal, Program, Run, Sample, Undefined, ambient, primitive
from functrace.ir.dependence import Matrix, Site, union
from functrace.ir.primitive import Primitive
from functrace.ir.python import tuple_text
from functrace.lower.staging import staged
from functrace.primitives.comparison import eq
from functrace.primitives.elementwise import ConvertElementType, mul
from functrace.primitives.observing import Tap
from functrace.primitives.selection import where
from functrace.primitives.space import batched_operand, broadcast_in_dim, broadcast_to, not_there, zeros
from functrace.primitives.unary import cos, sin
from functrace.rewrites import batch, collect, jvp, memoised, series, transpose
from functrace.rewrites.collect import is_observed
from functrace.rewrites.laplacian import Directions
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.pattern import through
from functrace.rewrites.separate import separated, split
from functrace.rewrites.series import either, flat, present, unflat
from functrace.rewrites.thread import Thread, threads_call
from functrace.rewrites.transpose import presence, transposed

F32 = np.dtype(np.float32)
I32 = np.dtype(np.int32)


@primitive
class Cond(Primitive):
    """`branches[index](*operands)`; the first operand is the index, an int32 scalar within range.

    Batched over the index, all branches are computed and each row selects its own ("select"), or each
    row computes its own branch, one after the other ("map").
    """

    name = "cond"
    multiple_results = True
    pushes_inner = True
    at_once = True
    masks = True
    branches: tuple[Program, ...]
    batched: str = "select"

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), F32)
        with Builder() as b:
            x, y = b.input(aval), b.input(aval)
            first = b.build([mul(cos(x), y), y])
        with Builder() as b:
            x, y = b.input(aval), b.input(aval)
            second = b.build([sin(x), mul(x, x)])
        for index in (0, 1):
            yield Sample(Cond((first, second)), (np.int32(index), aval, aval))
        yield Sample(Cond((first, second, first), "map"), (np.int32(1), aval, aval))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(p.has_effects for p in self.branches)

    def shape(self, *xs: Aval) -> Any:
        return self.branches[0].out_avals

    def lower(self, *xs: Any) -> Any:
        if any(isinstance(x, jax.core.Tracer) for x in xs):
            return run(self, xs)
        return compiled(self.branches[0], self)(*xs)

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        index, *operands = xs
        if type(index) is Literal:
            return tuple(builder.inline(self.branches[int(index.value)], operands))
        if all(p is self.branches[0] for p in self.branches) and not self.has_effects:
            return tuple(builder.inline(self.branches[0], operands))
        kinds = output_kinds(self.branches[0], self.branches[1:])
        if not all(one := firsts(kinds)):
            return tuple(of_each_kind(kinds, self._with((True,) * len(operands), one)(*xs)))
        kept = tuple(map(any, zip(*[reads(p) for p in self.branches], strict=True)))
        if not all(kept):
            outputs = (True,) * len(self.branches[0].outputs)
            return self._with(kept, outputs)(index, *select(kept, operands))
        return None

    def _with(self, inputs: tuple[bool, ...], outputs: tuple[bool, ...]) -> Cond:
        return Cond(tuple(narrowed(p, inputs, outputs) for p in self.branches), self.batched)

    def prune(self, needed: tuple[bool, ...]) -> Any:
        inputs = tuple(map(any, zip(*[needed_inputs(p, needed) for p in self.branches], strict=True)))
        return self._with(inputs, needed), (True, *inputs), needed

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        pushed, moving, moved = self._pushed(dxs, "jvp")
        tangents = select(moving, dxs[1:])
        values = (*[None] * (len(xs) - 1), *[dx if type(dx) is Literal else None for dx in tangents])
        pushed = replace(pushed, branches=tuple([bound(p, values) for p in pushed.branches]))
        outputs = pushed(*xs, *[dx for dx in tangents if type(dx) is not Literal])
        n = len(moved)
        return outputs[:n], scatter(moved, outputs[n:])

    def laplacian(self, at: Directions, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> Any:
        found = at.through(self.branches, js[1:], ls[1:])
        chosen = Cond(found.programs, self.batched)
        return found.apart(chosen(*xs, *found.operands(js[1:], ls[1:])))

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        (index, *_), *operands = xs
        given = tuple(map(present, operands))
        found = either(*[series(p, given)[1] for p in self.branches])
        chosen = Cond(tuple([series(p, given, found)[0] for p in self.branches]), self.batched)
        return unflat(chosen(index, *flat(operands)), found)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        pushed, moving, moved = self._pushed(dxs, "linearize")
        operands = [*xs, *select(moving, dxs[1:])]
        outputs, _ = pushed.separate(operands, [True] * len(xs) + [False] * sum(moving))
        n = len(moved)
        return outputs[:n], scatter(moved, outputs[n:])

    def _pushed(self, dxs: Sequence[Any], rule: str) -> tuple[Cond, tuple[bool, ...], tuple[bool, ...]]:
        """The cond of pushforwards, which operands have a tangent, and which results."""
        moving = tuple(dx is not None for dx in dxs[1:])
        moved = tuple(map(any, zip(*[jvp(p, moving, rule)[1] for p in self.branches], strict=True)))
        return Cond(tuple(jvp(p, moving, rule, moved)[0] for p in self.branches), self.batched), moving, moved

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        if not known[0]:
            return self(*xs), (False,) * len(self.branches[0].outputs)
        halves = divided(self.branches[0], self.branches, tuple(known[1:]))
        index, *operands = xs
        given = [x for x, k in zip(operands, known[1:], strict=True) if k]
        early = Cond(halves.first, self.batched)(index, *given)
        now, residuals = iter(early[: sum(halves.known)]), early[sum(halves.known) :]
        if all(halves.known):
            return list(now), halves.known
        rest = [x for x, k in zip(operands, known[1:], strict=True) if not k]
        later = iter(Cond(halves.second, self.batched)(index, *given, *residuals, *rest))
        return [next(now) if k else next(later) for k in halves.known], halves.known

    def transpose(self, ct: Any, *xs: Any) -> Any:
        index, *operands = xs
        linear = tuple(isinstance(x, Undefined) for x in operands)
        with_ct = tuple(c is not None for c in ct)
        pulled = [transpose(p, linear, with_ct) for p in self.branches]
        found = tuple(map(any, zip(*[flags for _, flags in pulled], strict=True)))
        branches = tuple(filled(p, flags, found, self.branches[0], linear) for p, flags in pulled)
        fixed = [x for x in operands if not isinstance(x, Undefined)]
        outputs = Cond(branches, self.batched)(index, *fixed, *[c for c in ct if c is not None])
        return [None, *scatter(linear, scatter(found, outputs))]

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        index, *operands = xs
        how = given(ct, operands)
        backs = [transposed(p, *how.how) for p in self.branches]
        flags = tuple(map(any, zip(*[back.found for back in backs], strict=True)))
        branches = [filled(back.program, back.found, flags, self.branches[0], how.linear) for back in backs]
        found = how.applied(lambda programs, xs: Cond(programs, self.batched)(index, *xs), branches)
        cts = [None, *scatter(how.linear, scatter(flags, found))]
        return with_masks(cts, self.presence(ct, *xs))

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        index, *operands = xs
        how = given(cts, operands)
        backs = [transposed(p, *how.how) for p in self.branches]
        # A branch that does not read an operand masks all of it.
        every = [zip(back.found, scatter(back.found, back.there), strict=True) for back in backs]
        types: list[Any] = []
        for x, column in zip(select(how.linear, operands), zip(*every, strict=True), strict=True):
            masked = any([not f or of is not None for f, of in column])
            whole = all([of is None or not of[0] for _, of in column])
            types.append((() if whole else x.aval.shape, frozenset()) if masked else None)
        programs = lambda: [presence_filled(p, how.how, tuple(types)) for p in self.branches]
        masks = how.presences(types, programs, lambda programs, xs: Cond(programs, self.batched)(index, *xs))
        return [None, *scatter(how.linear, masks)]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        index, *operands = at.operands
        chosen = self.branches if index.value is None else (self.branches[int(index.value)],)
        found = [through(p, operands, at.unbounded) for p in chosen]
        merged = [[reduce(union, cases) for cases in zip(*rows, strict=True)] for rows in zip(*found, strict=True)]
        return [[None, *row] for row in merged]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        index, *operands = xs
        flags = tuple(batched[1:])
        if batched[0] and self.batched == "map" and not self.uses_axis(name):
            return self._mapped(size, xs, batched)
        if batched[0] and is_observed(self):
            return self._observed_apart(name, size, xs, batched)
        out_flags = tuple(map(any, zip(*[batch(p, size, flags, name)[1] for p in self.branches], strict=True)))
        branches = tuple(batch(p, size, flags, name, out_flags)[0] for p in self.branches)
        if not batched[0]:
            return Cond(branches, self.batched)(*xs), out_flags
        results = [ambient().inline(p, operands) for p in branches]
        outputs = []
        for cases, is_batched in zip(zip(*results, strict=True), out_flags, strict=True):
            cases = [batched_operand(y, is_batched, size) for y in cases]
            y = cases[-1]
            for i in reversed(range(len(cases) - 1)):
                y = where(along(eq(index, i), y.aval.shape), cases[i], y)
            outputs.append(y)
        return outputs, (True,) * len(outputs)

    def _observed_apart(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        """With what is observed in the branches selected row by row, as the results are, and observed then."""
        branches, names = collected(self.branches[0], self.branches)
        outputs, flags = replace(self, branches=branches).batch_axis(name, size, xs, batched)
        n = len(self.branches[0].outputs)
        for label, value in zip(names, outputs[n:], strict=True):
            Tap(label)(value)
        return outputs[:n], flags[:n]

    def _mapped(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        """A scan over the rows, each with its own branch."""
        rows = tuple(batched)
        with Builder() as b:
            consts = [b.input(x.aval) for x, f in zip(xs, rows, strict=True) if not f]
            entries = [b.input(x.aval.with_shape(x.aval.shape[1:])) for x, f in zip(xs, rows, strict=True) if f]
            c, e = iter(consts), iter(entries)
            body = b.build(self(*[next(e) if f else next(c) for f in rows]))
        scan = Scan(body, len(consts), 0, size)
        fixed = [x for x, f in zip(xs, rows, strict=True) if not f]
        return scan(*fixed, *[x for x, f in zip(xs, rows, strict=True) if f]), (True,) * len(self.branches[0].outputs)

    def with_programs(self, change: Callable[[Program], Program]) -> Cond:
        return replace(self, branches=tuple([change(p) for p in self.branches]))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        branches, names = collected(self.branches[0], self.branches)
        ys, values = cut(replace(self, branches=branches)(*xs), len(self.branches[0].outputs))
        return ys, list(zip(names, values, strict=True))

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return self.branches

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        index, *operands = xs
        chosen = Cond(tuple([at.into(i) for i in range(len(self.branches))]), self.batched)
        return threads_call(chosen, at, state, operands, index)

    def runs(self) -> tuple[Run, ...]:
        return (Run(max(self.branches, key=lambda p: p.work.total)),)

    def spelled(self, writer: Any, eqn: Any) -> None:
        index, *xs = writer.operands(eqn)
        names = [writer.closure(f"case_{i}", "", p, xs, tuple_text) for i, p in enumerate(self.branches)]
        how = "" if self.batched == "select" else f", batched={self.batched!r}"
        made = writer.made.get(eqn.inputs[0])
        if len(names) == 2 and made is not None and made.primitive == ConvertElementType(I32):
            of_bool = made.inputs[0]
            if of_bool.aval.dtype == bool:
                return writer.assign(eqn, f"lax.cond({writer.read(of_bool)}, {names[1]}, {names[0]}{how})")
        writer.assign(eqn, f"lax.switch({index}, {tuple_text(names)}{how})")

    def uses_axis(self, name: Any) -> bool:
        return any(uses_axis(p, name) for p in self.branches)


def along(rows: Atom, shape: tuple[int, ...]) -> Atom:
    """A value a row, repeated to `shape`, whose first axis are the rows."""
    return broadcast_in_dim(rows, shape, (0,))


def run(cond: Cond, xs: Sequence[Any]) -> list[Any]:
    """The chosen branch, by JAX."""
    index, *operands = xs
    avals = cond.branches[0].out_avals
    branches = [
        lambda *xs, p=p: [lax.convert_element_type(y, a.dtype) for y, a in zip(staged(p, xs), avals, strict=True)]
        for p in cond.branches
    ]
    return lax.switch(index, branches, *operands)


@memoised
def compiled(branch: Program, cond: Cond) -> Any:
    """The cond as one compiled function, for where it runs alone."""
    return jax.jit(lambda *xs: run(cond, xs))


class Halves(NamedTuple):
    """Branches cut in two.

    first: known operands -> (known results, residuals); second: (known operands, residuals, other
    operands) -> other results.
    """

    first: tuple[Program, ...]
    second: tuple[Program, ...]
    known: tuple[bool, ...]


@memoised
def divided(_: Program, branches: tuple[Program, ...], known: tuple[bool, ...]) -> Halves:
    """Cut all branches along the same operands and results; residuals of one type share a slot."""
    apart = [separated(p, known) for p in branches]
    known_out = tuple(map(all, zip(*[flags for _, flags in apart], strict=True)))
    n = sum(known_out)
    cuts = []
    for program, _flags in apart:
        outputs = [y for y, k in zip(program.outputs, known_out, strict=True) if k]
        outputs += [y for y, k in zip(program.outputs, known_out, strict=True) if not k]
        cuts.append(split(Program(program.inputs, program.equations, tuple(outputs)), known, n))
    slots: list[Aval] = []
    places: list[list[int | None]] = []  # of each residual, its slot; None for a known operand
    for first, _second, _residuals in cuts:
        free = list(range(len(slots)))
        mine: list[int | None] = []
        for v in first.outputs[n:]:
            if v in first.inputs:
                mine.append(None)
                continue
            slot = next((i for i in free if slots[i] is v.aval), None)
            if slot is None:
                slot = len(slots)
                slots.append(v.aval)
            else:
                free.remove(slot)
            mine.append(slot)
        places.append(mine)
    given = [v.aval for v, k in zip(branches[0].inputs, known, strict=True) if k]
    rest = [v.aval for v, k in zip(branches[0].inputs, known, strict=True) if not k]
    firsts, seconds = [], []
    for (first, second, _), mine in zip(cuts, places, strict=True):
        with Builder() as b:
            outputs = b.inline(first, [b.input(a) for a in given])
            filled_slots: list[Any] = [None] * len(slots)
            for place, value in zip(mine, outputs[n:], strict=True):
                if place is not None:
                    filled_slots[place] = value
            padding = [zeros(a) if s is None else s for s, a in zip(filled_slots, slots, strict=True)]
            firsts.append(b.build([*outputs[:n], *padding]))
        with Builder() as b:
            operands = [b.input(a) for a in given]
            slot_values = [b.input(a) for a in slots]
            others = [b.input(a) for a in rest]
            bound = dict(zip(first.inputs, operands, strict=True))
            residuals = [
                bound[v] if place is None else slot_values[place]  # pyright: ignore[reportArgumentType]
                for place, v in zip(mine, first.outputs[n:], strict=True)
            ]
            seconds.append(b.build(b.inline(second, [*residuals, *others])))
    return Halves(tuple(firsts), tuple(seconds), known_out)


@memoised
def filled(
    program: Program, flags: tuple[bool, ...], wanted: tuple[bool, ...], branch: Program, linear: tuple[bool, ...]
) -> Program:
    """A transposed branch with zeros for the wanted cotangents that it does not have."""
    avals = select(linear, branch.in_avals)
    with Builder() as b:
        given = scatter(flags, b.inline(program, [copy_input(b, v) for v in program.inputs]))
        results = [zeros(a) if ct is None else ct for ct, a in zip(given, avals, strict=True)]
        return b.build(select(wanted, results))


@memoised
def presence_filled(branch: Program, how: Any, types: tuple[Any, ...]) -> Program:
    """The masks of one branch, of these types: an operand that it does not mask is there if it is read."""
    back, program = transposed(branch, *how), presence(branch, *how)
    with Builder() as b:
        rest = iter(b.inline(program, [copy_input(b, v) for v in program.inputs]))
        masks = []
        for read, own, of in zip(back.found, scatter(back.found, back.there), types, strict=True):
            mask = Literal(read, Aval((), np.dtype(bool))) if own is None else next(rest)
            if of is not None:
                masks.append(broadcast_to(mask, of[0]))
        return b.build(masks)


@memoised
def collected(_: Program, branches: tuple[Program, ...]) -> tuple[tuple[Program, ...], tuple[str, ...]]:
    """Branches with what is observed in any of them, and the names.

    Values of one name and type share a place, which holds that of the branch taken; those of the others are not there.
    """
    slots: list[tuple[str, Aval]] = []
    places: list[list[int]] = []
    found = [collect(p) for p in branches]
    for (program, names), branch in zip(found, branches, strict=True):
        mine: list[int] = []
        for name, v in zip(names, program.outputs[len(branch.outputs) :], strict=True):
            key = (name, v.aval.strong())
            free = [i for i, slot in enumerate(slots) if slot == key and i not in mine]
            if not free:
                free = [len(slots)]
                slots.append(key)
            mine.append(free[0])
        places.append(mine)
    programs = []
    for (observing, _names), mine, branch in zip(found, places, branches, strict=True):
        with Builder() as b:
            ys, values = cut(b.inline(observing, [copy_input(b, v) for v in observing.inputs]), len(branch.outputs))
            given = dict(zip(mine, values, strict=True))
            programs.append(b.build([*ys, *[given.get(i) or not_there(a) for i, (_, a) in enumerate(slots)]]))
    return tuple(programs), tuple([name for name, _ in slots])
