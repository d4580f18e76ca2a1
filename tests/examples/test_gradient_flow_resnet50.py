"""The report on a network for photographs: healthy as it is, and where it was spoilt it says so."""

import sys

import gradient_flow_resnet50
import numpy as np
import pytest
from gradient_flow_resnet50 import main, photographs, spoilt

from functrace import nn

pytest.importorskip("PIL")


def tiny():
    """A network with one spoilable part."""
    stem = nn.sequential(nn.conv(3, 8, (3, 3), strides=2), nn.batch_norm(8), nn.relu, name="stem")
    return nn.sequential(stem, nn.global_avg_pool, nn.dense(8, 10, name="head"), name="tiny")


@pytest.fixture
def with_tiny(monkeypatch):
    monkeypatch.setitem(gradient_flow_resnet50.MODELS, "tiny", tiny)


def test_healthy(with_tiny, tmp_path, capsys):
    flow = main(["--model", "tiny", "--size", "32", "--out", str(tmp_path / "new")])
    assert flow.verdict == "healthy"
    assert {"tiny/stem", "tiny/head"} <= {row.name for row in flow.rows}
    figure = tmp_path / "new" / "gradient_flow_tiny.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for text in ("on images of 32 by 32", "tiny/stem ", "healthy: the gradient reaches every part", str(figure)):
        assert text in out
    assert "batch_norm" not in out


def test_spoilt(with_tiny, tmp_path, capsys):
    flow = main(["--model", "tiny", "--size", "32", "--spoil", "stem", "--all", "--out", str(tmp_path)])
    assert flow.verdict == "dead"
    assert flow.begins.startswith("tiny/stem")
    out = capsys.readouterr().out
    assert "dead: scope tiny/stem" in out
    assert "tiny/stem/batch_norm" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "begins"),
    [
        (["--model", "resnet50"], None),
        (["--model", "resnet18", "--size", "32", "--spoil", "stage_2"], "resnet18/stage_2/block_0"),
    ],
    ids=["resnet50", "spoilt"],
)
def test_resnets(flags, begins, tmp_path):
    flow = main([*flags, "--out", str(tmp_path)])
    if begins is None:
        assert flow.verdict == "healthy"
        assert len(flow.rows) > 250
    else:
        assert flow.verdict == "dead"
        assert flow.begins.startswith(begins)


def test_photographs():
    images = photographs(48)
    assert images.shape == (4, 48, 48, 3)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[2:], images[:2, :, ::-1])
    assert -2.2 < images.min() < -1  # black is at -2.1
    assert 1 < images.max() < 2.7


def test_only_that_part_is_spoilt():
    params = {"stem": {"norm": {"scale": 1.0, "bias": 0.0}}, "head": {"kernel": 1.0, "bias": 0.0}}
    assert spoilt(params, "stem") == {**params, "stem": {"norm": {"scale": 1.0, "bias": -100.0}}}


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SystemExit, match=r"gradient_flow_resnet50: scikit-learn.* and pillow.*pip install"):
        main([])
