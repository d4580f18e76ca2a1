"""What need not be kept for later, as it is a few cheap operations on what is kept anyway, or might be kept instead."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from math import inf
from typing import Any

from functrace.ir import Equation, Literal
from functrace.primitives.elementwise import Elementwise
from functrace.primitives.special import erf
from functrace.primitives.unary import exp, logistic, sqrt, tanh

LONGEST = 8  # equations that are computed again for one value
# What takes no longer than to write a number to a stack and to read it: on a CPU 0.2 to 0.7 ns, sines 2, gammas 5.
QUICK = frozenset((erf, exp, logistic, sqrt, tanh))
STEPS = frozenset(("ceil", "floor", "rem", "round", "sign"))  # whose results jump, and are numbers still
START = "start"  # the node from which all flows that is not cheaply made


def is_cheap(eqn: Equation, definitions: Mapping[Any, Equation]) -> bool:
    """Whether an equation may be computed again: XLA does so in each kernel that reads it, or it is quick.

    Numbers that would be computed again are not compared with one another, nor made whole ones: rounded otherwise, the
    greatest of a row were none of its entries, and the place in a table another one.
    """
    return is_quick(eqn) and not (jumps(eqn) and any([is_computed_again(x, definitions) for x in eqn.inputs]))


def jumps(eqn: Equation) -> bool:
    """Whether what an equation makes of numbers is another thing where they are rounded otherwise."""
    y = eqn.outputs[0].aval
    if y.dtype == bool:
        return len([x for x in eqn.inputs if type(x) is not Literal]) > 1
    return eqn.primitive.name in STEPS or (not y.is_inexact and any([x.aval.is_inexact for x in eqn.inputs]))


def is_quick(eqn: Equation) -> bool:
    """Whether an equation takes no longer than what it makes takes to be kept."""
    return eqn.primitive.fuses or eqn.primitive in QUICK


def is_computed_again(x: Any, definitions: Mapping[Any, Equation]) -> bool:
    """Whether `x`, or what it is moved from, is arithmetic that is cheap."""
    eqn = definitions.get(x)
    if eqn is None or not is_quick(eqn) or x.aval.dtype == bool:
        return False
    return isinstance(eqn.primitive, Elementwise) or any([is_computed_again(y, definitions) for y in eqn.inputs])


def least_kept(
    equations: Sequence[Equation], given: Set[Any], wanted: Sequence[Any]
) -> tuple[list[Any], list[Equation]]:
    """The values to keep, of fewest bytes, of which `wanted` and what is `given` is computed again cheaply; and how.

    What is kept parts the wanted values from what they are not cheaply made of, so the fewest bytes are a minimum cut,
    found by shortest augmenting paths (Edmonds and Karp, 1972). Among equals it is the one with the fewest equations.
    """
    definitions = {v: eqn for eqn in equations for v in eqn.outputs}
    room: dict[Any, dict[Any, float]] = defaultdict(dict)  # by node and node, what may still flow
    depths = dict.fromkeys(wanted, 0)
    pending = deque(depths)

    def edge(a: Any, b: Any, size: float) -> None:
        room[a][b] = size
        room[b][a] = 0

    while pending:
        v = pending.popleft()
        edge((v, False), (v, True), v.aval.nbytes)
        eqn = definitions.get(v)
        if eqn is None or not is_cheap(eqn, definitions) or depths[v] == LONGEST:
            edge(START, (v, False), inf)
            continue
        for x in eqn.inputs:
            if type(x) is not Literal and x not in given:
                edge((x, True), (v, False), inf)
                if x not in depths:
                    depths[x] = depths[v] + 1
                    pending.append(x)
    after: set[Any] = set()  # what nothing can flow to any more; no later way leads there
    for w in wanted:
        while (w, True) not in after:
            came = leading_to((w, True), room)
            if START not in came:
                after.update(came)
                break
            way = [START]
            while way[-1] != (w, True):
                way.append(came[way[-1]])
            amount = min([room[a][b] for a, b in pairwise(way)])
            for a, b in pairwise(way):
                room[a][b] -= amount
                room[b][a] += amount
    kept = [v for v in depths if (v, True) in after and (v, False) not in after]
    again = {v for v in depths if (v, False) in after}
    return kept, [eqn for eqn in equations if not again.isdisjoint(eqn.outputs)]


def leading_to(goal: Any, room: Mapping[Any, Mapping[Any, float]]) -> dict[Any, Any]:
    """The nodes from which something may flow to a goal, nearest first up to the start, and where to from each."""
    came: dict[Any, Any] = {goal: None}
    pending = deque(came)
    while pending and START not in came:
        b = pending.popleft()
        for a in room[b]:
            if room[a][b] and a not in came:
                came[a] = b
                pending.append(a)
    return came
