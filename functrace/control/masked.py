"""Transposing what holds a Program, where cotangents are masked: the masks go in with them, and come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from functrace.control.groups import narrowed, reads
from functrace.ir import Atom, Masked, Program, Undefined
from functrace.primitives.selection import Presence, written
from functrace.rewrites.memo import select
from functrace.rewrites.transpose import cleaned

Programs = Sequence[Program]


class Given(NamedTuple):
    """What a Program is to be transposed for: how, and what the transposed Program is applied to."""

    linear: tuple[bool, ...]
    with_ct: tuple[bool, ...]
    types: tuple[Any, ...]  # of the masks, one a cotangent, None where it has none; () if none has one
    operands: list[Atom]  # the known operands, then the cotangents
    masks: list[Presence]

    @property
    def how(self) -> tuple[tuple[bool, ...], tuple[bool, ...], tuple[Any, ...]]:
        """The arguments of `transposed` and `presence`."""
        return self.linear, self.with_ct, self.types

    def applied(self, apply: Callable[..., Any], programs: Programs, masks: Sequence[Presence] | None = None) -> Any:
        """`apply(programs, operands)` for those operands, and those masks, that one of the Programs reads."""
        flags = tuple(map(any, zip(*map(reads, programs), strict=True)))
        n = len(self.operands)
        asked = select(flags[n:], self.masks if masks is None else masks)
        smaller = tuple([narrowed(p, flags, (True,) * len(p.outputs)) for p in programs])
        return apply(smaller, [*select(flags[:n], self.operands), *[m.read() for m in asked]])

    def presences(self, types: Sequence[Any], programs: Callable[[], Programs], apply: Any) -> list[Presence | None]:
        """Masks of these types, None where there is none, that `programs()` write when one is read."""

        def mask(k: int, of: Any) -> Presence:
            def write(*atoms: Atom) -> Atom:
                masks = [written(a, m.type) for a, m in zip(atoms, self.masks, strict=True)]
                return self.applied(apply, programs(), masks)[k]

            return Presence(of[0], write, self.masks, of[1])

        places = {i: k for k, i in enumerate([i for i, of in enumerate(types) if of is not None])}
        return [None if of is None else mask(places[i], of) for i, of in enumerate(types)]


def given(cts: Sequence[Any], xs: Sequence[Any]) -> Given:
    """From cotangents, some of them masked, and operands, some of them undefined."""
    there = [c for c in cts if c is not None]
    # A mask by chance is not handed on: that a Program reads it would be seen only when it is transposed.
    there = [cleaned(c) if type(c) is Masked and c.there.by_chance else c for c in there]
    masks = [c.there for c in there if type(c) is Masked]
    return Given(
        tuple([isinstance(x, Undefined) for x in xs]),
        tuple([c is not None for c in cts]),
        tuple([c.there.type if type(c) is Masked else None for c in there]) if masks else (),
        [*[x for x in xs if not isinstance(x, Undefined)], *map(cleaned, there)],
        masks,
    )


def with_masks(cts: Sequence[Any], masks: Sequence[Presence | None]) -> list[Any]:
    """Cotangents, clean ones, each with its mask if it has one."""
    return [c if c is None or m is None else Masked(c, m) for c, m in zip(cts, masks, strict=True)]
