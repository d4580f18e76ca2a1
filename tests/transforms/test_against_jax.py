"""Transforms against JAX's own, on functions written for both."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp

RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 4)).astype(np.float32)
X = RNG.standard_normal((5, 3)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)


def same(ours, expected, rtol=2e-5):
    ours_leaves, ours_tree = jax.tree.flatten(ours)
    leaves, tree = jax.tree.flatten(expected)
    assert ours_tree == tree
    for a, b in zip(ours_leaves, leaves, strict=True):
        if getattr(b, "dtype", None) == jax.dtypes.float0:
            assert a.dtype == b.dtype and a.shape == b.shape
            continue
        if isinstance(b, jax.ShapeDtypeStruct):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            continue
        assert np.shape(a) == np.shape(b)
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-6)


def mlp(np_, params, x):
    h = np_.tanh(x @ params["W"] + params["b"])
    return np_.mean(h * h) + 0.1 * np_.sum(params["W"] ** 2)


PARAMS = {"W": W, "b": B}

# Each row is a computation, written with a library of transforms and its numpy.
ROWS = {
    "grad": lambda t, np_: t.grad(lambda p, x: mlp(np_, p, x))(PARAMS, X),
    "grad both": lambda t, np_: t.grad(lambda p, x: mlp(np_, p, x), argnums=(0, 1))(PARAMS, X),
    "grad negative argnum": lambda t, np_: t.grad(lambda p, x: mlp(np_, p, x), argnums=-1)(PARAMS, X),
    "value and grad with aux": lambda t, np_: t.value_and_grad(
        lambda p: (mlp(np_, p, X), {"h": p["b"] * 2}), has_aux=True
    )(PARAMS),
    "jvp": lambda t, np_: t.jvp(lambda p: mlp(np_, p, X), (PARAMS,), (PARAMS,)),
    "jvp with aux": lambda t, np_: t.jvp(lambda x: (np_.sin(x), x), (B,), (B,), has_aux=True),
    "jvp of integers": lambda t, np_: t.jvp(
        lambda x, i: (x * i, i), (B, 3), (B, np.zeros((), jax.dtypes.float0))
    ),
    "vjp": lambda t, np_: t.vjp(lambda p, x: mlp(np_, p, x), PARAMS, X)[1](np.float32(2.0)),
    "vjp of an integer": lambda t, np_: t.vjp(lambda x, i: x * i, B, 3)[1](B),
    "vjp of two outputs": lambda t, np_: t.vjp(lambda x: (np_.sin(x), x.sum()), B)[1]((B, np.float32(1.0))),
    "linearize": lambda t, np_: t.linearize(lambda x: np_.sin(x) * x, B)[1](B),
    "linear_transpose": lambda t, np_: t.linear_transpose(lambda x: x @ W, X)(np.ones((5, 4), np.float32)),
    "vmap axes": lambda t, np_: t.vmap(lambda x, w: x @ w, in_axes=(0, None), out_axes=1)(X, W),
    "vmap last axis": lambda t, np_: t.vmap(lambda x: np_.cumsum(x), in_axes=-1, out_axes=-1)(X),
    "vmap prefix": lambda t, np_: t.vmap(lambda p, k: p["W"] * k, in_axes=({"W": 1, "b": None}, None))(PARAMS, 2.0),
    "vmap of kwargs": lambda t, np_: t.vmap(lambda x, y: x * y)(X, y=X),
    "vmap of a constant": lambda t, np_: t.vmap(lambda x: (x, 1.0), out_axes=(0, None))(X),
    "vmap axis_size": lambda t, np_: t.vmap(lambda: np_.ones(2), axis_size=3)(),
    "vmap twice": lambda t, np_: t.vmap(t.vmap(lambda x, y: x * y, (None, 0)), (0, None))(B, B),
    "jacfwd": lambda t, np_: t.jacfwd(lambda x: np_.sin(x @ W))(X[0]),
    "jacrev": lambda t, np_: t.jacrev(lambda p: {"y": np_.sin(X @ p["W"]), "z": p["b"].sum()})(PARAMS),
    "jacfwd tree": lambda t, np_: t.jacfwd(lambda p: {"y": np_.sin(X @ p["W"]), "z": p["b"].sum()})(PARAMS),
    "jacrev argnums": lambda t, np_: t.jacrev(lambda x, y: x * np_.sin(y), argnums=(0, 1))(B, B),
    "hessian": lambda t, np_: t.hessian(lambda p: mlp(np_, p, X))(PARAMS),
    "rules that call the function": lambda t, np_: calling_itself(t, np_, 1.0)(t.grad)(B),
    "rules that call the function, twice": lambda t, np_: calling_itself(t, np_, 1.0)(
        lambda f: t.grad(lambda x: t.grad(f)(x).sum())
    )(B),
    "rules that call the function, mapped": lambda t, np_: t.vmap(lambda x: calling_itself(t, np_, x[0])(t.grad)(x))(X),
    "rules that call the function, on a captured array": lambda t, np_: calling_itself(t, np_, B)(
        lambda f: t.jit(t.grad(lambda x: t.grad(f)(x).sum()))
    )(B),
    "rules with keywords and defaults": lambda t, np_: t.grad(
        lambda x: (with_defaults(t, np_)(x) + with_defaults(t, np_)(x, b=2.0 * x) + with_defaults(t, np_)(x, n=3)).sum()
    )(B),
    "linear_transpose of a call with a constant": lambda t, np_: t.linear_transpose(
        lambda x: (lambda a, b: a * b)(*t.jit(lambda w, x: (np_.sin(w), x * w))(B, x)), B
    )(B),
    "custom_jvp of a call": lambda t, np_: t.grad(lambda x: with_rule_of_a_call(t, np_)(x).sum())(B),
    "grad of grad of custom_jvp of a call": lambda t, np_: t.grad(
        lambda x: t.grad(lambda x: with_rule_of_a_call(t, np_)(x).sum())(x).sum()
    )(B),
    "holomorphic": lambda t, np_: t.grad(lambda z: np_.sin(z) * z, holomorphic=True)(0.3 + 0.2j),
    "complex to real": lambda t, np_: t.grad(lambda z: np_.abs(np_.sin(z)) ** 2)(0.3 + 0.2j),
    "jit": lambda t, np_: t.jit(lambda p: mlp(np_, p, X))(PARAMS),
    "jit static": lambda t, np_: t.jit(lambda x, n: x * n, static_argnums=1)(B, 3),
    "jit static name": lambda t, np_: t.jit(lambda x, n=2: x * n, static_argnames="n")(B, n=5),
    "jit in grad": lambda t, np_: t.grad(lambda x: t.jit(lambda y: np_.sin(y) * y)(x).sum())(B),
    "grad in jit": lambda t, np_: t.jit(t.grad(lambda x: (np_.sin(x) * x).sum()))(B),
    "jit in jit shared": lambda t, np_: (lambda g: t.jit(lambda x: g(g(g(x))))(B))(t.jit(lambda x: np_.sin(x) * x)),
    "vmap of grad": lambda t, np_: t.vmap(t.grad(lambda x: mlp(np_, {"W": W, "b": B}, x)))(X),
    "grad of vmap": lambda t, np_: t.grad(lambda x: t.vmap(lambda r: np_.sin(r @ W).sum())(x).sum())(X),
    "grad of grad": lambda t, np_: t.grad(lambda x: t.grad(lambda y: np_.sin(y) ** 3)(x) * x)(0.7),
    "vjp crosses jit": lambda t, np_: t.jit(lambda f, ct: f(ct))(t.vjp(lambda x: np_.sin(x) * x, B)[1], B),
    "perturbation confusion": lambda t, np_: t.grad(lambda x: t.grad(lambda y: x * y)(1.0))(2.0),
    "perturbation confusion, constant": lambda t, np_: t.grad(lambda x: x * t.jvp(lambda y: x, (0.0,), (1.0,))[1])(5.0),
    "perturbation confusion, nested": lambda t, np_: t.grad(
        lambda x: x * t.grad(lambda y: x * y * t.grad(lambda z: x * y * z)(1.0))(2.0)
    )(3.0),
    "control flow on values": lambda t, np_: t.grad(lambda x: x * x if x > 0 else -x)(3.0),
    "loop on values": lambda t, np_: t.grad(halve)(3.0),
    "nested control flow on values": lambda t, np_: t.grad(lambda x: t.grad(lambda y: y**3 if x > 0 else y)(x))(3.0),
    "where is NaN-safe": lambda t, np_: t.grad(
        lambda x: np_.where(x > 0, np_.log(np_.where(x > 0, x, 1.0)), 0.0).sum()
    )(B),
    "eval_shape": lambda t, np_: t.eval_shape(lambda x: x @ W, X),
    "stop_gradient": lambda t, np_: t.grad(lambda x: (x * stop(t)(x)).sum())(B),
    "closure over arrays": lambda t, np_: t.jit(t.grad(lambda x: (x @ jnp.asarray(W)).sum()))(X),
    "index": lambda t, np_: t.grad(lambda x: x[1, 2] * x[0].sum() + (x[..., ::2] ** 2).sum() + x[X[:, 0] > 0].sum())(X),
    "at": lambda t, np_: t.grad(lambda x: (np_.asarray(x).at[1].set(0.0).at[0].add(x[1]) ** 2).sum())(X),
    "methods": lambda t, np_: t.grad(lambda x: (x.T.reshape(-1).sum() * x.mean() + x.max() - x.min() + x.std()))(X),
    "operators": lambda t, np_: t.grad(
        lambda x: ((2 - x) / (x * x + 1) - x // 2 + x % 0.7 + abs(x) ** 1.5 + 2.0**x + (-x) ** 3).sum()
    )(X),
}  # fmt: skip


def calling_itself(t, np_, w):
    """The sum of a custom_vjp and a custom_jvp whose rules call them, under a transform."""
    f = t.custom_vjp(lambda x: np_.sin(w * x) * x)
    f.defvjp(lambda x: (f(x), (x, f(x))), lambda r, ct: (ct * (2.0 * r[1] + w * f(r[0])),))
    g = t.custom_jvp(lambda x: np_.cos(x))
    g.defjvp(lambda xs, dxs: (g(xs[0]), dxs[0] * t.jit(lambda x: 3.0 * g(x) * w)(xs[0])))
    return lambda transform: transform(lambda x: (f(x) + g(x)).sum())


def with_defaults(t, np_):
    f = t.custom_vjp(lambda x, b=1.0, n=2: x * b * n, nondiff_argnums=(2,))

    def backward(n, residuals, ct):
        x, b = residuals
        ct_b = ct * x * n
        return 5.0 * n * ct * b, ct_b if np_.ndim(b) else ct_b.sum()

    f.defvjp(lambda x, b, n: (x * b * n, (x, b)), backward)
    return f


def with_rule_of_a_call(t, np_):
    inner = t.jit(t.jit(lambda x: np_.sin(x) * x))
    f = t.custom_jvp(inner)
    f.defjvp(lambda xs, dxs: t.jvp(inner, xs, dxs))
    return f


def stop(transforms):
    return ft.stop_gradient if transforms is ft else jax.lax.stop_gradient


def halve(x):
    while abs(x) > 1e-3:
        x = x * 0.5
    return x


@pytest.mark.parametrize("row", ROWS)
def test_equals_jax(row):
    same(ROWS[row](ft, fnp), ROWS[row](jax, jnp))


def test_six_derivatives_of_a_reciprocal_stay_exact_in_float32():
    f = lambda x: 1 / x
    for _ in range(6):
        f = ft.grad(f)
    assert float(f(4.0)) == 0.0439453125


def test_the_sign_of_a_complex_number_moves_along_the_circle():
    with jax.enable_x64(True):
        ft.testing.check_grads(fnp.sign, (np.array([0.3 - 0.8j, 2.0 + 0.1j]),), order=2)
        assert ft.jvp(fnp.sign, (0j,), (1.0 + 0j,))[1] == 0


def test_numpy_protocols():
    f = lambda x: np.sin(x) + np.sum(np.stack([x, x]) * np.float32(2.0))
    np.testing.assert_allclose(ft.grad(f)(1.0), np.cos(1.0) + 4.0, rtol=1e-6)


def test_functrace_inside_jax():
    f = lambda x: ft.grad(lambda y: fnp.sin(y) * y)(x)
    g = lambda x: jax.grad(lambda y: jnp.sin(y) * y)(x)
    same(jax.jit(f)(0.7), jax.jit(g)(0.7))
    same(jax.vmap(f)(B), jax.vmap(g)(B))
    same(jax.grad(f)(0.7), jax.grad(g)(0.7))


@ft.custom_jvp
def doubled_tangent(x):
    return fnp.sin(x)


doubled_tangent.defjvp(lambda x, dx: (fnp.sin(x[0]), 2 * fnp.cos(x[0]) * dx[0]))


@ft.custom_vjp
def doubled_cotangent(x, n):
    return fnp.sin(x) * n, n


doubled_cotangent.defvjp(
    lambda x, n: ((fnp.sin(x) * n, n), (fnp.cos(x), n)), lambda r, ct: (2 * r[0] * r[1] * ct[0], None)
)


@ft.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, ct: (fnp.clip(ct, -1.0, 1.0),))


def test_a_call_inside_a_rule_is_not_kept_for_outside():
    inner = ft.jit(lambda x: f(x) * 2.0)
    f = ft.custom_jvp(lambda x: fnp.sin(x))
    f.defjvp(lambda xs, dxs: (f(xs[0]), dxs[0] * inner(xs[0])))
    both = lambda x: f(x) + inner(x)
    x = np.float32(0.4)
    same(ft.grad(both)(x), 3 * 2 * np.sin(x))
    same(ft.grad(ft.grad(both))(x), 3 * 2 * 2 * np.sin(x))


def test_rules_are_traced_once_for_a_model():
    count = []
    f = ft.custom_jvp(lambda x: fnp.sin(x))
    f.defjvp(lambda xs, dxs: (count.append(1), (f(xs[0]), dxs[0] * fnp.cos(xs[0])))[1])
    for _ in range(2):
        count.clear()
        ft.grad(lambda x: f(f(f(x))))(0.5)
        assert len(count) == 1  # and again by the next call, as Python's state may differ


def test_custom_rules_serve_jax_too():
    x = np.float32(0.3)
    expected = 2 * np.cos(x)
    for transform in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f)), lambda f: jax.grad(ft.jit(f))):
        same(transform(doubled_tangent)(x), expected)
        same(transform(lambda y: doubled_cotangent(y, 1)[0])(x), expected)
    same(jax.grad(jax.grad(doubled_tangent))(x), -2 * np.sin(x))
    same(jax.grad(jax.grad(lambda y: doubled_cotangent(y, 1)[0]))(x), -2 * np.sin(x))
    same(jax.vmap(jax.grad(doubled_tangent))(B), 2 * np.cos(B))
    same(jax.grad(lambda y: clipped(y) * 10.0)(x), np.float32(1.0))
    same(jax.vmap(jax.grad(lambda y: clipped(y) * 10.0))(B), np.ones_like(B))
    with pytest.raises(TypeError, match="forward-mode autodiff"):
        jax.jvp(clipped, (x,), (x,))


def test_nested_jit_is_one_shared_call():
    layer = ft.jit(lambda x: fnp.sin(x) * x)
    program = ft.make_program(lambda x: layer(layer(x)))(1.0)
    calls = [eqn.primitive for eqn in program.equations]
    assert [c.name for c in calls] == ["call", "call"]
    assert calls[0].program is calls[1].program


def test_stages():
    lowered = ft.jit(lambda x: x @ x).lower(np.ones((8, 8), np.float32))
    compiled = lowered.compile()
    assert compiled.cost_analysis()["flops"] >= 2 * 8**3 * 0.9
    assert compiled.memory_analysis().output_size_in_bytes == 8 * 8 * 4
    np.testing.assert_allclose(compiled(np.ones((8, 8), np.float32)), 8.0)
    assert ft.jit(lambda x: x @ x).eval_shape(np.ones((8, 8), np.float32)).shape == (8, 8)
    assert len(ft.jit(lambda x: x @ x).trace(np.ones((8, 8), np.float32)).jaxpr.eqns) == 1


def test_donation_reaches_xla():
    step = ft.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.ones(3)
    step(x)
    assert x.is_deleted()


def test_jitted_function_compiles_once():
    count = []
    step = ft.jit(lambda x: count.append(1) or x * 2)
    for value in (1.0, 2.0, 3.0):
        step(value)
    assert len(count) == 1
