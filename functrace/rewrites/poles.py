"""Whether forward mode would make a NaN where reverse mode does not.

meets_pole : Program(x -> y) -> bool

A select leaves entries out of a cotangent, and they stay zero whatever comes before. In a tangent the zeros that it
puts there go on, and one that meets an infinite slope is NaN. So of each value that moves is kept what the entries hold
that are left out of its tangent, where it is seen: behind `where(x > 0, x, 1)` they are 1, and log has a slope there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from functrace.errors import RuleError
from functrace.ir import Atom, Builder, Equation, Literal, Primitive, Program, Var, is_complex
from functrace.ir.source import NOWHERE
from functrace.lower.evaluate import at_once, evaluate
from functrace.primitives.elementwise import Elementwise
from functrace.rewrites.collect import programs_of
from functrace.rewrites.memo import memoised, select

Left = frozenset[Any] | None  # what the entries hold that are left out of a tangent; None if that is not known
WHOLE: Left = frozenset()
MOST = 8  # numbers, beyond which they are not known


class Flow(NamedTuple):
    """Of each result: whether it has a tangent, and what is left out of that."""

    moved: tuple[bool, ...]
    left: tuple[Left, ...]


@memoised
def meets_pole(program: Program, moving: tuple[bool, ...]) -> bool:
    """Whether a tangent of which a select has left entries out may meet an infinite slope further on, or a primitive
    that has no forward mode."""
    whole = (WHOLE,) * len(moving)
    return flow(program, moving, whole, False) is None and flow(program, moving, whole, True) is None


@memoised
def flow(program: Program, moving: tuple[bool, ...], left: tuple[Left, ...], exact: bool) -> Flow | None:
    """What becomes of the tangents of the inputs; None if one meets a pole. Numbers are looked at if `exact`."""
    moves = set(select(moving, program.inputs))
    held: dict[Atom, Left] = {x: rest for x, rest in zip(program.inputs, left, strict=True) if rest != WHOLE}
    for eqn in program.equations:
        if moves.isdisjoint(eqn.inputs):
            continue
        flags = tuple([x in moves for x in eqn.inputs])
        if not held and not eqn.primitive.pushes_inner:  # most equations: nothing is left out, before or by it
            usual = slopes(eqn, flags)
            if usual is not None and not usual.leaves_out and not usual.scales_zero:
                moves.update(select(usual.moved, eqn.outputs))
                continue
        found = through(eqn, flags, tuple([held.get(x, WHOLE) for x in eqn.inputs]), exact)
        if found is None:
            return None
        moves.update(select(found.moved, eqn.outputs))
        held.update([(y, rest) for y, rest in zip(eqn.outputs, found.left, strict=True) if rest != WHOLE])
    ys = program.outputs
    return Flow(tuple([y in moves for y in ys]), tuple([held.get(y, WHOLE) if y in moves else WHOLE for y in ys]))


def through(eqn: Equation, moving: tuple[bool, ...], left: tuple[Left, ...], exact: bool) -> Flow | None:
    """As `flow`, of one equation."""
    if eqn.primitive.pushes_inner:
        return through_held(eqn, list(moving), list(left), exact)
    found = slopes(eqn, moving)
    if found is None:
        return None
    thin = tuple([x != WHOLE for x in left])
    # One may be behind the other in what it holds; and a custom rule is handed zeros for what does not move.
    if found.has_pole and (found.scales_zero or (found.leaves_out and programs_of(eqn.primitive))):
        return None
    if found.has_pole and any(thin):
        of_thin = slopes(eqn, thin)
        if of_thin is None or (of_thin.has_pole and not (exact and stays_zero(eqn, left))):
            return None
    rest = WHOLE
    if any(thin) or found.leaves_out:
        known = exact and (eqn.primitive.picks or not found.leaves_out)
        rest = left_of_result(eqn, moving, left) if known else None
    return Flow(found.moved, tuple([rest if m else WHOLE for m in found.moved]))


def through_held(eqn: Equation, moving: list[bool], left: list[Left], exact: bool) -> Flow | None:
    """As `through`, of Programs that run on the last operands: one of them, or one again and again."""
    prim = eqn.primitive
    programs = prim.inner(*[x.aval for x in eqn.inputs])
    n = len(eqn.inputs) - len(programs[0].inputs)
    operands, moving, left = eqn.inputs[n:], moving[n:], left[n:]
    while True:
        flows = [flow(p, tuple(moving), tuple(left), exact) for p in programs]
        found = either(programs, [f for f in flows if f is not None]) if None not in flows else None
        if found is None or prim.turns is None:
            return found
        before = (list(moving), list(left))
        moved, rest = list(found.moved), list(found.left)
        for k, i in enumerate(prim.turns):
            if moved[k] and not moving[i]:  # its tangent is zero at first
                left[i] = constant_of(operands[i])
            moved[k] = moving[i] = moving[i] or moved[k]
            rest[k] = left[i] = together([left[i], rest[k]])
        if before == (moving, left):
            return Flow(tuple(moved), tuple(rest))


def either(programs: Sequence[Program], flows: Sequence[Flow]) -> Flow:
    """The flow of one of several Programs; a tangent that only others have is zero in it."""
    moved = tuple(map(any, zip(*[f.moved for f in flows], strict=True)))
    columns = [
        [f.left[i] if f.moved[i] or not m else constant_of(p.outputs[i]) for p, f in zip(programs, flows, strict=True)]
        for i, m in enumerate(moved)
    ]
    return Flow(moved, tuple(map(together, columns)))


def together(parts: Sequence[Left]) -> Left:
    """All numbers of some sets, as far as they are known and few."""
    union: frozenset[Any] = frozenset()
    for part in parts:
        if part is None:
            return None
        union |= part
    return union if len(union) <= MOST else None


def constant_of(x: Atom) -> Left:
    """What a value holds that does not move."""
    return frozenset([number(x)]) if type(x) is Literal else None


def number(x: Literal) -> Any:
    """A literal as a scalar of its dtype."""
    return np.asarray(x.value, x.aval.dtype)[()]


def left_of_result(eqn: Equation, moving: Sequence[bool], left: Sequence[Left]) -> Left:
    """What the entries of a result hold that are left out of its tangent."""
    prim, given = eqn.primitive, list(zip(eqn.inputs, moving, left, strict=True))
    if prim.picks:
        return together([rest if m else constant_of(x) for x, m, rest in given if x.aval.is_inexact])
    points = points_of(eqn, left)
    return None if points is None else together([frozenset([at_once(prim.lower, *xs)[()]]) for xs in points])


def stays_zero(eqn: Equation, left: Sequence[Left]) -> bool:
    """Whether tangents of zero stay so where entries are left out: the slope there is a number."""
    points = points_of(eqn, left)
    if points is None:
        return False
    with Builder() as b:
        xs = [x if type(x) is Literal else b.input(x.aval.with_shape(())) for x in eqn.inputs]
        _, dy = eqn.primitive.jvp(xs, [None if type(x) is Literal else b.input(x.aval) for x in xs])
        pushed = b.build([dy])
    zeros = [np.zeros((), v.aval.dtype) for v in pushed.inputs[len(pushed.inputs) // 2 :]]
    given = [[v for v, x in zip(point, eqn.inputs, strict=True) if type(x) is Var] for point in points]
    return all([np.isfinite(at_once(evaluate, pushed, [*values, *zeros])[0]) for values in given])


def points_of(eqn: Equation, left: Sequence[Left]) -> list[list[Any]] | None:
    """The operands of an elementwise function of one variable, at each number that is left out of that."""
    variables = {x: rest for x, rest in zip(eqn.inputs, left, strict=True) if type(x) is Var}
    (rest, *others) = variables.values()
    if others or rest is None or not isinstance(eqn.primitive, Elementwise):
        return None
    return [[number(x) if type(x) is Literal else v for x in eqn.inputs] for v in rest]


class Slopes(NamedTuple):
    """Of a pushforward: whether it puts zeros in the place of what it leaves out, multiplies zeros by something, has
    poles, is complex-linear in complex tangents, and gives a zero; and which results have a tangent."""

    leaves_out: bool
    scales_zero: bool
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
    leaves_out, scales_zero, has_pole, is_analytic = False, False, False, True
    for eqn in program.equations:
        prim = eqn.primitive
        within = [contents(p) for p in programs_of(prim)]
        reads_zero = any([x in zero or is_zero(x) for x in eqn.inputs])
        if reads_zero and prim.keeps_values:
            zero.update(eqn.outputs)
        leaves_out |= any([p.leaves_out or p.gives_zero for p in within])
        leaves_out |= reads_zero and (prim.masks or bool(within))
        scales_zero |= any([p.scales_zero for p in within])
        scales_zero |= reads_zero and prim.scales
        has_pole |= prim.has_pole or any([p.has_pole for p in within])
        is_analytic &= prim.analytic and not takes_part(eqn) and all([p.is_analytic for p in within])
    gives_zero = any([y in zero or is_zero(y) for y in program.outputs])
    return Slopes(leaves_out, scales_zero, has_pole, is_analytic, gives_zero)


def is_zero(x: Atom) -> bool:
    """Whether `x` is the literal 0."""
    return type(x) is Literal and x.value == 0


def takes_part(eqn: Equation) -> bool:
    """Whether an equation makes real numbers of complex ones."""
    has_complex = any([is_complex(x.aval.dtype) for x in eqn.inputs])
    return has_complex and any([v.aval.is_inexact and not is_complex(v.aval.dtype) for v in eqn.outputs])
