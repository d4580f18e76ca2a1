"""Program -> JAX while JAX traces: equations that are alike are traced once, and JAX is handed one jaxpr.

JAX spends on each operation of a function that it traces about as long as on lowering it. A deep model repeats a few
hundred kinds of equation thousands of times: the primitive and its parameters, the types of its operands. Each kind is
traced alone, as a form; the jaxpr is the forms' equations written out once an equation of the Program, but once for all
of a run that comes again (`lower/outlined.py`); the call of a jitted function, as JAX itself writes one, applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax.extend import core
from jax.extend.core.primitives import jit_p

from functrace.ir import Aval, Literal, Program, Var
from functrace.lower.evaluate import evaluate, literal_value
from functrace.lower.forms import Call, as_jitted, forms_of, jaxpr_of, type_of, written
from functrace.lower.fusion import computed_once, kept, unknown_one
from functrace.lower.outlined import outlined

LONG = 64  # equations for which forms are worth their making


def staged(program: Program, values: Sequence[Any]) -> list[Any]:
    """The outputs of `program` at JAX's tracers; no kernel of XLA computes again what is better kept."""
    once = kept(program)
    values = [x if isinstance(x, jax.core.Tracer) else jax.numpy.asarray(x) for x in values]
    # Values of types that Programs do not have, as under JAX's explicit sharding, are for JAX's own tracing.
    is_plain = all([jax.typeof(x) == type_of(v.aval) for x, v in zip(values, program.inputs, strict=True)])
    if len(program.equations) >= LONG and is_plain and not program.has_effects:
        found = Writing(program, once).jaxpr()
        if found is not None:
            jaxpr, consts = found
            return jit_p.bind(*consts, *values, **as_jitted(jaxpr))
    return evaluate(program, values, once)


class Writing:
    """The jaxpr of a Program, equation by equation."""

    def __init__(self, program: Program, once: frozenset[Var]):
        self.program = program
        self.functions: list[tuple[Callable[..., Sequence[Any]], Sequence[Aval]]] = []
        self.kinds: dict[Any, int] = {}
        self.calls: list[Call] = []
        asked = next((v for v in program.inputs if v.aval.size and v.aval.dtype.kind == "f"), None) if once else None
        one = Var(Aval((), np.dtype(np.float32)))
        if asked is not None:
            self.call("one", lambda x: [unknown_one([x])], [asked], [one])
        for eqn in program.equations:
            self.call_equation(eqn)
            for v in eqn.outputs if asked is not None else ():
                if v in once:
                    self.call("once", lambda x, one: [computed_once(x, one)], [v, one], [v])

    def call(self, what: Any, function: Callable[..., Sequence[Any]], inputs: Sequence[Var], outputs: Any) -> None:
        """Apply a function, known by `what` it is of, to values."""
        avals = [v.aval for v in inputs]
        number = self.kinds.setdefault((what, *avals), len(self.functions))
        if number == len(self.functions):
            self.functions.append((function, avals))
        self.calls.append(Call(number, inputs, outputs))

    def call_equation(self, eqn: Any) -> None:
        """Apply what lowers an equation; its literals are part of what it is."""
        fixed = tuple([x if type(x) is Literal else None for x in eqn.inputs])

        def lowered(*xs: Any) -> Sequence[Any]:
            rest = iter(xs)
            ys = eqn.primitive.lower(*[next(rest) if x is None else literal_value(x) for x in fixed])
            return ys if eqn.primitive.multiple_results else [ys]

        operands = [x for x in eqn.inputs if type(x) is not Literal]
        self.call((eqn.primitive, fixed), lowered, operands, eqn.outputs)

    def jaxpr(self) -> tuple[Any, Sequence[Any]] | None:
        """A jaxpr of constants and the inputs, and the constants; None where it is not JAX's whole account.

        It is not where the order of equations may count, and where JAX is to take an equation apart yet ("high" ones).
        """
        forms = forms_of(list(self.kinds), self.functions)
        if not all([form.is_whole for form in forms]):
            return None
        values = {x: value for form in forms for x, value in form.constants}
        constants = list(values)
        calls, forms = outlined(self.calls, forms, [x for x in self.program.outputs if type(x) is Var])
        inputs = [core.Var(type_of(v.aval)) for v in self.program.inputs]
        env: dict[Any, Any] = dict(zip([*self.program.inputs, *constants], [*inputs, *constants], strict=True))
        equations = written(calls, forms, env)
        outputs = [
            core.Literal(x.value, type_of(x.aval)) if type(x) is Literal else env[x] for x in self.program.outputs
        ]
        return jaxpr_of([*constants, *inputs], equations, outputs, "program"), list(values.values())
