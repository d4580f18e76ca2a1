"""Gradients of functions, called as a user at a prompt calls them: nothing compiled by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import lax as ft_lax, numpy as fnp

try:
    import autograd
except ImportError:
    autograd = None
try:
    import torch
except ImportError:
    torch = None

TITLE = "Un-jitted gradients"
NOTE = """"operations" are multiplications and sines of a scalar. The network has 20 layers of width 64. The loops go
round 5 to 44 times. In the last row every function is new, as each has a number of its own in it."""


def polynomial(n, x):
    """x**2 + x."""
    return x**2 + x


def chain(links: int) -> Callable[..., Any]:
    """A chain of operations on a scalar."""

    def run(n, x):
        for i in range(links):
            x = n.sin(x) if i % 2 else x * 0.5
        return x

    return run


def network(n, params, x):
    """A network of tanh layers, and the mean square of what it makes."""
    for w, b in params:
        x = n.tanh(x @ w + b)
    return (x**2).mean()


class Contender(NamedTuple):
    """A library: its numpy, the gradient by the first argument, and its arrays."""

    numpy: Any
    grad: Callable[..., Any]
    array: Callable[..., Any]


def torch_grad(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`grad` by torch.autograd."""

    def gradient(params, *rest):
        leaves, tree = jax.tree.flatten(params)
        leaves = [torch.as_tensor(x).requires_grad_() for x in leaves]
        return jax.tree.unflatten(tree, torch.autograd.grad(fun(jax.tree.unflatten(tree, leaves), *rest), leaves))

    return gradient


def contenders() -> Iterator[tuple[str, Contender]]:
    """The libraries that are installed, by name; of numbers, autograd and torch have Python's."""
    yield "functrace", Contender(fnp, ft.grad, jnp.asarray)
    yield "jax", Contender(jnp, jax.grad, jnp.asarray)
    if autograd is None:
        print("autograd is not installed: left out")
    else:
        yield "autograd", Contender(autograd.numpy, autograd.grad, np.asarray)
    if torch is None:
        print("torch is not installed: left out")
    else:
        yield "torch", Contender(torch, torch_grad, torch.as_tensor)


def tasks() -> Iterator[tuple[str, Callable[..., Any], Any, int]]:
    """Name, function of a numpy and of its arguments, these, and calls a turn."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    params = [(draw(64, 64) / 8, draw(64) / 8) for _ in range(20)]
    yield "lambda x: x**2 + x", polynomial, (0.5,), 50
    yield "9 operations", chain(9), (0.5,), 50
    yield "99 operations", chain(99), (0.5,), 5
    yield "999 operations", chain(999), (0.5,), 1
    yield "sum(sin(x) * exp(-x)) of 10", lambda n, x: n.sum(n.sin(x) * n.exp(-x)), (draw(10),), 20
    yield "a network", network, (params, draw(32, 64)), 5


def nested(t, n, lax) -> dict[str, Callable[[], Any]]:
    """Transforms of transforms, of loops and of rows."""
    wave = lambda x: n.sum(n.sin(x) * n.exp(-x))
    third = t.grad(t.grad(t.grad(lambda x: n.sin(x) * x**3)))
    by_rows, hessian = t.vmap(t.grad(wave)), t.hessian(wave)
    loop = t.grad(lambda w: lax.scan(lambda c, _: (n.tanh(c * w), None), 1.0, None, length=10)[0])
    x = jnp.linspace(0.1, 1.0, 10)
    xs = jnp.stack([x, 2 * x, 3 * x])
    return {
        "third derivative of sin(x) * x**3": lambda: third(0.5),
        "Hessian-vector product of sum(sin(x) * exp(-x))": lambda: t.jvp(t.grad(wave), (x,), (x,))[1],
        "Hessian of sum(sin(x) * exp(-x))": lambda: hessian(x),
        "gradients of its three rows, by vmap": lambda: by_rows(xs),
        "gradient of a scan of 10 steps": lambda: loop(0.5),
    }


def measure() -> list[Row]:
    """A row a function, some for transforms of transforms, one for loops, one for functions that are new each time."""
    libraries = dict(contenders())
    rows = []
    for name, fun, args, calls in tasks():
        runs: dict[str, Callable[[], Any]] = {}
        results = []
        for who, library in libraries.items():
            gradient = library.grad(lambda *xs, n=library.numpy, f=fun: f(n, *xs))
            xs = [x if isinstance(x, float) else jax.tree.map(library.array, x) for x in args]
            runs[who] = lambda g=gradient, xs=xs: g(*xs)
            results.append([np.asarray(x, np.float64) for x in jax.tree.leaves(runs[who]())])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6, err_msg=name)
        rows.append(Row(f"gradient of {name}", alternate(runs, rounds=9, calls=calls)))
    ours, theirs = nested(ft, fnp, ft_lax), nested(jax, jnp, jax.lax)
    for name in ours:
        both = {"functrace": ours[name], "jax": theirs[name]}
        np.testing.assert_allclose(both["functrace"](), both["jax"](), rtol=1e-4, atol=1e-6)
        rows.append(Row(name, alternate(both, rounds=9, calls=5)))
    loops = {
        who: lambda c=library: [c.grad(lambda x, k=k: chain(2 * k)(c.numpy, x))(0.5) for k in range(5, 45)]
        for who, library in libraries.items()
    }
    rows.append(Row("40 gradients of loops", alternate(loops, rounds=5)))
    fresh = count(1)

    def damped(library):
        rate = next(fresh) / 1000
        return library.grad(lambda x: library.numpy.exp(-rate * x) * library.numpy.sin(x * x / rate))(0.5)

    numbers = {who: lambda c=library: [damped(c) for _ in range(40)] for who, library in libraries.items()}
    rows.append(Row("40 gradients, a new number in each", alternate(numbers, rounds=5)))
    return rows
