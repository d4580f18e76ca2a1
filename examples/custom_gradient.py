"""Derivatives of your own, where the mathematical one is not what you want.

    python examples/custom_gradient.py

Three uses of `custom_vjp`. A formula that overflows gets a rule that does not: log(1 + exp(x)). Rounding, whose
derivative is zero, passes the gradient straight through, so that a classifier of digits learns weights of a few
levels. And a recurrent network in its chaotic regime, whose gradient grows without bound on the way back through
time, has it clipped at every step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from train_digits import CLASSES, Data, count, load

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim, random

Array = Any

# A formula that overflows.


def naive_log1pexp(x: Array) -> Array:
    """log(1 + exp(x)), as it is written: its derivative is exp(x) / (1 + exp(x)), Inf / Inf for large x."""
    return fnp.log(1 + fnp.exp(x))


@ft.custom_vjp
def log1pexp(x: Array) -> Array:
    """log(1 + exp(x)), with a value and a derivative that stay finite."""
    return fnp.maximum(x, 0) + fnp.log1p(fnp.exp(-abs(x)))


def log1pexp_forward(x: Array) -> tuple[Array, Array]:
    """The value, and what the backward rule needs."""
    return log1pexp(x), x


def log1pexp_backward(x: Array, ct: Array) -> tuple[Array]:
    """The derivative is the logistic function."""
    return (ct * nn.sigmoid(x),)


log1pexp.defvjp(log1pexp_forward, log1pexp_backward)


# Rounding that lets the gradient through.

LEVELS = 2  # steps of a weight to either side of zero: it is one of -1, -1/2, 0, 1/2, 1


def rounded(x: Array) -> Array:
    """The nearest of the levels; its derivative is 0 almost everywhere."""
    return fnp.clip(fnp.round(x * LEVELS) / LEVELS, -1, 1)


@ft.custom_vjp
def straight_through(x: Array) -> Array:
    """`rounded`, with the derivative of the identity where it does not saturate.

    Source: Bengio et al., Estimating or propagating gradients through stochastic neurons, arXiv:1308.3432.
    """
    return rounded(x)


straight_through.defvjp(lambda x: (rounded(x), x), lambda x, ct: (fnp.where(abs(x) <= 1, ct, 0),))


def train_rounded(rounding: Callable[[Array], Array], data: Data, steps: int) -> float:
    """The accuracy on held-out digits of a linear classifier whose weights are rounded, after training through that."""
    images, test = (x.reshape(len(x), -1) for x in (data.train_images, data.test_images))
    optimizer = optim.adam(0.02)

    def loss_of(W: Array) -> Array:
        return nn.softmax_cross_entropy_with_integer_labels(images @ rounding(W), data.train_labels).mean()

    def step(carry: Any, _: Any) -> Any:
        W, state = carry
        updates, state = optimizer.update(ft.grad(loss_of)(W), state, W)
        return (optim.apply_updates(W, updates), state), None

    W = 0.1 * random.normal(random.key(0), (images.shape[1], CLASSES))
    (W, _), _ = ft.jit(lambda W: lax.scan(step, (W, optimizer.init(W)), None, steps))(W)
    return float((np.asarray(test @ rounded(W)).argmax(axis=-1) == data.test_labels).mean())


# Clipping inside a model.


@ft.custom_vjp
def clip_cotangent(x: Array, most: Array) -> Array:
    """x, whose cotangent is scaled down to a norm of at most `most` on the way back.

    Where a rule is needed in one place only, `ft.on_backward(x, fn)` says the same in a line.
    """
    return x


def clip_backward(most: Array, ct: Array) -> tuple[Array, None]:
    """The clipped cotangent; `most` has none."""
    clipper = optim.clip_by_norm(most)
    return clipper.update(ct, clipper.init(ct))[0], None


clip_cotangent.defvjp(lambda x, most: (x, most), clip_backward)


def recurrent(x: Array, W: Array, length: int, most: float | None) -> Array:
    """The mean square of the state of x -> tanh(W x) after `length` steps, each with its cotangent clipped or not."""

    def step(x: Array, _: Any) -> tuple[Array, None]:
        x = fnp.tanh(W @ x)
        return (x if most is None else clip_cotangent(x, most)), None

    return fnp.mean(lax.scan(step, x, None, length)[0] ** 2)


LENGTHS, MOST = (10, 100, 300), 1.0  # at 1,000 some ways to round reach the largest float32


class Run(NamedTuple):
    """Derivatives of both formulas at each point; accuracies by rounding; gradient norms by length, unclipped first."""

    points: tuple[float, ...]
    naive: list[float]
    stable: list[float]
    accuracies: dict[str, float]
    norms: dict[int, tuple[float, float]]


def chaotic_norms() -> dict[int, tuple[float, float]]:
    """Norms of the gradient with respect to the first state, without and with clipping.

    Weights of variance 3 / n make the dynamics chaotic: states stay within tanh, and what separates two of them grows.
    """
    n = 64
    W = random.normal(random.key(0), (n, n)) * (3 / n) ** 0.5
    x = random.normal(random.key(1), (n,))
    norm = lambda length, most: float(optim.global_norm(ft.jit(ft.grad(lambda x: recurrent(x, W, length, most)))(x)))
    return {length: (norm(length, None), norm(length, MOST)) for length in LENGTHS}


def main(arguments: Sequence[str] | None = None) -> Run:
    """Do the three, and print what they came to."""
    parser = argparse.ArgumentParser(
        prog="custom_gradient", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count, default=300, help="of training with rounded weights; 300")
    options = parser.parse_args(arguments)
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"custom_gradient: {error}")
    points = (-1000.0, -1.0, 0.0, 50.0, 1000.0)
    slopes = lambda f: [float(ft.grad(f)(x)) for x in points]
    with jax.enable_x64(True):  # the rule is the derivative: held against finite differences, to second order
        ft.testing.check_grads(log1pexp, (np.array([-30.0, -1.0, 0.5, 30.0]),), order=2)
    roundings = {"rounded": rounded, "straight through": straight_through}
    accuracies = {name: train_rounded(rounding, data, options.steps) for name, rounding in roundings.items()}
    run = Run(points, slopes(naive_log1pexp), slopes(log1pexp), accuracies, chaotic_norms())
    tell(run)
    return run


def tell(run: Run) -> None:
    """Three short tables."""
    print("the derivative of log(1 + exp(x))")
    print(f"{'x':>18}{'as written':>16}{'with a rule':>16}")
    for x, naive, stable in zip(run.points, run.naive, run.stable, strict=True):
        print(f"{x:18g}{naive:16.6g}{stable:16.6g}")
    print("held-out digits that weights of five levels classify right, trained through")
    for name, accuracy in run.accuracies.items():
        print(f"{name:>18}{accuracy:16.1%}")
    print("the norm of the gradient of a chaotic recurrent network")
    print(f"{'steps':>18}{'unclipped':>16}{'clipped':>16}")
    for length, (free, clipped) in run.norms.items():
        print(f"{length:18}{free:16.3g}{clipped:16.3g}")


if __name__ == "__main__":
    main()
