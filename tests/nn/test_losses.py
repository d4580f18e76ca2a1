"""Losses against optax: values, derivatives, masks, and labels that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functrace as ft
from functrace import nn, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError

INF = np.inf
RNG = np.random.default_rng(0)
X = np.concatenate(
    [
        RNG.standard_normal((4, 3)),
        [[0, 0, 0], [1e-30, -1e-30, 0], [50, -50, 0], [1e4, -1e4, 1e4]],
    ]
).astype(np.float32)
INTEGERS = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)
SOFT = np.asarray(jax.nn.softmax(RNG.standard_normal(X.shape).astype(np.float32)))
BINARY = (SOFT > 0.3).astype(np.float32)

LOSSES = {
    "softmax_cross_entropy_with_integer_labels": INTEGERS,
    "softmax_cross_entropy": SOFT,
    "sigmoid_binary_cross_entropy": BINARY,
    "squared_error": SOFT,
    "huber": SOFT,
    "mse": SOFT,
}
ORACLES = {
    "huber": optax.huber_loss,
    "mse": lambda x, y: optax.squared_error(x, y).mean(),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_derivatives_equal_optax(name, dtype):
    x, labels = jnp.asarray(X, dtype), LOSSES[name]
    if labels.dtype == np.float32:
        labels = jnp.asarray(labels, dtype)
    ours, theirs = getattr(nn, name), ORACLES.get(name) or getattr(optax, name)
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    y = ft.jit(ours)(x, labels)
    assert y.dtype == dtype
    assert_close(y, theirs(x, labels), tolerance)
    if name != "mse":
        assert_close(ft.vmap(ours)(x, labels), theirs(x, labels), tolerance)
    gradient = ft.grad(lambda x: ours(x, labels).sum())(x)
    assert gradient.dtype == dtype
    assert_close(gradient, jax.grad(lambda x: theirs(x, labels).sum())(x), tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_hessians_equal_optax(name):
    x, labels = X[0], LOSSES[name][0]
    ours, theirs = getattr(nn, name), ORACLES.get(name) or getattr(optax, name)
    hessian = ft.hessian(lambda x: ours(x, labels).sum())(x)
    assert_close(hessian, jax.hessian(lambda x: theirs(x, labels).sum())(x), 1e-5)


def test_derivative_in_soft_labels():
    for name in ("softmax_cross_entropy", "sigmoid_binary_cross_entropy"):
        labels = np.array([[1.0, 0.0, 0.0]], np.float32)
        ours, theirs = (
            t.grad(lambda y, m=m, name=name: getattr(m, name)(X[:1], y).sum())(labels)
            for t, m in ((ft, nn), (jax, optax))
        )
        assert_close(ours, theirs, 1e-6)


def test_cross_entropy_keeps_its_digits():
    """The small loss beside large logits: logsumexp(x) - x[label] would be off by 1e-3."""
    logits = np.array([1e4, 1e4 - 4.0], np.float32)
    loss = nn.softmax_cross_entropy_with_integer_labels(logits, 0)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-4.0)), rtol=1e-5)


def test_impossible_class_costs_nothing():
    logits = np.array([1.0, -INF, 2.0], np.float32)
    labels = np.array([0.25, 0.0, 0.75], np.float32)
    expected = optax.softmax_cross_entropy(logits[[0, 2]], labels[[0, 2]])
    np.testing.assert_allclose(nn.softmax_cross_entropy(logits, labels), expected, rtol=1e-6)
    assert np.isfinite(ft.grad(nn.softmax_cross_entropy)(logits, labels)).all()
    assert np.isfinite(ft.grad(nn.softmax_cross_entropy_with_integer_labels)(logits, 2)).all()
    assert nn.softmax_cross_entropy_with_integer_labels(logits, 1) == INF
    assert nn.softmax_cross_entropy(logits, np.array([0.0, 1.0, 0.0])) == INF


def test_labels_out_of_range_are_nan_in_a_program():
    loss = ft.jit(nn.softmax_cross_entropy_with_integer_labels)
    values = loss(np.zeros((4, 3), np.float32), np.array([-1, 0, 2, 3]))
    assert np.isnan(values).tolist() == [True, False, False, True]
    summed = lambda x, y: nn.softmax_cross_entropy_with_integer_labels(x, y).sum()
    gradient = ft.jit(ft.grad(summed))(np.zeros((4, 3), np.float32), np.array([-1, 0, 2, 3]))
    assert np.isnan(gradient).all(1).tolist() == np.isnan(gradient).any(1).tolist() == [True, False, False, True]


def test_rows_without_a_label_are_masked():
    def loss(x, y):
        return fnp.where(y >= 0, nn.softmax_cross_entropy_with_integer_labels(x, y), 0.0).sum()

    gradient = ft.jit(ft.grad(loss))(np.zeros((2, 3), np.float32), np.array([-1, 0]))
    np.testing.assert_allclose(gradient, [[0, 0, 0], [-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_huber_at_its_corners(delta):
    x = np.array([0.0, delta, -delta, 10.0, -10.0, 1e30, -3e38, INF], np.float32)
    loss = lambda x: nn.huber(x, 0.0, delta)
    slopes = np.clip(x, -delta, delta)
    assert_close(ft.vmap(loss)(x[:5]), optax.huber_loss(x[:5], delta=delta), 1e-6)
    assert_close(ft.vmap(ft.grad(loss))(x), slopes, 1e-6)
    _, tangents = ft.jvp(lambda x: nn.huber(x, np.zeros_like(x), delta), (x,), (np.ones_like(x),))
    assert_close(tangents, slopes, 1e-6)
    second = ft.vmap(ft.grad(ft.grad(loss)))(x)
    assert_close(second, abs(x) <= delta, 1e-6)


def test_extreme_binary_logits():
    x = np.array([1e4, -1e4, 3e38, -3e38, INF, -INF], np.float32)
    fits = np.array([1, 0, 1, 0, 1, 0], np.float32)
    f = lambda x, y: nn.sigmoid_binary_cross_entropy(x, y).sum()
    assert f(x[:4], fits[:4]) == 0
    assert ft.grad(f)(x[:4], fits[:4]).tolist() == [0] * 4
    assert ft.grad(f)(x[:4], 1 - fits[:4]).tolist() == [1, -1, 1, -1]
    assert ft.grad(f)(x[:4], np.full(4, 0.25)).tolist() == [0.75, -0.25, 0.75, -0.25]


@pytest.mark.parametrize("name", LOSSES)
def test_empty_and_scalar(name):
    f = getattr(nn, name)
    if name.startswith("softmax"):
        labels = LOSSES[name]
        assert f(X[:0], labels[:0]).shape == (0,)
        assert f(X[0], labels[0]).shape == ()
        return
    assert f(0.5, 0.25).shape == ()
    if name != "mse":
        assert f(X[:0], SOFT[:0]).shape == (0, 3)


LABELLED = nn.softmax_cross_entropy_with_integer_labels


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda: LABELLED(np.ones((3, 2)), np.ones((3, 2), int)),
            ShapeError,
            r"logits have shape \(3, 2\) and labels \(3, 2\); labels of shape \(3,\), one for each "
            r"row of logits, were expected. For one-hot labels or probabilities use softmax_cross",
        ),
        (
            lambda: LABELLED(np.ones((3, 2)), np.ones((3, 1), int)),
            ShapeError,
            r"labels of shape \(3,\).*Squeeze the labels' last axis",
        ),
        (lambda: LABELLED(1.0, 0), ShapeError, r"logits have shape \(\) and labels \(\)"),
        (
            lambda: LABELLED(np.ones((3, 2)), np.ones(3)),
            DtypeError,
            r"labels have dtype float.*; integers were expected. For probabilities use",
        ),
        (
            lambda: LABELLED(np.ones((3, 2), int), np.ones(3, int)),
            DtypeError,
            r"logits have dtype int.*; a floating one was expected",
        ),
        (
            lambda: LABELLED(np.ones((3, 2)), np.array([0, 1, 2])),
            ArgumentError,
            r"labels go from 0 to 2; 0 to 1 was expected, as logits have 2 classes.*  \(test_losses.py:\d+, in .*\)$",
        ),
        (lambda: LABELLED(np.ones((1, 2)), fnp.array([-1])), ArgumentError, r"labels go from -1 to -1; 0 to 1 was"),
        (
            lambda: ft.grad(lambda x, y: LABELLED(x, y).sum())(np.ones((3, 2), np.float32), fnp.array([0, 1, 2])),
            ArgumentError,
            r"labels go from 0 to 2; 0 to 1 was expected",
        ),
        (
            lambda: nn.softmax_cross_entropy(np.ones((3, 2)), np.ones(3)),
            ShapeError,
            r"softmax_cross_entropy: logits have shape \(3, 2\) and labels \(3,\)",
        ),
        (lambda: nn.softmax_cross_entropy(1.0, 1.0), ShapeError, r"logits are a scalar"),
        (
            lambda: nn.sigmoid_binary_cross_entropy(np.ones(3), 1.0),
            ShapeError,
            r"logits have shape \(3,\) and labels \(\); they must be the same",
        ),
        (
            lambda: nn.mse(np.ones((3, 1)), np.ones(3)),
            ShapeError,
            r"mse: predictions have shape \(3, 1\) and targets \(3,\).*losses do not broadcast",
        ),
        (lambda: nn.huber(np.ones(3, int), np.ones(3)), DtypeError, r"huber: predictions have"),
        (
            lambda: ft.jit(ft.grad(nn.mse))(fnp.ones((3, 1)), fnp.ones(3)),
            ShapeError,
            r"mse: predictions have shape \(3, 1\) and targets \(3,\)",
        ),
    ],
)
def test_messages(run, error, message):
    with pytest.raises(error, match=message):
        run()


def assert_close(x, y, tolerance):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
