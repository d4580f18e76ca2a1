"""Kinds of equation: what JAX is handed for equations that are alike, found once.

A deep model repeats a few hundred kinds of equation thousands of times: a primitive and its parameters, the types of
its operands, and those of them that are literals. Each is text (`lower/plain.py`), or JAX traces it, alone, as a form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.core
from jax.extend import core

from functrace.ir import Aval, Equation, Var
from functrace.lower.plain import Text

KINDS = 10_000  # that are remembered


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


def jax_type(x: Any) -> Any:
    """JAX's type of a variable, of ours or of its own."""
    return type_of(x.aval) if isinstance(x.aval, Aval) else x.aval


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


@dataclass(eq=False)
class Kind:
    """Equations that are alike."""

    function: Callable[..., Sequence[Any]] | None  # what JAX traces for them; None with a form from the start
    avals: Sequence[Aval]  # of the operands, without literals
    text: Text | None = None  # if JAX need not be asked
    form: Form | None = None  # else; and where JAX is to transform it
    texts: dict[Any, Text | None] = field(default_factory=dict)  # that JAX made of the form, by where they are good

    @property
    def variables(self) -> list[Any]:
        """The constants, as they are read: one may be there twice."""
        return [x for x in self.form.fixed if not isinstance(x, core.Literal)] if self.form else []

    @property
    def size(self) -> int:
        """How many equations of JAX's it is."""
        return len(self.form.equations) if self.form else 1


class Call(NamedTuple):
    """A kind, by its number, what it is applied to, what it makes, and the equation that it stands for."""

    kind: int
    inputs: Sequence[Var]
    outputs: Sequence[Var]
    equation: Equation | None = None


known_kinds: dict[Any, Kind] = {}


def met(keys: Sequence[Any], kinds: Sequence[Callable[[], Kind]]) -> list[Kind]:
    """The kinds that are known by these keys; those that are new are made, and traced where they have no text."""
    (probe,) = jax.make_jaxpr(jax.lax.neg)(1.0).jaxpr.eqns
    surroundings = probe.ctx, settings()
    known = [known_kinds.get((surroundings, key)) for key in keys]
    found = [kind or make() for kind, make in zip(known, kinds, strict=True)]
    trace([kind for kind in found if not kind.text])
    for key, old, kind in zip(keys, known, found, strict=True):
        if old is None and (kind.form is None or (kind.form.is_whole and not kind.form.constants)):
            if len(known_kinds) >= KINDS:
                known_kinds.clear()
            known_kinds[surroundings, key] = kind
    return found


def trace(kinds: Sequence[Kind]) -> None:
    """Give all of these a form, by one trace of those that have none."""
    new = [kind for kind in kinds if kind.form is None]
    for kind, form in zip(new, traced([(kind.function, kind.avals) for kind in new]), strict=True):
        kind.form = form


def traced(functions: Sequence[tuple[Any, Sequence[Aval]]]) -> list[Form]:
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


def written(calls: Sequence[Call], kinds: Sequence[Kind], env: dict[Any, Any]) -> list[Any]:
    """The equations of JAX's that these calls are.

    `env` holds JAX's variable for each variable that they read, and for each constant. What they make is added.
    """
    trace(kinds)
    equations: list[Any] = []
    for number, xs, ys, _ in calls:
        kind = kinds[number]
        made = applied(kind, [env[x] for x in kind.variables], [env[x] for x in xs], equations)
        env.update(zip(ys, made, strict=True))
    return equations


def applied(kind: Kind, constants: Sequence[Any], operands: Sequence[Any], equations: list[Any]) -> list[Any]:
    """JAX's variables that a kind of equation makes; its equations are added."""
    form: Any = kind.form
    rest = iter(constants)
    own = [x if isinstance(x, core.Literal) else next(rest) for x in form.fixed]
    own += operands
    for q, reads, types in form.equations:
        made = [core.Var(t) for t in types]
        equations.append(q.replace(invars=[own[i] for i in reads], outvars=made))
        own += made
    return [own[i] for i in form.outputs]


def jaxpr_of_kind(kind: Kind) -> Any:
    """A kind that was traced, as a function of its constants, of which one may come twice, and its operands."""
    constants, operands = [core.Var(x.aval) for x in kind.variables], [core.Var(type_of(a)) for a in kind.avals]
    equations: list[Any] = []
    outputs = applied(kind, constants, operands, equations)
    return jaxpr_of([*constants, *operands], equations, outputs, "kind")


def jaxpr_of(inputs: Sequence[Any], equations: Sequence[Any], outputs: Sequence[Any], name: str) -> Any:
    """A jaxpr with nothing to tell of its source."""
    return core.Jaxpr([], inputs, outputs, equations, debug_info=core.DebugInfo("jit", name, None, None))
