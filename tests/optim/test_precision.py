"""Mixed precision: what is cast and what is not, float32 master weights, dynamic loss scaling."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp, optim
from functrace.errors import ArgumentError, DtypeError

from .trees import assert_trees_close, small_tree

BF16, F16, F32 = fnp.bfloat16, fnp.float16, fnp.float32
NAN = float("nan")


@pytest.mark.parametrize("compute", [BF16, F16])
def test_policy_casts_floating_leaves_only(compute):
    policy = optim.Policy(compute_dtype=compute)
    pytree = {"w": fnp.ones(2), "i": fnp.arange(2), "z": fnp.ones(2, complex), "n": 3.0, "h": fnp.ones(2, F16)}
    kinds = lambda t: {name: getattr(leaf, "dtype", type(leaf)) for name, leaf in t.items()}
    stay = {"i": fnp.dtype("int32"), "z": fnp.dtype("complex64"), "n": float}
    assert kinds(policy.cast_to_compute(pytree)) == {"w": compute, "h": compute} | stay
    assert kinds(policy.cast_to_output(pytree)) == {"w": F32, "h": F32} | stay
    kept = policy.cast_to_compute(pytree, keep=optim.at_paths("w"))
    assert kinds(kept) == {"w": F32, "h": compute} | stay


def test_wrapped_function_computes_in_half_precision():
    seen = {}

    def loss(params, x, *, bias):
        seen.update({"w": params["w"].dtype, "norm": params["norm"].dtype, "x": x.dtype, "bias": bias.dtype})
        return fnp.sum((x @ params["w"]) * params["norm"] + bias), params["w"]

    params = {"w": fnp.ones((3, 3)), "norm": fnp.ones(3)}
    wrapped = optim.Policy().wrap(loss, keep=optim.at_paths("norm"))
    (value, w), grads = ft.jit(ft.value_and_grad(wrapped, has_aux=True))(params, fnp.ones(3), bias=fnp.ones(3))
    assert seen == {"w": BF16, "norm": F32, "x": BF16, "bias": BF16}
    assert value.dtype == w.dtype == F32 and {g.dtype for g in ft.tree.leaves(grads)} == {fnp.dtype(F32)}
    with pytest.raises(DtypeError, match="Policy: compute_dtype is int8; a floating dtype was expected"):
        optim.Policy(compute_dtype=fnp.int8)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_master_weights_follow_float32_training(dtype):
    inner = optim.adamw(1e-3, weight_decay=0.1)
    optimizer = optim.master_weights(inner)
    params = small_tree(0, dtype)
    wide = optim.Policy().cast_to_param(params)
    state, plain = optimizer.init(params), inner.init(wide)
    update, plain_update = ft.jit(optimizer.update), ft.jit(inner.update)
    for number in range(20):
        grads = small_tree(number + 1, dtype)
        updates, state = update(grads, state, params)
        params = optim.apply_updates(params, updates)
        wide_updates, plain = plain_update(optim.Policy().cast_to_param(grads), plain, wide)
        wide = optim.apply_updates(wide, wide_updates)
        assert_trees_close(params, ft.tree.map(lambda w: w.astype(dtype), wide), rtol=1e-30)
    with pytest.raises(ArgumentError, match="master_weights: update needs the parameters"):
        optimizer.update(params, state)


def test_loss_scale_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(2))
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    sgd = torch.optim.SGD([weight], lr=0.1)
    optimizer = optim.dynamic_loss_scale(optim.sgd(0.1), 1024.0, growth_interval=3)
    params = fnp.ones(2)
    state, update = optimizer.init(params), ft.jit(optimizer.update)
    for factor in [1.0, 1.0, 1.0, NAN, 2.0, float("inf"), 1.0, 1.0, 1.0, 1.0, -1.0, 3.0, NAN, NAN]:
        theirs.scale((weight * weight).sum() * factor).backward()
        grads = ft.grad(lambda p: optim.scale_loss(fnp.sum(p * p) * factor, state))(params)  # noqa: B023
        np.testing.assert_allclose(grads, weight.grad, rtol=1e-6)
        theirs.step(sgd)
        theirs.update()
        sgd.zero_grad()
        updates, state = update(grads, state, params)
        params = optim.apply_updates(params, updates)
        np.testing.assert_allclose(params, weight.detach(), rtol=1e-6)
        assert float(optim.loss_scale(state)) == theirs.get_scale()
    logged = optim.metrics(state)
    assert int(logged["inner.skipped"]) == 4 and float(logged["scale"]) == theirs.get_scale()
    assert optim.nonfinite_paths(state) == ["(the whole tree)"]


def test_scaling_saves_gradients_that_float16_would_lose():
    policy = optim.Policy(compute_dtype=F16)
    loss = policy.wrap(lambda w, x: fnp.mean(w * x))
    x = fnp.full(64, 1e-6)
    optimizer = optim.dynamic_loss_scale(optim.sgd(1.0), initial_scale=2.0**24)
    params = fnp.ones(64)
    assert not fnp.any(ft.grad(loss)(params, x))
    state = optimizer.init(params)

    @ft.jit
    def step(params, state):
        grads = ft.grad(lambda p: optim.scale_loss(loss(p, x), state))(params)
        updates, state = optimizer.update(grads, state, params)
        return updates, state

    while True:  # from a scale that overflows down to one that does not
        updates, state = step(params, state)
        if fnp.any(updates):
            break
    np.testing.assert_allclose(updates, -x / 64, rtol=0.1)
    assert 2.0**10 < float(optim.loss_scale(state)) < 2.0**24


def test_a_low_scale_stays_and_a_high_one_does_not_overflow():
    for start, grads, expected in [(1.0, NAN, 1.0), (2.0**127, 1.0, 2.0**127)]:
        optimizer = optim.dynamic_loss_scale(optim.sgd(1.0), start, growth_interval=1)
        _, state = optimizer.update(grads, optimizer.init(1.0))
        assert float(state.scale) == expected


def test_gradients_of_half_precision_are_unscaled_in_single():
    optimizer = optim.dynamic_loss_scale(optim.sgd(1.0), 2.0**16)
    updates, _ = optimizer.update(fnp.asarray(2.0**-8, F16), optimizer.init(fnp.ones((), F16)))
    assert updates.dtype == F32 and float(updates) == -(2.0**-24)


def test_derivative_through_a_scaled_step():
    optimizer = optim.dynamic_loss_scale(optim.sgd(0.5), 1024.0)

    def after(rate):
        state = optim.set_hyperparams(optimizer.init(2.0), learning_rate=rate)
        return 2.0 + optimizer.update(1024.0 * 3.0, state)[0]

    with jax.enable_x64(True):
        np.testing.assert_allclose(ft.grad(after)(0.5), -3.0)
