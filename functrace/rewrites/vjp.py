"""Reverse mode: forward with tangents beside, then those equations backwards, in one Program.

vjp : Program(x -> y) -> Program((x, ct_y) -> (y, ct_x))        vjp P = transpose . linearize P
"""

from __future__ import annotations

from collections.abc import Sequence

from functrace.ir import Atom, Aval, Builder, Literal, Program, Var
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input, memoised, select
from functrace.rewrites.transpose import divide, instantiate, pull


def forward_backward(
    b: Builder, program: Program, moving: tuple[bool, ...], cts: Sequence[Atom | None]
) -> list[Atom]:
    """Write `y` and then the cotangent of each `moving` input into `b`.

    Tangent equations are written between the two, on variables that are bound nowhere; nothing
    that is returned needs them, so `build` drops them.
    """
    xs = [copy_input(b, v) for v in program.inputs]
    dxs = [Var(v.aval) if m else None for v, m in zip(program.inputs, moving, strict=True)]
    ys, dys = push(b, program, xs, dxs, "linearize")
    given = [dx for dx in dxs if dx is not None]
    _, late, unknown = divide(b.equations, given)
    pairs = [(dy, ct) for dy, ct in zip(dys, cts, strict=True) if dy is not None]
    sums = pull(b, late, unknown, {}, pairs)
    return [*ys, *instantiate([sums.get(dx) for dx in given], given)]


@memoised
def vjp(program: Program, moving: tuple[bool, ...], with_ct: tuple[bool, ...]) -> Program:
    """`(x, ct_y) -> (y, ct_x)` for the outputs flagged `with_ct` and the inputs flagged `moving`."""
    with Builder() as b:
        given = iter([Var(x.aval) for x in select(with_ct, program.outputs)])
        cts = [next(given) if c else None for c in with_ct]
        outputs = forward_backward(b, program, moving, cts)
        b.inputs += [ct for ct in cts if ct is not None]
        return b.build(outputs)


@memoised
def gradient(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, grad)` for a scalar first output; further outputs are carried along."""
    with Builder() as b:
        # Weak, so that multiplying by it is the identity on types too.
        seed = Literal(1, Aval((), program.outputs[0].aval.dtype, True))
        return b.build(forward_backward(b, program, moving, [seed, *[None] * (len(program.outputs) - 1)]))
