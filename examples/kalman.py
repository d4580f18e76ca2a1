"""A Kalman filter in parallel, by an associative scan, and the gradient of its likelihood.

    python examples/kalman.py                   # 200 noisy positions of a moving point
    python examples/kalman.py --length 5000

The filter goes from step to step; but what a step does to the belief about the state is an element of a monoid, so
a prefix scan gives all beliefs in time that grows with log T. Both compute one likelihood, and one gradient of it
with respect to the noise of the motion and of the measurement.

Reference: Sarkka and Garcia-Fernandez, "Temporal parallelization of Bayesian smoothers" (2021).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import functrace as ft
from functrace import lax, numpy as fnp

Array = Any


class Model(NamedTuple):
    """x' = F x + noise of covariance Q, y = H x + noise of covariance R; at first x is of mean m and covariance P."""

    F: Array
    Q: Array
    H: Array
    R: Array
    m: Array
    P: Array


def moving_point(params: Array, dt: float = 0.1) -> Model:
    """A point on a line, pushed at random; params are the logarithms of the push and of the error of measurement."""
    push, error = fnp.exp(params)
    F = fnp.array([[1.0, dt], [0.0, 1.0]])
    Q = push**2 * fnp.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    return Model(F, Q, fnp.array([[1.0, 0.0]]), error**2 * fnp.eye(1), fnp.zeros(2), fnp.eye(2))


class Belief(NamedTuple):
    """Mean and covariance of the state, f[2] and f[2, 2], or of the states at all times."""

    mean: Array
    covariance: Array


def predict(model: Model, belief: Belief) -> Belief:
    """The belief a step later."""
    return Belief(model.F @ belief.mean, model.F @ belief.covariance @ model.F.T + model.Q)


def gain(model: Model, covariance: Array) -> tuple[Array, Array]:
    """The covariance S of a measurement to come, and the gain P H^T S^-1."""
    S = model.H @ covariance @ model.H.T + model.R
    return S, fnp.linalg.solve(S, model.H @ covariance).T


def update(model: Model, belief: Belief, y: Array) -> Belief:
    """The belief when `y` has been measured."""
    S, K = gain(model, belief.covariance)
    mean = belief.mean + K @ (y - model.H @ belief.mean)
    return Belief(mean, belief.covariance - K @ S @ K.T)


def filter_in_sequence(model: Model, ys: Array) -> Belief:
    """The beliefs at all times, each from the one before."""

    def step(belief: Belief, y: Array) -> tuple[Belief, Belief]:
        belief = update(model, predict(model, belief), y)
        return belief, belief

    return lax.scan(step, Belief(model.m, model.P), ys)[1]


class Element(NamedTuple):
    """What some steps do: from the state x before them to a belief of mean A x + b and covariance C after them,
    and the evidence about x in what they measured: exp(eta x - x J x / 2)."""

    A: Array
    b: Array
    C: Array
    eta: Array
    J: Array


def element(model: Model, y: Array) -> Element:
    """One step."""
    F, Q, H = model.F, model.Q, model.H
    S, K = gain(model, Q)
    kept = fnp.eye(len(F)) - K @ H
    seen = fnp.linalg.solve(S, H @ F).T
    return Element(kept @ F, K @ y, kept @ Q, seen @ y, seen @ H @ F)


def first_element(model: Model, y: Array) -> Element:
    """The first step, before which the belief is the model's; so A, eta and J are nothing."""
    belief = update(model, predict(model, Belief(model.m, model.P)), y)
    zero = fnp.zeros_like(model.P)
    return Element(zero, belief.mean, belief.covariance, fnp.zeros_like(model.m), zero)


def inverse(matrix: Array) -> Array:
    """The inverse of a 2 by 2 matrix, which XLA compiles much sooner than a factorization."""
    (a, b), (c, d) = matrix
    return fnp.array([[d, -b], [-c, a]]) / (a * d - b * c)


def combine(p: Element, q: Element) -> Element:
    """p, and then q."""
    middle = inverse(fnp.eye(2) + p.C @ q.J)  # whose transpose is the inverse of 1 + J C
    forward, backward = q.A @ middle, (middle @ p.A).T
    return Element(
        forward @ p.A,
        forward @ (p.b + p.C @ q.eta) + q.b,
        forward @ p.C @ q.A.T + q.C,
        backward @ (q.eta - q.J @ p.b) + p.eta,
        backward @ q.J @ p.A + p.J,
    )


def filter_in_parallel(model: Model, ys: Array) -> Belief:
    """The beliefs at all times, by a prefix scan."""
    later = ft.vmap(lambda y: element(model, y))(ys[1:])
    first = first_element(model, ys[0])
    elements = Element(*[fnp.concatenate([a[None], b]) for a, b in zip(first, later, strict=True)])
    prefixes = lax.associative_scan(ft.vmap(combine), elements)
    return Belief(prefixes.b, prefixes.C)


def log_likelihood(model: Model, beliefs: Belief, ys: Array) -> Array:
    """log p(ys), each measurement given those before it."""
    before = Belief(
        fnp.concatenate([model.m[None], beliefs.mean[:-1]]),
        fnp.concatenate([model.P[None], beliefs.covariance[:-1]]),
    )

    def one(belief: Belief, y: Array) -> Array:
        belief = predict(model, belief)
        S = gain(model, belief.covariance)[0]
        surprise = y - model.H @ belief.mean
        return -0.5 * (surprise @ fnp.linalg.solve(S, surprise) + fnp.linalg.slogdet(2 * math.pi * S)[1])

    return ft.vmap(one)(before, ys).sum()


FILTERS: dict[str, Callable[[Model, Array], Belief]] = {
    "in sequence": filter_in_sequence,
    "in parallel": filter_in_parallel,
}


def objective(name: str, params: Array, ys: Array) -> tuple[Array, Belief]:
    """The log-likelihood of the parameters by the filter of this name, and its beliefs."""
    model = moving_point(params)
    beliefs = FILTERS[name](model, ys)
    return log_likelihood(model, beliefs, ys), beliefs


def simulate(params: np.ndarray, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States f[length, 2] and measurements f[length, 1] drawn from the model."""
    model = Model(*map(np.asarray, moving_point(params)))
    rng = np.random.default_rng(seed)
    x, states = rng.multivariate_normal(model.m, model.P), []
    for push in rng.multivariate_normal(np.zeros(2), model.Q, length):
        x = model.F @ x + push
        states.append(x)
    xs = np.stack(states)
    return xs, xs @ model.H.T + np.exp(params[1]) * rng.standard_normal((length, 1))


class Run(NamedTuple):
    """Beliefs, log-likelihood and its gradient by each filter; and the parameters, true and found."""

    beliefs: dict[str, Belief]
    likelihoods: dict[str, float]
    gradients: dict[str, np.ndarray]
    truth: np.ndarray
    found: np.ndarray


def fit(params: np.ndarray, ys: np.ndarray, steps: int = 12) -> np.ndarray:
    """The parameters of the largest likelihood, by Newton's method on the filter in sequence."""
    f = lambda p: objective("in sequence", p, ys)[0]

    @ft.jit
    def step(p: Array) -> Array:
        gradient, curvature = ft.grad(f)(p), ft.hessian(f)(p)
        size, axes = fnp.linalg.eigh(curvature)  # uphill along every axis, whichever way it is curved
        move = axes @ (axes.T @ gradient / fnp.maximum(abs(size), 1.0))
        return p + move / fnp.maximum(1.0, abs(move).max())

    for _ in range(steps):
        params = step(params)
    return np.asarray(params)


def main(arguments: Sequence[str] | None = None) -> Run:
    """Filter both ways, differentiate both ways, fit the noise, and print what came out."""
    parser = argparse.ArgumentParser(
        prog="kalman", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=200, help="measurements; 200")
    options = parser.parse_args(arguments)
    truth, guess = np.log([0.8, 0.3]), np.log([3.0, 1.0])
    with jax.enable_x64(True):
        xs, ys = simulate(truth, options.length)
        results = {
            name: ft.jit(ft.value_and_grad(lambda p, name=name: objective(name, p, ys), has_aux=True))(guess)
            for name in FILTERS
        }
        found = fit(guess, ys)
        after = np.asarray(objective("in sequence", found, ys)[1].mean)
    run = Run(
        {name: Belief(*map(np.asarray, beliefs)) for name, ((_, beliefs), _) in results.items()},
        {name: float(value) for name, ((value, _), _) in results.items()},
        {name: np.asarray(gradient) for name, (_, gradient) in results.items()},
        truth,
        found,
    )
    for name in FILTERS:
        push, error = run.gradients[name]
        print(f"{name}: log-likelihood {run.likelihoods[name]:.8f}, gradient {push:.8f} {error:.8f}")
    apart = max(abs(a - b).max() for a, b in zip(*run.beliefs.values(), strict=True))
    print(f"beliefs at {len(ys)} times differ by {apart:.1e} at most")
    print(f"noise found: push {np.exp(found[0]):.3f}, error {np.exp(found[1]):.3f}; true: 0.800, 0.300")
    rms = lambda x: float(np.sqrt(np.mean((x - xs[:, 0]) ** 2)))
    print(f"error of the position: measured {rms(ys[:, 0]):.3f}, filtered {rms(after[:, 0]):.3f}")
    return run


if __name__ == "__main__":
    main()
