"""linear_pair: a linear map that is given with its transpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from functrace.control.call import Applies, Call, forced, uses_axis
from functrace.control.groups import cut
from functrace.ir import Aval, Builder, Program, Sample, Undefined, primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.elementwise import mul
from functrace.primitives.space import batched_operand, zeros
from functrace.primitives.unary import cos


@primitive
class LinearPair(Applies):
    """`program(c, x) -> y`, linear in x; `transposed(c, ct_y) -> ct_x` is its transpose. `fixed` counts the c."""

    name = "linear_pair"
    multiple_results = True
    program: Program
    transposed: Program
    fixed: int

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            c, x = b.input(aval), b.input(aval)
            program = b.build([mul(cos(c), x)])
        yield Sample(LinearPair(program, program, 1), (aval, aval))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.program.has_effects

    def shape(self, *xs: Aval) -> Any:
        return self.program.out_avals

    def lower(self, *xs: Any) -> Any:
        return evaluate(self.program, xs)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        c, x = cut(xs, self.fixed)
        d_c, d_x = cut(dxs, self.fixed)
        if any(dx is not None for dx in d_c):
            return Call(self.program, self.name).jvp(xs, dxs)
        return self(*xs), self(*c, *[zeros(v.aval) if dv is None else dv for v, dv in zip(x, d_x, strict=True)])

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return None if any([x.moves for x in xs[: self.fixed]]) else self.series_along(xs, ys)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        if any(dx is not None for dx in dxs[: self.fixed]):
            return Call(self.program, self.name).linearize(xs, dxs)
        return self.jvp(xs, dxs)

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        if all(known[: self.fixed]):
            return super().separate(xs, known)
        return Call(self.program, self.name).separate(xs, known)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        c, x = cut(xs, self.fixed)
        if any(isinstance(v, Undefined) for v in c):  # in which the Program may be linear too
            return Call(self.program, self.name).transpose(ct, *xs)
        cts = [zeros(y) if v is None else v for y, v in zip(self.program.out_avals, ct, strict=True)]
        found = LinearPair(self.transposed, self.program, self.fixed)(*c, *cts)
        return [None] * len(c) + [v if isinstance(u, Undefined) else None for u, v in zip(x, found, strict=True)]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        # All of x and of y get the batch axis: the transpose of one row for all would be a sum over rows.
        c, x = cut(xs, self.fixed)
        flags, others = cut(batched, self.fixed)
        programs = [
            forced(p, size, (*flags, *(True,) * (len(p.inputs) - self.fixed)), name)
            for p in (self.program, self.transposed)
        ]  # fmt: skip
        rows = [batched_operand(v, f, size) for v, f in zip(x, others, strict=True)]
        outputs = LinearPair(programs[0], programs[1], self.fixed)(*c, *rows)
        return outputs, (True,) * len(outputs)

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.program, name) or uses_axis(self.transposed, name)
