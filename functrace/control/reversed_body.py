"""The body of a scan transposed: what one step of the walk back does, counters, sums and masks included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from functrace.control.groups import cut
from functrace.ir import Atom, Aval, Builder, Literal, Masked, Program
from functrace.primitives.comparison import logical_or
from functrace.primitives.elementwise import add, sub
from functrace.primitives.families import literal
from functrace.primitives.space import broadcast_to, full, zeros
from functrace.rewrites import memoised
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.transpose import presence, transposed


@memoised
def counter_steps(body: Program, consts: int, carry: int) -> tuple[int | None, ...]:
    """For each carry that is an integer to which each step adds a constant, that constant; else None."""
    definitions = {eqn.outputs[0]: eqn for eqn in body.equations if eqn.primitive is add or eqn.primitive is sub}
    steps: list[int | None] = []
    for v, y in zip(body.inputs[consts : consts + carry], body.outputs, strict=False):
        eqn = definitions.get(y)  # pyright: ignore[reportArgumentType, reportCallIssue]
        step = None
        if eqn is not None and v.aval.kind in "iu" and not v.aval.shape:
            x, k = eqn.inputs
            if type(x) is Literal and eqn.primitive is add:
                x, k = k, x
            if x is v and type(k) is Literal:
                step = int(k.value) if eqn.primitive is add else -int(k.value)
        steps.append(step)
    return tuple(steps)


def mask_of(aval: Aval) -> Aval:
    """The type of a mask of all entries."""
    return Aval(aval.shape, np.dtype(bool))


def mask_at_first(ct: Any, aval: Aval) -> Atom:
    """What is there in the cotangent of a carry when the walk back begins."""
    if ct is None:
        return full(mask_of(aval), False)
    return broadcast_to(ct.there.read(), aval.shape) if type(ct) is Masked else full(mask_of(aval), True)


def step_types(cts: Sequence[Any], carry: int, avals: Sequence[Aval]) -> tuple[Any, ...]:
    """For each result of a body, the type of the mask that may come from outside at every step, or None."""
    types: list[Any] = []
    for i, (c, a) in enumerate(zip(cts, avals, strict=True)):
        masked = type(c) is Masked or (c is None and i < carry)  # a carry without one begins with nothing
        uniform = [d - 1 for d in c.there.uniform if d] if i >= carry and type(c) is Masked else []
        types.append((a.shape, frozenset(uniform)) if masked else None)
    return tuple(types)


class Reversed(NamedTuple):
    """A linear body transposed: (fixed consts; counters, sums, ct_carry, masks of consts and carry; fixed x, ct_y,
    masks) -> (counters, sums, ct_carry, masks of consts and carry, ct_x, masks), and which operands of the scan it is
    about. Of the constants a mask says what is there at any step."""

    body: Program
    linear: tuple[bool, ...]  # operands, carries that start at zero included
    steps: tuple[int | None, ...]
    ct_consts: tuple[bool, ...]
    ct_carry: tuple[bool, ...]
    ct_scanned: tuple[bool, ...]
    masked: tuple[bool, ...]  # operands whose cotangent has a mask


@memoised
def reversed_body(
    body: Program, consts: int, carry: int, linear: tuple[bool, ...], with_ct: tuple[bool, ...],
    types: tuple[Any, ...] | None = None,
) -> Reversed:  # fmt: skip
    """Transpose a body that is linear in the flagged operands, for results with a cotangent as flagged.

    `types` has for each result the type of its mask, or None; without it nothing is masked.
    """
    n = consts + carry
    linear = linear_inputs(body, consts, carry, linear)
    steps = counter_steps(body, consts, carry)
    with_ct = tuple(f and (i >= carry or linear[consts + i]) for i, f in enumerate(with_ct))
    own = list(types or (None,) * len(body.outputs))
    while True:
        back = transposed(body, linear, with_ct, masks_given(with_ct, own))
        ct_in = [bool(f) for f in scatter(linear, back.found)]
        there = scatter(linear, scatter(back.found, back.there))
        more = (*[w or f for w, f in zip(with_ct, ct_in[consts:n], strict=False)], *with_ct[carry:])
        # A carry is masked at every step, or from outside alone, which is not at every step.
        kept = [
            None if i < carry and ct_in[consts + i] and there[consts + i] is None else of for i, of in enumerate(own)
        ]
        if more == with_ct and kept == own:
            break
        with_ct, own = more, kept
    ct_consts, _, ct_scanned = (tuple(group) for group in cut(ct_in, consts, carry))
    ct_carry = with_ct[:carry]
    from_outside = [False] * consts + [w and of is not None for w, of in zip(ct_carry, own, strict=False)]
    masked = tuple([
        types is not None and (of is not None or (i < n and from_outside[i])) for i, of in enumerate(there)
    ])  # fmt: skip
    with Builder() as b:
        c, s, x = cut(body.inputs, consts, carry)
        l_c, l_s, l_x = cut(linear, consts, carry)
        m_c, m_s, m_x = cut(masked, consts, carry)
        fixed = [copy_input(b, v) for v, f in zip(c, l_c, strict=True) if not f]
        numbers = [copy_input(b, v) for v, f in zip(s, l_s, strict=True) if not f]
        sums = [copy_input(b, v) for v in select(ct_consts, c)]
        cts = [b.input(y.aval) for y in select(ct_carry, body.outputs[:carry])]
        any_masks = [b.input(mask_of(v.aval)) for v in select(tuple(m_c), c)]
        carry_masks = [b.input(mask_of(v.aval)) for v in select(tuple(m_s), s)]
        entries = [copy_input(b, v) for v, f in zip(x, l_x, strict=True) if not f]
        ct_ys = [b.input(y.aval) for y in select(with_ct[carry:], body.outputs[carry:])]
        given = select(tuple(from_outside[consts:]), scatter(tuple(m_s), carry_masks))
        given += [b.input(Aval(of[0], np.dtype(bool))) for of in select(with_ct[carry:], own[carry:]) if of]
        operands = [*fixed, *numbers, *entries, *cts, *ct_ys, *given]
        results = scatter(tuple(ct_in), b.inline(back.program, operands))
        masks: list[Any] = [None] * len(linear)
        if any(masked):
            written_masks = presence(body, linear, with_ct, masks_given(with_ct, own))
            masks = scatter(tuple([of is not None for of in there]), b.inline(written_masks, operands))
        r_c, r_s, r_x = cut(results, consts, carry)
        p_c, p_s, p_x = cut(masks, consts, carry)
        last = [s for s, f in zip(steps, l_s, strict=True) if not f]
        outputs = [sub(v, literal(step, v.aval)) for v, step in zip(numbers, last, strict=True)]
        outputs += [add(total, ct) for total, ct in zip(sums, [r for r in r_c if r is not None], strict=True)]
        outputs += [
            zeros(v.aval) if r is None else r for v, r, f in zip(s, r_s, ct_carry, strict=True) if f
        ]
        outputs += [
            logical_or(m, broadcast_to(p, m.aval.shape))
            for m, p in zip(any_masks, select(tuple(m_c), p_c), strict=True)
        ]
        outputs += [
            full(mask_of(v.aval), False) if p is None else broadcast_to(p, v.aval.shape)
            for v, p, m in zip(s, p_s, m_s, strict=True) if m
        ]
        outputs += [r for r in r_x if r is not None]
        outputs += [broadcast_to(p, v.aval.shape) for v, p, m in zip(x, p_x, m_x, strict=True) if m]
        return Reversed(b.build(outputs), linear, steps, ct_consts, ct_carry, ct_scanned, masked)


def masks_given(with_ct: Sequence[bool], types: Sequence[Any]) -> tuple[Any, ...]:
    """The types of the masks of those results that have a cotangent, as `transposed` takes them."""
    given = tuple([of for of, w in zip(types, with_ct, strict=True) if w])
    return given if any(of is not None for of in given) else ()


@memoised
def linear_inputs(body: Program, consts: int, carry: int, linear: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which inputs of a body depend on the flagged operands; a carry may only later."""
    while True:
        late: set[Any] = {v for v, f in zip(body.inputs, linear, strict=True) if f}
        for eqn in body.equations:
            if not late.isdisjoint(eqn.inputs):
                late.update(eqn.outputs)
        more = tuple(
            f or (consts <= i < consts + carry and body.outputs[i - consts] in late) for i, f in enumerate(linear)
        )
        if more == linear:
            return linear
        linear = more
