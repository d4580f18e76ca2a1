"""Jacobians and Hessians: a derivative applied to every basis vector at once.

jacfwd : (a -> b) -> a -> (b <- a)              columns, by vmap of the pushforward
jacrev : (a -> b) -> a -> (b <- a)              rows, by vmap of the pullback
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import accumulate
from typing import Any

import jax
from jax import numpy as jnp, tree_util

from functrace.errors import DtypeError
from functrace.ir import Aval, is_complex
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.tracing import apply, aval_of, lift
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, closed_over, leaf_label, positions
from functrace.transforms.auxiliary import trace_with_aux
from functrace.transforms.chunks import check_chunk_size, in_chunks
from functrace.transforms.grad import check_inputs
from functrace.transforms.linearize import Pushforward, linearize, linearized
from functrace.transforms.sparse import check_sparse, sparse_jacobian
from functrace.transforms.vjp import Pullback, vjp

reshape = lift(jnp.reshape)
moveaxis = lift(jnp.moveaxis)


def jacfwd(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of `fun` by forward mode: one pushforward a column; for few inputs.

    Args:
      fun: a pure function of pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`; the result is then `(jacobian, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic.
      chunk_size: how many columns are computed together, to save memory; all by default.
    Returns:
      A function that returns, for each leaf of the output and of the argument, an array of shape
      `output.shape + argument.shape`, in the structure of the output with that of the argument inside.

    >>> import functrace as ft, numpy as np
    >>> ft.jacfwd(lambda x: x * x)(np.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable("jacfwd", fun)
    check_chunk_size("jacfwd", chunk_size)

    @wraps(fun)
    def jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        numbers, chosen, of_chosen = _chosen("jacfwd", fun, args, kwargs, argnums, holomorphic)
        _check_real("jacfwd", chosen, numbers, holomorphic)

        def of_arrays(*xs: Any) -> Any:
            return _by_columns("jacfwd", linearize(of_chosen, *xs, has_aux=has_aux), xs, argnums, chunk_size)

        return in_one("jacfwd", of_arrays, chosen, has_aux, fun)

    return jacobian_fun


def jacrev(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of `fun` by reverse mode: one pullback a row; for few outputs.

    Args:
      fun: a pure function of pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`; the result is then `(jacobian, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic.
      allow_int: whether integer leaves are allowed.
      chunk_size: how many rows are computed together, to save memory; all by default.
    Returns:
      As `jacfwd`.

    >>> import functrace as ft, numpy as np
    >>> ft.jacrev(lambda x: x * x)(np.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable("jacrev", fun)
    check_chunk_size("jacrev", chunk_size)

    @wraps(fun)
    def jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        _, chosen, of_chosen = _chosen("jacrev", fun, args, kwargs, argnums, holomorphic, allow_int)

        def of_arrays(*xs: Any) -> Any:
            return _by_rows("jacrev", vjp(of_chosen, *xs, has_aux=has_aux), argnums, holomorphic, chunk_size)

        return of_arrays(*chosen) if allow_int else in_one("jacrev", of_arrays, chosen, has_aux, fun)

    return jacobian_fun


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    chunk_size: int | None = None,
    *,
    sparse: bool | str = False,
    format: str = "bcoo",
) -> Callable[..., Any]:
    """The Jacobian of `fun`: by forward or reverse mode, whichever is the less, or sparse.

    Sparse, its pattern is found in the Program, and its columns or rows are coloured, so that a tridiagonal one takes
    three pushforwards of whatever size it is; where a row and a column are full, some entries are found by rows and the
    others by columns. Loops are followed step by step, with the indices that their counters say. Entries are there
    wherever the function may depend on its argument: some may hold zeros. Values that are known when the function is
    traced, such as indices that it closes over, are used.

    Args:
      fun: a pure function of pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`; the result is then `(jacobian, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic.
      chunk_size: how many columns or rows of a dense one are computed together, to save memory; all by default.
      sparse: True for a sparse matrix for each leaf of the output and of the argument; "auto" for that, or for dense
        arrays where an equation of which too little is known makes the pattern of no use.
      format: "bcoo" for a `jax.experimental.sparse.BCOO` of shape `output.shape + argument.shape`; "scipy" for a
        `scipy.sparse.csr_array` of shape `(output.size, argument.size)`, not under jit, vmap or grad.
    Returns:
      As `jacfwd`, with sparse matrices in place of arrays if `sparse`.
    Raises:
      ArgumentError: with `sparse=True` the pattern is of no use; the message names the equations.
    Source: Gebremedhin, Manne, Pothen, What color is your Jacobian?, SIAM Review 47 (2005); Coleman, Verma, SIAM
      Journal on Scientific Computing 19 (1998).

    >>> import functrace as ft, numpy as np
    >>> ft.jacobian(lambda x: x * x)(np.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    >>> ft.jacobian(lambda x: x[1:] - x[:-1], sparse=True)(np.ones(3)).data.tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    check_callable("jacobian", fun)
    check_chunk_size("jacobian", chunk_size)
    check_sparse("jacobian", sparse, format)

    @wraps(fun)
    def jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        numbers, chosen, of_chosen = _chosen("jacobian", fun, args, kwargs, argnums, holomorphic)
        _check_real("jacobian", chosen, numbers, holomorphic)

        def of_arrays(*xs: Any) -> Any:
            out = linearized("jacobian", of_chosen, xs, has_aux, narrower)
            if type(out[1]) is Pushforward:
                return _by_columns("jacobian", out, xs, argnums, chunk_size)
            return _by_rows("jacobian", out, argnums, holomorphic, chunk_size)

        def dense() -> Any:
            return in_one("jacobian", of_arrays, chosen, has_aux, fun)

        if not sparse:
            return dense()
        given = dense if sparse == "auto" else None
        return sparse_jacobian(
            "jacobian", fun, args, kwargs, argnums, has_aux, holomorphic, format, False, given
        )

    return jacobian_fun


def hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    chunk_size: int | None = None,
    *,
    sparse: bool | str = False,
    format: str = "bcoo",
) -> Callable[..., Any]:
    """The Hessian of `fun`: forward over reverse, or sparse.

    Sparse, it is that of a scalar function; one entry of each pair (i, j), (j, i) is computed where a star colouring
    of the pattern finds it alone.

    Args:
      fun: a pure function of pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`; the result is then `(hessian, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic.
      chunk_size: how many columns of each Hessian are computed together, to save memory; all by default.
      sparse: as of `jacobian`.
      format: as of `jacobian`.
    Returns:
      A function that returns arrays of shape `output.shape + argument.shape + argument.shape`, in
      nested structures.

    >>> import functrace as ft, numpy as np
    >>> ft.hessian(lambda x: (x ** 3).sum())(np.array([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    >>> ft.hessian(lambda x: (x ** 3).sum(), sparse=True)(np.array([1.0, 2.0])).data.tolist()
    [6.0, 12.0]
    """
    check_callable("hessian", fun)
    check_chunk_size("hessian", chunk_size)
    check_sparse("hessian", sparse, format)
    inner = jacrev(fun, argnums, has_aux, holomorphic)
    dense = jacfwd(inner, argnums, has_aux, holomorphic, chunk_size)
    if not sparse:
        return dense

    @wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        given = (lambda: dense(*args, **kwargs)) if sparse == "auto" else None
        return sparse_jacobian("hessian", fun, args, kwargs, argnums, has_aux, holomorphic, format, True, given)

    return hessian_fun


def in_one(transform: str, fun: Any, args: Sequence[Any], has_aux: bool, like: Any) -> Any:
    """`fun(*args)`, all that it calls as one Program."""
    if open_builder() is not None:
        return fun(*args)
    traced, aux, out_tree, n = trace_with_aux(transform, fun, args, has_aux, like=like)
    outputs = apply(traced.program, [*traced.captures, *tree_util.tree_leaves(tuple(args))])
    result = tree_util.tree_unflatten(out_tree, outputs[:n])
    return (result, aux.join(outputs[n:])) if has_aux else result


def narrower(residuals: Any, program: Any, moved: Any, moving: Any, in_avals: Any, out_avals: Any, *trees: Any) -> Any:
    """The derivative as a function of tangents or of cotangents, whichever have fewer entries."""
    columns, rows = (sum([a.size for a in avals]) for avals in (in_avals, out_avals))
    kind = Pushforward if columns <= rows else Pullback
    return kind(residuals, program, moved, moving, in_avals, out_avals, *trees)


def _by_columns(transform: str, out: Any, chosen: Any, argnums: Any, chunk_size: Any) -> Any:
    """The Jacobian, and aux if there is, of what `linearize` returns."""
    xs, tree = tree_util.tree_flatten(tuple(chosen))
    columns = in_chunks(transform, lambda e: out[1](*e), tree_util.tree_unflatten(tree, basis(xs)), chunk_size)
    jacobian = tree_util.tree_map(lambda dy: unravel(moveaxis(dy, 0, -1), xs, tree, argnums, dy.ndim - 1), columns)
    return (jacobian, *out[2:]) if len(out) > 2 else jacobian


def _by_rows(transform: str, out: Any, argnums: Any, holomorphic: bool, chunk_size: Any) -> Any:
    """The Jacobian, and aux if there is, of what `vjp` returns."""
    ys, out_tree = tree_util.tree_flatten(out[0])
    for y in ys:
        if is_complex(aval_of(y).dtype) != holomorphic or not aval_of(y).is_inexact:
            raise DtypeError(
                f"{transform}: outputs must be {'complex (holomorphic=True)' if holomorphic else 'real floating'}, got "
                f"{aval_of(y)}.{at(caller_source())}"
            )
    rows = in_chunks(transform, out[1], tree_util.tree_unflatten(out_tree, basis(ys)), chunk_size)
    if isinstance(argnums, int):
        (rows,) = rows
    per_leaf = tree_util.tree_map(lambda ct: _split(ct, ys), rows)
    jacobian = tree_util.tree_transpose(
        tree_util.tree_structure(rows), tree_util.tree_structure([0] * len(ys)), per_leaf
    )
    result = tree_util.tree_unflatten(out_tree, jacobian)
    return (result, *out[2:]) if len(out) > 2 else result


def basis(xs: Sequence[Any]) -> list[Any]:
    """For each leaf, its part of all unit vectors of the whole space, along a leading axis."""
    return units(tuple([aval_of(x) for x in xs]))


def unit_vectors(avals: tuple[Aval, ...]) -> list[jax.Array]:
    """`basis`, computed: written out it would be a constant of the square of the entries, which XLA reads."""
    *starts, total = accumulate([a.size for a in avals], initial=0)
    parts = [jnp.eye(total, a.size, -start, dtype=a.dtype) for a, start in zip(avals, starts, strict=True)]
    return [part.reshape(total, *a.shape) for part, a in zip(parts, avals, strict=True)]


units = lift(unit_vectors)


def _chosen(
    transform: str, fun: Any, args: Any, kwargs: Any, argnums: Any, holomorphic: bool,
    allow_int: bool = False,
) -> Any:  # fmt: skip
    numbers = positions(transform, argnums, len(args))
    chosen = [args[i] for i in numbers]
    xs = tree_util.tree_leaves(tuple(chosen))
    check_inputs(transform, chosen, xs, numbers, holomorphic, allow_int)
    return numbers, chosen, closed_over(fun, args, numbers, kwargs)


def _check_real(transform: str, chosen: Any, numbers: Any, holomorphic: bool) -> None:
    for i, x in enumerate(tree_util.tree_leaves(tuple(chosen))):
        if not holomorphic and is_complex(aval_of(x).dtype):
            raise DtypeError(
                f"{transform}: {leaf_label(chosen, i, numbers)} is complex; pass holomorphic=True, or use jvp."
                f"{at(caller_source())}"
            )


def unravel(columns: Any, xs: Any, tree: Any, argnums: Any, ndim: int) -> Any:
    """The last axis of `columns` as the structure and shapes of the arguments."""
    parts, start = [], 0
    for x in xs:
        aval = aval_of(x)
        part = columns[..., start : start + aval.size]
        parts.append(reshape(part, (*columns.shape[:ndim], *aval.shape)))
        start += aval.size
    result = tree_util.tree_unflatten(tree, parts)
    return result[0] if isinstance(argnums, int) else result


def _split(rows: Any, ys: Any) -> list[Any]:
    """The first axis of `rows` as the leaves and shapes of the output."""
    parts, start = [], 0
    for y in ys:
        aval = aval_of(y)
        part = rows[start : start + aval.size]
        parts.append(reshape(part, (*aval.shape, *rows.shape[1:])))
        start += aval.size
    return parts
