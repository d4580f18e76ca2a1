"""Products with the Hessian, its diagonal, divergence, curl, and Jacobians some directions at a time, against JAX."""

from functools import cache

import jax
import numpy as np
import pytest
from jax import flatten_util, numpy as jnp, tree_util

import functrace as ft
from functrace import numpy as fnp
from tests.against_jax import QUICKLY

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3))
X3 = RNG.normal(size=3)
TREE = {"a": RNG.normal(size=3), "b": (RNG.normal(size=(2, 2)), np.asarray(0.3))}
LIKE = {"a": RNG.normal(size=3), "b": (RNG.normal(size=(2, 2)), np.asarray(-0.7))}
SCALARS = {
    "tree": (lambda n, x: n.sin(x["a"]).sum() * (x["b"][0] ** 3).sum() + x["b"][1] * x["a"][0] ** 2, TREE, LIKE),
    "array": (lambda n, x: n.exp(n.tanh(W @ x).sum()), X3, W[0]),
    "quadratic": (lambda n, x: x @ (W @ x), X3, W[0]),
    "linear": (lambda n, x: x.sum(), X3, W[0]),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def assert_close(ours, theirs, rtol=1e-9):
    assert tree_util.tree_structure(ours) == tree_util.tree_structure(theirs)
    for y, z in zip(tree_util.tree_leaves(ours), tree_util.tree_leaves(theirs), strict=True):
        assert (y.shape, y.dtype) == (z.shape, z.dtype)
        np.testing.assert_allclose(y, z, rtol=rtol, atol=rtol)


def at_once(f, *args):
    """What `f` gives, compiled together and quickly."""
    return jax.jit(f, compiler_options=QUICKLY)(*args)


@cache
def dense(name):
    """JAX's Hessian of one of SCALARS as a matrix, and the way back from a vector."""
    f, x, _ = SCALARS[name]
    flat, unravel = flatten_util.ravel_pytree(x)
    return np.asarray(at_once(jax.hessian(lambda v: f(jnp, unravel(v))), flat)), unravel


@pytest.mark.parametrize("name", SCALARS)
def test_products_with_the_hessian(name):
    f, x, v = SCALARS[name]
    h, unravel = dense(name)
    expected = unravel(h @ flatten_util.ravel_pytree(v)[0])
    products = [lambda x, v, p=p: p(lambda x: f(fnp, x), x, v) for p in (ft.hvp, ft.vhp)]
    for found in at_once(lambda x, v: [g(x, v) for p in products for g in (p, ft.jit(p))], x, v):
        assert_close(found, expected)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("name", SCALARS)
def test_diagonal_of_the_hessian(name, chunk_size):
    f, x, _ = SCALARS[name]
    h, unravel = dense(name)
    assert_close(at_once(ft.hessian_diag(lambda x: f(fnp, x), chunk_size=chunk_size), x), unravel(np.diag(h)))


def test_diagonal_for_each_output():
    f = lambda n, x, y: {"u": n.sin(x * y), "v": (x[0] ** 2 * y).sum()}
    ours, *hessians = at_once(
        lambda x, y: (
            ft.hessian_diag(lambda x, y: f(fnp, x, y), argnums=(0, 1))(x, y),
            *[jax.hessian(lambda x, y: f(jnp, x, y), argnums=i)(x, y) for i in (0, 1)],
        ),
        X3, W[0],
    )  # fmt: skip
    for i, theirs in enumerate(hessians):
        diagonal = tree_util.tree_map(lambda h: jnp.diagonal(h, axis1=-2, axis2=-1), theirs)
        assert_close({k: v[i] for k, v in ours.items()}, diagonal)


FIELDS = {
    "array": (lambda n, x: n.sin(W @ x) * x, X3),
    "matrix": (lambda n, x: n.tanh(x @ x), W),
    "tree": (lambda n, x: {"a": x["a"] ** 2 * x["b"][1], "b": (n.sin(x["b"][0]), x["a"].sum() + x["b"][1] ** 3)}, TREE),
    "constant": (lambda n, x: n.ones(3), X3),
}


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("name", FIELDS)
def test_divergence(name, chunk_size):
    f, x = FIELDS[name]
    flat, unravel = flatten_util.ravel_pytree(x)
    matrix = jax.jacfwd(lambda v: flatten_util.ravel_pytree(f(jnp, unravel(v)))[0])
    div = ft.divergence(lambda x: f(fnp, x), chunk_size=chunk_size)
    expected, *both = at_once(lambda flat, x: (jnp.trace(matrix(flat)), div(x), ft.jit(div)(x)), flat, x)
    for found in both:
        assert_close(found, expected)


def test_curl():
    j = np.asarray(jax.jacfwd(lambda x: jnp.sin(W @ x) * x)(X3))
    expected = np.array([j[2, 1] - j[1, 2], j[0, 2] - j[2, 0], j[1, 0] - j[0, 1]])
    np.testing.assert_allclose(ft.curl(lambda x: fnp.sin(W @ x) * x)(X3), expected, rtol=1e-12)
    assert float(ft.curl(lambda x: fnp.stack([x[0] * x[1], x[0] ** 3]))(np.array([2.0, 1.0]))) == 12.0 - 2.0


def test_identities_of_vector_calculus():
    """div grad is the Laplacian, curl grad and div curl are zero; so these compose, under vmap too."""
    u = lambda x: fnp.exp(fnp.tanh(W @ x).sum())
    field = lambda x: fnp.sin(W @ x) * x[::-1]
    points = RNG.normal(size=(4, 3))
    each = (
        lambda x: ft.laplacian(u)(x)[1], ft.divergence(ft.grad(u)), lambda x: ft.hessian_diag(u)(x).sum(),
        ft.curl(ft.grad(u)), ft.divergence(ft.curl(field)),
    )  # fmt: skip
    laplace, *same, curl_of_grad, div_of_curl = at_once(lambda xs: [ft.vmap(f)(xs) for f in each], points)
    for found in same:
        np.testing.assert_allclose(found, laplace, rtol=1e-9)
    np.testing.assert_allclose(curl_of_grad, np.zeros((4, 3)), atol=1e-12)
    np.testing.assert_allclose(div_of_curl, np.zeros(4), atol=1e-12)


# Each is differentiated again, in x.
AGAIN = {
    "hvp": lambda t, n, x: t.grad(lambda x: (ft_hvp(t, lambda x: n.exp(n.tanh(W @ x).sum()), x, W[0]) ** 2).sum())(x),
    "diagonal": lambda t, n, x: t.grad(lambda x: (diagonal(t, lambda x: n.exp(n.tanh(W @ x).sum()), x) ** 2).sum())(x),
    "divergence": lambda t, n, x: t.grad(lambda x: divergence(t, lambda x: n.sin(W @ x) * x, x))(x),
}
ft_hvp = lambda t, f, x, v: ft.hvp(f, x, v) if t is ft else jax.jvp(jax.grad(f), (x,), (v,))[1]
diagonal = lambda t, f, x: ft.hessian_diag(f, chunk_size=2)(x) if t is ft else jnp.diag(jax.hessian(f)(x))
divergence = lambda t, f, x: ft.divergence(f, chunk_size=2)(x) if t is ft else jnp.trace(jax.jacfwd(f)(x))


@pytest.mark.parametrize("name", AGAIN)
def test_differentiated_again(name):
    ours, theirs = at_once(lambda x: (AGAIN[name](ft, fnp, x), AGAIN[name](jax, jnp, x)), X3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


@pytest.mark.parametrize("name", ["jacfwd", "jacrev", "hessian"])
@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_jacobians_some_directions_at_a_time(name, chunk_size):
    f = lambda n, x, y: {"u": n.sin(x * y["k"]), "v": (x[0] ** 2 * y["k"]).sum()}
    args = (X3, {"k": W[0]})
    ours = getattr(ft, name)(lambda x, y: f(fnp, x, y), argnums=(0, 1), chunk_size=chunk_size)
    theirs = getattr(jax, name)(lambda x, y: f(jnp, x, y), argnums=(0, 1))
    expected, *both = at_once(lambda *args: [g(*args) for g in (theirs, ours, ft.jit(ours))], *args)
    for found in both:
        assert_close(found, expected)
    scans = [e for e in ft.make_program(ours)(*args).equations if e.primitive.name == "scan"]
    assert len(scans) >= (chunk_size < 4)


REFUSED = {
    "v of another structure": (lambda: ft.hvp(lambda x: x.sum(), X3, (X3,)), "hvp: v must have the pytree structure"),
    "v of another shape": (lambda: ft.vhp(lambda x: x.sum(), X3, X3[:2]), "vhp: leaf 0 of the vectors has type f64[2]"),
    "not a scalar": (lambda: ft.hvp(lambda x: x * 2, X3, X3), "hvp: the function must return a scalar, got f64[3]"),
    "not a scalar either": (lambda: ft.vhp(lambda x: x * 2, X3, X3), "vhp: the function must return a scalar"),
    "integers": (lambda: ft.hvp(lambda x: x.sum(), np.arange(3), np.arange(3)), "hvp: argument 0 has dtype int64"),
    "complex": (lambda: ft.hessian_diag(lambda x: x)(X3 + 1j), "hessian_diag: argument 0 has dtype complex128"),
    "integer output": (lambda: ft.hessian_diag(lambda x: x > 0)(X3), "hessian_diag: output leaf 0 of the function has"),
    "chunk of zero": (lambda: ft.jacfwd(lambda x: x, chunk_size=0), "jacfwd: chunk_size must be a positive integer"),
    "chunk of a half": (lambda: ft.divergence(lambda x: x, chunk_size=0.5), "all directions at once, got 0.5"),
    "no field": (lambda: ft.divergence(lambda x: x.sum())(X3), "divergence: leaf 0 of the field has type f64[]"),
    "field of another tree": (lambda: ft.divergence(lambda x: (x,))(X3), "divergence: the field must have the pytree"),
    "four dimensions": (lambda: ft.curl(lambda x: x)(np.ones(4)), "curl: the argument must be one array of shape (3,)"),
    "many points": (lambda: ft.curl(lambda x: x)(np.ones((5, 3))), "got f64[5,3]. Use vmap for many points"),
    "curl of a scalar": (lambda: ft.curl(lambda x: x[0])(X3), "curl: leaf 0 of the field has type f64[]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named(name):
    call, text = REFUSED[name]
    with pytest.raises(ft.errors.FunctraceError) as caught:
        call()
    assert text in str(caught.value)
    assert "test_curvature.py" in str(caught.value)
