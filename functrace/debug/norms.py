"""The norms of all that a Program computes, measured by running it once.

    measure : Program(x -> y) -> x -> (y, norms)

There is one norm for each result of each equation, and behind those of an equation that runs other Programs the ones
of theirs, in order. Of the steps of a loop it is the greatest. A number that is not there (an integer's, or one of a
Program that did not run) is -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import jax
from jax import lax, numpy as jnp

from functrace.control import Cond, LinearWhile, ReversedWhile, Scan, While, WhileSaved
from functrace.control.checkpoints import run_backward
from functrace.control.groups import cut
from functrace.control.scan import typed
from functrace.ir import Literal, Program
from functrace.ir.primitive import Primitive
from functrace.lower.evaluate import evaluate, literal_value

Measured = tuple[list[Any], list[Any]]


def measure(program: Program, values: Sequence[Any]) -> Measured:
    """The outputs of a Program, and the norms."""
    env: dict[Any, Any] = dict(zip(program.inputs, values, strict=True))
    read: Callable[[Any], Any] = lambda x: literal_value(x) if type(x) is Literal else env[x]
    norms: list[Any] = []
    for eqn in program.equations:
        ys, within = run(eqn.primitive, [read(x) for x in eqn.inputs])
        env.update(zip(eqn.outputs, ys, strict=True))
        norms += [norm(y) if v.aval.is_inexact else absent() for v, y in zip(eqn.outputs, ys, strict=True)]
        norms += within
    return [read(x) for x in program.outputs], norms


@jax.jit
def norm(x: Any) -> Any:
    """The Euclidean norm, of values whose squares may be out of range too."""
    size = jnp.abs(x).astype(jnp.float32)
    largest = jnp.max(size, initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum((size / scale) ** 2))


def absent(count: int | None = None) -> Any:
    """What stands for a norm that is not there; a list of them, if there is a count."""
    return jnp.float32(-1) if count is None else [jnp.float32(-1)] * count


def shown(primitive: Primitive) -> tuple[Program, ...]:
    """The Programs whose equations are measured: those that it runs, and all branches of a cond."""
    return primitive.branches if isinstance(primitive, Cond) else tuple(p for p, _ in primitive.runs())


def count(program: Program) -> int:
    """How many norms a Program has."""
    return sum(len(e.outputs) + sum(map(count, shown(e.primitive))) for e in program.equations)


@singledispatch
def run(primitive: Primitive, xs: list[Any]) -> Measured:
    """The results of a primitive, and the norms of the Programs that it runs."""
    held = primitive.runs()
    if held:  # which it applies to its operands
        return measure(held[0].program, xs)
    ys = primitive.lower(*xs)
    return list(ys) if primitive.multiple_results else [ys], []


@run.register
def _(cond: Cond, xs: list[Any]) -> Measured:
    counts = [count(p) for p in cond.branches]

    def branch(i: int) -> Callable[..., Measured]:
        def chosen(*operands: Any) -> Measured:
            ys, norms = measure(cond.branches[i], operands)
            return typed(ys, cond.branches[0].out_avals), absent(sum(counts[:i])) + norms + absent(sum(counts[i + 1 :]))

        return chosen

    return lax.switch(xs[0], [branch(i) for i in range(len(counts))], *xs[1:])


@run.register
def _(scan: Scan, xs: list[Any]) -> Measured:
    consts, carry, scanned = cut(xs, scan.consts, scan.carry)
    types = scan.body.in_avals[scan.consts : scan.consts + scan.carry]

    def step(carry: Any, x: Any) -> Any:
        outputs, norms = measure(scan.body, [*consts, *carry, *x])
        return typed(outputs[: scan.carry], types), (outputs[scan.carry :], norms)

    carry, (ys, norms) = lax.scan(step, typed(carry, types), scanned, scan.length, scan.reverse)
    return [*carry, *ys], [jnp.max(n, initial=-1) for n in norms]


@run.register
def _(loop: While, xs: list[Any]) -> Measured:
    consts, carry = cut(xs, loop.consts)
    types = loop.body.out_avals
    n = count(loop.predicate)

    def step(state: Any) -> Any:
        carry, norms = state
        _, asked = measure(loop.predicate, [*consts, *carry])
        outputs, found = measure(loop.body, [*consts, *carry])
        return typed(outputs, types), greatest(norms, [*asked, *found])

    going = lambda state: measure(loop.predicate, [*consts, *state[0]])[0][0]
    return lax.while_loop(going, step, (typed(carry, types), absent(n + count(loop.body))))


@run.register
def _(loop: WhileSaved, xs: list[Any]) -> Measured:
    return list(loop.lower(*xs)), run(loop.loop, xs)[1]


@run.register
def _(walk: LinearWhile, xs: list[Any]) -> Measured:
    (steps, *_), c, s, rest = walk.groups(xs)
    states, types = walk.body.out_avals, walk.along.out_avals
    dc, ds = cut(rest, len(rest) - len(types))

    def step(_: Any, given: Any) -> Any:
        s, ds, norms = given
        after, of_body = measure(walk.body, [*c, *s])
        ds, found = measure(walk.along, [*c, *s, *dc, *ds])
        return typed(after, states), typed(ds, types), greatest(norms, [*of_body, *found])

    start = typed(s, states), typed(ds, types), absent(count(walk.body) + count(walk.along))
    _, ds, norms = lax.fori_loop(0, steps, step, start)
    return ds, norms


@run.register
def _(walk: ReversedWhile, xs: list[Any]) -> Measured:
    (steps, stride, used, *slots), c, _, l = walk.groups(xs)
    states, types = walk.body.out_avals, walk.along.out_avals

    def undo(s: list[Any], given: list[Any]) -> list[Any]:
        l, norms = cut(given, len(types))
        _, of_body = measure(walk.body, [*c, *s])
        l, found = measure(walk.along, [*c, *s, *l])
        return [*typed(l, types), *greatest(norms, [*of_body, *found])]

    step = lambda s: typed(evaluate(walk.body, [*c, *s]), states)
    start = [*typed(l, types), *absent(count(walk.body) + count(walk.along))]
    l, norms = cut(run_backward(step, list, undo, steps, stride, used, slots, start), len(types))
    return list(l), list(norms)


def greatest(norms: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """The greater one of each pair."""
    return [jnp.maximum(a, b) for a, b in zip(norms, others, strict=True)]
