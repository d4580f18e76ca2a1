"""A training step of a transformer that is written as a Python loop over its layers."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, calls, first_results

import functrace as ft
from functrace import numpy as fnp

TITLE = "Training step of a transformer, its layers a Python loop"
NOTE = """Adam by hand, in each contender's numpy and otherwise the same code. "first step" is from the Python function
to its first result, once: tracing, lowering, compilation and a step; on a GPU it needs a process of its own, and is
under "with nothing kept" below. The norm of a layer can be written with `x - mean` computed once, or with it written
twice: XLA for CPU tells them apart. 96 layers would take it many minutes as JAX writes them."""


class Size(NamedTuple):
    """Of a transformer and of what it is trained on."""

    width: int
    heads: int
    tokens: int
    batch: int
    words: int
    dtype: str

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Shapes of the matrices of a layer."""
        d = self.width
        return {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}

    @property
    def vectors(self) -> dict[str, int]:
        """Lengths of the vectors of a layer; a name with g has ones about it, the others zeros."""
        d = self.width
        return {"g1": d, "b1": d, "g2": d, "b2": d, "c1": 4 * d, "c2": d}


UNROLLED = "functrace, roll=False"
SMALL = Size(width=128, heads=4, tokens=64, batch=8, words=256, dtype="float32")
LARGE = Size(width=1024, heads=16, tokens=512, batch=8, words=8192, dtype="bfloat16")


def centred_once(n, x, g, b):
    """A layer's norm."""
    x = x - x.mean(-1, keepdims=True)
    return x / n.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * g + b


def centred_twice(n, x, g, b):
    """The same, written with the mean and the variance."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / n.sqrt(variance + 1e-5) * g + b


def make_step(n, value_and_grad, norm=centred_once, size=SMALL):
    """The step of a fresh function, in one numpy and with one gradient."""
    width, heads, tokens, batch, *_ = size

    def layer(p, x):
        h = norm(n, x, p["g1"], p["b1"])
        q, k, v = [(h @ p[m]).reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3) for m in "qkv"]
        score = q @ k.transpose(0, 1, 3, 2) / (width / heads) ** 0.5
        score = n.where(n.tril(n.ones((tokens, tokens), bool)), score, -1e9)
        weight = n.exp(score - score.max(-1, keepdims=True))
        mixed = (weight / weight.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ p["o"]
        h = norm(n, x, p["g2"], p["b2"]) @ p["up"] + p["c1"]
        return x + (0.5 * h * (1 + n.tanh(0.79788456 * (h + 0.044715 * h**3)))) @ p["down"] + p["c2"]

    def loss(params, x, y):
        x = params["embed"][x]
        for p in params["layers"]:
            x = layer(p, x)
        z = (x @ params["out"]).astype("float32")
        z = z - z.max(-1, keepdims=True)
        return -n.mean(n.take_along_axis(z - n.log(n.exp(z).sum(-1, keepdims=True)), y[..., None], -1))

    def step(params, m, v, t, x, y):
        value, g = value_and_grad(loss)(params, x, y)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        a, b = 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1)
        update = lambda p, m, v: (p - 1e-3 * (m / a) / (n.sqrt(v / b) + 1e-8)).astype(p.dtype)
        params = jax.tree.map(update, params, m, v)
        return value, params, m, v

    return step


def arguments(depth, size=SMALL):
    """Parameters, moments, step, tokens and targets."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32) / 20, size.dtype)
    layers = [
        {
            **{k: draw(*s) for k, s in size.matrices.items()},
            **{k: draw(s) + k.startswith("g") for k, s in size.vectors.items()},
        }
        for _ in range(depth)
    ]
    params = {"embed": draw(size.words, size.width), "out": draw(size.width, size.words), "layers": layers}
    zeros = jax.tree.map(jnp.zeros_like, params)
    x, y = rng.integers(0, size.words, (2, size.batch, size.tokens))
    return params, zeros, zeros, jnp.float32(0), x, y


def measure() -> list[Row]:
    """Rows for the first step and for a step, by depth."""
    if jax.default_backend() == "cpu":
        tasks = product((12, 24), (centred_once, centred_twice))
        deeper = rows(96, centred_once, SMALL, ("functrace", UNROLLED))
        return [*[row for task in tasks for row in rows(*task, SMALL)], *deeper]
    # XLA for GPU keeps in the process how it tuned a kernel, so that the second contender's first step has it for free.
    return rows(24, centred_once, LARGE)[1:]


def rows(depth, norm, size, contenders=("functrace", "jax")) -> list[Row]:
    """What one transformer takes."""
    args = arguments(depth, size)
    ours = lambda: make_step(fnp, ft.value_and_grad, norm, size)
    steps = {
        "functrace": lambda: ft.jit(ours()),
        UNROLLED: lambda: ft.jit(ours(), roll=False),
        "jax": lambda: jax.jit(make_step(jnp, jax.value_and_grad, norm, size)),
    }
    first = first_results({name: steps[name] for name in contenders}, args)
    losses = [result[0] for result in first.results.values()]
    np.testing.assert_allclose(*losses, rtol=1e-5 if size.dtype == "float32" else 1e-2)
    task = f"{depth} layers of width {size.width}, {norm.__name__.replace('_', ' ')}"
    return [
        Row(f"{task}, first step", first.seconds),
        Row(f"{task}, a step", calls(first, args, rounds=9), memory=first.memory),
    ]
