"""Derivatives of one's own: finite where the formula's is not, let through where it is zero, bounded where it grows."""

import math

import custom_gradient
import jax
import numpy as np
import pytest
from custom_gradient import LEVELS, clip_cotangent, log1pexp, main, rounded, straight_through

import functrace as ft
from functrace import numpy as fnp


def test_claims(capsys):
    run = main(["--steps", "150"])
    assert math.isnan(run.naive[-1])
    np.testing.assert_allclose(run.stable, 1 / (1 + np.exp(-np.clip(run.points, -80, 80))), rtol=1e-6, atol=1e-30)
    assert run.accuracies["straight through"] > 0.9
    assert run.accuracies["rounded"] < 0.3
    (short, _), (free, clipped) = run.norms[10], run.norms[300]
    assert run.norms[10] == (short, short)  # nothing to clip
    assert free > 1e8
    assert clipped <= custom_gradient.MOST * (1 + 1e-5)
    out = capsys.readouterr().out
    for text in ("with a rule", "nan", "straight through", "unclipped"):
        assert text in out


def test_log1pexp_in_every_mode():
    with jax.enable_x64(True):
        x = np.array([-3.0, 0.0, 2.0])
        slope = 1 / (1 + np.exp(-x))
        np.testing.assert_allclose(log1pexp(x), np.log1p(np.exp(x)))
        np.testing.assert_allclose(ft.vmap(ft.grad(log1pexp))(x), slope)
        np.testing.assert_allclose(np.diag(ft.jacfwd(log1pexp)(x)), slope)
        np.testing.assert_allclose(ft.vmap(ft.hessian(log1pexp))(x), slope * (1 - slope))


def test_rounding():
    x = np.array([-2.0, -0.6, 0.3, 0.8], np.float32)
    assert rounded(x).tolist() == straight_through(x).tolist() == [-1.0, -0.5, 0.5, 1.0]
    assert ft.vmap(ft.grad(straight_through))(x).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert ft.vmap(ft.grad(rounded))(x).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert LEVELS == 2


@pytest.mark.parametrize(("most", "expected"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_clip_cotangent(most, expected):
    ct = np.array([3.0, 4.0], np.float32)
    found = ft.grad(lambda x: (clip_cotangent(x, most) * ct).sum())(fnp.ones(2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
