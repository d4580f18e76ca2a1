"""Watching for NaN and Inf: two states that `rewrites.thread` carries through a Program.

Finiteness   for each equation, when its result was first not finite, and when it was first NaN: one reduction a result
Capture      operands and results of some equations, at one turn of the loops around each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax import numpy as jnp

from functrace.control import Cond
from functrace.ir import Atom, Aval, Builder, Equation, Program, Var, is_complex, is_inexact
from functrace.primitives.binary import max_
from functrace.primitives.comparison import eq, ge, is_finite, logical_and, logical_not, ne
from functrace.primitives.complex import abs_, imag, real
from functrace.primitives.elementwise import F32, I32, add, convert_element_type
from functrace.primitives.families import literal
from functrace.primitives.indexing import dynamic_slice, dynamic_update_slice
from functrace.primitives.reductions import ReduceMax
from functrace.primitives.selection import select_n, where
from functrace.primitives.space import broadcast_in_dim, full, reshape
from functrace.primitives.stacking import stack
from functrace.primitives.structural import concatenate, iota
from functrace.rewrites import Place, Seen, memoised
from functrace.rewrites.thread import held_by

F64 = np.dtype(np.float64)
INT = Aval((), I32)
NEVER = np.iinfo(np.int32).min
GROUP = 64  # results looked at together, at most
LARGE = 8192  # elements from which a result is looked at alone, and axis by axis, which XLA for CPU vectorizes


def sees(eqn: Equation) -> bool:
    """Whether an equation can make a value that is not finite from values that are, or stop one."""
    return not eqn.primitive.keeps_values and not held_by(eqn) and any(map(is_number, eqn.outputs))


def is_number(x: Any) -> bool:
    """Whether a value has elements that may be NaN or Inf."""
    return x.aval.is_inexact and x.aval.size > 0


class Finiteness(NamedTuple):
    """The state: i32[equation, 2, loop], the steps at which a result was first not finite, and first NaN.

    The equations of a Program stand there in the order of `together`.
    """

    equations: int
    loops: int

    @property
    def state(self) -> tuple[Aval, ...]:
        return (Aval((self.equations, 2, max(self.loops, 1)), I32),)

    def initial(self) -> list[Any]:
        """Nothing has happened."""
        return [np.full(a.shape, NEVER, np.int32) for a in self.state]

    def sees(self, equation: Equation) -> bool:
        return sees(equation)

    def __call__(self, place: Place, state: list[Atom], seen: list[Seen]) -> Sequence[Atom]:
        (first,) = state
        shape = (len(seen), *first.aval.shape[1:])
        kinds = kinds_apart(seen, first)
        happens = ge(broadcast_in_dim(kinds, shape, (0,)), add(iota(I32, shape, 1), 1))
        start = (place.number, literal(0, INT), literal(0, INT))
        before = dynamic_slice(first, start, shape)
        now = logical_and(happens, eq(before, full(Aval(shape, I32), NEVER)))
        steps = [*place.steps, *[literal(0, INT)] * (shape[2] - len(place.steps))]
        steps = concatenate([broadcast_in_dim(s, (1,), ()) for s in steps], 0)
        return [dynamic_update_slice(first, where(now, broadcast_in_dim(steps, shape, (2,)), before), *start)]


def kinds_apart(seen: list[Seen], state: Atom) -> Atom:
    """i32[equation]: 0 for a finite result, 1 for one that is not, 2 for one with a NaN.

    In a branch that is always taken, which XLA cannot know: else it would compute each result once more for its
    reduction, and what it is computed from as well, so that a chain of n equations would compile in n^2.
    """
    results = [y for s in seen for y in s.results if type(y) is Var]
    operands = list(dict.fromkeys(results))
    with Builder() as b:
        within: dict[Any, Atom] = {y: b.input(y.aval.strong()) for y in operands}
        values = [[within.get(y, y) for y in s.results] for s in seen]
        largest = in_a_row([magnitudes([values[i] for i in group]) for group in together(seen)])
        look = b.build([add(as_int(logical_not(is_finite(largest))), as_int(ne(largest, largest)))])
    with Builder() as b:
        for y in operands:
            b.input(y.aval.strong())
        skip = b.build([full(look.out_avals[0], 0)])
    never = reshape(dynamic_slice(state, [literal(0, INT)] * 3, (1, 1, 1)), ())
    return Cond((skip, look))(as_int(ne(never, literal(NEVER + 1, INT))), *operands)[0]


def together(equations: Sequence[Any]) -> list[list[int]]:
    """The equations whose results are looked at together, as what is small costs a call each: by their place."""
    groups: dict[Any, list[int]] = {}
    for i, eqn in enumerate(equations):
        results = eqn.outputs if isinstance(eqn, Equation) else eqn.results
        is_small = len(results) == 1 and results[0].aval.size <= LARGE
        groups.setdefault(results[0].aval.strong() if is_small else i, []).append(i)
    return [group[i : i + GROUP] for group in groups.values() for i in range(0, len(group), GROUP)]


def magnitudes(results: Sequence[Sequence[Atom]]) -> Atom:
    """The largest absolute value among each equation's results: Inf if one has an Inf, NaN if one has a NaN."""
    if len(results) > 1:
        sides = parts(stack([y for (y,) in results], 0))
        largest = [reduced(side, 1) for side in sides]
    else:
        largest = [reshape(reduced(side), (1,)) for y in results[0] if is_number(y) for side in parts(y)]
    most = largest[0]
    for other in largest[1:]:
        most = max_(*[convert_element_type(x, widest((most, other))) for x in (most, other)])
    return most


def parts(y: Atom) -> list[Atom]:
    """The absolute values of the elements, or of their real and imaginary parts."""
    return [abs_(real(y)), abs_(imag(y))] if is_complex(y.aval.dtype) else [abs_(y)]


def reduced(x: Atom, first: int = 0) -> Atom:
    """The largest element along the axes from `first` on."""
    if not first and x.aval.ndim > 1 and x.aval.size > LARGE:
        x = ReduceMax((0,))(x)
    axes = tuple(range(first, x.aval.ndim))
    return ReduceMax(axes)(x) if axes else x


def in_a_row(vectors: Sequence[Atom]) -> Atom:
    """Vectors one after the other, in a dtype that holds all their numbers."""
    return concatenate([convert_element_type(x, widest(vectors)) for x in vectors], 0)


def widest(xs: Sequence[Atom]) -> Any:
    """float64 if one of them has it, else float32."""
    return F64 if any([x.aval.dtype == F64 for x in xs]) else F32


def as_int(x: Atom) -> Atom:
    """A boolean as 0 or 1."""
    return convert_element_type(x, I32)


@memoised
def loops_in(program: Program) -> int:
    """How many loops are around the equation that has most around it."""
    return max(
        [loops_in(p) + (eqn.primitive.turns is not None) for eqn in program.equations for p in held_by(eqn)], default=0
    )


class Target(NamedTuple):
    """An equation with its number, and the steps of the loops around it."""

    equation: Equation
    number: int
    steps: tuple[int, ...]

    @property
    def avals(self) -> list[Aval]:
        """Types of what is captured of it: operands and results."""
        return [x.aval for x in (*self.equation.inputs, *self.equation.outputs) if has_value(x)]


def has_value(x: Any) -> bool:
    """Whether a value can be kept as an array: a random key cannot."""
    return x.aval.is_inexact or x.aval.kind in "iub"


class Capture(NamedTuple):
    """The state: what each target read and made."""

    targets: tuple[Target, ...]

    @property
    def state(self) -> tuple[Aval, ...]:
        return tuple([a.strong() for target in self.targets for a in target.avals])

    def initial(self) -> list[Any]:
        """Zeros."""
        return [np.zeros(a.shape, a.dtype) for a in self.state]

    def sees(self, equation: Equation) -> bool:
        return sees(equation)

    def __call__(self, place: Place, state: list[Atom], seen: list[Seen]) -> Sequence[Atom]:
        rest = iter(state)
        kept: list[Atom] = []
        for target in self.targets:
            old = [next(rest) for _ in target.avals]
            for i, (equation, operands, results) in enumerate(seen):
                if equation is target.equation and len(place.steps) == len(target.steps):
                    here = self.is_at(target, add(place.number, i) if i else place.number, place.steps)
                    values = [x for x in (*operands, *results) if has_value(x)]
                    old = [select_n(here, x, convert_element_type(y, x.aval.dtype))
                           for x, y in zip(old, values, strict=True)]  # fmt: skip
            kept += old
        return kept

    def is_at(self, target: Target, number: Atom, steps: Sequence[Atom]) -> Atom:
        """Whether the equation that is seen is the target."""
        here: Atom = eq(number, literal(target.number, INT))
        for step, wanted in zip(steps, target.steps, strict=True):
            here = logical_and(here, eq(step, literal(wanted, INT)))
        return here


def is_suspect(arrays: Sequence[Any]) -> bool:
    """Whether some values are known and not all finite."""
    numbers = [x for x in arrays if is_inexact(getattr(x, "dtype", None))]
    if any([isinstance(x, jax.core.Tracer) for x in numbers]):
        return False
    return not bool(all_finite(numbers))


@jax.jit
def all_finite(arrays: Sequence[Any]) -> Any:
    """Whether all elements are finite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in arrays])) if arrays else jnp.bool_(True)
