"""What need not be kept for later, as it is a few cheap operations on what is kept anyway."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
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
