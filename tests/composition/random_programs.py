"""Random pure functions and random stacks of transforms, written once for functrace and for JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp


class Library(NamedTuple):
    """A library of transforms and its array functions."""

    transforms: Any
    np: Any


FUNCTRACE = Library(ft, fnp)
JAX = Library(jax, jnp)

# Smooth where they are used: every value is kept in (-1, 1) by the last step of a program.
UNARY = {
    "sin": lambda np, x: np.sin(x),
    "cos": lambda np, x: np.cos(x),
    "tanh": lambda np, x: np.tanh(x),
    "exp": lambda np, x: np.exp(-x * x),
    "log1p": lambda np, x: np.log1p(x * x),
    "sqrt": lambda np, x: np.sqrt(x * x + 0.5),
    "reciprocal": lambda np, x: 1.0 / (x * x + 1.5),
    "cube": lambda np, x: x**3,
    "cumsum": lambda np, x: np.cumsum(x) * 0.3,
    "reverse": lambda np, x: x[::-1],
    "roll": lambda np, x: np.roll(x, 1),
    "softmax": lambda np, x: np.exp(x) / np.sum(np.exp(x)),
    "outer": lambda np, x: np.sum(x[:, None] * np.sin(x)[None, :], axis=1) * 0.2,
    "sort": lambda np, x: np.sort(x + np.arange(x.shape[0]) * 3.0) * 0.1,
    "gather": lambda np, x: np.asarray(x)[np.array([0, 2, 1, 1])],
    "set": lambda np, x: np.asarray(x).at[1].set(x[0] * x[2]),
    "dot": lambda np, x: np.dot(MATRIX.astype(x.dtype), x),
    "norm": lambda np, x: x / np.sqrt(np.sum(x * x) + 1.0),
    "prod": lambda np, x: x * np.prod(x + 2.0) * 0.02,
    "max": lambda np, x: x - np.max(x + np.arange(x.shape[0]) * 3.0),
    "reshape": lambda np, x: np.reshape(np.reshape(x, (2, 2)).T, (4,)),
    "pad": lambda np, x: np.pad(x[1:], (1, 0)) + np.concatenate([x[:2], x[:2]]),
}
BINARY = {
    "add": lambda np, x, y: x + y,
    "sub": lambda np, x, y: x - y,
    "mul": lambda np, x, y: x * y,
    "div": lambda np, x, y: x / (y * y + 2.0),
    "where": lambda np, x, y: np.where(x > y, np.sin(x), y * x),
    "logaddexp": lambda np, x, y: np.logaddexp(x, y),
    "atan2": lambda np, x, y: np.arctan2(x, y * y + 1.0),
    "einsum": lambda np, x, y: np.einsum("i,j->i", x, y) * 0.3,
}
MATRIX = np.array([[0.3, -0.2, 0.5, 0.1], [0.2, 0.4, -0.1, 0.6], [-0.5, 0.2, 0.3, 0.2], [0.1, 0.1, 0.4, -0.3]])
X = np.array([0.3, -0.7, 0.55, 0.9])
V = np.array([0.7, 0.2, -0.4, 0.6])

instruction = st.one_of(
    st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 9)),
    st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 9), st.integers(0, 9)),
)
programs = st.lists(instruction, min_size=1, max_size=6)


def function(library: Library, program: Any) -> Any:
    """The function of a vector of four numbers that a random program stands for."""

    def f(x: Any) -> Any:
        values = [x]
        for name, *operands in program:
            table = UNARY if name in UNARY else BINARY
            values.append(table[name](library.np, *[values[i % len(values)] for i in operands]))
        return library.np.tanh(values[-1] + 0.1 * x)

    return f


def with_pushforward(lib: Any, f: Any) -> Any:
    """`f` with its own derivative as a custom_jvp."""
    g = lib.transforms.custom_jvp(f)
    g.defjvp(lambda xs, dxs: lib.transforms.jvp(f, xs, dxs))
    return g


def with_pullback(lib: Any, f: Any) -> Any:
    """`f` with its own derivative as a custom_vjp, which JAX refuses forward mode."""
    if lib is JAX:
        return f
    g = ft.custom_vjp(f)
    g.defvjp(lambda x: ft.vjp(f, x), lambda pullback, ct: pullback(ct))
    return g


def with_batching_rule(lib: Any, f: Any) -> Any:
    """`f` with its own batch as a custom_vmap, which JAX refuses reverse mode."""
    if lib is JAX:
        return f
    g = ft.custom_vmap(f)
    g.def_vmap(lambda size, batched, x: (ft.vmap(f)(x), True))
    return g


# Each turns a function of a vector into another one.
TRANSFORMS = {
    "grad": lambda lib, f: lib.transforms.grad(lambda x: lib.np.sum(f(x) * V)),
    "jvp": lambda lib, f: lambda x: lib.transforms.jvp(f, (x,), (V + 0.0 * x,))[1],
    "vjp": lambda lib, f: lambda x: lib.transforms.vjp(f, x)[1](f(x))[0],
    "linearize": lambda lib, f: lambda x: lib.transforms.linearize(f, x)[1](x),
    "jit": lambda lib, f: lib.transforms.jit(f),
    "vmap": lambda lib, f: lambda x: lib.np.sum(
        lib.transforms.vmap(f)(lib.np.stack([x, 0.5 * x])), axis=0
    ),
    "vmap_last": lambda lib, f: lambda x: lib.transforms.vmap(
        lambda s, y: f(y) * s, in_axes=(0, None), out_axes=1
    )(V, x).sum(axis=1),
    "jacfwd": lambda lib, f: lambda x: lib.np.sum(lib.transforms.jacfwd(f)(x), axis=0),
    "custom_jvp": lambda lib, f: with_pushforward(lib, f),
    "custom_vjp": lambda lib, f: with_pullback(lib, f),
    "custom_vmap": lambda lib, f: with_batching_rule(lib, f),
    "value_and_grad": lambda lib, f: lambda x: lib.transforms.value_and_grad(
        lambda y: lib.np.sum(f(y))
    )(x)[1],
}
stacks = st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=1, max_size=4)


def stacked(library: Library, program: Any, stack: Any) -> Any:
    """The random function under the stack of transforms."""
    f = function(library, program)
    for name in stack:
        f = TRANSFORMS[name](library, f)
    return f
