"""The gradient of a scalar, in the mode that keeps it small.

gradient : Program(x -> (y, z)) -> Program(x -> (y, z, dy/dx))         y one real scalar

In one scalar, forward mode is one more equation or two for each, which share what they have in common: a tower of such
gradients grows as a polynomial in its height. Reverse mode, which turns the program round at every order, triples it.
"""

from __future__ import annotations

from functrace.ir import Builder, Program, is_complex
from functrace.ir.primitive import AMBIENT
from functrace.primitives.elementwise import convert_element_type
from functrace.primitives.space import full, reshape, zeros
from functrace.rewrites.collect import programs_of
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input, memoised, select
from functrace.rewrites.vjp import pullback


def gradient(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, grad)` for a scalar first output; further outputs are carried along."""
    given = select(moving, program.inputs)
    alone = len(given) == 1 and given[0].aval.size == 1 and not is_complex(given[0].aval.dtype)
    is_forward = alone and goes_forward(program, AMBIENT.collects)
    return along(program, moving) if is_forward else pullback(program, moving)


@memoised
def goes_forward(program: Program, collects: bool) -> bool:
    """Whether forward mode gives the gradient that reverse mode does."""
    return all([
        eqn.primitive.goes_forward and all([goes_forward(p, collects) for p in programs_of(eqn.primitive)])
        for eqn in program.equations
    ])


@memoised
def along(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, dy)` where the one moving input, of one element, has the tangent 1."""
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        dxs = [full(v.aval, 1) if m else None for v, m in zip(program.inputs, moving, strict=True)]
        ys, (dy, *_) = push(b, program, xs, dxs)
        (of,) = select(moving, program.in_avals)
        if dy is None:
            return b.build([*ys, zeros(of)])
        return b.build([*ys, convert_element_type(reshape(dy, of.shape), of.dtype, of.weak_type)])
