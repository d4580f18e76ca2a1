"""custom_vjp: a Program with a pullback of its own, which serves forward mode too.

A pullback is linear in the cotangent, so its transpose is the pushforward. `CustomLinear` is that
transpose, written down and not yet carried out: transposed again, as reverse mode does, it is the
pullback itself, to the last bit and linear or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from functrace.control.call import Applies, Call, collected_beside, forced, uses_axis
from functrace.control.custom_jvp import refuse_captured, with_jax_rule
from functrace.control.recur import recurs, unrolled
from functrace.errors import RuleError
from functrace.ir import Atom, Aval, Builder, Program, Sample, Undefined, ambient, primitive
from functrace.ir.dependence import Matrix, Site
from functrace.ir.primitive import Primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.elementwise import mul
from functrace.primitives.space import batched_operand, reduce_sum, zeros
from functrace.primitives.unary import cos, sin
from functrace.rewrites import batch, memoised, transpose
from functrace.rewrites.memo import copy_input, scatter
from functrace.rewrites.transpose import instantiate


def is_linear(pullback: CustomLinear) -> bool:
    """Whether a pullback can be transposed, and does nothing besides."""
    if pullback.backward.has_effects:
        return False
    try:
        pullback.pushforward()
    except RuleError:
        return False
    return True


@primitive
class CustomVjp(Applies):
    """`program(*operands)`, differentiated by `forward` and `backward`.

    forward: (c, x) -> (y, r); backward: (r, ct_y) -> ct_x, with a cotangent for each inexact output
    and each inexact operand after the first `captures`, which are what the functions closed over.
    """

    name = "custom_vjp"
    multiple_results = True
    jvp_has_value = True
    program: Program
    forward: Program
    backward: Program
    captures: int
    label: str

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            program = b.build([sin(b.input(aval))])
        with Builder() as b:
            x = b.input(aval)
            forward = b.build([sin(x), cos(x)])
        with Builder() as b:
            r, ct = b.input(aval), b.input(aval)
            backward = b.build([mul(r, ct)])
        yield Sample(CustomVjp(program, forward, backward, 0, "sample"), (aval,))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.program.has_effects

    @property
    def goes_forward(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return is_linear(self._linear(unrolled(self.backward, self)))

    def _linear(self, backward: Program) -> CustomLinear:
        return CustomLinear(backward, len(self.forward.outputs) - len(self.program.outputs), self.label)

    def shape(self, *xs: Aval) -> Any:
        return self.program.out_avals

    def lower(self, *xs: Any) -> Any:
        forward, backward = unrolled(self.forward, self), unrolled(self.backward, self)
        linear = self._linear(backward)
        try:
            rule = pushforward(forward, linear.pushforward(), len(self.program.outputs))
        except RuleError:  # the backward function is not linear: JAX gets reverse mode alone
            return self._with_jax_pullback(xs)
        return with_jax_rule(self.program, lambda: rule, self.captures, self.label, xs)

    def _with_jax_pullback(self, xs: Sequence[Any]) -> Any:
        """As `with_jax_rule`, for reverse mode only."""
        closed, operands = xs[: self.captures], xs[self.captures :]
        n, out_avals = len(self.program.outputs), self.program.out_avals

        @jax.custom_vjp
        def function(*xs: Any) -> list[Any]:
            return Call(self.program, self.label).lower(*closed, *xs)

        def forward(*xs: Any) -> Any:
            outputs = evaluate(unrolled(self.forward, self), [*closed, *xs])
            return outputs[:n], outputs[n:]

        def backward(residuals: Any, cts: Any) -> Any:
            given = [ct for ct, a in zip(cts, out_avals, strict=True) if a.is_inexact]
            ct_xs = iter(evaluate(unrolled(self.backward, self), [*residuals, *given]))
            avals = [v.aval for v in self.program.inputs[self.captures :]]
            zero = lambda a: np.zeros(a.shape, jax.dtypes.float0)
            return tuple([next(ct_xs) if a.is_inexact else zero(a) for a in avals])

        function.defvjp(forward, backward)
        return function(*operands)

    def _differentiate(self, xs: Sequence[Any], dxs: Sequence[Any], push: Any) -> tuple[Any, Any]:
        refuse_captured(self.label, self.captures, dxs)
        n = len(self.program.outputs)
        outputs = ambient().inline(unrolled(self.forward, self), xs)
        ys, residuals = outputs[:n], outputs[n:]
        tangents = [
            zeros(x.aval) if dx is None else dx
            for x, dx in zip(xs[self.captures :], dxs[self.captures :], strict=True)
            if x.aval.is_inexact
        ]
        backward = unrolled(self.backward, self)
        dys = push(CustomLinear(backward, len(residuals), self.label), [*residuals, *tangents])
        inexact = tuple(a.is_inexact for a in self.program.out_avals)
        return ys, scatter(inexact, dys)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self._differentiate(xs, dxs, lambda linear, args: linear.expand(args))

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self._differentiate(xs, dxs, lambda linear, args: linear(*args))

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        again = recurs(self.forward) or recurs(self.backward)  # within itself, where all has a batch axis
        if again:
            xs, batched = [batched_operand(x, b, size) for x, b in zip(xs, batched, strict=True)], [True] * len(xs)
        flags = tuple(batched)
        program = forced(self.program, size, flags, name)
        n = len(program.outputs)
        fill = [i < n or again for i in range(len(self.forward.outputs))]
        forward, out_flags = batch(self.forward, size, flags, name, tuple(fill))
        inexact = tuple(
            b for x, b in list(zip(xs, flags, strict=True))[self.captures :] if x.aval.is_inexact
        )
        residuals = out_flags[n:]
        in_flags = (*residuals, *(True,) * (len(self.backward.inputs) - len(residuals)))
        backward = batch_pullback(self.backward, size, in_flags, inexact, name)
        batched_self = CustomVjp(program, forward, backward, self.captures, self.label)
        return batched_self(*xs), (True,) * len(program.outputs)

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        return collected_beside(self, xs)

    def uses_axis(self, name: Any) -> bool:
        return any(uses_axis(p, name) for p in (self.program, self.forward, self.backward))


@primitive
class CustomLinear(Applies):
    """`transpose(backward)(residuals, dx) -> dy`: a pullback's transpose, not yet carried out."""

    name = "custom_linear"
    multiple_results = True
    backward: Program
    residuals: int
    label: str

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            r, ct = b.input(aval), b.input(aval)
            backward = b.build([mul(r, ct)])
        yield Sample(CustomLinear(backward, 1, "sample"), (aval, aval))

    @property
    def goes_forward(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return is_linear(self)

    def shape(self, *xs: Aval) -> Any:
        return tuple(v.aval for v in self.backward.inputs[self.residuals :])

    def pushforward(self) -> Program:
        """`(r, dx) -> dy`, by transposing the pullback."""
        linear = (False,) * self.residuals + (True,) * (len(self.backward.inputs) - self.residuals)
        try:
            return transposed(self.backward, linear)
        except NotImplementedError as error:
            raise RuleError(
                f"{self.label}: forward mode needs the transpose of its backward function, which is not linear in the "
                f"cotangent ({error}). Reverse mode works; for forward mode make that function linear, or define a "
                "function with custom_jvp."
            ) from error

    def expand(self, xs: Sequence[Any]) -> list[Any]:
        """Carry the transpose out, in the ambient Builder."""
        return ambient().inline(self.pushforward(), xs)

    def lower(self, *xs: Any) -> Any:
        return Call(self.pushforward(), self.label).lower(*xs)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        call = Call(self.pushforward(), self.label)
        return call.jvp(xs, dxs)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        if any(dx is not None for dx in dxs[: self.residuals]):
            return Call(self.pushforward(), self.label).linearize(xs, dxs)
        tangents = instantiate(dxs[self.residuals :], xs[self.residuals :])
        return self(*xs), self(*xs[: self.residuals], *tangents)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        if any(isinstance(x, Undefined) for x in xs[: self.residuals]):
            return super().transpose(ct, *xs)
        cts = instantiate(ct, self.backward.inputs[self.residuals :])
        ct_xs = ambient().inline(self.backward, [*xs[: self.residuals], *cts])
        linear = tuple(isinstance(x, Undefined) for x in xs)
        kept = [c for c, flag in zip(ct_xs, linear[self.residuals :], strict=True) if flag]
        return scatter(linear, kept)

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        try:
            linear = self.pushforward()
        except RuleError:  # the backward function is not linear
            return super().presence(cts, *xs)
        return Call(linear, self.label).presence(cts, *xs)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        flags = tuple(batched)
        cts = len(self.backward.inputs) - self.residuals
        in_flags = flags[: self.residuals] + (True,) * cts
        backward = batch_pullback(self.backward, size, in_flags, flags[self.residuals :], name)
        return CustomLinear(backward, self.residuals, self.label)(*xs), (True,) * cts

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        return self(*xs), []  # the pullback is not carried out

    def applied(self) -> Program:
        return self.pushforward()

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        try:
            return super().pattern(at)
        except RuleError:  # the backward function is not linear: only reverse mode is there
            return Primitive.pattern(self, at)

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.backward, name)


@memoised
def pushforward(forward: Program, linear: Program, outputs: int) -> Program:
    """`(c, x, dx) -> (y, dy)` of `(c, x) -> (y, r)`, y the first `outputs`, and `(r, dx) -> dy`."""
    with Builder() as b:
        ys = b.inline(forward, [copy_input(b, v) for v in forward.inputs])
        residuals = ys[outputs:]
        dxs = [copy_input(b, v) for v in linear.inputs[len(residuals) :]]
        return b.build([*ys[:outputs], *b.inline(linear, [*residuals, *dxs])])


@memoised
def transposed(backward: Program, linear: tuple[bool, ...]) -> Program:
    """`(r, dx) -> dy` for a pullback `(r, ct_y) -> ct_x`, zeros filled in."""
    program, found = transpose(backward, linear, (True,) * len(backward.outputs))
    with Builder() as b:
        inputs = [copy_input(b, v) for v in program.inputs]
        dys = scatter(found, b.inline(program, inputs))
        like = [v for v, flag in zip(backward.inputs, linear, strict=True) if flag]
        return b.build(instantiate(dys, like))


@memoised
def batch_pullback(
    backward: Program, size: int, in_flags: tuple[bool, ...], x_flags: tuple[bool, ...], name: Any
) -> Program:
    """The batched pullback; the cotangent of an operand without a batch axis is summed over it."""
    program = forced(backward, size, in_flags, name)
    with Builder() as b:
        ct_xs = b.inline(program, [copy_input(b, v) for v in program.inputs])
        return b.build(
            [ct if flag else reduce_sum(ct, (0,)) for ct, flag in zip(ct_xs, x_flags, strict=True)]
        )


__all__ = ["CustomLinear", "CustomVjp"]
