"""derivative, jet and taylor: against nested transforms of JAX, against its jet, and under every other transform."""

import math
from functools import reduce
from types import SimpleNamespace

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


MINE = SimpleNamespace(**vars(OURS), relu=ft.from_jax(jax.nn.relu))
JAX = SimpleNamespace(**vars(THEIRS), relu=jax.nn.relu)


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
    "products": lambda b: lambda x: (b.np.prod(b.np.sin(x + np.arange(4.0))), b.np.cumprod(x + np.arange(3.0))),
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
    "relu": lambda b: lambda x: b.relu(x * np.array([1.0, -1.0])) * x,
    "integers": lambda b: lambda x: (x * x, 3, (x > 0)),
}  # fmt: skip
HEAVY = ("cholesky", "solve", "inv", "eigh", "determinant", "powers")  # to compile, nested


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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_a_scalar_function(name):
    """taylor, jet, and derivative of orders to 3 are nested forward mode."""
    with jax.enable_x64(True):
        f, x, n = FUNCTIONS[name](MINE), np.float64(0.7), 2 if name in HEAVY else 3
        expected = derivatives(FUNCTIONS[name](JAX), n, x, np.ones(()))
        for k, c in enumerate(ft.taylor(f, x, n)):
            close(inexact(c), [y / math.factorial(k) for y in expected[k]])
        close(inexact(ft.derivative(f, n)(x)), expected[n])
        ft.make_program(lambda x: inexact(ft.derivative(f, n)(x)))(x).verify()


QUICK = (
    "recurrent", "backward_scan", "no_inputs", "crossed_carry", "choice", "three_ways", "newton", "pair_loop",
    "loop_in_scan", "custom_in_scan", "collective_in_scan", "nested_checkpoints", "scan_in_segments",
)  # fmt: skip
LOOPS = [pytest.param(r, id=r.names[0], marks=() if r.names[0] in QUICK else pytest.mark.slow) for r in ROWS]


@pytest.mark.parametrize("row", LOOPS)
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


@pytest.mark.parametrize("order, most", [(8, 2_500), (10, 4_500)])
def test_growth(order, most):
    """Order by order a Program grows by no more than n squared."""
    size = lambda name, n: len(ft.make_program(ft.derivative(FUNCTIONS[name](OURS), n))(0.5).equations)
    sizes = {name: (size(name, order // 2), size(name, order)) for name in ("five times", "tanh", "network")}
    assert sizes["five times"][1] <= most
    for half, whole in sizes.values():
        assert whole <= 4.2 * half


def test_depth():
    """A long function and a high order take no recursion, and the factorial of the order does not leave the range."""

    def deep(x):
        for _ in range(3_000):
            x = fnp.sin(x)
        return x

    assert len(ft.make_program(ft.derivative(deep, 2))(0.5).equations) < 40_000
    c = ft.taylor(fnp.exp, np.float32(0.5), 20)
    np.testing.assert_allclose(c[20], math.exp(0.5) / math.factorial(20), rtol=1e-5)
    assert float(ft.derivative(fnp.exp, 60)(np.float32(0.5))) == pytest.approx(math.exp(0.5), rel=1e-4)


# Each a way to the fourth derivative of a function of a scalar, at each of several points.
STACKS = {
    "of derivatives": lambda f: ft.vmap(ft.derivative(ft.derivative(f, 2), 2)),
    "of a jitted one": lambda f: ft.vmap(ft.derivative(ft.jit(ft.derivative(f, 1)), 3)),
    "of grad": lambda f: ft.vmap(ft.derivative(ft.grad(f), 3)),
    "in grad": lambda f: ft.vmap(ft.grad(ft.derivative(f, 3))),
    "in grad of grad": lambda f: ft.jit(ft.vmap(ft.grad(ft.grad(ft.derivative(f, 2))))),
    "of vmap": lambda f: lambda x: ft.vmap(ft.jit(ft.derivative(f, 4)))(x),
    "around vmap": lambda f: lambda x: ft.derivative(lambda t: ft.vmap(f)(x + t), 4)(0.0),
    "grad of the sum of a vmap": lambda f: ft.grad(lambda x: ft.vmap(ft.derivative(f, 3))(x).sum()),
    "in jvp": lambda f: lambda x: ft.jvp(ft.vmap(ft.derivative(f, 3)), (x,), (fnp.ones_like(x),))[1],
    "of jvp": lambda f: ft.vmap(ft.derivative(lambda x: ft.jvp(f, (x,), (fnp.ones_like(x),))[1], 3)),
    "taylor in taylor": lambda f: ft.vmap(lambda x: 4 * ft.taylor(lambda x: ft.taylor(f, x, 2)[2], x, 2)[2]),
    "jet of grad": lambda f: ft.vmap(lambda x: ft.jet(ft.grad(f), (x,), ([1.0 + 0 * x, 0 * x, 0 * x],))[1][2]),
    "in jax": lambda f: jax.jit(jax.vmap(jax.grad(ft.derivative(f, 3)))),
}


@pytest.mark.parametrize("stack", STACKS)
def test_composition(stack):
    """derivative, jet and taylor with grad, jvp, vmap and jit, in any order."""
    with jax.enable_x64(True):
        xs = np.array([0.4, 0.9])
        f = lambda b: lambda x: b.np.sin(x) * b.np.exp(-x) + b.np.sum(b.np.log(x + np.arange(1.0, 4.0)))
        expected = derivatives(jax.vmap(f(THEIRS)), 4, xs, np.ones(2))[4][0]
        np.testing.assert_allclose(STACKS[stack](f(OURS))(xs), expected, rtol=1e-11)


def test_captured_values_and_python_branches():
    """What a function closes over is constant to it and moves with what is around it; Python may see the argument."""
    outer = lambda y: ft.derivative(lambda x: x**3 * y**2 if x > 0 else x, 2)(2.0)
    assert float(outer(3.0)) == 108.0
    assert float(ft.grad(outer)(3.0)) == 72.0
    assert float(ft.derivative(outer, 2)(3.0)) == 24.0


JETS = {
    "two arguments": (lambda np_: lambda x, y: np_.sin(x) * y + np_.exp(y), 2),
    "tree": (lambda np_: lambda x: {"a": np_.tanh(x) @ np_.ones(3), "b": (x * x,)}, 1),
    "logistic": (lambda np_: lambda x: np_.sum(np_.log1p(np_.exp(x)) / (1 + np_.exp(-x))), 1),
}


@pytest.mark.parametrize("name", JETS)
@pytest.mark.parametrize("factorial_scaled", [True, False])
def test_jet_is_jax_jet(name, factorial_scaled):
    make, count = JETS[name]
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        primals = tuple(rng.uniform(0.5, 1.0, (count, 3)))
        series = tuple([list(terms) for terms in rng.standard_normal((count, 4, 3))])
        ours = ft.jet(make(fnp), primals, series, factorial_scaled=factorial_scaled)
        expected = jax_jet.jet(make(jnp), primals, series, factorial_scaled=factorial_scaled)
        assert jax.tree.structure(ours) == jax.tree.structure(expected)
        close(jax.tree.leaves(ours), jax.tree.leaves(expected), 1e-12)


def test_jet_of_a_tree_along_a_curve():
    """A list of terms in the place of each leaf, integers included; the chain rule holds."""
    with jax.enable_x64(True):
        zero = np.zeros((), jax.dtypes.float0)
        h = lambda t: {"a": fnp.sin(t) * np.ones(2), "n": 3, "b": (fnp.exp(t),)}
        f = lambda tree: (tree["a"] * tree["b"][0] ** tree["n"]).sum()
        t = np.float64(0.3)
        y, terms = ft.jet(h, (t,), ([1.0, 0.0, 0.0],))
        assert terms["n"] == [zero] * 3
        _, found = ft.jet(f, (y,), (terms,))
        close(found, [ft.derivative(lambda t: f(h(t)), k)(t) for k in (1, 2, 3)])


def test_complex():
    """Along the real axis: of a holomorphic function the complex derivative, and parts of complex numbers."""
    with jax.enable_x64(True):
        z, n = np.complex128(0.5 + 0.2j), 3
        f = lambda np_: lambda z: np_.exp(1j * z) * z
        expected = reduce(lambda g, _: jax.grad(g, holomorphic=True), range(n), f(jnp))(z)
        np.testing.assert_allclose(ft.derivative(f(fnp), n)(z), expected, rtol=1e-12)
        parts = lambda np_: lambda x: np_.abs(f(np_)(x + 1j * x)) + np_.real(f(np_)(x)) * np_.angle(f(np_)(x))
        close([ft.derivative(parts(fnp), n)(0.7)], derivatives(parts(jnp), n, np.float64(0.7), 1.0)[n], 1e-12)


def test_rules_of_custom_functions():
    """The value and the derivative are those of the rule, and under vmap those of the batching rule."""
    f = ft.custom_jvp(fnp.sin)
    f.defjvp(lambda xs, dxs: (2 * f(xs[0]), 3 * fnp.cos(xs[0]) * dxs[0]))
    s, c = math.sin(0.5), math.cos(0.5)
    np.testing.assert_allclose(ft.taylor(f, 0.5, 3), [2 * s, 3 * c, -3 * s / 2, -3 * c / 6], rtol=1e-6)
    g = ft.custom_vjp(fnp.exp)
    g.defvjp(lambda x: (g(x), x), lambda x, ct: (ct * g(x),))
    assert float(ft.grad(ft.derivative(g, 3))(0.5)) == pytest.approx(math.exp(0.5))
    h = ft.custom_vmap(lambda x: x**3)
    h.def_vmap(lambda size, batched, x: (2 * x**3, True))
    xs = np.array([1.0, 2.0], np.float32)
    np.testing.assert_allclose(ft.derivative(h, 2)(2.0), 12)
    np.testing.assert_allclose(ft.vmap(ft.derivative(h, 2))(xs), 12 * xs)
    np.testing.assert_allclose(ft.vmap(ft.grad(ft.derivative(h, 2)))(xs), 12)


def looped(b):
    """A scan, and a while loop whose step branches."""

    def f(x):
        step = lambda s: b.cond(s > 0.5, lambda s: b.np.sin(s) * x, lambda s: s * s + x, s)
        s, ys = b.scan(lambda s, y: (b.np.cos(s * y), s), x, np.array([0.3, 1.2]))
        return b.while_loop(lambda v: v[0] < 3, lambda v: (v[0] + 1, step(v[1])), (0, s))[1] + b.np.sum(ys)

    return f


def test_gradients_of_loops():
    """Reverse mode of loops in a derivative, and a derivative in reverse mode."""
    with jax.enable_x64(True):
        f, x = looped(OURS), np.float64(0.7)
        (expected,) = derivatives(looped(THEIRS), 2, x, 1.0)[2]
        for g in (ft.derivative(ft.grad(f), 1), ft.grad(ft.derivative(f, 1))):
            np.testing.assert_allclose(g(x), expected, rtol=1e-10)


def test_collectives():
    """Under a mapped axis each row has its own derivative, and what is summed over rows is that of all of them."""
    ys = np.array([0.5, 1.0, 1.5])

    def row(y):
        f = lambda x: ft.lax.pmax(fnp.sin(x * y), "rows") + ft.lax.psum(x**3 * y, "rows") * ft.lax.axis_index("rows")
        return ft.derivative(f, 2)(0.7)

    with jax.enable_x64(True):
        found = ft.vmap(row, axis_name="rows")(ys)
        np.testing.assert_allclose(found, -(1.5**2) * np.sin(0.7 * 1.5) + 6 * 0.7 * ys.sum() * np.arange(3), rtol=1e-12)


def test_effects_happen_once():
    seen = []
    show = ft.from_jax(lambda x: jax.debug.callback(lambda x: seen.append(float(x)), x, ordered=True))

    def f(x):
        def step(carry):
            i, s = carry
            show(s)
            return i + 1, fnp.sin(ft.tap(s, "state"))

        show(x)
        return ft.lax.while_loop(lambda carry: carry[0] < 2, step, (0, x * x))[1]

    assert np.isfinite(ft.derivative(f, 3)(0.5))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, [0.5, 0.25, math.sin(0.25)], rtol=1e-6)


F32 = lambda *shape: np.ones(shape, np.float32)
ERRORS = {
    "negative order": (lambda: ft.derivative(fnp.sin, -1), ValueError,
        r"derivative: the order n must not be negative, got -1.*test_taylor.py:\d+"),
    "order that is no integer": (lambda: ft.taylor(fnp.sin, 1.0, 2.5), TypeError,
        r"taylor: the order n must be an integer, got 2.5 of type float.*test_taylor.py:\d+"),
    "derivative of a function of an array": (lambda: ft.derivative(fnp.sum, 2)(F32(3)), TypeError,
        r"derivative: sum must be a function of a scalar, and argument 0 is f32\[3\]. .*taylor or jet.*test_taylor.py"),
    "derivative in a tree": (lambda: ft.derivative(lambda p: p["a"] * p["b"])({"a": 1.0, "b": 2.0}), TypeError,
        r"argument 0 is f32\[\]~?, f32\[\]~?"),
    "derivative of an integer": (lambda: ft.derivative(lambda x: x * x, 2)(3), TypeError,
        r"derivative: argument 0 has dtype int32; derivatives need a floating or complex dtype.*test_taylor.py:\d+"),
    "argnum out of range": (lambda: ft.derivative(fnp.sin, 2, argnum=1)(1.0), ValueError,
        r"argnums 1 is out of range: the function was called with 1"),
    "not a function": (lambda: ft.derivative(2.0), TypeError, r"derivative: expected a function, got float"),
    "taylor of an integer leaf": (lambda: ft.taylor(lambda p: p["n"], {"n": 3}, 2, {"n": 1}), TypeError,
        r"taylor: argument 0 leaf \['n'\] has dtype int32"),
    "taylor without direction": (lambda: ft.taylor(fnp.sum, F32(3), 2), ValueError,
        r"taylor: x is f32\[3\] and not a scalar, so it needs a direction.*test_taylor.py:\d+"),
    "direction of another structure": (lambda: ft.taylor(fnp.sum, np.ones(3), 2, (np.ones(3),)), TypeError,
        r"taylor: the direction must have the pytree structure of x"),
    "direction of another shape": (lambda: ft.taylor(fnp.sum, F32(3), 2, F32(2)), TypeError,
        r"taylor: leaf 0 of the directions has type f32\[2\], and must have that of its primal, f32\[3\]"),
    "series of unequal length": (lambda: ft.jet(lambda x, y: x * y, (1.0, 2.0), ([1.0, 0.0], [1.0])), ValueError,
        r"jet: series must have one length: that of argument 0 has 2 terms, and that of argument 1 has 1.*test_taylor"),
    "series for another number of arguments": (lambda: ft.jet(fnp.multiply, (1.0, 2.0), ([1.0],)), TypeError,
        r"jet: primals and series must be tuples or lists of one length.*got a tuple of 2 and a tuple of 1"),
    "series of another structure": (lambda: ft.jet(lambda p: p["a"], ({"a": 1.0},), ([1.0],)), TypeError,
        r"jet: series must have the pytree structure of primals, with a list in the place of each leaf"),
    "series that is no list": (lambda: ft.jet(fnp.sin, (1.0,), (1.0,)), TypeError,
        r"jet: series of argument 0 must be a list of terms, .* got a float"),
    "term of another shape": (lambda: ft.jet(fnp.sin, (F32(),), ([F32(), F32(2)],)), TypeError,
        r"jet: term 2 of the series of argument 0 is f32\[2\], and must have the type of its primal, f32\[\]"),
    "term of an integer": (lambda: ft.jet(lambda x: x, (3,), ([1.0],)), TypeError,
        r"jet: argument 0 has dtype int32, which has no derivatives.*float0"),
}  # fmt: skip


@pytest.mark.parametrize("row", ERRORS)
def test_message(row):
    run, builtin, message = ERRORS[row]
    with pytest.raises(FunctraceError, match=message) as caught:
        run()
    assert isinstance(caught.value, builtin)
