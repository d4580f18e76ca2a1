"""The energy of helium: near the exact one after a short run, by a local energy that is right at each point."""

import jax
import numpy as np
import pytest
from helium_vmc import EXACT, HARTREE_FOCK, distances, initial, local_energy, log_psi, main

import functrace as ft


def test_a_short_run_is_below_hartree_fock(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "helium.png"
    run = main(["--steps", "60", "--walkers", "256", "--measurements", "40", "--figure", str(figure)])
    assert EXACT - 0.02 < run.energy < HARTREE_FOCK
    assert run.energy == pytest.approx(EXACT, abs=0.02)
    assert run.deviations[-10:].mean() < run.deviations[0]
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert f"energy   {run.energy:.4f} +- {run.error:.4f} hartree" in capsys.readouterr().out


def test_local_energy_is_that_of_the_hessian():
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, initial(1))
        x = np.random.default_rng(0).normal(size=(2, 3))
        gradient = np.asarray(ft.grad(log_psi, 1)(params, x)).ravel()
        hessian = np.asarray(ft.hessian(log_psi, 1)(params, x)).reshape(6, 6)
        r1, r2, r12 = map(float, distances(x))
        expected = -0.5 * (np.trace(hessian) + gradient @ gradient) - 2 / r1 - 2 / r2 + 1 / r12
        np.testing.assert_allclose(local_energy(params, x), expected, rtol=1e-10)
        np.testing.assert_allclose(log_psi(params, x), log_psi(params, x[::-1]), rtol=1e-12)


def test_cusps_leave_the_local_energy_finite():
    """What diverges in the potential is cancelled where electrons meet, and at the nucleus."""
    params = jax.tree.map(np.float32, initial(1))
    meeting = np.float32([[0.5, 0.5, 0.0], [0.5, 0.501, 0.0]])
    assert abs(float(local_energy(params, meeting))) < 20  # of 1 / r12 = 1000
    at_nucleus = np.float32([[0.001, 0.0, 0.0], [0.0, 0.8, 0.0]])
    assert abs(float(local_energy(params, at_nucleus))) < 20  # of -2 / r1 = -2000


def test_refuses_what_it_cannot_do(capsys):
    with pytest.raises(SystemExit):
        main(["--measurements", "1"])
    assert "--measurements at least 2" in capsys.readouterr().err
