"""Shapes that follow from values: un-jitted transforms know the values, as JAX's do."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ConcretizationError, IndexingError

X = np.array([1.0, -2.0, 3.0, 0.0], np.float32)
Z = np.array([0.0, 0.0, 1.0, -3.0, 2.0, 0.0], np.float32)

# Each row is a function of an array whose sum of squares is differentiated, written with either numpy.
ROWS = {
    "mask": lambda n, x: x[x > 0],
    "mask set": lambda n, x: n.asarray(x).at[x > 0].set(0.5),
    "nonzero": lambda n, x: x[n.nonzero(x > 0)],
    "nonzero of floats": lambda n, x: x[n.nonzero(x)],
    "flatnonzero": lambda n, x: x[n.flatnonzero(x > 0)],
    "argwhere": lambda n, x: x[n.argwhere(x > 0)[:, 0]],
    "where of one": lambda n, x: x[n.where(x > 0)[0]],
    "compress": lambda n, x: n.compress(x > 0, x),
    "extract": lambda n, x: n.extract(x > 0, x),
    "repeat": lambda n, x: n.repeat(x, n.abs(x).astype(int)),
    "trim_zeros": lambda n, x: n.trim_zeros(x),
    "trim_zeros of zeros": lambda n, x: n.trim_zeros(0 * x) + x[:1],
    "roots": lambda n, x: n.abs(n.roots(x)),
    "arange": lambda n, x: n.arange(n.sum(x > 0), 9) * x[0],
    "arange of floats": lambda n, x: n.arange(x.max()) * x.max(),
    "linspace": lambda n, x: n.linspace(x[0], x[2], 2 + n.sum(x > 0)),
    "split": lambda n, x: n.split(x, n.argsort(x)[:1])[0],
    "bincount": lambda n, x: n.bincount(n.abs(x).astype(int), weights=x),
}


@pytest.mark.parametrize("x", [X, Z], ids=["X", "Z"])
@pytest.mark.parametrize("name", ROWS)
def test_grad_equals_jax(name, x):
    grad = lambda t, n: t.grad(lambda x: (ROWS[name](n, x) ** 2).sum())(x)
    np.testing.assert_allclose(grad(ft, fnp), grad(jax, jnp), rtol=1e-5, atol=1e-6)


def test_vmap_knows_what_it_closes_over():
    grad = lambda t: t.grad(lambda x: t.vmap(lambda y: (y * x[x > 0]).sum())(x).sum())(X)
    np.testing.assert_allclose(grad(ft), grad(jax), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: fnp.unique(x), [2.0, -4.0, 6.0, 0.0]),
        (lambda x: fnp.unique(x, return_counts=True)[0], [2.0, -4.0, 6.0, 0.0]),
        (lambda x: fnp.union1d(x, np.array([5.0], np.float32)), [2.0, -4.0, 6.0, 0.0]),
        (lambda x: fnp.intersect1d(x, np.array([1.0, 3.0], np.float32)), [2.0, 0.0, 6.0, 0.0]),
        (lambda x: fnp.setdiff1d(x, np.array([1.0], np.float32)), [0.0, -4.0, 6.0, 0.0]),
    ],
)
def test_sets_are_differentiated(function, expected):
    """JAX has zero here, and these derivatives once it is told `size`."""
    np.testing.assert_allclose(ft.grad(lambda x: (function(x) ** 2).sum())(X), expected)


@pytest.mark.parametrize("name", ["nonzero", "repeat", "trim_zeros", "roots", "arange", "linspace", "bincount"])
def test_jit_names_the_argument(name):
    with pytest.raises(ConcretizationError, match=r"jit: .* depends on argument 'x'.*static_argnums"):
        ft.jit(lambda x: ROWS[name](fnp, x))(X)


def test_a_mask_under_jit_is_an_index_error():
    with pytest.raises(IndexingError, match="boolean indices must be concrete"):
        ft.jit(lambda x: x[x > 0])(X)
