"""The Taylor integrator: the orbit closes, coefficients are shared, and the solution has its derivative."""

import math

import jax
import numpy as np
from taylor_ode import START, coefficients, main, satellite, solve

import functrace as ft
from functrace import numpy as fnp


def test_orbit_closes(tmp_path, capsys):
    (run,) = main(["--orders", "12", "--tolerances", "1e-10", "--most", "250", "--out", str(tmp_path)])
    assert run.whole
    assert 100 < run.steps < 250
    assert run.error < 1e-8
    assert (tmp_path / "taylor_ode.png").stat().st_size > 10_000
    assert "order 12, tolerance 1e-10" in capsys.readouterr().out


def test_stopped_early(tmp_path, capsys):
    (run,) = main(["--orders", "4", "--tolerances", "1e-9", "--most", "20", "--out", str(tmp_path)])
    assert not run.whole
    assert "stopped before the end" in capsys.readouterr().out


def test_jets_of_all_orders_share():
    """One Program with the jets of order 1 to 12 is hardly longer than that of order 12 alone."""
    with jax.enable_x64(True):
        y = np.array(START)
        c = list(coefficients(satellite, y, 12))
        size = lambda f, *xs: len(ft.make_program(f)(*xs).equations)
        last = size(lambda y, *c: ft.jet(satellite, (y,), (list(c),), factorial_scaled=False), y, *c[1:12])
        assert size(lambda y: coefficients(satellite, y, 12), y) < 1.05 * last


def test_exponential():
    """y' = c y: its coefficients, its end, and the derivatives of that are known."""
    with jax.enable_x64(True):
        found = coefficients(lambda y: 2.0 * y, np.ones(1), 10)[:, 0]
        np.testing.assert_allclose(found, [2.0**k / math.factorial(k) for k in range(11)], rtol=1e-14)
        end = lambda c: solve(lambda y: c * y, fnp.ones(1), 2.0, 8, 1e-12, 60).end[0]
        assert abs(float(end(0.7)) - math.exp(1.4)) < 1e-11
        assert abs(float(ft.grad(end)(0.7)) - 2 * math.exp(1.4)) < 1e-10
