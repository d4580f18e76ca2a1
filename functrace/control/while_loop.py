"""while: a Program applied for as long as another one says so.

    predicate : (c, s) -> bool      body : (c, s) -> s

Its pushforward is a while with one more carry. Reverse mode is in `reversal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.core
import numpy as np
from jax import lax

from functrace.control.alike import merged, of_kinds, starts
from functrace.control.bent import Bent, bent_loop, spread_in, spread_out
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
from functrace.control.loop_patterns import while_pattern
from functrace.control.scan import (
    I32_SCALAR,
    fill_carry,
    filled,
    grouped,
    grown,
    lasting,
    moved_to_front,
    stepping,
    typed,
)
from functrace.errors import RuleError
from functrace.ir import Atom, Aval, Builder, Program, Run, Sample, Var, primitive
from functrace.ir.dependence import Matrix, Site
from functrace.ir.primitive import Primitive
from functrace.ir.python import tuple_text
from functrace.lower.evaluate import evaluate
from functrace.lower.staging import staged
from functrace.primitives.comparison import lt
from functrace.primitives.elementwise import add, mul
from functrace.primitives.families import literal
from functrace.primitives.reductions import ReduceOr
from functrace.primitives.selection import where
from functrace.primitives.space import batched_operand, broadcast_in_dim, not_there, zeros
from functrace.primitives.unary import cos
from functrace.rewrites import batch, collect, jvp, memoised, series
from functrace.rewrites.collect import acts, unobserved
from functrace.rewrites.laplacian import Directions
from functrace.rewrites.memo import copy_input, select
from functrace.rewrites.separate import separated
from functrace.rewrites.series import flat, present, unflat
from functrace.rewrites.thread import Thread

F32 = np.dtype(np.float32)
I32 = np.dtype(np.int32)
SLOTS = 200  # states kept for reverse mode


@primitive
class While(Primitive):
    """`while predicate(consts, carry): carry = body(consts, carry)`.

    `slots` is how many states reverse mode may keep.
    """

    name = "while"
    multiple_results = True
    pushes_inner = True
    at_once = True
    predicate: Program
    body: Program
    consts: int
    slots: int = SLOTS

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), F32)
        # JAX has no reverse mode of it to compare with.
        for first in (0, 20):
            yield Sample(While(*sample_loop(), 1), (aval, np.int32(first), aval), fixed=(0, 1, 2))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.predicate.has_effects or self.body.has_effects

    def shape(self, *xs: Aval) -> Any:
        return self.body.out_avals

    def lower(self, *xs: Any) -> Any:
        if any(isinstance(x, jax.core.Tracer) for x in xs):
            return run(self, xs)
        return compiled(self.body, self)(*xs)

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        consts, carry = xs[: self.consts], xs[self.consts :]
        constant = [v is y for v, y in zip(self.body.inputs[self.consts :], self.body.outputs, strict=True)]
        if any(constant):  # a carry that is handed on unchanged is a constant
            order = lambda items: tuple(moved_to_front(items, self.consts, constant))
            predicate = Program(order(self.predicate.inputs), self.predicate.equations, self.predicate.outputs)
            outputs = tuple([y for y, c in zip(self.body.outputs, constant, strict=True) if not c])
            body = Program(order(self.body.inputs), self.body.equations, outputs)
            rest = iter(While(predicate, body, self.consts + sum(constant), self.slots)(*order(xs)))
            return tuple([x if c else next(rest) for x, c in zip(carry, constant, strict=True)])
        kept = tuple(map(any, zip(reads(self.predicate), reads(self.body), strict=True)))[: self.consts]
        if not all(kept):
            return self._with((*kept, *(True,) * len(carry)), (True,) * len(carry))(*select(kept, consts), *carry)
        return None

    def _with(self, inputs: tuple[bool, ...], outputs: tuple[bool, ...]) -> While:
        return While(
            narrowed(self.predicate, inputs, (True,)), narrowed(self.body, inputs, outputs),
            sum(inputs[: self.consts]), self.slots,
        )  # fmt: skip

    def prune(self, needed: tuple[bool, ...]) -> Any:
        asked = needed_inputs(self.predicate, (True,))
        outputs = needed
        while True:
            inputs = tuple(map(any, zip(asked, needed_inputs(self.body, outputs), strict=True)))
            more = tuple(map(any, zip(outputs, inputs[self.consts :], strict=True)))
            if more == outputs:
                break
            outputs = more
        flags = (*inputs[: self.consts], *outputs)
        return None if all(flags) else (self._with(flags, outputs), flags, outputs)

    def spelled(self, writer: Any, eqn: Any) -> None:
        carries = zip(self.body.inputs[self.consts :], eqn.inputs[self.consts :], strict=True)
        if self.slots < 4 or any([v.aval is not x.aval for v, x in carries]):  # `lax.while_loop` would make types agree
            return writer.usual(eqn)
        consts, carry = cut(writer.operands(eqn), self.consts)
        names = []
        for label, program in (("going", self.predicate), ("turn", self.body)):
            s, name = writer.name("carry"), writer.name(label)
            names.append(name)
            writer.line(f"def {name}({s}):")
            with writer:
                mine = program.inputs[self.consts :]
                if mine:
                    writer.line(f"{writer.targets(mine)} = {s}")
                results = writer.body(program, [*consts, *[writer.read(v) for v in mine]])
                writer.line(f"return {results[0] if label == 'going' else tuple_text(results)}")
        options = "" if self.slots == SLOTS else f", checkpoints={self.slots}"
        writer.assign(eqn, f"lax.while_loop({', '.join(names)}, {tuple_text(carry)}{options})")

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        pushed, operands, moved = self.pushed(xs, dxs)
        return apart((), moved, pushed.of_kinds(operands))

    def of_kinds(self, xs: Sequence[Any]) -> Sequence[Any]:
        """Applied, with one operand for those that are alike at every turn."""
        sizes = self.consts, len(self.body.outputs)
        like = starts(self.body, sizes, xs)
        if all(firsts(like)):
            return self(*xs)
        body, kinds = merged(self.body, sizes, like)
        flags = firsts(kinds.inputs)
        loop = While(of_kinds(self.predicate, kinds.inputs), body, counted(sizes, flags)[0], self.slots)
        return of_each_kind(kinds.outputs, loop(*select(flags, xs)))

    def laplacian(self, at: Directions, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> Any:
        wide = bent_loop(at, self.body, (self.consts,), len(self.body.outputs), js, ls)
        more = [v for group in wide.operands(at, xs, js, ls) for v in group if v is not None]
        operands = spread_in((self.consts,), (wide.moving, wide.bent), [*xs, *more])
        outputs = widened(self.body, self, wide)(*operands)
        return spread_out((len(self.body.outputs),), (wide.found.moved, wide.found.bent), outputs)

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        given, fill = lasting(self.body, self.consts, len(self.body.outputs), tuple(map(present, xs)))
        program, found = series(self.body, given, fill)
        sizes = (self.consts,)
        inputs = grouped(program.inputs, given, sizes)
        asked = [[v, *[None if c is None else Var(c.aval) for c in x[1:]]]
                 for v, x in zip(self.predicate.inputs, unflat(program.inputs, given), strict=True)]
        predicate = Program(
            tuple([v for group in cut(asked, *sizes) for v in flat(group)]),
            self.predicate.equations, self.predicate.outputs,
        )  # fmt: skip
        consts = self.consts + sum(map(sum, given[: self.consts]))
        loop = While(predicate, Program(tuple(inputs), program.equations, program.outputs), consts, self.slots)
        results = loop(*[v for group in cut(filled(xs, given), *sizes) for v in flat(group)])
        return unflat(results, found)

    def moving(self, dxs: Sequence[Any], rule: str) -> tuple[bool, ...]:
        """Which operands have a tangent in the pushforward."""
        return grown(self.body, self.consts, len(self.body.outputs), tuple(dx is not None for dx in dxs), rule)

    def pushed(
        self, xs: Sequence[Any], dxs: Sequence[Any], rule: str = "jvp"
    ) -> tuple[While, list[Any], tuple[bool, ...]]:
        """The pushforward, its operands, and which results have a tangent."""
        moving = self.moving(dxs, rule)
        loop, moved = pushforward(self.body, self, moving, rule)
        tangents = [zeros(x.aval) if dx is None else dx for x, dx, m in zip(xs, dxs, moving, strict=True) if m]
        return loop, beside((self.consts,), moving, [*xs, *tangents]), moved

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        loop, operands, moved = self.pushed(xs, dxs, "linearize")
        moving = self.moving(dxs, "linearize")
        known = beside((self.consts,), moving, [True] * len(xs) + [False] * sum(moving))
        outputs, _ = loop.separate(operands, known)
        return apart((), moved, outputs)

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        from functrace.control.reversal import KEPT, LinearWhile, saving  # which are written in terms of this one

        found = divided(self.body, self, tuple(known))
        if found is None:
            return super().separate(xs, known)
        loop, along, flags = found
        if acts(self):
            raise repeats_effect(self)
        pick = lambda keep: [x for x, k in zip(xs, (*known[: self.consts], *flags), strict=True) if k is keep]
        finals, kept = cut(saving(loop)(*pick(True)), sum(flags))
        walk = LinearWhile(unobserved(loop.body), unobserved(along), loop.consts, self.slots)
        now, later = iter(finals), iter(walk(*kept, *pick(True), *pick(False)))
        assert len(kept) == KEPT + sum(flags)
        return [next(now) if k else next(later) for k in flags], flags

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        loop, carry = mapped(self.body, self, size, tuple(batched), name)
        given = batched[self.consts :]
        inits = [
            batched_operand(x, g, size) if f else x
            for x, g, f in zip(xs[self.consts :], given, carry, strict=True)
        ]  # fmt: skip
        return loop(*xs[: self.consts], *inits), carry

    def with_programs(self, change: Callable[[Program], Program]) -> While:
        return replace(self, predicate=change(self.predicate), body=change(self.body))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        """What is observed in a step is carried along, so that the last step's is left."""
        loop, names = observing(self.body, self)
        n = len(self.body.outputs)
        last = [not_there(v.aval) for v in loop.body.outputs[n:]]
        ys, values = cut(loop(*xs, *last), n)
        return ys, list(zip(names, values, strict=True))

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return (self.body,)

    @property
    def turns(self) -> range:
        return range(self.consts, len(self.body.inputs))

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        loop = stepping_loop(self.body, self, at)
        c, s = cut(xs, self.consts)
        outputs = loop(*at.place, *c, literal(0, I32_SCALAR), *state, *s)
        return outputs[1 : 1 + at.size], outputs[1 + at.size :]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        consts, carry = cut(at.operands, self.consts)
        return while_pattern(self.predicate, self.body, consts, carry, at)

    def runs(self) -> tuple[Run, ...]:
        return (Run(self.predicate, None), Run(self.body, None))

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.predicate, name) or uses_axis(self.body, name)


def sample_loop(size: int = 3) -> tuple[Program, Program]:
    """`while n < 7: n, s = n + 2, s * cos(c)`, for arrays of so many entries."""
    aval = Aval((size,), F32)
    with Builder() as b:
        b.input(aval)
        n, _ = b.input(Aval((), I32)), b.input(aval)
        predicate = b.build([lt(n, 7)])
    with Builder() as b:
        c, n, s = b.input(aval), b.input(Aval((), I32)), b.input(aval)
        body = b.build([add(n, 2), mul(cos(s), c)])
    return predicate, body


def stepping_loop(body: Program, loop: While, at: Thread) -> While:
    """The loop `(place, c; step, state, s) -> (step, state, s)` that carries a state through its body."""
    place, state, consts = len(at.place), at.size, loop.consts
    threaded = stepping(at.into(0, deeper=True), place, state, consts)
    inputs = threaded.inputs
    read = [*inputs[place : place + consts], *inputs[place + consts + 1 + state :]]
    with Builder() as b:
        copies = dict(zip(inputs, [copy_input(b, v) for v in inputs], strict=True))
        predicate = b.build(b.inline(loop.predicate, [copies[v] for v in read]))
    return While(predicate, threaded, place + consts, loop.slots)


@memoised
def pushforward(
    _: Program, loop: While, moving: tuple[bool, ...], rule: str
) -> tuple[While, tuple[bool, ...]]:
    """The loop that carries tangents, and which carries have one."""
    sizes = (loop.consts,)
    program, moved = jvp(loop.body, moving, rule, fill_carry(loop.body, moving[loop.consts :]))
    body = arranged(program, sizes, moving, (), moved)
    with Builder() as b:
        inputs = [copy_input(b, v) for v in body.inputs]
        primals = apart(sizes, moving, inputs)[0]
        predicate = b.build(b.inline(loop.predicate, primals))
    return While(predicate, body, loop.consts + counted(sizes, moving)[0], loop.slots), moved


@memoised
def widened(_: Program, loop: While, wide: Bent) -> While:
    """The loop whose body carries J and L."""
    with Builder() as b:
        inputs = [copy_input(b, v) for v in wide.body.inputs]
        primals = spread_out((loop.consts,), (wide.moving, wide.bent), inputs)[0]
        predicate = b.build(b.inline(loop.predicate, primals))
    return While(predicate, wide.body, wide.counts(loop.consts)[0], loop.slots)


@memoised
def observing(_: Program, loop: While) -> tuple[While, tuple[str, ...]]:
    """The loop that also carries what is observed in its step, and the names. Its predicate is asked once more than
    its step runs, so nothing is observed there."""
    body, names = collect(loop.body)
    predicate = unobserved(loop.predicate)
    last = tuple([Var(v.aval) for v in body.outputs[len(loop.body.outputs) :]])
    return replace(
        loop,
        predicate=Program((*predicate.inputs, *last), predicate.equations, predicate.outputs),
        body=Program((*body.inputs, *[Var(v.aval) for v in last]), body.equations, body.outputs),
    ), names


@memoised
def settled(program: Program, known: tuple[bool, ...], carry: int) -> tuple[Program, tuple[bool, ...]]:
    """A step of which no equation is known in part, and which inputs are known at every turn, the last `carry` of
    them being handed on."""
    n = len(known) - carry
    while True:
        program, flags = separated(program, known)
        more = known[:n] + tuple([k and f for k, f in zip(known[n:], flags, strict=True)])
        if more == known:
            return program, known
        known = more


@memoised
def divided(
    _: Program, loop: While, known: tuple[bool, ...]
) -> tuple[While, Program, tuple[bool, ...]] | None:
    """The loop of what its known operands determine; of its states, what else a step does; which carries
    are known. None if those do not say how long it goes on, or are all there is."""
    n = loop.consts
    body, known = settled(loop.body, known, len(loop.body.outputs))
    flags = known[n:]
    asked = needed_inputs(loop.predicate, (True,))
    if all(flags) or any(a and not k for a, k in zip(asked, known, strict=True)):
        return None
    predicate = narrowed(loop.predicate, known, (True,))
    inputs = [*select(known, body.inputs), *select(tuple(not k for k in known), body.inputs)]
    along = Program(tuple(inputs), body.equations, tuple(select(tuple(not k for k in flags), body.outputs)))
    return While(predicate, narrowed(body, known, flags), sum(known[:n]), loop.slots), along, known[n:]


def repeats_effect(loop: While) -> RuleError:
    """The error for reverse mode of a loop with an effect."""
    equations = (*loop.body.equations, *loop.predicate.equations)
    eqn = next(eqn for eqn in equations if acts(eqn.primitive))
    where = f"  ({eqn.source}, in {eqn.source.function})" if eqn.source else ""
    return RuleError(
        f"while_loop: the loop has an effect ({eqn.primitive.name}), and reverse mode and linearize compute steps "
        f"again, so the effect would happen more than once. Forward mode (functrace.jvp) works; for reverse mode take "
        f"the effect out of the loop, or make it a scan.{where}"
    )


@memoised
def mapped(_: Program, loop: While, size: int, batched: tuple[bool, ...], name: Any) -> tuple[While, tuple[bool, ...]]:
    """The loop over all rows, each of which stops on its own, and which carries have a batch axis."""
    consts, carry = batched[: loop.consts], batched[loop.consts :]
    while True:
        stops = batch(loop.predicate, size, (*consts, *carry), name)[1][0]
        fill = (True,) * len(carry) if stops else carry
        body, flags = batch(loop.body, size, (*consts, *carry), name, fill)
        if flags == carry:
            break
        carry = flags
    predicate = batch(loop.predicate, size, (*consts, *carry), name)[0]
    if stops:
        predicate, body = until_all_stop(predicate, body, loop.consts)
    return While(predicate, body, loop.consts, loop.slots), carry


def until_all_stop(predicate: Program, body: Program, consts: int) -> tuple[Program, Program]:
    """For a predicate a row: go on while a row does, and leave the others as they are."""
    with Builder() as b:
        (going,) = b.inline(predicate, [copy_input(b, v) for v in predicate.inputs])
        any_going = b.build([ReduceOr((0,))(going)])
    with Builder() as b:
        inputs = [copy_input(b, v) for v in body.inputs]
        (going,) = b.inline(predicate, inputs)
        stepped = b.inline(body, inputs)
        masked = b.build([
            where(broadcast_in_dim(going, y.aval.shape, (0,)), y, x)
            for x, y in zip(inputs[consts:], stepped, strict=True)
        ])  # fmt: skip
    return any_going, masked


def run(loop: While, xs: Sequence[Any]) -> list[Any]:
    """The loop, by JAX's."""
    consts, carry = cut(xs, loop.consts)
    types = loop.body.out_avals

    def going(carry: Any) -> Any:
        return evaluate(loop.predicate, [*consts, *carry])[0]

    def step(carry: Any) -> Any:
        return typed(staged(loop.body, [*consts, *carry]), types)

    return lax.while_loop(going, step, typed(carry, types))


@memoised
def compiled(_: Program, loop: While) -> Any:
    """The loop as one compiled function, for where it runs alone."""
    return jax.jit(lambda *xs: run(loop, xs))


@memoised
def with_count(_: Program, loop: While) -> While:
    """The loop with the number of its steps as its first carry."""
    programs = []
    for program in (loop.predicate, loop.body):
        with Builder() as b:
            c = [copy_input(b, v) for v in program.inputs[: loop.consts]]
            n = b.input(I32_SCALAR)
            s = [copy_input(b, v) for v in program.inputs[loop.consts :]]
            outputs = b.inline(program, [*c, *s])
            programs.append(b.build(outputs if program is loop.predicate else [add(n, 1), *outputs]))
    return While(programs[0], programs[1], loop.consts, loop.slots)


@memoised
def repeated(body: Program, consts: int, slots: int) -> While:
    """The loop of `steps`, its first constant, with the number of the step as its first carry."""
    with Builder() as b:
        steps = b.input(I32_SCALAR)
        for v in body.inputs[:consts]:
            copy_input(b, v)
        i = b.input(I32_SCALAR)
        for v in body.inputs[consts:]:
            copy_input(b, v)
        predicate = b.build([lt(i, steps)])
    with Builder() as b:
        b.input(I32_SCALAR)
        c = [copy_input(b, v) for v in body.inputs[:consts]]
        i = b.input(I32_SCALAR)
        s = [copy_input(b, v) for v in body.inputs[consts:]]
        stepped = b.build([add(i, 1), *b.inline(body, [*c, *s])])
    return While(predicate, stepped, 1 + consts, slots)
