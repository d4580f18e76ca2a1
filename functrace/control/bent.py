"""Loops that carry a Jacobian J and a Laplacian L beside each value: see rewrites.laplacian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from functrace.control.groups import cut
from functrace.ir import Atom, Program
from functrace.primitives.space import zeros
from functrace.rewrites.laplacian import Directions, Spread, flags_of, spread
from functrace.rewrites.memo import memoised

Flags = tuple[bool, ...]


class Bent(NamedTuple):
    """A loop's body with the J and L of each operand and result behind those of its group."""

    body: Program
    found: Spread
    moving: Flags  # operands with a J
    bent: Flags  # operands with an L

    def operands(self, at: Directions, xs: Sequence[Atom], js: Sequence[Any], ls: Sequence[Any]) -> list[list[Any]]:
        """J and L of the operands, zeros where the body has one and they have none."""
        js = [at.along(x, j, m) for x, j, m in zip(xs, js, self.moving, strict=True)]
        return [js, [zeros(x.aval) if t is None and m else t for x, t, m in zip(xs, ls, self.bent, strict=True)]]

    def counts(self, *sizes: int) -> list[int]:
        """How many operands each of the leading groups has."""
        groups = [cut(flags, *sizes)[: len(sizes)] for flags in (self.moving, self.bent)]
        return [n + sum(a) + sum(b) for n, a, b in zip(sizes, *groups, strict=True)]


@memoised
def bent_body(body: Program, size: int, sizes: tuple[int, ...], carry: int, moving: Flags, bent: Flags) -> Bent:
    """The body of a loop whose operands have a J or an L at the start as flagged.

    Args:
      body: operands -> carries and other results.
      size: how many directions there are.
      sizes: how many operands each group but the last has; the carries are behind the first.
      carry: how many carries there are.
    """
    first = sizes[0]
    grown = lambda flags, found: tuple([
        f or (first <= i < first + carry and found[i - first]) for i, f in enumerate(flags)
    ])  # fmt: skip
    while True:
        found = spread(body, size, moving, bent)
        more = grown(moving, found.moved), grown(bent, found.bent)
        if more == (moving, bent):
            break
        moving, bent = more
    of_carry = lambda flags: (*flags[first : first + carry], *(False,) * (len(body.outputs) - carry))
    found = spread(body, size, moving, bent, of_carry(moving), of_carry(bent))
    inputs = spread_in(sizes, (moving, bent), found.programs[0].inputs)
    outputs = spread_in((carry,), (found.moved, found.bent), found.programs[0].outputs)
    return Bent(Program(tuple(inputs), found.programs[0].equations, tuple(outputs)), found, moving, bent)


def bent_loop(
    at: Directions, body: Program, sizes: tuple[int, ...], carry: int, js: Sequence[Any], ls: Sequence[Any]
) -> Bent:
    """The body for operands with these J and L."""
    return bent_body(body, at.size, sizes, carry, flags_of(js), flags_of(ls))


def spread_in(sizes: Sequence[int], flags: Sequence[Sequence[bool]], items: Sequence[Any]) -> list[Any]:
    """Of all items and then those that each flag adds: each group followed by what is added to it."""
    n = len(flags[0])
    firsts, added = list(items[:n]), iter(items[n:])
    extra = [[[next(added) for f in group if f] for group in cut(marks, *sizes)] for marks in flags]
    groups = cut(firsts, *sizes)
    return [x for i, group in enumerate(groups) for part in (group, *[more[i] for more in extra]) for x in part]


def spread_out(sizes: Sequence[int], flags: Sequence[Sequence[bool]], items: Sequence[Any]) -> list[list[Any]]:
    """The inverse of `spread_in`: all items, and for each flag what it added, None at entries without it."""
    rest = iter(items)
    found: list[list[Any]] = [[] for _ in range(1 + len(flags))]
    for groups in zip(*[cut(marks, *sizes) for marks in flags], strict=True):
        found[0] += [next(rest) for _ in groups[0]]
        for more, group in zip(found[1:], groups, strict=True):
            more += [next(rest) if f else None for f in group]
    return found
