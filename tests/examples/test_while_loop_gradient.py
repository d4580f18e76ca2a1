"""The bouncing ball: derivatives are the closed form's, each throw has its own bounces, and aiming hits."""

import jax
import numpy as np
import pytest
from while_loop_gradient import closed_form, complex_step, main, throw, throw_at

import functrace as ft


def test_aims(tmp_path, capsys):
    run = main(["--throws", "6", "--out", str(tmp_path)])
    exact = run.jacobians["closed form"]
    for mode in ("reverse mode", "forward mode"):
        np.testing.assert_allclose(run.jacobians[mode], exact, rtol=1e-12, atol=1e-12)
    assert len(set(run.aimed.bounces_before.tolist())) > 1
    assert len(set(run.aimed.bounces.tolist())) > 1
    assert (run.aimed.bounces != run.aimed.bounces_before).any()  # some went through a kink on their way
    assert (run.aimed.missed < 1e-2).sum() >= 2
    assert run.aimed.missed.max() < 0.5
    np.testing.assert_array_equal(run.aimed.after[:, 2], run.aimed.before[:, 2])
    assert (tmp_path / "while_loop_gradient.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for text in (*run.jacobians, "misses by", "restitution"):
        assert text in out


@pytest.mark.parametrize("params", [[4.0, 3.0, 0.8], [1.0, 12.0, 0.95], [2.0, -3.0, 0.8]])
def test_against_the_closed_form(params):
    """Under jit and vmap too, where rows take other numbers of turns."""
    with jax.enable_x64(True):
        both = np.array([params, [3.0, 1.0, 0.9]])
        places, bounces = ft.jit(ft.vmap(throw))(both)
        jacobians = ft.jit(ft.vmap(ft.jacrev(lambda p: throw(p)[0])))(both)
    assert int(bounces[0]) != int(bounces[1])
    for row, place, jacobian, n in zip(both, places, jacobians, bounces, strict=True):
        np.testing.assert_allclose(place, closed_form(row, int(n)), rtol=1e-12)
        expected = complex_step(lambda p, n=int(n): closed_form(p, n), row)
        np.testing.assert_allclose(jacobian, expected, rtol=1e-11, atol=1e-11)


def test_first_flight():
    with jax.enable_x64(True):
        np.testing.assert_allclose(throw_at(np.array([2.0, 3.0, 0.8]), 0.5), [1.0, 1.5 + 1.5 - 9.81 / 8])


def test_too_many_bounces():
    """A ball that has come to rest bounces without end: no derivative, and no silence about it."""
    with jax.enable_x64(True), pytest.raises(ft.errors.ArgumentError, match="stopped by max_steps=1000"):
        ft.grad(lambda p: throw(p)[0].sum())(np.array([1.0, 0.0, 0.5]))


def test_bell_below_the_ground():
    with pytest.raises(SystemExit, match="the bell is 1 m below the ground"):
        main(["--target", "3", "-1"])
