"""L-BFGS: the inverse Hessian times the gradient, from the last few steps and what they did to the gradient."""

from typing import Any, NamedTuple

import jax

from functrace import lax, numpy as fnp, tree
from functrace.optim.base import Transformation, chain, computing_dtype, optimizer, transformation
from functrace.optim.checking import check_count
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.optim.line_search import scale_by_zoom_linesearch
from functrace.optim.stepping import scale, scale_by_learning_rate

Array = jax.Array
PyTree = Any

ZOOM = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


class LbfgsState(NamedTuple):
    """State of `scale_by_lbfgs`.

    Args:
      params, grads: those of the last update.
      diff_params, diff_grads: the last differences of either, oldest first: leaves of one more axis.
      weights: f32[memory_size], for each the inverse of their product.
    """

    step: Array
    hyperparams: Hyperparams
    params: PyTree
    grads: PyTree
    diff_params: PyTree
    diff_grads: PyTree
    weights: Array


def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> Transformation:
    """L-BFGS's direction, uphill: an approximate inverse Hessian times the gradient.

    Args:
      memory_size: how many steps to remember, an integer of 1 or more.
      scale_init_precond: start from the identity times the curvature of the last step, and at the first
        step from a gradient of norm 1 at most; False starts from the identity.
    Returns:
      A transformation with a `LbfgsState`. Its update needs the parameters.
    Raises:
      ArgumentError: `memory_size` below 1, no parameters given to `update`.
    Source: Nocedal and Wright, Numerical optimization, algorithm 7.4 (1999).

    >>> part = scale_by_lbfgs()
    >>> _, state = part.update(8.0, part.init(0.0), 4.0)
    >>> float(part.update(6.0, state, 3.0)[0])
    3.0
    """
    check_count("scale_by_lbfgs", "memory_size", memory_size)

    def memory(params: PyTree) -> dict[str, PyTree]:
        kept = tree.map(lambda p: fnp.zeros(p.shape, computing_dtype(p)), params)
        stacked = tree.map(lambda p: fnp.zeros((memory_size, *p.shape), p.dtype), kept)
        weights = fnp.zeros(memory_size, _product(kept, kept).dtype)
        return {"params": kept, "grads": kept, "diff_params": stacked, "diff_grads": stacked, "weights": weights}

    def step(grads: PyTree, state: LbfgsState, params: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        grads, params = (tree.map(lambda x, k: x.astype(k.dtype), t, state.grads) for t in (grads, params))
        is_first = state.step == 0
        diff_params, diff_grads = (
            tree.map(lambda new, old: fnp.where(is_first, 0, new - old), *pair)
            for pair in ((params, state.params), (grads, state.grads))
        )
        product, square = _product(diff_grads, diff_params), _product(diff_grads, diff_grads)
        weight = fnp.where(product == 0, 0, 1 / fnp.where(product == 0, 1, product))
        memories = tree.map(
            lambda old, new: fnp.concatenate([old[1:], new[None]]),
            (state.diff_params, state.diff_grads, state.weights),
            (diff_params, diff_grads, weight),
        )
        initial = fnp.ones((), product.dtype)
        if scale_init_precond:
            at_most_one = 1 / fnp.sqrt(fnp.maximum(_product(grads, grads), 1))
            later = fnp.where(square > 0, product / fnp.where(square > 0, square, 1), 1)
            initial = fnp.where(is_first, at_most_one, later)
        updates = _two_loops(grads, memories, initial)
        fields = dict(zip(("diff_params", "diff_grads", "weights"), memories, strict=True))
        return updates, {"params": params, "grads": grads, **fields}

    settings = Settings("scale_by_lbfgs", {})
    return transformation(settings, LbfgsState, step, memory, like="grads", needs_params=True)


@optimizer
def lbfgs(
    learning_rate: Hyperparam | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: Transformation | None = ZOOM,
) -> Transformation:
    """L-BFGS with a line search, for losses without noise.

    The line search needs the loss: `update(grads, state, params, value=value, grad=grads, value_fn=loss)`.

    Args:
      learning_rate: a factor for the direction; None for 1.
      memory_size, scale_init_precond: as in `scale_by_lbfgs`.
      linesearch: a transformation that chooses the step; by default `scale_by_zoom_linesearch` with at
        most 20 evaluations, starting from 1; None for the step as it is.
    Returns:
      A transformation. Its update needs the parameters, and what its line search needs.
    Raises:
      ArgumentError: `memory_size` below 1; no parameters or no `value_fn` given to `update`.
    Source: Nocedal and Wright, Numerical optimization, chapters 3 and 7 (1999).

    >>> import functrace as ft
    >>> loss = lambda w: fnp.sum((w - fnp.array([1.0, 2.0])) ** 2 * fnp.array([1.0, 10.0]))
    >>> optimizer, params = lbfgs(), fnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> for _ in range(5):
    ...     value, grad = ft.value_and_grad(loss)(params)
    ...     updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
    ...     params = params + updates
    >>> [round(w, 3) for w in params.tolist()]
    [1.0, 2.0]
    """
    downhill = scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate)
    parts = [scale_by_lbfgs(memory_size, scale_init_precond), downhill]
    return chain(*parts, *[] if linesearch is None else [linesearch])


def _two_loops(grads: PyTree, memories: tuple[PyTree, PyTree, Array], initial: Array) -> PyTree:
    """The inverse Hessian of the remembered steps times the gradient, from the newest step back and forth again."""

    def add(vector: PyTree, factor: Array, other: PyTree) -> PyTree:
        return tree.map(lambda v, o: (v + factor * o).astype(v.dtype), vector, other)

    def back(vector: PyTree, entry: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, Array]:
        diff_params, diff_grads, weight = entry
        alpha = weight * _product(diff_params, vector)
        return add(vector, -alpha, diff_grads), alpha

    def forth(vector: PyTree, entry: tuple[Any, Array]) -> tuple[PyTree, tuple[()]]:
        (diff_params, diff_grads, weight), alpha = entry
        beta = weight * _product(diff_grads, vector)
        return add(vector, alpha - beta, diff_params), ()

    vector, alphas = lax.scan(back, grads, memories, reverse=True)
    vector = tree.map(lambda v: (initial * v).astype(v.dtype), vector)
    return lax.scan(forth, vector, (memories, alphas))[0]


def _product(a: PyTree, b: PyTree) -> Array:
    """The inner product of two pytrees, as vectors of real numbers."""
    terms = [fnp.sum(fnp.real(fnp.conj(x) * y)) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)]
    return fnp.asarray(sum(terms, fnp.zeros(())))
