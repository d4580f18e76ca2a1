"""Families: what you write, and the rules that follow from it.

    family         you write                                     you get
    Linear         shape, lower, transpose, batch                jvp (it is itself), series
    Elementwise    lower, the partial derivative of each operand shape, jvp, series, batch, transpose where linear
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrace.errors import ShapeError
from functrace.ir import Aval, Literal, Masked, Primitive, Work
from functrace.ir.dependence import Matrix, Operand, Site, moved
from functrace.lower.evaluate import at_once


class OneSign(Primitive):
    """Linear, with coefficients of one sign that are 0 or finite: an entry is there if one that is there reaches it."""

    singular = False
    locally_linear = True
    adds_up = True  # whether its transpose adds entries up, and not only moves them
    moves = True  # whether each entry of its results is one of its operands', or none

    def index(self, i: int) -> bool:
        """Whether operand i says where entries go."""
        return False

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        """What the lowering makes of the numbers of the entries, counted from 1; 0 is no entry."""
        if not self.moves:
            return super().pattern(at)
        operands, starts, total = [], [], 0
        for i, x in enumerate(at.operands):
            starts.append(total)
            if self.index(i):
                operands.append(x.value)
                if operands[-1] is None:
                    at.note(self.name, "where it moves entries to is decided by data")
                    return self.anywhere(at)
            elif x.moves:
                operands.append(np.arange(total + 1, total + 1 + x.aval.size, dtype=np.int32).reshape(x.aval.shape))
                total += x.aval.size
            else:
                operands.append(np.zeros(x.aval.shape, np.int32))
        found = at_once(self.lower, *operands)

        def of(numbers: Any, start: int, x: Operand) -> Matrix:
            own = (numbers > start) & (numbers <= start + x.aval.size)
            return moved(np.where(own, numbers - start - 1, -1), x.aval.size)

        return [
            [of(numbers, start, x) if x.moves else None for x, start in zip(at.operands, starts, strict=True)]
            for numbers in (found if self.multiple_results else [found])
        ]

    def anywhere(self, at: Site) -> list[list[Matrix | None]]:
        """The pattern where the operands that say where entries go are not known."""
        return at.everything()

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        return next(c.there for c in cts if type(c) is Masked).through(self, cts, xs)


class Linear(OneSign):
    """y = A x with A fixed by the parameters: linear in its operands jointly.

    Most only move entries; one that adds them says what that takes.
    """

    work_each = Work(0)
    permutes = False  # whether each entry of its operand is one of its result: nothing meets, and what is dirty may be

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        if not self.permutes or type(ct) is not Masked:
            return super().transpose_masked(ct, *xs)
        (found,), (mask,) = self.transpose(ct.value, *xs), self.presence([ct], *xs)
        return [Masked(found, mask, ct.dirty, ct.ordinary)]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        """The map itself, applied to the tangents. Operands beyond the first are not linear."""
        if any(dx is not None for dx in dxs[1:]):
            raise ShapeError(f"{self.name}: only the first operand has a tangent")
        return self(*xs), self(dxs[0], *xs[1:])

    def index(self, i: int) -> bool:
        return i > 0


def literal(value: Any, like: Aval) -> Literal:
    """A scalar constant of the dtype of `like`, weak so that it never decides a type."""
    return Literal(value, Aval((), like.dtype, True))


def broadcast_shapes(name: str, avals: Sequence[Aval]) -> tuple[int, ...]:
    """The common shape of operands of equal rank whose sizes agree or are 1, or scalars."""
    shapes = [a.shape for a in avals if a.shape]
    if not shapes:
        return ()
    first = shapes[0]
    if all([s == first for s in shapes]):
        return first
    sizes: list[int] = []
    for dims in zip(*shapes, strict=False):
        wide = {n for n in dims if n != 1}
        sizes.append(wide.pop() if wide else 1)
        if wide:
            sizes.clear()
            break
    if not sizes or len({len(s) for s in shapes}) > 1:
        raise ShapeError(
            f"{name}: operand shapes do not fit together: {', '.join(map(str, avals))}; sizes must "
            "agree or be 1, and ranks must be equal"
        )
    return tuple(sizes)
