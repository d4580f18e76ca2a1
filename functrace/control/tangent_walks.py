"""The pushforward of a walk back along a while loop's states, as a linear map that knows its transpose.

Neither is transposed equation by equation: both keep states anew, which belong to no linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from functrace.control.groups import cut
from functrace.control.linear_pair import LinearPair
from functrace.control.reversal import KEPT, ReversedWhile, filled, moving_of, resaved
from functrace.control.scan import reversed_body
from functrace.ir import Aval, Builder, Program
from functrace.primitives.elementwise import add
from functrace.primitives.space import zeros
from functrace.rewrites import jvp, memoised, transpose
from functrace.rewrites.memo import copy_input, scatter, select


@memoised
def reversed_tangent(_: Program, walk: ReversedWhile, flags: tuple[bool, ...], avals: tuple[Aval, ...]) -> LinearPair:
    """`(kept, c, s, l; dc, ds, dl) -> dl` for operands of these types, of which those of c, s and l that are flagged
    have a tangent. Its transpose walks back along the states (s, m)."""
    moving = moving_of(walk, flags)
    back = pulled_tangent(walk.body, walk.along, walk.consts, flags, moving.l)
    n = KEPT + walk.carry
    with Builder() as b:
        xs = [b.input(a) for a in avals]
        tangents = [b.input(a.strong()) for a in select(flags, avals[n:])]
        dls = walk.jvp(xs, [None] * n + scatter(flags, tangents))[1]
        forward = b.build([dl for dl in dls if dl is not None])
    with Builder() as b:
        xs = [b.input(a) for a in avals]
        before, c, s, l = walk.groups(xs)
        m_given = scatter(moving.l, [b.input(a.strong()) for a in select(moving.l, avals[-len(l) :])])
        m = filled(back.m, l, m_given)
        finals, kept = resaved(back.body, walk.slots, before[0], c, [*s, *m])
        last = ReversedWhile(back.body, back.along, walk.consts, walk.slots)(
            *kept, *c, *s, *m, *l, *[zeros(x.aval) for x in [*select(moving.s, s), *select(moving.c, c)]]
        )
        ct_s, ct_c = cut(last, len(l), sum(moving.s))[1:]
        found = [*scatter(moving.c, ct_c), *scatter(moving.s, ct_s), *scatter(back.m, finals[len(s) :])]
        pulled = b.build(filled(flags, [*c, *s, *l], found))
    return LinearPair(forward, pulled, len(avals))


class PulledTangent(NamedTuple):
    """What the transpose of that pushforward walks: states (s, m), back along them (l, n, sums)."""

    body: Program
    along: Program
    m: tuple[bool, ...]  # which of l have a cotangent that runs forward


@memoised
def pulled_tangent(
    body: Program, along: Program, consts: int, flags: tuple[bool, ...], with_ct: tuple[bool, ...]
) -> PulledTangent:
    """With m the cotangent of dl, which runs forward, and n that of ds, which runs backward:

    m_t+1 = (d along / d l)^T m_t,    n_t = (d body / d s)^T n_t+1 + (d along / d s)^T m_t,
    and the cotangent of dc is the sum over t of what the same transposes give for c.
    """
    carry, walked = len(body.outputs), len(along.outputs)
    walk = ReversedWhile(body, along, consts, 0)
    moving = moving_of(walk, flags)
    forward = reversed_body(
        along, consts + carry, walked, (False,) * (consts + carry) + (True,) * walked, with_ct
    )
    step_t, step_found = tangent_transpose(body, moving.c + moving.s, moving.s, moving.s)
    both = tuple(f and g for f, g in zip(moving.l, forward.ct_carry, strict=True))
    along_t, along_found = tangent_transpose(along, moving.c + moving.s + moving.l, moving.l, both)
    with Builder() as b:
        c, s = cut([copy_input(b, v) for v in body.inputs], consts)
        m = [b.input(y.aval) for y in select(forward.ct_carry, along.outputs)]
        states = b.build([*b.inline(body, [*c, *s]), *b.inline(forward.body, [*c, *s, *m])])
    with Builder() as b:
        c, s = cut([copy_input(b, v) for v in body.inputs], consts)
        m = [b.input(y.aval) for y in select(forward.ct_carry, along.outputs)]
        l = [b.input(y.aval) for y in along.outputs]
        n = [b.input(x.aval) for x in select(moving.s, s)]
        sums = [b.input(x.aval) for x in select(moving.c, c)]
        m_given = select(both, scatter(forward.ct_carry, m))
        from_l = scatter(along_found, b.inline(along_t, [*c, *s, *l, *m_given]))
        from_s = scatter(step_found, b.inline(step_t, [*c, *s, *n]))
        k, j = sum(moving.c), sum(moving.s)
        n_next = [total(x, [p, q]) for x, p, q in zip(n, from_l[k : k + j], from_s[k:], strict=True)]
        sums = [total(x, [x, p, q]) for x, p, q in zip(sums, from_l[:k], from_s[:k], strict=True)]
        back = b.build([*b.inline(along, [*c, *s, *l]), *n_next, *sums])
    return PulledTangent(states, back, forward.ct_carry)


def tangent_transpose(
    program: Program, moving: tuple[bool, ...], fill: tuple[bool, ...], with_ct: tuple[bool, ...]
) -> tuple[Program, tuple[bool, ...]]:
    """The transpose of the pushforward alone: `(x, ct_dy) -> ct_dx`, and which of ct_dx there are."""
    pushed, _ = jvp(program, moving, "linearize", fill)
    tangents = Program(pushed.inputs, pushed.equations, pushed.outputs[len(program.outputs) :])
    linear = (False,) * len(program.inputs) + (True,) * sum(moving)
    return transpose(tangents, linear, tuple(select(fill, with_ct)))


def total(like: Any, terms: Sequence[Any]) -> Any:
    """The sum of the terms that are there."""
    there = [t for t in terms if t is not None]
    result = there[0] if there else zeros(like.aval)
    for t in there[1:]:
        result = add(result, t)
    return result
