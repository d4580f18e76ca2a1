"""Sparse Jacobians: the pattern covers, the values are the dense ones, and structure is found to the entry."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from jax import numpy as jnp, tree_util
from scipy.sparse import csr_array

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ArgumentError, DtypeError
from functrace.primitives.elementwise import Formula
from functrace.primitives.families import OneSign
from functrace.rewrites.pattern import pattern
from functrace.sparse import color_sides, color_symmetric
from tests.composition.random_programs import FUNCTRACE, control_programs, function, programs
from tests.primitives.samples import all_samples, case

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
halved.defvjp(
    lambda x: (x[1:] * x[:-1], x),
    lambda x, ct: (fnp.pad(ct * x[1:], (0, 1)) + fnp.pad(ct * x[:-1], (1, 0)),),
)


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
    "logsumexp": (lambda x: fnp.log(fnp.exp(x.reshape(4, 2)).sum(1)), X, 8),
    "dot with known zeros": (lambda x: BAND @ x, X, 3 * N - 2),
    "product of known zeros": (lambda x: x * (np.arange(N) % 2).astype(np.float32), X, N // 2),
    "matmul": (lambda x: x[:4].reshape(2, 2) @ x[4:].reshape(2, 2), X, 16),
    "batched matmul": (lambda x: fnp.einsum("bij,bj->bi", x.reshape(2, 2, 2), x[:4].reshape(2, 2)), X, None),
    "conv": (lambda u: jax_conv(u, WEIGHTS), GRID, None),
    "window sum": (lambda x: ft.from_jax(summed)(x), X, 18),
    "max pool": (lambda u: ft.from_jax(pooled)(u), GRID[:4], 24),
    "gather": (lambda x: x[EDGES[:, 0]] - x[EDGES[:, 1]], X, 8),
    "iota index": (lambda x: x[fnp.arange(N // 2) * 2 + 1], X, 4),
    "scatter": (lambda x: fnp.zeros(N, fnp.float32).at[EDGES[:, 0]].add(x[EDGES[:, 1]] ** 2), X, 4),
    "scatter set": (lambda x: x.at[EDGES[:, 0]].set(x[EDGES[:, 1]] ** 2, unique_indices=True), X, 8),
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
    "inverse in batch": (lambda x: fnp.linalg.inv(x.reshape(2, 2, 2) + 3 * np.eye(2, dtype=np.float32)), X, 32),
    "determinant in batch": (lambda x: fnp.linalg.slogdet(x.reshape(2, 2, 2) + np.eye(2, dtype=np.float32))[1], X, 8),
    "triangular in batch": (lambda x: ft.from_jax(triangular)(x.reshape(2, 2, 2)), X, 32),
    "eigenvalues in batch": (lambda x: ft.from_jax(eigenvalues)(x.reshape(2, 2, 2)), X, 16),
    "cholesky": (lambda x: fnp.linalg.cholesky(fnp.outer(x[:3], x[:3]) + 2 * np.eye(3, dtype=np.float32)), X, None),
    "fft in rows": (lambda u: fnp.abs(fnp.fft.rfft(u, axis=1)), GRID, None),
}  # fmt: skip


def jax_conv(u, w):
    """A convolution of one image, of which the window is known."""
    return ft.from_jax(lambda u: jax.lax.conv_general_dilated(u[None, None], w[None, None], (1, 1), "SAME"))(u)


def summed(x):
    """Sums of three neighbours."""
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (3,), (1,), "VALID")


def triangular(a):
    """Triangular solves of a batch, in which both sides move."""
    return jax.lax.linalg.triangular_solve(a + jnp.eye(2), a, left_side=True, lower=True)


def eigenvalues(a):
    """Of a batch of symmetric matrices."""
    return jnp.linalg.eigh(a + a.swapaxes(1, 2) + jnp.diag(jnp.arange(2.0)))[0]


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


MOVING = [c for c in map(case, all_samples()) if any(c.moving) and c.sample.differentiable]


def test_patterns_of_primitives_cover_their_derivatives():
    pointwise = [c for c in MOVING if isinstance(c.primitive, Formula)]  # which have one rule
    others = {c.primitive.name: c for c in MOVING if not isinstance(c.primitive, Formula)}
    covers([*pointwise[::20], *others.values()])


@pytest.mark.slow
def test_patterns_of_all_samples_cover_their_derivatives():
    covers(MOVING)


def covers(cases):
    """Whatever a primitive's entries depend on, its pattern holds; those that only move entries hold no more."""
    for c in cases:
        values = c.values()
        jacobians = derivatives(c, values)
        known = [None if m else np.asarray(x) for x, m in zip(values, c.moving, strict=True)]
        for given_values in (known, [None] * len(known)):
            found = pattern(c.program, c.moving, given_values).outputs
            for aval, matrix, jacobian in zip(c.program.out_avals, found, jacobians, strict=True):
                if not aval.is_inexact:
                    continue
                there = np.zeros_like(jacobian, bool) if matrix is None else matrix.toarray()
                assert not np.any((jacobian != 0) & ~there), c.name
                if given_values is known and isinstance(c.primitive, OneSign) and c.primitive.moves:
                    np.testing.assert_array_equal(jacobian != 0, there, err_msg=c.name)


def derivatives(c, values):
    """The derivative of each result in all entries that move, a matrix."""
    xs = [x for x, m in zip(values, c.moving, strict=True) if m]
    cuts = np.cumsum([0, *[x.size for x in xs]])
    units = [
        np.eye(cuts[-1], dtype=bool)[:, a:b].astype(x.dtype).reshape(cuts[-1], *x.shape)
        for x, a, b in zip(xs, cuts, cuts[1:], strict=False)
    ]  # fmt: skip
    pushed = lambda *units: jax.jvp(c.of_moving(values), xs, list(units))[1]
    shapes = [a.size for a in c.program.out_avals]
    found = jax.vmap(pushed)(*units) if cuts[-1] else [np.zeros((0, n)) for n in shapes]
    return [np.asarray(y).reshape(cuts[-1], n).T for y, n in zip(found, shapes, strict=True)]


@settings(max_examples=8, deadline=None)
@given(programs)
def test_random_programs(program):
    agrees(function(FUNCTRACE, program))


@settings(max_examples=3, deadline=None)
@given(control_programs)
def test_random_programs_with_loops_and_branches(program):
    agrees(function(FUNCTRACE, program))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(control_programs)
def test_many_random_programs(program):
    agrees(function(FUNCTRACE, program))


def agrees(f):
    """The pattern covers the entries of the dense Jacobian that are not zero, and the values are its own."""
    x = np.array([0.3, -0.7, 0.55, 0.9], np.float32)
    expected = np.asarray(ft.jit(ft.jacfwd(f))(x))
    found = ft.sparsity(f)(x)
    assert not np.any((expected != 0) & ~found.pattern.toarray())
    sparse = ft.jit(ft.jacobian(f, sparse="auto"))(x)
    dense = sparse.todense() if hasattr(sparse, "todense") else sparse
    np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-5)


def test_large_ones_take_few_products():
    x = np.ones(10_000, np.float32)
    found = ft.sparsity(tridiagonal)(x)
    assert (found.shape, found.nnz, found.colors) == ((10_000, 10_000), 29_998, 3)
    assert ft.sparsity(laplacian)(np.ones((100, 100), np.float32)).colors <= 7
    back = ft.sparsity(lambda x: fnp.stack([x[:5000].sum(), x[5000:].sum()]))(x)
    assert (back.pushforwards, back.pullbacks) == (0, 1)


HESSIANS: dict[str, tuple[Any, int]] = {
    "separable": (lambda x: (x**3).sum() + fnp.sin(x).sum(), N),
    "linear": (lambda x: (2 * x).sum(), 0),
    "linear in part": (lambda x: (x[:3] ** 2).sum() + x.sum(), 3),
    "chain": (lambda x: ((x[1:] - x[:-1] ** 2) ** 2).sum(), 3 * N - 2),
    "arrow": (lambda x: (x[0] * x[1:] ** 2).sum(), 3 * (N - 1)),
    "quadratic form": (lambda x: x @ (BAND @ x), 3 * N - 2),
}  # fmt: skip


@pytest.mark.parametrize("name", HESSIANS)
def test_hessian(name):
    f, nnz = HESSIANS[name]
    found = ft.hessian(f, sparse=True)(X)
    np.testing.assert_allclose(found.todense(), ft.hessian(f)(X), rtol=2e-5, atol=1e-5)
    assert found.nse == nnz


def test_star_colouring_of_an_arrow_is_small():
    found = ft.hessian(lambda x: (x[0] * x[1:] ** 2).sum(), sparse=True)
    np.testing.assert_allclose(found(np.ones(50, np.float32)).todense()[0, 1:], np.full(49, 2.0))
    matrix = np.eye(50, dtype=bool)
    matrix[0] = matrix[:, 0] = True
    assert color_symmetric(csr_array(matrix)).count == 2
    assert [(c.by_columns, c.count) for c in color_sides(csr_array(matrix))] == [(True, 2), (False, 1)]


def arrowhead(x):
    """A full row, a full column, and a diagonal."""
    return fnp.concatenate([(x**2).sum()[None], x[0] * x[1:]])


def bordered(x):
    """Two full rows and a full column beside a band, for two arguments."""
    sums = fnp.stack([(x**3).sum(), (x * x[::-1]).sum()])
    return {"sums": sums, "rest": x[1:] * x[:-1] + x[-1]}


@pytest.mark.parametrize(("f", "most"), [(arrowhead, 3), (bordered, 6)])
def test_both_sides(f, most):
    x = np.random.default_rng(3).uniform(0.5, 1.5, 40).astype(np.float32)
    found = ft.sparsity(f)(x)
    assert found.colors <= most and found.pushforwards and found.pullbacks
    dense = ft.jacrev(f)(x)
    sparse = tree_util.tree_map(
        lambda m: np.asarray(m.todense()), ft.jacobian(f, sparse=True)(x), is_leaf=lambda m: hasattr(m, "todense")
    )
    tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), sparse, dense)


@settings(max_examples=60, deadline=None)
@given(strategies.integers(0, 10**6))
def test_colourings_find_every_entry(seed):
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 9, 2)
    there = rng.random((m, n)) < rng.uniform(0.05, 0.6)
    there[rng.random(m) < 0.2] = True
    there[:, rng.random(n) < 0.2] = True
    values = np.where(there, rng.integers(1, 100, (m, n)), 0)
    recovered(values, color_sides(csr_array(there)))
    if m == n:
        both = values + values.T
        recovered(both, (color_symmetric(csr_array(both != 0)),))


def recovered(values, colorings):
    """The entries that the products of all colours give are those of the matrix, each once."""
    found = np.zeros_like(values)
    for c in colorings:
        seeds = c.seeds(values.dtype)
        products = seeds @ (values.T if c.by_columns else values)
        assert not np.any(found[c.rows, c.columns])
        found[c.rows, c.columns] = products[c.color, c.place]
    np.testing.assert_array_equal(found, values)


def test_composes():
    J = ft.jacobian(tridiagonal, sparse=True)
    expected = np.asarray(ft.jacfwd(tridiagonal)(X))
    np.testing.assert_allclose(ft.jit(J)(X).todense(), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(J)(X).todense(), expected, rtol=1e-5)
    values = lambda x: (J(x).data ** 2).sum()
    dense = lambda x: (ft.jacfwd(tridiagonal)(x) ** 2).sum()
    np.testing.assert_allclose(ft.grad(values)(X), ft.grad(dense)(X), rtol=1e-5)
    many = ft.vmap(lambda x: J(x).data)(np.stack([X, 2 * X]))
    np.testing.assert_allclose(many[1], J(2 * X).data, rtol=1e-5)
    scipy = ft.jacobian(tridiagonal, sparse=True, format="scipy")(X)
    np.testing.assert_allclose(scipy.toarray(), expected, rtol=1e-5)
    value, aux = ft.jacobian(lambda x: (tridiagonal(x), x.sum()), has_aux=True, sparse=True)(X)
    np.testing.assert_allclose(value.todense(), expected, rtol=1e-5)
    np.testing.assert_allclose(aux, X.sum(), rtol=1e-5)


def test_pytrees_and_argnums():
    f = lambda p, s: {"a": p["u"] * p["v"][:3].sum() * s, "b": p["v"] ** 2}
    p, s = {"u": X[:3], "v": GRID[0, :4]}, X[3]
    for argnums in (0, 1, (0, 1)):
        found = ft.jacobian(f, argnums, sparse=True)(p, s)
        expected = ft.jacfwd(f, argnums)(p, s)
        dense = tree_util.tree_map(lambda m: m.todense(), found, is_leaf=lambda m: hasattr(m, "todense"))
        tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), dense, expected)


def test_dense_by_size():
    wide, tall = (lambda x: fnp.stack([x.sum(), (x * x).sum()])), (lambda x: fnp.concatenate([x, x * x]))
    traces = []
    for f in (wide, tall):
        found = ft.jacobian(lambda x, f=f: (f(traces.append(x) or x), x[0]), has_aux=True)(X)
        np.testing.assert_allclose(found[0], ft.jacfwd(f)(X), rtol=1e-6)
        np.testing.assert_allclose(found[1], X[0])
    assert len(traces) == 2  # once each
    loops = lambda x: ft.lax.while_loop(lambda s: s.sum() < 50, lambda s: s * 2, x)
    assert "pushforward" in str(ft.sparsity(loops)(X))


def test_known_indices_are_read_again_when_they_change():
    def jacobian_of(order):
        return ft.jacobian(lambda x: x[order] ** 2, sparse=True)(X[:4]).todense()

    for order in (np.array([1, 0, 3, 2]), np.array([3, 3, 0, 0])):
        expected = np.zeros((4, 4))
        expected[np.arange(4), order] = 2 * X[order]
        np.testing.assert_allclose(jacobian_of(order), expected, rtol=1e-6)


def by_data(x):
    """An index that data decides."""
    return x[fnp.argsort(x)] * x.sum()


MESSAGES = {
    "unbounded": (lambda: ft.jacobian(by_data, sparse=True)(X), ArgumentError, "gather at test_sparse.py.*by data"),
    "how to go on": (lambda: ft.jacobian(by_data, sparse=True)(X), ArgumentError, "Pass sparse='auto'"),
    "option": (lambda: ft.jacobian(by_data, sparse="yes"), ArgumentError, "True, False or 'auto', got 'yes'"),
    "format": (lambda: ft.jacobian(by_data, sparse=True, format="coo"), ArgumentError, "must be 'bcoo' or 'scipy'"),
    "integers": (lambda: ft.jacobian(tridiagonal, sparse=True)(np.arange(3)), DtypeError, "argument 0 has dtype int"),
    "not a function": (lambda: ft.jacobian(3), DtypeError, "expected a function"),
    "no function": (lambda: ft.sparsity(3), DtypeError, "expected a function"),
    "hessian of a vector": (lambda: ft.hessian(tridiagonal, sparse=True)(X), DtypeError, "must return a scalar"),
    "traced": (
        lambda: ft.jit(ft.jacobian(tridiagonal, sparse=True, format="scipy"))(X), DtypeError, "use format='bcoo' there",
    ),
    "argnums": (lambda: ft.jacobian(tridiagonal, 2, sparse=True)(X), ArgumentError, "argnums 2 is out of range"),
    "complex": (lambda: ft.jacobian(lambda z: z * z, sparse=True)(X + 1j), DtypeError, "pass holomorphic=True"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name):
    call, kind, text = MESSAGES[name]
    with pytest.raises(kind, match=re.compile(text, re.DOTALL)):
        call()


def test_report(tmp_path):
    found = ft.sparsity(by_data)(X)
    assert str(found).startswith("8 x 8, 64 entries (1), 8 pushforwards (columns); wider than need be")
    assert found.unbounded[0].name == "gather"
    narrow = ft.sparsity(tridiagonal)(jax.ShapeDtypeStruct((5,), np.float32))
    assert str(narrow) == "5 x 5, 13 entries (0.52), 3 pushforwards (columns)"
    narrow.plot(tmp_path / "pattern.png")
    assert (tmp_path / "pattern.png").stat().st_size > 1000
