"""The gradient of a scalar, in the mode that keeps it small.

gradient : Program(x -> (y, z)) -> Program(x -> (y, z, dy/dx))         y one real scalar

In one scalar, forward mode is an equation or two more for each, which share what they have in common: a tower of such
gradients grows as a polynomial in its height. Reverse mode, which turns the Program round at every order, triples it.
"""

from __future__ import annotations

from functrace.ir import Builder, Program, is_complex
from functrace.ir.primitive import AMBIENT
from functrace.primitives.elementwise import convert_element_type
from functrace.primitives.space import full, reshape, zeros
from functrace.rewrites.collect import programs_of
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input, memoised, select
from functrace.rewrites.poles import meets_pole, slopes, takes_part
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
