"""custom_jvp: a Program with a pushforward of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from functrace.control.call import Applies, Call, collected_beside, forced, uses_axis
from functrace.control.groups import needed_inputs
from functrace.control.recur import recurs, unrolled
from functrace.errors import RuleError
from functrace.ir import Atom, Aval, Builder, Program, Sample, ambient, primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.elementwise import mul
from functrace.primitives.space import batched_operand, zeros
from functrace.primitives.unary import cos, sin
from functrace.rewrites.separate import separate


@primitive
class CustomJvp(Applies):
    """`program(*operands)`, differentiated by `rule: (c, x, dx) -> (y, dy)`.

    The first `captures` operands are what the functions closed over; they have no tangent rule.
    `rule` takes a tangent for each inexact operand after those and gives one for each inexact
    output.
    """

    name = "custom_jvp"
    multiple_results = True
    jvp_has_value = True
    program: Program
    rule: Program
    captures: int
    label: str

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            program = b.build([sin(b.input(aval))])
        with Builder() as b:
            x, dx = b.input(aval), b.input(aval)
            rule = b.build([sin(x), mul(cos(x), dx)])
        yield Sample(CustomJvp(program, rule, 0, "sample"), (aval,))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.program.has_effects

    @property
    def goes_forward(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        n = len(self.program.outputs)
        values = tuple([i < n for i in range(len(self.rule.outputs))])
        # Of a rule whose values depend on the tangents, reverse mode says what is wrong.
        return not any(needed_inputs(self.rule, values)[len(self.program.inputs) :])

    def shape(self, *xs: Aval) -> Any:
        return self.program.out_avals

    def lower(self, *xs: Any) -> Any:
        return with_jax_rule(self.program, lambda: unrolled(self.rule, self), self.captures, self.label, xs)

    def tangents(self, xs: Sequence[Any], dxs: Sequence[Any]) -> list[Any]:
        """The tangents that the rule takes, zeros filled in."""
        refuse_captured(self.label, self.captures, dxs)
        return [
            zeros(x.aval) if dx is None else dx
            for x, dx in zip(xs[self.captures :], dxs[self.captures :], strict=True)
            if x.aval.is_inexact
        ]

    def pushed(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """The rule's outputs as results and their tangents."""
        n = len(self.program.outputs)
        rest = iter(outputs[n:])
        return outputs[:n], [next(rest) if a.is_inexact else None for a in self.program.out_avals]

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self.pushed(ambient().inline(unrolled(self.rule, self), [*xs, *self.tangents(xs, dxs)]))

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        tangents = self.tangents(xs, dxs)
        flags = (True,) * len(xs) + (False,) * len(tangents)
        outputs, known = separate(ambient(), unrolled(self.rule, self), [*xs, *tangents], flags)
        if not all(known[: len(self.program.outputs)]):
            raise RuleError(
                f"{self.label}: the output of its jvp rule depends on the tangents; only the tangent of the "
                "output may."
            )
        return self.pushed(outputs)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        if recurs(self.rule):
            xs, batched = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)], [True] * len(xs)
        flags = tuple(batched)
        inexact = tuple(
            b for x, b in list(zip(xs, flags, strict=True))[self.captures :] if x.aval.is_inexact
        )
        program = forced(self.program, size, flags, name)
        rule = forced(self.rule, size, flags + inexact, name)
        batched_self = CustomJvp(program, rule, self.captures, self.label)
        return batched_self(*xs), (True,) * len(program.outputs)

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        return collected_beside(self, xs)

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.program, name) or uses_axis(self.rule, name)


def with_jax_rule(
    program: Program, rule: Callable[[], Program], captures: int, label: str, xs: Sequence[Any]
) -> Any:
    """`program(*xs)` as JAX computes it, and differentiates it by `rule()` when it is JAX that is asked to.

    What was closed over is closed over again, so that a derivative in it is JAX's error.
    """
    closed, operands = xs[:captures], xs[captures:]
    moves = [v.aval.is_inexact for v in program.inputs[captures:]]

    @jax.custom_jvp
    def function(*xs: Any) -> list[Any]:
        return Call(program, label).lower(*closed, *xs)

    @function.defjvp
    def pushforward(xs: Any, dxs: Any) -> Any:
        moving = [dx for dx, m in zip(dxs, moves, strict=True) if m]
        outputs = evaluate(rule(), [*closed, *xs, *moving])
        n = len(program.outputs)
        rest = iter(outputs[n:])
        zero = lambda a: np.zeros(a.shape, jax.dtypes.float0)
        return outputs[:n], [next(rest) if a.is_inexact else zero(a) for a in program.out_avals]

    return function(*operands)


def refuse_captured(label: str, captures: int, dxs: Sequence[Any]) -> None:
    """A rule says nothing about what it closed over, so a tangent there is an error, not a zero."""
    if any(dx is not None for dx in dxs[:captures]):
        raise RuleError(
            f"{label}: a function with a custom derivative closes over a value that is being "
            "differentiated; its rule says nothing about that value. Pass the value as an argument, "
            "or wrap it in stop_gradient."
        )
