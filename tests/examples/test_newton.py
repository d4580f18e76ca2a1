"""Newton's method: every derivative is the closed form's, and the rows take steps of their own."""

import jax
import newton
import pytest
from newton import main

import functrace as ft


def test_every_derivative(capsys):
    checks = main([])
    for found in checks.values():
        assert len(found.errors) == 7
        for name, error in found.errors.items():
            assert error < 1e-13, name
        assert len(set(found.steps)) > 1
    out = capsys.readouterr().out
    for text in ("x^3 = a", "Kepler's equation", "x'' reverse over forward"):
        assert text in out


def test_start_at_the_solution():
    """One step, which knows the first derivative and not yet the second."""
    with jax.enable_x64(True):
        root = lambda a: newton.newton(lambda x, a: x**3 - a, 1.0, a)[0]
        assert float(ft.grad(root)(1.0)) == pytest.approx(1 / 3)
        assert float(ft.grad(ft.grad(root))(1.0)) == 0.0
