"""on_backward: the identity, with a Program that every cotangent goes through on its way back.

What the Program reads besides is an operand, so that derivatives of derivatives see it. The identity stays in
what forward and reverse mode make of it: cotangents of every order go through the Program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from functrace.control.call import forced, uses_axis
from functrace.control.custom_vjp import CustomLinear, CustomVjp
from functrace.control.groups import cut
from functrace.ir import Atom, Aval, Builder, Program, Sample, Var, Work, primitive
from functrace.ir.primitive import AMBIENT, Primitive
from functrace.primitives.elementwise import mul
from functrace.primitives.space import batched_operand, zeros
from functrace.primitives.unary import cos
from functrace.rewrites import memoised
from functrace.rewrites.collect import unobserved
from functrace.rewrites.memo import copy_input
from functrace.rewrites.transpose import instantiate


@primitive
class OnBackward(Primitive):
    """`c, x -> x`, whose cotangents are `backward: c, ct -> ct` of what they were; `captures` counts the c."""

    name = "on_backward"
    multiple_results = True
    work_each = Work(0)
    backward: Program
    captures: int
    label: str

    @property
    def only_looks(self) -> bool:
        """Whether cotangents stay what they are."""
        return unobserved(self.backward).outputs == self.backward.inputs[self.captures :]

    @property
    def goes_forward(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.only_looks and not AMBIENT.collects

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            c, ct = b.input(aval), b.input(aval)
            backward = b.build([mul(cos(c), ct)])
        # It is no function whose numerical derivative is its derivative.
        yield Sample(OnBackward(backward, 1, "sample"), (aval, aval), differentiable=False)

    def shape(self, *xs: Aval) -> Any:
        return xs[self.captures :]

    def lower(self, *xs: Any) -> Any:
        if self.only_looks:
            return xs[self.captures :]
        return as_custom_vjp(self.backward, self).lower(*xs)

    def _pushed(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[CustomLinear, list[Any]]:
        """The transpose of the pullback, and its operands. What it reads besides has no part in the identity."""
        c, x = cut(xs, self.captures)
        return CustomLinear(self.backward, self.captures, self.label), [*c, *instantiate(dxs[self.captures :], x)]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        if all(dx is None for dx in dxs[self.captures :]):
            return self(*xs), [None] * (len(xs) - self.captures)
        linear, operands = self._pushed(xs, dxs)
        return self(*xs), linear.expand(operands)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        if all(dx is None for dx in dxs[self.captures :]):
            return self(*xs), [None] * (len(xs) - self.captures)
        linear, operands = self._pushed(xs, dxs)
        return self(*xs), linear(*operands)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        (c, x), (f_c, f_x) = cut(xs, self.captures), cut(batched, self.captures)
        rows = [batched_operand(v, f, size) for v, f in zip(x, f_x, strict=True)]
        backward = forced(self.backward, size, (*f_c, *(True,) * len(x)), name)
        return OnBackward(backward, self.captures, self.label)(*c, *rows), (True,) * len(x)

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        return self(*xs), []  # the way back is not gone here

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.backward, name)


@memoised
def as_custom_vjp(backward: Program, prim: OnBackward) -> CustomVjp:
    """What JAX is given, for where JAX differentiates."""
    inputs = tuple([Var(v.aval) for v in backward.inputs])
    with Builder() as b:
        c, x = cut([copy_input(b, v) for v in inputs], prim.captures)
        forward = b.build([*prim(*c, *x), *c])
    with Builder() as b:
        c, cts = cut([copy_input(b, v) for v in inputs], prim.captures)
        nothing = [zeros(v.aval) for v in c if v.aval.is_inexact]
        pullback = b.build([*nothing, *b.inline(backward, [*c, *cts])])
    return CustomVjp(Program(inputs, (), inputs[prim.captures :]), forward, pullback, 0, prim.label)
