"""fixed_point: the x that a function leaves as it is.

fixed_point : (a -> a) -> a -> a        x = f(x);    dx = (I - df/dx)^-1 df
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import numpy as jnp, tree_util

from functrace.errors import ArgumentError
from functrace.ir.source import caller_source
from functrace.lax.implicit import check_functions, custom_root, strong, traced
from functrace.lax.krylov import gmres
from functrace.lax.loops import while_loop
from functrace.tracing import aval_of, lift
from functrace.tracing.tracer import at

maximum = lift(jnp.maximum)
RESTART = 20


def fixed_point(f: Callable[[Any], Any], init: Any, *, tol: Any = None, max_steps: int = 1000) -> Any:
    """The x for which `f(x)` is x, by iterating f, differentiated in what f closes over.

    The derivative is that of the equation, and not of the steps: dx = (I - df/dx)^-1 df, in forward and
    reverse mode and to any order. It keeps nothing of the steps, and solves with `gmres`, which takes
    products with df/dx alone.

    Args:
      f: a function whose result has the structure and types of its argument.
      init: where to start, a pytree of arrays; the derivative in it is zero.
      tol: it has converged when no entry of x changes by more than `tol * max(1, largest entry of x)`; the
        systems of the derivative are solved to the same relative residual. By default 32 times the
        machine epsilon of the coarsest leaf, 4e-6 in single and 7e-15 in double precision.
      max_steps: most calls of f. Where they do not suffice, the last x is returned, without an error; its
        derivative is the formula's at that x, as close to that of the fixed point as x is, or NaN where x
        is. Compare f(x) with x where it matters. The systems of the derivative get as many products.
    Returns:
      x, like init.
    Raises:
      DtypeError: f returns another structure or other types than those of init.
      ArgumentError: max_steps is less than 1.

    Reference: Christianson, "Reverse accumulation and attractive fixed points" (1994); Bai, Kolter and
    Koltun, "Deep equilibrium models" (2019).

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> root = lambda a: ft.lax.fixed_point(lambda x: (x + a / x) / 2, 1.0)
    >>> round(float(root(2.0)), 4), round(float(ft.grad(root)(2.0)), 4)
    (1.4142, 0.3536)
    """
    check_functions("fixed_point", {"f": f})
    if operator.index(max_steps) < 1:
        raise ArgumentError(f"fixed_point: max_steps must be at least 1, got {max_steps}.{at(caller_source())}")
    x0 = strong("fixed_point", "init", init)
    traced("fixed_point", "f", f, x0, "init")  # for its messages
    if tol is None:
        tol = 32 * max([float(jnp.finfo(aval_of(x).dtype).eps) for x in tree_util.tree_leaves(x0)], default=0.0)

    def step(state: Any) -> Any:
        n, x, _ = state
        y = f(x)
        change = largest(tree_util.tree_map(operator.sub, y, x))
        return n + 1, y, change > tol * maximum(1.0, largest(y))

    def iterate(_: Any, x: Any) -> Any:
        return while_loop(lambda state: state[2] & (state[0] < max_steps), step, (0, x, True))[1]

    def solve(g: Any, y: Any) -> Any:
        return gmres(g, y, tol=tol, restart=RESTART, maxiter=-(-max_steps // RESTART))[0]

    return custom_root(lambda x: tree_util.tree_map(operator.sub, x, f(x)), x0, iterate, solve)


def largest(tree: Any) -> Any:
    """The largest absolute value of all entries."""
    sizes = [abs(x).max() for x in tree_util.tree_leaves(tree) if x.size]
    total = sizes[0] if sizes else np.float32(0)
    for size in sizes[1:]:
        total = maximum(total, size)
    return total


__all__ = ["fixed_point"]
