"""Functions of JAX's with a derivative of their own, written down as functrace's: a Program of which has a text.

What JAX holds of one are Python functions; here they are traced, once and at the types that the equation has. A rule
may call its function (that of `slogdet` does), which is then a `recur`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from functrace.control.custom_jvp import CustomJvp
from functrace.control.custom_vjp import CustomVjp
from functrace.control.recur import RULES, Recur
from functrace.foreign.importing import Foreign
from functrace.ir import Equation, Primitive, Program
from functrace.ir.program import held_programs
from functrace.rewrites import memoised

DEEPEST = 8  # rules within rules; what goes on calling itself at other shapes stays as it is


class Around(NamedTuple):
    """A function whose rule is being written: it, and its rule as text. Functions that agree in both are one."""

    program: Program
    rule: str


@memoised
def settled(program: Program, around: tuple[Around | None, ...] = ()) -> Program:
    """The same Program, where JAX's custom derivatives are Programs too; `around` are those whose rule it is in."""
    equations = tuple([
        Equation(with_rule(eqn, around), eqn.inputs, eqn.outputs, eqn.source) for eqn in program.equations
    ])  # fmt: skip
    same = all([a.primitive is b.primitive for a, b in zip(equations, program.equations, strict=True)])
    return program if same else Program(program.inputs, equations, program.outputs)


def with_rule(eqn: Equation, around: tuple[Around | None, ...]) -> Primitive:
    """The primitive of an equation, with its rule as Programs, and so in the Programs that it holds."""
    prim = eqn.primitive
    if not isinstance(prim, Foreign):
        changed: dict[str, Any] = {}
        for name, value in prim.params.items():
            held = held_programs(value)
            made = tuple([settled(p, (None, *around) if name in RULES else around) for p in held])
            if any([a is not b for a, b in zip(held, made, strict=True)]):
                changed[name] = made if isinstance(value, tuple) else made[0]
        return dataclasses.replace(prim, **changed) if changed else prim  # pyright: ignore[reportArgumentType]
    program = prim.applied()
    is_jvp = prim.name == "custom_jvp_call"
    if program is None or prim.has_effects or len(around) > DEEPEST or not (is_jvp or prim.name == "custom_vjp_call"):
        return prim
    avals = [x.aval for x in eqn.inputs]
    moving = tuple([a.is_inexact for a in avals])
    if is_jvp:
        rules = (prim.pushforward(moving, [*avals, *[a for a in avals if a.is_inexact]]),)
    else:
        rules = prim.halves(moving, avals)
    this = Around(program, "\n".join(map(str, rules)))
    label, value = prim.name, settled(program, around)
    if this in around:
        return Recur(value, label, around.index(this))
    first, *rest = [settled(rule, (this, *around)) for rule in rules]
    return CustomJvp(value, first, 0, label) if is_jvp else CustomVjp(value, first, rest[0], 0, label)
