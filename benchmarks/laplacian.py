"""The Laplacian of networks by their inputs, beside folx and what JAX offers."""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

TITLE = "Laplacians"
NOTE = (
    "Value and Laplacian of a function of each of 64 points (16 from attention on), compiled; beside the time, what "
    "the compiled function has in temporary memory."
)
BATCH, WIDTH, HEADS, ELECTRONS = 64, 256, 4, 8


def matrices(rng, *sizes):
    """Random weights of a network with layers of these widths."""
    return [jnp.asarray(rng.normal(size=pair) / pair[0] ** 0.5, jnp.float32) for pair in pairwise(sizes)]


def mlp(n, params, x):
    """A tanh network of four layers."""
    *hidden, (w, b) = params
    for v, c in hidden:
        x = n.tanh(x @ v + c)
    return (x @ w + b)[0]


def attention(n, params, x):
    """A block of self-attention and a feedforward layer, each with a norm, over the particles of x, [particles * 3]."""
    embed, q, k, v, out, up, down = params
    h = x.reshape(-1, 3) @ embed
    split = lambda w: (norm(n, h) @ w).reshape(len(h), HEADS, -1)
    score = n.einsum("ihc,jhc->hij", split(q), split(k)) / 4
    weight = n.exp(score - score.max(-1, keepdims=True))
    mixed = n.einsum("hij,jhc->ihc", weight / weight.sum(-1, keepdims=True), split(v))
    h = h + mixed.reshape(len(h), -1) @ out
    return (h + n.tanh(norm(n, h) @ up) @ down).sum()


def norm(n, h):
    """Rows of mean 0 and variance 1."""
    h = h - h.mean(-1, keepdims=True)
    return h / n.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def slater(n, params, x):
    """Logarithm of a determinant of orbitals, each of one particle and the mean of all, times a Jastrow factor."""
    first, second, third, orbitals = params
    r = x.reshape(-1, 3)
    size = n.sqrt((r * r).sum(-1, keepdims=True))
    h = n.tanh(n.concatenate([r, size], 1) @ first)
    for w in (second, third):
        mean = n.broadcast_to(h.mean(0, keepdims=True), h.shape)
        h = n.tanh(n.concatenate([h, mean], 1) @ w)
    i, j = np.triu_indices(len(r), 1)
    distance = n.sqrt(((r[i] - r[j]) ** 2).sum(-1))
    return n.linalg.slogdet((h @ orbitals) * n.exp(-size))[1] - (1 / (1 + distance)).sum()


def pairs(n, params, x):
    """A network of the differences of all pairs of particles."""
    first, second = params
    r = x.reshape(-1, 3)
    return (n.tanh(n.tanh((r[:, None] - r[None]) @ first) @ second) ** 2).sum()


def independent(n, params, x):
    """Logarithm of a determinant of orbitals of one particle each."""
    first, second, third, orbitals = params
    r = x.reshape(-1, 3)
    h = n.tanh(n.tanh(n.tanh(r @ first[:3]) @ second[:64]) @ third[:64])
    return n.linalg.slogdet((h @ orbitals) * n.exp(-n.sqrt((r * r).sum(-1, keepdims=True))))[1]


def tasks():
    """Name, function, parameters and points."""
    rng = np.random.default_rng(0)
    points = lambda batch, d: jnp.asarray(rng.normal(size=(batch, d)), jnp.float32)
    for d in (3, 10, 50, 200):
        weights = matrices(rng, d, WIDTH, WIDTH, WIDTH, 1)
        params = [(w, jnp.asarray(rng.normal(size=w.shape[1]) / 10, jnp.float32)) for w in weights]
        yield f"tanh network, {d} inputs", mlp, params, points(BATCH, d)
    embed = matrices(rng, 3, 64)
    block = matrices(rng, 64, 64, 64, 64, 64) + matrices(rng, 64, 128, 64)
    yield f"attention, {ELECTRONS} particles", attention, embed + block, points(16, 3 * ELECTRONS)
    wide = [matrices(rng, m, n)[0] for m, n in ((4, 64), (128, 64), (128, 64), (64, ELECTRONS))]
    yield f"determinant, {ELECTRONS} particles", slater, wide, points(16, 3 * ELECTRONS)
    pair = matrices(rng, 3, 32, 32)
    yield f"features of pairs, {ELECTRONS} particles", pairs, pair, points(16, 3 * ELECTRONS)
    yield f"determinant of one-particle orbitals, {ELECTRONS} particles", independent, wide, points(16, 3 * ELECTRONS)


def contenders(f, params):
    """Functions of the points, by name."""

    def trace_of_hessian(x):
        g = lambda x: f(jnp, params, x)
        return g(x), jnp.trace(jax.hessian(g)(x))

    def forward_over_forward(x):
        g = lambda x: f(jnp, params, x)
        second = lambda e: jax.jvp(lambda x: jax.jvp(g, (x,), (e,))[1], (x,), (e,))[1]
        return g(x), jax.vmap(second)(jnp.eye(len(x))).sum()

    found = {
        "functrace": jax.jit(ft.vmap(ft.laplacian(lambda x: f(fnp, params, x)))),
        "jax, trace of the Hessian": jax.jit(jax.vmap(trace_of_hessian)),
        "jax, forward over forward": jax.jit(jax.vmap(forward_over_forward)),
    }
    if importlib.util.find_spec("folx"):
        import folx

        def forward(x, threshold=0):
            result = folx.forward_laplacian(lambda x: f(jnp, params, x), sparsity_threshold=threshold)(x)
            return result.x, result.laplacian

        found["folx"] = jax.jit(jax.vmap(forward))
        if f in (pairs, independent):
            found["folx, sparse"] = jax.jit(jax.vmap(lambda x: forward(x, 6)))
    return found


def measure() -> list[Row]:
    """A row a function."""
    rows = []
    for task, f, params, x in tasks():
        runs = contenders(f, params)
        expected = runs["jax, trace of the Hessian"](x)
        memory = {}
        for name, run in runs.items():
            for y, z in zip(run(x), expected, strict=True):
                np.testing.assert_allclose(y, z, rtol=1e-3, atol=1e-3 * float(np.abs(z).max()))
            memory[name] = run.lower(x).compile().memory_analysis().temp_size_in_bytes
        calls = {name: (lambda run=run, x=x: jax.block_until_ready(run(x))) for name, run in runs.items()}
        rows.append(Row(task, alternate(calls, rounds=31), "", memory))
    return rows
