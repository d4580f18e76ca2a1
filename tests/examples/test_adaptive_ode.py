"""The adaptive solver: it is right, it chooses its steps, and its derivative is that of the other methods."""

import adaptive_ode
import jax
import numpy as np
import pytest
from adaptive_ode import difference, lotka_volterra, main, solve

import functrace as ft
from functrace import numpy as fnp


def test_agreements(capsys):
    run = main([])
    reverse = run.gradients["reverse mode"]
    assert difference(run.gradients["forward mode"], reverse) < 1e-13
    assert difference(run.gradients["continuous adjoint"], reverse) < 1e-8
    assert difference(run.gradients["central differences"], reverse) < 1e-8
    assert abs(reverse).min() > 0.1
    out = capsys.readouterr().out
    for text in (*run.gradients, "differs by", "each row takes its own steps"):
        assert text in out


def test_rows_take_their_own_steps():
    run = main(["--duration", "3", "--tolerance", "1e-7"])
    assert len(set(run.fan.accepted.tolist())) >= 4
    assert run.fan.refused.sum() > 0
    with jax.enable_x64(True):
        alone = ft.jit(lambda p: solve(lotka_volterra, p[:2], p[2:], 3.0, 1e-7))
        loss = ft.jit(ft.grad(lambda p: alone(p).y @ np.array([1.0, 2.0])))
        for i, start in enumerate(run.starts):
            y, accepted, refused = alone(start)
            assert (int(accepted), int(refused)) == (run.fan.accepted[i], run.fan.refused[i])
            np.testing.assert_allclose(run.fan.y[i], y, rtol=1e-12)
            np.testing.assert_allclose(run.fan_gradients[i], loss(start), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-9])
def test_against_the_exponential(tolerance):
    """y' = c y, whose end state and derivatives are known; the error goes with the tolerance."""
    with jax.enable_x64(True):
        end = lambda c: solve(lambda y, c: c * y, fnp.ones(1), c, 2.0, tolerance).y[0]
        exact = np.exp(1.4)
        assert float(end(0.7)) == pytest.approx(exact, rel=100 * tolerance)
        assert float(ft.grad(end)(0.7)) == pytest.approx(2 * exact, rel=100 * tolerance)
        assert float(ft.grad(ft.grad(end))(0.7)) == pytest.approx(4 * exact, rel=1000 * tolerance)


def test_order_of_the_method():
    """A fixed number of halvings of the tolerance by 2^5 about doubles the steps of a method of order 5."""
    with jax.enable_x64(True):
        steps = [
            int(solve(lotka_volterra, np.array([2.0, 1.0]), np.array([1.5, 1.0, 3.0, 1.0]), 5.0, tolerance).accepted)
            for tolerance in (1e-6, 1e-6 / 32, 1e-6 / 1024)
        ]
    assert steps[1] / steps[0] == pytest.approx(2, rel=0.25)
    assert steps[2] / steps[1] == pytest.approx(2, rel=0.25)


def test_too_many_steps(monkeypatch):
    """A solution that was not reached has no derivative, and says so."""
    monkeypatch.setattr(adaptive_ode, "MOST_STEPS", 20)
    with jax.enable_x64(True), pytest.raises(ft.errors.ArgumentError, match="stopped by max_steps=20"):
        ft.grad(lambda c: solve(lambda y, c: c * y, fnp.ones(1), c, 20.0, 1e-10).y[0])(1.0)
