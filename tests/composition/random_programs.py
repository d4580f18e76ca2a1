"""Random pure functions, with loops and branches, and random stacks of transforms, for functrace and for JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from tests.control.table import OURS, THEIRS


class Library(NamedTuple):
    """A library of transforms, its array functions, and its loops and branches."""

    transforms: Any
    np: Any
    control: Any


FUNCTRACE = Library(ft, fnp, OURS)
JAX = Library(jax, jnp, THEIRS)

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
    "gather": lambda np, x: np.take(x, np.array([0, 2, 1, 1])),
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

index = st.integers(0, 9)
instruction = st.one_of(
    st.tuples(st.sampled_from(sorted(UNARY)), index),
    st.tuples(st.sampled_from(sorted(BINARY)), index, index),
)
programs = st.lists(instruction, min_size=1, max_size=6)


def pick(values: Any, i: int) -> Any:
    """One of the values."""
    return values[i % len(values)]


def run(library: Library, program: Any, values: Any) -> list[Any]:
    """The values of a program's instructions, behind those that it is given."""
    values = list(values)
    for name, *operands in program:
        if name in CONTROL:
            values.append(CONTROL[name](library, values, *operands))
        else:
            table = UNARY if name in UNARY else BINARY
            values.append(table[name](library.np, *[pick(values, i) for i in operands]))
    return values


def stepped(library: Library, body: Any, s: Any, inside: Any, outside: Any) -> Any:
    """One step of a loop, which reads what is outside of it too. Its values stay in (-1, 1)."""
    return library.np.tanh(run(library, body, [*outside, *inside, s])[-1] + 0.1 * s)


def scanned(library: Library, values: Any, body: Any, i: int, over: str, carries: str, reverse: bool) -> Any:
    """A scan over rows, over the entries of a vector, or over nothing."""
    np, x = library.np, pick(values, i)
    xs = {"rows": np.stack([x, 0.5 * x, np.sin(x)]), "entries": x, "nothing": None}[over]

    def step(carry: Any, x: Any) -> Any:
        n, s, t = carry
        inside = [t, np.ones(4) * 0.1 * n] + ([] if x is None else [np.ones(4) * x])
        new = stepped(library, body, s, inside, values)
        return (n + 1, new, s if carries == "shifted" else t), {"new": new * s, "old": t}

    first = (0, np.tanh(values[-1]), np.tanh(x))
    length = 3 if xs is None else None
    (_, s, t), ys = library.control.scan(step, first, xs, length=length, reverse=reverse)
    return s + 0.3 * t + 0.2 * np.sum(ys["new"] * ys["old"], axis=0)


def while_looped(library: Library, values: Any, body: Any, i: int, bound: float, checkpoints: int) -> Any:
    """A loop that goes on while its state is above a bound."""
    np = library.np

    def going(val: Any) -> Any:
        n, s = val
        return (n < 9) & (np.sum(WEIGHTS * s) > bound)

    def step(val: Any) -> Any:
        n, s = val
        return n + 1, stepped(library, body, s, [np.ones(4) * 0.1 * n], values)

    first = (0, np.tanh(pick(values, i)))
    n, s = library.control.while_loop(going, step, first, checkpoints=checkpoints)
    return s + 0.1 * n


def counted(library: Library, values: Any, body: Any, i: int, j: int) -> Any:
    """A loop of as many steps as a vector has large entries, and one."""
    np = library.np
    step = lambda n, s: stepped(library, body, s, [np.ones(4) * 0.1 * n], values)
    return library.control.counted(0, large_entries(np, pick(values, i)) + 1, step, np.tanh(pick(values, j)))


def branched(library: Library, values: Any, bodies: Any, i: int, j: int, batched: str) -> Any:
    """A branch, chosen by a vector's sign if there are two, and by how many large entries it has if there are more."""
    np, x = library.np, pick(values, i)
    branches = [lambda y, body=body: stepped(library, body, y, [], values) for body in bodies]
    how = {"batched": batched} if library is FUNCTRACE else {}
    if len(branches) == 2:
        return library.control.cond(np.sum(WEIGHTS * x) > 0.0137, *branches, pick(values, j), **how)
    return library.control.switch(large_entries(np, x), branches, pick(values, j), **how)


def large_entries(np: Any, x: Any) -> Any:
    """How many entries are above a number that none is equal to."""
    return np.sum(x > 0.1337)


WEIGHTS = np.array([0.71, -0.37, 0.53, 0.29])
CONTROL = {"scan": scanned, "while": while_looped, "fori": counted, "branch": branched}


def control_instructions(depth: int) -> Any:
    """A loop or a branch, with loops and branches in it down to a depth."""
    inner = st.one_of(instruction, control_instructions(depth - 1)) if depth > 1 else instruction
    body = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(
            st.just("scan"), body, index, st.sampled_from(["rows", "entries", "nothing"]),
            st.sampled_from(["kept", "shifted"]), st.booleans(),
        ),
        st.tuples(st.just("while"), body, index, st.sampled_from([-3.0, -0.2, 0.15]), st.sampled_from([4, 6, 200])),
        st.tuples(st.just("fori"), body, index, index),
        st.tuples(
            st.just("branch"), st.lists(body, min_size=2, max_size=3), index, index,
            st.sampled_from(["select", "map"]),
        ),
    )  # fmt: skip


few = st.lists(instruction, max_size=2)
control_programs = st.builds(lambda a, loop, b: [*a, loop, *b], few, control_instructions(3), few)


def function(library: Library, program: Any) -> Any:
    """The function of a vector of four numbers that a random program stands for."""
    return lambda x: library.np.tanh(run(library, program, [x])[-1] + 0.1 * x)


def with_pushforward(lib: Any, f: Any) -> Any:
    """`f` with its own derivative as a custom_jvp."""
    g = lib.transforms.custom_jvp(f)
    g.defjvp(lambda xs, dxs: lib.transforms.jvp(f, xs, dxs))
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
    "custom_vjp": lambda lib, f: lib.control.with_pullback(f),
    "custom_vmap": lambda lib, f: with_batching_rule(lib, f),
    "value_and_grad": lambda lib, f: lambda x: lib.transforms.value_and_grad(
        lambda y: lib.np.sum(f(y))
    )(x)[1],
}
stacks = st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=1, max_size=4)


def compiles_soon(stack: Any) -> bool:
    """Whether no custom_jvp is around a linearization: of loops in loops, that is a minute of XLA's time."""
    before = stack[: len(stack) - stack[::-1].index("custom_jvp")] if "custom_jvp" in stack else []
    return {"grad", "vjp", "value_and_grad", "linearize"}.isdisjoint(before)


quick_stacks = stacks.filter(compiles_soon)


def stacked(library: Library, program: Any, stack: Any) -> Any:
    """The random function under the stack of transforms."""
    f = function(library, program)
    for name in stack:
        f = TRANSFORMS[name](library, f)
    return f
