"""Products with the Gauss-Newton and Fisher matrices: those of J^T H J, with J and H by JAX."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ArgumentError, DtypeError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 3)).astype(np.float32)
LABELS = np.array([0, 1, 1, 3, 2])
TARGETS = RNG.standard_normal((5, 4)).astype(np.float32)
PARAMS = {
    "w": [RNG.standard_normal((3, 2)).astype(np.float32), RNG.standard_normal((2, 4)).astype(np.float32)],
    "b": RNG.standard_normal(4).astype(np.float32),
}
V = jax.tree.map(lambda x: RNG.standard_normal(x.shape).astype(np.float32), PARAMS)


def net(np_):
    return lambda p: np_.tanh(X @ p["w"][0]) @ p["w"][1] + p["b"]


def two_outputs(np_):
    return lambda p: {"mean": net(np_)(p), "scale": np_.exp(np_.sum(p["b"]) * 0.1)}


def log_likelihood(np_, logits):
    top = logits - logits.max(axis=-1, keepdims=True)
    return top - np_.log(np_.exp(top).sum(axis=-1, keepdims=True))


LOSSES = {
    "cross entropy": (net, lambda np_: lambda y: -log_likelihood(np_, y)[np_.arange(5), LABELS].mean()),
    "squares": (net, lambda np_: lambda y: ((y - TARGETS) ** 2).sum()),
    "not convex": (net, lambda np_: lambda y: np_.sin(y).sum() + y[0, 0] * y[1, 1]),
    "several outputs": (two_outputs, lambda np_: lambda y: ((y["mean"] - TARGETS) ** 2).sum() / y["scale"]),
}


def matrix(model, hessian_of, params=PARAMS):
    """J^T H J of flat params, in double precision."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, np.float64), params))
        outputs, back = ravel_pytree(model(unravel(flat)))
        J = jax.jacobian(lambda p: ravel_pytree(model(unravel(p)))[0])(flat)
        return np.asarray(J.T @ hessian_of(outputs, back) @ J)


def check(product, expected):
    np.testing.assert_allclose(ravel_pytree(product)[0], expected, rtol=2e-4, atol=2e-4 * abs(expected).max())


@pytest.mark.parametrize("case", LOSSES)
def test_gauss_newton(case):
    model, loss = LOSSES[case]
    expected = matrix(model(jnp), lambda y, back: jax.hessian(lambda y: loss(jnp)(back(y)))(y))
    times = lambda v: ft.gauss_newton_vp(model(fnp), loss(fnp), PARAMS, v)
    check(times(V), expected @ ravel_pytree(V)[0])
    stacked = jax.tree.map(lambda x: np.stack([x, 2 * x]), V)
    found = ft.jit(ft.vmap(times))(stacked)
    check(jax.tree.map(lambda x: x[1], found), 2 * expected @ ravel_pytree(V)[0])
    blocks = ft.ggn(model(fnp), loss(fnp))(PARAMS)
    size = lambda x: int(np.size(x))
    leaves = jax.tree.leaves(PARAMS)
    rows = []
    for x, row in zip(leaves, [blocks["b"], *blocks["w"]], strict=True):
        parts = zip(jax.tree.leaves(row), leaves, strict=True)
        rows.append(np.concatenate([np.reshape(b, (size(x), size(y))) for b, y in parts], axis=1))
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=2e-4, atol=2e-4 * abs(expected).max())


def test_gradient_of_a_product():
    """In params, and in v."""
    model, loss = LOSSES["cross entropy"]

    def form(np_, vp):
        weighed = lambda a, b: (a * np_.cos(b)).sum()
        return lambda p, v: sum(jax.tree.leaves(jax.tree.map(weighed, vp(p, v), v)))

    def by_jax(p, v):
        y, push = jax.linearize(model(jnp), p)
        _, ct = jax.jvp(jax.grad(loss(jnp)), (y,), (push(v),))
        return jax.vjp(model(jnp), p)[1](ct)[0]

    ours = ft.grad(form(fnp, lambda p, v: ft.gauss_newton_vp(model(fnp), loss(fnp), p, v)), (0, 1))(PARAMS, V)
    theirs = jax.grad(form(jnp, by_jax), (0, 1))(PARAMS, V)
    check(ours, np.asarray(ravel_pytree(theirs)[0]))


def expected_outer_product(draws, log_density):
    """The Fisher matrix by its definition: E[g g^T] over `(probability, what is drawn)` for each entry."""

    def fisher(outputs, back):
        total = jnp.zeros((outputs.size, outputs.size))
        for p, y in draws(back(outputs)):
            g = jax.jacobian(lambda z, y=y: log_density(back(z), y))(outputs)  # one row an entry that is drawn
            total += jnp.einsum("n,ni,nj->ij", p, g, g)
        return total

    return fisher


def each_class(z):
    p = jax.nn.softmax(z)
    return [(p[:, c], c) for c in range(4)]


def each_side(z):
    p = jax.nn.sigmoid(z).ravel()
    return [(p, 1.0), (1 - p, 0.0)]


def each_count(z):
    rate = jnp.exp(z).ravel()
    return [(jax.scipy.stats.poisson.pmf(k, rate), float(k)) for k in range(120)]


FISHER = {
    "categorical": expected_outer_product(each_class, lambda z, c: jax.nn.log_softmax(z)[:, c]),
    "bernoulli": expected_outer_product(each_side, lambda z, y: (y * z - jnp.logaddexp(0.0, z)).ravel()),
    "poisson": expected_outer_product(each_count, lambda z, k: (k * z - jnp.exp(z)).ravel()),
    "normal": lambda outputs, back: jnp.eye(outputs.size),
}


@pytest.mark.parametrize("name", FISHER)
def test_fisher(name):
    """By its definition: the expectation of outer products of gradients, over what the model would draw."""
    expected = matrix(net(jnp), FISHER[name]) @ ravel_pytree(V)[0]
    check(ft.jit(lambda p, v: ft.fisher_vp(net(fnp), name, p, v))(PARAMS, V), expected)


def test_fisher_of_a_divergence():
    """A normal with a mean and a scale, whose Fisher matrix is diag(1, 2) / scale^2."""

    def model(np_):
        return lambda p: {"mean": X @ p["w"][0], "log": 0.1 * X @ p["w"][0] + p["b"][:2]}

    def kl(p, q):
        inside = (fnp.exp(2 * p["log"]) + (p["mean"] - q["mean"]) ** 2) * fnp.exp(-2 * q["log"])
        return (q["log"] - p["log"] + 0.5 * inside).sum()

    def fisher(outputs, back):
        y = back(outputs)
        weights = {"mean": jnp.exp(-2 * y["log"]), "log": jnp.full_like(y["log"], 2.0)}
        return jnp.diag(ravel_pytree(weights)[0])

    expected = matrix(model(jnp), fisher) @ ravel_pytree(V)[0]
    check(ft.fisher_vp(model(fnp), kl, PARAMS, V), expected)


def test_empirical_fisher():
    def losses(np_):
        return lambda p: -log_likelihood(np_, net(np_)(p))[np_.arange(5), LABELS]

    expected = matrix(losses(jnp), lambda y, back: jnp.eye(y.size)) @ ravel_pytree(V)[0]
    check(ft.empirical_fisher_vp(losses(fnp), PARAMS, V), expected)


W = np.ones(2, np.float32)
BAD = {
    "v of another structure": (lambda: ft.gauss_newton_vp(lambda w: w, lambda y: y.sum(), W, (W,)), DtypeError,
                               "gauss_newton_vp: v must have the pytree structure of params"),
    "v of another shape": (lambda: ft.gauss_newton_vp(lambda w: w, lambda y: y.sum(), W, W[:1]), DtypeError,
                           "must have that of its primal, f32[2]"),
    "loss of two": (lambda: ft.gauss_newton_vp(lambda w: w, lambda y: y, W, W), DtypeError, "must return a scalar"),
    "no model": (lambda: ft.gauss_newton_vp(W, lambda y: y, W, W), DtypeError,
                 "gauss_newton_vp: expected a function as model, got ndarray"),
    "no loss": (lambda: ft.ggn(lambda w: w, 3), DtypeError, "ggn: expected a function as loss, got int"),
    "integers": (lambda: ft.ggn(lambda w: w, lambda y: y.sum())(np.arange(3, dtype=np.int32)), DtypeError,
                 "ggn: argument 0 has dtype int32; derivatives need a floating"),
    "complex": (lambda: ft.fisher_vp(lambda w: w, "normal", W + 0j, W + 0j), DtypeError,
                "must be real and floating, got c64[2]"),
    "booleans": (lambda: ft.fisher_vp(lambda w: (w, w > 0), "normal", W, W), DtypeError, "got bool[2]. Return only"),
    "unknown": (lambda: ft.fisher_vp(lambda w: w, "gamma", W, W), ArgumentError,
                "distribution is 'gamma'; one of 'categorical', 'bernoulli', 'normal', 'poisson', or a function"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_messages(case):
    call, error, text = BAD[case]
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "test_gauss_newton.py:" in str(caught.value)
