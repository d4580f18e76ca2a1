"""Sharpness-aware minimization: the gradient is taken where the loss nearby is worst."""

from typing import Any, NamedTuple

import jax

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError
from functrace.optim.base import Transformation, apply_updates, chain, check_part, increment, update_with
from functrace.optim.checking import as_arrays, check_count, check_match, check_state, checked, failure
from functrace.optim.guards import select
from functrace.optim.hyperparameters import Hyperparam, Settings
from functrace.optim.norms import tree_norm
from functrace.optim.stepping import scale

Array = jax.Array
PyTree = Any


class SamState(NamedTuple):
    """State of `sam`.

    Args:
      steps_since_sync: i32[], 0 to sync_period - 1; always 0 in opaque mode.
      cache: the parameters that the adversary set out from; None in opaque mode.
      adversary: the adversary's state.
      inner: the state of the inner transformation.
    """

    steps_since_sync: Array
    cache: PyTree
    adversary: PyTree
    inner: PyTree


def normalize() -> Transformation:
    """Gradients over the global norm of them all; zero where that is zero.

    >>> part = normalize()
    >>> part.update(fnp.array([3.0, 4.0]), part.init(fnp.zeros(2)))[0].tolist()
    [0.6, 0.8]
    """

    def update(grads: PyTree, state: tuple[()], params: PyTree = None, **extra: Any) -> tuple[PyTree, tuple[()]]:
        grads = as_arrays("normalize", "gradient", grads)
        norm = tree_norm(grads)
        peak = fnp.where(norm.peak == 0, 1, norm.peak)
        return tree.map(lambda g: (g / peak / norm.root).astype(g.dtype), grads), state

    return Transformation(lambda params: (), update, "normalize")


def sam(
    inner: Transformation,
    adversary: Transformation | Hyperparam = 0.05,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
) -> Transformation:
    """`inner` on gradients taken where the adversary has gone, uphill from the parameters.

    In the ordinary mode an update is one step of either: `sync_period - 1` of the adversary's, which
    moves the parameters uphill, then one of `inner`'s, from where it set out. In opaque mode one update
    is all of that, and needs the gradient function: `update(grads, state, params, grad_fn=...)`.

    Args:
      inner: the transformation that trains.
      adversary: the transformation whose steps downhill, turned round, are the adversary's; a number
        is the length of its normalized step (rho), hyper-parameter `step_size`.
      sync_period: steps of the adversary and the one of `inner` together, an integer of 1 or more.
      reset_state: start the adversary's state anew each time.
      opaque_mode: whether an update does all the steps; `grad_fn(params, i)` is then the gradient for
        its step i.
    Returns:
      A transformation with a `SamState`. Its update needs the parameters.
    Raises:
      ArgumentError: `sync_period` below 1; no parameters, or in opaque mode no `grad_fn`, given to
        `update`.
    Source: Foret et al., Sharpness-aware minimization, ICLR (2021).

    >>> import functrace as ft, functrace.optim as optim
    >>> gradient = ft.grad(lambda w: w**2)
    >>> optimizer = optim.sam(optim.sgd(0.5), 1.0, opaque_mode=True)
    >>> updates, _ = optimizer.update(gradient(1.0), optimizer.init(1.0), 1.0, grad_fn=lambda w, i: gradient(w))
    >>> float(updates)
    -2.0
    """
    check_part("sam", "inner", inner)
    check_count("sam", "sync_period", sync_period)
    rival = _made_adversary(adversary)

    def init(params: PyTree) -> SamState:
        params = as_arrays("sam", "parameter", params)
        cache = None if opaque_mode else params
        return SamState(fnp.zeros((), fnp.int32), cache, rival.init(params), inner.init(params))

    def uphill(grads: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = rival.update(grads, state, params)
        return tree.map(lambda u: -u, updates), state

    def update(grads: PyTree, state: SamState, params: PyTree = None, **extra: Any) -> tuple[PyTree, SamState]:
        grads, params = checked("sam", grads, params, needs_params=True)
        check_state("sam", state, SamState)
        return (all_steps if opaque_mode else one_step)(grads, state, params, extra)

    def one_step(grads: PyTree, state: SamState, params: PyTree, extra: dict[str, Any]) -> tuple[PyTree, SamState]:
        check_match("sam", "gradients", grads, "parameters given to init", state.cache)
        is_last = state.steps_since_sync == sync_period - 1
        cache = select(state.steps_since_sync == 0, params, state.cache)
        away, gone = uphill(grads, state.adversary, params)
        updates, stepped = update_with(inner, grads, state.inner, cache, extra)
        back = tree.map(lambda c, p, u: c - p + u, cache, params, updates)
        return select(is_last, back, away), SamState(
            steps_since_sync=fnp.where(is_last, 0, increment(state.steps_since_sync)),
            cache=cache,
            adversary=select(is_last, rival.init(params) if reset_state else state.adversary, gone),
            inner=select(is_last, stepped, state.inner),
        )

    def all_steps(grads: PyTree, state: SamState, params: PyTree, extra: dict[str, Any]) -> tuple[PyTree, SamState]:
        grad_fn = extra.get("grad_fn")
        if not callable(grad_fn):
            raise failure(
                ArgumentError,
                "sam: in opaque mode update needs the gradient function; call "
                "`update(grads, state, params, grad_fn=lambda params, i: ...)`.",
            )
        moved, gone = params, state.adversary
        for i in range(sync_period - 1):
            away, gone = uphill(grads, gone, moved)
            moved = apply_updates(moved, away)
            grads, _ = checked("sam", grad_fn(moved, i), params)
        updates, stepped = update_with(inner, grads, state.inner, params, extra)
        return updates, state._replace(adversary=rival.init(params) if reset_state else gone, inner=stepped)

    return Transformation(init, update, "sam")


def _made_adversary(given: Any) -> Transformation:
    if getattr(given, "update", None) is not None:
        check_part("sam", "adversary", given)
        return given
    Settings("sam", {"rho": given})  # checks it

    def downhill(count: Array) -> Any:
        return -given(count)

    return chain(normalize(), scale(downhill if callable(given) else -given))
