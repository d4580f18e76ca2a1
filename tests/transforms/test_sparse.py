"""Sparse Jacobians: the pattern covers, the values are the dense ones, and structure is found to the entry."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from jax import numpy as jnp, tree_util

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ArgumentError, DtypeError
from tests.composition.random_programs import FUNCTRACE, control_programs, function, programs

N = 8
X = np.random.default_rng(0).uniform(0.2, 1.5, N).astype(np.float32)
GRID = np.random.default_rng(1).uniform(0.2, 1.5, (5, 6)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(3, 3)).astype(np.float32)
BAND = np.where(abs(np.subtract.outer(np.arange(N), np.arange(N))) < 2, 0.5, 0).astype(np.float32)
EDGES = np.array([[0, 3], [2, 5], [7, 1], [3, 4]])


@ft.custom_jvp
def clipped(x):
    """A function with a pushforward of its own."""
    return x * 2.0


@ft.custom_vjp
def halved(x):
    """A function with a pullback of its own."""
    return x[1:] * x[:-1]


clipped.defjvp(lambda xs, dxs: (xs[0] * 2.0, dxs[0] * 2.0))
halved.defvjp(lambda x: (x[1:] * x[:-1], x), lambda x, ct: (fnp.pad(ct * x[1:], (0, 1)) + fnp.pad(ct * x[:-1], (1, 0)),))


def tridiagonal(x):
    """A heat equation's residual."""
    u = fnp.pad(x, (1, 1))
    return u[:-2] - 2 * u[1:-1] + u[2:] + fnp.sin(x)


def laplacian(u):
    """The five-point stencil, with a source."""
    v = fnp.pad(u, ((1, 1), (1, 1)))
    return v[2:, 1:-1] + v[:-2, 1:-1] + v[1:-1, 2:] + v[1:-1, :-2] - 4 * u + fnp.exp(u)


def stepped(x):
    """A few steps of a scan in which each mixes neighbours."""
    return ft.lax.scan(lambda s, _: (s + 0.1 * fnp.roll(s, 1) ** 2, None), x, None, 2)[0]


def recurrent(x):
    """A running state, of which every output reads what came before."""
    return ft.lax.scan(lambda s, x: (fnp.tanh(s + x), s * x), fnp.float32(0.5), x)[1]


def long_scan(x):
    """More steps than are followed one by one."""
    return ft.lax.scan(lambda s, y: (s, s[0] * y), x[:2], fnp.tile(x, 20))[1][:N]


def while_looped(x):
    """A while loop over two coupled entries and others on their own."""
    body = lambda c: (c[0] + 1, c[1].at[0].add(0.1 * c[1][1]) * 1.1)
    return ft.lax.while_loop(lambda c: c[0] < 3, body, (0, x))[1]


def counted(x):
    """A loop whose counter says where it reads."""
    return ft.lax.fori_loop(0, 4, lambda i, s: s.at[i].set(s[i] * x[i + 1]), x)


def branched(x):
    """A choice between two patterns, which is the union of them."""
    return ft.lax.cond(x.sum() > 0, lambda x: x * x[::-1], lambda x: fnp.roll(x, 1), x)


def solved(x):
    """Dense in its batch."""
    a = x[:4].reshape(2, 2) + 3 * fnp.eye(2, dtype=fnp.float32)
    return fnp.linalg.solve(a, x[4:6])


# Function, argument, and the number of entries that depend: exactly where structure says so, None where it is not said.
TABLE: dict[str, tuple[Any, Any, int | None]] = {
    "elementwise": (lambda x: fnp.sin(x) * x + fnp.exp(-x), X, N),
    "broadcast": (lambda x: x[:2, None] * x[None, 2:5], X, 12),
    "constant part": (lambda x: fnp.concatenate([x[:2], fnp.ones(3, fnp.float32)]), X, 2),
    "stop_gradient": (lambda x: x * ft.stop_gradient(x[::-1]), X, N),
    "steps": (lambda x: fnp.floor(x) + fnp.sign(x), X, 0),
    "tridiagonal": (tridiagonal, X, 3 * N - 2),
    "laplacian": (laplacian, GRID, 5 * 30 - 2 * 11),
    "reshape and transpose": (lambda x: x.reshape(2, 4).T.ravel() ** 2, X, N),
    "strided, reversed, padded": (lambda x: fnp.pad(x[1::3][::-1], (2, 1)), X, 3),
    "stack": (lambda x: fnp.stack([x[:3], x[3:6]], 1), X, 6),
    "sum": (lambda x: x.reshape(2, 4).sum(1), X, 8),
    "mean of neighbours": (lambda x: (x[1:] + x[:-1]) / 2, X, 14),
    "max": (lambda x: x.reshape(2, 4).max(1), X, 8),
    "prod": (lambda x: x.reshape(4, 2).prod(1), X, 8),
    "logsumexp": (lambda x: ft.nn.functions.softmax(x.reshape(4, 2)) if False else fnp.exp(x.reshape(4, 2)).sum(1), X, 8),
    "dot with known zeros": (lambda x: BAND @ x, X, 3 * N - 2),
    "product of known zeros": (lambda x: x * (np.arange(N) % 2).astype(np.float32), X, N // 2),
    "matmul": (lambda x: x[:4].reshape(2, 2) @ x[4:].reshape(2, 2), X, 16),
    "batched matmul": (lambda x: fnp.einsum("bij,bj->bi", x.reshape(2, 2, 2), x[:4].reshape(2, 2)), X, None),
    "conv": (lambda u: jax_conv(u, WEIGHTS), GRID, None),
    "window sum": (lambda x: ft.from_jax(lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (3,), (1,), "VALID"))(x), X, 18),
    "max pool": (lambda u: ft.from_jax(pooled)(u), GRID[:4], 24),
    "gather": (lambda x: x[EDGES[:, 0]] - x[EDGES[:, 1]], X, 8),
    "iota index": (lambda x: x[fnp.arange(N // 2) * 2 + 1], X, 4),
    "scatter": (lambda x: fnp.zeros(N, fnp.float32).at[EDGES[:, 0]].add(x[EDGES[:, 1]] ** 2), X, 4),
    "scatter set": (lambda x: x.at[EDGES[:, 0]].set(x[EDGES[:, 1]] ** 2), X, 8),
    "scatter by data in rows": (lambda u: u.at[:, fnp.argmax(u[0])].set(u[:, 0]), GRID, None),
    "gather by data in rows": (lambda u: fnp.take_along_axis(u, fnp.argsort(u, 1), 1), GRID, 5 * 36),
    "cumsum": (fnp.cumsum, X, N * (N + 1) // 2),
    "cumprod": (fnp.cumprod, X, N * (N + 1) // 2),
    "cummax": (lambda x: ft.lax.cummax(x), X, N * (N + 1) // 2),
    "sort in rows": (lambda u: fnp.sort(u, 1), GRID, 5 * 36),
    "known choice": (lambda x: fnp.where(np.arange(N) < 3, x, x[::-1]), X, N),
    "choice by data": (lambda x: fnp.where(x > 1, x, x[::-1]), X, 2 * N),
    "scan": (stepped, X, 3 * N),
    "recurrent scan": (recurrent, X, N * (N + 1) // 2),
    "long scan": (long_scan, X, 2 * N - 1),
    "map": (lambda x: ft.lax.map(lambda y: y * y, x), X, N),
    "while": (while_looped, X, N + 1),
    "counted": (counted, X, N + 4),
    "cond": (branched, X, None),
    "jit": (lambda x: ft.jit(tridiagonal)(x) * x, X, 3 * N - 2),
    "checkpoint": (ft.checkpoint(tridiagonal), X, 3 * N - 2),
    "vmap": (lambda u: ft.vmap(tridiagonal)(u), GRID, 5 * 16),
    "custom_jvp": (lambda x: clipped(x) * x, X, N),
    "custom_vjp": (halved, X, 14),
    "gradient": (ft.grad(lambda x: (x[1:] * x[:-1] ** 2).sum()), X, 3 * N - 3 + 0),
    "solve": (solved, X, None),
    "cholesky": (lambda x: fnp.linalg.cholesky(x[:4].reshape(2, 2) @ x[:4].reshape(2, 2).T + 2 * np.eye(2, dtype=np.float32)), X, None),
    "fft in rows": (lambda u: fnp.abs(fnp.fft.rfft(u, axis=1)), GRID, None),
}  # fmt: skip


def jax_conv(u, w):
    """A convolution of one image, of which the window is known."""
    return ft.from_jax(lambda u: jax.lax.conv_general_dilated(u[None, None], w[None, None], (1, 1), "SAME"))(u)


def pooled(u):
    """The greatest of each block of four."""
    return jax.lax.reduce_window(u, -jnp.inf, jax.lax.max, (2, 2), (2, 2), "VALID")


@pytest.mark.parametrize("name", TABLE)
def test_is_the_dense_jacobian_and_as_tight_as_structure_is(name):
    f, x, nnz = TABLE[name]
    found = ft.jacobian(f, sparse="auto")(x)
    expected = np.asarray(ft.jacfwd(f)(x) if name != "custom_vjp" else ft.jacrev(f)(x))
    dense = np.asarray(found.todense() if hasattr(found, "todense") else found)
    np.testing.assert_allclose(dense, expected, rtol=2e-5, atol=1e-5)
    if nnz is not None:
        assert ft.sparsity(f)(x).nnz == nnz
