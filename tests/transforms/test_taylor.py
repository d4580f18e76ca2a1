"""derivative, jet and taylor: against nested transforms of JAX, against its jet, and under every other transform."""

import math
from functools import reduce

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.experimental import jet as jax_jet

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import FunctraceError
from tests.against_jax import QUICKLY, Case, Library, is_inexact
from tests.control.table import OUR_FUNCTIONS, OURS, ROWS, THEIR_FUNCTIONS, THEIRS

SYMMETRIC = np.array([[4.0, 1.0, 0.3], [1.0, 3.0, 0.5], [0.3, 0.5, 2.0]])
CHANGE = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.4], [0.0, 0.4, 0.1]])
ROWS_OF_THREE = np.arange(9.0).reshape(3, 3) / 7 - 0.3


def five_times(b):
    step = lambda x: b.np.sin(x) * b.np.exp(-x) + x
    return lambda x: reduce(lambda x, _: step(x), range(5), x)


def product_of_itself(b):
    def f(x):
        m = ROWS_OF_THREE * x + b.np.sin(x * ROWS_OF_THREE.T)
        return (m @ m @ m)[0]

    return f


def network(b):
    """1-16-16-1."""
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal(shape) / 2 for shape in ((16, 1), (16, 16), (1, 16))]

    def f(x):
        h = b.np.reshape(x, (1,))
        for w in weights[:-1]:
            h = b.np.tanh(w @ h + 0.1)
        return (weights[-1] @ h)[0]

    return f


def of_matrix(f):
    """A function of a symmetric matrix on a curve."""
    return lambda b: lambda x: f(b.np, SYMMETRIC + b.np.sin(x) * CHANGE)


def with_rule(b):
    return lambda x: b.np.sum(b.cube(b.np.sin(x * np.arange(3.0))))


# Functions of a scalar, of a library and its control flow.
FUNCTIONS = {
    "five times": five_times,
    "tanh": lambda b: lambda x: b.np.tanh(b.np.sin(x) * x),
    "network": network,
    "product of itself": product_of_itself,
    "array": lambda b: lambda x: {"a": x**3 * np.ones(2), "b": (b.np.exp(x * np.arange(3.0)),)},
    "powers": lambda b: lambda x: (x**2.5, x**-2, b.np.power(x, x), b.np.power(2.0, x), x**7, b.np.cbrt(x)),
    "arcs": lambda b: lambda x: (b.np.arctan2(b.np.sin(x), x * x), b.np.arcsin(x / 2), b.np.arccosh(x + 1.5)),
    "extrema": lambda b: lambda x: (b.np.max(x * x * np.ones(3)), b.np.maximum(x, x * x), b.np.sort(x * ROWS_OF_THREE)),
    "clipped": lambda b: lambda x: b.np.clip(x * np.arange(4.0), 1.0, 2.0) ** 2 + abs(x - 2.0),
    "scatter": lambda b: lambda x: b.np.zeros(4).at[np.array([0, 2, 0])].add(b.np.sin(x * np.arange(3.0))),
    "products": lambda b: lambda x: (b.np.prod(b.np.sin(x + np.arange(4.0))), b.np.cumprod(b.np.cos(x * np.arange(3.0)))),
    "cholesky": of_matrix(lambda np_, a: np_.linalg.cholesky(a)),
    "solve": of_matrix(lambda np_, a: np_.linalg.solve(a, a[0] * np.arange(3.0))),
    "inv": of_matrix(lambda np_, a: np_.linalg.inv(a)),
    "eigh": of_matrix(lambda np_, a: (np_.linalg.eigh(a)[0], np_.linalg.eigh(a)[1] ** 2)),
    "determinant": of_matrix(lambda np_, a: (np_.linalg.det(a), np_.linalg.slogdet(a)[1])),
    "custom rule": with_rule,
    "vmap": lambda b: lambda x: b.t.vmap(lambda y: b.np.sin(x * y) / y)(np.arange(1.0, 4.0)),
    "grad": lambda b: lambda x: b.t.grad(lambda y: b.np.sum(b.np.exp(y * x) * y))(np.arange(3.0)),
    "jit": lambda b: lambda x: b.t.jit(lambda y: b.np.sin(x * y) + y)(x * x),
    "checkpoint": lambda b: lambda x: b.t.checkpoint(lambda y: b.np.sin(b.np.cos(x * y)))(x * x),
    "integers": lambda b: lambda x: (x * x, 3, (x > 0)),
}  # fmt: skip
SCALARS = tuple(FUNCTIONS)


def inexact(tree):
    """The leaves that have derivatives."""
    return [y for y in jax.tree.leaves(tree) if is_inexact(y)]


def derivatives(f, n, xs, dxs):
    """Derivatives 0 to n of the inexact results along a line, by JAX's forward mode, n deep; compiled quickly."""
    along = [lambda xs: inexact(f(xs))]
    for _ in range(n):
        along.append(lambda xs, g=along[-1]: jax.jvp(g, (xs,), (dxs,))[1])
    return jax.jit(lambda xs: [g(xs) for g in along], compiler_options=QUICKLY)(xs)


def close(ours, expected, tolerance=1e-10):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, tolerance, tolerance * np.max(np.abs(b), initial=1.0))


@pytest.mark.parametrize("name", SCALARS)
def test_derivatives_of_a_scalar_function(name):
    """taylor, jet, and derivative of orders to 3 are nested forward mode."""
    with jax.enable_x64(True):
        f, x, n = FUNCTIONS[name](OURS), np.float64(0.7), 3
        expected = derivatives(FUNCTIONS[name](THEIRS), n, x, np.ones(()))
        for k, c in enumerate(ft.taylor(f, x, n)):
            close(inexact(c), [y / math.factorial(k) for y in expected[k]])
        close(inexact(ft.derivative(f, n)(x)), expected[n])
        ft.make_program(lambda x: inexact(ft.derivative(f, n)(x)))(x).verify()


@pytest.mark.parametrize("row", ROWS, ids=[r.names[0] for r in ROWS])
def test_control_flow(row):
    """Loops and branches: the second derivative along a line is forward mode of forward mode."""
    with jax.enable_x64(True):
        case, order = Case(row, "float64"), 2
        ours, theirs = (
            lambda xs, library=library: case.function(library, row.names[0])(*xs)
            for library in (Library(ft, fnp, OUR_FUNCTIONS), Library(jax, jnp, THEIR_FUNCTIONS))
        )
        expected = derivatives(theirs, order, case.xs, case.dxs)
        last = ft.jit(lambda xs, dxs: inexact(ft.taylor(ours, xs, order, dxs)[order]))(case.xs, case.dxs)
        close(last, [y / 2 for y in expected[order]], 1e-9)
