"""root: the x of f(c, x) = 0, found by a Program, differentiated by the implicit function theorem.

    df/dx dx = - df/dc dc
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from functrace.control.call import Applies, forced, uses_axis
from functrace.control.custom_jvp import with_jax_rule
from functrace.control.groups import cut
from functrace.ir import Aval, Builder, Program, Sample, ambient, primitive
from functrace.primitives.elementwise import add, mul, neg, sub
from functrace.primitives.quotients import div
from functrace.primitives.space import batched_operand
from functrace.primitives.unary import cbrt
from functrace.rewrites import memoised
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input
from functrace.rewrites.separate import separate
from functrace.rewrites.transpose import instantiate


@primitive
class Root(Applies):
    """`solve(c, guess)`, the x for which `f(c, x)` is zero, and what else `solve` returns.

    tangent_solve: (c, x, y) -> dx for which df/dx dx is y. It is differentiated for second derivatives;
    `solve` never is.
    """

    name = "root"
    multiple_results = True
    f: Program
    solve: Program
    tangent_solve: Program
    consts: int

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            c, x = b.input(aval), b.input(aval)
            f = b.build([sub(mul(x, mul(x, x)), c)])
        with Builder() as b:
            c, guess = b.input(aval), b.input(aval)
            solve = b.build([add(cbrt(c), mul(guess, 0))])
        with Builder() as b:
            c, x, y = b.input(aval), b.input(aval), b.input(aval)
            tangent_solve = b.build([div(y, mul(3, mul(x, x)))])
        yield Sample(Root(f, solve, tangent_solve, 1), (aval, aval), domain="positive", fixed=(1,))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solve.has_effects

    @property
    def size(self) -> int:
        """How many results are x; the others are aux."""
        return len(self.f.outputs)

    def shape(self, *xs: Aval) -> Any:
        return self.solve.out_avals

    def lower(self, *xs: Any) -> Any:
        return with_jax_rule(self.solve, lambda: pushforward(self.solve, self), 0, "root", xs)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self._pushed(xs, dxs, "jvp")

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self._pushed(xs, dxs, "linearize")

    def _pushed(self, xs: Sequence[Any], dxs: Sequence[Any], rule: str) -> tuple[Any, Any]:
        """The root and its tangent; the guess has no part in that."""
        outputs = self(*xs)
        consts, x, none = xs[: self.consts], outputs[: self.size], [None] * len(outputs)
        _, moved = push(ambient(), self.f, [*consts, *x], [*dxs[: self.consts], *none[: self.size]], rule)
        if all(d is None for d in moved):
            return outputs, none
        known = (True,) * (self.consts + self.size) + (False,) * self.size
        operands = [*consts, *x, *instantiate(moved, x)]
        dys, _ = separate(ambient(), self.tangent_solve, operands, known)
        return outputs, [*map(neg, dys), *none[self.size :]]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        consts, guess = cut(xs, self.consts)
        guess = [batched_operand(x, f, size) for x, f in zip(guess, batched[self.consts :], strict=True)]
        flags, x = tuple(batched[: self.consts]), (True,) * self.size
        f, solve = (forced(p, size, (*flags, *x), name) for p in (self.f, self.solve))
        tangent_solve = forced(self.tangent_solve, size, (*flags, *x, *x), name)
        return Root(f, solve, tangent_solve, self.consts)(*consts, *guess), (True,) * len(solve.outputs)

    def applied(self) -> Program:
        return self.solve

    def uses_axis(self, name: Any) -> bool:
        return any(uses_axis(p, name) for p in (self.f, self.solve, self.tangent_solve))


@memoised
def pushforward(solve: Program, root: Root) -> Program:
    """`(c, guess, dc, dguess) -> (x, dx)`, with a tangent for each inexact operand and result."""
    with Builder() as b:
        xs = [copy_input(b, v) for v in solve.inputs]
        dxs = [b.input(x.aval) if x.aval.is_inexact else None for x in xs]
        ys, dys = root.jvp(xs, dxs)
        moved = [i for i, y in enumerate(ys) if y.aval.is_inexact]
        return b.build([*ys, *instantiate([dys[i] for i in moved], [ys[i] for i in moved])])


__all__ = ["Root"]
