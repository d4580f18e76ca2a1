"""Moving averages of the parameters."""

import numpy as np
import optax
import pytest

import functrace as ft
from functrace import numpy as fnp, optim

from .trees import assert_trees_close, random_tree


@pytest.mark.parametrize("debias", [True, False])
def test_parameter_ema_is_the_average_after_each_step(debias):
    optimizer = optim.chain(optim.sgd(0.1), optim.parameter_ema(0.9, debias=debias))
    params = random_tree(0)
    state, average = optimizer.init(params), optax.ema(0.9, debias=debias)
    kept = average.init(params)._replace(ema=ft.tree.map(fnp.zeros_like, params) if debias else params)
    assert_trees_close(optim.ema_params(state), params)
    update = ft.jit(optimizer.update)
    for number in range(5):
        updates, state = update(random_tree(number + 1), state, params)
        params = optim.apply_updates(params, updates)
        expected, kept = average.update(params, kept)
        assert_trees_close(optim.ema_params(state), expected, rtol=1e-5)


def test_average_of_half_precision_parameters_moves():
    # In bfloat16 the thousandth part of a difference would be lost.
    optimizer = optim.chain(optim.sgd(1.0), optim.parameter_ema(0.999, debias=False))
    params = fnp.ones((), fnp.bfloat16)
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update(params - params, state, params * 0)
    np.testing.assert_allclose(float(state["parameter_ema"].ema), 0.999**2, rtol=1e-6)
    assert optim.ema_params(state).dtype == fnp.bfloat16


def test_incremental_update_is_that_of_optax():
    new, old = random_tree(0), random_tree(1)
    assert_trees_close(optim.incremental_update(new, old, 0.1), optax.incremental_update(new, old, 0.1))
