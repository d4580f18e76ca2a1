"""The gradient of a scalar, in the mode that keeps it small.

gradient : Program(x -> (y, z)) -> Program(x -> (y, z, dy/dx))         y one real scalar

In one scalar, forward mode is an equation or two more for each, which share what they have in common: a tower of such
gradients grows as a polynomial in its height. Reverse mode, which turns the Program round at every order, triples it.
"""

from __future__ import annotations

from typing import NamedTuple

from functrace.errors import RuleError
from functrace.ir import Atom, Builder, Equation, Literal, Primitive, Program, Var, is_complex
from functrace.ir.primitive import AMBIENT
from functrace.ir.source import NOWHERE
from functrace.primitives.elementwise import convert_element_type
from functrace.primitives.space import full, reshape, zeros
from functrace.rewrites.collect import programs_of
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input, memoised, select
from functrace.rewrites.vjp import pullback

SEVERAL = 4  # scalars, at most, that are tried one by one


def gradient(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, grad)` for a scalar first output; further outputs are carried along."""
    given = [v.aval for v in select(moving, program.inputs)]
    if (
        not 1 <= len(given) <= (1 if program.has_effects else SEVERAL)
        or any([a.size != 1 for a in given])
        or not goes_forward(program, AMBIENT.collects)
        or (any([is_complex(a.dtype) for a in given]) and not is_holomorphic(program, moving))
        or meets_pole(program, moving)
    ):
        return pullback(program, moving)
    forward = along(program, moving)
    if len(given) == 1:
        return forward
    backward = pullback(program, moving)
    return forward if forward.work.total < backward.work.total else backward


@memoised
def along(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, grad)` for moving inputs of one element: along each, the tangent of y for the tangent 1."""
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        ys, found = xs, []
        for i in [i for i, m in enumerate(moving) if m]:
            of = xs[i].aval
            ys, (dy, *_) = push(b, program, xs, [full(of, 1) if j == i else None for j in range(len(xs))])
            if dy is None:
                found.append(zeros(of))
            else:
                found.append(convert_element_type(reshape(dy, of.shape), of.dtype, of.weak_type))
        return b.build([*ys, *found])


@memoised
def goes_forward(program: Program, collects: bool) -> bool:
    """Whether no cotangent is watched or changed on its way back; `collects` says whether taps are collected."""
    return all([
        eqn.primitive.goes_forward and all([goes_forward(p, collects) for p in programs_of(eqn.primitive)])
        for eqn in program.equations
    ])  # fmt: skip


@memoised
def is_holomorphic(program: Program, moving: tuple[bool, ...]) -> bool:
    """Whether the derivative in complex inputs is surely one number: nothing takes a conjugate, or a part, of them."""
    moves = set(select(moving, program.inputs))
    for eqn in program.equations:
        if moves.isdisjoint(eqn.inputs):
            continue
        found = slopes(eqn, tuple([x in moves for x in eqn.inputs]))
        if found is None or not found.is_analytic or takes_part(eqn):
            return False
        moves.update(select(found.moved, eqn.outputs))
    return True


def takes_part(eqn: Equation) -> bool:
    """Whether an equation makes real numbers of complex ones."""
    has_complex = any([is_complex(x.aval.dtype) for x in eqn.inputs])
    return has_complex and any([v.aval.is_inexact and not is_complex(v.aval.dtype) for v in eqn.outputs])


@memoised
def meets_pole(program: Program, moving: tuple[bool, ...]) -> bool:
    """Whether a tangent of which a select has left entries out may meet an infinite slope further on, or a primitive
    that has no forward mode.

    What is left out of a cotangent stays zero there; a tangent's zero becomes NaN.
    """
    moves = set(select(moving, program.inputs))
    thinned: set[Atom] = set()
    for eqn in program.equations:
        if moves.isdisjoint(eqn.inputs):
            continue
        found = slopes(eqn, tuple([x in moves for x in eqn.inputs]))
        if found is None:
            return True
        moved = select(found.moved, eqn.outputs)
        moves.update(moved)
        is_thin = not thinned.isdisjoint(eqn.inputs)
        if found.has_pole and is_thin:
            of_thin = slopes(eqn, tuple([x in thinned for x in eqn.inputs]))
            if of_thin is None or of_thin.has_pole:
                return True
        if found.has_pole and found.leaves_out and programs_of(eqn.primitive):  # one may be behind the other in there
            return True
        if is_thin or found.leaves_out:
            thinned.update(moved)
    return False


class Slopes(NamedTuple):
    """Of a pushforward: whether it puts zeros in the place of what it leaves out, has poles, is complex-linear in
    complex tangents, and gives a zero; and which results have a tangent."""

    leaves_out: bool
    has_pole: bool
    is_analytic: bool
    gives_zero: bool
    moved: tuple[bool, ...] = ()


_slopes: dict[tuple[Primitive, tuple[object, ...], tuple[bool, ...]], Slopes | None] = {}


def slopes(eqn: Equation, moving: tuple[bool, ...]) -> Slopes | None:
    """What an equation's pushforward is made of; None if there is none. Remembered, but for what holds Programs."""
    if eqn.primitive.multiple_results and programs_of(eqn.primitive):
        return made_of(eqn, moving)
    key = (eqn.primitive, tuple([x if type(x) is Literal else x.aval for x in eqn.inputs]), moving)
    if key not in _slopes:
        if len(_slopes) > 10_000:
            _slopes.clear()
        _slopes[key] = made_of(eqn, moving)
    return _slopes[key]


def made_of(eqn: Equation, moving: tuple[bool, ...]) -> Slopes | None:
    """What an equation's pushforward is made of."""
    prim = eqn.primitive
    with Builder() as b:
        b.source = eqn.source or NOWHERE
        xs = [x if type(x) is Literal else Var(x.aval) for x in eqn.inputs]
        dxs = [Var(x.aval) if m else None for x, m in zip(xs, moving, strict=True)]
        try:
            _, dys = prim.jvp(xs, dxs)
        except RuleError:  # there is no forward mode
            return None
        dys = dys if prim.multiple_results else [dys]
        pushed = b.build([dy for dy in dys if dy is not None])
    # Where it is linear, a slope that is infinite makes a NaN of the value too.
    nonlinear = tuple([e for e in pushed.equations if e.primitive != prim or set(dxs).isdisjoint(e.inputs)])
    has_pole = contents(Program(pushed.inputs, nonlinear, ())).has_pole
    return contents(pushed)._replace(has_pole=has_pole, moved=tuple([dy is not None for dy in dys]))


@memoised
def contents(program: Program) -> Slopes:
    """What a Program is made of, and those that it holds."""
    zero: set[Atom] = set()
    leaves_out, has_pole, is_analytic = False, False, True
    for eqn in program.equations:
        prim = eqn.primitive
        within = [contents(p) for p in programs_of(prim)]
        reads_zero = any([x in zero or is_zero(x) for x in eqn.inputs])
        if reads_zero and prim.keeps_values:
            zero.update(eqn.outputs)
        leaves_out |= any([p.leaves_out or p.gives_zero for p in within])
        leaves_out |= reads_zero and (prim.masks or bool(within))
        has_pole |= prim.has_pole or any([p.has_pole for p in within])
        is_analytic &= prim.analytic and not takes_part(eqn) and all([p.is_analytic for p in within])
    return Slopes(leaves_out, has_pole, is_analytic, any([y in zero or is_zero(y) for y in program.outputs]))


def is_zero(x: Atom) -> bool:
    """Whether `x` is the literal 0."""
    return type(x) is Literal and x.value == 0
