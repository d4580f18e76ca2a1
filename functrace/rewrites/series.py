"""Truncated power series.

series : Program(x -> y) -> Program((x_0, ..., x_n) -> (y_0, ..., y_n))        y(t) = P(x(t)) mod t^(n+1)

A value that moves along a curve is a `Series` of coefficients, which are written one after the other, each from those
before it. What a primitive makes of its operands follows from its pushforward: y' = dP(x) x', so that coefficient
k - 1 of the right-hand side, read as series in its turn, is k times coefficient k of y. The result that the
pushforward reads is this very series, and whatever else it reads is shared with all that ask for the same: sin and
cos find each other, and every elementary function becomes a recurrence of O(n^2) products. A primitive has a rule of
its own where that is smaller.

Source of the recurrences: Griewank and Walther, Evaluating Derivatives, chapter 13 (2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from typing import Any

from ml_dtypes import finfo

from functrace.ir import Atom, Aval, Builder, Literal, Primitive, Program, Var, ambient
from functrace.ir.builder import shape_of
from functrace.primitives.elementwise import mul
from functrace.primitives.families import literal
from functrace.primitives.space import broadcast_to, full, zeros
from functrace.rewrites.memo import copy_input, derived, memoised, scatter, select

Coefficients = list[Atom | None]
Flags = tuple[bool, ...]


class Series:
    """The coefficients of one value, each written when it is first asked for: `x[k]` is that of t ** k, None if zero.

    `reach` is the highest one that may be asked for now; `moves` says whether any but the first may be there.
    """

    __slots__ = ("_slope", "aval", "known", "maker", "moves", "walk")

    def __init__(self, walk: Walk, aval: Aval, known: Coefficients, maker: Any = None, moves: bool = True):
        self.walk, self.aval, self.known, self.maker, self.moves = walk, aval, known, maker, moves
        self._slope: Series | None = None

    def __getitem__(self, k: int) -> Atom | None:
        while len(self.known) <= k:
            if self.maker is None:
                return None
            self.maker.advance()
        return self.known[k]

    @property
    def value(self) -> Atom:
        """The first coefficient, as an array if it is zero."""
        first = self[0]
        return zeros(self.aval) if first is None else first

    @property
    def reach(self) -> int:
        return len(self.known) - 1 if self.maker is None else self.maker.reach

    @property
    def slope(self) -> Series:
        """The derivative along the curve."""
        if self._slope is None:
            if self.maker is None:
                self._slope = self.walk.settled(self.aval, [scaled(x, k) for k, x in enumerate(self.known)][1:])
            else:
                self._slope = Slope(self).y
        return self._slope

    def through(self, primitive: Primitive, *others: Series | float) -> Series:
        """What a primitive with one result makes of this and others; numbers are constants."""
        operands = [x if isinstance(x, Series) else self.walk.constant(literal(x, self.aval)) for x in others]
        return self.walk.apply(primitive, (self, *operands))[0]


class Slope:
    """Writes the derivative of a series that is being written."""

    def __init__(self, x: Series):
        self.x, self.y = x, Series(x.walk, x.aval, [], self)

    @property
    def reach(self) -> int:
        return self.x.reach - 1

    def advance(self) -> None:
        k = len(self.y.known)
        self.y.known.append(scaled(self.x[k + 1], k + 1))


class Step:
    """Writes the results of one primitive for operands that move.

    `outer` says that it is an equation of the Program that is expanded, and none of a pushforward: it takes the value
    of the result from its rule, where that has one.
    """

    def __init__(
        self, walk: Walk, primitive: Primitive, xs: tuple[Series, ...], avals: Sequence[Aval], source: Any, outer: bool
    ):
        self.walk, self.primitive, self.xs = walk, primitive, xs
        self.value_of_rule = outer and primitive.jvp_has_value
        self.ys = tuple([Series(walk, a, [], self, a.is_inexact) for a in avals])
        self.source = ambient().source
        self.derived = self.source if source is None else source
        self._reach = min([x.reach for x in xs if x.moves])
        self._busy = False

    @cached_property
    def rule(self) -> Callable[[int], Any]:
        """Gives coefficient k of the results."""
        return self.primitive.series(self.xs, self.ys) or self._of_pushforward()

    @property
    def count(self) -> int:
        """How many coefficients are written."""
        return len(self.ys[0].known)

    @property
    def reach(self) -> int:
        return self.count - 1 if self._busy else self._reach

    def upto(self, k: int) -> None:
        """Write all coefficients up to k."""
        while self.count <= k:
            self.advance()

    def advance(self) -> None:
        """Write the next coefficient of each result; of what holds Programs, as many as there can be."""
        builder, k = ambient(), self.count
        outer, self._busy = builder.source, True
        builder.source = self.derived if k else self.source
        found = self.primitive.series_at_once(self._given(k)) if self.primitive.at_once else None
        if found is None:
            one = self.rule(k) if k or self.value_of_rule else self._emitted()
            found = [[y] for y in one] if self.primitive.multiple_results else [[one]]
        else:
            found = [coefficients[k:] for coefficients in found]
        for y, coefficients in zip(self.ys, found, strict=True):
            y.known += [None if c is None else broadcast_to(c, y.aval.shape) for c in coefficients]
        builder.source, self._busy = outer, False

    def _given(self, k: int) -> list[Coefficients]:
        """The coefficients of the operands, up to an order that all of them reach."""
        order = max(min([x.reach for x in self.xs if x.moves]), k)
        return [[x.value, *[x[j] for j in range(1, order + 1)]] for x in self.xs]

    def _emitted(self) -> Any:
        outputs = ambient().emit(self.primitive, tuple([x.value for x in self.xs]))
        return outputs if self.primitive.multiple_results else outputs[0]

    def _of_pushforward(self) -> Callable[[int], Any]:
        """The rule that follows from the derivative."""
        program, moved = self.walk.pushforward(self.primitive, self.xs)
        slopes = [x.slope for x in self.xs if x.moves]
        steps, results = self.walk.write(program, [*[x for x in self.xs if not is_literal(x)], *slopes], self.derived)
        n = len(self.ys)
        firsts, dys = results[:n], scatter(moved, results[n:])

        def rule(k: int) -> Any:
            for step in steps:
                step.upto(max(k - 1, 0))
            if k:
                ys = [None if dy is None else scaled(dy[k - 1], 1 / k) for dy in dys]
            else:
                ys = [first.value for first in firsts]
            return ys if self.primitive.multiple_results else ys[0]

        return rule


class Walk:
    """What the steps of one rewrite share."""

    def __init__(self) -> None:
        self._constants: dict[Atom, Series] = {}
        self._made: dict[Any, tuple[Series, ...]] = {}
        self._pushed: dict[Any, Any] = {}

    def constant(self, x: Atom) -> Series:
        """A value that does not move; equal ones are one series."""
        found = self._constants.get(x)
        if found is None:
            found = self._constants[x] = Series(self, x.aval, [x], None, False)
        return found

    def settled(self, aval: Aval, known: Coefficients) -> Series:
        """A value of which all coefficients are known."""
        first, *rest = known
        moves = any([c is not None for c in rest])
        return self.constant(first) if first is not None and not moves else Series(self, aval, known, None, moves)

    def apply(
        self, primitive: Primitive, xs: tuple[Series, ...], source: Any = None, outer: bool = False
    ) -> tuple[Series, ...]:
        """The results of a primitive; those that were made before, unless it acts on the world."""
        key = (primitive, xs)
        found = None if outer and primitive.has_effects else self._made.get(key)
        if found is None and primitive.commutative:
            found = self._made.get((primitive, xs[::-1]))
        if found is None:
            avals = tuple([x.aval for x in xs])
            types = primitive.shape(*avals) if primitive.multiple_results else (shape_of(primitive, avals),)
            if any([x.moves for x in xs]) and any([a.is_inexact for a in types]):
                step = Step(self, primitive, xs, types, source, outer)
                found = step.ys
                if step.value_of_rule:  # inside of its rule it has its own value
                    return found
            else:
                emitted = ambient().emit(primitive, tuple([x.value for x in xs]))
                found = tuple([self.constant(y) for y in emitted])
            self._made[key] = found
        return found

    def formula(self, f: Callable[..., Atom], *xs: Series) -> Series:
        """What a function of atoms, written with primitives, makes of series."""
        with Builder() as b:
            program = b.build([f(*[b.input(x.aval) for x in xs])])
        return self.write(program, xs, ambient().source)[1][0]

    def write(self, program: Program, xs: Sequence[Series], source: Any) -> tuple[list[Step], list[Series]]:
        """The steps of a Program's equations, none of them carried out yet, and the outputs."""
        env: dict[Any, Series] = dict(zip(program.inputs, xs, strict=True))
        steps: list[Step] = []
        for eqn in program.equations:
            ys = self.apply(eqn.primitive, tuple([env.get(x) or self.constant(x) for x in eqn.inputs]), source)
            env.update(zip(eqn.outputs, ys, strict=True))
            if ys and isinstance(ys[0].maker, Step):
                steps.append(ys[0].maker)
        return steps, [env.get(x) or self.constant(x) for x in program.outputs]

    def pushforward(self, primitive: Primitive, xs: tuple[Series, ...]) -> tuple[Program, Flags]:
        """`(x, dx) -> (y, dy)` of one equation, with a tangent for each operand that moves, and which results move.

        Literals stay in it: a rule may look at them.
        """
        key = (primitive, tuple([x.known[0] if is_literal(x) else (x.aval, x.moves) for x in xs]))
        found = self._pushed.get(key)
        if found is None:
            source = ambient().source
            with Builder() as b:
                b.source = source
                operands = [x.known[0] if is_literal(x) else b.input(x.aval) for x in xs]
                dxs = [b.input(x.aval) if x.moves else None for x in xs]
                ys, dys = primitive.jvp(operands, dxs)
                if not primitive.multiple_results:
                    ys, dys = (ys,), (dys,)
                moved = tuple([dy is not None for dy in dys])
                found = self._pushed[key] = b.build([*ys, *select(moved, dys)]), moved
        return found


def is_literal(x: Series) -> bool:
    """Whether a series is a number in the Program's text."""
    return not x.moves and bool(x.known) and type(x.known[0]) is Literal


def scaled(x: Atom | None, factor: float) -> Atom | None:
    """A coefficient times a number."""
    return None if x is None else mul(x, factor)


@memoised
def series(
    program: Program, given: tuple[Flags, ...], fill: tuple[Flags, ...] = ()
) -> tuple[Program, tuple[Flags, ...]]:
    """Power series of the outputs, and which of their coefficients there are.

    Args:
      program: x -> y.
      given: for each input, which of the coefficients 1, 2, ... n it has; the others are zero.
      fill: for each output, which coefficients it must have; zeros are put where there is none.
    Returns:
      `(x, coefficients of each x in turn) -> (y, coefficients of each y in turn)`, and the flags of the latter.
    """
    order = max([len(flags) for flags in given], default=0)
    with Builder() as b:
        firsts = [copy_input(b, v) for v in program.inputs]
        xs: list[Coefficients] = []
        for v, x, flags in zip(program.inputs, firsts, given, strict=True):
            names = [f"{v.name}_{k}" if v.name else None for k in range(1, order + 1)]
            xs.append([x, *[b.input(v.aval, n) if f else None for n, f in zip(names, flags, strict=True)]])
        ys = expand(b, program, xs, order)
        if fill:
            ys = [
                [y[0], *[zeros(v.aval) if c is None and f else c for c, f in zip(y[1:], flags, strict=True)]]
                for y, v, flags in zip(ys, program.outputs, fill, strict=True)
            ]
        return b.build(flat(ys)), tuple([present(y) for y in ys])


@memoised
def jet(program: Program, given: tuple[Flags, ...], factorial_scaled: bool) -> Program:
    """As `series`, with all coefficients of each inexact output; they are derivatives if `factorial_scaled`."""
    fill = tuple([(a.is_inexact,) * len(given[0]) for a in program.out_avals]) if given else ()
    expanded, found = series(program, given, fill)
    if not factorial_scaled:
        return expanded
    with Builder() as b:
        xs = unflat([copy_input(b, v) for v in expanded.inputs], given)
        ys = unflat(b.inline(expanded, flat([weighted(x, -1) for x in xs])), found)
        return b.build(flat([weighted(y, 1) for y in ys]))


@memoised
def derivative(program: Program, i: int, order: int) -> Program:
    """`x -> y^(order)`, the derivative of each inexact output in input i, a scalar."""
    with Builder() as b:
        xs: list[Coefficients] = [[copy_input(b, v), *[None] * order] for v in program.inputs]
        # Where n! is too large for the dtype, and 1 / n! too small, t is stretched by about the n-th root of n!.
        aval = program.inputs[i].aval.strong()
        stretch = 1.0 if in_range(math.factorial(order), aval) else 2.0 ** round(math.log2(order / math.e))
        xs[i][1] = full(aval, stretch)
        ys = expand(b, program, xs, order)
        factor = math.factorial(order) / int(stretch) ** order
        found = [scaled(y[order], factor) for y in ys]
        avals = program.out_avals
        return b.build([zeros(a) if y is None else y for y, a in zip(found, avals, strict=True) if a.is_inexact])


def weighted(x: Coefficients, power: int) -> Coefficients:
    """Coefficients to derivatives, or back if the power is -1."""
    return [times_factorial(c, k, power) for k, c in enumerate(x)]


def times_factorial(x: Atom | None, n: int, power: int = 1) -> Atom | None:
    """A coefficient times n!, or divided by it if the power is -1; by one number after the other where n! is too large
    for the dtype."""
    if x is None or n < 2:
        return x
    factors = [math.factorial(n)] if in_range(math.factorial(n), x.aval) else range(2, n + 1)
    return reduce(lambda y, factor: mul(y, float(factor) ** power), factors, x)


def in_range(n: int, aval: Aval) -> bool:
    """Whether a number is one of a dtype."""
    return n < int(finfo(aval.dtype).max)


def expand(builder: Builder, program: Program, xs: Sequence[Coefficients], order: int) -> list[Coefficients]:
    """Walk the equations forward into `builder`, carrying coefficients 0 to `order` of each value."""
    walk = Walk()
    env: dict[Any, Series] = {v: walk.settled(v.aval, list(x)) for v, x in zip(program.inputs, xs, strict=True)}
    outer = builder.source
    for eqn in program.equations:
        prim = eqn.primitive
        builder.source = eqn.source
        operands = tuple([env[x] if type(x) is Var else walk.constant(x) for x in eqn.inputs])
        ys = walk.apply(prim, operands, derived(eqn.source, "series", prim.name), outer=True)
        for v, y in zip(eqn.outputs, ys, strict=True):
            if y.maker is not None:
                y.maker.upto(order)
                y.maker = None
            if v.name is not None and type(first := y.known[0]) is Var and first.name is None:
                first.name = v.name
            env[v] = y if y.moves and any([c is not None for c in y.known[1:]]) else walk.constant(y.value)
    builder.source = outer
    ends = [env[x] if type(x) is Var else walk.constant(x) for x in program.outputs]
    return [[y.value, *[y[k] for k in range(1, order + 1)]] for y in ends]


def present(x: Coefficients) -> Flags:
    """Which coefficients beyond the first there are."""
    return tuple([c is not None for c in x[1:]])


def flat(xs: Sequence[Coefficients]) -> list[Any]:
    """The first coefficient of each, then the others of each in turn, those that there are."""
    return [x[0] for x in xs] + [c for x in xs for c in x[1:] if c is not None]


def unflat(values: Sequence[Any], flags: Sequence[Flags]) -> list[Coefficients]:
    """The inverse of `flat`."""
    rest = iter(values[len(flags) :])
    return [[x, *[next(rest) if f else None for f in group]] for x, group in zip(values, flags, strict=False)]


def either(*patterns: Sequence[Flags]) -> tuple[Flags, ...]:
    """For each value, the coefficients that it has in any of the patterns."""
    return tuple([tuple(map(any, zip(*groups, strict=True))) for groups in zip(*patterns, strict=True)])
