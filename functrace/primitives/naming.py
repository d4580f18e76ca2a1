"""checkpoint_name: a name for a value, by which a checkpoint policy knows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jax.ad_checkpoint import checkpoint_name

from functrace.ir import Aval, Sample, Work, primitive
from functrace.primitives.elementwise import F32, I32
from functrace.primitives.families import OneSign


@primitive
class Name(OneSign):
    """The identity. Its tangent has no name: a policy that keeps the value does not keep that too."""

    name = "name"
    adds_up = False
    keeps_values = True
    work_each = Work(0)
    jax_names = ("name",)
    label: str

    def samples(self) -> Iterator[Sample]:
        yield Sample(Name("hidden"), (Aval((2, 3), F32),))
        yield Sample(Name("index"), (Aval((), I32),))

    def shape(self, x: Aval) -> Aval:
        return x

    def lower(self, x: Any) -> Any:
        return checkpoint_name(x, self.label)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self(*xs), dxs[0]

    def transpose(self, ct: Any, x: Any) -> Any:
        return [ct]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(*xs), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> Name:
        return cls(params["name"])
