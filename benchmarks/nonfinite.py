"""What watching for NaN and Inf costs a step of training: nothing, a look at the results, or at every equation."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.debug.finiteness import Finiteness, loops_in
from functrace.lower.execute import run_compiled
from functrace.rewrites.thread import extent, thread

TITLE = "A step of training, watched for NaN and Inf"
NOTE = """`debug_nonfinite` looks at the results of a jitted step; `every equation` is the Program that `find_nonfinite`
runs, which notes when each result was first not finite; `find_nonfinite`, the whole call, also traces the step anew."""


def mlp(depth: int, width: int, batch: int):
    """A loss, parameters, a batch."""
    rng = np.random.default_rng(0)
    layers = [
        {"W": jnp.asarray(rng.normal(size=(width, width)) / width**0.5, jnp.float32), "b": jnp.zeros(width)}
        for _ in range(depth)
    ]

    def loss(params, x):
        for layer in params:
            x = fnp.tanh(x @ layer["W"] + layer["b"])
        return fnp.mean(x**2)

    return loss, layers, jnp.asarray(rng.normal(size=(batch, width)), jnp.float32)


def rnn(length: int, width: int, batch: int):
    """A loss, parameters, a batch of sequences."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / width**0.5, jnp.float32)
    params = {"W": draw(width, width), "U": draw(width, width), "b": jnp.zeros(width)}

    def loss(p, xs):
        step = lambda h, x: (fnp.tanh(h @ p["W"] + x @ p["U"] + p["b"]), None)
        return fnp.mean(lax.scan(step, fnp.zeros((batch, width)), xs)[0] ** 2)

    return loss, params, draw(length, batch, width)


def measure() -> list[Row]:
    """A row a model."""
    models = {
        "MLP, 4 layers of 64, batch 32": mlp(4, 64, 32),
        "MLP, 3 layers of 512, batch 256": mlp(3, 512, 256),
        "RNN by scan, 50 steps, width 32, batch 16": rnn(50, 32, 16),
        "RNN by scan, 50 steps, width 128, batch 32": rnn(50, 128, 32),
    }
    return [Row(name, timed(*model)) for name, model in models.items()]


def timed(loss, params, batch) -> dict[str, float]:
    """Seconds of the step as it is, and as it is watched."""

    def step(params, batch):
        value, gradient = ft.value_and_grad(loss)(params, batch)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    jitted, program = ft.jit(step), ft.make_program(step)(params, batch)
    watch = Finiteness(extent(program, Finiteness(0, 0)), loops_in(program))
    watched, values = thread(program, watch), [*jax.tree.leaves(params), batch]
    nothing = [jnp.asarray(x) for x in watch.initial()]
    _, *outputs = run_compiled(watched, [*nothing, *values])
    for a, b in zip(outputs, jax.tree.leaves(jitted(params, batch)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def checked():
        with ft.debug.debug_nonfinite():
            jitted(params, batch)

    return alternate({
        "step": lambda: jax.block_until_ready(jitted(params, batch)),
        "debug_nonfinite": checked,
        "every equation": lambda: jax.block_until_ready(run_compiled(watched, [*nothing, *values])),
        "find_nonfinite": lambda: ft.debug.find_nonfinite(step)(params, batch),
    })  # fmt: skip
