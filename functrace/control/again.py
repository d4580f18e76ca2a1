"""What need not be kept for later, as it is a few cheap operations on what is kept anyway, or might be kept instead."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence, Set
from math import inf
from typing import Any, TypeVar

from functrace.ir import Equation, Literal

K = TypeVar("K", bound=Hashable)
LONGEST = 8  # equations that are computed again for one value


def found_again(equations: Sequence[Equation], given: Set[Any], made: Mapping[K, Any]) -> dict[K, list[Equation]]:
    """Of the values that are `made` by equations and would be kept, those that need not be, and the equations for each.

    They are what XLA computes again in each kernel that reads them, of what is `given` and of values that are kept.
    What such an equation reads is kept, given, or comes before it in the result.
    """
    definitions = {v: (i, eqn) for i, eqn in enumerate(equations) for v in eqn.outputs}
    kept = set(made.values())
    found: dict[K, list[Equation]] = {}

    def chain(v: Any, done: dict[int, Equation]) -> bool:
        if v in given or v in kept or type(v) is Literal:
            return True
        i, eqn = definitions.get(v, (-1, None))
        if i in done:
            return True
        if eqn is None or not eqn.primitive.fuses or len(done) >= LONGEST:
            return False
        done[i] = eqn
        return all([chain(x, done) for x in eqn.inputs])

    # The last ones first: what they were made of may be what is kept.
    for k, v in sorted(made.items(), key=lambda item: -definitions.get(item[1], (-1, None))[0]):
        kept.discard(v)
        done: dict[int, Equation] = {}
        if v in definitions and chain(v, done):
            found[k] = [done[i] for i in sorted(done)]
        else:
            kept.add(v)
    return dict(reversed(found.items()))


def least_kept(
    equations: Sequence[Equation], given: Set[Any], wanted: Sequence[Any]
) -> tuple[list[Any], list[Equation]]:
    """The values to keep, of fewest bytes, of which `wanted` and what is `given` is computed again cheaply; and how.

    What is kept parts the wanted values from what they are not cheaply made of, so the fewest bytes are a minimum cut,
    found by shortest augmenting paths (Edmonds and Karp, 1972). Among equals it is the one with the fewest equations.
    """
    definitions = {v: eqn for eqn in equations for v in eqn.outputs}
    room: dict[Any, dict[Any, float]] = defaultdict(dict)  # by node, what may still flow to others
    depths = dict.fromkeys(wanted, 0)
    pending = deque(depths)
    for w in wanted:
        room[w, True]["end"] = inf
    while pending:
        v = pending.popleft()
        room[v, False][v, True] = v.aval.size * v.aval.dtype.itemsize
        eqn = definitions.get(v)
        if eqn is None or not eqn.primitive.fuses or depths[v] == LONGEST:
            room["start"][v, False] = inf
            continue
        for x in eqn.inputs:
            if type(x) is not Literal and x not in given:
                room[x, True][v, False] = inf
                if x not in depths:
                    depths[x] = depths[v] + 1
                    pending.append(x)
    while way := path(room):
        amount = min([room[a][b] for a, b in way])
        for a, b in way:
            room[a][b] -= amount
            room[b][a] = room[b].get(a, 0) + amount
    after = {"end"}  # what the end can still be reached from
    into = defaultdict(list)
    for a, others in room.items():
        for b, amount in others.items():
            if amount:
                into[b].append(a)
    found = deque(after)
    while found:
        for a in into[found.popleft()]:
            if a not in after:
                after.add(a)
                found.append(a)
    kept = [v for v in depths if (v, True) in after and (v, False) not in after]
    again = {v for v in depths if (v, False) in after}
    return kept, [eqn for eqn in equations if not again.isdisjoint(eqn.outputs)]


def path(room: Mapping[Any, Mapping[Any, float]]) -> list[tuple[Any, Any]]:
    """The edges of a shortest way to the end on which something may still flow; none where there is none."""
    came: dict[Any, Any] = {"start": None}
    pending = deque(came)
    while pending and "end" not in came:
        a = pending.popleft()
        for b, amount in room.get(a, {}).items():
            if amount and b not in came:
                came[b] = a
                pending.append(b)
    way, b = [], "end"
    while came.get(b) is not None:
        way.append((came[b], b))
        b = came[b]
    return way
