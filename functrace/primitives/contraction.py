"""Products summed over shared axes: `dot_general`, and the family of what is linear in each operand.

A product has a transpose an operand, which is again a product: of the cotangent with the other
operand. The result's axes are the batch axes, then the free axes of the left and the right operand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax import lax

from functrace.errors import ShapeError
from functrace.ir import (
    Atom,
    Aval,
    Builder,
    Equation,
    Masked,
    Primitive,
    Sample,
    Undefined,
    Work,
    is_complex,
    primitive,
)
from functrace.ir.dependence import Matrix, Operand, Site, linked
from functrace.primitives.complex import real
from functrace.primitives.elementwise import (
    C64,
    F32,
    I32,
    add,
    convert_element_type,
    mul,
    series_of_product,
    sum_of_squares,
    widened,
)
from functrace.primitives.families import literal
from functrace.primitives.selection import any_along
from functrace.primitives.space import (
    BroadcastInDim,
    broadcast_in_dim,
    broadcast_to,
    move_axis,
    reduce_sum,
    reshape,
    transpose,
)
from functrace.primitives.structural import Concatenate, concatenate, slice_along

BF16 = np.dtype(ml_dtypes.bfloat16)

Dims = tuple[int, ...]
DimensionNumbers = tuple[tuple[Dims, Dims], tuple[Dims, Dims]]
Precision = tuple[str, str] | str | None


def products(at: Site, rows: Any, left: Any, right: Any) -> list[Matrix | None]:
    """The pattern of a sum of products: of each, the entry that it is added to and those that it is made of.

    A factor that is known to be zero leaves its product out.
    """

    def of(x: Operand, own: Any, other: Operand, others: Any) -> Matrix | None:
        if not x.moves:
            return None
        shape = (at.results[0].size, x.aval.size)
        if other.value is None:
            return linked(rows, own, shape)
        there = (np.asarray(other.value).ravel() != 0)[others]
        return linked(rows[there], own[there], shape)

    x, y = at.operands
    return [of(x, left, y, right), of(y, right, x, left)]


class Bilinear(Primitive):
    """Linear in each of two operands, one at a time."""

    scales = True

    def transpose_in(self, i: int, ct: Atom, x: Aval, other: Atom) -> Atom | None:
        """The cotangent of operand i, of type `x`, given the other operand."""
        raise NotImplementedError

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        (x, y), (dx, dy) = xs, dxs
        z = self(x, y)
        if not z.aval.is_inexact or (dx is None and dy is None):
            return z, None
        if dx is None:
            return z, self(x, dy)
        if dy is None:
            return z, self(dx, y)
        return z, add(self(dx, y), self(x, dy))

    def laplacian(self, at: Any, xs: Sequence[Any], js: Sequence[Any], ls: Sequence[Any]) -> tuple[Any, Any, Any]:
        (z,), (jz,), (lz,) = at.push(self, xs, js, ls)
        if js[0] is None or js[1] is None:
            return z, jz, lz
        summed = self.summed(js[0], js[1])
        if summed is None:
            return z, jz, at.total(lz, *at.bend(self, xs, js))
        return z, jz, at.total(lz, mul(summed, 2.0))

    def summed(self, x: Atom, y: Atom) -> Atom | None:
        """The products of operands with one more leading axis, summed over it; None where that is no product."""
        return None

    def series(self, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
        return series_of_product(self, xs)

    def transpose(self, ct: Any, *xs: Any) -> Any:
        i, *others = [i for i, x in enumerate(xs) if isinstance(x, Undefined)]
        if others:
            return super().transpose(ct, *xs)
        ct_x = self.transpose_in(i, ct, xs[i].aval, xs[1 - i])
        return [ct_x if j == i else None for j in range(2)]

    def in_common(self, i: int, x: Aval, other: Aval) -> list[tuple[int, int]]:
        """Axes of the result that are axes of operand i, which is of type `x`: pairs of their numbers."""
        raise NotImplementedError

    def transpose_masked(self, ct: Any, *xs: Any) -> Any:
        if type(ct) is not Masked:
            return self.transpose(ct, *xs)
        (i,) = [i for i, x in enumerate(xs) if type(x) is Undefined]
        value, x, other, mask = ct.clean(), xs[i].aval, xs[1 - i], ct.there
        rows, others = mask, None
        if mask.shape and mask.uniform:
            # Rows of the other operand that meet nothing but absent entries may hold anything: they are left out.
            others = rows_of(mask, self.in_common(1 - i, other.aval, x), other.aval)
            other = other if others is None else others.zeroed(other)
        found: list[Any] = [None, None]
        found[i] = self.transpose_in(i, value, x, other)
        if mask.shape:
            rows = rows_of(mask, self.in_common(i, x, other.aval), x) if mask.uniform else None
            rows = rows or self.mixed_rows(i, mask, x, other.aval)
        if found[i] is not None and rows is not None:
            # Of what has no such rows, as the mask of a relu, it is not asked whether zeros meet an infinity here.
            found[i] = Masked(found[i], rows, not mask.shape or bool(rows.uniform))
        return found

    def mixed_rows(self, i: int, mask: Any, x: Aval, other: Aval) -> Any:
        """What is there in operand i, of type `x`, by a mask that may be any; None: it is not said."""
        return None


def rows_of(mask: Any, pairs: Sequence[tuple[int, int]], aval: Aval) -> Any:
    """Of an operand, what meets entries that are there, for a mask that varies along `pairs` alone.

    `pairs` are axes of the mask and axes of the operand. None if the mask varies along other axes too.
    """
    kept = sorted([a for a, _ in pairs])
    if not mask.is_uniform([a for a in range(len(mask.shape)) if a not in kept]):
        return None
    ordered = sorted(pairs, key=lambda pair: pair[1])
    row = mask.over([a for a in range(len(mask.shape)) if a not in kept])
    row = row.permuted([kept.index(a) for a, _ in ordered])
    return row.along(aval.shape, tuple([b for _, b in ordered]))


def as_dtype(ct: Atom, dtype: Any) -> Atom:
    """A cotangent of another dtype; of a complex one for a real operand, the real part."""
    if ct.aval.dtype == dtype:
        return ct
    if is_complex(ct.aval.dtype) and not is_complex(dtype):
        ct = real(ct)
    return convert_element_type(ct, dtype)


def precision_names(precision: Any) -> Precision:
    """JAX's precision as text, which `jax_precision` reads."""
    return tuple([p.name for p in precision]) if isinstance(precision, tuple) else precision and precision.name


def jax_precision(precision: Precision) -> Any:
    """What `jax.lax` calls a precision of this name."""
    if isinstance(precision, tuple):
        return tuple([lax.Precision[p] for p in precision])
    return None if precision is None else lax.DotAlgorithmPreset[precision]


def dtype_or_none(dtype: Any) -> Any:
    """A parameter that may be a dtype, as NumPy's."""
    return None if dtype is None else np.dtype(dtype)


def result_dtype(primitive: Primitive, x: Aval, y: Aval) -> Any:
    """The dtype of a product of operands of two dtypes, as JAX has it."""
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, y)]
    try:
        return np.dtype(jax.eval_shape(primitive.lower, *structs).dtype)
    except TypeError as error:
        raise ShapeError(
            f"{primitive.name}: the dtypes of {x} and {y} have no product; cast one of them"
        ) from error


def paired(i: int, x: Atom, other: Atom) -> tuple[Atom, Atom]:
    """Both operands in order, of which `x` is number i."""
    return (other, x) if i else (x, other)


def free_axes(x: Aval, contracted: Dims, batch: Dims) -> Dims:
    """The axes of `x` that are neither contracted nor batch axes, in order."""
    return tuple([i for i in range(x.ndim) if i not in contracted and i not in batch])


def behind(dims: Dims) -> Dims:
    """The same axes behind a new leading axis."""
    return tuple([d + 1 for d in dims])


class Factors(NamedTuple):
    """An array as a sum of outer products over k: of `left [k, ...]`, which has its axes `rows`, in order, and of
    `right [k, ...]`, which has the others."""

    rows: tuple[int, ...]
    left: Atom
    right: Atom
    precision: Precision = None

    @property
    def columns(self) -> tuple[int, ...]:
        """The axes that `right` has."""
        rank = self.left.aval.ndim + self.right.aval.ndim - 2
        return tuple([a for a in range(rank) if a not in self.rows])

    def permuted(self, order: Dims) -> Factors:
        """Those of the array whose axis i is axis `order[i]` of this one."""

        def of(axes: Dims, x: Atom) -> tuple[Dims, Atom]:
            new = tuple([i for i, a in enumerate(order) if a in axes])
            return new, transpose(x, (0, *[1 + axes.index(order[i]) for i in new]))

        rows, left = of(self.rows, self.left)
        return Factors(rows, left, of(self.columns, self.right)[1], self.precision)

    def repeated(self, shape: Dims, dimensions: Dims) -> Factors | None:
        """Those of the array repeated to this shape, in which its axis i is axis `dimensions[i]`."""
        if list(dimensions) != sorted(dimensions):
            return None
        rows = tuple([dimensions[a] for a in self.rows])
        columns = tuple([d for d in range(len(shape)) if d not in rows])

        def wide(x: Atom, own: Dims, axes: Dims) -> Atom:
            sizes = [shape[d] for d in axes]
            return broadcast_in_dim(x, (x.aval.shape[0], *sizes), (0, *[1 + axes.index(dimensions[a]) for a in own]))

        return self._replace(
            rows=rows, left=wide(self.left, self.rows, rows), right=wide(self.right, self.columns, columns)
        )

    def scaled(self, by: Callable[[Atom], Atom]) -> Factors:
        """Those of a multiple, of which `by` makes that of any array."""
        return self._replace(right=by(self.right))

    def squares_with(self, others: Sequence[Factors]) -> list[Atom] | None:
        """The sum of squares of the sum of all these arrays, for less than that takes."""
        alike = [f if f.rows == self.rows else Factors(f.columns, f.right, f.left) for f in others]
        sides = [(widened(f.left), widened(f.right)) for f in (self, *alike)]
        if any([f.rows != self.rows for f in alike]) or len({x.aval.dtype for pair in sides for x in pair}) > 1:
            return None
        left, right = (
            concatenate([reshape(x, (1, x.aval.shape[0], math.prod(x.aval.shape[1:]))) for x in xs], 1)
            for xs in zip(*sides, strict=True)
        )
        return squares_of_product(left, right, self.precision)


@primitive
class DotGeneral(Bilinear):
    """Products summed over contracted axes, for each index of the batch axes.

    `dimension_numbers` is `((x contracted, y contracted), (x batch, y batch))`. `precision` is
    "DEFAULT", "HIGH" or "HIGHEST" for each operand, or the name of an algorithm.
    """

    name = "dot_general"
    spelling = "lax.dot_general({0}, {1}, {dimension_numbers})"
    jax_names = ("dot_general",)
    dimension_numbers: DimensionNumbers
    precision: Precision = None
    preferred_element_type: Any = None

    def samples(self) -> Iterator[Sample]:
        matmul: Any = (((1,), (0,)), ((), ()))
        several: Any = (((3, 1), (0, 2)), ((0,), (3,)))
        two_batches: Any = (((1,), (3,)), ((2, 0), (0, 1)))
        outer: Any = (((), ()), ((), ()))
        yield Sample(DotGeneral(matmul), (Aval((2, 3), F32), Aval((3, 4), F32)))
        yield Sample(DotGeneral((((0,), (0,)), ((), ()))), (Aval((3,), F32), Aval((3,), F32)))
        yield Sample(DotGeneral(several), (Aval((2, 3, 2, 4), F32), Aval((4, 5, 3, 2), F32)))
        yield Sample(DotGeneral(two_batches), (Aval((2, 4, 3), C64), Aval((3, 2, 2, 4), C64)))
        yield Sample(DotGeneral(outer), (Aval((2,), F32), Aval((3,), F32)))
        yield Sample(DotGeneral(outer), (Aval((), F32), Aval((), F32)))
        yield Sample(DotGeneral(matmul), (Aval((2, 0), F32), Aval((0, 3), F32)))
        yield Sample(DotGeneral(matmul), (Aval((0, 2), F32), Aval((2, 3), F32)))
        yield Sample(DotGeneral(matmul), (Aval((2, 3), I32), Aval((3, 2), I32)))
        yield Sample(DotGeneral(matmul), (Aval((2, 3), C64), Aval((3, 2), F32)))
        highest = DotGeneral(matmul, ("HIGHEST", "HIGH"), F32)
        yield Sample(highest, (Aval((2, 3), F32), Aval((3, 2), F32)))
        algorithm = DotGeneral(matmul, "F32_F32_F32")
        yield Sample(algorithm, (Aval((2, 3), F32), Aval((3, 2), F32)), differentiable=False)
        wide = DotGeneral(matmul, None, F32)
        yield Sample(wide, (Aval((2, 3), BF16), Aval((3, 2), BF16)))
        yield Sample(DotGeneral(matmul), (Aval((2, 3), BF16), Aval((3, 2), F32)))
        yield Sample(DotGeneral(matmul, None, F32), (Aval((2, 3), I32), Aval((3, 2), I32)))

    def spelled(self, writer: Any, eqn: Any) -> None:
        x, y = eqn.inputs
        of_matrices: Any = (((x.aval.ndim - 1,), (max(y.aval.ndim - 2, 0),)), ((), ()))
        if x.aval.dtype == y.aval.dtype and {x.aval.ndim, y.aval.ndim} <= {1, 2} and self == DotGeneral(of_matrices):
            writer.assign(eqn, " @ ".join(writer.operands(eqn)))
        else:
            writer.usual(eqn)

    def shape(self, *xs: Aval) -> Aval:
        x, y = xs
        (xc, yc), (xb, yb) = self.dimension_numbers
        for a, dims in ((x, xc + xb), (y, yc + yb)):
            if len(set(dims)) < len(dims) or any([not 0 <= d < a.ndim for d in dims]):
                raise ShapeError(f"dot_general: axes {dims} of {a} repeat or do not exist")
        for kind, of_x, of_y in (("contracted", xc, yc), ("batch", xb, yb)):
            sizes = [x.shape[i] for i in of_x], [y.shape[i] for i in of_y]
            if sizes[0] != sizes[1]:
                raise ShapeError(
                    f"dot_general: the {kind} axes of {x} and {y} must agree: axes {of_x} have "
                    f"sizes {tuple(sizes[0])}, axes {of_y} have {tuple(sizes[1])}"
                )
        dtype = self.preferred_element_type
        if dtype is None:
            dtype = x.dtype if x.dtype == y.dtype else result_dtype(self, x, y)
        axes = (*xb, *free_axes(x, xc, xb))
        shape = (*[x.shape[i] for i in axes], *[y.shape[i] for i in free_axes(y, yc, yb)])
        return Aval(shape, dtype, x.weak_type and y.weak_type)

    def work(self, *xs: Aval) -> Work:
        x, y = xs
        (_, yc), (_, yb) = self.dimension_numbers
        return Work(2 * x.size * math.prod([y.shape[i] for i in free_axes(y, yc, yb)]))

    def lower(self, x: Any, y: Any) -> Any:
        return lax.dot_general(
            x,
            y,
            self.dimension_numbers,
            precision=jax_precision(self.precision),
            preferred_element_type=self.preferred_element_type,
        )

    def simplify(self, builder: Builder, *xs: Atom) -> Atom | None:
        for i, x in enumerate(xs):
            made = builder.definition(x)
            if made is None:
                continue
            if repeated := self.repeated(i, made):
                return self.of_repeated(xs, i, made, repeated)
            if isinstance(made.primitive, Concatenate) and made.primitive.dimension in self.dimension_numbers[0][i]:
                parts = [builder.definition(part) for part in made.inputs]
                # The sum of products in a narrow dtype would be rounded once more than the product is.
                if x.aval.dtype.itemsize > 2 and any([part and self.repeated(i, part) for part in parts]):
                    return self.of_joined(xs, i, made)
        return None

    def repeated(self, i: int, made: Equation) -> list[int]:
        """Axes of operand i that the result keeps and along which its entries are the same, by what made it."""
        if not isinstance(made.primitive, BroadcastInDim):
            return []
        x = made.outputs[0].aval
        contracted, batch = self.dimension_numbers
        axes, _ = made.primitive.axes(made.inputs[0].aval)
        return [d for d in free_axes(x, contracted[i], batch[i]) if d in axes and x.shape[d] > 1]

    def of_repeated(self, xs: Sequence[Atom], i: int, made: Equation, repeated: Sequence[int]) -> Atom:
        """The product where operand i is `made` by a repetition: of what is the same one row is multiplied."""
        shape = tuple([1 if d in repeated else n for d, n in enumerate(xs[i].aval.shape)])
        once = broadcast_in_dim(made.inputs[0], shape, made.primitive.params["dimensions"])
        return broadcast_to(self(*paired(i, once, xs[1 - i])), self.shape(*[x.aval for x in xs]).shape)

    def of_joined(self, xs: Sequence[Atom], i: int, made: Equation) -> Atom:
        """The product where operand i is `made` by joining along a contracted axis: the sum of its parts' products."""
        along = made.primitive.params["dimension"]
        axis = dict(zip(*self.dimension_numbers[0][:: -1 if i else 1], strict=True))[along]
        ends = np.cumsum([0, *[part.aval.shape[along] for part in made.inputs]]).tolist()
        others = [slice_along(xs[1 - i], axis, *span) for span in pairwise(ends)]
        return reduce(add, [self(*paired(i, part, other)) for part, other in zip(made.inputs, others, strict=True)])

    def in_common(self, i: int, x: Aval, other: Aval) -> list[tuple[int, int]]:
        contracted, batch = self.dimension_numbers
        free = free_axes(x, contracted[i], batch[i])
        before = len(free_axes(other, contracted[1 - i], batch[1 - i])) if i else 0
        n = len(batch[i])
        return [*enumerate(batch[i]), *[(n + before + k, axis) for k, axis in enumerate(free)]]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        # Numbers of entries by batch, free and contracted axes of each operand.
        (y,) = at.results
        arranged, free = [], []
        for x, contracted, batch in zip(at.operands, *self.dimension_numbers, strict=True):
            own = free_axes(x.aval, contracted, batch)
            numbers = np.arange(x.aval.size).reshape(x.aval.shape).transpose(*batch, *own, *contracted)
            sizes = [math.prod([x.aval.shape[i] for i in axes]) for axes in (batch, own, contracted)]
            arranged.append(numbers.reshape(sizes))
            free.append(sizes[1])
        rows = np.arange(y.size).reshape(len(arranged[0]), *free, 1)
        met = np.broadcast_arrays(rows, arranged[0][:, :, None, :], arranged[1][:, None, :, :])
        return [products(at, *met)]

    def mixed_rows(self, i: int, mask: Any, x: Aval, other: Aval) -> Any:
        def rule(m: Atom) -> Atom:
            pairs = sorted(self.in_common(i, x, other), key=lambda pair: pair[1])
            kept = sorted([a for a, _ in pairs])
            some = any_along(m, tuple([a for a in range(m.aval.ndim) if a not in kept]))
            some = transpose(some, tuple([kept.index(a) for a, _ in pairs]))
            return broadcast_in_dim(some, x.shape, tuple([b for _, b in pairs]))

        rows = mask.then(x.shape, rule)
        rows.by_chance = True
        return rows

    def transpose_in(self, i: int, ct: Atom, x: Aval, other: Atom) -> Atom:
        contracted, batch = self.dimension_numbers
        xc, yc, xb, yb = contracted[i], contracted[1 - i], batch[i], batch[1 - i]
        x_free, y_free = free_axes(x, xc, xb), free_axes(other.aval, yc, yb)
        before = len(xb) + (0 if i else len(x_free))
        in_ct = tuple(range(before, before + len(y_free)))
        shared = tuple(range(len(xb)))
        # Contracted axes come in the order they have in the other operand.
        summed = [a for _, a in sorted(zip(yc, xc, strict=True))]
        # The cotangent stands where it leaves the axes of a plain matrix product in order.
        pair = ((in_ct, shared, ct), (y_free, yb, other))
        (c0, b0, left), (c1, b1, right) = pair[::-1] if i else pair
        axes = (*xb, *summed, *x_free) if i else (*xb, *x_free, *summed)
        product = DotGeneral(((c0, c1), (b0, b1)), self.precision, self.preferred_element_type)(left, right)
        order = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        return as_dtype(transpose(product, order), x.dtype)

    def entries_along(self, i: int, *xs: Aval) -> dict[int, tuple[tuple[int, int], ...]]:
        return {a: ((k, xs[i].shape[a]),) for k, a in self.in_common(i, xs[i], xs[1 - i])}

    def summed(self, x: Atom, y: Atom) -> Atom:
        (xc, yc), (xb, yb) = self.dimension_numbers
        numbers = (((0, *behind(xc)), (0, *behind(yc))), (behind(xb), behind(yb)))
        return DotGeneral(numbers, self.precision, self.preferred_element_type)(x, y)

    def factors(self, *xs: Any) -> Any:
        x, y = xs
        (xc, yc), batch = self.dimension_numbers
        if batch != ((), ()):
            return None

        def rows(x: Atom, contracted: Dims) -> Atom:
            free = free_axes(x.aval, contracted, ())
            k = math.prod([x.aval.shape[d] for d in contracted])
            return reshape(transpose(x, (*contracted, *free)), (k, *[x.aval.shape[d] for d in free]))

        return Factors(tuple(range(x.aval.ndim - len(xc))), rows(x, xc), rows(y, yc), self.precision)

    def squares(self, *xs: Any) -> Any:
        x, y = xs
        (xc, yc), (xb, yb) = self.dimension_numbers
        return squares_of_product(matrices(x, xb, xc), matrices(y, yb, yc), self.precision)

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        x, y = xs
        (xc, yc), (xb, yb) = self.dimension_numbers
        if batched[0]:
            xc, xb = behind(xc), behind(xb)
        if batched[1]:
            yc, yb = behind(yc), behind(yb)
        if all(batched):
            xb, yb = (0, *xb), (0, *yb)
        numbers = ((xc, yc), (xb, yb))
        z = DotGeneral(numbers, self.precision, self.preferred_element_type)(x, y)
        if all(batched):
            return z, True
        # One operand's batch axis is its first free one.
        return move_axis(z, len(xb) if batched[0] else x.aval.ndim - len(xc), 0), True

    @classmethod
    def from_jax(cls, params: dict[str, Any], avals: Sequence[Aval]) -> DotGeneral | None:
        precision = params["precision"]
        if params["out_sharding"] is not None or isinstance(precision, lax.DotAlgorithm):
            return None
        numbers: Any = tuple([
            tuple([tuple([int(d) for d in dims]) for dims in pair])
            for pair in params["dimension_numbers"]
        ])  # fmt: skip
        preferred = dtype_or_none(params["preferred_element_type"])
        if all([a.dtype == preferred for a in avals]):
            preferred = None
        return cls(numbers, precision_names(precision), preferred)


def dot_general(
    x: Atom,
    y: Atom,
    dimension_numbers: DimensionNumbers,
    precision: Precision = None,
    preferred_element_type: Any = None,
) -> Atom:
    """The products of `x` and `y` summed over the contracted axes."""
    preferred = dtype_or_none(preferred_element_type)
    return DotGeneral(dimension_numbers, precision, preferred)(x, y)


def matmul(x: Atom, y: Atom, precision: Precision = None) -> Atom:
    """The matrix product over the last two axes, for each index of the leading ones."""
    batch = tuple(range(x.aval.ndim - 2))
    contracted = ((x.aval.ndim - 1,), (y.aval.ndim - 2,))
    return dot_general(x, y, (contracted, (batch, batch)), precision)


def matrices(x: Atom, batch: Dims, rows: Dims) -> Atom:
    """`x` as a matrix for each index of its `batch` axes, with the axes `rows` in its rows: rank 3."""
    rest = free_axes(x.aval, rows, batch)
    shape = [math.prod([x.aval.shape[d] for d in dims]) for dims in (batch, rows, rest)]
    return reshape(transpose(x, (*batch, *rows, *rest)), tuple(shape))


def products_take_less(k: int, m: int, n: int) -> bool:
    """Whether those of k rows of m entries, and of n, take less than the product of the two matrices."""
    return k * (m + n) <= m * n


def squares_of_product(x: Atom, y: Atom, precision: Precision) -> list[Atom] | None:
    """The sum of squares of `x^T y`, for matrices in a batch, where that takes less than the product.

    For one row it is `|x|^2 |y|^2`. In general it is the sum of `(x x^T) * (y y^T)`, the products of rows of x with
    rows of x, times those of y: the ghost norm. With k rows of m and n entries, k k (m + n) multiplications
    against k m n. Source: Goodfellow, arXiv:1510.01799; Li et al., arXiv:2110.05679, section 4; Bu et al.,
    arXiv:2205.10683.
    """
    _, k, m = x.aval.shape
    n = y.aval.shape[2]
    if not x.aval.is_inexact or not y.aval.is_inexact:
        return None
    if k == 1:
        squares = mul(sum_of_squares(x, (1, 2)), sum_of_squares(y, (1, 2)))
        return [reduce_sum(squares, (0,))]
    if not products_take_less(k, m, n) or is_complex(x.aval.dtype) or is_complex(y.aval.dtype):
        return None
    gram = DotGeneral((((2,), (2,)), ((0,), (0,))), precision)
    squares = mul(*[gram(v, v) for v in map(widened, (x, y))])
    # What rounding leaves of a sum that cancels must not be negative.
    return [Primitive.named["max"](reduce_sum(squares, (0, 1, 2)), literal(0.0, squares.aval))]
