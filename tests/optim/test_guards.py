"""accumulate and skip_nonfinite."""

import numpy as np
import optax

import functrace as ft
from functrace import numpy as fnp, optim

from .trees import assert_trees_close, random_tree

NAN, INF = float("nan"), float("inf")


def test_accumulate_makes_the_step_of_the_mean():
    params = random_tree(0)
    optimizer = optim.accumulate(optim.adam(0.1), 4)
    state = optimizer.init(params)
    batches = [random_tree(n + 1) for n in range(4)]
    for number, grads in enumerate(batches):
        updates, state = optimizer.update(grads, state, params)
        assert any(fnp.any(u != 0) for u in ft.tree.leaves(updates)) == (number == 3)
    mean = ft.tree.map(lambda *gs: sum(gs) / 4, *batches)
    expected, _ = optim.adam(0.1).update(mean, optim.adam(0.1).init(params))
    assert_trees_close(updates, expected, rtol=1e-5)
    assert (int(state.mini_step), int(state.gradient_step)) == (0, 1)


def test_accumulate_in_half_precision_does_not_lose_small_gradients():
    optimizer = optim.accumulate(optim.sgd(1.0), 1000)
    state = optimizer.init(fnp.zeros((), fnp.float16))
    update = ft.jit(optimizer.update)
    for n in range(1000):
        updates, state = update(fnp.asarray(1.0 + (n % 2) / 1024, fnp.float16), state)
    np.testing.assert_allclose(float(updates), -(1 + 0.5 / 1024), rtol=1e-3)


def test_skip_nonfinite_stands_still_and_counts():
    params = random_tree(0)
    inner = optim.adamw(optim.linear_schedule(0.1, 0.0, 10))
    optimizer = optim.skip_nonfinite(inner)
    state, plain = optimizer.init(params), inner.init(params)
    for number, factor in enumerate([1.0, NAN, INF, 1.0, NAN]):
        grads = ft.tree.map(lambda g: g * factor, random_tree(number))  # noqa: B023
        updates, state = ft.jit(optimizer.update)(grads, state, params)
        if factor == 1.0:
            expected, plain = ft.jit(inner.update)(grads, plain, params)
            assert_trees_close(updates, expected)
        else:
            assert all(not fnp.any(u) for u in ft.tree.leaves(updates))
        assert_trees_close(state.inner, plain)
    assert (int(state.total), int(state.consecutive)) == (3, 1)
    assert len(optim.nonfinite_paths(state)) == len(ft.tree.leaves(params))


def test_skip_nonfinite_gives_up_as_optax_does():
    ours = optim.skip_nonfinite(optim.sgd(1.0), max_consecutive=2)
    theirs = optax.apply_if_finite(optax.sgd(1.0), max_consecutive_errors=2)
    state, their_state = ours.init(fnp.zeros(2)), theirs.init(fnp.zeros(2))
    for value in [1.0, NAN, NAN, NAN, 1.0, NAN]:
        grads = fnp.array([value, 1.0])
        updates, state = ours.update(grads, state)
        expected, their_state = theirs.update(grads, their_state)
        np.testing.assert_array_equal(updates, expected)
    assert int(state.total) == int(their_state.total_notfinite)
