"""jax.numpy's functions that take a function, which may close over tracers, and those whose result has a shape
that follows from values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import wraps
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy import linalg

from functrace.errors import ArgumentError, DtypeError
from functrace.ir.source import caller_source
from functrace.tracing import Tracer, lift
from functrace.tracing.tracer import at
from functrace.transforms.vmap import vmap

asarray = lift(jnp.asarray)
astype = lift(jnp.astype)
expand_dims = lift(jnp.expand_dims)
squeeze = lift(jnp.squeeze)
where = lift(jnp.where)

lifted_arange = lift(jnp.arange)
lifted_compress = lift(jnp.compress)
lifted_roots = lift(jnp.roots)
lifted_trim_zeros = lift(jnp.trim_zeros)
ravel = lift(jnp.ravel)
take = lift(jnp.take)

CORE = r"\((?:\w+(?:,\w+)*,?)?\)"
SIGNATURE = re.compile(rf"(?:{CORE}(?:,{CORE})*)?->{CORE}(?:,{CORE})*")


def parse_signature(signature: str) -> tuple[list[list[str]], list[list[str]]]:
    """Names of the core axes of each input and output of "(m,n),(n)->(m)"."""
    spaceless = re.sub(r"\s", "", signature)
    if not SIGNATURE.fullmatch(spaceless):
        raise ArgumentError(
            f"vectorize: {signature!r} is not a signature; write one like '(m,n),(n)->(m)'.{at(caller_source())}"
        )
    inputs, outputs = [
        [re.findall(r"\w+", core) for core in re.findall(CORE, side)] for side in spaceless.split("->")
    ]
    return inputs, outputs


def check_core(sizes: dict[str, int], shape: tuple[int, ...], core: list[str], what: str) -> None:
    """Check the trailing axes of `shape` against what is known of the core axes, and note what is new."""
    if len(shape) != len(core):
        raise ArgumentError(
            f"vectorize: {what} has core shape {shape}, and the signature gives it the axes "
            f"({','.join(core)}).{at(caller_source())}"
        )
    for name, n in zip(core, shape, strict=True):
        if sizes.setdefault(name, n) != n:
            raise ArgumentError(
                f"vectorize: core axis {name!r} is {n} in {what}, and {sizes[name]} before it.{at(caller_source())}"
            )


def vectorize(
    pyfunc: Callable[..., Any], *, excluded: Collection[int | str] = frozenset(), signature: str | None = None
) -> Callable[..., Any]:
    """`pyfunc` of scalars, or of the core axes of `signature`, broadcast over all leading axes.

    Args:
      pyfunc: a function of arrays to an array or a tuple of arrays.
      excluded: positions and names of arguments handed over whole.
      signature: core axes of inputs and outputs, as in "(m,n),(n)->(m)".
    Raises:
      ArgumentError: an operand or a result does not have the core axes of `signature`.

    >>> import functrace as ft, numpy as np
    >>> dot = ft.numpy.vectorize(lambda x, y: x @ y, signature="(n),(n)->()")
    >>> dot(np.ones((2, 1, 3)), np.ones((4, 3))).shape
    (2, 4)
    """
    if any(not isinstance(e, str | int) for e in excluded):
        raise DtypeError(f"vectorize: excluded holds positions and names, got {excluded!r}.{at(caller_source())}")
    if any(isinstance(e, int) and e < 0 for e in excluded):
        raise ArgumentError(f"vectorize: excluded holds a negative position: {excluded!r}.{at(caller_source())}")

    @wraps(pyfunc)
    def vectorized(*args: Any, **kwargs: Any) -> Any:
        positions = [i for i in range(len(args)) if i not in excluded]
        inputs, outputs = ([[] for _ in positions], None) if signature is None else parse_signature(signature)
        if len(inputs) != len(positions):
            raise DtypeError(
                f"vectorize: the signature {signature!r} is of {len(inputs)} arguments, got "
                f"{len(positions)}.{at(caller_source())}"
            )
        core_of = dict(zip(positions, inputs, strict=True))
        for i in positions:
            if args[i] is None and core_of[i]:
                raise ArgumentError(f"vectorize: argument {i} is None and has core axes.{at(caller_source())}")
        mapped = [i for i in positions if args[i] is not None]
        given = [asarray(args[i]) for i in mapped]
        cores = [core_of[i] for i in mapped]
        sizes: dict[str, int] = {}
        for i, x, core in zip(mapped, given, cores, strict=True):
            check_core(sizes, x.shape[x.ndim - len(core) :] if core else (), core, f"argument {i}")
        loops = [x.shape[: x.ndim - len(core)] for x, core in zip(given, cores, strict=True)]

        def of_cores(values: Sequence[Any], named: dict[str, Any]) -> Any:
            whole = list(args)
            for i, x in zip(mapped, values, strict=True):
                whole[i] = x
            ys = pyfunc(*whole, **{**kwargs, **named})
            if outputs is not None:
                check_outputs(ys, outputs, dict(sizes))
            return ys

        named = {k: asarray(x) for k, x in kwargs.items() if k not in excluded}
        return over_loops(of_cores, given, loops, named)

    return vectorized


def check_outputs(ys: Any, outputs: list[list[str]], sizes: dict[str, int]) -> None:
    """Check results against the core axes that a signature gives them."""
    results = ys if isinstance(ys, tuple) else (ys,)
    if len(results) != len(outputs) or (len(outputs) > 1 and not isinstance(ys, tuple)):
        raise DtypeError(
            f"vectorize: the signature has {len(outputs)} outputs, and the function returned "
            f"{len(results)} ({type(ys).__name__}).{at(caller_source())}"
        )
    for i, (y, core) in enumerate(zip(results, outputs, strict=True)):
        check_core(sizes, jnp.shape(y) if not hasattr(y, "shape") else y.shape, core, f"output {i}")


def over_loops(
    fun: Callable[..., Any], values: Sequence[Any], loops: Sequence[tuple[int, ...]], named: dict[str, Any]
) -> Any:
    """Map `fun(values, named)` over the leading axes `loops`, broadcast; axes of size 1 are not mapped."""
    loop = jnp.broadcast_shapes(*loops, *[x.shape for x in named.values()])
    keys = list(named)
    squeezed, shapes = [], []
    for x, own in zip([*values, *named.values()], [*loops, *[x.shape for x in named.values()]], strict=True):
        ones = tuple(i for i, n in enumerate(own) if n == 1)
        squeezed.append(squeeze(x, ones) if ones else x)
        shapes.append((1,) * (len(loop) - len(own)) + tuple(own))

    def of_all(*xs: Any) -> Any:
        return fun(xs[: len(values)], dict(zip(keys, xs[len(values) :], strict=True)))

    mapped = of_all
    for axis in reversed(range(len(loop))):
        flags = tuple(None if shape[axis] == 1 else 0 for shape in shapes)
        mapped = vmap(mapped, flags, axis_size=int(loop[axis]))
    return mapped(*squeezed)


def apply_along_axis(func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """`func1d(row, *args, **kwargs)` of every one-dimensional slice of `arr` along `axis`."""
    ndim = jnp.ndim(arr) if not hasattr(arr, "ndim") else arr.ndim
    if not -ndim <= axis < ndim:
        raise ArgumentError(f"apply_along_axis: an array of {ndim} axes has no axis {axis}.{at(caller_source())}")
    axis %= ndim
    mapped: Callable[..., Any] = lambda row: func1d(row, *args, **kwargs)
    for i in range(1, ndim - axis):
        mapped = vmap(mapped, i, -1)
    for _ in range(axis):
        mapped = vmap(mapped)
    return mapped(asarray(arr))


def apply_over_axes(func: Callable[..., Any], a: Any, axes: Iterable[int]) -> Any:
    """`func(a, axis)` for each of `axes` in turn; an axis that `func` drops is put back with size 1."""
    a = asarray(a)
    for axis in axes:
        b = func(a, axis)
        if b.ndim == a.ndim - 1:
            b = expand_dims(b, axis)
        if b.ndim != a.ndim:
            raise ArgumentError(
                f"apply_over_axes: the function took shape {a.shape} to {b.shape}; it may keep the axis or drop "
                f"it.{at(caller_source())}"
            )
        a = b
    return a


def fromfunction(function: Callable[..., Any], shape: Sequence[int], *, dtype: Any = float, **kwargs: Any) -> Any:
    """The array of `function(i, j, ..., **kwargs)` at every index of `shape`; `function` takes scalars."""
    mapped: Callable[..., Any] = lambda *indices: function(*indices, **kwargs)
    for i in range(len(shape)):
        mapped = vmap(mapped, tuple(0 if j == len(shape) - 1 - i else None for j in range(len(shape))))
    return mapped(*[arange(n, dtype=dtype) for n in shape])


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Any:
    """For each entry of `x`, the entry of `funclist` (a scalar or a function) at the last condition that holds.

    `funclist` may be one longer than `condlist`: its last entry is for where none holds, otherwise zero.
    """
    x = asarray(x)
    if len(funclist) == len(condlist):
        funclist = [*funclist, 0]
    if len(funclist) != len(condlist) + 1:
        raise ArgumentError(
            f"piecewise: {len(condlist)} conditions take {len(condlist)} or {len(condlist) + 1} functions, got "
            f"{len(funclist)}.{at(caller_source())}"
        )

    def value(f: Any) -> Any:
        of_scalar = (lambda entry: astype(f(entry, *args, **kw), x.dtype)) if callable(f) else (
            lambda entry: asarray(f, x.dtype)
        )
        return vectorize(of_scalar)(x)

    *functions, default = funclist
    y = value(default)
    for condition, f in zip(condlist, functions, strict=True):
        y = where(asarray(condition, bool), value(f), y)
    return y


def compress(
    condition: Any, a: Any, axis: int | None = None, *, size: int | None = None, fill_value: Any = 0, out: None = None
) -> Any:
    """The slices of `a` along `axis` where `condition` holds, as jax.numpy.compress.

    The condition must be known while tracing, or `size` say how many there are.

    >>> compress([True, False, True], np.array([1, 2, 3])).tolist()
    [1, 3]
    """
    if size is not None or out is not None:
        return lifted_compress(condition, a, axis, size=size, fill_value=fill_value, out=out)
    known = np.asarray(condition, bool)
    if known.ndim != 1:
        raise ArgumentError(
            f"compress: condition has shape {known.shape}; one axis was expected.{at(caller_source())}"
        )
    places = np.flatnonzero(known)
    length = np.size(a) if axis is None else np.shape(a)[axis]
    if places.size and places[-1] >= length:
        raise ArgumentError(
            f"compress: condition holds at {places[-1]}, and a has {length} "
            f"{'elements' if axis is None else f'along axis {axis}'}.{at(caller_source())}"
        )
    return take(a, places, axis)


def extract(condition: Any, arr: Any, *, size: int | None = None, fill_value: Any = 0) -> Any:
    """The elements of `arr` where `condition` holds, as jax.numpy.extract; see `compress`.

    >>> extract(np.array([[True], [False]]), np.array([[1], [2]])).tolist()
    [1]
    """
    return compress(np.ravel(condition), ravel(arr), size=size, fill_value=fill_value)


def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    """Evenly spaced values, as jax.numpy.arange: what they are made from must be known while tracing.

    >>> arange(2, 5).tolist()
    [2, 3, 4]
    """
    known = [np.asarray(x) if is_traced(x) else x for x in (start, stop, step)]
    return lifted_arange(*known, dtype, **kwargs)


def roots(p: Any, *, strip_zeros: bool = True) -> Any:
    """Roots of the polynomial with coefficients `p`, highest first, as jax.numpy.roots.

    Whether the first coefficients are zero must be known while tracing, or `strip_zeros` be False.

    >>> roots(np.array([0.0, 1.0, -3.0])).real.tolist()
    [3.0]
    """
    if not strip_zeros or not is_traced(p):
        return lifted_roots(p, strip_zeros=strip_zeros)
    stripped = p[known_ends(p)[0] :]
    return companion_roots(stripped) if stripped.size > 1 else lifted_roots(stripped, strip_zeros=False)


@lift
def companion_roots(p: Any) -> Any:
    """The eigenvalues of the companion matrix of a polynomial of degree one or more."""
    return jnp.linalg.eigvals(linalg.companion(p))


def trim_zeros(filt: Any, trim: str = "fb") -> Any:
    """`filt` without the zeros at its front ("f") and back ("b"), as jax.numpy.trim_zeros.

    Where the zeros are must be known while tracing.

    >>> trim_zeros(np.array([0, 1, 0, 2, 0])).tolist()
    [1, 0, 2]
    """
    if not is_traced(filt):
        return lifted_trim_zeros(filt, trim)
    first, last = known_ends(filt)
    return filt[first if "f" in trim.lower() else 0 : last if "b" in trim.lower() else filt.shape[0]]


def is_traced(x: Any) -> bool:
    """Whether `x` stands for a value in a trace."""
    return isinstance(x, Tracer)


def known_ends(x: Any) -> tuple[int, int]:
    """Where the entries of `x` that are not zero begin and end."""
    places = np.flatnonzero(np.asarray(x))
    return (int(places[0]), int(places[-1]) + 1) if places.size else (x.shape[0], x.shape[0])
