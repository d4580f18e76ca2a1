"""Selection, entry by entry, and what it leaves out of a cotangent.

Where a select takes the other case, its operand has no part in the result, and its cotangent there is not a
zero among others: it is absent. Multiplied by an infinite slope further back, a zero becomes NaN, and what is
absent stays absent. So a cotangent goes backward with a `Presence`, the mask of what is there, which is written
when something reads it: where entries that may hold garbage are about to be mixed with others, or are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax, numpy as jnp

from functrace.errors import ShapeError
from functrace.ir import Atom, Aval, Builder, Literal, Masked, Primitive, Sample, Through, Undefined, ambient
from functrace.ir.dependence import Matrix, Site, repeated
from functrace.ir.primitive import primitive
from functrace.primitives.comparison import eq, logical_and, logical_not, logical_or, ne
from functrace.primitives.elementwise import C64, F32, Elementwise, Formula, align, convert_element_type
from functrace.primitives.families import Linear, broadcast_shapes, literal
from functrace.primitives.space import BroadcastInDim, broadcast_to, transpose, zeros

NOWHERE: frozenset[int] = frozenset()


class Presence:
    """Which entries of a cotangent are there: a boolean array of its shape, or one boolean for all of it.

    `uniform` are axes along which all entries are known to be equal. `case` is `(which, i, outer)` for case i of a
    select, of whose result `outer` is the presence. `by_chance` is a row in which all entries happen to be absent, as
    those behind a relu may be: that is followed only where a pole is in sight. `sure` is without what is by chance.
    """

    __slots__ = ("_atom", "_parents", "_rule", "_sure", "by_chance", "case", "shape", "uniform")

    def __init__(
        self,
        shape: tuple[int, ...],
        rule: Callable[..., Atom],
        parents: Sequence[Presence] = (),
        uniform: Collection[int] = (),
        case: Any = None,
    ):
        """`rule` writes the mask, given those of the parents."""
        self.shape, self.uniform, self.case = shape, frozenset(uniform) if uniform else NOWHERE, case
        self._rule, self._parents = rule, tuple(parents)
        self._atom: Atom | None = None
        self._sure: Presence | None = None
        self.by_chance = False
        for p in parents:
            self.by_chance = self.by_chance or p.by_chance

    def read(self) -> Atom:
        """The mask, written now if it is not yet; not by recursion, as there may be any number of ancestors."""
        stack = [self]
        while stack:
            mask = stack[-1]
            waiting = [p for p in mask._parents if p._atom is None]
            if waiting:
                stack += waiting
                continue
            if mask._atom is None:
                mask._atom, mask._parents = mask._rule(*[p._atom for p in mask._parents]), ()
            stack.pop()
        assert self._atom is not None
        return self._atom

    @property
    def sure(self) -> Presence:
        """The same but for what is absent by chance."""
        return self._sure or self

    @property
    def type(self) -> tuple[tuple[int, ...], frozenset[int]]:
        """What is known of it before it is written."""
        return self.shape, self.uniform

    def is_uniform(self, axes: Sequence[int]) -> bool:
        """Whether all entries along these axes are known to be equal."""
        return not self.shape or self.uniform.issuperset(axes)

    def zeroed(self, value: Atom) -> Atom:
        """`value` with zeros where it is absent."""
        return select_n(self.read(), zeros(value.aval), value)

    def meet(self, other: Presence, how: Any) -> Presence:
        """Both masks combined entry by entry."""
        wide, narrow = (self, other) if self.shape else (other, self)
        uniform = wide.uniform & narrow.uniform if narrow.shape else wide.uniform
        return Presence(wide.shape, how, (self, other), uniform)

    def either(self, other: Presence) -> Presence | None:
        """What is there in the sum of two cotangents; None if all is, as where a select's cases meet again."""
        if self.case is not None and other.case is not None:
            (which, i, outer), (of, j, around) = self.case, other.case
            if which is of and outer is around and {i, j} == {0, 1} and which.aval.dtype == bool:
                return outer
        return self.meet(other, union)

    def whole(self, *others: Presence) -> Presence:
        """One boolean: whether anything is there in any of the masks."""
        if not self.shape and not others:
            return self

        def anything(*atoms: Atom) -> Atom:
            result, *rest = [any_along(m, tuple(range(m.aval.ndim))) for m in atoms]
            for m in rest:
                result = logical_or(result, m)
            return result

        return Presence((), anything, (self, *others))

    def over(self, axes: Sequence[int]) -> Presence:
        """Whether anything is there along some axes, those axes gone."""
        if not self.shape:
            return self
        left = [i for i in range(len(self.shape)) if i not in axes]
        uniform = [k for k, i in enumerate(left) if i in self.uniform]
        shape = tuple([self.shape[i] for i in left])
        return Presence(shape, lambda m: any_along(m, tuple(sorted(axes))), (self,), uniform)

    def along(self, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> Presence:
        """The same along new axes: axis i becomes axis `dimensions[i]` of `shape`."""
        if not self.shape:
            return self
        uniform = [d for d in range(len(shape)) if d not in dimensions or dimensions.index(d) in self.uniform]
        return Presence(shape, lambda m: BroadcastInDim(shape, dimensions)(m), (self,), uniform)

    def permuted(self, order: Sequence[int]) -> Presence:
        """Axis i is axis `order[i]` of this one."""
        if not self.shape or list(order) == list(range(len(order))):
            return self
        shape, order = tuple([self.shape[i] for i in order]), tuple(order)
        uniform = [i for i, a in enumerate(order) if a in self.uniform]
        return Presence(shape, lambda m: transpose(m, order), (self,), uniform)

    def then(self, shape: tuple[int, ...], rule: Callable[[Atom], Atom]) -> Presence:
        """Another one, written from this one; one boolean for all stays that."""
        return Presence(shape, rule, (self,)) if self.shape else self

    def through(self, prim: Any, cts: Sequence[Any], xs: Sequence[Any]) -> list[Presence | None]:
        """The masks of the operands of a linear map whose coefficients have one sign.

        Something is there where the cotangent is not zero, if those of the results are 1 where they are there.
        Where none are added up the masks themselves are such.
        """
        if all([c is None or (type(c) is Masked and not c.there.shape) for c in cts]):
            return list(Primitive.presence(prim, cts, *xs))

        def rule(i: int) -> Callable[..., Atom]:
            def write(*atoms: Atom) -> Atom:
                rest, flag, operands = iter(atoms), np.dtype(bool), xs
                if not prim.adds_up:  # what is moved are the flags themselves
                    operands = [Undefined(Aval(x.aval.shape, flag)) if type(x) is Undefined else x for x in xs]
                results = prim.shape(*[x.aval for x in xs])
                ones = []
                for c, y in zip(cts, results if prim.multiple_results else [results], strict=True):
                    there = next(rest) if type(c) is Masked else Literal(c is not None, Aval((), flag))
                    if prim.adds_up:
                        there = convert_element_type(there, y.dtype)
                    ones.append(broadcast_to(there, y.shape))
                found = prim.transpose(ones if prim.multiple_results else ones[0], *operands)[i]
                return ne(found, 0) if prim.adds_up else found

            return write

        masks = [c.there for c in cts if type(c) is Masked]
        return [Presence(x.aval.shape, rule(i), masks) if type(x) is Undefined else None for i, x in enumerate(xs)]


def any_along(flags: Atom, axes: tuple[int, ...]) -> Atom:
    """Whether any flag is set along axes, which go."""
    return Primitive.named["reduce_or"](axes)(flags) if axes else flags


def union(x: Atom, y: Atom) -> Atom:
    """Whether either of two flags is set: one of them, where it is set wherever the other one is."""
    for one, other in ((x, y), (y, x)):
        if covers(one, other):
            return one
    return logical_or(x, y)


def covers(wide: Atom, flags: Atom) -> bool:
    """Whether `wide` says of rows of `flags` whether any is set in them, as behind a norm or a softmax."""
    definition = ambient().definition
    base, places = origin(flags)
    atom: Atom = wide
    axes: list[int | None] = list(range(wide.aval.ndim))  # of `wide`, by axis of `atom`; None where any entry counts
    while atom is not base:
        made = definition(atom)
        if made is None:
            return False
        if type(made.primitive) is BroadcastInDim:
            axes = [axes[d] for d in made.primitive.dimensions]
        elif made.primitive.name == "reduce_or":
            left = iter(axes)
            axes = [None if a in made.params["axes"] else next(left) for a in range(made.inputs[0].aval.ndim)]
        else:
            return False
        (atom,) = made.inputs
    return wide.aval.shape == flags.aval.shape and all([a in (None, d) for a, d in zip(axes, places, strict=True)])


def origin(x: Atom) -> tuple[Atom, tuple[int, ...]]:
    """What is repeated in `x`, and where its axes are."""
    made = ambient().definition(x)
    if made is None or type(made.primitive) is not BroadcastInDim:
        return x, tuple(range(x.aval.ndim))
    return made.inputs[0], made.primitive.dimensions


def written(atom: Atom, of: tuple[tuple[int, ...], frozenset[int]]) -> Presence:
    """The mask that is written already, of this type."""
    return Presence(of[0], lambda: atom, (), of[1])


def selected(which: Atom, i: int, outer: Presence | None) -> Presence:
    """What is there in the cotangent of case i of a select, of whose result `outer` is the presence."""
    made = ambient().definition(which)
    uniform: list[int] = []
    if made is not None and type(made.primitive) is BroadcastInDim:
        shape = made.inputs[0].aval.shape
        kept = [d for n, d in zip(shape, made.primitive.dimensions, strict=True) if n == which.aval.shape[d]]
        uniform = [d for d in range(which.aval.ndim) if d not in kept]

    def here() -> Atom:
        if which.aval.dtype == bool:
            return which if i else logical_not(which)
        return eq(which, i)

    own = Presence(which.aval.shape, here, (), uniform)
    mask = own
    if outer is not None:
        mask = own.meet(outer, logical_and)
        mask._sure = own if outer.by_chance else own.meet(outer.sure, logical_and) if outer.sure is not outer else None
    mask.case, mask.by_chance = (which, i, outer), False
    return mask


class _Select(Formula):
    """select_n: `cases[which]`, element by element; linear in the cases jointly."""

    masks = True
    picks = True

    def __call__(self, *operands: Any) -> Any:
        return ambient().emit(self, operands)[0]

    def shape(self, *xs: Aval) -> Aval:
        which, *cases = xs
        super().out_dtype(*cases)
        first = cases[0]
        if any(c.shape != first.shape for c in cases) or which.shape not in ((), first.shape):
            raise ShapeError(
                f"select_n: the selector {which} must be a scalar or of the shape of the cases, "
                f"which must agree: {', '.join(map(str, cases))}"
            )
        return Aval(first.shape, first.dtype, all([c.weak_type for c in cases]))

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        if not y.aval.is_inexact or all(dx is None for dx in dxs[1:]):
            return y, None
        return y, self(xs[0], *[zeros(y.aval) if dx is None else dx for dx in dxs[1:]])

    def transpose(self, ct: Any, *xs: Any) -> Any:
        which, *cases = xs
        zero = zeros(ct.aval)
        cts = [
            self(which, *[ct if j == i else zero for j in range(len(cases))])
            if isinstance(x, Undefined)
            else None
            for i, x in enumerate(cases)
        ]
        return [None, *cts]

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        value, outer, dirty, ordinary = ct if type(ct) is Masked else (ct, None, False, False)
        found: list[Any] = list(self.transpose(value, *xs))
        for i, c in enumerate(found):
            if c is not None and outer is not None and outer.case is not None and outer.case[:2] == (xs[0], i - 1):
                # As of a select in another one of the same: what that has left out, so does this one.
                found[i] = Masked(c, outer, dirty and outer.case[2] is not None, ordinary)
            elif c is not None:
                found[i] = Masked(c, selected(xs[0], i - 1, outer), dirty, ordinary)
        return found

    def squares(self, *xs: Any) -> Any:
        which, *cases = xs
        if which.aval.shape:
            return None

        def chosen(i: int) -> Any:
            return lambda n: self(which, *[n if j == i else zeros(n.aval) for j in range(len(cases))])

        return [Through(c, chosen(i)) for i, c in enumerate(cases)]
    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        which = at.operands[0].value
        shape = at.results[0].shape
        taken = lambda i: None if which is None else which == i
        cases = enumerate(at.operands[1:])
        return [[None, *[repeated(x.aval, shape, taken(i)) if x.moves else None for i, x in cases]]]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        which, *cases = xs
        shape = (size, *(cases[0].aval.shape[1:] if batched[1] else cases[0].aval.shape))
        aligned = [broadcast_to(align(c, b, len(shape) - 1), shape) for c, b in zip(cases, batched[1:], strict=True)]
        if batched[0] or which.aval.ndim:
            which = broadcast_to(align(which, batched[0], len(shape) - 1), shape)
        return self(which, *aligned), True

    def samples(self) -> Iterator[Sample]:
        yes = np.array([True, False, True])
        yield Sample(self, (yes, Aval((3,), F32), Aval((3,), F32)))
        yield Sample(self, (np.array(True), Aval((3,), F32), Aval((3,), F32)))
        yield Sample(self, (np.array([0, 2, 1], np.int32), *(Aval((3,), F32),) * 3))


def _simplify_select(b: Builder, which: Atom, *cases: Atom) -> Atom | None:
    if all([c == cases[0] for c in cases]):
        return cases[0]
    if type(which) is Literal:
        picked = cases[int(which.value)]
        same = picked.aval.weak_type == all([c.aval.weak_type for c in cases])
        return picked if same and is_computed(b, picked) else None
    made = b.definition(which)
    if made is None:
        return None
    if type(made.primitive) is BroadcastInDim and not made.inputs[0].aval.shape:
        return select_n(made.inputs[0], *cases)  # one boolean for all
    if made.primitive is logical_not and which.aval.dtype == bool:
        return select_n(made.inputs[0], *reversed(cases))
    return None


def is_computed(b: Builder, x: Atom) -> bool:
    """Whether `x` is more than a constant: what is picked for good keeps the derivative that it had as a case."""
    made = b.definition(x)
    return made is not None and type(made.primitive) is not BroadcastInDim


def _lower_select(which: Any, *cases: Any) -> Any:
    return lax.select_n(which, *map(jnp.asarray, cases))


select_n = _Select("select_n", _lower_select, (None, None, None), simplify=_simplify_select)


def where(condition: Atom, x: Any, y: Any) -> Atom:
    """`x` where the boolean `condition` holds, else `y`; scalars are repeated."""
    like = x if isinstance(x, Atom) else y
    x, y = (v if isinstance(v, Atom) else literal(v, like.aval) for v in (x, y))
    shape = broadcast_shapes("where", (condition.aval, x.aval, y.aval))
    which = condition if not condition.aval.shape else broadcast_to(condition, shape)
    return select_n(which, broadcast_to(y, shape), broadcast_to(x, shape))


@primitive
class Within(Elementwise):
    """x clipped to [-bound, bound], for a function that a select asks about nothing beyond.

    So its derivative may be 1 beyond, too. And of its cotangent nothing is absent: what the select has left out are
    zeros, which have met the function's derivatives, finite numbers, alone.
    """

    name = "within"
    locally_linear = True
    bound: float

    def samples(self) -> Iterator[Sample]:
        yield Sample(Within(4.0), (Aval((2, 3), F32),))

    def lower(self, x: Any) -> Any:
        bound = jnp.asarray(self.bound, x.dtype)
        return lax.clamp(-bound, x, bound)

    def term(self, i: int, dx: Atom, xs: Sequence[Any], y: Any) -> Any:
        return Whole()(dx)


@primitive
class Whole(Linear):
    """The identity. Of its cotangent nothing is absent: what a select has left out are zeros, and no mask goes on."""

    name = "whole"
    fuses = True
    adds_up = False
    keeps_values = True

    def samples(self) -> Iterator[Sample]:
        yield Sample(Whole(), (Aval((2, 3), F32),))
        yield Sample(Whole(), (Aval((), C64),))

    def shape(self, x: Aval) -> Aval:
        return x

    def lower(self, x: Any) -> Any:
        return x

    def transpose(self, ct: Any, x: Any) -> Any:
        return [ct]

    def transpose_masked(self, ct: Any, x: Any) -> Any:
        return [ct.value if type(ct) is Masked else ct]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self(*xs), True
