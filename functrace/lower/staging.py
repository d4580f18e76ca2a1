"""Program -> JAX while JAX traces: one equation of JAX's, the call of a block (`lower/block.py`).

JAX spends as long on each operation of a function that it traces as on lowering it. So it is asked about kinds of
equation alone (`lower/kinds.py`). A block is the calls of kinds that a Program's equations are, and one call for all of
a run that comes again (`lower/outlined.py`). A short Program is applied to JAX's tracers equation by equation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import numpy as np

from functrace.ir import Aval, Equation, Literal, Program, Var, is_complex
from functrace.lower.block import Block, block_p
from functrace.lower.entries import entry, taken, unknown_places
from functrace.lower.evaluate import evaluate, literal_value
from functrace.lower.fusion import computed_once, dtypes_of, kept, unknown_one
from functrace.lower.kinds import Call, Kind, met, type_of
from functrace.lower.outlined import outlined
from functrace.lower.plain import Text, plain

LONG = 16  # equations for which a block is worth its making


def staged(program: Program, values: Sequence[Any]) -> list[Any]:
    """The outputs of `program` at JAX's tracers; no kernel of XLA computes again what is better kept.

    For what is compiled, and for bodies of loops and branches in it.
    """
    once = kept(program)
    values = [x if isinstance(x, jax.core.Tracer) else jax.numpy.asarray(x) for x in values]
    # Values of types that Programs do not have, as under JAX's explicit sharding, are for JAX's own tracing.
    is_plain = all([jax.typeof(x) == type_of(v.aval) for x, v in zip(values, program.inputs, strict=True)])
    if len(program.equations) >= LONG and is_plain and not program.has_effects:
        found = Writing(program, once).block()
        if found is not None:
            block, constants = found
            known = {**constants, **dict(zip(program.inputs, values, strict=True))}
            made = iter(block_p.bind(*[known[x] for x in block.inputs], block=block))
            return [literal_value(x) if type(x) is Literal else next(made) for x in program.outputs]
    return evaluate(program, values, once)


class Writing:
    """A Program as calls of kinds of equation, one after the other."""

    def __init__(self, program: Program, once: frozenset[Var]):
        self.program = program
        self.makers: list[Callable[[], Kind]] = []
        self.kinds: dict[Any, int] = {}
        self.calls: list[Call] = []
        # A number that XLA does not know: what a function closes over, which comes first, it may know.
        may_be_asked = lambda v: v.aval.size and v.aval.is_inexact and not is_complex(v.aval.dtype)
        asked = next((v for v in reversed(program.inputs) if may_be_asked(v)), None)
        entries_of: dict[Equation, range] = {}
        ones: dict[Any, Var] = {}
        places: list[Var] = []
        if asked is None:
            once = frozenset()
        else:
            for dtype in dtypes_of(once):
                ones[dtype] = Var(Aval((), dtype))
                self.call(("one", dtype), lambda x, dtype=dtype: [unknown_one(x, dtype)], [asked], [ones[dtype]])
            entries_of = taken(program)
            count = max([at.stop for at in entries_of.values()], default=0)
            places = [Var(Aval((), np.dtype(np.int32))) for _ in range(count)]
            if places:
                self.call(("places", count), lambda x: unknown_places(x, count), [asked], places)
        for eqn in program.equations:
            if eqn in entries_of:
                self.call_entries(eqn, [places[i] for i in entries_of[eqn]])
            else:
                self.call_equation(eqn)
            for v in eqn.outputs:
                if v in once:
                    self.call("once", lambda x, one: [computed_once(x, one)], [v, ones[v.aval.dtype]], [v])

    def call(
        self, what: Any, function: Callable[..., Any], inputs: Sequence[Var], outputs: Sequence[Var],
        text: Callable[[], Text | None] = lambda: None, eqn: Equation | None = None,
    ) -> None:  # fmt: skip
        """Apply a function, known by `what` it is of, to values; `text` makes its text."""
        avals = [v.aval for v in inputs]
        number = self.kinds.setdefault((what, *avals), len(self.makers))
        if number == len(self.makers):
            self.makers.append(lambda: Kind(function, avals, text()))
        self.calls.append(Call(number, inputs, outputs, eqn))

    def call_equation(self, eqn: Equation) -> None:
        """Apply what lowers an equation; its literals are part of what it is."""
        primitive: Any = eqn.primitive
        fixed = tuple([x if type(x) is Literal else None for x in eqn.inputs])

        def lowered(*xs: Any) -> Sequence[Any]:
            rest = iter(xs)
            ys = primitive.lower(*[next(rest) if x is None else literal_value(x) for x in fixed])
            return ys if primitive.multiple_results else [ys]

        def text() -> Text | None:
            operands = [x if type(x) is Literal else x.aval for x in eqn.inputs]
            return None if primitive.multiple_results else plain(primitive, operands, eqn.outputs[0].aval)

        operands = [x for x in eqn.inputs if type(x) is Var]
        self.call((primitive, fixed), lowered, operands, eqn.outputs, text, eqn)

    def call_entries(self, eqn: Equation, places: Sequence[Var]) -> None:
        """Take entries of a stack, each where it is said at run time to be."""
        stack: Any = eqn.inputs[0]
        for v, place in zip(eqn.outputs, places, strict=True):
            shape = v.aval.shape
            self.call(("entry", shape), lambda x, i, s=shape: [entry(x, i, s)], [stack, place], [v], eqn=eqn)

    def block(self) -> tuple[Block, dict[Any, Any]] | None:
        """The Program as a block of what it reads, and the constants among that; None where that is not all there is.

        That is so where the order of equations may count, and where JAX is to take an equation apart yet ("high" ones).
        """
        kinds = met(list(self.kinds), self.makers)
        forms = [kind.form for kind in kinds if kind.form]
        if not all([form.is_whole for form in forms]):
            return None
        constants = {x: value for form in forms for x, value in form.constants}
        outputs = [x for x in self.program.outputs if type(x) is Var]
        calls, kinds = outlined(self.calls, kinds, outputs)
        read = {*outputs, *[x for call in calls for x in call.inputs]}
        inputs = [*constants, *[x for x in self.program.inputs if x in read]]
        return Block(calls, kinds, inputs, outputs, "program"), constants
