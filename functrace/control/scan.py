"""scan: a Program applied once for each entry of its operands, a carry handed on from step to step.

    body : (c, s, x) -> (s, y)         scan : (c, s, [n] x) -> (s, [n] y)

Its pushforward is the scan of the pushforward. Its linearization is two scans: one computes, one is
linear, and between them stands what the second reads, entry by entry. The transpose of a linear scan
runs it from the other end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax import lax

from functrace.control.again import least_kept
from functrace.control.alike import merged, starts
from functrace.control.bent import bent_loop, spread_in, spread_out
from functrace.control.call import uses_axis
from functrace.control.groups import (
    apart,
    arranged,
    beside,
    counted,
    cut,
    firsts,
    narrowed,
    needed_inputs,
    of_each_kind,
    reads,
)
from functrace.control.loop_patterns import scan_pattern
from functrace.control.reversed_body import counter_steps, mask_at_first, mask_of, reversed_body, step_types
from functrace.ir import (
    Atom,
    Aval,
    Builder,
    Equation,
    Masked,
    Program,
    Run,
    Sample,
    Undefined,
    Var,
    ambient,
    primitive,
)
from functrace.ir.dependence import Matrix, Site
from functrace.ir.primitive import Primitive
from functrace.ir.python import tuple_text
from functrace.lower.staging import staged
from functrace.primitives.elementwise import add, convert_element_type, mul
from functrace.primitives.families import literal
from functrace.primitives.indexing import DynamicSlice
from functrace.primitives.selection import written
from functrace.primitives.space import Reshape, batched_operand, broadcast_to, full, move_axis, zeros
from functrace.primitives.unary import sin
from functrace.rewrites import batch, collect, jvp, memoised, series, squares
from functrace.rewrites.laplacian import Directions
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.separate import separated
from functrace.rewrites.series import either, flat, present, unflat
from functrace.rewrites.thread import Thread
from functrace.rewrites.transpose import cleaned

F32 = np.dtype(np.float32)
I32 = np.dtype(np.int32)
I32_SCALAR = Aval((), I32)


@primitive
class Scan(Primitive):
    """`body(consts, carry, x) -> (carry, y)` over the leading axis of x, forward or `reverse`."""

    name = "scan"
    multiple_results = True
    pushes_inner = True
    at_once = True
    masks = True
    body: Program
    consts: int
    carry: int
    length: int
    reverse: bool = False
    unroll: int = 1

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), F32)
        with Builder() as b:
            c, n, s, x = b.input(aval), b.input(Aval((), I32)), b.input(aval), b.input(aval)
            y = mul(sin(s), c)
            body = b.build([add(n, 1), add(y, mul(x, convert_element_type(n, F32))), mul(y, x)])
        operands = (aval, np.int32(2), aval, Aval((4, 3), F32))
        yield Sample(Scan(body, 1, 2, 4), operands)
        yield Sample(Scan(body, 1, 2, 4, True), operands)
        yield Sample(Scan(body, 1, 2, 0), (*operands[:3], Aval((0, 3), F32)))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.body.has_effects

    def shape(self, *xs: Aval) -> Any:
        carry, ys = cut(self.body.out_avals, self.carry)
        return (*carry, *[y.with_shape((self.length, *y.shape)) for y in ys])

    def lower(self, *xs: Any) -> Any:
        if any(isinstance(x, jax.core.Tracer) for x in xs):
            return run(self, xs)
        return compiled(self.body, self)(*xs)

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        kept = reads(self.body)
        carry_in = self.body.inputs[self.consts : self.consts + self.carry]
        constant = [v is y for v, y in zip(carry_in, self.body.outputs, strict=False)]
        idle = [not r for i, r in enumerate(kept) if not self.consts <= i < self.consts + self.carry]
        if any(constant):
            # A carry that is handed on unchanged is a constant.
            outputs = iter(constant_carry(self.body, self, tuple(constant))(*moved_to_front(xs, self.consts, constant)))
            carry = cut(xs, self.consts, self.carry)[1]
            return (*[x if c else next(outputs) for x, c in zip(carry, constant, strict=True)], *outputs)
        if any(idle):
            flags = tuple(r or self.consts <= i < self.consts + self.carry for i, r in enumerate(kept))
            return self._with(flags, (True,) * len(self.body.outputs))(*select(flags, xs))
        return None

    def _with(self, inputs: tuple[bool, ...], outputs: tuple[bool, ...]) -> Scan:
        """The scan of fewer inputs and outputs."""
        consts, carry, _ = counted((self.consts, self.carry), inputs)
        return Scan(narrowed(self.body, inputs, outputs), consts, carry, self.length, self.reverse, self.unroll)

    def prune(self, needed: tuple[bool, ...]) -> Any:
        outputs = list(needed)
        while True:
            inputs = needed_inputs(self.body, tuple(outputs))
            carry = cut(inputs, self.consts, self.carry)[1]
            grown = [n or c for n, c in zip(outputs, carry, strict=False)] + outputs[self.carry :]
            if grown == outputs:
                break
            outputs = grown
        if all(inputs) and all(outputs):
            return None
        flags = tuple(
            n or (self.consts <= i < self.consts + self.carry and outputs[i - self.consts])
            for i, n in enumerate(inputs)
        )
        return self._with(flags, tuple(outputs)), flags, tuple(outputs)

    def spelled(self, writer: Any, eqn: Any) -> None:
        consts, carry, xs = cut(writer.operands(eqn), self.consts, self.carry)
        _, carry_in, entries = cut(self.body.inputs, self.consts, self.carry)
        if any([v.aval is not x.aval for v, x in zip(carry_in, eqn.inputs[self.consts :], strict=False)]):
            return writer.usual(eqn)  # `lax.scan` would make types of a carry agree
        s, x = writer.name("carry"), writer.name("entry")
        name = writer.name("step")
        writer.line(f"def {name}({s}, {x}):")
        with writer:
            for vs, of in ((carry_in, s), (entries, x)):
                if vs:
                    writer.line(f"{writer.targets(vs)} = {of}")
            inner = [*consts, *[writer.read(v) for v in (*carry_in, *entries)]]
            new, ys = cut(writer.body(self.body, inner), self.carry)
            writer.line(f"return {tuple_text(new)}, {tuple_text(ys)}")
        options = "".join([", reverse=True"] * self.reverse + [f", unroll={self.unroll}"] * (self.unroll != 1))
        new, ys = cut(eqn.outputs, self.carry)
        operands = f"{tuple_text(carry)}, {tuple_text(xs) if xs else None}, length={self.length}{options}"
        writer.line(f"{writer.targets(new)}, {writer.targets(ys)} = lax.scan({name}, {operands})")

    # Forward mode.

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        pushed, operands, moved = self._pushed(xs, dxs, "jvp")
        return apart((self.carry,), moved, pushed.of_kinds(operands))

    def of_kinds(self, xs: Sequence[Any]) -> Sequence[Any]:
        """Applied, with one operand for those that are alike at every turn."""
        like = starts(self.body, self.sizes, xs)
        if all(firsts(like)):
            return self(*xs)
        body, kinds = merged(self.body, self.sizes, like)
        flags = firsts(kinds.inputs)
        consts, carry, _ = counted(self.sizes, flags)
        ys = replace(self, body=body, consts=consts, carry=carry)(*select(flags, xs))
        return of_each_kind(kinds.outputs, ys)

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        given, fill = lasting(self.body, self.consts, self.carry, tuple(map(present, xs)))
        program, found = series(self.body, given, fill)
        groups, flags = cut(filled(xs, given), *self.sizes), cut(given, *self.sizes)
        inputs = grouped(program.inputs, given, self.sizes)
        outputs = grouped(program.outputs, found, (self.carry,))
        body = Program(tuple(inputs), program.equations, tuple(outputs))
        consts, carry, _ = [len(f) + sum(map(sum, f)) for f in flags]
        scan = Scan(body, consts, carry, self.length, self.reverse, self.unroll)
        results = scan(*[v for group in groups for v in flat(group)])
        n = self.carry + sum(map(sum, found[: self.carry]))
        return [*unflat(results[:n], found[: self.carry]), *unflat(results[n:], found[self.carry :])]

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        pushed, operands, moved = self._pushed(xs, dxs, "linearize")
        moving = grown(self.body, self.consts, self.carry, tuple(dx is not None for dx in dxs), "linearize")
        known = beside(self.sizes, moving, [True] * len(xs) + [False] * sum(moving))
        outputs, _ = pushed.separate(operands, known)
        return apart((self.carry,), moved, outputs)

    def laplacian(self, at: Directions, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> Any:
        wide = bent_loop(at, self.body, self.sizes, self.carry, js, ls)
        js, ls = wide.operands(at, xs, js, ls)
        n = self.consts + self.carry
        js = [move_axis(j, 0, 1) if i >= n and j is not None else j for i, j in enumerate(js)]
        operands = spread_in(self.sizes, (wide.moving, wide.bent), [*xs, *[v for v in (*js, *ls) if v is not None]])
        consts, carry = wide.counts(*self.sizes)
        scan = Scan(wide.body, consts, carry, self.length, self.reverse, self.unroll)
        ys, jys, lys = spread_out((self.carry,), (wide.found.moved, wide.found.bent), scan(*operands))
        return ys, [move_axis(j, 1, 0) if i >= self.carry and j is not None else j for i, j in enumerate(jys)], lys

    @property
    def sizes(self) -> tuple[int, int]:
        return self.consts, self.carry

    def _pushed(self, xs: Sequence[Any], dxs: Sequence[Any], rule: str) -> tuple[Scan, list[Any], tuple[bool, ...]]:
        """The pushforward, its operands, and which results have a tangent."""
        moving = grown(self.body, self.consts, self.carry, tuple(dx is not None for dx in dxs), rule)
        carry = cut(moving, *self.sizes)[1]
        program, moved = jvp(self.body, moving, rule, fill_carry(self.body, carry))
        body = arranged(program, self.sizes, moving, (self.carry,), moved)
        tangents = [zeros(x.aval) if dx is None else dx for x, dx, m in zip(xs, dxs, moving, strict=True) if m]
        consts, carries, _ = counted(self.sizes, moving)
        pushed = Scan(body, self.consts + consts, self.carry + carries, self.length, self.reverse, self.unroll)
        return pushed, beside(self.sizes, moving, [*xs, *tangents]), moved

    # Apart: what is known, and what is not.

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        halves = divided(self.body, self.consts, self.carry, tuple(known))
        consts, carry, scanned = cut(xs, *self.sizes)
        k_consts, k_carry, k_scanned = cut(known, *self.sizes)
        k_carry = halves.known[: self.carry]
        pick = lambda items, flags, keep=True: [x for x, f in zip(items, flags, strict=True) if f is keep]
        early: list[Any] = []
        if halves.first.outputs:
            first = Scan(halves.first, sum(k_consts), sum(k_carry), self.length, self.reverse, self.unroll)
            early = list(first(*pick(consts, k_consts), *pick(carry, k_carry), *pick(scanned, k_scanned)))
        known_out, residuals = cut(early, sum(halves.known))
        fixed = ambient().inline(halves.invariant, pick(consts, k_consts))
        numbers = [x for x, flag in zip(carry, halves.counters, strict=True) if flag]
        late_consts = [*pick(consts, k_consts), *fixed, *pick(consts, k_consts, False)]
        late_carry = [*numbers, *pick(carry, k_carry, False)]
        late_scanned = [*pick(scanned, k_scanned), *residuals, *pick(scanned, k_scanned, False)]
        late: list[Any] = []
        if not all(halves.known):
            second = Scan(
                halves.second, len(late_consts), len(late_carry), self.length, self.reverse, self.unroll
            )
            late = list(second(*late_consts, *late_carry, *late_scanned))[len(numbers) :]
        now, later = iter(known_out), iter(late)
        return [next(now) if k else next(later) for k in halves.known], halves.known

    # Reverse mode.

    def transpose(self, ct: Any, *xs: Any) -> Any:
        return [None if c is None else cleaned(c) for c in self.transpose_masked(ct, *xs)]

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        linear = tuple(isinstance(x, Undefined) for x in xs)
        types = step_types(ct, self.carry, self.body.out_avals)
        back = reversed_body(self.body, self.consts, self.carry, linear, tuple(c is not None for c in ct), types)
        l_consts, l_carry, l_scanned = cut(back.linear, *self.sizes)
        consts, carry, scanned = cut(xs, *self.sizes)
        ct_carry, ct_ys = cut(ct, self.carry)
        numbers = []
        for x, step, flag in zip(carry, back.steps, l_carry, strict=True):
            if not flag:
                assert step is not None, "a known carry of a linear scan is a counter"
                last = np.asarray(step * (self.length - 1)).astype(x.aval.dtype)
                numbers.append(add(x, literal(last, x.aval)))
        sums = [zeros(v.aval) for v, f in zip(self.body.inputs, back.ct_consts, strict=False) if f]
        cts = [
            zeros(v.aval) if c is None else cleaned(c)
            for v, c, f in zip(self.body.outputs, ct_carry, back.ct_carry, strict=False) if f
        ]  # fmt: skip
        m_consts, m_carry, _ = cut(back.masked, *self.sizes)
        any_masks = [full(mask_of(v.aval), False) for v in select(tuple(m_consts), self.body.inputs[: self.consts])]
        carry_masks = [
            mask_at_first(c, v.aval) for c, v, m in zip(ct_carry, self.body.outputs, m_carry, strict=False) if m
        ]
        fixed = [x for x, f in zip(consts, l_consts, strict=True) if not f]
        entries = [x for x, f in zip(scanned, l_scanned, strict=True) if not f]
        carried = [*numbers, *sums, *cts, *any_masks, *carry_masks]
        y_masks = [broadcast_to(c.there.read(), c.value.aval.shape) for c in ct_ys if type(c) is Masked]
        pulled = Scan(back.body, len(fixed), len(carried), self.length, not self.reverse, self.unroll)
        outputs = pulled(*fixed, *carried, *entries, *[cleaned(c) for c in ct_ys if c is not None], *y_masks)
        sizes = [len(group) for group in (numbers, sums, cts, any_masks, carry_masks)]
        _, ct_consts, ct_init, of_consts, of_init, rest = cut(outputs, *sizes)
        n = sum(back.ct_scanned)
        found = scatter((*back.ct_consts, *back.ct_carry, *back.ct_scanned), [*ct_consts, *ct_init, *rest[:n]])
        masks = scatter(back.masked, [*of_consts, *of_init, *rest[n:]])
        return [
            None if c is None or not flag else c if m is None else Masked(c, written(m, (m.aval.shape, frozenset())))
            for c, m, flag in zip(found, masks, linear, strict=True)
        ]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        return scan_pattern(self.body, at.operands, self.sizes, self.length, self.reverse, at)

    def runs(self) -> tuple[Run, ...]:
        return (Run(self.body, self.length),)

    # Batching.

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        consts, carry, scanned = cut(batched, *self.sizes)
        while True:
            fill = (*carry, *(False,) * (len(self.body.outputs) - self.carry))
            body, flags = batch(self.body, size, (*consts, *carry, *scanned), name, fill)
            if list(flags[: self.carry]) == carry:
                break
            carry = list(flags[: self.carry])
        c, s, x = cut(xs, *self.sizes)
        given = cut(batched, *self.sizes)[1]
        s = [batched_operand(a, g, size) if f else a for a, g, f in zip(s, given, carry, strict=True)]
        x = [move_axis(a, 0, 1) if f else a for a, f in zip(x, scanned, strict=True)]
        mapped = Scan(body, self.consts, self.carry, self.length, self.reverse, self.unroll)
        finals, ys = cut(mapped(*c, *s, *x), self.carry)
        return [*finals, *[move_axis(y, 1, 0) if f else y for y, f in zip(ys, flags[self.carry :], strict=True)]], flags

    def beside_squares(self) -> Any:
        flags = tuple([i >= self.carry and v.is_inexact for i, v in enumerate(self.body.out_avals)])
        return replace(self, body=squares(self.body, flags, True)), flags

    def with_programs(self, change: Callable[[Program], Program]) -> Scan:
        return replace(self, body=change(self.body))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        """What is observed in a step is one more y, and so stacked."""
        body, names = collect(self.body)
        ys, values = cut(replace(self, body=body)(*xs), len(self.body.outputs))
        return ys, list(zip(names, values, strict=True))

    # A state.

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return (self.body,)

    @property
    def turns(self) -> range:
        return range(self.consts, self.consts + self.carry)

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        c, s, x = cut(xs, *self.sizes)
        body = stepping(at.into(0, deeper=True), len(at.place), at.size, self.consts)
        consts, carry = len(at.place) + self.consts, 1 + at.size + self.carry
        scan = Scan(body, consts, carry, self.length, self.reverse, self.unroll)
        first = literal(-self.length if self.reverse else 0, I32_SCALAR)
        outputs = scan(*at.place, *c, first, *state, *s, *x)
        return outputs[1 : 1 + at.size], outputs[1 + at.size :]

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.body, name)


@memoised
def stepping(program: Program, place: int, state: int, consts: int) -> Program:
    """A threaded body as a loop has it: `(place, c; step, state, s; x) -> (step + 1, state, s, y)`."""
    leading, (step,), states, c, rest = cut(program.inputs, place, 1, state, consts)
    with Builder() as b:
        at, c, step, states, rest = ([copy_input(b, v) for v in group] for group in (leading, c, [step], states, rest))
        return b.build([add(step[0], 1), *b.inline(program, [*at, *step, *states, *c, *rest])])


def run(scan: Scan, xs: Sequence[Any]) -> list[Any]:
    """The scan, by JAX's."""
    consts, carry, scanned = cut(xs, scan.consts, scan.carry)
    types = scan.body.in_avals[scan.consts : scan.consts + scan.carry]

    def step(carry: Any, x: Any) -> Any:
        carry, ys = cut(staged(scan.body, [*consts, *carry, *x]), scan.carry)
        return typed(carry, types), ys

    carry, ys = lax.scan(step, typed(carry, types), scanned, scan.length, scan.reverse, scan.unroll)
    return [*carry, *ys]


def typed(values: Sequence[Any], avals: Sequence[Aval]) -> list[Any]:
    """Arrays of exactly these dtypes: a loop's carry must not change its type, weakness included."""
    return [lax.convert_element_type(x, a.dtype) for x, a in zip(values, avals, strict=True)]


@memoised
def compiled(body: Program, scan: Scan) -> Any:
    """The scan as one compiled function, for where it runs alone."""
    return jax.jit(lambda *xs: run(scan, xs))


@memoised
def constant_carry(body: Program, scan: Scan, constant: tuple[bool, ...]) -> Scan:
    """The scan with the flagged carries as its first constants."""
    n = sum(constant)
    return Scan(
        Program(tuple(moved_to_front(body.inputs, scan.consts, constant)), body.equations,
                tuple([y for i, y in enumerate(body.outputs) if i >= scan.carry or not constant[i]])),
        scan.consts + n, scan.carry - n, scan.length, scan.reverse, scan.unroll,
    )  # fmt: skip


def moved_to_front(items: Sequence[Any], consts: int, flags: Sequence[bool]) -> list[Any]:
    """The flagged items of the carry group first, then all others."""
    fixed, carry, rest = cut(items, consts, len(flags))
    first = [x for x, f in zip(carry, flags, strict=True) if f]
    return [*first, *fixed, *[x for x, f in zip(carry, flags, strict=True) if not f], *rest]


def fill_carry(body: Program, carry: Sequence[bool]) -> tuple[bool, ...]:
    """Which outputs of a body must have a tangent: the carries that move."""
    return (*carry, *(False,) * (len(body.outputs) - len(carry)))


@memoised
def grown(
    body: Program, consts: int, carry: int, moving: tuple[bool, ...], rule: str = "jvp"
) -> tuple[bool, ...]:
    """Which operands have a tangent, when those flagged have one at the start."""
    while True:
        _, moved = jvp(body, moving, rule)
        more = tuple(
            m or (consts <= i < consts + carry and moved[i - consts]) for i, m in enumerate(moving)
        )
        if more == moving:
            return moving
        moving = more


@memoised
def lasting(
    body: Program, consts: int, carry: int, given: tuple[tuple[bool, ...], ...]
) -> tuple[tuple[tuple[bool, ...], ...], tuple[tuple[bool, ...], ...]]:
    """Which coefficients the operands have at every step, and which the results must have for that."""
    n = consts + carry
    while True:
        _, found = series(body, given)
        more = (*given[:consts], *either(given[consts:n], found[:carry]), *given[n:])
        if more == given:
            return given, (*given[consts:n], *found[carry:])
        given = more


def filled(xs: Sequence[list[Any]], flags: Sequence[tuple[bool, ...]]) -> list[list[Any]]:
    """Coefficients with zeros where there is to be one."""
    return [
        [x[0], *[zeros(x[0].aval) if c is None and f else c for c, f in zip(x[1:], group, strict=True)]]
        for x, group in zip(xs, flags, strict=True)
    ]


def grouped(items: Sequence[Any], flags: Sequence[tuple[bool, ...]], sizes: Sequence[int]) -> list[Any]:
    """Of all items and then their coefficients: each group followed by its own coefficients."""
    return [v for group in cut(unflat(items, flags), *sizes) for v in flat(group)]


class Halves(NamedTuple):
    """A body cut in two.

    first: (known consts, known carry, known x) -> (known carry, known y, stacked residuals);
    invariant: known consts -> residuals that are the same at each step;
    second: (known consts, those residuals, other consts; counters, other carry; known x, stacked
    residuals, other x) -> (counters, other carry, other y).
    """

    first: Program
    invariant: Program
    second: Program
    counters: tuple[bool, ...]  # carries that both halves count
    known: tuple[bool, ...]  # results of the first half


@memoised
def divided(body: Program, consts: int, carry: int, known: tuple[bool, ...]) -> Halves:
    """Cut a body along what its known operands determine at every step."""
    n = consts + carry
    while True:
        program, flags = separated(body, known)
        more = (*known[:consts], *[k and f for k, f in zip(known[consts:n], flags, strict=False)], *known[n:])
        if more == known:
            break
        known = more
    known_out = (*known[consts:n], *flags[carry:])
    is_known = dict(zip(program.inputs, known, strict=True))
    late: set[Any] = {v for v, k in is_known.items() if not k}
    fixed: set[Any] = {v for v in program.inputs[:consts] if v not in late}  # the same at each step
    steps = counter_steps(program, consts, carry)
    carries = program.inputs[consts:n]
    cheap: set[Any] = {v for v, step in zip(carries, steps, strict=True) if step is not None and v not in late}
    early: list[Equation] = []
    once: list[Equation] = []
    again: list[Equation] = []  # computed in both halves, at no cost to speak of
    second: list[Equation] = []
    for eqn in program.equations:
        if not late.isdisjoint(eqn.inputs):
            second.append(eqn)
            late.update(eqn.outputs)
            continue
        early.append(eqn)
        operands = [x for x in eqn.inputs if type(x) is Var]
        if not eqn.primitive.has_effects and all(x in fixed for x in operands):
            fixed.update(eqn.outputs)
            once.append(eqn)
        elif is_cheap(eqn) and all(x in fixed or x in cheap for x in operands):
            again.append(eqn)
            cheap.update(eqn.outputs)
    outputs = [y for y, k in zip(program.outputs, known_out, strict=True) if not k]
    late_reads = dict.fromkeys([x for eqn in second for x in eqn.inputs] + outputs)
    needed = set(late_reads)
    repeated = []
    for eqn in reversed(again):
        if not needed.isdisjoint(eqn.outputs):
            repeated.append(eqn)
            needed.update(eqn.inputs)
            late_reads.update(dict.fromkeys(eqn.inputs))
    repeated.reverse()
    residuals = [x for x in late_reads if type(x) is Var and x not in late and x not in cheap and x not in is_known]
    residuals += [v for v in program.inputs[consts:n] if v in late_reads and v not in late and v not in cheap]
    invariant = [x for x in residuals if x in fixed]
    stacked = [x for x in residuals if x not in fixed]
    k_inputs = [[v for v in group if is_known[v]] for group in cut(program.inputs, consts, carry)]
    u_inputs = [[v for v in group if not is_known[v]] for group in cut(program.inputs, consts, carry)]
    counters = tuple(v in cheap and v in late_reads for v in program.inputs[consts:n])
    counting = [v for v, c in zip(program.inputs[consts:n], counters, strict=True) if c]
    # The second half makes again what is cheap, of what it has anyway and of what is kept.
    given = {*k_inputs[0], *invariant, *counting, *k_inputs[2], *[v for eqn in repeated for v in eqn.outputs]}
    stacked, remade = least_kept(early, given, stacked)
    repeated += remade
    next_counts = [y for y, c in zip(program.outputs, counters, strict=False) if c]
    definitions: dict[Any, Equation] = {v: eqn for eqn in early for v in eqn.outputs}
    for y in next_counts:
        if definitions[y] not in repeated:
            repeated.append(definitions[y])
    with_known = lambda items: [x for x, k in zip(items, known_out, strict=True) if k]
    first = Program(
        tuple([v for group in k_inputs for v in group]), tuple(early), (*with_known(program.outputs), *stacked)
    )
    return Halves(
        narrowed(first, (True,) * len(first.inputs), (True,) * len(first.outputs)),
        Program(tuple(k_inputs[0]), tuple(once), tuple(invariant)),
        Program(
            (*k_inputs[0], *invariant, *u_inputs[0], *counting, *u_inputs[1], *k_inputs[2], *stacked, *u_inputs[2]),
            (*repeated, *second),
            (*next_counts, *outputs),
        ),
        counters,
        known_out,
    )


def is_cheap(eqn: Equation) -> bool:
    """Whether computing it again costs less than keeping its result at each step."""
    prim = eqn.primitive
    if prim.multiple_results or prim.has_effects:
        return False
    return not eqn.outputs[0].aval.shape or isinstance(prim, DynamicSlice | Reshape)
