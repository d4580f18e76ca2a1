"""Which entries of the outputs of a Program depend on which of its inputs.

pattern : Program(x -> y) -> [matrix of y by x]         entry (i, j) is False only where dy_i / dx_j is zero for every x

A function depends on what its derivative depends on. So the Program is pushed forward first, and then only linear
maps are left to ask (`Primitive.pattern`): what stops a gradient, a custom rule, a step function have no say of their
own, as a zero tangent is absent. What is known beforehand, such as the indices of a gather, is computed where a rule
asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from functrace.ir import Equation, Literal, Program, Var
from functrace.ir.builder import pruned
from functrace.ir.dependence import Matrix, Operand, Site, Unbounded, identity, nothing, product, union
from functrace.lower.evaluate import at_once, evaluate
from functrace.rewrites.jvp import jvp
from functrace.rewrites.memo import scatter


class Pattern(NamedTuple):
    """Of each output that moves (None for the others) the matrix by all inputs that move, and what widened it."""

    outputs: tuple[Matrix | None, ...]
    unbounded: tuple[Unbounded, ...]


def pattern(program: Program, moving: tuple[bool, ...], values: Sequence[Any]) -> Pattern:
    """The pattern of a Program.

    Args:
      program: x -> y.
      moving: which inputs move.
      values: NumPy arrays of the inputs that are known, None for others.
    """
    pushed, moved = jvp(program, moving, "linearize")
    known = [*values, *[None] * sum(moving)]
    tangents = (False,) * len(moving) + (True,) * sum(moving)
    unbounded: list[Unbounded] = []
    found = dependence(pushed, tangents, [lambda v=v: v for v in known], unbounded)
    outputs = scatter(moved, found[len(program.outputs) :])
    sizes = [v.aval.size for v, m in zip(program.inputs, moving, strict=True) if m]
    rows = [y.aval.size for y in program.outputs]
    filled = [
        nothing(n, sum(sizes)) if m and y is None else y for n, m, y in zip(rows, moved, outputs, strict=True)
    ]
    return Pattern(tuple(filled), tuple(dict.fromkeys(unbounded)))


def dependence(
    program: Program, moving: Sequence[bool], values: Sequence[Callable[[], Any]], unbounded: list[Unbounded]
) -> list[Matrix | None]:
    """Of each output, by the entries of all moving inputs, one input after the other; None for no dependence.

    The Program is linear in those inputs; `values` are asked for what is known of the others.
    """
    known = Known(program, values)
    total = sum([v.aval.size for v, m in zip(program.inputs, moving, strict=True) if m])
    found: dict[Any, Matrix] = {}
    start = 0
    for v, m in zip(program.inputs, moving, strict=True):
        if m:
            n = v.aval.size
            pair = np.ones(n, bool), np.arange(start, start + n), np.arange(n + 1)
            found[v] = sparse.csr_array(pair, shape=(n, total))
            start += n
    local: dict[Any, Any] = {}
    for eqn in program.equations:
        if not any([x in found for x in eqn.inputs]):
            known.step(eqn)
            continue
        for v, row in zip(eqn.outputs, links(eqn, found, known, unbounded, local), strict=True):
            made: Matrix | None = None
            for link, x in zip(row, eqn.inputs, strict=True):
                if link is not None:
                    made = union(made, product(link, found[x]))
            if made is not None and made.nnz:
                found[v] = made
                known.unknown.add(v)
    return [found.get(y) for y in program.outputs]


def links(
    eqn: Equation, found: Mapping[Any, Any], known: Callable[[Any], Any], unbounded: list[Unbounded],
    local: dict[Any, Any],
) -> list[list[Matrix | None]]:  # fmt: skip
    """Of each result, which entries depend on which of each operand; kept in `local` where no value was asked for."""
    asked: list[bool] = []

    def find(x: Any) -> Any:
        asked.append(True)
        return known(x)

    operands = [Operand(x.aval, x in found, lambda x=x: find(x)) for x in eqn.inputs]
    key = (eqn.primitive, *[(x.aval, x.moves) for x in operands])
    if key in local:
        return local[key]
    site = Site(operands, [v.aval for v in eqn.outputs], eqn.source, [])
    empty = not any([y.size for y in site.results]) or not any([x.aval.size for x in operands if x.moves])
    made = site.everything() if empty else eqn.primitive.pattern(site)
    unbounded += site.unbounded
    if not asked and not site.unbounded:
        local[key] = made
    return made


class Known:
    """Values that depend on nothing but what is known: computed when they are asked for."""

    def __init__(self, program: Program, values: Sequence[Callable[[], Any]]):
        self.program = program
        self.inputs = dict(zip(program.inputs, values, strict=True))
        self.made: dict[Any, Equation] = {v: eqn for eqn in program.equations for v in eqn.outputs}
        self.found: dict[Any, Any] = {}
        self.unknown: set[Any] = set()

    def step(self, eqn: Equation) -> None:
        """Take note of results that cannot be known."""
        if len(eqn.outputs) == 1 and (eqn.primitive.has_effects or not self.unknown.isdisjoint(eqn.inputs)):
            self.unknown.update(eqn.outputs)

    def __call__(self, atom: Any) -> Any:
        """The value as a NumPy array, or None."""
        if type(atom) is Literal:
            return np.asarray(atom.value)
        if atom not in self.found:
            self.found[atom] = None if atom in self.unknown else self.computed(atom)
        return self.found[atom]

    def computed(self, atom: Var) -> Any:
        """The value, by the equations that it needs; None if one of them needs what is not known."""
        needed: dict[Equation, set[Any]] = {}
        leaves: dict[Any, Any] = {}
        waiting = [atom]
        while waiting:
            v = waiting.pop()
            value = self.inputs[v]() if v in self.inputs else self.found.get(v)
            if value is not None:
                leaves[v] = value
                continue
            if v in self.inputs or v in self.unknown or self.made[v].primitive.has_effects:
                self.unknown.add(v)
                return None
            eqn = self.made[v]
            wanted = needed.setdefault(eqn, set())
            if v not in wanted:
                wanted.add(v)
                waiting += [x for x in pruned(eqn, wanted).inputs if type(x) is Var and x not in leaves]
        equations = [pruned(eqn, needed[eqn]) for eqn in self.program.equations if eqn in needed]
        (value,) = at_once(evaluate, Program(tuple(leaves), tuple(equations), (atom,)), list(leaves.values()))
        return value


def through(program: Program, operands: Sequence[Operand], unbounded: list[Unbounded]) -> list[list[Matrix | None]]:
    """The pattern of a Program that an equation applies, for each output and operand.

    The Program is linear in the operands that move, as the equation is.
    """
    moving = [x.moves for x in operands]
    found = dependence(program, moving, [lambda x=x: x.value for x in operands], unbounded)
    return [apart(y, [x.aval.size if x.moves else None for x in operands]) for y in found]


def apart(matrix: Matrix | None, sizes: Sequence[int | None]) -> list[Matrix | None]:
    """The columns of each operand; None of one without a size."""
    found: list[Matrix | None] = []
    start = 0
    for n in sizes:
        found.append(None if n is None or matrix is None else matrix[:, start : start + n])
        start += n or 0
    return found


def known_now(values: Sequence[Any]) -> list[Any]:
    """NumPy arrays of the values that are arrays, None of tracers."""
    return [np.asarray(x) if isinstance(x, np.ndarray | np.generic | int | float) else None for x in values]


__all__ = ["Pattern", "apart", "dependence", "identity", "known_now", "pattern", "through"]
