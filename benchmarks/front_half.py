"""Preparing a function for XLA: trace, differentiate, lower. Nothing is compiled or run while the clock does."""

from __future__ import annotations

import deep_transformer
import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

TITLE = "From Python to StableHLO"
NOTE = "Each time a fresh function, so that nobody finds what was traced before."
LAYERS, WIDTH, BATCH, LINKS = 50, 64, 32, 10_000


def mlp(n):
    """The loss of a deep MLP."""

    def loss(params, x):
        for layer in params:
            x = n.tanh(x @ layer["W"] + layer["b"])
        return n.mean(x**2)

    return loss


def chain(n):
    """A chain of operations on a scalar."""

    def loss(x):
        for _ in range(LINKS // 2):
            x = n.sin(x) * x
        return x

    return loss


def chain_gradient(n, value_and_grad):
    """Its gradient."""
    return value_and_grad(chain(n))


def tasks():
    """Name, what makes a fresh function of a numpy and of a `value_and_grad`, and the function's arguments."""
    rng = np.random.default_rng(0)
    params = [
        {"W": jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, jnp.float32), "b": jnp.zeros(WIDTH)}
        for _ in range(LAYERS)
    ]
    x = jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32)
    yield f"gradient of a {LAYERS}-layer MLP", lambda n, grad: grad(mlp(n)), (params, x)
    yield "training step of a 24-layer transformer", deep_transformer.make_step, deep_transformer.arguments(24)
    yield f"gradient of {LINKS:,} scalar operations", chain_gradient, (jnp.float32(0.5),)


def rows_of(task, make, args) -> list[Row]:
    """Rows for the traced function and for the lowered one."""
    ours, theirs = lambda: make(fnp, ft.value_and_grad), lambda: make(jnp, jax.value_and_grad)
    if make is not chain_gradient:  # which takes XLA minutes
        # The value, and the gradient or its square, which comes last.
        both = [jax.tree.leaves([(y := jax.jit(f())(*args))[0], y[-1]]) for f in (ours, theirs)]
        for a, b in zip(*both, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.abs(b).max()))
    return [
        Row(f"{task}: trace and differentiate", alternate({
            "functrace": lambda: ft.make_program(ours())(*args),
            "jax": lambda: jax.make_jaxpr(theirs())(*args),
        }, rounds=5)),
        Row(f"{task}: the same, then lower", alternate({
            "functrace": lambda: ft.jit(ours()).lower(*args),
            "jax": lambda: jax.jit(theirs()).lower(*args),
        }, rounds=5)),
    ]  # fmt: skip


def measure() -> list[Row]:
    """Two rows a task."""
    return [row for task in tasks() for row in rows_of(*task)]
