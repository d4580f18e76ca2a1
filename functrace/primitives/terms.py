"""What a sum is made of, as far as the sum of its squares is concerned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from functrace.ir import Atom, Primitive, Through, ambient

MOST_ADDENDS = 1000


def addends(prim: Primitive, xs: Sequence[Atom], add: Primitive, sub: Primitive) -> list[tuple[Atom, bool]]:
    """What a sum or difference is made of down to other operations, with its sign; nothing if it is too much."""
    found: list[tuple[Atom, bool]] = []
    todo: list[tuple[Any, Sequence[Atom], bool]] = [(prim, xs, True)]
    while todo:
        prim, xs, positive = todo.pop()
        for x, sign in zip(xs, (positive, positive == (prim is add)), strict=True):
            made = ambient().definition(x)
            if made is not None and made.primitive in (add, sub):
                todo.append((made.primitive, made.inputs, sign))
            else:
                found.append((x, sign))
        if len(found) + len(todo) > MOST_ADDENDS or any([x.aval.shape != xs[0].aval.shape for x in xs]):
            return []
    return found


def apart(boxes: Sequence[Any]) -> bool:
    """Whether along some axis no two of the boxes meet."""
    for ranges in zip(*boxes, strict=True) if all(boxes) else ():
        ordered = sorted(ranges)
        if all([before[1] <= after[0] for before, after in pairwise(ordered)]):
            return True
    return False


def factors_of(x: Atom) -> Any:
    """`x` as a sum of outer products, by the primitives that made it; None if it is none."""
    path: list[Callable[[Any], Any]] = []
    found: Any = Through(x)
    while isinstance(found, Through):
        path.append(found.how)
        made = ambient().definition(found.x)
        found = made and made.primitive.factors(*made.inputs)
    for how in reversed(path):
        found = found and how(found)
    return found
