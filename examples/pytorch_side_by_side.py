"""The same network trained by PyTorch and by functrace, from the same weights on the same batches.

    python examples/pytorch_side_by_side.py              # 200 steps; the losses agree to 1e-5
    python examples/pytorch_side_by_side.py --clip none  # the same without clipping

Two hidden layers of ReLU on scikit-learn's digits, cross entropy, clipping by the global norm, gradient descent with
momentum. The two training loops stand one below the other: read them together. PyTorch is needed for this example
only: pip install torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from train_digits import CLASSES, Data, clip_norm, count, load, positive

import functrace as ft
from functrace import nn, optim, random

Array = Any
PyTree = Any

WIDTHS = (64, 128, 128, CLASSES)
BATCH = 64


class Losses(NamedTuple):
    """The loss and the norm of the gradient, before clipping, at every step: f[steps]."""

    losses: np.ndarray
    norms: np.ndarray


class Settings(NamedTuple):
    """What both are given."""

    lr: float
    momentum: float
    clip: float | None


def initial_weights(seed: int) -> list[dict[str, np.ndarray]]:
    """A dict of W f32[in, out] and b f32[out] for each layer."""
    keys = random.split(random.key(seed), len(WIDTHS) - 1)
    shapes = pairwise(WIDTHS)
    return [
        {"W": np.array(nn.initializers.he_normal()(key, shape)), "b": np.zeros(shape[1], np.float32)}
        for key, shape in zip(keys, shapes, strict=True)
    ]


def batches_of(data: Data, steps: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images f32[BATCH, 64] and labels i32[BATCH], drawn anew for each step."""
    rows = data.train_images.reshape(len(data.train_images), -1)
    chosen = np.random.default_rng(seed).integers(0, len(rows), (steps, BATCH))
    return [(rows[i], data.train_labels[i]) for i in chosen]


def train_pytorch(weights: PyTree, batches: Sequence[Any], settings: Settings) -> Losses:
    """PyTorch: a model that owns its weights, which the optimizer changes in place."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            "pytorch_side_by_side: PyTorch, with which functrace is compared here, is not installed: pip install torch"
        ) from error

    torch.set_num_threads(1)  # of matrices this small each thread would wait for the others
    layers = [torch.nn.Linear(*layer["W"].shape) for layer in weights]
    with torch.no_grad():
        for linear, layer in zip(layers, weights, strict=True):
            linear.weight.copy_(torch.from_numpy(layer["W"].T.copy()))  # PyTorch keeps [out, in]
            linear.bias.copy_(torch.from_numpy(layer["b"].copy()))
    first, second, last = layers
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
    most = float("inf") if settings.clip is None else settings.clip
    losses, norms = [], []
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(images))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return Losses(np.array(losses), np.array(norms))


def train_functrace(weights: PyTree, batches: Sequence[Any], settings: Settings) -> Losses:
    """functrace: a step is a pure function, which takes weights and state and returns the next."""
    clip = [] if settings.clip is None else [optim.clip_by_global_norm(settings.clip)]
    optimizer = optim.chain(*clip, optim.sgd(settings.lr, momentum=settings.momentum))

    def loss_of(params: PyTree, images: Array, labels: Array) -> Array:
        first, second, last = params
        x = nn.relu(images @ first["W"] + first["b"])
        x = nn.relu(x @ second["W"] + second["b"])
        logits = x @ last["W"] + last["b"]
        return nn.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @ft.jit
    def train_step(params: PyTree, state: PyTree, images: Array, labels: Array) -> Any:
        loss, grads = ft.value_and_grad(loss_of)(params, images, labels)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, loss, optim.global_norm(grads)

    params, state = weights, optimizer.init(weights)
    losses, norms = [], []
    for images, labels in batches:
        params, state, loss, norm = train_step(params, state, images, labels)
        losses.append(float(loss))
        norms.append(float(norm))
    return Losses(np.array(losses), np.array(norms))


class Run(NamedTuple):
    """What both did."""

    pytorch: Losses
    functrace: Losses

    @property
    def difference(self) -> float:
        """The largest difference of the losses at a step."""
        return float(abs(self.pytorch.losses - self.functrace.losses).max())


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train both, and print the losses side by side."""
    parser = argparse.ArgumentParser(
        prog="pytorch_side_by_side", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=count, default=200)
    add("--lr", type=positive, default=0.05, help="the learning rate; 0.05")
    add("--momentum", type=float, default=0.9)
    add("--clip", type=clip_norm, default=1.0, metavar="NORM", help="largest global norm, or none; 1")
    add("--seed", type=int, default=0, help="of the weights and the batches")
    options = parser.parse_args(arguments)
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"pytorch_side_by_side: {error}")
    weights, batches = initial_weights(options.seed), batches_of(data, options.steps, options.seed)
    settings = Settings(options.lr, options.momentum, options.clip)
    run = Run(train_pytorch(weights, batches, settings), train_functrace(weights, batches, settings))
    tell(run, settings)
    return run


def tell(run: Run, settings: Settings) -> None:
    """Ten of the steps, and the largest difference of all."""
    steps = len(run.pytorch.losses)
    print(f"{'step':>5}{'PyTorch':>14}{'functrace':>14}{'difference':>12}{'gradient norm':>16}")
    for step in sorted({*range(0, steps, max(1, steps // 10)), steps - 1}):
        theirs, ours, norm = run.pytorch.losses[step], run.functrace.losses[step], run.functrace.norms[step]
        clipped = settings.clip is not None and norm > settings.clip
        print(f"{step:5}{theirs:14.8f}{ours:14.8f}{ours - theirs:12.1e}{norm:16.4f}{' clipped' if clipped else ''}")
    print(f"largest difference of the losses in {steps} steps: {run.difference:.1e}")


if __name__ == "__main__":
    main()
