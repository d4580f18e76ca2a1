"""tap: a name for a value, by which `rewrites.collect` finds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from functrace.ir import Atom, Aval, Primitive, Sample, Work, primitive
from functrace.ir.dependence import Matrix, Site, identity
from functrace.primitives.elementwise import F32, I32


@primitive
class Tap(Primitive):
    """The identity, kept where nothing reads it. Tangents and cotangents pass unseen."""

    name = "tap"
    has_effects = True
    observed = True
    work_each = Work(0)
    label: str

    def samples(self) -> Iterator[Sample]:
        yield Sample(Tap("hidden"), (Aval((2, 3), F32),))
        yield Sample(Tap("index"), (Aval((), I32),))

    def shape(self, x: Aval) -> Aval:
        return x

    def lower(self, x: Any) -> Any:
        return x

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        return xs[0], [(self.label, xs[0])]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), dxs[0]

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return lambda k: xs[0][k]

    def transpose(self, ct: Any, x: Any) -> Any:
        return [ct]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        return at.each(lambda x, _: identity(x.aval.size))

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(*xs), True
