"""Half precision: gradients vanish in float16 and loss scaling keeps them; a step that overflows changes nothing."""

import mixed_precision
import numpy as np
import pytest
from mixed_precision import SCALE, main, vanished

FREE, SCALED, BRAIN = "float16, no loss scaling", "float16, loss scaling", "bfloat16, weights too"


def test_loss_scaling(tmp_path, capsys):
    runs = main(["--only", FREE, SCALED, "--steps", "150", "--out", str(tmp_path)])
    free, scaled = runs[FREE], runs[SCALED]
    assert free.vanished[-20:].mean() > 0.1
    assert scaled.vanished[~scaled.skipped].max() < 0.02
    assert scaled.scales[0] == SCALE
    assert scaled.skipped[0]
    assert not free.skipped.any()
    for step in np.flatnonzero(scaled.skipped[:-1]):
        assert scaled.scales[step + 1] == scaled.scales[step] / 2
    assert np.isfinite(scaled.losses).all()
    assert scaled.losses[-20:].mean() < 0.3 * scaled.losses[0]
    assert scaled.accuracy > 0.9
    out = capsys.readouterr().out
    assert f"{SCALED}: step 0 overflowed at scale 2^37 and was left out; the scale went to 2^36" in out
    assert (tmp_path / "mixed_precision.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_small_steps_are_lost_in_bfloat16(tmp_path):
    """And kept beside a float32 copy, or by weights in float32."""
    runs = main(["--out", str(tmp_path)])
    last = {name: run.losses[-50:].mean() for name, run in runs.items()}
    for name in ("bfloat16, float32 weights", "bfloat16, and a float32 copy", SCALED):
        assert last[name] == pytest.approx(last["float32"], rel=0.15)
    for name in (BRAIN, FREE):
        assert last[name] > 1.25 * last["float32"]


def test_vanished():
    grads = {"a": np.array([0.0, 1.0, 0.0, 0.0]), "b": np.array([2.0])}
    exact = {"a": np.array([1e-9, 1.0, 0.0, 2e-9]), "b": np.array([2.0])}
    assert float(vanished(grads, exact)) == 0.5


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mixed_precision.find_spec", lambda name: None)
    assert not mixed_precision.draw({}, tmp_path / "figure.png")
