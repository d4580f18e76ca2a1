"""Kinds of equation as JAX writes them, and jaxprs that are put together from those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.core
from jax.extend import core

from functrace.ir import Aval, Var

FORMS = 10_000  # that are remembered


def settings() -> tuple[Any, ...]:
    """Those of JAX's under which what it makes of one function differs."""
    c: Any = jax.config
    return (
        c.jax_enable_x64, c.jax_default_matmul_precision, c.jax_numpy_dtype_promotion, c.jax_default_prng_impl,
    )  # fmt: skip


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
    constants: Sequence[tuple[Any, Any]] = ()  # of the fixed ones, those that are variables, with their values
    is_whole: bool = True  # whether this is all there is to it: no effect, nothing that JAX is to take apart yet


class Call(NamedTuple):
    """A form, by its number, what it is applied to, and what it makes."""

    form: int
    inputs: Sequence[Var]
    outputs: Sequence[Var]


known_forms: dict[Any, Form] = {}


def forms_of(kinds: Sequence[Any], functions: Sequence[tuple[Callable[..., Any], Sequence[Aval]]]) -> list[Form]:
    """The forms of functions, each of which is known by its kind: those that are new are traced, all at once."""
    (probe,) = jax.make_jaxpr(jax.lax.neg)(1.0).jaxpr.eqns
    surroundings = probe.ctx, settings()
    found = [known_forms.get((surroundings, kind)) for kind in kinds]
    new = iter(traced([f for f, form in zip(functions, found, strict=True) if form is None]))
    forms = [form or next(new) for form in found]
    for kind, known, form in zip(kinds, found, forms, strict=True):
        if known is None and form.is_whole and not form.constants:
            if len(known_forms) >= FORMS:
                known_forms.clear()
            known_forms[surroundings, kind] = form
    return forms


def traced(functions: Sequence[tuple[Callable[..., Any], Sequence[Aval]]]) -> list[Form]:
    """The forms of functions, by one trace of them all."""

    def all_of_them(groups: Any) -> Any:
        return [f(*xs) for (f, _), xs in zip(functions, groups, strict=True)]

    if not functions:
        return []
    operands = [
        [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals] for _, avals in functions
    ]
    closed, results = jax.make_jaxpr(all_of_them, return_shape=True)(operands)
    jaxpr = closed.jaxpr
    maker = {v: i for i, q in enumerate(jaxpr.eqns) for v in q.outvars}
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    is_high = getattr(jaxpr, "is_high", False)
    inputs, outputs = iter(jaxpr.invars), iter(jaxpr.outvars)
    return [
        form_of([next(inputs) for _ in avals], [next(outputs) for _ in result], jaxpr.eqns, maker, values, is_high)
        for (_, avals), result in zip(functions, results, strict=True)
    ]


def form_of(
    inputs: Sequence[Any], outputs: Sequence[Any], equations: Sequence[Any], maker: dict[Any, int],
    values: dict[Any, Any], is_high: bool,
) -> Form:  # fmt: skip
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
    constants = [(x, values[x]) for x in dict.fromkeys([x for x in fixed if not isinstance(x, core.Literal)])]
    is_whole = not is_high and not any([q.effects for q in own])
    return Form(fixed, steps, [number[id(x)] for x in outputs], constants, is_whole)


def written(calls: Sequence[Call], forms: Sequence[Form], env: dict[Any, Any]) -> list[Any]:
    """The equations of JAX's that these calls are.

    `env` holds JAX's variable for each variable that they read, and for each constant. What they make is added.
    """
    make = core.Var
    equations: list[Any] = []
    for number, xs, ys in calls:
        form = forms[number]
        own = [x if isinstance(x, core.Literal) else env[x] for x in form.fixed]
        own += [env[x] for x in xs]
        for q, reads, types in form.equations:
            made = [make(t) for t in types]
            equations.append(q.replace(invars=[own[i] for i in reads], outvars=made))
            own += made
        env.update(zip(ys, [own[i] for i in form.outputs], strict=True))
    return equations


def jaxpr_of(inputs: Sequence[Any], equations: Sequence[Any], outputs: Sequence[Any], name: str) -> Any:
    """A jaxpr with nothing to tell of its source."""
    return core.Jaxpr([], inputs, outputs, equations, debug_info=core.DebugInfo("jit", name, None, None))


@cache
def call_of_jitted() -> Any:
    """JAX's equation that calls a jitted function of which nothing is said but that it negates its operand."""
    (call,) = jax.make_jaxpr(jax.jit(jax.lax.neg))(1.0).jaxpr.eqns
    return call


def as_jitted(jaxpr: Any) -> dict[str, Any]:
    """The parameters of the call of a jitted function of which this is the jaxpr."""
    counts = {"in": len(jaxpr.invars), "donated": len(jaxpr.invars), "out": len(jaxpr.outvars)}
    params = {
        name: value * counts[name.partition("_")[0]] if name.partition("_")[0] in counts else value
        for name, value in call_of_jitted().params.items()
    }
    return {**params, "jaxpr": core.ClosedJaxpr(jaxpr, ()), "name": jaxpr.debug_info.func_name}
