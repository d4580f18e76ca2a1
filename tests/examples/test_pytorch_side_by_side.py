"""PyTorch and functrace, given the same, do the same."""

import sys

import numpy as np
import pytest
from pytorch_side_by_side import Settings, main, train_pytorch


@pytest.mark.parametrize("clip", ["1", "none"])
def test_losses_are_equal(clip, capsys):
    pytest.importorskip("torch")
    run = main(["--clip", clip])
    assert len(run.pytorch.losses) == len(run.functrace.losses) == 200
    assert run.difference < 1e-5
    assert np.any(run.functrace.norms > 1)  # there was something to clip
    np.testing.assert_allclose(run.functrace.norms, run.pytorch.norms, rtol=1e-3)
    assert run.functrace.losses[-20:].mean() < 0.1 * run.functrace.losses[0]
    out = capsys.readouterr().out
    assert (" clipped" in out) == (clip == "1")
    assert f"in 200 steps: {run.difference:.1e}" in out


def test_another_momentum_is_another_run():
    """The agreement is not for want of sensitivity."""
    pytest.importorskip("torch")
    run, other = (main(["--steps", "30", "--momentum", momentum]) for momentum in ("0.9", "0.89"))
    assert abs(run.pytorch.losses - other.functrace.losses).max() > 1e-3


def test_without_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"PyTorch.*is not installed: pip install torch"):
        train_pytorch([], [], Settings(0.1, 0.9, None))
