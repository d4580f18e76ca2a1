"""Reverse mode: forward with tangents beside, then those equations backwards, in one Program.

vjp : Program(x -> y) -> Program((x, ct_y) -> (y, ct_x))        vjp P = transpose . linearize P
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.ir import Atom, Aval, Builder, Equation, Literal, Primitive, Program, Var
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input, memoised, select
from functrace.rewrites.transpose import cleaned, instantiate, pull


class Tape(Builder):
    """A Builder that keeps apart what depends on tangents: `tangents`, whose results are `unknown`.

    They are taken down as they come. `pull` reads each once and is all that reads them, and what it
    writes is simplified and shared.
    """

    __slots__ = ("tangents", "unknown")
    inputs_are_values = True

    def __init__(self):
        super().__init__()
        self.tangents: list[Equation] = []
        self.unknown: set[Any] = set()

    def emit(self, primitive: Primitive, inputs: tuple[Atom, ...]) -> tuple[Atom, ...]:
        if self.unknown.isdisjoint(inputs):
            return Builder.emit(self, primitive, inputs)
        return self.take_down(primitive, inputs)

    def append(
        self, primitive: Primitive, inputs: tuple[Atom, ...], like: tuple[Var, ...] | None = None
    ) -> tuple[Atom, ...]:
        if self.unknown.isdisjoint(inputs):
            return Builder.append(self, primitive, inputs, like)
        return self.take_down(primitive, inputs)

    def take_down(self, primitive: Primitive, inputs: tuple[Atom, ...]) -> tuple[Atom, ...]:
        """An equation that depends on tangents."""
        outputs = self.results(primitive, inputs)
        self.tangents.append(Equation(primitive, inputs, outputs, self.source))
        self.unknown.update(outputs)
        return outputs


def forward_backward(
    b: Tape, program: Program, moving: tuple[bool, ...], cts: Sequence[Atom | None]
) -> list[Atom]:
    """Write `y` and then the cotangent of each `moving` input into `b`.

    Tangents are variables that are bound nowhere; no equation of `b` reads them.
    """
    xs = [copy_input(b, v) for v in program.inputs]
    dxs = [Var(v.aval) if m else None for v, m in zip(program.inputs, moving, strict=True)]
    given = [dx for dx in dxs if dx is not None]
    b.unknown.update(given)
    ys, dys = push(b, program, xs, dxs, "linearize")
    pairs = [(dy, ct) for dy, ct in zip(dys, cts, strict=True) if dy is not None]
    sums = pull(b, b.tangents, b.unknown, {}, pairs)
    return [*ys, *instantiate([cleaned(sums[dx]) if dx in sums else None for dx in given], given)]


@memoised
def vjp(program: Program, moving: tuple[bool, ...], with_ct: tuple[bool, ...]) -> Program:
    """`(x, ct_y) -> (y, ct_x)` for the outputs flagged `with_ct` and the inputs flagged `moving`."""
    with Tape() as b:
        given = iter([Var(x.aval) for x in select(with_ct, program.outputs)])
        cts = [next(given) if c else None for c in with_ct]
        outputs = forward_backward(b, program, moving, cts)
        b.inputs += [ct for ct in cts if ct is not None]
        return b.build(outputs)


@memoised
def pullback(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (y, grad)` for a scalar first output, by reverse mode; further outputs are carried along."""
    with Tape() as b:
        # Weak, so that multiplying by it is the identity on types too.
        seed = Literal(1, Aval((), program.outputs[0].aval.dtype, True))
        return b.build(forward_backward(b, program, moving, [seed, *[None] * (len(program.outputs) - 1)]))
