"""The transformer learns from the repository's text, writes, and resumes to the same bits."""

import char_transformer
import jax
import numpy as np
import pytest
from char_rnn import encode
from char_transformer import (
    PROMPTS,
    begin,
    main,
    make_optimizer,
    make_train_step,
    model_of,
    parse,
    repository_text,
    train,
)

from functrace import io

SMALL = ["--features", "16", "--layers", "1"]


def test_learns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(char_transformer, "WRITTEN", 20)
    run = main([*SMALL, "--steps", "60", "--lr", "0.02", "--out", str(tmp_path / "new")])
    assert run.before > 6
    assert run.after < run.unigram - 0.2
    assert run.losses[-10:].mean() < run.losses[:10].mean() - 1
    assert [sample[:4] for sample in run.written] == list(PROMPTS)
    assert {len(sample) for sample in run.written} == {24}
    out = capsys.readouterr().out
    assert run.written[0] in out
    assert "step 60 saved" in out


def test_text():
    text = repository_text()
    assert text.isascii()
    assert "# functrace" in text
    assert "def value_and_grad(" in text


def test_a_resumed_run_has_the_same_bits(tmp_path):
    text = encode("to be or not to be, that is the question.\n" * 40)
    options, path = parse([*SMALL, "--steps", "6"]), tmp_path / "run.safetensors"
    model = model_of(text, options)
    train_step, first = make_train_step(model, make_optimizer(options)), begin(model, options, path)
    whole, losses = train(train_step, text, 0, tmp_path / "whole.safetensors", first, 6)
    train(train_step, text, 0, path, first, 3)
    options.resume = True
    position = begin(model, options, path)
    assert position.step == 3
    resumed, last_losses = train(train_step, text, 0, path, position, 6)
    np.testing.assert_array_equal(last_losses, losses[3:])
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(SystemExit, match=r"char_transformer: .*no such file"):
        main([*SMALL, "--resume", "--out", str(tmp_path)])


def test_another_run_in_the_file(tmp_path):
    io.save(tmp_path / "char_transformer.safetensors", {"W": np.ones(3)})
    with pytest.raises(SystemExit, match=r"char_transformer: .*does not have the structure"):
        main([*SMALL, "--resume", "--out", str(tmp_path)])
