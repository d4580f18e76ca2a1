"""Curvature that is never negative: the generalised Gauss-Newton matrix and the Fisher matrix, by their products.

    gauss_newton_vp   J^T (H v'), v' = J v          J of the model, H the Hessian of the loss in the model's outputs
    fisher_vp         the same, where H is the Fisher matrix of the distribution that the outputs describe

Source: Schraudolph, Fast curvature matrix-vector products, Neural Computation 14 (2002); Martens, New insights and
perspectives on the natural gradient method, JMLR 21 (2020).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jax import nn as jax_nn, numpy as jnp, tree_util

from functrace.errors import ArgumentError, DtypeError
from functrace.ir import is_complex
from functrace.ir.source import caller_source
from functrace.tracing import aval_of, lift
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, check_same_tree, tangent_flags
from functrace.transforms.grad import check_inputs, grad
from functrace.transforms.jacobian import basis
from functrace.transforms.jvp import jvp
from functrace.transforms.linearize import linearize
from functrace.transforms.vjp import linear_transpose
from functrace.transforms.vmap import vmap

exp, reshape, sigmoid, softmax = lift(jnp.exp), lift(jnp.reshape), lift(jax_nn.sigmoid), lift(jax_nn.softmax)


def gauss_newton_vp(model: Callable[[Any], Any], loss: Callable[[Any], Any], params: Any, v: Any) -> Any:
    """The product of the generalised Gauss-Newton matrix of `loss(model(params))` with a vector.

    It is `J^T H J v`, with the Jacobian J of the model and the Hessian H of the loss at the model's outputs: the
    Hessian without the part that the curvature of the model has, positive semidefinite where the loss is convex. No
    matrix is made: one pass forward, one product with H, one pass backward.

    Args:
      model: params to outputs, pytrees of floating arrays; it closes over the inputs.
      loss: outputs to a real scalar; it closes over the targets.
      params: where.
      v: of the structure, shapes and dtypes of params.
    Returns:
      The product, like params.
    Raises:
      DtypeError: v is not like params, a leaf of params or outputs is not of inexact dtype, the loss is not a scalar.
    Source: Schraudolph (2002); Martens (2020), section 8.

    >>> import functrace as ft, numpy as np
    >>> model = lambda w: np.array([[1.0, 2.0], [0.0, 1.0]]) @ w
    >>> loss = lambda y: 0.5 * (y ** 2).sum()
    >>> ft.gauss_newton_vp(model, loss, np.zeros(2), np.array([1.0, 0.0])).tolist()
    [1.0, 2.0]
    """
    check_callable("gauss_newton_vp", loss, "loss")
    return product("gauss_newton_vp", model, lambda fixed, y: grad(loss)(y), params, v)


def ggn(model: Callable[[Any], Any], loss: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The generalised Gauss-Newton matrix of `loss(model(params))`, in full: for few params.

    Args:
      model, loss: as of `gauss_newton_vp`.
    Returns:
      A function of params that returns what `hessian` would: for each pair of leaves an array of the shape of one
      and then of the other, in nested structures. For one vector of params it is the matrix.

    >>> import functrace as ft, numpy as np
    >>> model = lambda w: np.array([[1.0, 2.0], [0.0, 1.0]]) @ w
    >>> ft.ggn(model, lambda y: 0.5 * (y ** 2).sum())(np.zeros(2)).tolist()
    [[1.0, 2.0], [2.0, 5.0]]
    """
    check_callable("ggn", model, "model")
    check_callable("ggn", loss, "loss")

    @wraps(model)
    def matrix(params: Any) -> Any:
        times = curvature("ggn", model, lambda fixed, y: grad(loss)(y), params)
        leaves, tree = tree_util.tree_flatten(params)
        rows = vmap(times)(tree_util.tree_unflatten(tree, basis(leaves)))
        blocks, start = [], 0
        for x in map(aval_of, leaves):
            of_x = tree_util.tree_map(lambda r, n=start, x=x: r[n : n + x.size], rows)
            blocks.append(tree_util.tree_map(lambda r, x=x: reshape(r, (*x.shape, *r.shape[1:])), of_x))
            start += x.size
        return tree_util.tree_unflatten(tree, blocks)

    return matrix


def fisher_vp(
    model: Callable[[Any], Any], distribution: str | Callable[[Any, Any], Any], params: Any, v: Any
) -> Any:
    """The product of the Fisher information matrix of a model's predictions with a vector.

    It is `J^T F J v`, with F the Fisher matrix of the distribution that the model's outputs describe: an expectation
    over that distribution, in which no targets are seen. It is summed over all that the outputs describe; divide by
    the number of examples for the mean. For the names below it equals the Gauss-Newton matrix of the negative log
    likelihood. For what is often called the empirical Fisher see `empirical_fisher_vp`.

    Args:
      model: params to outputs, pytrees of floating arrays.
      distribution: what the outputs are of: "categorical", logits along the last axis; "bernoulli", logits; "normal",
        means, of variance 1; "poisson", logs of rates. Or the divergence of two of them, a function `(p, q)` of outputs
        to a scalar, such as Kullback and Leibler's `KL(p || q)`, whose Hessian in q at `q = p` is F.
      params: where.
      v: of the structure, shapes and dtypes of params.
    Returns:
      The product, like params.
    Raises:
      ArgumentError: the distribution has another name. DtypeError: as `gauss_newton_vp`.
    Source: Martens (2020), sections 5, 8 and 9.

    >>> import functrace as ft, numpy as np
    >>> model = lambda w: np.array([[1.0], [2.0]]) * w
    >>> ft.fisher_vp(model, "normal", np.zeros(1), np.ones(1)).tolist()
    [5.0]
    """
    if callable(distribution):
        return product("fisher_vp", model, lambda p, q: grad(lambda q: distribution(p, q))(q), params, v)
    if distribution not in MEANS:
        raise ArgumentError(
            f"fisher_vp: distribution is {distribution!r}; one of {', '.join(map(repr, MEANS))}, or a function of two "
            f"outputs, was expected.{at(caller_source())}"
        )
    mean = MEANS[distribution]
    # Of an exponential family the Fisher matrix is the derivative of the mean in the natural parameters.
    return product("fisher_vp", model, lambda fixed, y: tree_util.tree_map(mean, y), params, v)


def empirical_fisher_vp(losses: Callable[[Any], Any], params: Any, v: Any) -> Any:
    """The product of the sum of `g g^T` over the examples, with g the gradient of each one's loss, with a vector.

    It takes the targets for what the model would draw, and so is no approximation of the Fisher matrix that is good
    away from a minimum: Martens (2020), section 11; Kunstner et al., arXiv:1905.12558. No example's gradient is made.

    Args:
      losses: params to the losses of the examples, an array of any shape.
      params: where.
      v: of the structure, shapes and dtypes of params.
    Returns:
      The product, like params.
    Raises:
      DtypeError: as `gauss_newton_vp`.

    >>> import functrace as ft, numpy as np
    >>> losses = lambda w: np.array([[1.0], [2.0]]) @ w
    >>> ft.empirical_fisher_vp(losses, np.zeros(1), np.ones(1)).tolist()
    [5.0]
    """
    return product("empirical_fisher_vp", losses, lambda fixed, y: y, params, v)


MEANS: dict[str, Callable[[Any], Any]] = {
    "categorical": softmax,
    "bernoulli": sigmoid,
    "normal": lambda mean: mean,
    "poisson": exp,
}


def product(transform: str, model: Any, slope: Callable[[Any, Any], Any], params: Any, v: Any) -> Any:
    """`J^T H J v`; see `curvature`."""
    times = curvature(transform, model, slope, params)
    check_same_tree(transform, "v", v, params, "params")
    tangent_flags(transform, tree_util.tree_leaves(params), tree_util.tree_leaves(v), "tangent")
    return times(v)


def curvature(
    transform: str, model: Any, slope: Callable[[Any, Any], Any], params: Any
) -> Callable[[Any], Any]:
    """`v -> J^T H J v`, where H is the derivative of `slope(fixed, outputs)` in the outputs, at `fixed = outputs`."""
    check_callable(transform, model, "model")
    check_inputs(transform, [params], tree_util.tree_leaves(params), (0,), False, False)
    outputs, forward = linearize(model, params)
    for y in (*tree_util.tree_leaves(params), *tree_util.tree_leaves(outputs)):
        if not aval_of(y).is_inexact or is_complex(aval_of(y).dtype):
            raise DtypeError(
                f"{transform}: params and the model's outputs must be real and floating, got {aval_of(y)}. Return only "
                f"what the loss is a function of.{at(caller_source())}"
            )

    def times(v: Any) -> Any:
        _, moved = jvp(lambda y: slope(outputs, y), (outputs,), (forward(v),))
        return linear_transpose(forward, params)(moved)[0]

    return times
