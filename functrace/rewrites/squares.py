"""Sums of squares of outputs, which may take less than the outputs do.

squares : Program(x -> y) -> Program(x -> |y|^2)

The norm of an outer product is the product of two norms, and a transpose keeps it: each primitive says what the squares
of its result add up to, in terms of its operands, and what the sum does not need is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from functrace.ir import Atom, Builder, Equation, Literal, Program, Through
from functrace.primitives.elementwise import add, sum_of_squares
from functrace.primitives.space import reduce_sum
from functrace.rewrites.memo import copy_input, derived, memoised


@memoised
def squares(program: Program, flags: tuple[bool, ...], beside: bool = False) -> Program:
    """`x -> y` in which each flagged y is the sum of the squared magnitudes of its entries, a real scalar.

    With `beside`, all y are as they were, and the sums come after them.
    """
    with Builder() as b:
        outputs = b.inline(program, [copy_input(b, v) for v in program.inputs])
        sums: dict[Atom, Atom] = {}  # of the results of equations that hold Programs, what adds up to their squares
        found = [total(b, y, sums) if flag else y for y, flag in zip(outputs, flags, strict=True)]
        b.source = None
        return b.build([*outputs, *[n for n, flag in zip(found, flags, strict=True) if flag]] if beside else found)


def total(b: Builder, y: Atom, sums: dict[Atom, Atom]) -> Atom:
    """The sum of squares of `y`, term by term."""
    found: Atom | None = None
    todo: list[tuple[Any, tuple[Callable[[Any], Any], ...]]] = [(Through(y), ())]
    while todo:
        term, path = todo.pop()
        if isinstance(term, Through):
            path = (term.how, *path)
            terms = terms_of(b, term.x, sums)
            if terms is not None:
                todo += [(t, path) for t in terms]
                continue
            term = sum_of_squares(term.x)
        for how in path:
            term = how(term)
        if found is None or not (isinstance(term, Literal) and term.value == 0):
            found = term if found is None else add(found, term)
    assert found is not None, "a sum of squares has a term"
    return found


def terms_of(b: Builder, x: Atom, sums: dict[Atom, Atom]) -> Sequence[Any] | None:
    """What the squares of `x` add up to, by the primitive that made it."""
    made = b.definition(x)
    if made is None:
        return None
    b.source = derived(made.source, "squares", made.primitive.name)
    if not made.primitive.multiple_results:
        return made.primitive.squares(*made.inputs)
    if x not in sums:
        widen(b, made, sums)
    return [reduce_sum(sums[x], tuple(range(sums[x].aval.ndim)))] if x in sums else None


def widen(b: Builder, eqn: Equation, sums: dict[Atom, Atom]) -> None:
    """Let an equation that holds a Program also give what adds up to the squares of its results."""
    found = eqn.primitive.beside_squares()
    if found is not None:
        n, (primitive, flags) = len(eqn.outputs), found
        b.widen(eqn, primitive)
        sums.update(zip([v for v, flag in zip(eqn.outputs, flags, strict=False) if flag], eqn.outputs[n:], strict=True))
