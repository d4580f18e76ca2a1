"""Gradients of single examples: their norms, and the sum of them clipped, without the gradients.

per_example_norms : (params -> example -> R) -> params -> [n] example -> [n] R
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jax import numpy as jnp, tree_util

from functrace import rewrites
from functrace.errors import ArgumentError
from functrace.ir.source import caller_source
from functrace.tracing import apply, lift
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, closed_over
from functrace.transforms.auxiliary import trace_with_aux
from functrace.transforms.grad import check_inputs, check_output, grad
from functrace.transforms.vmap import vmap

sqrt, where, maximum = lift(jnp.sqrt), lift(jnp.where), lift(jnp.maximum)


def per_example_norms(
    loss: Callable[..., Any], *, in_axes: Any = 0, per_leaf: bool = False, squared: bool = False
) -> Callable[..., Any]:
    """The L2 norm of each example's gradient, as `vmap(grad(loss))` would have it, without the gradients.

    The gradient of a weight of a dense layer is an outer product of what came in and what came back, for a sequence a
    sum of those; the norm follows from the two. Each gradient that the Program makes so is replaced by its norm where
    that takes less: of dense layers, convolutions, embeddings. Where it does not, or several uses of a parameter
    add up, or it is anything else, that parameter's gradients are made, and the answer is the same.

    Args:
      loss: `loss(params, *example)`, a real scalar, for one example: there is no batch in it.
      in_axes: as of `vmap`, for what comes after params: an int for all of it, or a tuple with an entry an argument,
        where None is for what all examples share.
      per_leaf: a pytree like params, of the norms of each leaf, instead of those of the whole gradient.
      squared: squares of the norms.
    Returns:
      A function of `(params, *batch)` that returns the norms `[n]`, in float32 at least. They can be differentiated;
      the norm of a gradient that is 0 has the slope 0.
    Raises:
      DtypeError: a parameter is not of inexact dtype, or the loss is not a real scalar.
      ArgumentError: there is no batch, sizes of its axes differ, or `in_axes` does not fit.
    Source: Goodfellow, Efficient per-example gradient computations, arXiv:1510.01799; for sequences Li et al.,
      arXiv:2110.05679, and convolutions Bu et al., arXiv:2205.10683.

    >>> import functrace as ft, numpy as np
    >>> loss = lambda w, x, y: (x @ w - y) ** 2
    >>> x, y = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([1.0, 1.0])
    >>> ft.per_example_norms(loss)(np.zeros(2), x, y).tolist()
    [2.0, 10.0]
    """
    return _norms("per_example_norms", loss, in_axes, per_leaf, squared)


def per_example_clipped_grad(
    loss: Callable[..., Any], max_norm: Any, *, in_axes: Any = 0, mean: bool = False, with_norms: bool = False
) -> Callable[..., Any]:
    """The sum of the examples' gradients, each scaled down to a norm of at most `max_norm`: what DP-SGD adds noise to.

    In two passes, and none of them makes an example's gradient: `per_example_norms`, and one gradient of
    the losses weighted by `min(1, max_norm / norm)`.

    Args:
      loss: `loss(params, *example)`, a real scalar, for one example.
      max_norm: the largest norm, over all of params; a positive number or scalar.
      in_axes: as of `per_example_norms`.
      mean: the sum divided by the number of examples.
      with_norms: return `(gradient, norms)`, the norms `[n]` before clipping.
    Returns:
      A function of `(params, *batch)` that returns a pytree like params.
    Raises:
      As `per_example_norms`; ArgumentError: `max_norm` is not positive.
    Source: Abadi et al., Deep learning with differential privacy (2016); in two passes, Li et al., arXiv:2110.05679.

    >>> import functrace as ft, numpy as np
    >>> loss = lambda w, x: w @ x
    >>> ft.per_example_clipped_grad(loss, 1.0)(np.zeros(2), np.array([[0.5, 0.0], [3.0, 4.0]])).round(6).tolist()
    [1.1, 0.8]
    """
    norms_of = _norms("per_example_clipped_grad", loss, in_axes, False, False)
    if isinstance(max_norm, int | float) and not max_norm > 0:
        raise ArgumentError(
            f"per_example_clipped_grad: max_norm must be positive, got {max_norm!r}.{at(caller_source())}"
        )

    @wraps(loss)
    def clipped_grad(params: Any, *batch: Any) -> Any:
        norms = norms_of(params, *batch)
        weights = max_norm / maximum(norms, max_norm)
        if mean:
            weights = weights / norms.shape[0]

        def weighted(params: Any) -> Any:
            losses = vmap(loss, in_axes=(None, *each_axis(in_axes, batch)))(params, *batch)
            return (losses * weights.astype(losses.dtype)).sum()

        gradient = grad(weighted)(params)
        return (gradient, norms) if with_norms else gradient

    return clipped_grad


def _norms(transform: str, loss: Any, in_axes: Any, per_leaf: bool, squared: bool) -> Callable[..., Any]:
    check_callable(transform, loss)

    def of_one(params: Any, *example: Any) -> Any:
        xs, tree = tree_util.tree_flatten(params)
        check_inputs(transform, [params], xs, (0,), False, False)
        of_params = closed_over(loss, (params, *example), (0,), {})
        traced, _, _, n = trace_with_aux(transform, of_params, (params,), False)
        check_output(transform, traced, n, False)
        program = rewrites.gradient(traced.program, (False,) * len(traced.captures) + (True,) * len(xs))
        squares = rewrites.squares(program, (False, *(True,) * len(xs)))
        return tree_util.tree_unflatten(tree, apply(squares, [*traced.captures, *xs])[1:])

    @wraps(loss)
    def norms(params: Any, *batch: Any) -> Any:
        if not batch:
            raise ArgumentError(
                f"{transform}: there is no batch; call the result with params and what the loss takes after them."
                f"{at(caller_source())}"
            )
        if isinstance(in_axes, tuple | list) and len(in_axes) != len(batch):
            raise ArgumentError(
                f"{transform}: in_axes has {len(in_axes)} entries, and {len(batch)} arguments come after params; they "
                f"must be as many.{at(caller_source())}"
            )
        found = vmap(of_one, in_axes=(None, *each_axis(in_axes, batch)))(params, *batch)
        if not per_leaf:
            found = sum(tree_util.tree_leaves(found))
        return found if squared else tree_util.tree_map(root, found)

    return norms


def each_axis(in_axes: Any, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """`in_axes` with an entry an argument."""
    return tuple(in_axes) if isinstance(in_axes, tuple | list) else (in_axes,) * len(batch)


def root(n: Any) -> Any:
    """The square root, with the slope 0 at 0."""
    zero = n == 0
    return where(zero, 0.0, sqrt(where(zero, 1.0, n)))


