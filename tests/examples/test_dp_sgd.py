"""Differential privacy: the gradient of each example is clipped, the noise is what it should be, and it learns."""

import doctest
import math

import dp_sgd
import numpy as np
import pytest
from dp_sgd import clipped_sum, epsilon, loss_of, main, noisy_mean, renyi

import functrace as ft
from functrace import nn, optim, random

MODEL = nn.mlp((4, 3, 2), activation=nn.tanh)


def test_learns_with_noise(capsys):
    run = main(["--steps", "150"])
    assert run.accuracy > 0.8
    assert 0.5 < run.epsilon < 3
    assert run.losses[-20:].mean() < 0.5 * run.losses[0]
    assert run.norms.max() > 1  # there was something to clip
    assert f"epsilon {run.epsilon:.2f} at delta 0.0001" in capsys.readouterr().out


def test_gradients_of_examples():
    """Those of a loop over the examples, each clipped by its own norm; absent examples do not count."""
    params = MODEL.init(random.key(0))
    images, labels = random.normal(random.key(1), (5, 4)), np.array([0, 1, 1, 0, 1])
    present = np.array([1, 1, 0, 1, 1], np.float32)
    each = [ft.grad(lambda p, e=e: loss_of(MODEL, p, *e))(params) for e in zip(images, labels, present, strict=True)]
    norms = [float(optim.global_norm(g)) for g in each]
    most = sorted(norms)[2]
    clipped, found = clipped_sum(MODEL, params, images, labels, present, most)
    np.testing.assert_allclose(found, norms, rtol=1e-5)
    assert found[2] == 0
    weights = [min(1, most / max(n, most)) for n in norms]
    expected = ft.tree.map(lambda *gs: sum(w * g for w, g in zip(weights, gs, strict=True)), *each)
    for a, b in zip(ft.tree.leaves(clipped), ft.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_noise():
    """Normal, of the deviation that was asked for, and not the same in two leaves."""
    gradients = {"a": np.full((50, 50), 3, np.float32), "b": np.full((50, 50), 3, np.float32)}
    mean = noisy_mean(random.key(0), gradients, 6.0, 2.0)
    for leaf in mean.values():
        assert float(leaf.mean()) == pytest.approx(1.5, abs=0.2)
        assert float(leaf.std()) == pytest.approx(3.0, rel=0.05)
    assert abs(np.corrcoef(mean["a"].ravel(), mean["b"].ravel())[0, 1]) < 0.1


def test_account():
    """Known values: the whole data set each time is the Gaussian mechanism; and the example of Abadi et al."""
    for order in (2, 7):
        assert renyi(1 - 1e-12, 2.0, order) == pytest.approx(order / (2 * 2.0**2))
    assert epsilon(0.01, 4.0, 10_000, 1e-5) == pytest.approx(1.26, abs=0.01)
    assert epsilon(0.01, 4.0, 100, 1e-5) < epsilon(0.01, 4.0, 200, 1e-5) < epsilon(0.01, 2.0, 200, 1e-5)
    assert epsilon(0.01, 0.0, 1, 1e-5) == math.inf
    assert doctest.testmod(dp_sgd).failed == 0


@pytest.mark.parametrize("noise", ["-1", "nan", "inf"])
def test_bad_noise(noise, capsys):
    with pytest.raises(SystemExit):
        main([f"--noise={noise}"])
    assert f"argument --noise: {float(noise)} is not a number of at least 0" in capsys.readouterr().err
