"""L-BFGS and its line search against optax, step by step, on functions that are hard to minimize."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp, optim

from .trees import assert_trees_close

START = {"a": np.array([-1.2, 1.0, 0.7]), "b": {"c": np.array([[0.3, -2.0], [1.5, 0.2]]), "d": np.array(0.5)}}


def rosenbrock(np_like):
    """A narrow curved valley, over all leaves."""

    def loss(params):
        x = np_like.concatenate([params["a"], params["b"]["c"].reshape(-1), params["b"]["d"].reshape(1)])
        return np_like.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return loss


def steep(np_like):
    """Long flat sides, a wall, and logarithms that are NaN beyond it."""

    def loss(params):
        a, c, d = params["a"], params["b"]["c"], params["b"]["d"]
        barrier = -np_like.log(3 - a).sum() - np_like.log(2.5 - d)
        return barrier + np_like.sqrt(1 + 50 * (c - 1) ** 2).sum() + np_like.exp(a).sum() + d**4

    return loss


ROWS = {
    "default": (rosenbrock, {}, {}),
    "kept guess": (
        steep,
        {"memory_size": 2, "linesearch": optim.scale_by_zoom_linesearch(15, 1.5, approx_dec_rtol=None)},
        {"memory_size": 2, "linesearch": optax.scale_by_zoom_linesearch(15, 1.5, approx_dec_rtol=None)},
    ),
    "few evaluations": (
        rosenbrock,
        {"linesearch": optim.scale_by_zoom_linesearch(3, curv_rtol=0.1, initial_guess_strategy="one")},
        {"linesearch": optax.scale_by_zoom_linesearch(3, curv_rtol=0.1, initial_guess_strategy="one")},
    ),
    "no line search": (
        steep,
        {"learning_rate": 1e-2, "scale_init_precond": False, "linesearch": None},
        {"learning_rate": 1e-2, "scale_init_precond": False, "linesearch": None},
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in ("few evaluations", "no line search") else ()) for n in ROWS],
)
def test_equals_optax_step_by_step(name):
    loss, our_options, their_options = ROWS[name]
    ours, theirs = optim.lbfgs(**our_options), optax.lbfgs(**their_options)
    our_loss, their_loss = loss(fnp), loss(jnp)
    traces = []

    @ft.jit
    def our_step(params, state):
        traces.append(None)
        value, grad = ft.value_and_grad(our_loss)(params)
        updates, state = ours.update(grad, state, params, value=value, grad=grad, value_fn=our_loss)
        return optim.apply_updates(params, updates), state

    @jax.jit
    def their_step(params, state):
        value, grad = jax.value_and_grad(their_loss)(params)
        updates, state = theirs.update(grad, state, params, value=value, grad=grad, value_fn=their_loss)
        return optax.apply_updates(params, updates), state

    with jax.enable_x64(True):
        params = expected = ft.tree.map(fnp.asarray, START)
        state, their_state = ours.init(params), theirs.init(params)
        for number in range(25):
            params, state = our_step(params, state)
            expected, their_state = their_step(expected, their_state)
            assert_trees_close(params, expected, rtol=1e-6, atol=1e-8, err_msg=f"step {number}")
            if our_options.get("linesearch", ours) is not None:
                search = state["scale_by_zoom_linesearch"]
                assert int(search.evaluations) == int(optax.tree.get(their_state, "num_linesearch_steps"))
                np.testing.assert_allclose(search.step_size, their_state[-1].learning_rate, rtol=1e-6)
        assert len(traces) == 1
        assert their_loss(params) < their_loss(START)


def test_derivative_through_three_steps():
    """Of the loss after three steps with their line searches, by a number in the loss and by the start."""
    optimizer = optim.lbfgs(memory_size=2)

    def after(curvature, params):
        loss = lambda p: fnp.sum(fnp.cosh(p["w"] * curvature)) + fnp.sum((p["w"][1:] - p["w"][:-1]) ** 2)
        state = optimizer.init(params)
        for _ in range(3):
            value, grad = ft.value_and_grad(loss)(params)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            params = optim.apply_updates(params, updates)
        return fnp.sum(params["w"] ** 3)

    with jax.enable_x64(True):
        curvature, params = np.array([1.0, 2.0, 0.5]), {"w": np.array([1.0, -0.7, 2.0])}
        slope = ft.jit(ft.grad(after, (0, 1)))(curvature, params)
        after = ft.jit(after)
        along = np.array([1.0, -1.0, 0.5])
        moved = lambda h: after(curvature + h * along, {"w": params["w"] - h * along})
        expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
        np.testing.assert_allclose(slope[0] @ along - slope[1]["w"] @ along, expected, rtol=1e-5)


def test_state_of_the_line_search_is_read_and_used_again():
    optimizer, loss = optim.lbfgs(), lambda p, scale: fnp.sum((p - 3.0) ** 2) * scale
    params = fnp.zeros(2)
    state = optimizer.init(params)
    for _ in range(2):
        _, grad = optim.value_and_grad_from_state(loss)(params, 2.0, state=state)
        np.testing.assert_allclose(grad, 4 * (params - 3.0))
        updates, state = optimizer.update(grad, state, params, value_fn=loss, scale=2.0)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params, 3.0, rtol=1e-5)
    logged = optim.metrics(state)
    assert float(logged["scale_by_zoom_linesearch.decrease_error"]) == 0
    assert 1 <= int(logged["scale_by_zoom_linesearch.evaluations"]) <= 20
    assert float(logged["scale_by_zoom_linesearch.step_size"]) > 0


def test_no_step_where_all_lead_to_nan():
    optimizer = optim.chain(optim.sgd(1.0), optim.scale_by_zoom_linesearch(5))
    updates, state = optimizer.update(
        1.0, optimizer.init(1.0), 1.0, value=0.0, grad=1.0, value_fn=lambda w: w * fnp.nan
    )
    assert float(updates) == 0 and np.isinf(state["scale_by_zoom_linesearch"].decrease_error)
