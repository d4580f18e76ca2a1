"""Rewriting by pattern: both sides are Python functions.

rewrite : Program(a -> b), pattern(c -> d), replacement(c -> d) -> Program(a -> b)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, product
from typing import Any

from functrace import rewrites
from functrace.errors import ArgumentError, DtypeError
from functrace.foreign.importing import to_jax_struct
from functrace.ir import Aval, Program, Var
from functrace.ir.program import held_programs
from functrace.ir.source import caller_source
from functrace.rewrites.replace import Graph, Match, Pattern, matched
from functrace.tracing import aval_of, trace
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name

PASSES = 100
TRIED = 64  # combinations of types that a pattern is traced at, to see which primitives it has


def rewrite(
    program: Program,
    pattern: Callable[..., Any],
    replacement: Callable[..., Any],
    *,
    examples: Sequence[Any] | None = None,
    passes: int | None = None,
) -> Program:
    """The Program with what `pattern` computes computed as `replacement` does, wherever it is found.

    A part of the Program matches if its equations are those of the pattern, traced at the types that the part's
    operands have: any shapes and dtypes that the pattern can be traced at. Operands of commutative primitives match in
    either order, and Programs inside calls, loops, branches and custom rules are rewritten too. What else reads a
    value inside a match still has it.

    Args:
      program: what `make_program` gives.
      pattern: a function of arrays, written as any that is traced; closes over no arrays.
      replacement: a function of the same arrays; returns what the pattern returns, in another way.
      examples: arrays (or anything with their shape and dtype) that the pattern can be traced at. By default types of
        values in the Program are tried, which may not find those of a pattern with many operands of unlike types.
      passes: how often the Program is gone through; by default as often as there are matches, and at most 100 times.
    Returns:
      The Program rewritten, of the same types.
    Raises:
      ArgumentError: the pattern computes nothing, has an operand that it does not use, or closes over an array; the
        replacement has results of other types; or there are still matches after 100 passes.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> program = ft.make_program(lambda x: fnp.log(fnp.exp(x)) + x)(1.0)
    >>> len(rewrite(program, lambda x: fnp.log(fnp.exp(x)), lambda x: x).equations)
    1
    """
    if not isinstance(program, Program):
        raise DtypeError(
            f"rewrite: expected a Program, got {type(program).__name__}; make_program(f)(*args) gives one."
            f"{at(caller_source())}"
        )
    check_callable("rewrite", pattern, "the pattern")
    check_callable("rewrite", replacement, "the replacement")
    if passes is not None and (not isinstance(passes, int) or isinstance(passes, bool) or passes < 1):
        raise ArgumentError(f"rewrite: passes must be a positive int, got {passes!r}.{at(caller_source())}")
    rule = Rule(program, pattern, replacement, examples)
    made = program
    for _ in range(passes or PASSES):
        made, count = rewrites.replace(made, rule)
        if not count:
            break
    else:
        if passes is None:
            raise ArgumentError(
                f"rewrite: the pattern is still found after {PASSES} passes: what replaces it holds it. Give passes= "
                f"to stop before.{at(caller_source())}"
            )
    if made is not program:
        made.captured, made.structure = program.captured, program.structure
    return made


class Rule:
    """Finds the pattern at a value, and says what replaces it there."""

    def __init__(self, program: Program, pattern: Any, replacement: Any, examples: Sequence[Any] | None):
        self.pattern, self.replacement = pattern, replacement
        self.sides: dict[tuple[Aval, ...], tuple[Pattern, Program]] = {}
        self.count = len(examples) if examples is not None else parameters(pattern)
        types = [tuple(aval_of(x) for x in examples)] if examples is not None else trials(program, self.count)
        seen: dict[Any, Pattern] = {}
        failure: Exception | None = None
        for avals in types:
            try:
                found = Pattern(self.traced(self.pattern, avals, "the pattern"))
            except (TypeError, ValueError, IndexError) as error:
                if isinstance(error, PatternError) or examples is not None:
                    raise
                failure = error
            else:
                seen.setdefault(found.shape(), found)
        if not seen and failure is not None:
            raise ArgumentError(
                f"rewrite: the pattern {fun_name(pattern)} can be traced at no types of values in the Program; give "
                f"examples=, one for each of its {self.count} operands. The last failure: {failure}"
            ) from failure
        self.loose: dict[str, list[Pattern]] = {}
        for found in seen.values():
            self.loose.setdefault(found.root, []).append(found)

    def traced(self, fun: Any, avals: tuple[Aval, ...], what: str) -> Program:
        """A side of the rule as a Program."""
        traced = trace(fun, [to_jax_struct(a) for a in avals], transform="rewrite", result=f"the output of {what}")
        if traced.captures:
            raise PatternError(
                f"rewrite: {what} closes over an array of type {traced.program.inputs[0].aval!r}; only numbers may "
                f"stand in it, and operands.{at(caller_source())}"
            )
        program = traced.program
        if what == "the pattern":
            if not program.outputs or any([type(y) is not Var or y in program.inputs for y in program.outputs]):
                raise ArgumentError(
                    f"rewrite: the pattern {fun_name(fun)} computes nothing at {listed(avals)}: an output of it is one "
                    f"of its operands, or a number.{at(caller_source())}"
                )
            read = {x for eqn in program.equations for x in eqn.inputs}
            for i, v in enumerate(program.inputs):
                if v not in read:
                    raise ArgumentError(
                        f"rewrite: operand {v.name or i} of the pattern {fun_name(fun)} is not used in it, so no match "
                        f"says what it is.{at(caller_source())}"
                    )
        return program

    def both(self, avals: tuple[Aval, ...]) -> tuple[Pattern, Program]:
        """Both sides at these types of the operands."""
        if avals not in self.sides:
            pattern = self.traced(self.pattern, avals, "the pattern")
            replacement = self.traced(self.replacement, avals, "the replacement")
            same = len(pattern.outputs) == len(replacement.outputs) and all(
                [a.matches(b) for a, b in zip(pattern.out_avals, replacement.out_avals, strict=True)]
            )
            if not same:
                raise PatternError(
                    f"rewrite: of operands {listed(avals)}, the pattern makes {listed(pattern.out_avals)}, and the "
                    f"replacement {listed(replacement.out_avals)}; they must agree.{at(caller_source())}"
                )
            self.sides[avals] = Pattern(pattern), replacement
        return self.sides[avals]

    def __call__(self, graph: Graph, value: Any) -> Match | None:
        """The match whose first output is this value."""
        for loose in self.loose.get(graph.definition[value].primitive.name, ()):
            for begun in matched(graph, loose, value, False):
                operands = tuple([begun[v] for v in loose.program.inputs])
                try:
                    pattern, replacement = self.both(tuple([x.aval for x in operands]))
                except (TypeError, ValueError, IndexError) as error:
                    if isinstance(error, PatternError):
                        raise
                    continue  # what has the same primitives, and is no such thing at these types
                for found in matched(graph, pattern, value, True):
                    program = pattern.program
                    if tuple([found[v] for v in program.inputs]) == operands:
                        return Match(tuple([found[y] for y in program.outputs]), operands, replacement)
        return None


class PatternError(ArgumentError):
    """Two sides that are no rule, at any types."""


def parameters(pattern: Callable[..., Any]) -> int:
    """How many operands a pattern has."""
    try:
        found = inspect.signature(pattern).parameters.values()
    except (TypeError, ValueError):
        found = ()
    names = [p for p in found if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not names:
        raise ArgumentError(
            f"rewrite: how many operands the pattern {fun_name(pattern)} has cannot be seen from its signature; give "
            f"examples=, one for each.{at(caller_source())}"
        )
    return len(names)


def trials(program: Program, count: int) -> Iterator[tuple[Aval, ...]]:
    """Types of values in a Program to trace a pattern of so many operands at; those that are all alike first."""
    types: dict[Aval, None] = {}
    seen: set[int] = set()
    stack = [program]
    while stack:
        p = stack.pop()
        if id(p) in seen:
            continue
        seen.add(id(p))
        types.update(dict.fromkeys([*p.in_avals, *[v.aval for eqn in p.equations for v in eqn.outputs]]))
        stack += [q for eqn in p.equations for value in eqn.params.values() for q in held_programs(value)]
    alike = [(a,) * count for a in types]
    unlike = (c for c in product(types, repeat=count) if len(set(c)) > 1)
    return islice(chain(alike, unlike), TRIED)


def listed(avals: Sequence[Aval]) -> str:
    """Types, for messages."""
    return ", ".join(map(repr, avals)) or "nothing"
