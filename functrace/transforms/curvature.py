"""The Hessian without the Hessian: its products with a vector, and its diagonal.

hvp  : (a -> R) -> a -> T a -> T* a             H v, forward over reverse
vhp  : (a -> R) -> a -> T a -> T* a             v H, reverse over forward
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from jax import numpy as jnp, tree_util

from functrace.tracing import aval_of, lift
from functrace.transforms.arguments import check_callable, check_same_tree, closed_over, positions, tangent_flags
from functrace.transforms.chunks import check_chunk_size, in_chunks
from functrace.transforms.grad import gradient_of
from functrace.transforms.jacobian import moveaxis, unravel
from functrace.transforms.jvp import jvp
from functrace.transforms.laplacian import check_inexact_outputs, check_real_inputs


def hvp(fun: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The product of the Hessian of a scalar function with a vector, forward over reverse.

    Args:
      fun: a pure function of one pytree of arrays of real floating dtype to a scalar.
      x: where the Hessian is taken.
      v: the vector; of the structure, shapes and dtypes of `x`.
    Returns:
      H v, of the structure, shapes and dtypes of `x`. It costs a few evaluations of `fun`, whatever the size of `x`.
    Raises:
      DtypeError: the output is not a real scalar, `x` is not real, or `v` does not have the type of `x`.

    >>> import functrace as ft, numpy as np
    >>> ft.hvp(lambda x: (x ** 3).sum(), np.array([1.0, 2.0]), np.array([1.0, 1.0])).tolist()
    [6.0, 12.0]
    """
    check_vector("hvp", fun, x, v)
    return jvp(gradient_of("hvp", fun), (x,), (v,))[1]


def vhp(fun: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The product of a vector with the Hessian of a scalar function, reverse over forward.

    The Hessian being symmetric it is what `hvp` gives; this one runs `fun` forward along `v` and differentiates that
    number backward, which is quicker where the gradient of `fun` is dear and memory is not.

    Args:
      fun: a pure function of one pytree of arrays of real floating dtype to a scalar.
      x: where the Hessian is taken.
      v: the vector; of the structure, shapes and dtypes of `x`.
    Returns:
      v H, of the structure, shapes and dtypes of `x`.
    Raises:
      DtypeError: the output is not a real scalar, `x` is not real, or `v` does not have the type of `x`.

    >>> import functrace as ft, numpy as np
    >>> ft.vhp(lambda x: (x ** 3).sum(), np.array([1.0, 2.0]), np.array([1.0, 1.0])).tolist()
    [6.0, 12.0]
    """
    check_vector("vhp", fun, x, v)
    return gradient_of("vhp", lambda x: jvp(fun, (x,), (v,))[1])(x)


def hessian_diag(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, chunk_size: int | None = None
) -> Callable[..., Any]:
    """The diagonal of the Hessian: the second derivative in each entry alone, twice forward.

    Args:
      fun: a pure function of pytrees of arrays; the arguments at `argnums` are of real floating dtype.
      argnums: position or positions of the arguments to differentiate.
      chunk_size: how many entries are done together, to save memory; all by default.
    Returns:
      A function that returns, for each leaf of the output and of the argument, an array of shape
      `output.shape + argument.shape`, in the structure of the output with that of the argument inside: of a scalar
      function, what has the structure and shapes of the argument.
    Raises:
      DtypeError: an argument is not of real floating dtype, or an output is not of inexact dtype.
      ArgumentError: `argnums` is out of range, or `chunk_size` is not a positive integer.

    >>> import functrace as ft, numpy as np
    >>> ft.hessian_diag(lambda x: (x ** 3).sum())(np.array([1.0, 2.0])).tolist()
    [6.0, 12.0]
    """
    check_callable("hessian_diag", fun)
    check_chunk_size("hessian_diag", chunk_size)

    @wraps(fun)
    def hessian_diag_fun(*args: Any, **kwargs: Any) -> Any:
        numbers = positions("hessian_diag", argnums, len(args))
        chosen = tuple([args[i] for i in numbers])
        check_real_inputs("hessian_diag", chosen, numbers)
        of_chosen = closed_over(fun, args, numbers, kwargs)
        xs, tree = tree_util.tree_flatten(chosen)

        def second(i: Any) -> Any:
            e = tree_util.tree_unflatten(tree, unit_vector(xs, i))
            first = lambda *at: jvp(of_chosen, at, e)[1]
            found = jvp(first, chosen, e)[1]
            check_inexact_outputs("hessian_diag", [aval_of(y) for y in tree_util.tree_leaves(found)])
            return found

        rows = in_chunks("hessian_diag", second, directions(xs), chunk_size)
        return tree_util.tree_map(
            lambda d: unravel(moveaxis(d, 0, -1), xs, tree, argnums, d.ndim - 1), rows
        )

    return hessian_diag_fun


def directions(xs: Sequence[Any]) -> Any:
    """The numbers of all entries of all leaves."""
    return np.arange(sum(aval_of(x).size for x in xs), dtype=np.int32)


def unit_vector(xs: Sequence[Any], i: Any) -> list[Any]:
    """For each leaf, its part of the unit vector along entry `i` of all of them."""
    parts, start = [], 0
    for x in xs:
        aval = aval_of(x)
        parts.append(lift(lambda i, a=aval, n=start: (jnp.arange(a.size) == i - n).astype(a.dtype).reshape(a.shape))(i))
        start += aval.size
    return parts


def check_vector(transform: str, fun: Any, x: Any, v: Any) -> None:
    """`v` must be of the type of `x`, and that real."""
    check_callable(transform, fun)
    check_same_tree(transform, "v", v, x, "x")
    check_real_inputs(transform, (x,), (0,))
    tangent_flags(transform, tree_util.tree_leaves(x), tree_util.tree_leaves(v), "vector")
