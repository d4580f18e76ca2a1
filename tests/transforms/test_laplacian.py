"""Laplacians carried forward against the trace of JAX's Hessian."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jax import flatten_util, numpy as jnp, tree_util

import functrace as ft
from functrace import numpy as fnp
from tests.against_jax import QUICKLY, Case, Library
from tests.composition.random_programs import FUNCTRACE, JAX, X, control_programs, function, programs
from tests.control.table import OUR_FUNCTIONS, ROWS, THEIR_FUNCTIONS

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 4)) / 2
PARTICLES = RNG.normal(size=(4, 3))
ONE = np.ones(3, np.float32)
ATOMS = RNG.normal(size=(4, 3))


def jax_laplacian(f, xs):
    """The sum of the second derivatives along each entry of `xs`, a list of arrays, twice forward."""
    flat, unravel = flatten_util.ravel_pytree(list(xs))
    g = lambda v: f(*unravel(v))
    second = lambda e: jax.jvp(lambda v: jax.jvp(g, (v,), (e,))[1], (flat,), (e,))[1]
    return tree_util.tree_map(lambda d: d.sum(0), jax.vmap(second)(jnp.eye(flat.size, dtype=flat.dtype)))


def check(ours, theirs, xs, rtol=1e-9):
    """The value and the Laplacian in all of `xs`, and the Program verifies."""
    xs = [np.asarray(x) for x in xs]
    lap = ft.laplacian(ours, tuple(range(len(xs))))
    ft.make_program(lap)(*xs).verify()
    expected, found = jax.jit(
        lambda *xs: ((theirs(*xs), jax_laplacian(theirs, xs)), ft.jit(lap)(*xs)), compiler_options=QUICKLY
    )(*xs)
    assert tree_util.tree_structure(found) == tree_util.tree_structure(expected)
    for y, z in zip(tree_util.tree_leaves(found), tree_util.tree_leaves(expected), strict=True):
        assert y.dtype == z.dtype
        np.testing.assert_allclose(y, z, rtol=rtol, atol=rtol * max(1.0, float(np.max(np.abs(z), initial=0))))


def attention(n, x):
    """Two heads over the rows of x, and a norm."""
    q, k, v = (n.reshape(n.tanh(x @ w), (4, 2, 2)) for w in (W, 2 * W, -W))
    score = n.einsum("ihc,jhc->hij", q, k)
    weight = n.exp(score - score.max(-1, keepdims=True))
    weight = weight / weight.sum(-1, keepdims=True)
    y = n.einsum("hij,jhc->ihc", weight, v).reshape(4, 4)
    y = y - y.mean(-1, keepdims=True)
    return y / n.sqrt((y * y).mean(-1, keepdims=True) + 1e-2)


def pairs(n, x):
    """Distances of all pairs and their exponentials, as in a Jastrow factor."""
    i, j = np.triu_indices(4, 1)
    d = x[i] - x[j]
    r = n.sqrt((d * d).sum(-1))
    return (r / (1 + r)).sum() + n.exp(-r).sum()


def slater(n, x):
    """Sign and logarithm of a determinant of orbitals."""
    r = n.sqrt(((x[:, None, :] - ATOMS[None, :, :]) ** 2).sum(-1))
    return n.linalg.slogdet(n.exp(-r) * (1 + n.tanh(x @ W)))


# Functions of an array of shape (4, 3), written with either numpy.
FUNCTIONS = {
    "square": lambda n, x: (x**2).sum(),
    "matrix": lambda n, x: x @ x.T,
    "network": lambda n, x: n.tanh(n.tanh(x @ W) @ W.T).sum(0),
    "attention": attention,
    "pairs": pairs,
    "slater": slater,
    "determinant": lambda n, x: n.linalg.det(x.T @ x),
    "inverse": lambda n, x: n.linalg.inv(n.eye(3) + x.T @ x),
    "solve": lambda n, x: n.linalg.solve(n.eye(3) + x.T @ x, x[0]),
    "cholesky": lambda n, x: n.linalg.cholesky(n.eye(3) + x.T @ x),
    "eigenvalues": lambda n, x: n.linalg.eigvalsh(x.T @ x + n.diag(n.arange(3.0))),
    "complex": lambda n, x: n.exp(1j * x.sum(0)) * n.abs(x[1] + 1j * x[0]),
    "fft": lambda n, x: n.fft.fft(x[:, 0] ** 2),
    "where": lambda n, x: n.where(x > 0, x**3, n.sin(x)),
    "extrema": lambda n, x: (n.max(x, 0), n.minimum(x[0] ** 2, x[1]), n.clip(x, -0.3, 0.4) ** 2),
    "sort and cumsum": lambda n, x: n.cumsum(n.sort(x, 0), 0) ** 2,
    "product": lambda n, x: n.prod(x, 1) + n.cumprod(x, 0).sum(1),
    "convolution": lambda n, x: n.convolve(x[:, 0], n.sin(x[:, 1])),
    "logsumexp": lambda n, x: n.logaddexp(x[0], x[1]) + n.log(n.exp(x).sum(0)),
    "powers": lambda n, x: (x * x) ** 1.3 + n.abs(x) ** n.abs(x[::-1]),
    "no input": lambda n, x: n.ones(3),
    "linear": lambda n, x: {"a": 2 * x, "b": (x[1:, :2].T, n.floor(x))},
    "slater by particle": lambda n, x: n.linalg.slogdet(n.tanh(x @ W) + n.eye(4))[1],
    "pairs by broadcasting": lambda n, x: n.exp(-((x[:, None] - x[None] + 0.3) ** 2).sum(-1)) @ n.sin(x),
    "network of pairs": lambda n, x: n.tanh(n.tanh((x[:, None] * x[None]) @ W) @ W.T).mean(1) * x,
    "flat input": lambda n, x: n.tanh(n.reshape(n.reshape(x, 12) ** 2, (4, 3)) @ W).sum(0),
    "mean field": lambda n, x: n.tanh(n.concatenate([x, n.broadcast_to(n.tanh(x @ W).mean(0), (4, 4))], 1)) @ n.ones(7),
    "rows and columns": lambda n, x: n.sin(x) @ (x.T**2) + n.stack([x[:, 0], x[:, 1]], 1) @ x[:, :2].T,
    "transposed": lambda n, x: n.cumsum(n.tanh(x.T)[None] * x.T[:, :, None].sum(2) ** 2, 1)[0, ::-1],
    "complex pairs": lambda n, x: n.abs((x[:, None] - x[None]) * (1 + 0.5j) + 1j) ** 3,
    "norms of pairs": lambda n, x: n.exp(-n.linalg.norm(x[:, None] - x[None] + 0.3, axis=-1)) + x @ n.sin(x.T),
    "products of pairs": lambda n, x: n.prod(x[:, None] + n.cos(x[None]), -1) + n.cumsum(x[:, None] * x, 2)[..., 1],
    "extrema of rows": lambda n, x: n.max(x**2, 1) * n.prod(x, 1) + n.sort(x, 1)[:, 0],
    "indexed": lambda n, x: n.stack([x[0, 0] * x[1, 1], x[2, 0] ** 2]) + x[np.array([0, 2]), 1] ** 3,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_trace_of_hessian(name):
    with jax.enable_x64(True):
        f = FUNCTIONS[name]
        check(lambda x: f(fnp, x), lambda x: f(jnp, x), [RNG.normal(size=(4, 3))])


@pytest.mark.parametrize("row", ROWS, ids=[r.names[0] for r in ROWS])
def test_of_control_flow(row):
    with jax.enable_x64(True):
        case = Case(row, "float64")
        name, xs = row.names[0], [np.asarray(x) for x in case.xs]
        moving = [i for i, x in enumerate(xs) if x.dtype.kind == "f"]

        def of_moving(f):
            def g(*values):
                given = dict(zip(moving, values, strict=True))
                ys = tree_util.tree_leaves(f(*[given.get(i, x) for i, x in enumerate(xs)]))
                return [y for y in ys if y.dtype.kind == "f"]

            return g

        ours, theirs = (
            of_moving(case.function(lib, name))
            for lib in (Library(ft, fnp, OUR_FUNCTIONS), Library(jax, jnp, THEIR_FUNCTIONS))
        )
        check(ours, theirs, [xs[i] for i in moving], 1e-8)


@settings(max_examples=12, derandomize=True, **QUIET)
@given(programs)
def test_of_random_programs(program):
    with jax.enable_x64(True):
        check(function(FUNCTRACE, program), function(JAX, program), [X], 1e-8)


@settings(max_examples=8, derandomize=True, **QUIET)
@given(control_programs)
def test_of_random_loops(program):
    with jax.enable_x64(True):
        check(function(FUNCTRACE, program), function(JAX, program), [X], 1e-8)


# Functions of particles, [4, 3], each of which keeps the shape.
STEPS = {
    "each entry": lambda n, x: n.sin(x) * 0.9,
    "each particle": lambda n, x: n.tanh(x @ W @ W.T),
    "mean": lambda n, x: x * (1 + x.mean(0)),
    "norms": lambda n, x: x / n.sqrt(1 + (x * x).sum(1, keepdims=True)),
    "pairs": lambda n, x: (n.cos(x[:, None] - x[None]) * x[None]).sum(1) * 0.3,
    "weights": lambda n, x: n.exp(-((x[:, None] - x[None]) ** 2).sum(-1)) @ x * 0.5,
    "products": lambda n, x: n.tanh(x @ x.T) @ x,
    "transpose": lambda n, x: n.reshape(x.T**2, (4, 3)),
    "flat": lambda n, x: n.reshape(n.reshape(x, 12)[::-1] * n.reshape(x, 12), (4, 3)),
    "halves": lambda n, x: n.concatenate([x[:2] * x[2:], n.sin(x[1:3])]),
    "columns": lambda n, x: n.concatenate([x[:, :1] * x[:, 1:2], x[:, 1:] ** 2], 1),
    "stack": lambda n, x: n.stack([x, n.tanh(x[::-1])], 1).sum(1),
}


steps_of_particles = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=12, derandomize=True, **QUIET)
@given(steps_of_particles)
def test_of_random_functions_of_particles(steps):
    check_particles(steps)


@pytest.mark.slow
@settings(max_examples=100, **QUIET)
@given(steps_of_particles)
def test_of_many_functions_of_particles(steps):
    check_particles(steps)


def check_particles(steps):
    """Compositions, with what went in added again or not: parts that are tied meet others in all ways."""

    def f(n, x):
        for name, again in steps:
            x = STEPS[name](n, x) + (x if again else 0)
        return x

    with jax.enable_x64(True):
        check(lambda x: f(fnp, x), lambda x: f(jnp, x), [PARTICLES], 1e-8)


def largest(f, x):
    """How many entries the largest array of the Laplacian's Program has, and their number at a time."""
    program = ft.make_program(lambda x: ft.laplacian(f)(x)[1])(x)
    return max(v.aval.size for eqn in program.equations for v in eqn.outputs)


# What is largest is the Jacobian of what has 8 x 16 entries, or 8 x 8 x 16 of pairs, by so many directions of 24.
DIRECTIONS = {
    "each particle": (lambda x: (fnp.tanh(fnp.tanh(x @ WIDE) @ WIDE.T) ** 2).sum(), 3 * 8 * 16),
    "each particle of a flat input": (lambda x: fnp.tanh(x.reshape(8, 3) @ WIDE).sum(), 3 * 8 * 16),
    "pairs": (lambda x: fnp.tanh((x[:, None] - x[None]) @ WIDE).sum(), 3 * 8 * 8 * 16),
    "distances": (lambda x: fnp.exp(-fnp.linalg.norm(x[:, None] - x[None] + 0.1, axis=-1)).sum(), 3 * 8 * 8 * 3),
    "each entry": (lambda x: fnp.sin(fnp.sin(x)).sum(), 24),
}
WIDE = RNG.normal(size=(3, 16))


@pytest.mark.parametrize("name", DIRECTIONS)
def test_few_directions_are_carried(name):
    f, size = DIRECTIONS[name]
    x = RNG.normal(size=24 if "flat" in name else (8, 3))
    assert largest(f, x) <= size


LAYERS = [(RNG.normal(size=s) / 2, RNG.normal(size=s[1])) for s in ((3, 5), (5, 5), (5, 1))]


def network(n, params, x):
    for w, b in params:
        x = n.tanh(x @ w + b)
    return x[0]


def test_of_a_pytree():
    args = {"a": RNG.normal(size=3), "b": (RNG.normal(size=(2, 2)), np.float64(0.3))}
    f = lambda n, x: n.sin(x["a"]).sum() * (x["b"][0] ** 3).sum() + x["b"][1] * x["a"]
    with jax.enable_x64(True):
        flat, unravel = flatten_util.ravel_pytree(args)
        (value, lap), expected = jax.jit(
            lambda x, v: (ft.laplacian(lambda x: f(fnp, x))(x), jax_laplacian(lambda v: f(jnp, unravel(v)), [v])),
            compiler_options=QUICKLY,
        )(args, flat)
        np.testing.assert_allclose(value, f(np, args), rtol=1e-12)
        np.testing.assert_allclose(lap, expected, rtol=1e-10)


# Each takes a library's numpy, its transforms, and its `(params, x) -> Laplacian of the network in x`.
STACKS = {
    "vmap": lambda t, lap, params, xs: t.vmap(lap, (None, 0))(params, xs),
    "jit of vmap": lambda t, lap, params, xs: t.jit(t.vmap(lap, (None, 0)))(params, xs),
    "gradient by parameters": lambda t, lap, params, xs: t.grad(
        lambda p: (t.vmap(lap, (None, 0))(p, xs) ** 2).sum()
    )(params),
    "gradient by x": lambda t, lap, params, xs: t.grad(lap, 1)(params, xs[0]),
    "jvp": lambda t, lap, params, xs: t.jvp(lambda x: lap(params, x), (xs[0],), (xs[1],)),
    "hessian": lambda t, lap, params, xs: t.hessian(lap, 1)(params, xs[0]),
    "checkpoint": lambda t, lap, params, xs: t.grad(t.checkpoint(lap))(params, xs[0]),
    "vmap by parameters": lambda t, lap, params, xs: t.vmap(lap, (0, None))(
        tree_util.tree_map(lambda w: np.stack([w, 2 * w]), params), xs[0]
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_under_other_transforms(name):
    with jax.enable_x64(True):
        xs = RNG.normal(size=(2, 3))
        lap = lambda p, x: ft.laplacian(lambda x: network(fnp, p, x))(x)[1]
        hessian = lambda p, x: jnp.trace(jax.hessian(lambda x: network(jnp, p, x))(x))
        stack = lambda xs: (STACKS[name](ft, lap, LAYERS, xs), STACKS[name](jax, hessian, LAYERS, xs))
        ours, theirs = jax.jit(stack, compiler_options=QUICKLY)(xs)
        for y, z in zip(tree_util.tree_leaves(ours), tree_util.tree_leaves(theirs), strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-8, atol=1e-9)


def test_inside_of_jax():
    lap = ft.laplacian(lambda x: (x**4).sum())
    found = jax.jit(jax.vmap(lambda x: lap(x)[1]))(np.array([[1.0, 2.0]], np.float32))
    assert found.tolist() == [60.0]


def test_biharmonic():
    with jax.enable_x64(True):
        x = RNG.normal(size=3)
        inner = lambda x: jax_laplacian(lambda x: network(jnp, LAYERS, x), [x])
        biharmonic = ft.jit(ft.biharmonic(lambda x: network(fnp, LAYERS, x)))
        expected, found = jax.jit(lambda x: (jax_laplacian(inner, [x]), biharmonic(x)), compiler_options=QUICKLY)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_of_nothing():
    value, lap = ft.laplacian(lambda x: fnp.sin(x @ np.ones((0, 3))).sum() + 1.0)(np.ones(0))
    assert (float(value), float(lap)) == (1.0, 0.0)


def test_aux_comes_back():
    value, lap, aux = ft.laplacian(lambda x, k: ((x**2).sum() * k, {"x": x, "k": "kept"}), has_aux=True)(np.ones(3), 2)
    assert (float(value), float(lap), aux["k"]) == (6.0, 12.0, "kept")
    assert aux["x"].tolist() == [1.0, 1.0, 1.0]


def test_no_equation_of_a_linear_layer_is_bent():
    """What is linear in the input has no second derivative, and none is written."""
    program = ft.make_program(lambda x: ft.laplacian(lambda x: (x @ W).sum())(x)[1])(np.ones(3))
    assert [eqn.primitive.name for eqn in program.equations if eqn.primitive.name in ("mul", "dot_general")] == []


def test_effects_happen_once():
    seen = []
    note = ft.from_jax(lambda x: jax.debug.callback(lambda v: seen.append(float(v)), x.sum()))

    def f(x):
        note(x)
        return (ft.tap(x, "t") ** 2).sum() + ft.jit(lambda x: ft.tap(x**2, "u"))(x).sum()

    (value, lap), found = ft.debug.taps(ft.laplacian(lambda x, y: f(fnp.concatenate([x, y])), (0, 1)))(ONE[:1], ONE[1:])
    jax.effects_barrier()
    assert (float(value), float(lap), seen) == (6.0, 12.0, [3.0])
    assert sorted(found) == ["t", "u"]


REFUSED = {
    "not a function": (lambda: ft.laplacian(3), "laplacian: expected a function, got int (3)"),
    "integer": (lambda: ft.laplacian(lambda x: x * 1.0)(np.arange(3)), "laplacian: argument 0 has dtype int"),
    "complex": (
        lambda: ft.laplacian(lambda x: x)({"z": ONE + 1j}),
        "laplacian: argument 0 leaf ['z'] has dtype complex64, and must be real: take its real and imaginary parts",
    ),
    "integer output": (
        lambda: ft.laplacian(lambda x: (x, x > 0))(ONE),
        "laplacian: output leaf 1 of the function has type bool[3]; derivatives need a floating or complex dtype",
    ),
    "no such argument": (lambda: ft.laplacian(lambda x: x, 1)(ONE), "laplacian: argnums 1 is out of range"),
    "biharmonic of integers": (lambda: ft.biharmonic(lambda x: x)(np.arange(3)), "biharmonic: argument 0 has dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named(name):
    call, text = REFUSED[name]
    with pytest.raises(ft.errors.FunctraceError) as caught:
        call()
    assert text in str(caught.value)
    assert "test_laplacian.py" in str(caught.value)
