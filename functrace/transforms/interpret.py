"""Programs under rules of one's own: the way to write a transform.

interpret : Program(a -> b), rules -> ([a] -> [b])           [ ] says what the rules make of a value
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from functrace.errors import ArgumentError, DtypeError, RuleError
from functrace.foreign import reading
from functrace.ir import Equation, Primitive, Program, Var
from functrace.ir.primitive import open_builder
from functrace.ir.program import held_programs
from functrace.ir.source import caller_source
from functrace.lower.evaluate import literal_value
from functrace.rewrites import memoised
from functrace.tracing.binding import bind
from functrace.tracing.programs import structured
from functrace.tracing.tracer import at, aval_of

Rule = Callable[..., Any]


def interpret(
    program: Program,
    rules: Mapping[Any, Rule],
    *,
    default: Rule | None = None,
    literal: Callable[[Any], Any] = lambda x: x,
) -> Callable[..., Any]:
    """A Program as a function of values of any kind, its primitives being what `rules` say.

    Values can be arrays, and then inside a trace too, so that the function can be jitted, differentiated and
    vmapped; or anything else that the rules understand: intervals, types, sets, counts.

    What has no rule, and applies one Program to its operands (`call`, `checkpoint`, `custom_jvp`, ...), is walked
    into. What is left is for `default`; without one it is computed as usual. Loops and branches (`scan`, `while`,
    `cond`) that hold something a rule is for must have a rule: it gets their Programs as parameters, and may
    `interpret` them.

    Args:
      program: what `make_program` gives.
      rules: from a primitive, or its name, to `rule(*values, **params)`, which returns the result, or a sequence of
        them where the primitive has several.
      default: `default(equation, *values)`, for equations that have no rule. `equation.primitive`, `.params`,
        `.source`, `.inputs` and `.outputs` (with `.aval`) say what it is.
      literal: what becomes of the numbers that stand in the Program.
    Returns:
      A function of a value for each input of the Program that is not captured. It returns what the Program returns.
    Raises:
      ArgumentError: a rule is for a primitive that does not exist, or there are more or fewer values than inputs.
      RuleError: a rule is needed, or one gives more or fewer results than the primitive.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> program = ft.make_program(lambda x: fnp.sin(x) * 2.0)(1.0)
    >>> degree = interpret(program, {"sin": lambda x: float("inf"), "mul": lambda x, y: x + y}, literal=lambda x: 0)
    >>> degree(1)
    inf
    >>> round(float(ft.grad(interpret(program, {"sin": fnp.tanh}))(0.0)), 6)
    2.0
    """
    if not isinstance(program, Program):
        raise DtypeError(
            f"interpret: expected a Program, got {type(program).__name__}; make_program(f)(*args) gives one."
            f"{at(caller_source())}"
        )
    walk = Walk({name_of(key): checked_rule(key, rule) for key, rule in rules.items()}, default, literal)

    def interpreted(*values: Any) -> Any:
        expected = len(program.inputs) - len(program.captured)
        if len(values) != expected:
            raise ArgumentError(
                f"interpret: the Program has {expected} inputs, got {len(values)} values; give one for each leaf of "
                f"the arguments.{at(caller_source())}"
            )
        return structured(program, walk(program, [*program.captured, *values]))

    return interpreted


class Walk:
    """The walk over equations, forward, and over those of Programs that are applied."""

    def __init__(self, rules: dict[str, Rule], default: Rule | None, literal: Callable[[Any], Any]):
        self.rules, self.default, self.literal = rules, default, literal
        self.names = frozenset(rules)

    def __call__(self, program: Program, values: Sequence[Any]) -> list[Any]:
        env: dict[Any, Any] = dict(zip(program.inputs, values, strict=True))
        read = lambda x: env[x] if type(x) is Var else self.literal(literal_value(x))
        for eqn in program.equations:
            results = self.results(eqn, [read(x) for x in eqn.inputs])
            env.update(zip(eqn.outputs, results, strict=True))
        return [read(x) for x in program.outputs]

    def results(self, eqn: Equation, values: list[Any]) -> Sequence[Any]:
        """What becomes of an equation."""
        prim = eqn.primitive
        rule = self.rules.get(prim.name)
        if rule is None and (applied := prim.applied()) is not None:
            return self(applied, values)
        if rule is None and self.default is None:
            return self.as_usual(eqn, values)
        try:
            found = self.default(eqn, *values) if rule is None else rule(*values, **prim.params)  # pyright: ignore[reportOptionalCall]
        except Exception as error:
            error.add_note(f"in the rule of {prim.name!r}{place(eqn)}")
            raise
        if not prim.multiple_results:
            return [found]
        if not isinstance(found, tuple | list) or len(found) != len(eqn.outputs):
            got = f"{len(found)}" if isinstance(found, tuple | list) else f"a {type(found).__name__}"
            raise RuleError(
                f"interpret: {prim.name!r}{place(eqn)} has {len(eqn.outputs)} results, and its rule returned {got}; "
                "return a list with one for each."
            )
        return found

    def as_usual(self, eqn: Equation, values: list[Any]) -> Sequence[Any]:
        """The equation computed as it stands, where nothing inside has a rule and all operands are arrays."""
        prim = eqn.primitive
        inside = [n for p in programs_of(prim) for n in names_in(p) if n in self.names]
        if inside:
            raise RuleError(
                f"interpret: {prim.name!r}{place(eqn)} holds {inside[0]!r}, which has a rule; give a rule for "
                f"{prim.name!r} too, a function of its operands and of {', '.join(prim.params)}, which can interpret "
                "the Programs among these."
            )
        for i, x in enumerate(values):
            try:
                aval_of(x)
            except TypeError as error:
                raise RuleError(
                    f"interpret: no rule for {prim.name!r}{place(eqn)}, and its operand {i} is a {type(x).__name__} "
                    f"({x!r}), with which it cannot be computed; give rules[{prim.name!r}], or default=."
                ) from error
        builder = open_builder()
        if builder is None:
            ys = bind(prim, *values)
        else:
            outer, builder.source = builder.source, eqn.source
            try:
                ys = bind(prim, *values)
            finally:
                builder.source = outer
        return ys if prim.multiple_results else [ys]


def place(eqn: Equation) -> str:
    """` (model.py:41)` of an equation's line."""
    return f" ({eqn.source})" if eqn.source and eqn.source.file else ""


def programs_of(prim: Primitive) -> list[Program]:
    """The Programs that a primitive holds."""
    return [p for value in prim.params.values() for p in held_programs(value)]


@memoised
def names_in(program: Program) -> tuple[str, ...]:
    """The names of all primitives in a Program, and in those that it holds."""
    found: dict[str, None] = {}
    for eqn in program.equations:
        found[eqn.primitive.name] = None
        for p in programs_of(eqn.primitive):
            found.update(dict.fromkeys(names_in(p)))
    return tuple(found)


def name_of(key: Any) -> str:
    """The name of the primitive that a rule is for."""
    name = key if isinstance(key, str) else getattr(key, "name", None)
    if not isinstance(name, str) or not (isinstance(key, str | Primitive) or issubclass(key, Primitive)):
        raise DtypeError(
            f"interpret: a rule is for a primitive or the name of one, got {type(key).__name__} ({key!r})."
            f"{at(caller_source())}"
        )
    if isinstance(key, str) and name not in Primitive.named and name not in reading.primitives():
        near = difflib.get_close_matches(name, Primitive.named, 1)
        raise ArgumentError(
            f"interpret: no primitive is called {name!r}{f'; did you mean {near[0]!r}?' if near else ''}"
            f"{at(caller_source())}"
        )
    return name


def checked_rule(key: Any, rule: Any) -> Rule:
    """A rule, which must be a function."""
    if not callable(rule):
        raise DtypeError(
            f"interpret: the rule of {key!r} is of type {type(rule).__name__}, no function.{at(caller_source())}"
        )
    return rule


