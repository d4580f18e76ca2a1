"""Train on digits with differential privacy: a gradient for each example, clipped, with noise.

    python examples/dp_sgd.py                 # noise of 2 times the clipping norm
    python examples/dp_sgd.py --noise 0       # what privacy costs: the same, without noise
    python examples/dp_sgd.py --noise 8       # more of it

Each example's gradient is clipped to the same norm, so that no example can move the sum by more, and normal noise in
proportion hides whether it was there. `per_example_clipped_grad` finds that sum, and none of the gradients is made.
Abadi et al., Deep learning with differential privacy (2016). The account of what was spent is Renyi differential
privacy of the sampled Gaussian mechanism, at whole orders: Mironov, Talwar and Zhang, arXiv:1908.10530, section 3.3. It
holds for batches into which every example comes by a coin of its own, as here, and neighbours that differ by one
example. Noise from a seed that others know hides nothing: this is a demonstration.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from train_digits import CLASSES, Data, count, load, positive

import functrace as ft
from functrace import nn, optim, random

Array = Any
PyTree = Any

RATE = 64 / 1437  # the chance of an example to be in a batch
ORDERS = range(2, 257)


# The account.


def epsilon(rate: float, noise: float, steps: int, delta: float) -> float:
    """How much the odds of any outcome can depend on one example, at most e^epsilon, but for a chance of `delta`.

    Args:
      rate: the chance of an example to be in a batch.
      noise: its standard deviation, in parts of the clipping norm.
      steps: how many batches.
      delta: what may go wrong.

    >>> round(epsilon(0.01, 4.0, 10_000, 1e-5), 2)
    1.26
    """
    if noise == 0:
        return math.inf
    spent = (steps * renyi(rate, noise, order) + math.log(1 / delta) / (order - 1) for order in ORDERS)
    return min(spent)


def renyi(rate: float, noise: float, order: int) -> float:
    """The Renyi divergence, of a whole order, that one step spends."""
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate) + k * math.log(rate) + k * (k - 1) / (2 * noise**2)
        for k in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return (largest + math.log(sum(math.exp(term - largest) for term in terms))) / (order - 1)


# The private gradient.


def loss_of(model: nn.Layer, params: PyTree, image: Array, label: Array, present: Array) -> Array:
    """The loss of one example, there is no batch in it; and 0 in an empty place, where `present` is 0."""
    return present * nn.softmax_cross_entropy_with_integer_labels(model.apply(params, image), label)


def clipped_sum(
    model: nn.Layer, params: PyTree, images: Array, labels: Array, present: Array, most: float
) -> tuple[PyTree, Array]:
    """The sum of the examples' gradients, each scaled down to a global norm of at most `most`; and their norms."""
    loss = lambda params, *example: loss_of(model, params, *example)
    return ft.per_example_clipped_grad(loss, most, with_norms=True)(params, images, labels, present)


def noisy_mean(key: Array, gradients: PyTree, deviation: float, size: float) -> PyTree:
    """A sum of gradients, with normal noise, over the size that a batch has on average."""
    leaves, structure = ft.tree.flatten(gradients)
    keys = random.split(key, len(leaves))
    noisy = [(g + deviation * random.normal(k, g.shape)) / size for k, g in zip(keys, leaves, strict=True)]
    return ft.tree.unflatten(structure, noisy)


class Run(NamedTuple):
    """What was learned, what it cost, and the gradient norms of the examples of the last batch."""

    accuracy: float
    epsilon: float
    losses: np.ndarray
    norms: np.ndarray


def train(
    data: Data, steps: int, noise: float, most: float, lr: float, seed: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """The accuracy at the end, the loss at each step, and the norms at the last.

    A batch has as many places as there are examples that might be in it, most of them empty; so its size is the same
    at every step, and is no secret.
    """
    images, test = (x.reshape(len(x), -1) for x in (data.train_images, data.test_images))
    model = nn.mlp((images.shape[1], 64, CLASSES), activation=nn.tanh)
    key, drawn = random.split(random.key(seed))
    params = model.init(key)
    optimizer = optim.sgd(lr, momentum=0.9)
    expected = RATE * len(images)
    places = math.ceil(expected + 8 * math.sqrt(expected))  # eight standard deviations above: no more come

    @ft.jit
    def train_step(params: PyTree, state: PyTree, key: Array, images: Array, labels: Array, present: Array) -> Any:
        gradients, norms = clipped_sum(model, params, images, labels, present, most)
        mean = noisy_mean(key, gradients, noise * most, expected)
        loss = ft.vmap(lambda *example: loss_of(model, params, *example))(images, labels, present).sum() / present.sum()
        updates, state = optimizer.update(mean, state, params)
        return optim.apply_updates(params, updates), state, loss, norms

    state, rng, losses = optimizer.init(params), np.random.default_rng(seed), []
    norms = present = np.zeros(places)
    for step in range(steps):
        chosen = np.flatnonzero(rng.random(len(images)) < RATE)[:places]
        present = (np.arange(places) < len(chosen)).astype(np.float32)
        filled = np.resize(chosen, places)  # what stands in an empty place does not count
        key = random.fold_in(drawn, step)
        params, state, loss, norms = train_step(params, state, key, images[filled], data.train_labels[filled], present)
        losses.append(float(loss))
    predicted = np.asarray(model.apply(params, test)).argmax(axis=-1)
    accuracy = float((predicted == data.test_labels).mean())
    return accuracy, np.array(losses), np.asarray(norms)[present > 0]


def main(arguments: Sequence[str] | None = None) -> Run:
    """Train as the command line says, and print what was learned and what it cost."""
    parser = argparse.ArgumentParser(
        prog="dp_sgd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--noise", type=float, default=2.0, help="standard deviation, in parts of the clipping norm; 2")
    add("--clip", type=positive, default=1.0, metavar="NORM", help="largest norm of an example's gradient; 1")
    add("--steps", type=count, default=400)
    add("--lr", type=positive, default=0.1, help="the learning rate; 0.1")
    add("--delta", type=positive, default=1e-4, help="the chance that the promise fails; 1e-4")
    add("--seed", type=int, default=0, help="of weights, batches and noise")
    options = parser.parse_args(arguments)
    if not (math.isfinite(options.noise) and options.noise >= 0):
        parser.error(f"argument --noise: {options.noise} is not a number of at least 0")
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"dp_sgd: {error}")
    accuracy, losses, norms = train(data, options.steps, options.noise, options.clip, options.lr, options.seed)
    spent = epsilon(RATE, options.noise, options.steps, options.delta)
    print(f"{options.steps} steps, each on about {RATE:.1%} of {len(data.train_labels)} digits")
    print(f"loss: {losses[0]:.3f} at first, {losses[-20:].mean():.3f} at last")
    print(f"gradient norms of single examples: median {np.median(norms):.2f}, largest {norms.max():.2f}; "
          f"{(norms > options.clip).mean():.0%} clipped to {options.clip:g}")  # fmt: skip
    print(f"accuracy on held-out digits: {accuracy:.1%}")
    print(f"privacy: epsilon {spent:.2f} at delta {options.delta:g}" if spent < math.inf else "privacy: none")
    return Run(accuracy, spent, losses, norms)


if __name__ == "__main__":
    main()
