"""Networks that solve equations: the residuals are those of the equations, and training brings them down."""

from pathlib import Path

import jax
import numpy as np
import pinn
from pinn import PERIOD, beam, beam_residuals, deflection, derivatives, flame, flame_residual, main, spectral

import functrace as ft
from functrace import numpy as fnp, random


def test_quick(tmp_path: Path, capsys):
    runs = main(["--quick", "--out", str(tmp_path)])
    assert runs["beam"].error < 2e-2
    assert runs["beam"].losses[-1] < 1e-3 * runs["beam"].losses[0]
    assert runs["flame"].error < 0.6
    assert runs["flame"].losses[-1] < 1e-2 * runs["flame"].losses[0]
    assert (tmp_path / "pinn.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert f"error {runs['beam'].error:.1e} of the solution" in out
    assert "flame: residual" in out


def test_residuals_of_known_functions():
    """Of the beam's own solution there is nothing left; of a travelling wave, what is worked out by hand."""
    with jax.enable_x64(True):
        for x in (0.0, 0.3, 1.0):
            np.testing.assert_allclose(beam_residuals(deflection, np.float64(x)), 0, atol=1e-12)
        np.testing.assert_allclose(beam_residuals(lambda x: x**4 / 12, np.float64(0.5)), [1, 1, 2])
        k, t, x = 2 * np.pi / PERIOD, np.float64(0.7), np.float64(2.1)
        sine, cosine = np.sin(k * x - t), np.cos(k * x - t)
        expected = -2 * cosine + 4 * k * sine * cosine + 2 * (k**4 - k**2) * sine
        found = flame_residual(lambda t, x: 2 * fnp.sin(k * x - t), t, x)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_is_built_in():
    """The clamped end, the first moment, the period."""
    with jax.enable_x64(True):
        problem = beam(4, 5)
        params = ft.tree.map(lambda p: p + 0.1, problem.network.init(random.key(0)))
        values = derivatives(lambda x: problem.solution(params, x), np.float64(0.0), 2)
        assert values[0] == 0
        assert values[1] == 0
        assert values[2] != 0
        problem = flame(4, 5)
        params = problem.network.init(random.key(0))
        u = lambda t, x: float(problem.solution(params, np.float64(t), np.float64(x)))
        np.testing.assert_allclose(u(0, 1.3), pinn.first_moment(1.3, np))
        np.testing.assert_allclose(u(0.8, 1.3), u(0.8, 1.3 + PERIOD))
        assert u(0.8, 1.3) != u(0, 1.3)


def test_references():
    """The spectral method does not depend on its steps and modes; the deflection is the beam's."""
    _, x, u = spectral(5)
    _, x_fine, u_fine = spectral(5, modes=128, steps_each=500)
    np.testing.assert_allclose(x_fine[::2], x)
    np.testing.assert_allclose(u_fine[:, ::2], u, atol=1e-7)
    with jax.enable_x64(True):
        values = derivatives(deflection, np.float64(1.0), 4)
        np.testing.assert_allclose(values, [1 / 8, 1 / 6, 0, 0, 1], atol=1e-12)
        assert float(ft.grad(deflection)(np.float64(0.0))) == 0
