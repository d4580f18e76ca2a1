"""Teach a transformer to write as this repository does, a character at a time.

    python examples/char_transformer.py                          # 300 steps, then what it writes
    python examples/char_transformer.py --steps 3000             # better
    python examples/char_transformer.py --steps 3000 --resume    # go on where the file of an earlier run stopped

It reads functrace's own pages and source. All of a run is in one file, out/char_transformer.safetensors: weights, the
optimizer's state and the number of the step, saved as it goes. A run that was stopped and resumed has the same bits as
one that was not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from char_rnn import Text, encode, unigram_bits
from train_digits import count, positive

import functrace as ft
from functrace import io, nn, optim, random

Array = Any
PyTree = Any

ROOT = Path(__file__).parents[1]
LENGTH, BATCH, SAVED_EVERY, WRITTEN = 64, 32, 100, 160
PROMPTS = ("def ", "The ", "grad")  # of one length


def repository_text() -> str:
    """The pages and the source of functrace, in ASCII, one after the other."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("functrace/**/*.py"))]
    return "\n\n".join(page.read_text() for page in pages).encode("ascii", "ignore").decode()


def windows(numbers: np.ndarray, seed: int, step: int) -> np.ndarray:
    """The pieces of the text for a step, i32[BATCH, LENGTH + 1]: they follow from its number, so a run can resume."""
    first = np.random.default_rng([seed, step]).integers(0, len(numbers) - LENGTH, BATCH)
    return numbers[first[:, None] + np.arange(LENGTH + 1)]


class Position(NamedTuple):
    """All that a run is: what `save` writes and `load` reads."""

    params: PyTree
    state: PyTree
    step: int


class Run(NamedTuple):
    """Bits for each held-out character, to a unigram model and to this; the losses, in bits; and what it wrote."""

    unigram: float
    before: float
    after: float
    losses: np.ndarray
    written: list[str]
    position: Position


def bits(model: nn.SequenceLayer, params: PyTree, windows: Array) -> Array:
    """What each character costs after those before it in its window i[b, n + 1], the first apart: f[b, n]."""
    logits = model.apply(params, windows[:, :-1])
    return nn.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]) / np.log(2)


def make_train_step(model: nn.SequenceLayer, optimizer: optim.Transformation) -> Callable[..., Any]:
    """The pure function `train_step(params, state, windows) -> (params, state, loss)`."""

    def train_step(params: PyTree, state: PyTree, windows: Array) -> Any:
        loss, grads = ft.value_and_grad(lambda params: bits(model, params, windows).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, loss

    return ft.jit(train_step)


def model_of(text: Text, options: argparse.Namespace) -> nn.SequenceLayer:
    """A small transformer with a character for a token."""
    kinds = len(text.characters)
    return nn.transformer_lm(
        kinds, features=options.features, heads=4, layers=options.layers, length=LENGTH, positions="rotary", tied=False
    )


def make_optimizer(options: argparse.Namespace) -> optim.Transformation:
    """adamw with clipping, and a learning rate that warms up and goes down by a cosine."""
    schedule = optim.warmup_cosine_decay_schedule(0.0, options.lr, max(1, options.steps // 20), options.steps + 1)
    return optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(schedule, weight_decay=0.01))


def begin(model: nn.SequenceLayer, options: argparse.Namespace, path: Path) -> Position:
    """The position to train from: the first, or that in the file."""

    def first(key: Array) -> tuple[PyTree, PyTree]:
        params = model.init(key)
        return params, make_optimizer(options).init(params)

    key = random.key(options.seed)
    if options.resume:
        return io.load(path, like=Position(*ft.eval_shape(first, key), 0))
    return Position(*ft.jit(first)(key), 0)


def train(
    train_step: Callable[..., Any], text: Text, seed: int, path: Path, position: Position, stop: int
) -> tuple[Position, np.ndarray]:
    """Train from a position until the step `stop`: the new position, which is in the file too, and the losses."""
    losses = []
    for step in range(position.step, stop):
        params, state, loss = train_step(position.params, position.state, windows(text.train, seed, step))
        position = Position(params, state, step + 1)
        losses.append(loss)
        if position.step % SAVED_EVERY == 0 or position.step == stop:
            io.save(path, position)
    return position, np.array(losses)


def write(model: nn.SequenceLayer, params: PyTree, key: Array, characters: str) -> list[str]:
    """How each prompt goes on; positions that are rotary have no end."""
    prompts = np.array([[characters.index(c) for c in prompt] for prompt in PROMPTS], np.int32)
    drawn = ft.jit(lambda params, key: nn.generate(model, params, prompts, WRITTEN, key, temperature=0.6))(params, key)
    rows = np.concatenate([prompts, np.asarray(drawn)], axis=1)
    return ["".join(characters[c] for c in row) for row in rows]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="char_transformer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=count, default=300)
    add("--features", type=count, default=64, help="a multiple of its 4 heads; 64")
    add("--layers", type=count, default=2)
    add("--lr", type=positive, default=5e-3, help="the highest learning rate; 0.005")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="go on from the file")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the file; out/")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train as the command line says, and print the bits and three samples."""
    options = parse(arguments)
    text = encode(repository_text())
    print(f"{len(text.train):,} characters to train on, {len(text.held_out):,} held out, {len(text.characters)} kinds")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "char_transformer.safetensors"
    model = model_of(text, options)
    try:
        first = begin(model, options, path)
    except ft.errors.FunctraceError as error:
        sys.exit(f"char_transformer: {error}")
    held_out = text.held_out[: len(text.held_out) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)[:256]
    tested = ft.jit(lambda params: bits(model, params, held_out).mean())
    train_step = make_train_step(model, make_optimizer(options))
    last, losses = train(train_step, text, options.seed, path, first, options.steps)
    written = write(model, last.params, random.key(options.seed), text.characters)
    run = Run(unigram_bits(text), float(tested(first.params)), float(tested(last.params)), losses, written, last)
    print(f"bits a held-out character: unigram {run.unigram:.2f}, before {run.before:.2f}, after {run.after:.2f}")
    for sample in run.written:
        print(f"-----\n{sample}")
    print(f"-----\nstep {run.position.step} saved: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return run


if __name__ == "__main__":
    main()
