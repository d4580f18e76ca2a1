"""custom_vmap: the rule is asked as JAX asks it, and derivatives go through it in every order with vmap."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax import custom_batching, numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import DtypeError, FunctraceError, RuleError, ShapeError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 4, 3))
V = RNG.standard_normal((2, 4, 3))
OURS = SimpleNamespace(t=ft, np=fnp, lax=ft.lax, custom_vmap=ft.custom_vmap, sequential_vmap=ft.sequential_vmap)
THEIRS = SimpleNamespace(
    t=jax, np=jnp, lax=jax.lax, custom_vmap=custom_batching.custom_vmap, sequential_vmap=custom_batching.sequential_vmap
)


@pytest.fixture(autouse=True)
def in_double():
    with jax.enable_x64(True):
        yield


def same(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert np.shape(a) == np.shape(b) and np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-11)


def recording(lib, factor=1.0):
    """A function of two vectors to a dict, and what its rule was asked; the rule's output is `factor` times it."""
    np_, asked = lib.np, []

    @lib.custom_vmap
    def f(x, y):
        return {"scaled": np_.sin(x) * (x @ y), "first": x * x}

    @f.def_vmap
    def rule(axis_size, in_batched, x, y):
        asked.append((axis_size, list(in_batched)))
        for value, flag in zip((x, y), in_batched, strict=True):
            assert value.shape == ((axis_size, 3) if flag else (3,))
        dots = (x * y).sum(-1)
        scaled = np_.sin(x) * (dots[:, None] if any(in_batched) else dots)
        return {"scaled": factor * scaled, "first": factor * x * x}, {"scaled": any(in_batched), "first": in_batched[0]}

    return f, asked


# Rows that JAX computes with the rule too: it has no reverse mode through one.
FORWARD = {
    "value": lambda t, f: f(X[0], Y[0]),
    "keyword": lambda t, f: t.vmap(lambda x: f(y=Y[0], x=x))(X),
    "vmap": lambda t, f: t.vmap(f)(X, Y),
    "vmap of one argument": lambda t, f: t.vmap(f, in_axes=(0, None))(X, Y[0]),
    "vmap of the other": lambda t, f: t.vmap(f, in_axes=(None, 0))(X[0], Y),
    "vmap over the last axis": lambda t, f: t.vmap(f, in_axes=1, out_axes=1)(X.T, Y.T),
    "vmap of vmap": lambda t, f: t.vmap(t.vmap(f))(V, V[::-1]),
    "vmap of vmap over different axes": lambda t, f: t.vmap(t.vmap(f, in_axes=(0, None)), in_axes=(None, 0))(X, Y),
    "jit": lambda t, f: t.jit(t.vmap(t.jit(f)))(X, Y),
    "jvp of vmap": lambda t, f: t.jvp(t.vmap(f), (X, Y), (Y, X)),
    "vmap of jvp": lambda t, f: t.vmap(lambda *xs: t.jvp(f, xs, xs[::-1]))(X, Y),
    "vmap of jvp of one argument": lambda t, f: t.vmap(lambda x: t.jvp(lambda x: f(x, Y[0]), (x,), (x * 2,)))(X),
    "jacfwd of vmap": lambda t, f: t.jacfwd(t.vmap(f))(X, Y),
}


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_forward_against_jax(name, factor):
    ours, asked = recording(OURS, factor)
    theirs, they_asked = recording(THEIRS, factor)
    same(FORWARD[name](ft, ours), FORWARD[name](jax, theirs))
    assert set(map(str, asked)) == set(map(str, they_asked))


def scalar(f):
    """A function of the dict that f gives, second order in both arguments."""
    return lambda x, y: (lambda d: (d["scaled"] ** 2).sum() + (d["first"] * y).sum())(f(x, y))


def in_loop(kind, f):
    """f within a body of control flow, differentiated and batched there."""

    def function(x, y):
        if kind == "scan":
            return ft.lax.scan(lambda c, k: (f(c, y)["scaled"] * 0.5, c @ y * k), x, np.arange(3.0))
        if kind == "while":
            body = lambda c: (c[0] + 1, f(c[1], y)["scaled"] * 0.5)
            return ft.lax.while_loop(lambda c: c[0] < 3, body, (0, x))[1]
        return ft.lax.cond(x.sum() > 0, lambda x: f(x, y)["scaled"], lambda x: x * y, x)

    return lambda x, y: sum(leaf.sum() for leaf in jax.tree.leaves(function(x, y)))


# Rows where the rule is correct, against the same function without one.
REVERSE = {
    "grad": lambda f: ft.grad(scalar(f), (0, 1))(X[0], Y[0]),
    "vmap of grad": lambda f: ft.vmap(ft.grad(scalar(f), (0, 1)))(X, Y),
    "vmap of value and grad": lambda f: ft.vmap(ft.value_and_grad(scalar(f)), (0, None))(X, Y[0]),
    "vmap of grad in what is not batched": lambda f: ft.vmap(ft.grad(scalar(f), 1), (0, None))(X, Y[0]),
    "grad of vmap": lambda f: ft.grad(lambda x, y: ft.vmap(scalar(f), (0, None))(x, y).sum(), (0, 1))(X, Y[0]),
    "jacfwd": lambda f: ft.jacfwd(f, (0, 1))(X[0], Y[0]),
    "jacrev": lambda f: ft.jacrev(f, (0, 1))(X[0], Y[0]),
    "vmap of jacfwd": lambda f: ft.vmap(ft.jacfwd(f, (0, 1)), (None, 0))(X[0], Y),
    "vmap of jacrev": lambda f: ft.vmap(ft.jacrev(f, (0, 1)), (0, None))(X, Y[0]),
    "hessian": lambda f: ft.hessian(scalar(f), (0, 1))(X[0], Y[0]),
    "vmap of hessian": lambda f: ft.vmap(ft.hessian(scalar(f), (0, 1)))(X, Y),
    "hessian of vmap": lambda f: ft.hessian(lambda x: ft.vmap(scalar(f))(x, Y).sum())(X),
    "vmap of grad of grad": lambda f: ft.vmap(ft.grad(lambda x, y: ft.grad(scalar(f))(x, y).sum(), (0, 1)))(X, Y),
    "vmap of linearize": lambda f: ft.vmap(lambda x, y: ft.linearize(scalar(f), x, y)[1](y, x))(X, Y),
    "linearize of vmap": lambda f: ft.linearize(ft.vmap(scalar(f)), X, Y)[1](Y, X),
    "vmap of vmap of grad": lambda f: ft.vmap(ft.vmap(ft.grad(scalar(f), (0, 1)), (0, None)), (0, 0))(V, V[:, 0]),
    "vmap of checkpoint": lambda f: ft.vmap(ft.grad(ft.checkpoint(scalar(f))))(X, Y),
    "jit": lambda f: ft.jit(ft.vmap(ft.jit(ft.grad(scalar(f)))))(X, Y),
    "what it closes over": lambda f: ft.grad(lambda y: ft.vmap(lambda x: scalar(f)(x, y))(X).sum())(Y[0]),
    **{
        f"vmap of grad of {kind}": lambda f, kind=kind: ft.vmap(ft.grad(in_loop(kind, f), (0, 1)))(X, Y)
        for kind in ("scan", "while", "cond")
    },
    **{
        f"jacfwd of vmap of {kind}": lambda f, kind=kind: ft.jacfwd(ft.vmap(in_loop(kind, f), (0, None)))(X, Y[0])
        for kind in ("scan", "while", "cond")
    },
}
RULE_UNUSED = {"grad", "jacfwd", "jacrev", "hessian"}


@pytest.mark.parametrize("name", REVERSE)
def test_against_the_function_without_a_rule(name):
    f, asked = recording(OURS)
    same(REVERSE[name](f), REVERSE[name](f.fun))
    assert bool(asked) == (name not in RULE_UNUSED)


# The derivative of a rule that gives three times the function is three times the function's.
THREEFOLD = {
    "vmap of jvp of jvp": lambda f: ft.vmap(  # JAX's has a batch axis too many
        lambda x, y: ft.jvp(lambda z: ft.jvp(lambda x: f(x, y), (z,), (y,))[1]["scaled"], (x,), (x,))
    )(X, Y),
    "vmap of grad": lambda f: ft.vmap(ft.grad(lambda x, y: f(x, y)["scaled"].sum(), (0, 1)))(X, Y),
    "grad of vmap": lambda f: ft.grad(lambda x, y: ft.vmap(f)(x, y)["scaled"].sum(), (0, 1))(X, Y),
    "vmap of jacfwd": lambda f: ft.vmap(ft.jacfwd(f, (0, 1)))(X, Y),
    "vmap of jacrev": lambda f: ft.vmap(ft.jacrev(f, (0, 1)))(X, Y),
    "vmap of hessian": lambda f: ft.vmap(ft.hessian(lambda x, y: f(x, y)["scaled"].sum()))(X, Y),
    "vmap of grad of grad": lambda f: ft.vmap(
        ft.grad(lambda x, y: ft.grad(lambda x: f(x, y)["scaled"].sum())(x).sum())
    )(X, Y),
    "vmap of grad of scan": lambda f: ft.vmap(
        ft.grad(lambda x, y: ft.lax.scan(lambda c, _: (c, f(c, y)["scaled"].sum()), x, None, length=2)[1].sum())
    )(X, Y),
}


@pytest.mark.parametrize("name", THREEFOLD)
def test_derivatives_are_those_of_the_rule(name):
    f, _ = recording(OURS, factor=3.0)
    same(THREEFOLD[name](f), jax.tree.map(lambda y: 3.0 * y, THREEFOLD[name](f.fun)))


STEPS = {
    "vmap": lambda f: lambda x: ft.vmap(f)(fnp.stack([x, 0.5 * x])).sum(0),
    "vmap of scale": lambda f: lambda x: ft.vmap(lambda s: f(x * s))(np.array([0.5, 1.5, 2.0])).sum(0),
    "grad": lambda f: ft.grad(lambda x: (f(x) * Y[0]).sum()),
    "jvp": lambda f: lambda x: ft.jvp(f, (x,), (Y[1],))[1],
    "linearize": lambda f: lambda x: ft.linearize(f, x)[1](x),
    "jacfwd": lambda f: lambda x: ft.jacfwd(f)(x).sum(0),
    "jacrev": lambda f: lambda x: ft.jacrev(f)(x).sum(0),
    "jit": ft.jit,
    "scan": lambda f: lambda x: ft.lax.scan(lambda c, _: (0.5 * f(c), c), x, None, length=2)[0],
}


STACKS = [*itertools.product(STEPS, repeat=2), *itertools.product(["vmap", "grad", "jvp"], repeat=3)]


@pytest.mark.parametrize("stack", STACKS, ids=" of ".join)
def test_stacks(stack):
    f = ft.custom_vmap(lambda x: fnp.sin(x) * x.sum() + x)
    f.def_vmap(lambda n, _, x: (fnp.sin(x) * x.sum(-1, keepdims=True) + x, True))
    with_rule, without = f, f.fun
    for name in reversed(stack):
        with_rule, without = STEPS[name](with_rule), STEPS[name](without)
    same(with_rule(X[0]), without(X[0]))


@pytest.mark.parametrize("lib", [OURS, THEIRS], ids=["functrace", "jax"])
def test_rule_that_calls_the_function(lib):
    """Over the second axis, the function that the rule calls is batched by its own rule again."""
    sizes = []

    @lib.custom_vmap
    def f(x):
        return lib.np.sin(x).sum()

    @f.def_vmap
    def rule(axis_size, in_batched, xs):
        sizes.append(axis_size)
        return lib.lax.map(f, xs), True

    same(lib.t.vmap(lib.t.vmap(f))(V), np.sin(V).sum(-1))
    assert sorted(set(sizes)) == [2, 4]


@pytest.mark.parametrize("lib", [OURS, THEIRS], ids=["functrace", "jax"])
def test_rule_of_another_function_in_a_rule(lib):
    asked = []

    @lib.custom_vmap
    def inner(x):
        return x * 2.0

    @inner.def_vmap
    def inner_rule(axis_size, in_batched, x):
        asked.append(axis_size)
        return x * 2.0, True

    f = lib.custom_vmap(lambda x: inner(x).sum())
    f.def_vmap(lambda n, _, x: (inner(x).sum(-1), True))
    same(lib.t.vmap(lib.t.vmap(f))(V), 2.0 * V.sum(-1))
    assert set(asked) == {2}  # the outer axis: the inner one is the rule's own business


SEQUENTIAL = {
    "vmap": lambda lib, f: lib.t.vmap(f, in_axes=(0, None))({"a": X}, Y[0]),
    "vmap of vmap": lambda lib, f: lib.t.vmap(lib.t.vmap(f))({"a": V}, V),
    "vmap of jvp": lambda lib, f: lib.t.vmap(lambda x: lib.t.jvp(lambda x: f({"a": x}, Y[0]), (x,), (x,)))(X),
}


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_vmap_against_jax(name):
    def function(lib):
        return lib.sequential_vmap(lambda x, y: {"b": lib.np.sin(x["a"]) @ y})

    same(*[SEQUENTIAL[name](lib, function(lib)) for lib in (OURS, THEIRS)])


def test_sequential_vmap_is_a_loop():
    f = ft.sequential_vmap(lambda x, y: (fnp.sin(x) * y).sum())
    assert "scan[" in str(ft.make_program(ft.vmap(f))(X, Y))
    both = [ft.vmap(ft.grad(g, (0, 1)), (0, None))(X, Y[0]) for g in (f, f.fun)]
    same(*both)
    assert "scan[" in str(ft.make_program(ft.vmap(ft.grad(f)))(X, Y))


def test_unbatched_output_and_integers():
    @ft.custom_vmap
    def f(x, i):
        return x[i], i + 1, 2.0

    @f.def_vmap
    def rule(axis_size, in_batched, x, i):
        assert in_batched == [True, False]
        return (x[:, i], i + 1, 2.0), (True, False, False)

    out, after, two = ft.vmap(f, in_axes=(0, None), out_axes=(0, None, None))(X, 1)
    same((out, np.asarray(after), np.asarray(two)), (X[:, 1], np.asarray(2), np.asarray(2.0)))
    got = ft.vmap(ft.grad(lambda x: f(x, 1)[0] * 3.0))(X)
    same(got, np.tile([0.0, 3.0, 0.0], (4, 1)))


def test_linear_transpose():
    A = RNG.standard_normal((3, 3))
    asked = []
    f = ft.custom_vmap(lambda x: A @ x)

    @f.def_vmap
    def rule(axis_size, in_batched, x):
        asked.append(axis_size)
        return x @ A.T, True

    same(ft.vmap(lambda ct: ft.linear_transpose(f, X[0])(ct)[0])(X), X @ A)
    assert asked == [4]


def test_rule_that_does_not_transpose():
    """The rule is linear and its equations are not, so the transpose is that of the function."""
    f = ft.custom_vmap(lambda x: 2.0 * x)
    f.def_vmap(lambda n, _, x: (fnp.where(x < 0, -2.0 * fnp.abs(x), 2.0 * fnp.abs(x)), True))
    same(ft.vmap(lambda ct: ft.linear_transpose(f, X[0])(ct)[0])(X), 2.0 * X)


def test_collectives_in_the_function():
    """The rule has the whole axis in hand, whatever its name."""
    f = ft.custom_vmap(lambda x: x - ft.lax.pmean(x, "i"))
    f.def_vmap(lambda n, _, x: (x - x.mean(0), True))
    same(ft.vmap(f, axis_name="i")(X), X - X.mean(0))
    same(ft.vmap(lambda x, y: f(y), (0, None), axis_name="i")(X, Y[0]), 0.0 * X)


@pytest.mark.parametrize("lib", [OURS, THEIRS], ids=["functrace", "jax"])
def test_closure_of_function_and_rule(lib):
    def scaled(c, xs):
        f = lib.custom_vmap(lambda x: c * x)
        f.def_vmap(lambda n, _, x: (c * x, True))
        return lib.t.vmap(f)(xs)

    same(lib.t.jit(scaled)(3.0, X), 3.0 * X)
    same(lib.t.jvp(lambda c: scaled(c, X), (3.0,), (1.0,))[1], X)
    same(lib.t.vmap(scaled, in_axes=(0, None))(np.arange(2.0), X), np.stack([0.0 * X, X]))


def test_gradient_in_what_is_closed_over():
    def applied(c, x, rule=True):
        f = ft.custom_vmap(lambda x: fnp.sin(c * x))
        f.def_vmap(lambda n, _, x: (fnp.sin(c * x), True))
        return (f if rule else f.fun)(x).sum()

    for make in (
        lambda f: ft.grad(lambda c: ft.vmap(f, (None, 0))(c, X).sum())(0.7),
        lambda f: ft.vmap(ft.grad(f), (None, 0))(0.7, X),
        lambda f: ft.vmap(ft.grad(f, 1), (None, 0))(0.7, X),
        lambda f: ft.vmap(ft.hessian(f, (0, 1)), (None, 0))(0.7, X),
    ):
        same(make(applied), make(lambda c, x: applied(c, x, rule=False)))


def test_closed_over_value_that_is_batched():
    def applied(c, x):
        f = ft.custom_vmap(lambda x: c * x)
        f.def_vmap(lambda n, _, x: (c * x, True))
        return f(x)

    for mapped in (ft.vmap(applied), ft.vmap(ft.grad(applied, 1)), ft.vmap(ft.grad(applied))):
        with pytest.raises(RuleError, match=r"closes over a value that is batched.*test_custom_vmap\.py"):
            mapped(np.arange(3.0), np.arange(3.0))


def test_array_that_is_closed_over_within_custom_vjp():
    """It goes to the backward function as a residual, without a batch axis."""
    weights, size = np.arange(1.0, 4.0), len(X)
    f = ft.custom_vmap(lambda x: fnp.sin(weights * x))
    f.def_vmap(lambda n, _, x: (fnp.sin(weights * x), True))
    g = ft.custom_vjp(f)
    g.defvjp(lambda x: ft.vjp(f, x), lambda pullback, ct: pullback(ct))
    x = np.linspace(0.0, 1.0, 3 * size).reshape(size, 3)
    same(ft.vmap(g)(x), np.sin(weights * x))
    same(ft.vmap(ft.grad(lambda x: g(x).sum()))(x), weights * np.cos(weights * x))
    same(ft.grad(lambda x: ft.vmap(g)(x).sum())(x), weights * np.cos(weights * x))


def test_rule_that_closes_over_more():
    weights = np.arange(3.0)
    f = ft.custom_vmap(lambda x: x)
    f.def_vmap(lambda n, _, x: (x + weights, True))  # an array, not a traced value
    same(ft.vmap(f)(X), X + weights)

    def applied(c, x):
        f = ft.custom_vmap(lambda x: x * 1.0)
        f.def_vmap(lambda n, _, x: (x + c * 0.0, True))
        return f(x)

    for call in (lambda c: ft.vmap(lambda x: applied(c, x))(X), lambda c: ft.vmap(applied, (None, 0))(c, X)):
        with pytest.raises(RuleError, match=r"closes over a traced value .* as an argument.*test_custom_vmap\.py"):
            ft.jit(call)(1.0)


def test_within_functions_with_custom_derivatives():
    """As JAX advises: custom_vjp around custom_vmap."""
    f, asked = recording(OURS)
    g = ft.custom_vjp(lambda x: f(x, Y[0])["scaled"])
    g.defvjp(lambda x: (g(x), x), lambda x, ct: (10.0 * ct,))
    same(ft.vmap(g)(X), f.fun(X[0], Y[0])["scaled"] * 0 + ft.vmap(lambda x: f.fun(x, Y[0])["scaled"])(X))
    same(ft.vmap(ft.grad(lambda x: g(x).sum()))(X), np.full_like(X, 10.0))
    assert asked

    h = ft.custom_vmap(lambda x: g(x).sum())
    h.def_vmap(lambda n, _, x: (ft.vmap(g)(x).sum(-1), True))
    same(ft.vmap(ft.grad(h))(X), np.full_like(X, 10.0))


def test_in_a_pushforward_rule_of_known_and_unknown():
    """A function whose results depend on operands in part is cut in two where reverse mode needs it."""
    pair = ft.custom_vmap(lambda x, dx: (fnp.sin(x), fnp.cos(x) * dx))
    pair.def_vmap(lambda n, b, x, dx: ((fnp.sin(x), fnp.cos(x) * dx), (b[0], True)))
    f = ft.custom_jvp(lambda x: fnp.sin(x))
    f.defjvp(lambda xs, dxs: pair(*xs, *dxs))
    same(ft.vmap(ft.grad(lambda x: f(x).sum()))(X), np.cos(X))
    same(ft.grad(lambda x: ft.vmap(f)(x).sum())(X), np.cos(X))
    same(ft.vmap(ft.hessian(lambda x: f(x).sum()))(X), -np.sin(X)[:, :, None] * np.eye(3))


def test_rule_is_traced_once():
    """For an axis size and a choice of batched operands; and the Program is compiled once for all calls."""
    f, asked = recording(OURS)
    step = ft.jit(ft.vmap(ft.grad(scalar(f))))
    step(X, Y)
    first = len(asked)
    step(X, Y)
    assert len(asked) == first == 1
    a, b = (ft.make_program(scalar(f))(X[0], Y[0]) for _ in range(2))
    assert a == b and hash(a) == hash(b)
    assert "foreign.custom_vmap" in str(a)


def test_rules_are_told_apart():
    f = ft.custom_vmap(lambda x: x)
    f.def_vmap(lambda n, _, x: (2.0 * x, True))
    mapped = ft.vmap(lambda x: f(x))
    same(mapped(X), 2.0 * X)
    f.def_vmap(lambda n, _, x: (3.0 * x, True))
    same(mapped(X), 3.0 * X)


def given(rule):
    f = ft.custom_vmap(lambda x: {"y": x * 2.0})
    if rule is not None:
        f.def_vmap(rule)
    return f


ERRORS = {
    "no rule": (None, RuleError, r"no batching rule was given; call <lambda>\.def_vmap first"),
    "no pair": (lambda n, b, x: {"y": x}, DtypeError, r"must return a pair \(output, out_batched\), got dict"),
    "output of another structure": (
        lambda n, b, x: ([x], [True]), DtypeError, r"the output of its batching rule .* must have the pytree",
    ),
    "out_batched of another structure": (
        lambda n, b, x: ({"y": x}, True), DtypeError, r"the out_batched of its batching rule .* must have the pytree",
    ),
    "out_batched of no bools": (lambda n, b, x: ({"y": x}, {"y": 0}), DtypeError, r"True or False .* got 0 for leaf 0"),
    "wrong leading size": (
        lambda n, b, x: ({"y": x[:2]}, {"y": True}), ShapeError,
        r"returned f64\[2,3\] for leaf 0 .* must return f64\[4,3\]: .* is batched, with the axis of size 4 first",
    ),
    "batched and said not to be": (
        lambda n, b, x: ({"y": x}, {"y": False}), ShapeError, r"must return f64\[3\]: .* is not batched",
    ),
    "wrong type": (
        lambda n, b, x: ({"y": x.astype("float32")}, {"y": True}), DtypeError, r"returned f32\[4,3\] .* f64\[4,3\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    rule, kind, text = ERRORS[name]
    for mapped in (ft.vmap(given(rule)), ft.vmap(ft.grad(lambda x: given(rule)(x)["y"].sum()))):
        with pytest.raises(kind, match=text + r".*\(test_custom_vmap\.py:\d+"):
            mapped(X)


def test_bad_functions():
    with pytest.raises(FunctraceError, match="custom_vmap: expected a function, got int"):
        ft.custom_vmap(3)
    with pytest.raises(FunctraceError, match="def_vmap: expected a function, got int"):
        ft.custom_vmap(abs).def_vmap(3)
