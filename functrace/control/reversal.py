"""Reverse mode of a while loop, whose length is known only when it has run.

    WhileSaved       (c, s) -> (s_T, T, states kept)                      s_t+1 = body(c, s_t)
    LinearWhile      (states, c, s, dc, ds) -> ds_T                       ds_t+1 = push(c, s_t, dc, ds_t)
    ReversedWhile    (states, c, s, l) -> l_0                             l_t = pull(c, s_t, l_t+1)

`push` is linear in (dc, ds) and `pull` in l, so each of the last two is the other's transpose, and both
are closed under every rule: the pushforward of ReversedWhile is one on the states (s, ds) and (l, dl),
and the transpose of that pushforward is one on the states (s, m), m the cotangents that run forward, and
(l, n), n those that run backward. So every order and mode works, with the memory of the first.

The states that are kept are no part of the mathematics: they have no tangent, and a rule that changes
the state keeps states anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import numpy as jnp

from functrace.control.call import Call, uses_axis
from functrace.control.checkpoints import run_backward, run_saving
from functrace.control.groups import apart, arranged, cut, narrowed
from functrace.control.linear_pair import LinearPair
from functrace.control.loop_patterns import walk_pattern
from functrace.control.moving import filled, moving_of, tangents, total, unknown_part
from functrace.control.reversed_body import reversed_body
from functrace.control.scan import stepping, typed
from functrace.control.while_loop import (
    SLOTS,
    While,
    divided,
    mapped,
    observing,
    repeated,
    sample_loop,
    settled,
    stepping_loop,
    with_count,
)
from functrace.ir import Atom, Aval, Builder, Program, Run, Sample, Undefined, Var, primitive
from functrace.ir.dependence import Matrix, Site
from functrace.ir.primitive import Primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.comparison import lt
from functrace.primitives.elementwise import add, mul, neg
from functrace.primitives.reductions import ReduceMax
from functrace.primitives.selection import where
from functrace.primitives.space import batched_operand, broadcast_in_dim, move_axis, not_there, zeros
from functrace.primitives.structural import iota
from functrace.rewrites import batch, collect, jvp, memoised, transpose
from functrace.rewrites.collect import unobserved
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.separate import split
from functrace.rewrites.thread import Thread, threads_call
from functrace.rewrites.transpose import divide, instantiate

I32 = Aval((), np.dtype(np.int32))
KEPT = 3  # steps, stride, used: what stands before the slots


@primitive
class WhileSaved(Primitive):
    """A while that also keeps states: results are the carry, the steps, the stride, the slots used, the slots."""

    name = "while_saved"
    multiple_results = True
    predicate: Program
    body: Program
    consts: int
    slots: int = SLOTS

    def samples(self) -> Iterator[Sample]:
        # So large a state that leaves are single steps, for one row as for a batch of them.
        aval = Aval((9,), np.dtype(np.float32))
        yield Sample(WhileSaved(*sample_loop(9), 1, 4), (aval, np.int32(0), aval), fixed=(0, 1, 2))

    @property
    def loop(self) -> While:
        """The loop without the states."""
        return While(self.predicate, self.body, self.consts, self.slots)

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.loop.has_effects

    def shape(self, *xs: Aval) -> Any:
        carry = self.body.out_avals
        return (*carry, I32, I32, I32, *[a.with_shape((self.slots + 1, *a.shape)).strong() for a in carry])

    def lower(self, *xs: Any) -> Any:
        consts, carry = cut(xs, self.consts)
        types = self.body.out_avals
        return run_saving(
            lambda state: evaluate(self.predicate, [*consts, *state])[0],
            lambda state: typed(evaluate(self.body, [*consts, *state]), types),
            typed(carry, types), self.slots,
        )  # fmt: skip

    def prune(self, needed: tuple[bool, ...]) -> Any:
        n = len(self.body.outputs)
        if any(needed[n + 1 :]):
            return None
        carry = needed[:n]
        pruned = self.loop.prune(carry)
        if pruned is None and needed[n]:
            return None
        smaller, reads, outputs = pruned or (self.loop, (True,) * (self.consts + n), (True,) * n)
        if needed[n]:  # how many steps there are
            return saving(smaller), reads, (*outputs, *(True,) * KEPT, *outputs)
        return smaller, reads, (*outputs, *(False,) * (len(needed) - n))

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        loop, operands, moved = self.loop.pushed(xs, dxs)
        carry, kept, slots = cut(saving(loop)(*operands), len(loop.body.outputs), KEPT)
        (ys, dys), (primal_slots, _) = apart((), moved, carry), apart((), moved, slots)
        return [*ys, *kept, *primal_slots], [*dys, *[None] * (KEPT + len(primal_slots))]

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        outputs = self(*xs)
        _, dys = self.loop.linearize(xs, dxs)
        return outputs, [*dys, *[None] * (len(outputs) - len(dys))]

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        found = divided(self.body, self.loop, tuple(known))
        if found is None:
            return super().separate(xs, known)
        loop, along, flags = found
        pick = lambda keep: [x for x, k in zip(xs, (*known[: self.consts], *flags), strict=True) if k is keep]
        finals, kept = cut(saving(loop)(*pick(True)), sum(flags))
        walk = LinearWhile(unobserved(loop.body), unobserved(along), loop.consts, self.slots)
        now, later, slots = iter(finals), iter(walk(*kept, *pick(True), *pick(False))), iter(kept[KEPT:])
        whole = self(*xs)[len(flags) + KEPT :]  # slots of what is not known, which a walk keeps anew
        outputs = [
            *[next(now) if k else next(later) for k in flags],
            *kept[:KEPT],
            *[next(slots) if k else slot for slot, k in zip(whole, flags, strict=True)],
        ]
        return outputs, (*flags, *(True,) * KEPT, *flags)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        # Each row counts its own steps.
        counting = with_count(self.body, self.loop)
        operands = [*xs[: self.consts], zeros(I32), *xs[self.consts :]]
        flags = (*batched[: self.consts], False, *batched[self.consts :])
        loop, carry = mapped(counting.body, counting, size, flags, name)
        given = flags[self.consts :]
        inits = [
            batched_operand(x, g, size) if f else x
            for x, g, f in zip(operands[self.consts :], given, carry, strict=True)
        ]  # fmt: skip
        (steps, *finals), kept, slots = cut(saving(loop)(*xs[: self.consts], *inits), len(carry), KEPT)
        slots = [move_axis(x, 1, 0) if f else x for x, f in zip(slots, carry, strict=True)]
        return [*finals, steps, *kept[1:], *slots[1:]], [*carry[1:], carry[0], False, False, *carry[1:]]

    def with_programs(self, change: Callable[[Program], Program]) -> WhileSaved:
        return saving(self.loop.with_programs(change))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        loop, names = observing(self.body, self.loop)
        n, m = len(self.body.outputs), len(names)
        last = [not_there(v.aval) for v in loop.body.outputs[n:]]
        carry, values, kept, slots, _ = cut(saving(loop)(*xs, *last), n, m, KEPT, n)
        return [*carry, *kept, *slots], list(zip(names, values, strict=True))

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return (self.body,)

    @property
    def turns(self) -> range:
        return self.loop.turns

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        loop = saving(stepping_loop(self.body, self.loop, at))
        c, s = cut(xs, self.consts)
        outputs = loop(*at.place, *c, zeros(I32), *state, *s)
        (_, *finals), kept, slots = cut(outputs, 1 + at.size + len(s), KEPT)
        return finals[: at.size], [*finals[at.size :], *kept, *slots[1 + at.size :]]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        found = self.loop.pattern(at)
        return [*found, *[[None] * len(at.operands)] * (KEPT + len(found))]  # states that are kept have no tangent

    def runs(self) -> tuple[Run, ...]:
        return self.loop.runs()

    def uses_axis(self, name: Any) -> bool:
        return self.loop.uses_axis(name)


def saving(loop: While) -> WhileSaved:
    """The loop that keeps states."""
    return WhileSaved(loop.predicate, loop.body, loop.consts, loop.slots)


def resaved(
    body: Program, slots: int, steps: Any, c: Sequence[Any], s: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Run `steps` steps of `body`, keeping states: the last state, and (steps, stride, used, slots)."""
    outputs = saving(repeated(body, len(c), slots))(steps, *c, zeros(I32), *s)
    (_, *finals), (_, stride, used), (_, *kept) = cut(outputs, 1 + len(s), KEPT)
    return finals, [steps, stride, used, *kept]


class Walk(Primitive):
    """What the walks along a loop's states share: operands `kept, c, s, rest`, kept being what WhileSaved
    leaves behind the carry.

    `body` is the step of the states; `along` computes beside it, or back along it: `(c, s, rest) -> rest`,
    of which the last ones are carried.
    """

    multiple_results = True
    stands_alone = False
    body: Program
    along: Program
    consts: int
    slots: int
    backward = False  # whether it begins with the last state

    def samples(self) -> Iterator[Sample]:
        return iter(())

    @property
    def carry(self) -> int:
        """How many arrays a state has."""
        return len(self.body.outputs)

    def groups(self, items: Sequence[Any]) -> list[list[Any]]:
        """kept, c, s, and the rest."""
        return cut(items, KEPT + self.carry, self.consts, self.carry)

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.body.has_effects or self.along.has_effects

    def shape(self, *xs: Aval) -> Any:
        return self.along.out_avals

    def runs(self) -> tuple[Run, ...]:
        return (Run(self.body, None), Run(self.along, None))

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.body, name) or uses_axis(self.along, name)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        (steps, stride, used, *slots), c, s, rest = self.groups(xs)
        (b_steps, b_stride, b_used, *b_slots), b_c, b_s, b_rest = self.groups(batched)
        if b_steps:  # each row has its own number of steps, and stays as it is after those
            numbers = zeros(I32.with_shape((self.slots + 1,)))
            if not b_stride:
                numbers = mul(iota(np.int32, (self.slots + 1,), 0), stride)
            operands = [ReduceMax((0,))(steps), stride, used, numbers, *slots, steps, *c, zeros(I32), *s, *rest]
            flags = [False, b_stride, b_used, False, *b_slots, True, *b_c, False, *b_s, *b_rest]
            walk = type(self)(*guarded(self.body, self.along, self.consts), self.consts + 1, self.slots)  # pyright: ignore[reportCallIssue]
            return walk.batch_axis(name, size, operands, flags)
        moving = [f or g for f, g in zip(b_s, b_slots, strict=True)]
        body, moving = batch_carry(self.body, size, name, b_c, moving)
        s = [batched_operand(x, f, size) if g else x for x, f, g in zip(s, b_s, moving, strict=True)]
        if b_stride or b_used:
            _, (_, stride, used, *slots) = resaved(body, self.slots, steps, c, s)
        else:
            slots = [in_rows(x, f, size) if g else x for x, f, g in zip(slots, b_slots, moving, strict=True)]
        fixed, carried = cut(b_rest, len(b_rest) - len(self.along.outputs))
        along, carried = batch_carry(self.along, size, name, [*b_c, *moving, *fixed], carried)
        rest = [
            batched_operand(x, f, size) if g else x
            for x, f, g in zip(rest, b_rest, [*fixed, *carried], strict=True)
        ]  # fmt: skip
        walk = type(self)(body, along, self.consts, self.slots)  # pyright: ignore[reportCallIssue]
        return walk(steps, stride, used, *slots, *c, *s, *rest), carried

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        kept, c, s, rest = self.groups(at.operands)
        if kept[0].value is None and any([x.moves for x in (*c, *s)]):
            return super().pattern(at)  # linear in what is walked alone
        found = walk_pattern(self.body, self.along, c, s, rest, kept[0].value, self.backward, at)
        return [[None] * len(kept) + row for row in found]

    def pulled(self, rest: Sequence[Any], ct: Sequence[Any]) -> tuple[Program, list[Any], Any]:
        """`along` transposed in `rest`: `(c, s, l) -> l`, l being sums and cotangents; the l to begin with; and
        a function that gives each of `rest` its own of the last l."""
        n = len(self.along.outputs)
        fixed = self.consts + self.carry
        constants = len(rest) - n
        linear = (False,) * fixed + (True,) * len(rest)
        back = reversed_body(self.along, fixed + constants, n, linear, tuple(c is not None for c in ct))
        own = back.ct_consts[fixed:]
        sums = [zeros(x.aval) for x in select(own, rest[:constants])]
        cts = filled(back.ct_carry, rest[constants:], ct)

        def assign(last: Sequence[Any]) -> list[Any]:
            found = scatter(own + back.ct_carry, last)
            return [c if isinstance(x, Undefined) else None for x, c in zip(rest, found, strict=True)]

        return back.body, [*sums, *cts], assign


def batch_carry(
    program: Program, size: int, name: Any, fixed: Sequence[bool], carried: Sequence[bool]
) -> tuple[Program, list[bool]]:
    """`(fixed, carried) -> carried`, batched, and which of those have a batch axis in the end."""
    while True:
        batched, flags = batch(program, size, (*fixed, *carried), name, tuple(carried))
        if list(flags) == list(carried):
            return batched, list(flags)
        carried = flags


@memoised
def guarded(body: Program, along: Program, consts: int) -> tuple[Program, Program]:
    """The steps with a constant before the others, and the step's number before the state: from the
    constant on, nothing changes."""
    programs = []
    for program, first in ((body, consts), (along, len(along.inputs) - len(along.outputs))):
        with Builder() as b:
            steps = b.input(I32)
            c = [copy_input(b, v) for v in program.inputs[:consts]]
            i = b.input(I32)
            rest = [copy_input(b, v) for v in program.inputs[consts:]]
            going = lt(i, steps)
            old = [*c, *rest][first:]
            new = [where(going, y, x) for x, y in zip(old, b.inline(program, [*c, *rest]), strict=True)]
            programs.append(b.build([add(i, 1), *new] if program is body else new))
    return programs[0], programs[1]


def in_rows(slots: Any, is_batched: bool, size: int) -> Any:
    """Slots of states with a batch axis, which then stands behind that of the slots."""
    if is_batched:
        return move_axis(slots, 0, 1)
    n, *shape = slots.aval.shape
    return broadcast_in_dim(slots, (n, size, *shape), (0, *range(2, 2 + len(shape))))


@memoised
def expansion(_: Program, walk: Any, avals: tuple[Aval, ...]) -> Program:
    """What `walk.expand` writes, for operands of these types."""
    with Builder() as b:
        return b.build(walk.expand(*[b.input(a) for a in avals]))


def expanded(walk: Any, xs: Sequence[Any]) -> Call:
    """A call of what `walk.expand` writes."""
    return Call(expansion(walk.body, walk, tuple([x.aval for x in xs])), walk.name)


def run_expanded(walk: Any, xs: Sequence[Any]) -> list[Any]:
    """What `walk.expand` writes, computed."""
    xs = [jnp.asarray(x) for x in xs]
    return evaluate(expansion(walk.body, walk, tuple([Aval(x.shape, x.dtype) for x in xs])), xs)


@primitive
class LinearWhile(Walk):
    """`ds = along(c, s, dc, ds)` beside `s = body(c, s)`: operands `kept, c, s, dc, ds`, result the last ds."""

    name = "linear_while"
    body: Program
    along: Program
    consts: int
    slots: int

    def expand(self, *xs: Any) -> list[Any]:
        """The loop that carries both."""
        (steps, *_), c, s, rest = self.groups(xs)
        dc, ds = cut(rest, len(rest) - len(self.along.outputs))
        with Builder() as b:
            c_in, dc_in, s_in, ds_in = ([b.input(x.aval) for x in group] for group in (c, dc, s, ds))
            stepped = b.inline(self.body, [*c_in, *s_in])
            both = b.build([*stepped, *b.inline(self.along, [*c_in, *s_in, *dc_in, *ds_in])])
        loop = repeated(both, len(c) + len(dc), self.slots)
        return list(loop(steps, *c, *dc, zeros(I32), *s, *ds))[1 + len(s) :]

    def lower(self, *xs: Any) -> Any:
        return run_expanded(self, xs)

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return (expansion(self.body, self, xs),)

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        return threads_call(Call(at.into(), self.name), at, state, xs)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return expanded(self, xs).jvp(xs, dxs)

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        _, c, s, _ = self.groups(known)
        if all([*c, *s]):
            return super().separate(xs, known)
        return expanded(self, xs).separate(xs, known)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        kept, c, s, rest = self.groups(xs)
        _, d_c, d_s, d_rest = self.groups(dxs)
        if any(dx is not None for dx in (*d_c, *d_s)):
            return expanded(self, xs).linearize(xs, dxs)
        tangents = [zeros(x.aval) if dx is None else dx for x, dx in zip(rest, d_rest, strict=True)]
        return self(*xs), self(*kept, *c, *s, *tangents)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        kept, c, s, rest = self.groups(xs)
        if any(isinstance(x, Undefined) for x in (*kept, *c, *s)):
            return super().transpose(ct, *xs)  # linear in what is walked alone
        along, first, assign = self.pulled(rest, ct)
        last = ReversedWhile(self.body, along, self.consts, self.slots)(*kept, *c, *s, *first)
        return [None] * (len(xs) - len(rest)) + assign(last)


@primitive
class ReversedWhile(Walk):
    """`l = along(c, s, l)` for the states of `s = body(c, s)`, the last one first: operands `kept, c, s, l`."""

    name = "reversed_while"
    backward = True
    body: Program
    along: Program
    consts: int
    slots: int

    def lower(self, *xs: Any) -> Any:
        (steps, stride, used, *slots), c, _, l = self.groups(xs)
        states, types = self.body.out_avals, self.along.out_avals
        first, second, fixed = halves(self.along, self.consts, self.carry)
        invariant = select(fixed, evaluate(first, [*c, *[x[0] for x in slots]]))

        def read(s: list[Any]) -> list[Any]:
            notes = zip(typed(evaluate(first, [*c, *s]), first.out_avals), fixed, strict=True)
            return [x for x, f in notes if not f]

        def undo(notes: list[Any], l: list[Any]) -> list[Any]:
            given, known = iter(notes), iter(invariant)
            return typed(evaluate(second, [*[next(known) if f else next(given) for f in fixed], *l]), types)

        step = lambda s: typed(evaluate(self.body, [*c, *s]), states)
        return run_backward(step, read, undo, steps, stride, used, slots, typed(l, types))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        """What is observed on the way back is carried along, so that what is left is of the loop's first step."""
        along, names = collect(self.along)
        n = len(self.along.outputs)
        last = [Var(v.aval) for v in along.outputs[n:]]
        walk = replace(self, along=Program((*along.inputs, *last), along.equations, along.outputs))
        ls, values = cut(walk(*xs, *[not_there(v.aval) for v in last]), n)
        return ls, list(zip(names, values, strict=True))

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return (self.along,)

    @property
    def turns(self) -> range:
        return range(self.consts + self.carry, len(self.along.inputs))

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        kept, c, s, l = self.groups(xs)
        body, along = self._stepping(at)
        walk = ReversedWhile(body, along, len(at.place) + self.consts, self.slots)
        outputs = walk(*kept, *at.place, *c, *s, neg(kept[0]), *state, *l)
        return outputs[1 : 1 + at.size], outputs[1 + at.size :]

    def _stepping(self, at: Thread) -> tuple[Program, Program]:
        """The steps of the states, which do not read the place, and of what is walked, which carries a state."""
        place, fixed = len(at.place), self.consts + self.carry
        with Builder() as b:
            for _ in at.place:
                b.input(I32)
            body = b.build(b.inline(self.body, [copy_input(b, v) for v in self.body.inputs]))
        return body, stepping(at.into(0, deeper=True), place, at.size, fixed)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        kept, c, s, l = self.groups(xs)
        _, d_c, d_s, d_l = self.groups(dxs)
        if not any(dx is not None for dx in (*d_c, *d_s)):
            return self(*xs), self(*kept, *c, *s, *filled((True,) * len(l), l, d_l))
        moving = moving_of(self, tuple(dx is not None for dx in (*d_c, *d_s, *d_l)), "jvp")
        program, _ = jvp(self.body, moving.c + moving.s, "jvp", moving.s)
        body = arranged(program, (self.consts,), moving.c + moving.s, (), moving.s)
        program, _ = jvp(self.along, moving.c + moving.s + moving.l, "jvp", moving.l)
        along = arranged(program, (self.consts, self.carry), moving.c + moving.s + moving.l, (), moving.l)
        both_c = [*c, *filled(moving.c, c, d_c)]
        both_s = [*s, *filled(moving.s, s, d_s)]
        _, again = resaved(body, self.slots, kept[0], both_c, both_s)
        pushed = ReversedWhile(body, along, len(both_c), self.slots)
        return apart((), moving.l, pushed(*again, *both_c, *both_s, *l, *filled(moving.l, l, d_l)))

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        _, d_c, d_s, d_l = self.groups(dxs)
        if not any(dx is not None for dx in (*d_c, *d_s)):
            return self.jvp(xs, dxs)
        kept, c, s, l = self.groups(xs)
        moving = moving_of(self, tuple(dx is not None for dx in (*d_c, *d_s, *d_l)), "linearize")
        step = tangents(self.body, moving.c + moving.s, moving.s)
        back = tangents(self.along, moving.c + moving.s + moving.l, moving.l)
        pair = tangent_walk(self.body, self.along, step, back, self.consts, self.slots)
        dxs = [*filled(moving.c, c, d_c), *filled(moving.s, s, d_s), *filled(moving.l, l, d_l)]
        return self(*xs), scatter(moving.l, pair(kept[0], *c, *s, *l, *dxs))

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        (k_steps, *_), k_c, k_s, k_l = self.groups(known)
        if not k_steps or all([*k_c, *k_s, not any(k_l)]):
            return super().separate(xs, known)
        body, states = settled(self.body, (*k_c, *k_s), self.carry)
        along, walked = settled(self.along, (*states, *k_l), len(self.along.outputs))
        (steps, *_), c, s, l = self.groups(xs)
        k_c, k_s, k_l = cut(walked, self.consts, self.carry)
        early = ReversedWhile(
            narrowed(body, states, tuple(k_s)), narrowed(along, walked, tuple(k_l)), sum(k_c), self.slots
        )
        now = [*select(tuple(k_c), c), *select(tuple(k_s), s), *select(tuple(k_l), l)]
        kept = resaved(early.body, self.slots, steps, *cut(now, sum(k_c), sum(k_s))[:2])[1]
        ys = early(*kept, *now)
        step, back = unknown_part(body, states, k_s), unknown_part(along, walked, k_l)
        pair = tangent_walk(early.body, early.along, step, back, sum(k_c), self.slots)
        later = [x for x, k in zip((*c, *s, *l), walked, strict=True) if not k]
        first, second = iter(ys), iter(pair(steps, *now, *later))
        return [next(first) if k else next(second) for k in k_l], k_l

    def transpose(self, ct: Any, *xs: Any) -> Any:
        kept, c, s, rest = self.groups(xs)
        if any(isinstance(x, Undefined) for x in (*kept, *c, *s)):
            return super().transpose(ct, *xs)  # linear in what is walked alone
        along, first, assign = self.pulled(rest, ct)
        last = LinearWhile(self.body, along, self.consts, self.slots)(*kept, *c, *s, *first)
        return [None] * (len(xs) - len(rest)) + assign(last)


@memoised
def halves(along: Program, consts: int, carry: int) -> tuple[Program, Program, tuple[bool, ...]]:
    """`(c, s, l) -> l` cut in two, `(c, s) -> r` and `(r, l) -> l`, and which of r depend on c alone."""
    known = consts + carry
    flags = tuple([i < known for i in range(len(along.inputs))])
    first, second, _ = split(along, flags, 0)
    moving = divide(first.equations, first.inputs[consts:])[2]
    return first, second, tuple([r not in moving for r in first.outputs])


@memoised
def tangent_walk(body: Program, along: Program, step: Program, back: Program, consts: int, slots: int) -> LinearPair:
    """`(steps, c, s, l; dc, ds, dl) -> dl`, the tangent of a walk back along the states of so many steps.

    Neither it nor its transpose is made equation by equation: both keep states anew, which belong to no
    linear map. With m the cotangent of dl, which runs forward, and n that of ds, which runs backward,

    m_t+1 = (d along / d l)^T m_t,    n_t = (d body / d s)^T n_t+1 + (d along / d s)^T m_t,

    and the cotangent of dc is the sum over t of what the same transposes give for c.

    Args:
      body, along: `(c, s) -> s` and `(c, s, l) -> l`, as in ReversedWhile.
      step, back: `(c, s; dc, ds) -> ds` and `(c, s, l; dc, ds, dl) -> dl`, linear in the tangents.
    """
    n_c, n_s, n_l, n_ds, n_dl = consts, len(body.outputs), len(along.outputs), len(step.outputs), len(back.outputs)
    n_dc = len(step.inputs) - n_c - n_s - n_ds
    C, S, L, DC, DS, DL = cut(back.inputs, n_c, n_s, n_l, n_dc, n_ds)
    step_t, from_step = transpose(step, (False,) * (n_c + n_s) + (True,) * (n_dc + n_ds), (True,) * n_ds)
    fixed = (False,) * (n_c + n_s + n_l)
    back_t, from_back = transpose(back, fixed + (True,) * (n_dc + n_ds + n_dl), (True,) * n_dl)

    def inputs(b: Builder, *groups: Sequence[Any]) -> list[list[Any]]:
        return [[b.input(v.aval) for v in group] for group in groups]

    def pulled(b: Builder, program: Program, found: tuple[bool, ...], *groups: Sequence[Any]) -> list[list[Any]]:
        """Cotangents of dc, ds and dl, None where there is none."""
        return cut(scatter(found, b.inline(program, [x for group in groups for x in group])), n_dc, n_ds)

    with Builder() as b:
        c, dc, s, ds = inputs(b, C, DC, S, DS)
        both = b.build([*b.inline(body, [*c, *s]), *b.inline(step, [*c, *s, *dc, *ds])])
    with Builder() as b:
        c, dc, s, ds, l, dl = inputs(b, C, DC, S, DS, L, DL)
        both_along = b.build([*b.inline(along, [*c, *s, *l]), *b.inline(back, [*c, *s, *l, *dc, *ds, *dl])])
    with Builder() as b:
        (steps,), c, s, l, dc, ds, dl = inputs(b, [Var(I32)], C, S, L, DC, DS, DL)
        kept = resaved(both, slots, steps, [*c, *dc], [*s, *ds])[1]
        walk = ReversedWhile(both, both_along, n_c + n_dc, slots)
        forward = b.build(walk(*kept, *c, *dc, *s, *ds, *l, *dl)[n_l:])

    with Builder() as b:
        c, s, m = inputs(b, C, S, DL)
        # A walk is linear in l, so what it does to dl does not depend on l, which m would meet in the wrong order.
        ct_l = pulled(b, back_t, from_back, c, s, [zeros(v.aval) for v in L], m)[2]
        states = b.build([*b.inline(body, [*c, *s]), *instantiate(ct_l, m)])
    with Builder() as b:
        c, s, m, l, n, sums = inputs(b, C, S, DL, L, DS, DC)
        from_n = pulled(b, step_t, from_step, c, s, n)
        from_m = pulled(b, back_t, from_back, c, s, l, m)
        n_next = [total(x, [p, q]) for x, p, q in zip(n, from_n[1], from_m[1], strict=True)]
        sums = [total(x, [x, p, q]) for x, p, q in zip(sums, from_n[0], from_m[0], strict=True)]
        along_all = b.build([*b.inline(along, [*c, *s, *l]), *n_next, *sums])
    with Builder() as b:
        (steps,), c, s, l, m = inputs(b, [Var(I32)], C, S, L, DL)
        finals, kept = resaved(states, slots, steps, c, [*s, *m])
        start = [zeros(v.aval) for v in (*DS, *DC)]
        last = ReversedWhile(states, along_all, n_c, slots)(*kept, *c, *s, *m, *l, *start)
        ct_s, ct_c = cut(last, n_l, n_ds)[1:]
        transposed = b.build([*ct_c, *ct_s, *finals[n_s:]])
    return LinearPair(forward, transposed, 1 + n_c + n_s + n_l)
