"""Norms of single examples' gradients, and the sum of them clipped, with and without making the gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

TITLE = "Gradients of single examples: their norms, and their sum clipped for DP-SGD"
NOTE = """\
`per_example_norms` and `per_example_clipped_grad` beside `vmap(grad)`, all of them jitted. The memory is that of XLA's
temporaries. "One gradient" is what training without privacy takes, of the sum of the losses, for scale."""
GHOST, OURS, JAX, PLAIN = "functrace per_example", "functrace vmap(grad)", "jax vmap(grad)", "functrace, one gradient"
RNG = np.random.default_rng(0)

Loss = Callable[..., Any]


def normal(*shape: int, scale: float = 1.0) -> Any:
    """Normal numbers."""
    return scale * RNG.standard_normal(shape).astype(np.float32)


def cross_entropy(np_: Any, logits: Any, label: Any) -> Any:
    """That of one label, by arithmetic that both libraries have."""
    top = logits - logits.max()
    return np_.log(np_.exp(top).sum()) - (top * (np_.arange(logits.shape[-1]) == label)).sum()


def mlp(np_: Any, lax: Any) -> Loss:
    """784-512-512-10, tanh."""

    def loss(params: Any, x: Any, label: Any) -> Any:
        *hidden, (w, b) = params
        for w_i, b_i in hidden:
            x = np_.tanh(x @ w_i + b_i)
        return cross_entropy(np_, x @ w + b, label)

    return loss


def cnn(np_: Any, lax: Any) -> Loss:
    """Three convolutions of 3 x 3, the last two with a stride of 2, the mean over places, a dense layer."""

    def loss(params: Any, x: Any, label: Any) -> Any:
        *kernels, w = params
        x = x[None]
        for i, kernel in enumerate(kernels):
            x = np_.maximum(lax.conv_general_dilated(
                x, kernel, (1 + (i > 0),) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ), 0)  # fmt: skip
        return cross_entropy(np_, x.mean((0, 1, 2)) @ w, label)

    return loss


def text(np_: Any, lax: Any) -> Loss:
    """An embedding, two dense layers at each of 16 positions, logits of a vocabulary."""

    def loss(params: Any, tokens: Any, label: Any) -> Any:
        x = np_.take(params[0], tokens, axis=0)
        for w in params[1:3]:
            x = np_.tanh(x @ w)
        return cross_entropy(np_, x.mean(0) @ params[3], label)

    return loss


def tasks() -> dict[str, tuple[Callable[[Any, Any], Loss], Any, tuple[Any, ...]]]:
    """By name: the loss of each library, the params, a batch."""
    sizes = (784, 512, 512, 10)
    dense = [(normal(m, n, scale=m**-0.5), np.zeros(n, np.float32)) for m, n in pairwise(sizes)]
    channels = (3, 32, 64, 128)
    kernels = [normal(3, 3, m, n, scale=(9 * m) ** -0.5) for m, n in pairwise(channels)]
    words = [normal(5_000, 128), normal(128, 256, scale=0.1), normal(256, 256, scale=0.1), normal(256, 10, scale=0.1)]
    labels = lambda n: RNG.integers(0, 10, n).astype(np.int32)
    return {
        "MLP, 128 examples": (mlp, dense, (normal(128, 784), labels(128))),
        "CNN, 64 examples": (cnn, [*kernels, normal(128, 10, scale=0.1)], (normal(64, 16, 16, 3), labels(64))),
        "words, 64 examples": (text, words, (RNG.integers(0, 5_000, (64, 16)), labels(64))),
    }


def by_vmap(t: Any, np_: Any, tree: Any, loss: Loss, clip: bool) -> Callable[..., Any]:
    """The norms, or the sum clipped to their median, from the gradient of each example."""

    def run(params: Any, *batch: Any) -> Any:
        each = t.vmap(t.grad(loss), in_axes=(None, *(0,) * len(batch)))(params, *batch)
        squares = sum((g.reshape(g.shape[0], -1) ** 2).sum(1) for g in tree.leaves(each))
        if not clip:
            return np_.sqrt(squares)
        weights = 1 / np_.maximum(np_.sqrt(squares), 1)
        return tree.map(lambda g: np_.tensordot(weights, g, 1), each)

    return t.jit(run)


def contenders(make: Callable[[Any, Any], Loss], clip: bool) -> dict[str, Callable[..., Any]]:
    """Jitted functions of `(params, *batch)`."""
    loss = make(fnp, ft.lax)
    found = {
        GHOST: ft.jit(ft.per_example_clipped_grad(loss, 1.0) if clip else ft.per_example_norms(loss)),
        OURS: by_vmap(ft, fnp, ft.tree, loss, clip),
        JAX: by_vmap(jax, jnp, jax.tree, make(jnp, jax.lax), clip),
    }
    if clip:
        found[PLAIN] = ft.jit(ft.grad(lambda params, *batch: ft.vmap(loss, (None, 0, 0))(params, *batch).sum()))
    return found


def measure() -> list[Row]:
    """A row for the norms and one for the clipped sum of each model."""
    rows = []
    for name, (make, params, batch) in tasks().items():
        args = jax.tree.map(jnp.asarray, (params, *batch))
        for clip in (False, True):
            found = contenders(make, clip)
            check_agreement({n: f for n, f in found.items() if n != PLAIN}, args)
            timed = {n: lambda f=f, args=args: jax.block_until_ready(f(*args)) for n, f in found.items()}
            memory = {
                n: f.lower(*args).compile().memory_analysis().temp_size_in_bytes for n, f in found.items()
            }
            what = "clipped sum" if clip else "norms"
            rows.append(Row(f"{name}: {what}", alternate(timed, rounds=7), "", memory))
    return rows


def check_agreement(found: dict[str, Callable[..., Any]], args: tuple[Any, ...]) -> None:
    """All give what jax's vmap(grad) gives."""
    expected = jax.tree.leaves(found[JAX](*args))
    for name, f in found.items():
        for a, b in zip(jax.tree.leaves(f(*args)), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(abs(b).max()), err_msg=name)
