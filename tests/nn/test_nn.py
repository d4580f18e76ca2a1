"""Activations against jax.nn, losses against optax: values, derivatives, awkward points."""

import jax
import numpy as np
import optax
import pytest

import functrace as ft
from functrace import nn
from functrace.errors import FunctraceError

POINTS = np.array([0.0, 1e-30, -1e-30, 0.3, -0.7, 2.0, -5.0, 50.0, -50.0, 1e4, -1e4], np.float32)
SAME_AS_JAX = [
    "relu", "leaky_relu", "elu", "celu", "selu", "silu", "softplus", "log_sigmoid", "soft_sign", "hard_tanh",
    "sigmoid", "mish", "gelu", "swish",
]  # fmt: skip


@pytest.mark.parametrize("name", SAME_AS_JAX)
def test_activation_equals_jax(name):
    ours, theirs = getattr(nn, name), getattr(jax.nn, name)
    np.testing.assert_allclose(ours(POINTS), theirs(POINTS), rtol=2e-6, atol=1e-37)
    slopes = ft.vmap(ft.grad(ours))(POINTS)
    np.testing.assert_allclose(slopes, jax.vmap(jax.grad(theirs))(POINTS), rtol=2e-5, atol=1e-6)
    assert np.isfinite(ft.vmap(ft.grad(ft.grad(ours)))(POINTS[:9])).all()
    assert ft.jit(ours)(POINTS).dtype == np.float32
    assert ours(np.float32(0.5)).shape == ()


@pytest.mark.parametrize("name", ["relu6", "hard_sigmoid", "hard_silu"])
def test_clipped_activation_equals_jax(name):
    np.testing.assert_allclose(getattr(nn, name)(POINTS), getattr(jax.nn, name)(POINTS), rtol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "glu"])
def test_row_function_equals_jax(name):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32) * 30
    ours, theirs = getattr(nn, name), getattr(jax.nn, name)
    axis = {"axis": -1} if name != "glu" else {}
    np.testing.assert_allclose(ours(x, **axis), theirs(x, **axis), rtol=1e-5)
    weights = np.arange(np.size(theirs(x, **axis)), dtype=np.float32).reshape(theirs(x, **axis).shape)
    np.testing.assert_allclose(
        ft.grad(lambda x: (ours(x, **axis) * weights).sum())(x),
        jax.grad(lambda x: (theirs(x, **axis) * weights).sum())(x),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in dir(nn.initializers) if n.endswith(("normal", "uniform", "orthogonal"))])
def test_initialiser_equals_jax(name):
    key = jax.random.key(0)
    ours, theirs = getattr(nn.initializers, name)(), None
    theirs = getattr(jax.nn.initializers, name)()
    np.testing.assert_array_equal(ours(key, (6, 4)), theirs(key, (6, 4)))
    np.testing.assert_allclose(ft.jit(lambda k: ours(k, (6, 4)))(key), theirs(key, (6, 4)), rtol=1e-5, atol=1e-6)


def test_losses_equal_optax():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 3)).astype(np.float32) * 40
    labels = rng.integers(0, 3, 5)
    np.testing.assert_allclose(
        nn.softmax_cross_entropy_with_integer_labels(logits, labels),
        optax.softmax_cross_entropy_with_integer_labels(logits, labels), rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    soft = np.asarray(nn.softmax(rng.standard_normal((5, 3)).astype(np.float32)))
    np.testing.assert_allclose(
        nn.softmax_cross_entropy(logits, soft), optax.softmax_cross_entropy(logits, soft), rtol=1e-5
    )
    np.testing.assert_allclose(nn.huber(logits, soft, 0.5), optax.huber_loss(logits, soft, delta=0.5), rtol=1e-5)
    np.testing.assert_allclose(nn.mse(logits, soft), optax.squared_error(logits, soft), rtol=1e-6)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: nn.mse(np.ones((3, 1)), np.ones(3)), r"mse: predictions of shape \(3, 1\) and targets of"),
        (
            lambda: nn.softmax_cross_entropy_with_integer_labels(np.ones((3, 2)), np.ones((3, 2), int)),
            r"logits of shape \(3, 2\) need labels of shape \(3,\), got \(3, 2\)",
        ),
        (
            lambda: nn.softmax_cross_entropy_with_integer_labels(np.ones((3, 2)), np.ones(3)),
            r"labels have dtype float64 and must be integers",
        ),
    ],
)
def test_messages(run, message):
    with pytest.raises(FunctraceError, match=message):
        run()
