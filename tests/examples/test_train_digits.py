"""The main job: training on real digits, the explosion without clipping, and IDX files."""

import gzip
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = runpy.run_path(str(EXAMPLES / "train_digits.py"))
main = TRAIN["main"]
read_idx = sys.modules["idx"].read_idx


def idx_bytes(array):
    magic = 2051 if array.ndim == 3 else 2049
    header = magic.to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(("model", "epochs", "accuracy"), [("mlp", 30, 0.97), ("cnn", 10, 0.98)])
def test_trains(model, epochs, accuracy, tmp_path):
    result = main(["--model", model, "--epochs", str(epochs), "--out", str(tmp_path)])
    assert result["accuracy"] >= accuracy
    assert result["message"] is None
    assert result["history"][-1]["loss"] < 0.1 * result["history"][0]["loss"]
    assert result["figure"].read_bytes().startswith(b"\x89PNG")


def test_explodes_without_clipping(tmp_path, capsys):
    result = main(["--clip", "none", "--lr", "5", "--epochs", "3", "--out", str(tmp_path)])
    assert "the training exploded: at step" in result["message"]
    assert "exploded" in capsys.readouterr().out


def test_trains_on_idx_files(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 128), ("t10k", 32)):
        labels = rng.integers(0, 10, n)
        images = rng.integers(0, 256, (n, 28, 28))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    result = main(["--data", str(tmp_path), "--epochs", "1", "--out", str(tmp_path)])
    assert len(result["history"]) == 2


WHOLE = idx_bytes(np.ones((4, 3, 3)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE[:-5], r"47 bytes where its header, of shape \(4, 3, 3\), calls for 52"),
        (b"\x00\x00\x00\x07" + WHOLE[4:], r"not an IDX file of images or labels: its magic number is 7"),
        (gzip.compress(WHOLE)[:-9], r"gzip stream is damaged or cut short"),
    ],
)
def test_bad_idx_file(data, message, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


@pytest.mark.parametrize("arguments", [["--clip", "much"], ["--epochs", "0"], ["--data", "/nowhere"]])
def test_bad_arguments(arguments):
    with pytest.raises(SystemExit):
        main(arguments)
