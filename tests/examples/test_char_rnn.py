"""The recurrent network: it learns more than how often each character comes, and its scan is the recurrence."""

from itertools import pairwise

import char_rnn
import numpy as np
import pytest
from char_rnn import bits, encode, gru, init, library_text, logits, main, unigram_bits, write

import functrace as ft
from functrace import random


def test_learns(capsys):
    run = main(["--steps", "200"])
    characters = 2**run.before
    assert 60 < characters < 130  # at first it knows no more than how many kinds there are
    assert run.after < run.unigram - 0.8
    assert run.losses[-20:].mean() < run.losses[:20].mean() - 1.0
    assert len(run.written) == 300
    out = capsys.readouterr().out
    assert f"unigram {run.unigram:.2f}" in out
    assert run.written in out


def test_same_seed_same_run():
    text = encode("to be or not to be, that is the question.\n" * 20)
    first, again = (char_rnn.train(text, 5, seed=0) for _ in range(2))
    assert first.losses.tolist() == again.losses.tolist()
    assert first.written == again.written
    first, other = (next(char_rnn.windows(text.train, 1, seed)) for seed in (0, 1))
    assert (first != other).any()


def test_text():
    text = library_text()
    assert text.isascii()
    assert text == library_text()
    assert 50_000 < len(text) < 300_000
    numbers = encode(text)
    assert "".join(numbers.characters[c] for c in [*numbers.train, *numbers.held_out]) == text


def test_unigram_bits():
    assert unigram_bits(encode("ab" * 100)) == pytest.approx(1.0, rel=0.01)


def test_scan_is_the_recurrence():
    """Values, and the gradient against that of a Python loop."""
    params = init(random.key(0), 5, 4)
    text = np.array([0, 3, 1, 4, 2, 2, 0], np.int32)

    def unrolled(params):
        h, costs = char_rnn.start(params), []
        for now, after in pairwise(text):
            h = gru(params, h, now)
            costs.append(-ft.nn.log_softmax(logits(params, h))[after] / np.log(2))
        return ft.numpy.stack(costs)

    np.testing.assert_allclose(bits(params, text), unrolled(params), rtol=1e-5)
    ours = ft.grad(lambda p: bits(p, text).sum())(params)
    expected = ft.grad(lambda p: unrolled(p).sum())(params)
    for a, b in zip(ft.tree.leaves(ours), ft.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_writes_what_it_has_learned():
    """Of a text with one way to go on, the network writes that."""
    text = encode("abcd" * 200)
    params = init(random.key(1), 4, 16)
    optimizer = ft.optim.adam(0.02)
    state, step = optimizer.init(params), char_rnn.make_train_step(optimizer)
    for batch in char_rnn.windows(text.train, 60, 0):
        params, state, _ = step(params, state, batch)
    written = np.asarray(write(params, random.key(2), np.int32(0), 8))
    assert written.tolist() == [1, 2, 3, 0, 1, 2, 3, 0]
