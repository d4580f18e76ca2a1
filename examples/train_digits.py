"""Train a classifier of handwritten digits.

    python examples/train_digits.py                     # an MLP on scikit-learn's 1,797 digits
    python examples/train_digits.py --model cnn         # convolution, batch norm, max-pool
    python examples/train_digits.py --data DIR          # MNIST, from its four IDX files
    python examples/train_digits.py --clip none --lr 5  # the explosion that clipping prevents

A model is a pair of pure functions of pytrees; so is an optimizer; and a step of training is one
pure function of both, differentiated, compiled and called in a loop.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import MISSING, Report, Row, draw

import functrace as ft
from functrace import io, nn, optim, random
from functrace.errors import FileError

Array = Any
PyTree = Any

CLASSES = 10
HELD_OUT = 360  # of scikit-learn's digits, the same for every seed
DEFAULT_CLIP = 1.0


# Data.


class Data(NamedTuple):
    """Images f32[n, height, width, 1] in [0, 1], labels i32[n]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    name: str


def load(folder: Path | None) -> Data:
    """MNIST from a folder, or scikit-learn's digits with some held out."""
    if folder is not None:
        arrays, brightest, name = io.read_mnist(folder), 255, f"{folder}"
    else:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "scikit-learn, which brings the digits, is not installed: "
                "pip install 'functrace[examples]', or give --data for MNIST."
            ) from error
        images, labels = load_digits().images, load_digits().target
        order = np.random.default_rng(0).permutation(len(images))
        test, kept = order[:HELD_OUT], order[HELD_OUT:]
        arrays = images[kept], labels[kept], images[test], labels[test]
        brightest, name = 16, "scikit-learn's digits"
    x, y, test_x, test_y = arrays
    scaled = lambda images: (images / brightest).astype(np.float32)[..., None]
    return Data(scaled(x), y.astype(np.int32), scaled(test_x), test_y.astype(np.int32), name)


# Models: layers with a state, from images f32[n, height, width, 1] to logits f32[n, 10].


def mlp(height: int, width: int) -> nn.StatefulLayer:
    """Two hidden layers, with leaky ReLU between. It has no statistics: its state is empty."""
    widths = (height * width, 256, 256, CLASSES)
    layers = nn.sequential(nn.flatten, nn.mlp(widths, activation=nn.leaky_relu))
    return nn.StatefulLayer(
        lambda key: (layers.init(key), {}),
        lambda params, state, x, **options: (layers.apply(params, x, **options), state),
        "mlp",
    )


def cnn(height: int, width: int) -> nn.StatefulLayer:
    """Two blocks of 32 and 64 channels, each of which halves the image, and a dense layer."""
    pixels = (height // 4) * (width // 4)
    return nn.sequential(block(1, 32), block(32, 64), nn.flatten, nn.dense(64 * pixels, CLASSES))


def block(channels_in: int, channels_out: int) -> nn.StatefulLayer:
    """Convolution, batch norm, leaky ReLU, and the largest of each 2 by 2 pixels."""
    kernel_init = nn.initializers.he_normal()
    return nn.sequential(
        nn.conv(channels_in, channels_out, (3, 3), use_bias=False, kernel_init=kernel_init),
        nn.batch_norm(channels_out),
        nn.leaky_relu,
        partial(nn.max_pool, window=(2, 2)),
        name="block",
    )


MODELS = {"mlp": mlp, "cnn": cnn}


# Training.


def make_optimizer(options: argparse.Namespace, steps: int) -> optim.Transformation:
    """Clipping, then adamw or sgd, with a learning rate that warms up and goes down by a cosine."""
    schedule = optim.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=options.lr,
        warmup_steps=max(1, steps // 20),
        decay_steps=steps + 1,
    )
    clip = [] if options.clip is None else [optim.clip_by_global_norm(options.clip)]
    if options.optimizer == "sgd":
        return optim.chain(*clip, optim.sgd(schedule))
    return optim.chain(*clip, optim.adamw(schedule, weight_decay=options.weight_decay))


class Position(NamedTuple):
    """Where training is: the weights, the running statistics of batch norm, the optimizer's state."""

    params: PyTree
    statistics: PyTree
    optimizer: PyTree


def make_train_step(model: nn.StatefulLayer, optimizer: optim.Transformation) -> Callable[..., Any]:
    """The pure function `train_step(position, batch) -> (position, metrics)`."""

    def loss_of(params: PyTree, statistics: PyTree, images: Array, labels: Array) -> Any:
        logits, statistics = model.apply(params, statistics, images, training=True)
        loss = nn.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (statistics, (logits.argmax(axis=-1) == labels).mean())

    def train_step(position: Position, batch: tuple[Array, Array]) -> tuple[Position, Row]:
        params, statistics, opt_state = position
        (loss, (statistics, accuracy)), grads = ft.value_and_grad(loss_of, has_aux=True)(
            params, statistics, *batch
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        clip = opt_state.get("clip_by_global_norm")
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient norm": optim.global_norm(grads) if clip is None else clip.norm,
            "clipped": 0.0 if clip is None else clip.clipped,
        }
        return Position(optim.apply_updates(params, updates), statistics, opt_state), metrics

    return ft.jit(train_step)


class Run(NamedTuple):
    """How a run went: a row for each step and each epoch, and the first step that went wrong."""

    position: Position
    steps: list[Row]
    epochs: list[Row]
    accuracy: float
    explosion: tuple[int, str] | None
    figure: Path | None = None


def train(options: argparse.Namespace, data: Data, report: Report) -> Run:
    """Train, and test on what was held out; an epoch with a number that is not finite is the last."""
    model = MODELS[options.model](*data.train_images.shape[1:3])
    params, statistics = model.init(random.key(options.seed))
    in_epoch = len(data.train_images) // options.batch_size
    optimizer = make_optimizer(options, in_epoch * options.epochs)
    position = Position(params, statistics, optimizer.init(params))
    train_step = make_train_step(model, optimizer)
    steps: list[Row] = []
    epochs: list[Row] = []
    with report.progress(in_epoch * options.epochs) as advance:
        for epoch in range(options.epochs):
            examples = data.train_images, data.train_labels
            batches = io.batches(examples, options.batch_size, seed=options.seed, epoch=epoch)
            pending, text = [], f"loss {epochs[-1]['loss']:.4f}" if epochs else ""
            for batch in batches:
                position, metrics = train_step(position, batch)
                pending.append(metrics)  # read at the end of the epoch: the device need not wait
                advance(text)
            rows = [{name: float(value) for name, value in row.items()} for row in pending]
            steps += rows
            means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
            epochs.append({"epoch": epoch + 1, **means})
            if not all(map(math.isfinite, means.values())):
                break
    accuracy = evaluate(model, position, data.test_images, data.test_labels)
    return Run(position, steps, epochs, accuracy, find_explosion(steps))


def evaluate(model: nn.StatefulLayer, position: Position, images: Array, labels: Array) -> float:
    """The fraction that is classified right."""

    @ft.jit
    def predict(position: Position, images: Array) -> Array:
        return model.apply(position.params, position.statistics, images)[0].argmax(axis=-1)

    parts = np.array_split(np.arange(len(images)), math.ceil(len(images) / 1000))
    right = [np.asarray(predict(position, images[part])) == labels[part] for part in parts]
    return float(np.concatenate(right).mean())


def find_explosion(steps: Sequence[Row]) -> tuple[int, str] | None:
    """The first step at which the loss or the gradient is not finite, or 100 times the first."""
    for step, row in enumerate(steps):
        for name in ("loss", "gradient norm"):
            value, start = row[name], steps[0][name]
            if not math.isfinite(value):
                return step, f"the {name} is {value} (at step 0 it was {start:.3g})"
            if value > 100 * max(start, 1.0):
                return step, f"the {name} is {value:.3g} (at step 0 it was {start:.3g})"
    return None


# The command line.


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def clip_norm(text: str) -> float | None:
    """A finite number above 0, or none."""
    try:
        return None if text == "none" else positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor the word none") from None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the defaults that depend on others filled in."""
    parser = argparse.ArgumentParser(
        prog="train_digits", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", choices=sorted(MODELS), default="mlp")
    add("--data", type=Path, metavar="DIR", help="folder with MNIST's four IDX files")
    add("--epochs", type=count, help="30 for the digits (cnn: 15), 3 for MNIST")
    add("--batch-size", type=count, default=64)
    add("--lr", type=positive, default=3e-3, help="the highest learning rate; 0.003")
    add("--clip", type=clip_norm, default=DEFAULT_CLIP, metavar="NORM",
        help="largest global norm of the gradient, or none; 1")  # fmt: skip
    add("--optimizer", choices=["adamw", "sgd"],
        help="adamw; sgd for a learning rate of 0.1 or more, since each step of adamw moves every "
             "weight by about the learning rate")  # fmt: skip
    add("--weight-decay", type=positive, default=1e-2, help="of adamw; 0.01")
    add("--seed", type=int, default=0, help="of the initial weights and the order of the data")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    add("--quiet", action="store_true", help="no progress bar, no table")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"argument --seed: {options.seed} is negative")
    if options.epochs is None:
        options.epochs = 3 if options.data else {"mlp": 30, "cnn": 15}[options.model]
    if options.optimizer is None:
        options.optimizer = "sgd" if options.lr >= 0.1 else "adamw"
    return options


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train as the command line says, and report."""
    options = parse(arguments)
    report = Report(options.quiet)
    try:
        data = load(options.data)
    except (FileError, ImportError) as error:
        sys.exit(f"train_digits: {error}")
    if options.batch_size > len(data.train_images):
        sys.exit(
            f"train_digits: --batch-size is {options.batch_size}; there are "
            f"{len(data.train_images)} training images."
        )
    if min(data.train_images.shape[1:3]) < 4:
        sys.exit(f"train_digits: images of {data.train_images.shape[1:3]}; 4 by 4 is the least.")
    title = f"{options.model} on {data.name}: {options.optimizer}, lr {options.lr:g}, " + (
        "no clipping" if options.clip is None else f"clipped to norm {options.clip:g}"
    )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"train_digits: --out {options.out}: {error.strerror}.")
    report.say(title)
    start = time.perf_counter()
    run = train(options, data, report)
    seconds = time.perf_counter() - start
    report.table(run.epochs, title)
    if run.explosion is not None:
        tell_explosion(run.explosion, options, data, report)
    figure = options.out / f"train_digits_{options.model}.png"
    if draw(run.steps, figure, title):
        run = run._replace(figure=figure)
        report.say(f"curves: {figure}")
    else:
        report.say(f"curves: {MISSING}")
    tested = f"{len(data.test_labels)} held-out images"
    report.say(f"accuracy: {run.accuracy:.2%} of {tested}, after {seconds:.0f} s of training")
    return run


def tell_explosion(
    explosion: tuple[int, str], options: argparse.Namespace, data: Data, report: Report
) -> None:
    """What happened, at which step; and, where there was no clipping, what clipping makes of it."""
    step, what = explosion
    report.say(f"EXPLODED at step {step}: {what}.")
    if options.clip is not None:
        report.say("Clipping bounds the gradient, not the learning rate: try a lower --lr.")
        return
    clipped = argparse.Namespace(**{**vars(options), "clip": DEFAULT_CLIP})
    report.say(f"The same run with --clip {DEFAULT_CLIP:g}, the default:")
    control = train(clipped, data, report)
    norms = max(row["gradient norm"] for row in control.steps)
    if control.explosion is None:
        report.say(
            f"It does not explode: the loss ends at {control.epochs[-1]['loss']:.3g} and "
            f"{control.accuracy:.2%} are classified right. Clipping prevented it: gradients of "
            f"norm up to {norms:.3g} were scaled down to {DEFAULT_CLIP:g}."
        )
    else:
        at, how = control.explosion
        report.say(
            f"It explodes too, at step {at}: {how}. Clipping does not prevent this one: "
            "the learning rate itself is too high for the optimizer."
        )


if __name__ == "__main__":
    main()
