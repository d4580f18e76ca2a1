"""Train a classifier of handwritten digits: parameters are a pytree, the step is one pure function.

    python examples/train_digits.py                       # an MLP on scikit-learn's 1,797 digits
    python examples/train_digits.py --model cnn           # convolution, pooling, batch norm
    python examples/train_digits.py --data DIR            # MNIST, from its four IDX files
    python examples/train_digits.py --clip none --lr 5    # the explosion that clipping prevents
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim

sys.path.insert(0, str(Path(__file__).parent))
from idx import read_mnist

CLASSES = 10


class Model(NamedTuple):
    """`init(key, size) -> (weights, stats)`; `apply(weights, stats, images, train) -> (logits, stats)`."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


def dense_init(key: Any, fan_in: int, fan_out: int) -> dict[str, Any]:
    """Weights of a dense layer, He-initialised."""
    return {"W": nn.initializers.he_normal()(key, (fan_in, fan_out)), "b": fnp.zeros(fan_out)}


def mlp_init(key: Any, size: int) -> Any:
    """An MLP of two hidden layers; it has no statistics."""
    widths = (size * size, 128, 128, CLASSES)
    keys = jax.random.split(key, len(widths))
    return [dense_init(k, m, n) for k, m, n in zip(keys, widths[:-1], widths[1:], strict=False)], {}


def mlp_apply(weights: Any, stats: Any, images: Any, train: bool) -> Any:
    """Logits of images of shape [n, size, size, 1]."""
    x = images.reshape(images.shape[0], -1)
    for layer in weights[:-1]:
        x = nn.leaky_relu(x @ layer["W"] + layer["b"])
    return x @ weights[-1]["W"] + weights[-1]["b"], stats


def conv_block_init(key: Any, channels_in: int, channels_out: int) -> Any:
    """A 3x3 convolution with batch norm: its weights and its running statistics."""
    kernel = nn.initializers.he_normal()(key, (3, 3, channels_in, channels_out))
    one, zero = fnp.ones(channels_out), fnp.zeros(channels_out)
    return {"kernel": kernel, "scale": one, "shift": zero}, {"mean": zero, "variance": one}


def conv_block(weights: Any, stats: Any, x: Any, train: bool) -> Any:
    """Convolution, batch norm, leaky ReLU, 2x2 max-pool."""
    x = lax.conv_general_dilated(x, weights["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x, stats = batch_norm(weights, stats, x, train)
    x = nn.leaky_relu(x)
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4)), stats


def batch_norm(weights: Any, stats: Any, x: Any, train: bool) -> Any:
    """Normalise by the batch's statistics in training, by the running ones otherwise."""
    if train:
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        stats = {
            "mean": 0.9 * stats["mean"] + 0.1 * ft.stop_gradient(mean),
            "variance": 0.9 * stats["variance"] + 0.1 * ft.stop_gradient(variance),
        }
    else:
        mean, variance = stats["mean"], stats["variance"]
    return weights["scale"] * (x - mean) * lax.rsqrt(variance + 1e-5) + weights["shift"], stats


def cnn_init(key: Any, size: int) -> Any:
    """Two convolution blocks and a dense layer."""
    keys = jax.random.split(key, 3)
    first, first_stats = conv_block_init(keys[0], 1, 32)
    second, second_stats = conv_block_init(keys[1], 32, 64)
    dense = dense_init(keys[2], (size // 4) ** 2 * 64, CLASSES)
    return {"blocks": [first, second], "dense": dense}, [first_stats, second_stats]


def cnn_apply(weights: Any, stats: Any, images: Any, train: bool) -> Any:
    """Logits of images of shape [n, size, size, 1], and the new running statistics."""
    x, new_stats = images, []
    for block, block_stats in zip(weights["blocks"], stats, strict=True):
        x, updated = conv_block(block, block_stats, x, train)
        new_stats.append(updated)
    x = x.reshape(x.shape[0], -1)
    return x @ weights["dense"]["W"] + weights["dense"]["b"], new_stats


MODELS = {"mlp": Model(mlp_init, mlp_apply), "cnn": Model(cnn_init, cnn_apply)}


def make_train_step(model: Model, optimizer: optim.Transformation) -> Callable[..., Any]:
    """One jitted, pure `train_step(params, opt_state, batch) -> (params, opt_state, metrics)`."""

    def loss_fn(weights: Any, stats: Any, images: Any, labels: Any) -> Any:
        logits, stats = model.apply(weights, stats, images, True)
        loss = nn.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (stats, (logits.argmax(axis=-1) == labels).mean())

    def train_step(params: Any, opt_state: Any, batch: Any) -> Any:
        weights, stats = params
        (loss, (stats, accuracy)), grads = ft.value_and_grad(loss_fn, has_aux=True)(weights, stats, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        logged = optim.metrics(opt_state)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "norm": optim.global_norm(grads),
            "clipped": logged.get("clip_by_global_norm.clipped", fnp.zeros(())),
        }
        return (optim.apply_updates(weights, updates), stats), opt_state, metrics

    return ft.jit(train_step)


def load(data: Path | None, seed: int) -> Any:
    """Images in [0, 1] of shape [n, size, size, 1] and labels: for training, then held out."""
    if data is not None:
        train_x, train_y, test_x, test_y = read_mnist(data)
        scale = 255.0
    else:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise SystemExit("train_digits: scikit-learn is missing; pip install 'functrace[examples]'") from error
        digits = load_digits()
        order = np.random.default_rng(seed).permutation(len(digits.images))
        held_out, kept = order[:360], order[360:]
        train_x, train_y = digits.images[kept], digits.target[kept]
        test_x, test_y = digits.images[held_out], digits.target[held_out]
        scale = 16.0
    prepare = lambda x: (np.asarray(x, np.float32) / scale)[..., None]
    return prepare(train_x), train_y.astype(np.int32), prepare(test_x), test_y.astype(np.int32)


def explosion(history: Sequence[dict[str, float]]) -> str | None:
    """What happened and at which step, if the loss became non-finite or far larger than at the start."""
    for step, row in enumerate(history):
        if not np.isfinite(row["loss"]) or row["loss"] > 20 * history[0]["loss"]:
            peak = max(r["norm"] for r in history[: step + 1] if np.isfinite(r["norm"]))
            what = "is not finite" if not np.isfinite(row["loss"]) else f"rose to {row['loss']:.4g}"
            return (
                f"the training exploded: at step {step} the loss {what} (at step 0 it was {history[0]['loss']:.3f}); "
                f"the gradient norm reached {peak:.4g}. Clipping (--clip 1, the default) bounds each step and "
                "prevents this."
            )
    return None


def plot(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss, accuracy and gradient norm against the step, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    for axis, name in zip(axes, ("loss", "accuracy", "norm"), strict=True):
        values = np.array([row[name] for row in history])
        axis.plot(np.where(np.isfinite(values), values, np.nan), linewidth=0.8)
        axis.set(title="gradient norm" if name == "norm" else name, xlabel="step")
        if name != "accuracy":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="mlp")
    parser.add_argument("--data", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--clip", default="1", help="largest global gradient norm, or none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.batch_size < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    try:
        options.clip = None if options.clip == "none" else float(options.clip)
    except ValueError:
        parser.error(f"--clip must be a number or none, got {options.clip!r}")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, print a table, save the curves; returns the history and the held-out accuracy."""
    options = parse(arguments)
    try:
        from rich.console import Console
        from rich.progress import track
        from rich.table import Table
    except ImportError as error:
        raise SystemExit("train_digits: rich is missing; pip install 'functrace[examples]'") from error
    console = Console()
    try:
        images, labels, test_images, test_labels = load(options.data, options.seed)
    except ValueError as error:
        raise SystemExit(f"train_digits: {error}") from error
    batch = min(options.batch_size, len(images))
    steps = len(images) // batch
    model = MODELS[options.model]
    params = model.init(jax.random.key(options.seed), images.shape[1])
    total = steps * options.epochs
    schedule = optim.warmup_cosine_decay_schedule(0.0, options.lr, max(1, total // 20), total + 1)
    clip = [] if options.clip is None else [optim.clip_by_global_norm(options.clip)]
    optimizer = optim.chain(*clip, optim.adamw(schedule, weight_decay=1e-3))
    opt_state = optimizer.init(params[0])
    train_step = make_train_step(model, optimizer)
    rng = np.random.default_rng(options.seed)
    history: list[dict[str, float]] = []
    table = Table("epoch", "loss", "accuracy", "gradient norm", "fraction clipped", title=f"{options.model} on digits")
    for epoch in track(range(options.epochs), description="training", console=console):
        order = rng.permutation(len(images))[: steps * batch].reshape(steps, batch)
        rows = []
        for chosen in order:
            params, opt_state, metrics = train_step(params, opt_state, (images[chosen], labels[chosen]))
            rows.append(metrics)
        rows = [{name: float(value) for name, value in row.items()} for row in rows]
        history += rows
        mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
        table.add_row(
            str(epoch), f"{mean['loss']:.4f}", f"{mean['accuracy']:.3f}", f"{mean['norm']:.3f}",
            f"{mean['clipped']:.2f}",
        )  # fmt: skip
    console.print(table)
    predict = ft.jit(lambda params, x: model.apply(*params, x, False)[0].argmax(axis=-1))
    accuracy = float((np.asarray(predict(params, test_images)) == test_labels).mean())
    figure = options.out / f"train_digits_{options.model}.png"
    plot(history, figure)
    message = explosion(history)
    if message:
        console.print(message)
    console.print(f"held-out accuracy: {accuracy:.2%} of {len(test_labels)}; curves in {figure}")
    return {"history": history, "accuracy": accuracy, "message": message, "figure": figure}


if __name__ == "__main__":
    main()
