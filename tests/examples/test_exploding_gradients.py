"""The network explodes, and the table says which remedies saved it."""

import sys

import numpy as np
import pytest
from exploding_gradients import TREATMENTS, Run, main

DIVERGE = {"no remedy", "leaky ReLU", "PReLU", "exponential decay", "cosine decay"}


def test_clipping_saves_it_and_a_decay_does_not(tmp_path, capsys):
    chosen = ["cosine decay", "clip by global norm"]
    runs = main(["--only", *chosen, "--steps", "150", "--out", str(tmp_path / "new")])
    assert list(runs) == ["no remedy", *chosen]
    for name in ("no remedy", "cosine decay"):
        assert runs[name].outcome == "diverged"
        assert runs[name].diverged < 20
    clipped, exploded = runs["clip by global norm"], runs["no remedy"]
    assert clipped.losses[0] == exploded.losses[0] > 20
    assert clipped.norms[0] == exploded.norms[0] > 100  # the norm is of the gradient before clipping
    assert clipped.losses[-20:].mean() < 2
    out = capsys.readouterr().out
    assert "diverged: no remedy, cosine decay\n" in out
    assert "needs a warm-up" in out
    figure = tmp_path / "new" / "exploding_gradients.png"
    assert f"figure: {figure}" in out
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_remedy(tmp_path):
    runs = main(["--out", str(tmp_path)])
    assert list(runs) == list(TREATMENTS)
    assert {name for name, run in runs.items() if run.outcome == "diverged"} == DIVERGE
    assert {name for name, run in runs.items() if run.outcome == "learned"} == set(TREATMENTS) - DIVERGE


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (Run(np.array([1.0, 0.1]), np.array([1.0, 1.0]), 0.95), "learned, 95.0%"),
        (Run(np.array([1.0, 0.9]), np.array([1.0, 1.0]), 0.4), "stalled, 40.0%"),
        (Run(np.array([1.0, np.nan]), np.array([1.0, 1.0]), 0.95), "diverged at step 2"),
        (Run(np.array([1.0, 1.0]), np.array([np.inf, 1.0]), 0.95), "diverged at step 1"),
    ],
)
def test_outcomes(run, text):
    assert str(run) == text


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("exploding_gradients.find_spec", lambda name: None)
    main(["--only", "no remedy", "--steps", "5", "--depth", "2", "--out", str(tmp_path)])
    assert "figure: not drawn, for want of matplotlib" in capsys.readouterr().out


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match=r"exploding_gradients: scikit-learn.*not installed"):
        main([])
