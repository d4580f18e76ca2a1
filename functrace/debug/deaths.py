"""Where a gradient dies by values: the equation whose results have a cotangent and whose operands have none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from functrace import numpy as fnp, rewrites
from functrace.control import OnBackward
from functrace.debug.scopes import held_by
from functrace.ir import Aval, Builder, Equation, Literal, Primitive, Program, Source, Var
from functrace.rewrites.memo import copy_input
from functrace.tracing import apply, trace


class Death(NamedTuple):
    """Why a gradient is zero, and at which line."""

    kind: str
    reason: str
    source: Source | None
    fix: str


class Extent(NamedTuple):
    """The smallest and the largest of all entries that a value had."""

    low: float
    high: float

    @property
    def size(self) -> float:
        """The largest modulus."""
        return max(abs(self.low), abs(self.high))


def extent(x: Any) -> Any:
    """Smallest and largest entry; of complex ones, of the moduli."""
    real = fnp.abs(x) if np.issubdtype(x.dtype, np.complexfloating) else x
    return fnp.stack([fnp.min(real), fnp.max(real)])


@lru_cache(maxsize=4096)
def extent_of(aval: Aval) -> Program:
    """`extent` for arrays of one type."""
    return trace(extent, [0], transform="explain_zero", avals=[aval.strong()]).program


def can_be_watched(x: Any) -> bool:
    """Whether a value is a variable with entries and a cotangent."""
    return type(x) is Var and x.aval.is_inexact and x.aval.size > 0


class Watching:
    """The extents of all values of a Program and the Programs in it, and of their cotangents."""

    def __init__(self) -> None:
        self.numbers: dict[Var, str] = {}  # a name for each variable, those of the Programs held included
        self.values: dict[str, Extent] = {}
        self.cotangents: dict[str, Extent] = {}

    @classmethod
    def of(cls, program: Program, moving: tuple[bool, ...], values: Sequence[Any]) -> Watching:
        """Compute value and gradient once, and take down the extents."""
        self = cls()
        joint, names = rewrites.collect(rewrites.pullback(self.watched(program), moving))
        outputs = apply(joint, values)
        for name, x in zip(names, outputs[len(outputs) - len(names) :], strict=True):
            kind, _, number = name.partition(" ")
            if kind in ("value", "cotangent") and number.isdigit():
                rows = np.asarray(x, float).reshape(-1, 2)
                rows = rows[~np.isnan(rows).all(axis=1)]  # of branches that were not taken
                if len(rows):
                    found = self.values if kind == "value" else self.cotangents
                    old = found.get(number)
                    low, high = rows[:, 0].min(), rows[:, 1].max()
                    found[number] = Extent(min(low, old.low), max(high, old.high)) if old else Extent(low, high)
        return self

    def watched(self, program: Program) -> Program:
        """The Program with a tap of the extents of every value and cotangent."""
        with Builder() as b:
            env: dict[Any, Any] = {v: self.tapped(b, v, copy_input(b, v)) for v in program.inputs}
            for eqn in program.equations:
                b.source = eqn.source
                prim = eqn.primitive.with_programs(self.watched)
                # As it stands: what simplifies away would not be watched.
                ys = b.append(prim, tuple([env.get(x, x) for x in eqn.inputs]))
                env.update({v: self.tapped(b, v, y) for v, y in zip(eqn.outputs, ys, strict=True)})
            b.source = None
            return b.build([env.get(y, y) for y in program.outputs])

    def tapped(self, b: Builder, v: Var, x: Any) -> Any:
        """What stands for `v`, watched under its number."""
        if not can_be_watched(x):
            return x
        number = self.numbers.setdefault(v, str(len(self.numbers)))
        tap, stop = Primitive.named["tap"], Primitive.named["stop_gradient"]
        tap(f"value {number}")(*b.inline(extent_of(x.aval), [stop(x)]))
        with Builder() as inner:
            ct = inner.input(x.aval.strong())
            tap(f"cotangent {number}")(*inner.inline(extent_of(ct.aval), [ct]))
            looking = inner.build([ct])
        return OnBackward(looking, 0, "explain_zero")(x)[0]

    def value(self, x: Any) -> Extent | None:
        """The extent of a value."""
        if type(x) is Literal:
            return Extent(float(np.real(x.value)), float(np.real(x.value)))
        return self.values.get(self.numbers.get(x, ""))

    def cotangent(self, x: Any) -> float:
        """The largest modulus of a cotangent, 0 where there is none."""
        found = self.cotangents.get(self.numbers.get(x, ""))
        return found.size if found else 0.0


class Stop(NamedTuple):
    """An equation at which a gradient dies, operands and all values on its path, and what `made` each value."""

    eqn: Equation
    on_path: tuple[Var, ...]
    path: set[Any]
    made: dict[Any, Equation]


def deaths(program: Program, moving: Sequence[bool], watching: Watching) -> Death:
    """Why no cotangent comes to the flagged input though a derivative does: the death nearest to the loss."""
    found = frontier(program, moving, watching)
    if not found:
        return Death(
            "flat", "the derivative of what is computed from it is zero at these values, or its terms cancel", None,
            "Look at the cotangents on the way with functrace.tap(x, name, cotangent=True).",
        )  # fmt: skip
    death, *others = [classified(stop, watching) for stop in found]
    lines = [str(d.source) for d in others if d.source and d.source != death.source]
    more = f" (and on other paths at {', '.join(dict.fromkeys(lines))})" if lines else ""
    return death._replace(reason=death.reason + more)


def frontier(program: Program, moving: Sequence[bool], watching: Watching) -> list[Stop]:
    """Equations on a path from the flagged inputs whose results have a cotangent and whose operands on the path have
    none; the last ones first."""
    path: set[Any] = {v for v, flag in zip(program.inputs, moving, strict=True) if flag}
    on_path: list[Equation] = []
    for eqn in program.equations:
        if not path.isdisjoint(eqn.inputs):
            on_path.append(eqn)
            path.update(eqn.outputs)
    made = {v: eqn for eqn in program.equations for v in eqn.outputs}
    found: list[Stop] = []
    for eqn in reversed(on_path):
        through = tuple([x for x in eqn.inputs if type(x) is Var and x in path and x.aval.is_inexact])
        alive = any(watching.cotangent(v) > 0 for v in eqn.outputs)
        if not through or not alive or any(watching.cotangent(x) > 0 for x in through):
            continue
        inside: list[Stop] = []
        flags = [x in path for x in eqn.inputs]
        for held in held_by(eqn.primitive):
            if len(held.inputs) <= len(flags):
                inside += frontier(held, flags[len(flags) - len(held.inputs) :], watching)
        found += inside or [Stop(eqn, through, path, made)]
    return found


def is_dead_unit(eqn: Equation, made: dict[Any, Equation], watching: Watching) -> bool:
    """Whether it is a relu that gives zero for every entry: a maximum, or a choice by what is chosen from."""
    out = watching.value(eqn.outputs[0])
    if out is None or out.size > 0:
        return False
    if eqn.primitive.name != "select_n":
        return eqn.primitive.name == "max"
    test = made.get(eqn.inputs[0])
    return test is not None and test.primitive.name in COMPARISONS and not set(eqn.inputs).isdisjoint(test.inputs)


def why_zero(x: Any, made: dict[Any, Equation], watching: Watching) -> Equation | None:
    """The relu from which a value is zero, if it is from one, and nothing but zeros between."""
    asked = [x]
    for v in asked:
        eqn, out = made.get(v), watching.value(v)
        if eqn is None or out is None or out.size > 0:
            continue
        if is_dead_unit(eqn, made, watching):
            return eqn
        asked += [u for u in eqn.inputs if type(u) is Var and u not in asked]
    return None


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
SELECTING = ("gather", "dynamic_slice", "slice", "reduce_max", "reduce_min", "sort", "dynamic_update_slice", "scatter",
             "cummax", "cummin", "reduce_window")  # fmt: skip
JOINING = ("concatenate", "pad")
SATURATING = ("logistic", "tanh", "erf", "erfc", "exp", "exp2", "expm1", "atan")
PRODUCTS = ("mul", "dot_general", "conv_general_dilated", "div")


def is_constant(x: Any, made: dict[Any, Equation]) -> bool:
    """Whether a value was written down: a literal, or one that is repeated."""
    while x in made and len(made[x].inputs) == 1:
        (x,) = made[x].inputs
    return type(x) is Literal


def compared(stop: Stop) -> Any:
    """What a `where` compares, if that is what it chooses from, or what this was made of: a bound."""
    eqn, through, path, made = stop
    test = made.get(eqn.inputs[0])
    if eqn.primitive.name != "select_n" or test is None or test.primitive.name not in COMPARISONS:
        return None
    near = {*through, *[x for v in through if v in made for x in made[v].inputs]}
    return next((x for x in test.inputs if x in path and x in near), None)


def classified(stop: Stop, watching: Watching) -> Death:
    """Why the cotangents of an equation's operands are zero, by its kind and its values."""
    eqn, through, _, made = stop
    name, dtype = eqn.primitive.name, eqn.outputs[0].aval.dtype
    ct = max(watching.cotangent(v) for v in eqn.outputs)
    of = [e for x in through if (e := watching.value(x)) is not None]
    spread = f" (its input is from {of[0].low:.3g} to {of[0].high:.3g})" if of else ""

    def death(kind: str, reason: str, fix: str, at: Equation = eqn) -> Death:
        return Death(kind, reason, at.source, fix)

    alive_units = "Lower the learning rate or the biases' magnitude, use He initialisation, or leaky_relu, gelu or elu."
    if is_dead_unit(eqn, made, watching):
        return death("dead", f"dead units: relu gives 0 for every entry{spread}", alive_units)
    bounded = compared(stop)
    if name in ("max", "min", "clamp") or bounded is not None:
        if bounded is not None:
            e = watching.value(bounded)
            spread = f" (what it compares is from {e.low:.3g} to {e.high:.3g})" if e else ""
        return death(
            "dead", f"every entry is beyond the bound of {'where' if bounded is not None else name}{spread}",
            "Widen the bound, scale what is bounded, or use a smooth bound (softplus, tanh).",
        )  # fmt: skip
    if name in ("select_n", "cond", *SELECTING, *JOINING):
        takes = {"select_n": "where (select_n) takes", "cond": "the branch of cond that was taken reads"}
        reason = f"{takes.get(name, f'{name} takes')} no entry of it here"
        if name in JOINING:
            reason = f"what is read of the result of {name} is not from it"
        return death("not selected", reason, "Look at the condition or the indices: another batch may select it.")
    if name in PRODUCTS:
        others = [x for x in eqn.inputs if x not in through or len(through) > 1 or eqn.inputs.count(x) > 1]
        factors = {x: e for x in others if (e := watching.value(x)) is not None}
        zero = [x for x, e in factors.items() if e.size == 0]
        relu = why_zero(zero[0], made, watching) if zero else None
        if relu and zero[0] in through:
            return death("dead", "dead units: relu gives 0 for every entry", alive_units, relu)
        if zero:
            since = f", since relu gives 0 for every entry at {relu.source}" if relu else ""
            fix = "Give the other factor a start that is not zero, or wait: once it moves, this gradient comes."
            if relu or is_constant(zero[0], made):
                fix = alive_units if relu else "Take the product away, or multiply by something else: it is a constant."
            return death(
                "zero factor", f"multiplied by zero: the other factor of {name} is 0 everywhere{since}", fix
            )
        smallest = min([e.size for e in factors.values()], default=0.0)
        return death(
            "underflow", f"underflow: in {name} a cotangent of at most {ct:.1e} times a factor of at most "
            f"{smallest:.1e} is below the smallest {dtype}",
            "Scale the loss, compute in a wider dtype, or work with logarithms.",
        )  # fmt: skip
    if isinstance(eqn.primitive, OnBackward):
        return death(
            "flat", "the function given to on_backward makes a cotangent of 0 for every entry",
            "Look at that function, or take the hook away.",
        )  # fmt: skip
    if name in SATURATING:
        return death(
            "saturated", f"{name} is saturated: its derivative is 0 in {dtype}{spread}",
            "Scale its input down (smaller weights, normalisation), or use a function that does not saturate.",
        )  # fmt: skip
    if 0 < ct < 1e-30:
        return death(
            "underflow", f"underflow: in {name} a cotangent of at most {ct:.1e} falls below the smallest {dtype}",
            "Scale the loss, or compute in a wider dtype.",
        )  # fmt: skip
    if name in ("while", "scan"):
        return death(
            "flat", f"no cotangent comes through the steps of {name}",
            "Look at one step alone: call explain_zero on the loop's body.",
        )  # fmt: skip
    label = getattr(eqn.primitive, "label", "")
    is_rule = bool(name.startswith("custom") and label)
    what = f"the rule of {label}" if is_rule else f"the derivative of {name}"
    fix = "Hold the rule against numerical derivatives: testing.gradcheck." if is_rule else (
        "Move the values away from there, or give the function another derivative (custom_vjp)."
    )  # fmt: skip
    return death("flat", f"{what} is zero at these values{spread}, or its terms cancel", fix)  # fmt: skip
