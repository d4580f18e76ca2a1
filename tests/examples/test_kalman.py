"""The Kalman filter: both forms agree, with each other and with JAX's run of the same script."""

import jax
import kalman
import numpy as np
import pytest
from jax import numpy as jnp
from kalman import Belief, Element, main, moving_point, objective, simulate

import functrace as ft

TRUTH, GUESS = np.log([0.8, 0.3]), np.log([2.0, 0.6])


@pytest.fixture(scope="module")
def measured():
    with jax.enable_x64(True):
        return simulate(TRUTH, 12)[1]


def test_main(capsys):
    run = main(["--length", "20"])
    sequence, parallel = run.beliefs["in sequence"], run.beliefs["in parallel"]
    assert sequence.mean.shape == (20, 2)
    np.testing.assert_allclose(parallel.mean, sequence.mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(parallel.covariance, sequence.covariance, rtol=1e-9, atol=1e-11)
    assert run.likelihoods["in parallel"] == pytest.approx(run.likelihoods["in sequence"], rel=1e-12)
    np.testing.assert_allclose(run.gradients["in parallel"], run.gradients["in sequence"], rtol=1e-10)
    assert np.abs(run.found - run.truth).max() < 1.0
    out = capsys.readouterr().out
    assert "in parallel: log-likelihood" in out
    assert "noise found" in out


@pytest.mark.parametrize("name", kalman.FILTERS)
def test_same_script_in_jax(name, measured, monkeypatch):
    with jax.enable_x64(True):
        ours = ft.jit(ft.value_and_grad(lambda p: objective(name, p, measured)[0]))(GUESS)
        for word, theirs in (("ft", jax), ("fnp", jnp), ("lax", jax.lax)):
            monkeypatch.setattr(kalman, word, theirs)
        expected = jax.jit(jax.value_and_grad(lambda p: objective(name, p, measured)[0]))(GUESS)
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-10)


def test_likelihood_is_that_of_one_gaussian(measured):
    """All measurements together are normal, with a covariance that is written down."""
    with jax.enable_x64(True):
        model = kalman.Model(*map(np.asarray, moving_point(GUESS)))
        value, n = float(objective("in sequence", GUESS, measured)[0]), len(measured)
    power = lambda k: np.linalg.matrix_power(model.F, k)
    states, P = {}, model.P
    for i in range(n):
        P = model.F @ P @ model.F.T + model.Q
        states[i] = P
    covariance = np.empty((n, n))
    for i in range(n):
        for j in range(i, n):
            covariance[i, j] = covariance[j, i] = (model.H @ power(j - i) @ states[i] @ model.H.T).item()
    covariance += np.exp(2 * GUESS[1]) * np.eye(n)
    y = measured[:, 0]
    expected = -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert value == pytest.approx(expected, rel=1e-11)


def test_elements_are_a_monoid(measured):
    """(p q) r = p (q r), for the elements of three steps."""
    with jax.enable_x64(True):
        p, q, r = [kalman.element(moving_point(GUESS), y) for y in measured[:3]]
        left = kalman.combine(kalman.combine(p, q), r)
        right = kalman.combine(p, kalman.combine(q, r))
    for a, b in zip(Element(*left), Element(*right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_maximum():
    """Where the fit ends, the gradient is zero, and the beliefs are closer to the truth than the measurements."""
    with jax.enable_x64(True):
        xs, ys = simulate(TRUTH, 300, seed=1)
        found = kalman.fit(GUESS, ys)
        gradient = ft.jit(ft.grad(lambda p: objective("in sequence", p, ys)[0]))(found)
        beliefs = Belief(*map(np.asarray, objective("in sequence", found, ys)[1]))
    assert np.abs(gradient).max() < 1e-8
    error = lambda x: np.sqrt(np.mean((x - xs[:, 0]) ** 2))
    assert error(beliefs.mean[:, 0]) < 0.75 * error(ys[:, 0])
