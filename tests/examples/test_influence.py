"""Influence: what is foretold of a digit is what training without it finds, and the training ends at a minimum."""

from pathlib import Path

import influence
import jax
import numpy as np
from influence import Problem, influences, main, train

import functrace as ft


def test_foretells(tmp_path: Path, capsys):
    run = main(["--quick", "--out", str(tmp_path)])
    assert run.slope < 1e-12
    assert run.correlation > 0.98
    assert (np.sign(run.foretold[:4]) == np.sign(run.found[:4])).all()
    assert len(run.influences) == 144
    assert len(run.chosen) >= 6
    assert (tmp_path / "influence.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert f"correlation {run.correlation:.4f}" in out
    assert f"digit {run.chosen[0]:4}" in out


def test_against_the_whole_hessian():
    """The same from the matrix H, in a problem of 30 weights; less weight is what leaving out begins with."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        labels = lambda n: rng.integers(0, influence.CLASSES, n).astype(np.int32)
        problem = Problem(rng.standard_normal((40, 2)), labels(40), rng.standard_normal((15, 2)), labels(15), 0.1)
        start = {"W": np.zeros((2, influence.CLASSES)), "b": np.zeros(influence.CLASSES)}
        flat = lambda p: np.concatenate([np.ravel(p["W"]), np.ravel(p["b"])])
        tree = lambda v: {"W": v[:20].reshape(2, 10), "b": v[20:]}
        params = train(problem, start, np.ones(40), 8)
        H = np.asarray(ft.hessian(lambda v: problem.objective(tree(v), np.ones(40)))(flat(params)))
        held_out = np.asarray(ft.grad(lambda v: problem.held_out(tree(v)))(flat(params)))
        losses = lambda v: influence.losses_of(tree(v), problem.images, problem.labels)
        each = np.asarray(ft.jacrev(losses)(flat(params)))
        expected = each @ np.linalg.solve(H, held_out) / 40
        np.testing.assert_allclose(influences(problem, params), expected, rtol=1e-6, atol=1e-9)
        less = np.ones(40)
        less[3] = 1 - 1e-3
        moved = problem.held_out(train(problem, params, less, 2)) - problem.held_out(params)
        np.testing.assert_allclose(moved / 1e-3, expected[3], rtol=1e-2)
