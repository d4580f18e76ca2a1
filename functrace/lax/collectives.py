"""Collectives over the named axis of vmap, with the names, arguments and meaning of jax.lax.

Every function takes a pytree of arrays and an axis name, or a tuple of names that count as one axis,
the first name slowest. Outside a trace, where the axis is one of JAX's own, each is jax.lax's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax import lax, tree_util

from functrace.errors import ArgumentError, RuleError, UnboundAxisError
from functrace.ir import Atom
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.primitives.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    AxisIndex,
    PMax,
    PMin,
    PPermute,
    PSum,
    ReduceScatter,
)
from functrace.primitives.elementwise import add, convert_element_type, mul
from functrace.primitives.families import literal
from functrace.primitives.space import reshape
from functrace.tracing import Tracer, lift
from functrace.tracing.axes import AXES
from functrace.tracing.tracer import at, atom_of


def psum(x: Any, axis_name: Any, *, axis_index_groups: Any = None) -> Any:
    """The sum over a named axis, the same at every index.

    Args:
      x: a pytree of arrays; of booleans the true ones are counted. A value that is no tracer is
        multiplied by the size of the axis at once: `psum(1, name)` is a Python int.
      axis_name: a name, or a tuple of names.
      axis_index_groups: sums within groups; not supported inside a functrace trace.
    Returns:
      The pytree of sums. The derivative of a sum is the sum of the tangents, and its transpose the
      sum of the cotangents, as in JAX.
    Raises:
      UnboundAxisError: no enclosing map has an axis of this name.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: x / ft.lax.psum(x, "i"), axis_name="i")(np.array([1.0, 3.0])).tolist()
    [0.25, 0.75]
    """
    if open_builder() is None:
        return in_jax(lax.psum, x, axis_name, axis_index_groups=axis_index_groups)
    names = names_of("psum", axis_name, axis_index_groups)
    size = axis_size_of("psum", names)
    reduced = reduce_leaf(PSum(names, is_checked(names)))

    def leaf_sum(leaf: Any) -> Any:
        if not isinstance(leaf, Tracer | jax.core.Tracer):
            return times(leaf, size)
        return reduced(leaf)

    return tree_util.tree_map(leaf_sum, x)


def pmean(x: Any, axis_name: Any, *, axis_index_groups: Any = None) -> Any:
    """The mean over a named axis, the same at every index.

    Args:
      x: a pytree of arrays.
      axis_name: a name, or a tuple of names.
      axis_index_groups: see `psum`.
    Returns:
      The pytree of means.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: x - ft.lax.pmean(x, "i"), axis_name="i")(np.array([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    if open_builder() is None:
        return in_jax(lax.pmean, x, axis_name, axis_index_groups=axis_index_groups)
    size = axis_size_of("pmean", names_of("pmean", axis_name, axis_index_groups))
    return tree_util.tree_map(lambda v: v / size, psum(x, axis_name))


def pmax(x: Any, axis_name: Any, *, axis_index_groups: Any = None) -> Any:
    """The greatest value over a named axis, the same at every index.

    Its derivative (JAX has none) is that of the maximum: shared equally by the indices that attain it.

    Args:
      x: a pytree of arrays.
      axis_name: a name, or a tuple of names.
      axis_index_groups: see `psum`.
    Returns:
      The pytree of maxima.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: ft.lax.pmax(x, "i"), axis_name="i")(np.array([1.0, 3.0])).tolist()
    [3.0, 3.0]
    """
    if open_builder() is None:
        return in_jax(lax.pmax, x, axis_name, axis_index_groups=axis_index_groups)
    return extremum("pmax", PMax, x, axis_name, axis_index_groups)


def pmin(x: Any, axis_name: Any, *, axis_index_groups: Any = None) -> Any:
    """The least value over a named axis, the same at every index. See `pmax`."""
    if open_builder() is None:
        return in_jax(lax.pmin, x, axis_name, axis_index_groups=axis_index_groups)
    return extremum("pmin", PMin, x, axis_name, axis_index_groups)


def axis_size(axis_name: Any) -> int:
    """The size of a named axis, a Python int; of a tuple of names, the product.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: x * ft.lax.axis_size("i"), axis_name="i")(np.array([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """
    return axis_size_of("axis_size", names_of("axis_size", axis_name))


def axis_index(axis_name: Any) -> Any:
    """The index along a named axis, an int32; in a tuple of names the first counts slowest.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: ft.lax.axis_index("i"), axis_name="i")(np.ones(3)).tolist()
    [0, 1, 2]
    """
    builder = open_builder()
    if builder is None:
        return in_jax(lax.axis_index, axis_name=axis_name)
    names = names_of("axis_index", axis_name)
    index: Any = None
    for name in names:
        size = size_of_axis("axis_index", name)
        here = AxisIndex(name)()
        index = here if index is None else add(mul(index, literal(size, here.aval)), here)
    return np.int32(0) if index is None else Tracer(index, builder)


def all_gather(
    x: Any, axis_name: Any, *, axis_index_groups: Any = None, axis: int = 0, tiled: bool = False
) -> Any:
    """The values at all indices of a named axis, along an array axis; the same at every index.

    Args:
      x: a pytree of arrays.
      axis_name: a name, or a tuple of names.
      axis_index_groups: see `psum`.
      axis: where the values stand in the result.
      tiled: put them one after the other along the existing `axis`, not along a new one.
    Returns:
      The pytree of gathered arrays.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: ft.lax.all_gather(x, "i"), axis_name="i")(np.array([1.0, 3.0])).tolist()
    [[1.0, 3.0], [1.0, 3.0]]
    """
    if open_builder() is None:
        return in_jax(
            lax.all_gather, x, axis_name, axis_index_groups=axis_index_groups, axis=axis, tiled=tiled
        )
    names = names_of("all_gather", axis_name, axis_index_groups)
    sizes = [size_of_axis("all_gather", n) for n in names]

    def gather(v: Atom) -> Atom:
        d = place("all_gather", v, axis, v.aval.ndim + (not tiled))
        for name, size in zip(reversed(names), reversed(sizes), strict=True):
            v = AllGather(name, size, d)(v)
        return merge(v, d, len(names) + tiled)

    return leafwise(gather, x)


def psum_scatter(
    x: Any,
    axis_name: Any,
    *,
    scatter_dimension: int = 0,
    axis_index_groups: Any = None,
    tiled: bool = False,
) -> Any:
    """The sum over a named axis, of which each index keeps its own part.

    Args:
      x: a pytree of arrays.
      axis_name: a name, or a tuple of names.
      scatter_dimension: the array axis that is cut; its size is that of the named axis.
      axis_index_groups: see `psum`.
      tiled: keep the array axis; its size is a multiple of that of the named axis.
    Returns:
      The pytree of parts.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x: ft.lax.psum_scatter(x, "i"), axis_name="i")(np.eye(2) + 1.0).tolist()
    [3.0, 3.0]
    """
    if open_builder() is None:
        return in_jax(
            lax.psum_scatter, x, axis_name, scatter_dimension=scatter_dimension,
            axis_index_groups=axis_index_groups, tiled=tiled,
        )  # fmt: skip
    names = names_of("psum_scatter", axis_name, axis_index_groups)
    sizes = [size_of_axis("psum_scatter", n) for n in names]

    def scatter(v: Atom) -> Atom:
        d = place("psum_scatter", v, scatter_dimension, v.aval.ndim)
        v = cut("psum_scatter", v, d, sizes, tiled)
        for name in names:
            v = ReduceScatter(name, d)(v)
        return v

    return leafwise(scatter, x)


def all_to_all(
    x: Any,
    axis_name: Any,
    split_axis: int,
    concat_axis: int,
    *,
    axis_index_groups: Any = None,
    tiled: bool = False,
) -> Any:
    """Each index sends a part of its array to every index, and puts together what it receives.

    Args:
      x: a pytree of arrays.
      axis_name: one name.
      split_axis: the array axis that is cut; part j goes to index j.
      concat_axis: the array axis of the result along which the received parts stand, by sender.
      axis_index_groups: see `psum`.
      tiled: keep both array axes; the size of `split_axis` is a multiple of that of the named axis.
        Otherwise it is that of the named axis, `split_axis` goes and `concat_axis` is new.
    Returns:
      The pytree of exchanged arrays.

    >>> import functrace as ft, numpy as np
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> ft.vmap(lambda x: ft.lax.all_to_all(x, "i", 0, 0), axis_name="i")(x).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    if open_builder() is None:
        return in_jax(
            lax.all_to_all, x, axis_name, split_axis, concat_axis,
            axis_index_groups=axis_index_groups, tiled=tiled,
        )  # fmt: skip
    name = one_name("all_to_all", axis_name, axis_index_groups)
    size = size_of_axis("all_to_all", name)

    def exchange(v: Atom) -> Atom:
        split = place("all_to_all", v, split_axis, v.aval.ndim)
        concat = place("all_to_all", v, concat_axis, v.aval.ndim)
        cut("all_to_all", v, split, [size], tiled)
        if tiled:
            return AllToAll(name, size, split, concat)(v)
        new = concat + (concat > split)  # where an axis of size 1 becomes the new one
        split += new <= split
        v = AllToAll(name, size, split, new)(merge(v, new, 0))
        return reshape(v, (*v.aval.shape[:split], *v.aval.shape[split + 1 :]))

    return leafwise(exchange, x)


def pswapaxes(x: Any, axis_name: Any, axis: int, *, axis_index_groups: Any = None) -> Any:
    """A named axis and an array axis of the same size, exchanged."""
    return all_to_all(x, axis_name, axis, axis, axis_index_groups=axis_index_groups)


def ppermute(x: Any, axis_name: Any, perm: Sequence[tuple[int, int]]) -> Any:
    """Values sent along a named axis.

    Args:
      x: a pytree of arrays.
      axis_name: one name.
      perm: pairs `(source, target)` of indices, no source and no target twice.
    Returns:
      At each target the source's value; zeros at an index that is no target.

    >>> import functrace as ft, numpy as np
    >>> shift = lambda x: ft.lax.ppermute(x, "i", [(0, 1), (1, 2)])
    >>> ft.vmap(shift, axis_name="i")(np.array([1.0, 2.0, 3.0])).tolist()
    [0.0, 1.0, 2.0]
    """
    if open_builder() is None:
        return in_jax(lax.ppermute, x, axis_name, perm)
    name = one_name("ppermute", axis_name)
    pairs = tuple((int(source), int(target)) for source, target in perm)
    size = size_of_axis("ppermute", name)
    for what, ends in (("source", [s for s, _ in pairs]), ("target", [t for _, t in pairs])):
        if len(set(ends)) < len(ends) or not all(0 <= i < size for i in ends):
            raise ArgumentError(
                f"ppermute: each {what} in perm must be an index of axis {name!r}, 0 to {size - 1}, and stand there "
                f"once; got {pairs}.{at(caller_source())}"
            )
    return leafwise(PPermute(name, pairs), x)


def pshuffle(x: Any, axis_name: Any, perm: Sequence[int]) -> Any:
    """Values permuted along a named axis: index i gets that of index `perm[i]`.

    >>> import functrace as ft, numpy as np
    >>> shuffle = lambda x: ft.lax.pshuffle(x, "i", [2, 0, 1])
    >>> ft.vmap(shuffle, axis_name="i")(np.array([1.0, 2.0, 3.0])).tolist()
    [3.0, 1.0, 2.0]
    """
    size = axis_size_of("pshuffle", names_of("pshuffle", axis_name))
    if sorted(perm) != list(range(size)):
        raise ArgumentError(
            f"pshuffle: perm must be a permutation of 0 to {size - 1}, got {tuple(perm)}.{at(caller_source())}"
        )
    return ppermute(x, axis_name, [(source, target) for target, source in enumerate(perm)])


def in_jax(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """jax.lax's own function, where no trace is running."""
    try:
        return lift(fun)(*args, **kwargs)
    except NameError as error:
        axis_name = kwargs["axis_name"] if "axis_name" in kwargs else args[1]
        raise unbound(fun.__name__, axis_name) from error


def size_of_axis(function: str, name: Any) -> int:
    """The size of a named axis: of the innermost vmap that binds it, else of JAX's own.

    Raises:
      UnboundAxisError: nothing binds it; the message says that `function` asked.
    """
    for bound, size in reversed(AXES.bound):
        if bound == name:
            return size
    try:
        size = lax.axis_size(name)
    except NameError as error:
        raise unbound(function, name) from error
    AXES.borrowed += 1
    return size


def is_checked(names: tuple[Any, ...]) -> bool:
    """Whether `jax.shard_map(check_vma=True)` types values by one of these axes."""
    for name in set(names) - {bound for bound, _ in AXES.bound}:
        kind = getattr(jax.typeof(lax.axis_index(name)), "manual_axis_type", None)
        if name in getattr(kind, "varying", ()):
            return True
    return False


def unbound(function: str, name: Any) -> UnboundAxisError:
    """The error for an axis name that nothing binds."""
    names = ", ".join(repr(n) for n, _ in AXES.bound)
    return UnboundAxisError(
        f"{function}: no axis is named {name!r} here ({f'bound are: {names}' if names else 'none is bound'}). Call the "
        f"function under vmap(..., axis_name={name!r}).{at(caller_source())}"
    )


def names_of(function: str, axis_name: Any, groups: Any = None) -> tuple[Any, ...]:
    """The axis names as a tuple."""
    if groups is not None:
        raise RuleError(
            f"{function}: axis_index_groups is not supported; give the groups an axis of their own, with a vmap "
            f"each.{at(caller_source())}"
        )
    names = tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)
    if len(set(names)) < len(names):
        raise ArgumentError(f"{function}: an axis name stands twice in {names!r}.{at(caller_source())}")
    return names


def one_name(function: str, axis_name: Any, groups: Any = None) -> Any:
    """The axis name, where a function takes one only."""
    names = names_of(function, axis_name, groups)
    if len(names) != 1:
        raise RuleError(f"{function}: takes one axis name, got {axis_name!r}.{at(caller_source())}")
    return names[0]


def axis_size_of(function: str, names: tuple[Any, ...]) -> int:
    """The product of the sizes of named axes."""
    return math.prod(size_of_axis(function, n) for n in names)


def leafwise(emit: Callable[[Atom], Atom], x: Any) -> Any:
    """`emit` applied to the atom of each leaf, in the running trace."""
    builder = open_builder()
    assert builder is not None
    return tree_util.tree_map(lambda leaf: Tracer(emit(atom_of(leaf, builder)), builder), x)


def reduce_leaf(prim: AllReduce) -> Callable[[Any], Any]:
    """A reduction of one leaf; booleans are counted."""

    def reduce(v: Atom) -> Atom:
        is_bool = v.aval.dtype == np.bool_
        return prim(convert_element_type(v, np.dtype(np.int32)) if is_bool else v)

    return lambda leaf: leafwise(reduce, leaf)


def extremum(function: str, cls: Any, x: Any, axis_name: Any, groups: Any) -> Any:
    """The greatest or least value, leaf by leaf."""
    names = names_of(function, axis_name, groups)
    axis_size_of(function, names)
    return leafwise(cls(names, is_checked(names)), x)


def times(x: Any, size: int) -> Any:
    """`size` times a value that is known; a Python number stays one."""
    if isinstance(x, bool | int | float | complex):
        return x * size
    return x.astype(np.int32) * size if x.dtype == np.bool_ else x * x.dtype.type(size)


def place(function: str, v: Atom, axis: int, ndim: int) -> int:
    """`axis` as a non-negative place among `ndim`."""
    if not -ndim <= axis < ndim:
        raise ArgumentError(f"{function}: an operand of type {v.aval} has no axis {axis}.{at(caller_source())}")
    return axis % ndim


def merge(v: Atom, d: int, count: int) -> Atom:
    """`v` with `count` axes from d made one (a new one of size 1 if `count` is 0)."""
    shape = v.aval.shape
    return reshape(v, (*shape[:d], math.prod(shape[d : d + count]), *shape[d + count :]))


def cut(function: str, v: Atom, d: int, sizes: Sequence[int], tiled: bool) -> Atom:
    """`v` with axis d made one axis a named axis, and one for the rest if `tiled`."""
    shape, whole = v.aval.shape, math.prod(sizes)
    if shape[d] % whole if tiled else shape[d] != whole:
        raise ArgumentError(
            f"{function}: axis {d} of an operand of type {v.aval} must have {'a multiple of ' if tiled else ''}the "
            f"size of the named axis, {whole}; got {shape[d]}.{at(caller_source())}"
        )
    rest = (shape[d] // whole,) if tiled else ()
    return reshape(v, (*shape[:d], *sizes, *rest, *shape[d + 1 :]))


__all__ = [
    "all_gather", "all_to_all", "axis_index", "axis_size", "pmax", "pmean", "pmin", "ppermute", "pshuffle", "psum",
    "psum_scatter", "pswapaxes",
]  # fmt: skip
