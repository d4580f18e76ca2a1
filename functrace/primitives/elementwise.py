"""The elementwise family, and the arithmetic in which all derivatives are written.

Operands have equal rank and sizes that agree or are 1, or are scalars; Python numbers become
literals of their partner's dtype. A formula states `partials`, one an operand, each a function of
the operands and the result (None where the derivative is zero almost everywhere):

    sin = unary("sin", lax.sin, lambda x, y: cos(x))
    atan = unary("atan", lax.atan, lambda x, y: reciprocal(add(square(x), 1.0)))

What the family derives: shape, batching (align ranks), jvp (the sum of partial times tangent), and
the transpose of those that are `linear_in` an operand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import (
    Atom,
    Aval,
    Builder,
    Literal,
    Masked,
    Primitive,
    Sample,
    Through,
    Undefined,
    Var,
    Work,
    ambient,
)
from functrace.ir.aval import is_complex
from functrace.ir.dependence import Matrix, Site, repeated
from functrace.ir.primitive import open_builder, primitive
from functrace.lower.evaluate import weakly_typed
from functrace.primitives.families import broadcast_shapes, literal
from functrace.primitives.recurrences import series_of_product
from functrace.primitives.signs import is_least, is_mild, meets_pole
from functrace.primitives.space import (
    broadcast_in_dim,
    broadcast_to,
    reduce_sum,
    reshape,
    unbroadcast,
    value_everywhere,
)
from functrace.primitives.terms import addends, apart, factors_of

F32 = np.dtype(np.float32)
C64 = np.dtype(np.complex64)
BOOL = np.dtype(np.bool_)
I32 = np.dtype(np.int32)

Partial = Callable[..., Any] | None


class Elementwise(Primitive):
    """A function applied to each element. Subclasses say what `derivative` and `lower` are."""

    linear_in: tuple[int, ...] = ()  # operands it is linear in, one at a time
    annihilated: bool = False  # whether a zero operand makes the result zero
    arity: int = 1
    _simplify: Callable[..., Any] | None = None  # as `simplify`, asked where operands are not one value everywhere

    @property
    def fuses(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.work_each.transcendentals

    def __call__(self, *operands: Any) -> Any:
        for x in operands:
            if type(x) is not Var and type(x) is not Literal:
                like = next(y.aval for y in operands if isinstance(y, Atom))
                operands = tuple([y if isinstance(y, Atom) else literal(y, like) for y in operands])
                break
        return (open_builder() or ambient()).emit(self, operands)[0]

    def out_dtype(self, *xs: Aval) -> Any:
        """The dtype of the result; by default the one dtype of all operands."""
        dtype = xs[0].dtype
        for x in xs[1:]:
            if x.dtype != dtype:
                raise ShapeError(
                    f"{self.name}: operand dtypes differ: {', '.join(map(str, xs))}; cast one of them"
                )
        return dtype

    def shape(self, *xs: Aval) -> Aval:
        first = xs[0]
        if len(xs) != self.arity:
            raise ShapeError(f"{self.name}: takes {self.arity} operands, got {len(xs)}")
        weak = all([x.weak_type for x in xs])
        dtype = self.out_dtype(*xs)
        if all([x.shape == first.shape for x in xs]):
            return Aval(first.shape, dtype, weak)
        return Aval(broadcast_shapes(self.name, xs), dtype, weak)

    def simplify(self, builder: Builder, *xs: Atom) -> Any:
        for x in xs:
            if x.aval.shape:
                found = self.at_scalars(builder, xs)
                if found is not None:
                    return found
                break
        return None if self._simplify is None else self._simplify(builder, *xs)

    def at_scalars(self, builder: Builder, xs: tuple[Atom, ...]) -> Any:
        """The result where operands are one value everywhere, which is not computed with at each place: beside another
        operand it is a scalar, and of such alone the result is one value too. None where they are not."""
        seen = 0
        scalars = xs
        for i, x in enumerate(xs):
            value = value_everywhere(builder, x)
            if value is not None:
                seen += 1
                scalars = scalars if value is x else (*scalars[:i], value, *scalars[i + 1 :])
            elif len(xs) != 2:
                return None
        if scalars is xs:
            return None
        if seen == len(xs):
            return broadcast_in_dim(builder.emit(self, scalars)[0], self.shape(*[x.aval for x in xs]).shape, ())
        same = xs[0].aval.shape == xs[1].aval.shape
        return builder.emit(self, scalars)[0] if same else None

    def derivative(self, i: int, xs: Sequence[Any], y: Any) -> Any:
        """The partial derivative in operand i as an atom; None where it is zero."""
        raise NotImplementedError

    def term(self, i: int, dx: Atom, xs: Sequence[Any], y: Any) -> Any:
        """What the tangent of operand i adds to the result's tangent; None where that is zero."""
        slope = self.derivative(i, xs, y)
        return None if slope is None else mul(dx, slope)

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        linear = [i in self.linear_in for i, x in enumerate(xs) if x.moves]
        return self.series_along(xs, ys) if linear == [True] else super().series(xs, ys)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        if not y.aval.is_inexact:
            return y, None
        dy = None
        for i, dx in enumerate(dxs):
            if dx is None:
                continue
            if i in self.linear_in:
                term = self(*xs[:i], dx, *xs[i + 1 :])
            else:
                term = self.term(i, dx, xs, y)
            if term is not None:
                dy = term if dy is None else add(dy, term)
        if dy is not None and dy.aval.shape != y.aval.shape:
            dy = broadcast_to(dy, y.aval.shape)
        return y, dy

    def laplacian(self, at: Any, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> tuple[Any, Any, Any]:
        # The second derivatives are entries beside entries, so that the directions are summed before they meet them.
        (y,), (jy,), (ly,) = at.push(self, xs, js, ls)
        if not self.is_entrywise(*[x.aval for x, j in zip(xs, js, strict=True) if j is not None], y.aval):
            return y, jy, at.total(ly, *at.bend(self, xs, js))
        moving = [i for i, j in enumerate(js) if j is not None]
        for n, i in enumerate(moving):
            for k in moving[n:]:
                slope = at.partial(self, xs, i, k)
                if slope is not None:
                    ly = at.total(ly, summed_along(js[i], js[k], slope if i == k else mul(slope, 2.0), y.aval))
        return y, jy, ly

    def is_entrywise(self, *xs: Aval) -> bool:
        return all([x.dtype == xs[0].dtype for x in xs])  # the derivative in a complex number may be two

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        y = self.shape(*xs)
        return {a: ((a, n),) for a, n in enumerate(xs[i].shape) if n == y.shape[a]}

    def transpose(self, ct: Any, *xs: Any) -> Any:
        i, *others = [i for i, x in enumerate(xs) if type(x) is Undefined]
        if others or i not in self.linear_in:
            return super().transpose(ct, *xs)
        ct_x = self(*xs[:i], ct, *xs[i + 1 :])
        ct_xs: list[Any] = [None] * len(xs)
        ct_xs[i] = ct_x if ct_x.aval is xs[i].aval else unbroadcast(ct_x, xs[i].aval)
        return ct_xs

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        # Entries do not mix, so that one that is dirty may go on; but for the sum over what was repeated.
        if type(ct) is not Masked:
            return self.transpose(ct, *xs)
        value, mask, dirty, ordinary = ct
        shape = value.aval.shape
        wide = list(xs)
        for i, x in enumerate(xs):
            if type(x) is not Undefined:
                if (dirty and not ordinary) or is_mild(x):
                    continue
                ordinary = is_ordinary(x)
                dirty = not (ordinary and mask.by_chance)
            elif x.aval.shape != shape:
                wide[i] = Undefined(x.aval.with_shape(shape))
        found: list[Any] = list(self.transpose(value, *wide))
        for i, (x, c) in enumerate(zip(xs, found, strict=True)):
            if c is not None and x.aval.shape == shape:
                found[i] = Masked(c, mask, dirty, ordinary)
            elif c is not None:
                found[i] = self._summed(Masked(c, mask, dirty, ordinary), x.aval)
        return found

    def _summed(self, ct: Masked, aval: Aval) -> Masked:
        """The cotangent of an operand of type `aval` that was repeated."""
        axes = [i for i, n in enumerate(ct.value.aval.shape) if not aval.shape or n != aval.shape[i]]
        there = ct.there.over(axes).then(aval.shape, lambda m: reshape(m, aval.shape))
        return Masked(unbroadcast(ct.clean(), aval), there)

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        (y,) = at.results
        factor = at.operands[1 - [x.moves for x in at.operands].index(True)].value if self.annihilated else None
        return at.each(lambda x, _: repeated(x.aval, y.shape, None if factor is None else factor != 0))

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        rank = max(x.aval.ndim - b for x, b in zip(xs, batched, strict=True))
        return self(*[align(x, b, rank) for x, b in zip(xs, batched, strict=True)]), True


def align(x: Atom, is_batched: bool, rank: int) -> Atom:
    """`x` as an operand beside batched ones of `rank` further axes: sizes 1 are put where it has none."""
    missing = rank - (x.aval.ndim - is_batched)
    if is_batched:
        return reshape(x, (x.aval.shape[0], *(1,) * missing, *x.aval.shape[1:])) if missing else x
    return x if not x.aval.ndim else reshape(x, (1, *x.aval.shape))


def summed_along(j: Atom, other: Atom, slope: Atom, aval: Aval) -> Atom:
    """`slope` times the products of entries that move along the same directions, the leading axis of both."""
    rank = max(j.aval.ndim, other.aval.ndim) - 1
    products = mul(align(j, True, rank), align(other, True, rank))
    return broadcast_to(mul(reduce_sum(products, (0,)), slope), aval.shape)


class Formula(Elementwise):
    """An elementwise primitive without parameters, given by its formulas."""

    def __init__(
        self,
        name: str,
        lower: Callable[..., Any],
        partials: Sequence[Partial],
        *,
        linear_in: tuple[int, ...] = (),
        commutative: bool = False,
        out_dtype: Callable[..., Any] | None = None,
        fold: Callable[..., Any] | None = None,
        simplify: Callable[..., Any] | None = None,
        domain: str = "real",
        samples: Sequence[Any] | None = None,
        dtypes: Sequence[Any] = (F32,),
        differentiable: bool = True,
        edges: Sequence[tuple[Any, ...]] = (),
        fixed: tuple[int, ...] = (),
        order: int = 2,
        in_jax: bool = True,
        has_pole: bool = False,
        takes: tuple[int, int] = (1, 0),
        series: Callable[..., Any] | None = None,
    ):
        """
        Args:
          linear_in: operands it is linear in, one at a time; their partials are not asked for.
          edges: further sample operands, where the derivative is a convention, which is JAX's.
          fixed: operands without a derivative; their partials raise.
          order: 1 where JAX has no second derivative to compare with.
          in_jax: whether JAX has a primitive of this name.
          takes: operations for one entry, arithmetic and transcendental ones.
          series: `Primitive.series` for operands of which not only one moves that it is linear in.
        """
        self.name = name
        self.arity = len(partials)
        self.lower = lower
        self.partials = tuple(partials)
        self.linear_in = linear_in
        self.commutative = commutative
        self.domain = domain
        self.sample_avals = samples
        self.sample_dtypes = dtypes
        self.differentiable = differentiable
        self.sample_edges = edges
        self.sample_fixed = fixed
        self.sample_order = order
        self.has_pole = has_pole
        if len(linear_in) < 2 and not any(partials):
            self.locally_linear = True
        self._fold = fold
        self._series = series
        if out_dtype is not None:
            self.out_dtype = out_dtype
        elif type(self).out_dtype is Elementwise.out_dtype and type(self).shape is Elementwise.shape:
            self.keeps_type_of = self.arity
        self._simplify = simplify
        self.work_each = Work(*takes)  # pyright: ignore[reportAttributeAccessIssue]
        self.jax_names = (name,) if in_jax else ()  # pyright: ignore[reportAttributeAccessIssue]
        Primitive.named[name] = self

    def from_jax(self, params: dict[str, Any], avals: Sequence[Aval]) -> Primitive | None:
        # A parameter that asks for something, such as an accuracy, is not represented here.
        return self if all(v is None for v in params.values()) else None

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return super().series(xs, ys) or (self._series and self._series(xs, ys))

    def derivative(self, i: int, xs: Sequence[Any], y: Any) -> Any:
        partial = self.partials[i]
        return None if partial is None else partial(*xs, y)

    def samples(self) -> Iterator[Sample]:
        avals = [self.sample_avals] if self.sample_avals is not None else [
            tuple(Aval(shape, dtype) for shape in shapes)
            for n, dtype in enumerate(self.sample_dtypes)
            for shapes in SAMPLE_SHAPES[self.arity][n and -1 :]
        ]  # fmt: skip
        for operands in avals:
            yield Sample(
                self, tuple(operands), self.domain, self.differentiable, self.sample_fixed, self.sample_order
            )
        for operands in self.sample_edges:
            yield Sample(self, operands, self.domain, False, self.sample_fixed, self.sample_order)

    def fold(self, *xs: Any) -> Any:
        if self._fold is None or xs[0].dtype.kind not in "fiub" or xs[0].dtype.itemsize < 4:
            return None
        with np.errstate(all="ignore"):
            y = self._fold(*xs)
        return None if y is None else foldable(y, *xs)


def foldable(y: Any, *xs: Any) -> Any:
    """The NumPy scalar `y` as the value for literals `xs`, or None where the equation is to stay: for subnormal values,
    which a backend may flush to zero, and for an Inf or NaN that was none before, whose line would be lost."""
    if any(map(is_subnormal, (*xs, y))) or (not math.isfinite(y) and all(map(math.isfinite, xs))):
        return None
    return y


def is_subnormal(x: Any) -> bool:
    """Whether a NumPy scalar is one that backends may flush to zero."""
    return x.dtype.kind == "f" and x != 0 and bool(abs(x) < np.finfo(x.dtype).tiny)


SAMPLE_SHAPES = {
    1: [((),), ((3,),)],  # for the first dtype; further ones are tested on the last row
    2: [((), ()), ((2, 3), ()), ((3,), (3,)), ((2, 3), (1, 3))],
    3: [((), (), ()), ((2, 3), (2, 3), (2, 3))],
}


def unary(name: str, lower: Callable[..., Any], partial: Partial, **how: Any) -> Formula:
    """An elementwise function of one operand; `partial(x, y)` is its derivative."""
    return Formula(name, lower, (partial,), **how)


def binary(
    name: str, lower: Callable[..., Any], in_x: Partial, in_y: Partial, **how: Any
) -> Formula:
    """An elementwise function of two operands; the partials take `(x, y, result)`."""
    return Formula(name, lower, (in_x, in_y), **how)


def is_constant(x: Atom, value: float) -> bool:
    """Whether `x` is the literal `value`, with its sign if it is a zero."""
    return (
        type(x) is Literal
        and x.value == value
        and bool(np.signbit(np.real(x.value))) == bool(np.signbit(value))
    )


def is_ordinary(x: Atom, depth: int = 4) -> bool:
    """Whether no pole is seen in what `x` is made of."""
    if type(x) is Literal:
        return x.aval.dtype == BOOL or bool(np.isfinite(x.value))
    made = ambient().definition(x)
    if made is None:
        return ambient().inputs_are_values
    prim = made.primitive
    if meets_pole(made):
        return False
    if not depth or not (prim.keeps_values or isinstance(prim, Elementwise)):
        return True
    return all([is_ordinary(v, depth - 1) for v in made.inputs if not is_least(made, v)])


def same_type(x: Atom, *others: Atom) -> bool:
    """Whether an operation on `x` and scalar literals gives the type of `x`."""
    return all(not o.aval.shape for o in others) and (
        not x.aval.weak_type or all(o.aval.weak_type for o in others)
    )


def square_of(b: Builder, x: Atom) -> Atom | None:
    """The square of what a primitive made that knows a better one."""
    made = b.definition(x)
    return None if made is None or made.primitive.multiple_results else made.primitive.squared(*made.inputs)


def _simplify_add(b: Builder, x: Atom, y: Atom) -> Atom | None:
    if is_constant(y, -0.0) and same_type(x, y) and x.aval.is_inexact:
        return x
    if is_constant(x, -0.0) and same_type(y, x) and y.aval.is_inexact:
        return y
    return None


def _simplify_sub(b: Builder, x: Atom, y: Atom) -> Atom | None:
    return x if is_constant(y, 0.0) and same_type(x, y) else None


def _simplify_mul(b: Builder, x: Atom, y: Atom) -> Atom | None:
    if type(x) is Var and type(y) is Var:
        return square_of(b, x) if x is y else None
    # Not for complex values: (inf + 0j) * (1 + 0j) has a NaN part.
    if is_complex(x.aval.dtype):
        return None
    if is_constant(y, 1.0) and same_type(x, y):
        return x
    return y if is_constant(x, 1.0) and same_type(y, x) else None


def undoing(name: str) -> Callable[..., Atom | None]:
    """How the primitive of this name simplifies, which undoes itself."""

    def simplify(b: Builder, x: Atom) -> Atom | None:
        made = b.definition(x)
        return made.inputs[0] if made is not None and made.primitive.name == name else None

    return simplify


class _Sum(Formula):
    """add, sub: linear in both operands jointly, so a transpose may ask for both at once."""

    locally_linear = True

    def transpose(self, ct: Any, *xs: Any) -> Any:
        signed = (ct, neg(ct) if self is sub else ct)
        return [
            unbroadcast(s, x.aval) if isinstance(x, Undefined) else None
            for s, x in zip(signed, xs, strict=True)
        ]

    def squares(self, *xs: Any) -> Any:
        """Of all that is added up: either it has no entries in common, or it is outer products, which make one."""
        parts = addends(self, xs, add, sub)
        made = [ambient().definition(x) for x, _ in parts]
        supports = [m and m.primitive.support(*m.inputs) for m in made]
        if supports and apart(supports):
            return [Through(x) for x, _ in parts]
        factors = [factors_of(x) for x, _ in parts]
        if not factors or not all(factors):
            return None
        signed = [f if positive else f.scaled(neg) for f, (_, positive) in zip(factors, parts, strict=True)]
        return signed[0].squares_with(signed[1:])

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        z = self(*xs)
        if not z.aval.is_inexact or (dxs[0] is None and dxs[1] is None):
            return z, None
        if dxs[0] is None:
            dz = neg(dxs[1]) if self is sub else dxs[1]
        else:
            dz = dxs[0] if dxs[1] is None else self(*dxs)
        return z, broadcast_to(dz, z.aval.shape)


class _Neg(Formula):
    def squares(self, *xs: Any) -> Any:
        return [Through(xs[0])]

    def factors(self, *xs: Any) -> Any:
        return Through(xs[0], lambda found: found.scaled(neg))


class _Product(Formula):
    """mul: the rules of the family, written out for its two operands."""

    def squares(self, *xs: Any) -> Any:
        # Where no axis is long in both operands, the squares of a product add up to a product of sums.
        x, y = xs
        if is_complex(x.aval.dtype) or any([m > 1 and n > 1 for m, n in zip(x.aval.shape, y.aval.shape, strict=False)]):
            return None
        big, small = (x, y) if x.aval.size > y.aval.size else (y, x)
        return [Through(big, lambda n: mul(n, sum_of_squares(small)))]

    def factors(self, *xs: Any) -> Any:
        x, y = xs if xs[0].aval.shape else xs[::-1]
        return None if y.aval.shape else Through(x, lambda found: found.scaled(lambda v: mul(v, y)))

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        (x, y), (dx, dy) = xs, dxs
        z = self(x, y)
        if not z.aval.is_inexact:
            return z, None
        if dx is None:
            dz = self(x, dy)
        elif dy is None:
            dz = self(dx, y)
        else:
            dz = add(self(dx, y), self(x, dy))
        return z, dz if dz.aval.shape == z.aval.shape else broadcast_to(dz, z.aval.shape)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        x, y = xs
        if type(x) is not Undefined:
            return None, unbroadcast(self(x, ct), y.aval)
        if type(y) is Undefined:
            return super().transpose(ct, x, y)
        return unbroadcast(self(ct, y), x.aval), None


def _negated(x: Any) -> Any:
    return np.negative(x) if x.dtype.kind != "b" else None


NUMBERS = (F32, C64)
neg = _Neg("neg", lax.neg, (None,), linear_in=(0,), fold=_negated, simplify=undoing("neg"), dtypes=NUMBERS)
neg.keeps_values = True
add = _Sum(
    "add", lax.add, (None, None), linear_in=(0, 1), commutative=True, fold=np.add,
    simplify=_simplify_add, dtypes=NUMBERS,
)  # fmt: skip
sub = _Sum(
    "sub", lax.sub, (None, None), linear_in=(0, 1), fold=np.subtract, simplify=_simplify_sub,
    dtypes=NUMBERS,
)  # fmt: skip
mul = _Product(
    "mul", lax.mul, (None, None), linear_in=(0, 1), commutative=True, fold=np.multiply,
    simplify=_simplify_mul, dtypes=NUMBERS, series=lambda xs, ys: series_of_product(mul, xs),
)  # fmt: skip
mul.annihilated = mul.scales = True


@primitive
class ConvertElementType(Elementwise):
    """Another dtype. Linear between inexact dtypes; its transpose converts back."""

    name = "convert_element_type"
    jax_names = ("convert_element_type",)
    new_dtype: Any
    weak_type: bool = False
    linear_in = (0,)

    def samples(self) -> Iterator[Sample]:
        yield Sample(ConvertElementType(np.dtype(np.float16)), (Aval((3,), F32),), differentiable=False)
        yield Sample(ConvertElementType(C64), (Aval((3,), F32),))
        yield Sample(ConvertElementType(I32), (Aval((2, 3), F32),))
        yield Sample(ConvertElementType(F32), (np.array([1, 2], np.int32),))

    def shape(self, x: Aval) -> Aval:
        return Aval(x.shape, self.new_dtype, self.weak_type)

    def lower(self, x: Any) -> Any:
        y = lax.convert_element_type(x, self.new_dtype)
        return weakly_typed(y) if self.weak_type else y

    def fold(self, *xs: Any) -> Any:
        (x,) = xs
        known = {"i": "iub", "u": "iub", "b": "iub", "f": "fiub"}.get(self.new_dtype.kind, "")
        if x.dtype.kind not in known or any([d.kind == "f" and d.itemsize < 4 for d in (x.dtype, self.new_dtype)]):
            return None
        with np.errstate(all="ignore"):
            y = x.astype(self.new_dtype)
        return foldable(y, x)

    def simplify(self, builder: Builder, x: Atom) -> Atom | None:
        return x if x.aval is self.shape(x.aval) else super().simplify(builder, x)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        y = self(*xs)
        (dx,) = dxs
        return y, None if dx is None or not y.aval.is_inexact else self(dx)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        aval = xs[0].aval
        if is_complex(ct.aval.dtype) and not is_complex(aval.dtype):
            ct = Primitive.named["real"](ct)
        return [convert_element_type(ct, aval.dtype, aval.weak_type)]

    def spelled(self, writer: Any, eqn: Any) -> None:
        # Never weak: beside such a value a number of Python's is of 64 bits where those are enabled.
        (x,) = writer.operands(eqn)
        writer.assign(eqn, f"lax.convert_element_type({x}, {writer.value(self.new_dtype)})")

    def squares(self, *xs: Any) -> Any:
        (x,) = xs
        return [Through(x)] if x.aval.is_inexact and np.can_cast(x.aval.dtype, self.new_dtype) else None

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> ConvertElementType | None:
        new_dtype = params["new_dtype"]
        known = isinstance(new_dtype, np.dtype)
        return cls(new_dtype, bool(params["weak_type"])) if known else None


def convert_element_type(x: Atom, dtype: Any, weak_type: bool = False) -> Atom:
    """`x` as another dtype."""
    return ConvertElementType(np.dtype(dtype), weak_type)(x)


def sum_of_squares(x: Atom, axes: tuple[int, ...] | None = None) -> Atom:
    """The squared magnitudes of the entries of `x` added up, over all axes unless some are given; float32 at least."""
    axes = tuple(range(x.aval.ndim)) if axes is None else axes
    if is_complex(x.aval.dtype):
        return add(*[sum_of_squares(Primitive.named[part](x), axes) for part in ("real", "imag")])
    x = widened(x)
    return reduce_sum(mul(x, x), axes)


def widened(x: Atom) -> Atom:
    """`x` in a dtype of at least 32 bits, and no longer weak."""
    return convert_element_type(x, F32 if x.aval.dtype.itemsize < 4 else x.aval.dtype)
