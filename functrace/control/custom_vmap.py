"""custom_vmap: a Program with a batching rule of its own.

A batching rule is asked for one axis size and one choice of batched operands at a time, and so cannot be
traced in advance. The primitive holds it as a function: `rule(size, batched)` is what `rewrites.batch` would
give, the batched Program and which of its outputs have a batch axis, or None where the rule does not apply and
the ordinary ones serve. Such a function is no text, so the text of a Program that holds one does not read back.

What a rewrite makes of the Program, it makes of the rule's too, when that is asked for: the pushforward of f
is batched as the pushforward of f's batched Program, and so are the halves of it and their transposes. Hence,
in whatever order the transforms come, a derivative is that of the user's rule. The ordinary rules serve

- where only tangents or cotangents are batched (`jacfwd`, `jacrev`): the function is evaluated once then;
- for the derivative in what the function closes over, of which the rule knows nothing;
- where the Program of the rule is not linear, equation by equation, and the function's is.

All agree where the rule computes what the function does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from functrace.control.call import Applies, Call, collected_beside, uses_axis
from functrace.ir import Atom, Aval, Builder, Program, Sample, Undefined, Var, ambient, primitive
from functrace.primitives.elementwise import mul
from functrace.primitives.space import batched_operand, move_axis
from functrace.primitives.unary import cos
from functrace.rewrites import batch, jvp, memoised, series, transpose
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.separate import separated, split
from functrace.rewrites.series import flat, present, unflat
from functrace.rewrites.transpose import instantiate

Flags = tuple[bool, ...]
Batched = tuple[Program, Flags]


class Rule(Protocol):
    """How a Program is batched."""

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        """The batched Program and which outputs have a batch axis; None where the ordinary rules serve."""
        ...

    def refuse(self, batched: Flags) -> None:
        """Raise an error where operands are batched that must not be."""
        ...


@primitive
class CustomVmap(Applies):
    """`program(*operands)`, batched by `rule`."""

    name = "custom_vmap"
    multiple_results = True
    at_once = True
    readable_text: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    program: Program
    rule: Any
    label: str

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            x, y = b.input(aval), b.input(aval)
            program = b.build([mul(cos(x), y), y])
        yield Sample(CustomVmap(program, Ordinary(program), "sample"), (aval, aval))

    def of(self, program: Program, rule: Rule) -> Self:
        """The same of another Program."""
        return replace(self, program=program, rule=rule)

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.program.has_effects

    def shape(self, *xs: Aval) -> Any:
        return self.program.out_avals

    def lower(self, *xs: Any) -> Any:
        return Call(self.program, self.label).lower(*xs)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        flags = tuple(batched)
        self.rule.refuse(flags)
        found = self.rule(size, flags) if any(flags) else None
        if found is not None:
            program, out_flags = found
            return ambient().inline(program, xs), out_flags
        program, out_flags = batch(self.program, size, flags, name)
        return self.of(program, Mapped(self.rule, size, flags, out_flags, name))(*xs), out_flags

    def pushforward(self, moving: Flags, how: str) -> tuple[CustomVmap, Flags]:
        """`(x, dx) -> (y, dy)`, and which results move."""
        program, moved = jvp(self.program, moving, how)
        return self.of(program, Pushed(self.rule, moving, moved, how)), moved

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple([dx is not None for dx in dxs])
        pushed, moved = self.pushforward(moving, "jvp")
        outputs = pushed(*xs, *select(moving, dxs))
        n = len(moved)
        return outputs[:n], scatter(moved, outputs[n:])

    def series_at_once(self, xs: Sequence[list[Any]]) -> list[list[Any]]:
        given = tuple(map(present, xs))
        program, found = series(self.program, given)
        return unflat(self.of(program, Expanded(self.rule, given, found))(*flat(xs)), found)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple([dx is not None for dx in dxs])
        pushed, moved = self.pushforward(moving, "linearize")
        outputs, _ = pushed.separate([*xs, *select(moving, dxs)], (True,) * len(xs) + (False,) * sum(moving))
        n = len(moved)
        return outputs[:n], scatter(moved, outputs[n:])

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        known = tuple(known)
        program, flags = separated(self.program, known)
        if not any(flags):
            return self(*xs), flags
        now, later = select(known, xs), [x for x, k in zip(xs, known, strict=True) if not k]
        first, second, residuals = split(known_first(program, flags), known, sum(flags))
        # The second half is handed the known operands too: its rule starts from them.
        unread = tuple([Var(v.aval, v.name) for v in first.inputs])
        second = Program((*unread, *second.inputs), second.equations, second.outputs)
        early = self.of(first, Early(self.rule, known, flags, first))(*now)
        y, carried = early[: len(early) - residuals], early[len(early) - residuals :]
        held = tuple([r.aval for r in carried])
        late = self.of(second, Late(self.rule, known, flags, held))(*now, *carried, *later)
        ys, zs = iter(y), iter(late)
        return [next(ys) if k else next(zs) for k in flags], flags

    def transpose(self, ct: Any, *xs: Any) -> Any:
        linear, with_ct = tuple([isinstance(x, Undefined) for x in xs]), tuple([c is not None for c in ct])
        back = self.of(whole_transpose(self.program, linear, with_ct), Transposed(self.rule, linear, with_ct))
        fixed = [x for x in xs if not isinstance(x, Undefined)]
        return scatter(linear, back(*fixed, *select(with_ct, ct)))

    def collect(self, xs: Sequence[Any]) -> tuple[Any, list[tuple[str, Atom]]]:
        return collected_beside(self, xs)

    def uses_axis(self, name: Any) -> bool:
        return uses_axis(self.program, name)


@dataclass(frozen=True)
class Ordinary:
    """The rule that every Program has."""

    program: Program

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        return batch(self.program, size, batched)

    def refuse(self, batched: Flags) -> None:
        pass


@dataclass(frozen=True)
class Pushed:
    """`(x, dx) -> (y, dy)`: the rule's Program is pushed forward. A primal and its tangent are batched together."""

    rule: Rule
    moving: Flags
    moved: Flags
    how: str

    def _parts(self, batched: Flags) -> tuple[Flags, list[bool]]:
        """Which primals are batched, and which tangents, one an operand."""
        n = len(self.moving)
        return batched[:n], [bool(f) for f in scatter(self.moving, batched[n:])]

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        xs, dxs = self._parts(batched)
        together = tuple([x or dx for x, dx in zip(xs, dxs, strict=True)])
        found = self.rule(size, together) if any(xs) else None
        if found is None:
            return None
        program, out_flags = found
        pushed, moved = jvp(program, self.moving, self.how, self.moved)
        with Builder() as b:
            ys = b.inline(pushed, inputs_like(b, pushed, size, (*together, *select(self.moving, together)), batched))
            n = len(moved)
            dys = select(self.moved, scatter(moved, ys[n:]))
            return b.build([*ys[:n], *dys]), (*out_flags, *select(self.moved, out_flags))

    def refuse(self, batched: Flags) -> None:
        self.rule.refuse(self._parts(batched)[0])


@dataclass(frozen=True)
class Expanded:
    """Power series: the rule's Program is expanded. The coefficients of a value are batched together."""

    rule: Rule
    given: tuple[Flags, ...]
    found: tuple[Flags, ...]

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        each = unflat(batched, self.given)
        together = tuple([any(flags) for flags in each])
        found = self.rule(size, together) if any(batched[: len(each)]) else None
        if found is None:
            return None
        program, out_flags = found
        expanded, have = series(program, self.given, self.found)
        spread = lambda flags, pattern: tuple(
            flat([[flag, *[flag if there else None for there in p]] for flag, p in zip(flags, pattern, strict=True)])
        )
        with Builder() as b:
            ys = unflat(b.inline(expanded, inputs_like(b, expanded, size, spread(together, self.given), batched)), have)
            kept = [[y[0], *scatter(p, select(p, y[1:]))] for y, p in zip(ys, self.found, strict=True)]
            return b.build(flat(kept)), spread(out_flags, self.found)

    def refuse(self, batched: Flags) -> None:
        self.rule.refuse(batched[: len(self.given)])


@dataclass(frozen=True)
class Early:
    """`a -> (y, r)` of `(a, b) -> (y, z)`: y by the rule, the residuals by the ordinary ones.

    Batched, only y is read as a rule: `Late` reads no residuals there.
    """

    rule: Rule
    known: Flags
    flags: Flags
    program: Program

    def _whole(self, batched: Flags) -> Flags:
        return tuple([bool(f) for f in scatter(self.known, batched)])

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        found = self.rule(size, self._whole(batched))
        if found is None:
            return None
        program, out_flags = found
        program, early = separated(program, self.known)
        if not all(select(self.flags, early)):
            return None
        n = sum(self.flags)
        first, _, _ = split(known_first(program, self.flags), self.known, n)
        ordinary, ordinary_flags = batch(self.program, size, batched)
        with Builder() as b:
            xs = [copy_input(b, v) for v in ordinary.inputs]
            outputs = [*b.inline(first, xs)[:n], *b.inline(ordinary, xs)[n:]]
            return b.build(outputs), (*select(self.flags, out_flags), *ordinary_flags[n:])

    def refuse(self, batched: Flags) -> None:
        self.rule.refuse(self._whole(batched))


@dataclass(frozen=True)
class Late:
    """`(a, r, b) -> z` of `(a, b) -> (y, z)`: the rule's Program from the start, the residuals unread."""

    rule: Rule
    known: Flags
    flags: Flags
    residuals: tuple[Aval, ...]

    def _whole(self, batched: Flags) -> Flags:
        n = sum(self.known)
        now, later = iter(batched[:n]), iter(batched[n + len(self.residuals) :])
        return tuple([next(now) if k else next(later) for k in self.known])

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        found = self.rule(size, self._whole(batched))
        if found is None:
            return None
        program, out_flags = found
        n = sum(self.known)
        held = zip(self.residuals, batched[n : n + len(self.residuals)], strict=True)
        unread = [Var(a.with_shape((size, *a.shape)) if f else a) for a, f in held]
        now = select(self.known, program.inputs)
        later = [v for v, k in zip(program.inputs, self.known, strict=True) if not k]
        late = tuple([not f for f in self.flags])
        outputs = tuple(select(late, program.outputs))
        return Program((*now, *unread, *later), program.equations, outputs), tuple(select(late, out_flags))

    def refuse(self, batched: Flags) -> None:
        n = sum(self.known)
        self.rule.refuse(tuple([bool(f) for f in scatter(self.known, batched[:n])]))


@dataclass(frozen=True)
class Transposed:
    """`(r, ct_y) -> ct_x` of `(r, x) -> y`: the rule's Program for a batched x is transposed."""

    rule: Rule
    linear: Flags
    with_ct: Flags

    def _fixed(self, batched: Flags, linear: bool) -> Flags:
        rest = iter(batched)
        return tuple([linear if f else next(rest) for f in self.linear])

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        found = self.rule(size, self._fixed(batched, True))
        if found is None:
            return None
        program, out_flags = found
        with Builder() as b:
            ys = b.inline(program, [copy_input(b, v) for v in program.inputs])
            whole = b.build([batched_operand(y, f, size) for y, f in zip(ys, out_flags, strict=True)])
        try:
            back = whole_transpose(whole, self.linear, self.with_ct)
        except NotImplementedError:
            return None
        fixed = batched[: len(self.linear) - sum(self.linear)]
        with Builder() as b:
            cts = inputs_like(b, back, size, fixed + (True,) * sum(self.with_ct), batched)
            return b.build(b.inline(back, cts)), (True,) * len(back.outputs)

    def refuse(self, batched: Flags) -> None:
        self.rule.refuse(self._fixed(batched, False))


@dataclass(frozen=True)
class Mapped:
    """A Program batched by the ordinary rules over an axis of `size`: so is that of the rule for a further one."""

    rule: Rule
    size: int
    flags: Flags
    out_flags: Flags
    name: Any

    def __call__(self, size: int, batched: Flags) -> Batched | None:
        found = self.rule(size, batched)
        if found is None:
            return None
        program, outer = found
        program, inner = batch(program, self.size, self.flags, self.name, self.out_flags)
        if inner != self.out_flags:
            return None
        # Operands come with the further axis first, and the ordinary rules know axis 0.
        with Builder() as b:
            xs: list[Atom] = []
            for v, i, o in zip(program.inputs, self.flags, batched, strict=True):
                n, m, *rest = (*v.aval.shape, 0, 0)
                both = i and o
                x = b.input(v.aval.with_shape((m, n, *rest[:-2])) if both else v.aval, v.name)
                xs.append(move_axis(x, 1, 0) if both else x)
            ys = b.inline(program, xs)
            outputs = [move_axis(y, 1, 0) if i and o else y for y, i, o in zip(ys, inner, outer, strict=True)]
            return b.build(outputs), outer

    def refuse(self, batched: Flags) -> None:
        self.rule.refuse(batched)


@memoised
def whole_transpose(program: Program, linear: Flags, with_ct: Flags) -> Program:
    """The transposed Program with a cotangent for every linear input: the rule's Program may read one, as that of
    `Late` does, where this one has no use for it."""
    back, found = transpose(program, linear, with_ct)
    with Builder() as b:
        cts = scatter(found, b.inline(back, [copy_input(b, v) for v in back.inputs]))
        return b.build(instantiate(cts, select(linear, program.inputs)))


def known_first(program: Program, flags: Flags) -> Program:
    """The Program with the outputs flagged before the others."""
    ordered = sorted(range(len(flags)), key=lambda i: not flags[i])
    return Program(program.inputs, program.equations, tuple([program.outputs[i] for i in ordered]))


def inputs_like(builder: Builder, program: Program, size: int, wanted: Flags, given: Flags) -> list[Atom]:
    """What a Program with the batch axes `wanted` reads, from new inputs with those `given`."""
    xs = []
    for v, want, has in zip(program.inputs, wanted, given, strict=True):
        x = builder.input(v.aval if has or not want else v.aval.with_shape(v.aval.shape[1:]), v.name)
        xs.append(batched_operand(x, has or not want, size))
    return xs


__all__ = ["CustomVmap"]
