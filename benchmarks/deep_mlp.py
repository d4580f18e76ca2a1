"""Preparing the gradient of a 50-layer MLP: trace, differentiate, lower. Nothing is compiled or run."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

TITLE = "Gradient of a 50-layer MLP, from Python to StableHLO"
LAYERS, WIDTH, BATCH = 50, 64, 32


def make_loss(np_):
    """A fresh function each time, so that no rival finds its own trace again."""

    def loss(params, x):
        for layer in params:
            x = np_.tanh(x @ layer["W"] + layer["b"])
        return np_.mean(x**2)

    return loss


def measure() -> list[Row]:
    """Rows for the traced gradient and for the lowered one."""
    rng = np.random.default_rng(0)
    params = [
        {"W": jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, jnp.float32), "b": jnp.zeros(WIDTH)}
        for _ in range(LAYERS)
    ]
    x = jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32)
    ours = jax.jit(ft.grad(make_loss(fnp)))(params, x)
    theirs = jax.jit(jax.grad(make_loss(jnp)))(params, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    return [
        Row("trace and differentiate", alternate({
            "functrace": lambda: ft.make_program(ft.grad(make_loss(fnp)))(params, x),
            "jax": lambda: jax.make_jaxpr(jax.grad(make_loss(jnp)))(params, x),
        })),
        Row("the same, then lower: jit(grad(loss)).lower()", alternate({
            "functrace": lambda: ft.jit(ft.grad(make_loss(fnp))).lower(params, x),
            "jax": lambda: jax.jit(jax.grad(make_loss(jnp))).lower(params, x),
        })),
    ]  # fmt: skip
