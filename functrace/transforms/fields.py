"""Vector fields: divergence and curl.

divergence : (a -> a) -> a -> R                 trace of the Jacobian
curl       : (R3 -> R3) -> R3 -> R3             also (R2 -> R2) -> R2 -> R
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jax import numpy as jnp, tree_util

from functrace.errors import ShapeError
from functrace.ir.source import caller_source
from functrace.tracing import aval_of, lift
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, check_same_tree
from functrace.transforms.chunks import check_chunk_size, in_chunks
from functrace.transforms.curvature import directions, unit_vector
from functrace.transforms.jacobian import jacfwd
from functrace.transforms.jvp import jvp
from functrace.transforms.laplacian import check_inexact_outputs, check_real_inputs

total = lift(jnp.sum)
inner = lift(lambda e, dy: jnp.sum(e * dy))
curl_of = lift(
    lambda j: j[1, 0] - j[0, 1] if len(j) == 2 else jnp.stack([j[2, 1] - j[1, 2], j[0, 2] - j[2, 0], j[1, 0] - j[0, 1]])
)


def divergence(fun: Callable[[Any], Any], chunk_size: int | None = None) -> Callable[[Any], Any]:
    """The divergence of a vector field, the trace of its Jacobian.

    Args:
      fun: a pure function of one pytree of arrays of real floating dtype to a pytree of the same structure and
        shapes, as from R^n to R^n. For many points use `vmap`.
      chunk_size: how many directions are done together, to save memory; all by default.
    Returns:
      A function of the pytree that returns a scalar: the sum over all entries of the derivative of each entry of the
      field by the same entry of the argument.
    Raises:
      DtypeError: the argument is not of real floating dtype, or the field has not its structure.
      ShapeError: a leaf of the field does not have the shape of the argument's.
      ArgumentError: `chunk_size` is not a positive integer.

    >>> import functrace as ft, numpy as np
    >>> float(ft.divergence(lambda x: x ** 2)(np.array([1.0, 2.0, 3.0])))
    12.0
    """
    check_callable("divergence", fun)
    check_chunk_size("divergence", chunk_size)

    @wraps(fun)
    def divergence_fun(x: Any) -> Any:
        check_real_inputs("divergence", (x,), (0,))
        xs, tree = tree_util.tree_flatten(x)

        def term(i: Any) -> Any:
            e = unit_vector(xs, i)
            y, dy = jvp(fun, (x,), (tree_util.tree_unflatten(tree, e),))
            check_field("divergence", x, y)
            parts = [inner(a, b) for a, b in zip(e, tree_util.tree_leaves(dy), strict=True)]
            return sum(parts[1:], parts[0])

        return total(in_chunks("divergence", term, directions(xs), chunk_size))

    return divergence_fun


def curl(fun: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The curl of a vector field in three dimensions, or in two.

    Args:
      fun: a pure function from arrays of shape (3,) to such, or from shape (2,) to such, of real floating dtype. For
        many points use `vmap`.
    Returns:
      A function that returns an array of shape (3,); in two dimensions the scalar df_1/dx_0 - df_0/dx_1.
    Raises:
      ShapeError: the argument is not of shape (3,) or (2,), or the field does not have its shape.
      DtypeError: the argument is not of real floating dtype.

    >>> import functrace as ft, numpy as np
    >>> from functrace import numpy as fnp
    >>> ft.curl(lambda x: fnp.stack([-x[1], x[0], 0 * x[2]]))(np.array([1.0, 2.0, 3.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    check_callable("curl", fun)

    @wraps(fun)
    def curl_fun(x: Any) -> Any:
        check_real_inputs("curl", (x,), (0,))
        leaves = tree_util.tree_leaves(x)
        if len(leaves) != 1 or leaves[0] is not x or aval_of(x).shape not in ((2,), (3,)):
            found = ", ".join(str(aval_of(leaf)) for leaf in leaves)
            raise ShapeError(
                f"curl: the argument must be one array of shape (3,) or (2,), got {found}. Use vmap for many points."
                f"{at(caller_source())}"
            )

        def checked(x: Any) -> Any:
            y = fun(x)
            check_field("curl", x, y)
            return y

        return curl_of(jacfwd(checked)(x))

    return curl_fun


def check_field(transform: str, x: Any, y: Any) -> None:
    """A field has the structure and shapes of its argument, and derivatives."""
    check_same_tree(transform, "the field", y, x, "the argument")
    avals = [aval_of(leaf) for leaf in tree_util.tree_leaves(y)]
    for i, (a, leaf) in enumerate(zip(avals, tree_util.tree_leaves(x), strict=True)):
        if a.shape != aval_of(leaf).shape:
            raise ShapeError(
                f"{transform}: leaf {i} of the field has type {a}, and must have the shape of the argument's, "
                f"{aval_of(leaf)}.{at(caller_source())}"
            )
    check_inexact_outputs(transform, avals)
