"""Program -> JAX while JAX traces: equations that are alike are traced once, and JAX is handed one jaxpr.

JAX spends on each operation of a function that it traces about as long as on lowering it. A deep model repeats a few
hundred kinds of equation thousands of times: the primitive and its parameters, the types of its operands. Each kind is
traced alone, as a form; the jaxpr is the forms' equations written out once an equation of the Program, and the call of
a jitted function, as JAX itself writes one, applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax.extend import core
from jax.extend.core.primitives import jit_p

from functrace.ir import Aval, Literal, Program, Var
from functrace.lower.evaluate import evaluate, literal_value
from functrace.lower.fusion import computed_once, kept, unknown_one

LONG = 64  # equations for which forms are worth their making


def staged(program: Program, values: Sequence[Any]) -> list[Any]:
    """The outputs of `program` at JAX's tracers; no kernel of XLA computes again what is better kept."""
    once = kept(program)
    values = [x if isinstance(x, jax.core.Tracer) else jax.numpy.asarray(x) for x in values]
    # Values of types that Programs do not have, as under JAX's explicit sharding, are for JAX's own tracing.
    is_plain = all([jax.typeof(x) == type_of(v.aval) for x, v in zip(values, program.inputs, strict=True)])
    if len(program.equations) >= LONG and is_plain and not program.has_effects:
        written = Writing(program, once).jaxpr()
        if written is not None:
            jaxpr, consts = written
            return jit_p.bind(*consts, *values, **as_jitted(jaxpr))
    return evaluate(program, values, once)


@cache
def type_of(aval: Aval) -> Any:
    """JAX's type of values of this type."""
    return jax.core.ShapedArray(aval.shape, aval.dtype, aval.weak_type)


class Form(NamedTuple):
    """The equations of JAX's that are a kind of equation here.

    They read and write numbered values: first the `fixed` ones, which are literals and constants, then the inputs,
    then what each equation makes.
    """

    fixed: Sequence[Any]
    equations: Sequence[tuple[Any, Sequence[int], Sequence[Any]]]  # one of JAX's, what it reads, types of what it makes
    outputs: Sequence[int]


class Writing:
    """The jaxpr of a Program, equation by equation."""

    def __init__(self, program: Program, once: frozenset[Var]):
        self.program = program
        self.functions: list[tuple[Callable[..., Sequence[Any]], Sequence[Aval]]] = []
        self.kinds: dict[Any, int] = {}
        # The number of a kind, what it is applied to, and what it makes.
        self.calls: list[tuple[int, Sequence[Var], Sequence[Var]]] = []
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
        self.calls.append((number, inputs, outputs))

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
        forms, constants, consts, is_high = traced(self.functions)
        if is_high or any([q.effects for form in forms for q, _, _ in form.equations]):
            return None
        make = core.Var
        inputs = [make(type_of(v.aval)) for v in self.program.inputs]
        env: dict[Any, Any] = dict(zip(self.program.inputs, inputs, strict=True))
        equations: list[Any] = []
        for number, xs, ys in self.calls:
            form = forms[number]
            own = [*form.fixed, *[env[x] for x in xs]]
            for q, reads, types in form.equations:
                made = [make(t) for t in types]
                equations.append(q.replace(invars=[own[i] for i in reads], outvars=made))
                own += made
            env.update(zip(ys, [own[i] for i in form.outputs], strict=True))
        outputs = [
            core.Literal(x.value, type_of(x.aval)) if type(x) is Literal else env[x] for x in self.program.outputs
        ]
        of = core.DebugInfo("jit", "program", None, None)
        return core.Jaxpr([], [*constants, *inputs], outputs, equations, debug_info=of), consts


def traced(functions: Sequence[tuple[Callable[..., Any], Sequence[Aval]]]) -> tuple[list[Form], Any, Any, bool]:
    """The forms of functions, by one trace of them all; the constants in them; their values; whether some are high."""

    def all_of_them(groups: Any) -> Any:
        return [f(*xs) for (f, _), xs in zip(functions, groups, strict=True)]

    operands = [
        [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals] for _, avals in functions
    ]
    closed, results = jax.make_jaxpr(all_of_them, return_shape=True)(operands)
    jaxpr = closed.jaxpr
    maker = {v: i for i, q in enumerate(jaxpr.eqns) for v in q.outvars}
    inputs, outputs = iter(jaxpr.invars), iter(jaxpr.outvars)
    forms = [
        form_of([next(inputs) for _ in avals], [next(outputs) for _ in result], jaxpr.eqns, maker)
        for (_, avals), result in zip(functions, results, strict=True)
    ]
    return forms, jaxpr.constvars, closed.consts, getattr(jaxpr, "is_high", False)


def form_of(inputs: Sequence[Any], outputs: Sequence[Any], equations: Sequence[Any], maker: dict[Any, int]) -> Form:
    """Those of the equations that a function's outputs need; no other function's are among them."""
    needed: set[int] = set()
    todo = list(outputs)
    while todo:
        x = todo.pop()
        if not isinstance(x, core.Literal) and (i := maker.get(x)) is not None and i not in needed:
            needed.add(i)
            todo += equations[i].invars
    own = [equations[i] for i in sorted(needed)]
    read = [x for q in own for x in q.invars] + list(outputs)
    known = {*inputs, *[v for q in own for v in q.outvars]}
    fixed = [x for x in read if isinstance(x, core.Literal) or x not in known]
    # By identity: literals of one value are several.
    number = {id(v): i for i, v in enumerate([*fixed, *inputs, *[v for q in own for v in q.outvars]])}
    steps = [(q, [number[id(x)] for x in q.invars], [v.aval for v in q.outvars]) for q in own]
    return Form(fixed, steps, [number[id(x)] for x in outputs])


@cache
def jitted_params() -> dict[str, Any]:
    """The parameters of the call of a jitted function that says nothing of its one operand and its one result."""
    (call,) = jax.make_jaxpr(jax.jit(jax.lax.neg))(1.0).jaxpr.eqns
    return dict(call.params)


def as_jitted(jaxpr: Any) -> dict[str, Any]:
    """The parameters of the call of a jitted function of which this is the jaxpr."""
    counts = {"in": len(jaxpr.invars), "donated": len(jaxpr.invars), "out": len(jaxpr.outvars)}
    params = {
        name: value * counts[name.partition("_")[0]] if name.partition("_")[0] in counts else value
        for name, value in jitted_params().items()
    }
    return {**params, "jaxpr": core.ClosedJaxpr(jaxpr, ()), "name": "program"}
