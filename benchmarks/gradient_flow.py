"""What it costs a training step to have its gradient's flow looked at every tenth time."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import nn, numpy as fnp

TITLE = "Gradient flow, sampled every 10 steps of an 8-layer MLP"
NOTE = "Ten steps of gradient descent in each turn, one of which is sampled; a second is a second of ten steps."
LAYERS, WIDTH, BATCH = 8, 256, 128


def loss(params, x, y):
    """Mean squared error of an MLP with a scope a layer."""
    for i, layer in enumerate(params[:-1]):
        with ft.named_scope(f"layer_{i}"):
            x = nn.relu(x @ layer["W"] + layer["b"])
    with ft.named_scope("head"):
        return fnp.mean((x @ params[-1]["W"] + params[-1]["b"] - y) ** 2)


def descend(params, gradient):
    """A step down."""
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)


def measure() -> list[Row]:
    """A row: the plain step, the sampled one, and one that is looked at every time."""
    rng = np.random.default_rng(0)
    sizes = [WIDTH] * LAYERS + [1]
    params = [
        {"W": jnp.asarray(rng.normal(size=(m, n)) * (2 / m) ** 0.5, jnp.float32), "b": jnp.zeros(n)}
        for m, n in pairwise(sizes)
    ]
    x = jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(BATCH, 1)), jnp.float32)

    @ft.jit
    def plain(params, count):
        value, gradient = ft.value_and_grad(loss)(params, x, y)
        return descend(params, gradient), value

    @ft.jit
    def sampled(params, count):
        value, gradient, stats = ft.debug.flow_stats(loss, when=count % 10 == 0)(params, x, y)
        return descend(params, gradient), value, stats

    @ft.jit
    def always(params, count):
        value, gradient, stats = ft.debug.flow_stats(loss)(params, x, y)
        return descend(params, gradient), value, stats

    def ten(step):
        def run():
            p = params
            for count in range(10):
                p, *rest = step(p, count)
            return jax.block_until_ready((p, rest))

        return run

    np.testing.assert_allclose(ten(plain)()[1][0], ten(sampled)()[1][0], rtol=1e-4)
    assert sampled(params, 0)[2].report().verdict == "healthy"
    seconds = alternate({"plain": ten(plain), "sampled": ten(sampled), "every step": ten(always)}, rounds=11)
    return [Row("ten steps", seconds, "ratios of the plain step's time to the others'")]
