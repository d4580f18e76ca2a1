"""Why a gradient is zero: by what no derivative goes through, or by values.

First the Program alone is asked: does the parameter take part, and does a derivative reach the loss from it? Where
one does, the gradient is computed once more with every cotangent watched, and walked back from the loss to the
equations at which it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
from jax import tree_util

from functrace import rewrites
from functrace.control.checkpoint import inlined
from functrace.debug.deaths import COMPARISONS, Death, Watching, deaths
from functrace.debug.scopes import held_by
from functrace.ir import Builder, Equation, Program
from functrace.rewrites.memo import copy_input
from functrace.tracing import apply
from functrace.tracing.trace import leaf_names, parameter_names
from functrace.transforms.arguments import check_call, check_callable
from functrace.transforms.auxiliary import trace_with_aux
from functrace.transforms.grad import check_inputs, check_output


class ZeroRow(NamedTuple):
    """A parameter leaf whose gradient is exactly zero, why, at which line of yours, and what to do.

    kind: "unused", "blocked", "dead", "zero factor", "not selected", "saturated", "underflow" or "flat".
    """

    name: str
    kind: str
    reason: str
    file: str | None
    line: int | None
    fix: str


@dataclass(frozen=True)
class ZeroReport:
    """The leaves whose gradient is zero, in `rows`, of `count` leaves in all."""

    rows: tuple[ZeroRow, ...]
    count: int

    def __str__(self) -> str:
        if not self.rows:
            return f"None of {self.count} gradients is zero."
        lines = [f"{len(self.rows)} of {self.count} gradients are exactly zero."]
        for r in self.rows:
            lines += [f"  {r.name}: {r.reason}", f"    {r.fix}"]
        return "\n".join(lines)


def explain_zero(loss: Callable[..., Any], has_aux: bool = False) -> Callable[..., ZeroReport]:
    """Why each gradient that is exactly zero is so.

    Args:
      loss: a function of `(params, *batch)` to a real scalar.
      has_aux: whether it returns `(scalar, aux)`.
    Returns:
      A function of `(params, *batch)` that returns a `ZeroReport`: `print` it, or read its `rows`.
    Raises:
      DtypeError: a parameter has no derivatives, or the loss is no real scalar.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> report = ft.debug.explain_zero(lambda p: fnp.round(p["a"]) * p["b"])({"a": 1.2, "b": 0.5, "c": 3.0})
    >>> [(row.name, row.kind) for row in report.rows]
    [('p.a', 'blocked'), ('p.c', 'unused')]
    """
    check_callable("explain_zero", loss)

    @wraps(loss)
    def explained(*args: Any) -> ZeroReport:
        check_call("explain_zero", loss, args, {}, first=True)
        params = args[0]
        leaves = tree_util.tree_leaves(params)
        check_inputs("explain_zero", [params], leaves, [0])
        traced, _, _, n = trace_with_aux("explain_zero", loss, args, has_aux, own_lines=True)
        check_output("explain_zero", traced, n)
        program = inlined(Program(traced.program.inputs, traced.program.equations, traced.program.outputs[:1]))
        values = [*traced.captures, *tree_util.tree_leaves(args)]
        c = len(traced.captures)
        names = leaf_names((params,), {}, parameter_names(loss)[:1])
        moving = tuple([c <= i < c + len(leaves) for i in range(len(values))])
        gradient = apply(rewrites.pullback(program, moving), values)[1:]
        zero = [i for i, g in enumerate(gradient) if not np.asarray(g).any()]
        rows, watching = [], None
        for i in zero:
            flags = tuple([k == c + i for k in range(len(values))])
            found = unused(program, c + i) or blocked(program, flags)
            if found is None:
                watching = watching or Watching.of(program, moving, values)
                found = deaths(program, flags, watching)
            rows.append(row(names[i], found))
        return ZeroReport(tuple(rows), len(leaves))

    return explained


def row(name: str, found: Death) -> ZeroRow:
    """A death as a row of the report."""
    where = f", at {found.source}" if found.source else ""
    file, line = (found.source.file, found.source.line) if found.source else (None, None)
    return ZeroRow(name, found.kind, found.reason + where, file, line, found.fix)


def needed(program: Program) -> set[Any]:
    """The values that the loss depends on."""
    found: set[Any] = set(program.outputs)
    for eqn in reversed(program.equations):
        if not found.isdisjoint(eqn.outputs):
            found.update(eqn.inputs)
    return found


def unused(program: Program, i: int) -> Death | None:
    """Whether the loss does not depend on an input."""
    if program.inputs[i] in needed(program):
        return None
    return Death(
        "unused", "the loss never uses it", None,
        "Use it, or leave it out of the parameters; an overwritten variable is the usual cause.",
    )  # fmt: skip


def blocked(program: Program, moving: Sequence[bool]) -> Death | None:
    """The equations that the loss depends on and that no derivative goes through, if no path has one."""
    moved, blocks = derivative_paths(program, moving)
    if any(moved):
        return None
    source = blocks[0].source if blocks else None
    at_once = [eqn for eqn in blocks if eqn.source == source]  # a line such as x // 2 compares, too
    block = next((eqn for eqn in at_once if eqn.primitive.name not in COMPARISONS), blocks[0] if blocks else None)
    others = [f"{describe(eqn)} at {eqn.source}" for eqn in blocks[1:4] if eqn.source != source]
    reason = f"no derivative goes through {describe(block) if block else 'what is computed from it'}"
    if others:
        reason += f" (nor through {', '.join(others)})"
    return Death("blocked", reason, source, fix_for(block))


def derivative_paths(program: Program, moving: Sequence[bool]) -> tuple[list[bool], list[Equation]]:
    """Which outputs have a derivative in the flagged inputs, and the needed equations at which it ends."""
    wanted = needed(program)
    tangents: dict[Any, Any] = {}
    blocks: list[Equation] = []
    with Builder() as b:
        env: dict[Any, Any] = {v: copy_input(b, v) for v in program.inputs}
        for v, flag in zip(program.inputs, moving, strict=True):
            if flag:
                tangents[v] = b.input(v.aval)
        for eqn in program.equations:
            operands = tuple([env.get(x, x) for x in eqn.inputs])
            dxs = [tangents.get(x) for x in eqn.inputs]
            prim, dys = eqn.primitive, ()
            if any(dx is not None for dx in dxs):
                ys, dys = prim.linearize(operands, dxs)
                ys, dys = (ys, dys) if prim.multiple_results else ((ys,), (dys,))
                if all(dy is None for dy in dys) and not wanted.isdisjoint(eqn.outputs):
                    inside = [blocks_inside(p, [dx is not None for dx in dxs]) for p in held_by(prim)]
                    blocks += [e for found in inside for e in found] or [eqn]
            else:
                ys = b.emit(prim, operands)
            env.update(zip(eqn.outputs, ys, strict=True))
            tangents.update({v: dy for v, dy in zip(eqn.outputs, dys, strict=False) if dy is not None})
    return [y in tangents for y in program.outputs], blocks


def blocks_inside(held: Program, moving: Sequence[bool]) -> list[Equation]:
    """The same for a Program that an equation holds, which takes the last of its operands."""
    if len(held.inputs) > len(moving):
        return []
    return derivative_paths(held, moving[len(moving) - len(held.inputs) :])[1]


def describe(eqn: Equation) -> str:
    """What stopped a derivative, in the user's words."""
    name = eqn.primitive.name
    if name in COMPARISONS:
        return f"the comparison {name}"
    if name == "convert_element_type":
        return f"the cast to {eqn.outputs[0].aval.dtype}"
    return name


def fix_for(eqn: Equation | None) -> str:
    """What to do about an equation that no derivative goes through."""
    name = eqn.primitive.name if eqn else ""
    if name == "stop_gradient":
        return "Take stop_gradient away, if the parameter is to be trained."
    if name in COMPARISONS:
        return "Use a smooth function in the place of the comparison (sigmoid of the difference)."
    if name in ("argmax", "argmin", "sort"):
        return "Use softmax weights in the place of the index, or a score-function estimator."
    if name == "convert_element_type":
        return "Keep it floating, or use a straight-through estimator: x + stop_gradient(cast(x) - x)."
    return f"Use a straight-through estimator: x + stop_gradient({name or 'f'}(x) - x)."


