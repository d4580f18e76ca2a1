"""Teach a recurrent network to write as Python's documentation does, a character at a time.

    python examples/char_rnn.py                 # a GRU, 400 steps
    python examples/char_rnn.py --steps 3000    # better

The text is on every machine: docstrings of the standard library. The network is a scan over the characters, its
training a loop of jitted steps with clipping and Adam, and what it writes is a scan too, which draws each character.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim, random

Array = Any
PyTree = Any

MODULES = "argparse collections contextlib fractions functools heapq itertools json math pathlib pickle random re "
MODULES += "shutil statistics string subprocess tempfile textwrap threading"
HIDDEN, LENGTH, BATCH = 128, 48, 32


def library_text() -> str:
    """The docstrings of some modules and of what they offer, in ASCII; much the same in every version of Python."""
    texts: dict[str, None] = {}  # each once
    for name in MODULES.split():
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or sorted(n for n in vars(module) if not n.startswith("_"))
        for thing in [module, *[getattr(module, n) for n in public]]:
            parts = sorted(vars(thing).items()) if inspect.isclass(thing) else []
            for part in [thing, *[part for n, part in parts if not n.startswith("_")]]:
                if callable(part) or inspect.ismodule(part):
                    texts[inspect.getdoc(part) or ""] = None
    return "\n\n".join(texts).encode("ascii", "ignore").decode()


class Text(NamedTuple):
    """Characters as numbers i32[n]: most to train on, the last tenth held out; and which they are."""

    train: np.ndarray
    held_out: np.ndarray
    characters: str


def encode(text: str) -> Text:
    """The text as numbers of its characters."""
    characters = "".join(sorted(set(text)))
    numbers = np.array([characters.index(c) for c in text], np.int32)
    cut = len(numbers) * 9 // 10
    return Text(numbers[:cut], numbers[cut:], characters)


def unigram_bits(text: Text) -> float:
    """Bits for each character held out, to one who knows only how often each comes in the training text."""
    counts = np.bincount(text.train, minlength=len(text.characters)) + 1.0
    return float(-np.log2(counts / counts.sum())[text.held_out].mean())


# The network.


def init(key: Array, characters: int, hidden: int) -> PyTree:
    """Weights of a GRU that reads and writes characters."""
    read, remember, write = random.split(key, 3)
    glorot = nn.initializers.glorot_normal()
    return {
        "read": glorot(read, (characters, 3 * hidden)),
        "remember": nn.initializers.orthogonal()(remember, (hidden, 3 * hidden)),
        "bias": fnp.zeros(3 * hidden),
        "write": {"W": glorot(write, (hidden, characters)), "b": fnp.zeros(characters)},
    }


def gru(params: PyTree, h: Array, c: Array) -> Array:
    """The state f[hidden] after a character. Reference: Cho et al. (2014)."""
    from_c = fnp.split(fnp.take(params["read"], c, axis=0) + params["bias"], 3)
    from_h = fnp.split(h @ params["remember"], 3)
    update, reset = nn.sigmoid(from_c[0] + from_h[0]), nn.sigmoid(from_c[1] + from_h[1])
    new = fnp.tanh(from_c[2] + reset * from_h[2])
    return update * h + (1 - update) * new


def logits(params: PyTree, h: Array) -> Array:
    """What comes next: f[characters]."""
    return h @ params["write"]["W"] + params["write"]["b"]


def start(params: PyTree) -> Array:
    """The state before the first character."""
    return fnp.zeros(params["remember"].shape[0])


def bits(params: PyTree, characters: Array) -> Array:
    """Bits that each character of i[n + 1] costs after those before it; all but the first: f[n]."""

    def step(h: Array, c: Array) -> tuple[Array, Array]:
        h = gru(params, h, c)
        return h, logits(params, h)

    _, scores = lax.scan(step, start(params), characters[:-1])
    return nn.softmax_cross_entropy_with_integer_labels(scores, characters[1:]) / np.log(2)


def write(params: PyTree, key: Array, first: Array, length: int) -> Array:
    """Characters i32[length] that the network draws, each after those before it."""

    def step(carry: Any, key: Array) -> Any:
        h, c = carry
        h = gru(params, h, c)
        c = random.categorical(key, logits(params, h) / 0.7).astype(fnp.int32)
        return (h, c), c

    return lax.scan(step, (start(params), first), random.split(key, length))[1]


# Training.


def make_train_step(optimizer: optim.Transformation) -> Callable[..., Any]:
    """The pure function `train_step(params, state, windows) -> (params, state, loss)`; windows are i[b, n + 1]."""

    def loss_of(params: PyTree, windows: Array) -> Array:
        return ft.vmap(lambda window: bits(params, window))(windows).mean()

    def train_step(params: PyTree, state: PyTree, windows: Array) -> Any:
        loss, grads = ft.value_and_grad(loss_of)(params, windows)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, loss

    return ft.jit(train_step)


def windows(numbers: np.ndarray, steps: int, seed: int) -> Iterator[np.ndarray]:
    """For each step, some pieces of the text: i32[BATCH, LENGTH + 1]."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        first = rng.integers(0, len(numbers) - LENGTH, BATCH)
        yield numbers[first[:, None] + np.arange(LENGTH + 1)]


class Run(NamedTuple):
    """Bits for each character held out, by a unigram model and by the network; its losses; and what it wrote."""

    unigram: float
    before: float
    after: float
    losses: np.ndarray
    written: str


def train(text: Text, steps: int, seed: int) -> Run:
    """Train, test on the text held out, and write."""
    key, writing = random.split(random.key(seed))
    params = init(key, len(text.characters), HIDDEN)
    schedule = optim.warmup_cosine_decay_schedule(0.0, 5e-3, max(1, steps // 20), steps + 1)
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(schedule))
    state, train_step = optimizer.init(params), make_train_step(optimizer)
    held_out = ft.jit(lambda params: bits(params, text.held_out).mean())
    before, losses = float(held_out(params)), []
    for batch in windows(text.train, steps, seed):
        params, state, loss = train_step(params, state, batch)
        losses.append(loss)
    first = fnp.int32(text.characters.index("\n"))
    written = "".join(text.characters[c] for c in ft.jit(write, static_argnums=3)(params, writing, first, 300))
    return Run(unigram_bits(text), before, float(held_out(params)), np.array(losses), written)


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train as the command line says, and print the bits and a sample."""
    parser = argparse.ArgumentParser(
        prog="char_rnn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    text = encode(library_text())
    print(f"{len(text.train):,} characters to train on, {len(text.held_out):,} held out, {len(text.characters)} kinds")
    run = train(text, options.steps, options.seed)
    print(f"bits a character held out: unigram {run.unigram:.2f}, untrained {run.before:.2f}, trained {run.after:.2f}")
    print(run.written)
    return run


if __name__ == "__main__":
    main()
