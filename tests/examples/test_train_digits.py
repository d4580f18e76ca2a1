"""The main job: it learns, it shows the explosion without clipping, and it refuses bad input."""

import math
import sys

import numpy as np
import pytest
from train_digits import MODELS, find_explosion, main

import functrace as ft
from functrace import numpy as fnp, random
from tests.idx_files import write_mnist

ROWS = {"loss", "accuracy", "gradient norm", "clipped"}


@pytest.mark.parametrize("model", MODELS)
def test_two_epochs(model, tmp_path, capsys):
    run = main(["--model", model, "--epochs", "2", "--out", str(tmp_path)])
    first, second = run.epochs
    assert second["loss"] < 0.6 * first["loss"]
    assert second["accuracy"] > first["accuracy"]
    assert set(run.steps[0]) == ROWS
    assert len(run.steps) == 2 * (1437 // 64)
    assert 0 < first["clipped"] <= 1
    assert run.explosion is None
    at_first = ft.tree.leaves(MODELS[model](8, 8).init(random.key(0))[1])
    statistics = ft.tree.leaves(run.position.statistics)
    assert len(statistics) == {"mlp": 0, "cnn": 4}[model]
    assert all((np.asarray(new) != old).all() for new, old in zip(statistics, at_first, strict=True))
    assert run.figure == tmp_path / f"train_digits_{model}.png"
    assert run.figure.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for text in ("gradient norm", "clipped", "loss", "held-out images", str(run.figure)):
        assert text in out


@pytest.mark.parametrize(("model", "accuracy"), [("mlp", 0.97), ("cnn", 0.98)])
def test_accuracy(model, accuracy, tmp_path):
    run = main(["--model", model, "--out", str(tmp_path), "--quiet"])
    assert run.accuracy >= accuracy
    assert run.epochs[-1]["loss"] < 0.02


def test_same_seed_same_run(tmp_path):
    first, again, other = (
        main(["--epochs", "1", "--seed", seed, "--out", str(tmp_path), "--quiet"]) for seed in "001"
    )
    assert first.steps == again.steps
    assert first.steps != other.steps


def test_explosion_that_clipping_prevents(tmp_path, capsys):
    flags = ["--clip", "none", "--lr", "5", "--epochs", "10", "--quiet"]
    run = main([*flags, "--out", str(tmp_path)])
    step, what = run.explosion
    out = capsys.readouterr().out
    assert f"EXPLODED at step {step}: {what}" in out
    assert "The same run with --clip 1, the default:\nIt does not explode" in out
    assert "Clipping prevented it" in out
    assert run.figure.exists()


def test_explosion_that_clipping_does_not_prevent(tmp_path, capsys):
    flags = ["--lr", "5", "--optimizer", "adamw", "--epochs", "2", "--quiet", "--out"]
    assert main(["--clip", "none", *flags, str(tmp_path)]).explosion
    assert "It explodes too, at step" in capsys.readouterr().out
    assert main([*flags, str(tmp_path)]).explosion
    assert "try a lower --lr" in capsys.readouterr().out


def test_not_finite_ends_the_run(tmp_path, capsys):
    flags = ["--optimizer", "sgd", "--lr", "1e30", "--clip", "none", "--epochs", "5", "--quiet"]
    run = main([*flags, "--out", str(tmp_path)])
    assert len(run.epochs) == 1
    assert run.figure.exists()
    assert "EXPLODED at step" in capsys.readouterr().out


def test_find_explosion():
    calm = {"loss": 2.0, "gradient norm": 3.0}
    assert find_explosion([calm, calm]) is None
    assert find_explosion([calm, {**calm, "loss": math.nan}]) == (
        1, "the loss is nan (at step 0 it was 2)",
    )  # fmt: skip
    step, what = find_explosion([calm, calm, {**calm, "gradient norm": 1e9}])
    assert (step, what) == (2, "the gradient norm is 1e+09 (at step 0 it was 3)")


@pytest.mark.parametrize("name", MODELS)
def test_models_are_pure(name):
    """Applied twice, and under vmap over two sets of parameters, they give the same; an odd row is left out."""
    model = MODELS[name](9, 8)
    params, state = model.init(random.key(0))
    images = random.uniform(random.key(1), (5, 9, 8, 1))
    of = lambda params: model.apply(params, state, images, training=True)[0]
    logits = of(params)
    assert logits.shape == (5, 10)
    np.testing.assert_array_equal(logits, of(params))
    together = ft.vmap(of)(ft.tree.map(lambda x: fnp.stack([x, x]), params))
    np.testing.assert_allclose(together[1], logits, rtol=2e-4, atol=2e-4)


def test_mnist(tmp_path, capsys):
    write_mnist(tmp_path, train=200, test=20)
    run = main(["--data", str(tmp_path), "--epochs", "1", "--out", str(tmp_path / "new" / "out")])
    assert len(run.steps) == 3
    assert run.figure.exists()
    assert "of 20 held-out images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--clip much", "argument --clip: 'much' is not a positive number, nor the word none"),
        ("--clip -1", "argument --clip: '-1' is not a positive number"),
        ("--clip inf", "argument --clip: 'inf' is not a positive number"),
        ("--lr 0", "argument --lr: '0' is not a positive number"),
        ("--lr nan", "argument --lr: 'nan' is not a positive number"),
        ("--epochs 0", "argument --epochs: '0' is not a whole number of at least 1"),
        ("--epochs 1.5", "argument --epochs: '1.5' is not a whole number"),
        ("--batch-size -3", "argument --batch-size: '-3' is not a whole number"),
        ("--seed -1", "argument --seed: -1 is negative"),
        ("--seed x", "argument --seed: invalid int value: 'x'"),
        ("--model rnn", "argument --model: invalid choice: 'rnn'"),
    ],
)
def test_bad_flags(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(flags.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data /nowhere", "train_digits: /nowhere: no such folder."),
        ("--batch-size 5000", "--batch-size is 5000; there are 1437 training images."),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(SystemExit, match=message):
        main(flags.split())


def test_out_is_not_a_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit, match=r"train_digits: --out .*/out: File exists"):
        main(["--out", str(tmp_path / "out")])


def test_images_too_small(tmp_path):
    write_mnist(tmp_path, train=64, test=4, size=3)
    with pytest.raises(SystemExit, match=r"images of \(3, 3\); 4 by 4 is the least"):
        main(["--data", str(tmp_path)])


def test_without_the_extras(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("report.find_spec", lambda name: None)
    run = main(["--epochs", "1", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert run.figure is None
    assert "rich is not installed: no progress bar. pip install 'functrace[examples]'" in out
    assert "curves: not drawn, for want of matplotlib" in out
    assert "gradient norm" in out
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match=r"scikit-learn.*not installed: pip install"):
        main([])
