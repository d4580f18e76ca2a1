"""call: apply a Program that several equations may share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import numpy as np

from functrace.control.groups import cut, firsts, narrowed, of_each_kind, output_kinds
from functrace.control.masked import given, with_masks
from functrace.ir import Atom, Aval, Builder, Literal, Program, Run, Sample, Undefined, Var, primitive
from functrace.ir.dependence import Matrix, Site
from functrace.ir.primitive import Primitive
from functrace.lower.staging import staged
from functrace.primitives.elementwise import mul
from functrace.primitives.unary import cos
from functrace.rewrites import batch, collect, jvp, linearize, memoised, series, squares, transpose
from functrace.rewrites.laplacian import Directions
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.pattern import through
from functrace.rewrites.separate import separated, split
from functrace.rewrites.series import flat, present, unflat
from functrace.rewrites.thread import Thread, threads_call
from functrace.rewrites.transpose import presence, transposed


class Applies(Primitive):
    """What applies a Program to its operands, whatever its derivative is."""

    multiple_results = True
    program: Program

    def applied(self) -> Program:
        """The Program that is applied."""
        return self.program

    def runs(self) -> tuple[Run, ...]:
        return (Run(self.applied()),)

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        return through(self.applied(), at.operands, at.unbounded)

    def inner(self, *xs: Aval) -> tuple[Program, ...]:
        return (self.applied(),)

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        return threads_call(Call(at.into(), self.name), at, state, xs)


@primitive
class Call(Applies):
    """`program(*operands)`: what a `jit` inside a trace becomes. Lowered once for all its calls."""

    name = "call"
    multiple_results = True
    pushes_inner = True
    at_once = True
    masks = True
    program: Program
    label: str

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            x, y = b.input(aval), b.input(aval)
            program = b.build([mul(cos(x), y), y])
        yield Sample(Call(program, "sample"), (aval, aval))

    def of(self, program: Program) -> Self:
        """The same of another Program."""
        return replace(self, program=program)

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.program.has_effects

    def shape(self, *xs: Aval) -> Any:
        return self.program.out_avals

    def lower(self, *xs: Any) -> Any:
        return compiled(self.program, self.label)(*xs)

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        program, kinds = self.program, output_kinds(self.program)
        if not all(one := firsts(kinds)):
            ys = self.of(narrowed(program, (True,) * len(xs), one))(*xs)
            return tuple(of_each_kind(kinds, ys))
        if not any(type(y) is not Var or y in program.inputs for y in program.outputs):
            return None
        # Outputs that are inputs or literals need no call.
        bound = dict(zip(program.inputs, xs, strict=True))
        direct = [y if type(y) is not Var else bound.get(y) for y in program.outputs]
        rest = iter(self.of(inner_outputs(program))(*xs) if None in direct else ())
        return tuple(next(rest) if y is None else y for y in direct)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple(dx is not None for dx in dxs)
        program, moved = jvp(self.program, moving)
        tangents = select(moving, dxs)
        # The tangent 1 of a derivative in one scalar folds into what it multiplies.
        program = bound(program, (*[None] * len(xs), *[dx if type(dx) is Literal else None for dx in tangents]))
        outputs = self.of(program)(*xs, *[dx for dx in tangents if type(dx) is not Literal])
        n = len(moved)
        return outputs[:n], scatter(moved, outputs[n:])

    def laplacian(self, at: Directions, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> Any:
        found = at.through([self.program], js, ls)
        return found.apart(self.of(*found.programs)(*xs, *found.operands(js, ls)))

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        program, found = series(self.program, tuple(map(present, xs)))
        return unflat(self.of(program)(*flat(xs)), found)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple(dx is not None for dx in dxs)
        lin = linearize(self.program, moving)
        n = len(lin.moved)
        outputs = self.of(lin.forward)(*xs)
        dys = self.of(lin.linear)(*outputs[n:], *select(moving, dxs))
        return outputs[:n], scatter(lin.moved, dys)

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        program, flags = separated(self.program, tuple(known))
        if not any(flags):
            return self(*xs), flags
        ordered = sorted(range(len(flags)), key=lambda i: not flags[i])
        program = Program(program.inputs, program.equations, tuple([program.outputs[i] for i in ordered]))
        first, second, n = split(program, tuple(known), sum(flags))
        early = self.of(first)(*select(tuple(known), xs))
        late = self.of(second)(*early[len(early) - n :], *[x for x, k in zip(xs, known, strict=True) if not k])
        now, later = iter(early), iter(late)
        return [next(now) if k else next(later) for k in flags], flags

    def transpose(self, ct: Any, *xs: Any) -> Any:
        linear = tuple(isinstance(x, Undefined) for x in xs)
        program, found = transpose(self.program, linear, tuple(c is not None for c in ct))
        fixed = [x for x in xs if not isinstance(x, Undefined)]
        outputs = self.of(program)(*fixed, *[c for c in ct if c is not None])
        return scatter(linear, scatter(found, outputs))

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        how = given(ct, xs)
        back = transposed(self.program, *how.how)
        found = how.applied(self.apply, [back.program])
        return with_masks(scatter(how.linear, scatter(back.found, found)), self.presence(ct, *xs))

    def presence(self, cts: Sequence[Any], *xs: Any) -> Sequence[Any]:
        how = given(cts, xs)
        back = transposed(self.program, *how.how)
        masks = how.presences(back.there, lambda: [presence(self.program, *how.how)], self.apply)
        return scatter(how.linear, scatter(back.found, masks))

    def apply(self, programs: Sequence[Program], xs: Sequence[Any]) -> Any:
        """The same of another Program, applied."""
        return self.of(*programs)(*xs)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        program, flags = batch(self.program, size, tuple(batched), name)
        return self.of(program)(*xs), flags

    def with_programs(self, change: Callable[[Program], Program]) -> Self:
        return self.of(change(self.program))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        program, names = collect(self.program)
        ys, values = cut(self.of(program)(*xs), len(self.program.outputs))
        return ys, list(zip(names, values, strict=True))

    def thread(self, at: Thread, state: Sequence[Any], xs: Sequence[Any]) -> tuple[Any, Any]:
        return threads_call(self.of(at.into()), at, state, xs)

    def beside_squares(self) -> Any:
        flags = tuple([v.is_inexact for v in self.program.out_avals])
        return self.of(squares(self.program, flags, True)), flags

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.program, name)

    def spelled(self, writer: Any, eqn: Any) -> None:
        if type(self) is not Call:
            return writer.usual(eqn)
        name = writer.function(self.program, self.label, "@ft.jit")
        writer.assign(eqn, f"{name}({', '.join(writer.operands(eqn))})")


@memoised
def uses_axis(program: Program, name: Any) -> bool:
    """Whether a collective over `name` is in a Program."""
    return any(eqn.primitive.uses_axis(name) for eqn in program.equations)


@memoised
def inner_outputs(program: Program) -> Program:
    """The Program with only the outputs that its equations compute."""
    inputs = set(program.inputs)
    computed = tuple(y for y in program.outputs if type(y) is Var and y not in inputs)
    return Program(program.inputs, program.equations, computed)


@memoised
def bound(program: Program, values: tuple[Literal | None, ...]) -> Program:
    """The Program with literals in the place of some of its inputs."""
    if not any(values):
        return program
    with Builder() as b:
        xs = [
            copy_input(b, v) if x is None else Literal(x.value, v.aval)
            for v, x in zip(program.inputs, values, strict=True)
        ]
        return b.build(b.inline(program, xs))


@memoised
def compiled(program: Program, label: str) -> Any:
    """A jitted function, one a Program, so that XLA is handed the Program once for all calls."""

    def run(*xs: Any) -> list[Any]:
        return staged(program, xs)

    run.__name__ = run.__qualname__ = label
    return jax.jit(run)


def forced(program: Program, size: int, batched: tuple[bool, ...], name: Any) -> Program:
    """The batched Program, every output with a batch axis."""
    return batch(program, size, batched, name, True)[0]


@memoised
def observations(program: Program) -> Program:
    """What is observed in a Program, without its outputs."""
    found, _ = collect(program)
    return Program(found.inputs, found.equations, found.outputs[len(program.outputs) :])


def collected_beside(prim: Any, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
    """A primitive with rules of its own as it stands, and beside it what is observed in `prim.program`.

    The rules say nothing of what is observed, so that is computed apart; XLA finds what is computed twice.
    """
    _, names = collect(prim.program)
    values = Call(observations(prim.program), prim.label)(*xs)
    return prim(*xs), list(zip(names, values, strict=True))
