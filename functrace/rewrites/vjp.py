"""Reverse mode: linearize, then transpose, in one Program.

vjp : Program(x -> y) -> Program((x, ct_y) -> (y, ct_x))        vjp P = transpose . linearize P
"""

from __future__ import annotations

from functrace.ir import Aval, Builder, Literal, Program
from functrace.rewrites.linearize import linearize
from functrace.rewrites.memo import copy_input, memoised, select
from functrace.rewrites.transpose import instantiate, pull


@memoised
def vjp(program: Program, moving: tuple[bool, ...], with_ct: tuple[bool, ...]) -> Program:
    """`(x, ct_y) -> (y, ct_x)` for the outputs flagged `with_ct` and the inputs flagged `moving`."""
    lin = linearize(program, moving)
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        given = iter([b.input(x.aval) for x in select(with_ct, program.outputs)])
        cts = [next(given) if c else None for c in with_ct]
        outputs = b.inline(lin.forward, xs)
        ys, residuals = outputs[: len(program.outputs)], outputs[len(program.outputs) :]
        flags = (False,) * lin.residuals + (True,) * sum(moving)
        ct_xs = pull(b, lin.linear, flags, residuals, select(lin.moved, cts))
        return b.build([*ys, *instantiate(ct_xs, select(moving, program.inputs))])


@memoised
def gradient(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, grad)` for a scalar first output; further outputs are carried along."""
    lin = linearize(program, moving)
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        outputs = b.inline(lin.forward, xs)
        ys, residuals = outputs[: len(program.outputs)], outputs[len(program.outputs) :]
        # Weak, so that multiplying by it is the identity on types too.
        seed = Literal(1, Aval((), program.outputs[0].aval.dtype, True))
        cts = [seed, *[None] * (len(program.outputs) - 1)]
        flags = (False,) * lin.residuals + (True,) * sum(moving)
        ct_xs = pull(b, lin.linear, flags, residuals, select(lin.moved, cts))
        return b.build([*ys, *instantiate(ct_xs, select(moving, program.inputs))])
