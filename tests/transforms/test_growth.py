"""How Programs grow under towers of derivatives, and that what stays small stays right."""

from __future__ import annotations

from decimal import Decimal, localcontext

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp, rewrites
from functrace.lower.execute import execute
from functrace.rewrites.collect import programs_of
from functrace.tracing import trace

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
RANDOM = np.random.default_rng(0)
LAYERS = [
    (RANDOM.normal(size=s) / np.sqrt(s[0]), 0.1 * RANDOM.normal(size=s[1])) for s in ((1, 16), (16, 16), (16, 1))
]  # fmt: skip
V = np.cos(np.arange(4))


def five_times(n, t, x):
    for _ in range(5):
        x = n.sin(x) * n.exp(-x) + x
    return x


def tanh_sine(n, t, x):
    return n.tanh(n.sin(x) * x)


def network(n, t, x, layers=LAYERS):
    h = n.reshape(x, (1,))
    for w, b in layers[:-1]:
        h = n.tanh(h @ w + b)
    w, b = layers[-1]
    return (h @ w + b)[0]


def size(program):
    """Equations, those of the Programs held in them included."""
    return sum(sum(map(size, programs_of(e.primitive))) or 1 for e in program.equations)


def size_in_jax(jaxpr):
    """The same of a jaxpr."""
    total = 0
    for e in jaxpr.eqns:
        values = [u for v in e.params.values() for u in (v if isinstance(v, tuple) else (v,))]
        held = [getattr(v, "jaxpr", v) for v in values if hasattr(v, "jaxpr") or hasattr(v, "eqns")]
        total += sum(map(size_in_jax, held)) or 1
    return total


def tower(transform, f, order):
    for _ in range(order):
        f = transform(f)
    return f


def slope_by_jvp(t):
    """A scalar function's derivative, by forward mode."""
    return lambda f: lambda x: t.jvp(f, (x,), (x * 0 + 1,))[1]


def both(f):
    """A function of either library, of one argument: functrace's, and JAX's."""
    return lambda x: f(fnp, ft, x), lambda x: f(jnp, jax, x)


# The goals: the function, the order, and how many equations it may have.
GOALS = [
    (five_times, 5, 800), (five_times, 8, 2500), (five_times, 10, 4500),
    (tanh_sine, 8, 300), (tanh_sine, 10, 500), (network, 8, 400), (network, 10, 700),
]  # fmt: skip


@pytest.mark.parametrize(("f", "order", "most"), GOALS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("how", ["grad", "value_and_grad", "grad of jit"])
def test_towers_are_small(f, order, most, how):
    ours, slope = both(f)[0], ft.grad
    if how == "grad of jit":
        ours, most = ft.jit(ours), 1.2 * most
    elif how == "value_and_grad":
        slope = lambda g: lambda x: ft.value_and_grad(g)(x)[1]
    assert size(ft.make_program(tower(slope, ours, order))(np.float32(0.3))) <= most


SCALAR = {
    "five times": five_times,
    "tanh of sine": tanh_sine,
    "network": network,
    "quotient": lambda n, t, x: (1 + x * x) / (2 + n.cos(x)),
    "relu": lambda n, t, x: n.sum(n.maximum(n.sin(x * n.arange(3.0)), 0) ** 3) * x,
    "jit": lambda n, t, x: t.jit(n.sin)(x) * t.jit(lambda y: n.exp(y * x))(x),
    "vmap": lambda n, t, x: n.sum(t.vmap(lambda a: n.sin(a * x))(n.arange(3.0))) ** 2,
    "scan": lambda n, t, x: t.lax.fori_loop(0, 3, lambda i, s: n.sin(s) * x, x),
    "scan with outputs": lambda n, t, x: n.sum(t.lax.scan(lambda s, a: (n.sin(s * a), s * x), x, n.arange(3.0))[1]),
    "cond": lambda n, t, x: t.lax.cond(x > 0, lambda x: n.sin(x) * x, lambda x: x, x) * n.exp(x),
}


@pytest.mark.parametrize("name", SCALAR)
def test_equals_nested_jax_and_is_smaller(name):
    ours, theirs = both(SCALAR[name])
    x = np.float32(0.3)
    for order in (2, 3, 4):
        program = ft.make_program(tower(ft.grad, ours, order))(x).verify()
        assert size(program) < size_in_jax(jax.make_jaxpr(tower(jax.grad, theirs, order))(x).jaxpr), order
    found, expected = tower(ft.grad, ours, 3)(x), jax.jit(tower(jax.grad, theirs, 3))(x)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def guarded(n, t, x):
    return n.where(x > 0, n.sqrt(n.where(x > 0, x, 1.0)), 0.0)


# A select and a pole, of which no zero tangent meets an infinite slope: the function, equations at order 6, and points.
PAST_MASKS = {
    "softplus": (lambda n, t, x: (ft.nn if t is ft else jax.nn).softplus(x), 110, (0.3, 30.0)),
    "mish": (lambda n, t, x: (ft.nn if t is ft else jax.nn).mish(x), 230, (0.3, -2.0)),
    "logsumexp": (lambda n, t, x: (ft.nn if t is ft else jax.nn).logsumexp(n.stack([x, x * x])), 210, (0.3, 3.0)),
    "guarded": (guarded, 110, (-0.5, 2.0)),
    "guarded, jit": (lambda n, t, x: t.jit(lambda x: guarded(n, t, x))(x), 120, (-0.5, 2.0)),
    "log of clip": (lambda n, t, x: n.log(n.clip(x, 0.1, 2.0)), 25, (0.05, 0.5)),
    "log1p of relu": (lambda n, t, x: n.log1p(n.maximum(x, 0.0)), 20, (-0.5, 0.5)),
    "apart, jit": (lambda n, t, x: t.jit(lambda x: 1 / (1 + x * x) + n.maximum(x, 0.3))(x), 120, (0.2, 0.5)),
    "apart, checkpoint": (lambda n, t, x: t.checkpoint(lambda x: 1 / (1 + x) + n.maximum(x, 0.3))(x), 70, (0.2, 0.5)),
    "apart, scan": (
        lambda n, t, x: t.lax.scan(lambda c, a: (n.maximum(c, 0.1) + n.log(1 + x * x) * a, None), x, n.ones(3))[0],
        80, (0.05, 0.5),
    ),
    "cond": (lambda n, t, x: t.lax.cond(x > 0, lambda x: n.log(x) * x, lambda x: 0.0 * x, x), 30, (-0.5, 0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAST_MASKS)
def test_masks_that_meet_no_pole_go_forward(name):
    f, most, points = PAST_MASKS[name]
    ours, theirs = both(f)
    assert size(ft.make_program(tower(ft.grad, ours, 6))(np.float32(points[0]))) <= most
    expected = jax.jit(tower(jax.grad, theirs, 2))
    for x in points:
        np.testing.assert_allclose(tower(ft.grad, ours, 2)(np.float32(x)), expected(x), rtol=1e-5, atol=1e-6)


# What meets one, where the gradient of the masked part is 0, and by forward mode would be NaN.
MEETS_POLE = {
    "sqrt of relu": lambda x: fnp.where(x > 0, fnp.sqrt(fnp.maximum(x, 0.0)), 0.0),
    "in jit": ft.jit(lambda x: fnp.where(x > 0, fnp.log(fnp.where(x > 0, x, 0.0)), 0.0)),
    "behind jit": lambda x: fnp.where(x > 0, fnp.log(ft.jit(lambda x: fnp.maximum(x, 0.0))(x)), 0.0),
    "in scan, a turn later": lambda x: fnp.where(x > 0, ft.lax.fori_loop(
        0, 2, lambda i, c: fnp.where(i > 0, fnp.sqrt(c), fnp.where(x > 0, c, 0.0)), x), 0.0),
    "in scan, a constant at first": lambda x: fnp.where(x > 0, ft.lax.fori_loop(
        0, 2, lambda i, c: fnp.where(x > 0, x, fnp.sqrt(c)), 0.0), 0.0),
    "behind cond": lambda x: fnp.where(
        x > 0, fnp.sqrt(ft.lax.cond(x > 0, lambda x: x, lambda x: 0.0, x)), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MEETS_POLE)
def test_masks_that_meet_a_pole_stay_masks(name):
    for order in (1, 2):
        assert float(tower(ft.grad, MEETS_POLE[name], order)(-0.5)) == 0


@pytest.mark.parametrize("name", ["scan", "scan with outputs", "while"])
def test_loops_grow_slowly(name):
    loop = lambda n, t, x: t.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, n.sin(s[1]) * x), (0, x))[1]
    ours = both(SCALAR.get(name, loop))[0]
    sizes = [size(ft.make_program(tower(ft.grad, ours, order))(np.float32(0.3))) for order in (3, 6)]
    assert sizes[1] <= 6 * sizes[0]  # with one more carry an order; twice as many would be eight times the size


def test_a_while_loop_goes_forward():
    def ours(x):
        return ft.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, fnp.sin(s[1]) * x), (0, x))[1]

    x = np.float32(0.3)
    program = ft.make_program(ft.grad(ours))(x)
    assert [e.primitive.name for e in program.equations if programs_of(e.primitive)] == ["while"]
    for order in (1, 2, 3):
        expected = tower(jax.grad, both(SCALAR["scan"])[1], order)(x)
        np.testing.assert_allclose(tower(ft.grad, ours, order)(x), expected, rtol=1e-5)


def test_integers_and_constants_do_not_move():
    """What a float decides has no tangent; nor has what a rule closes over behind a stop_gradient."""

    @ft.custom_jvp
    def doubled(x):
        return 2 * x

    doubled.defjvp(lambda xs, dxs: (doubled(*xs), 2 * dxs[0]))

    def f(n, t, x):
        values = x * n.arange(1.0, 4.0)
        order = n.argsort(n.cos(values))
        scale = n.floor(x + 5.5) * t.stop_gradient(x) if t is ft else n.floor(x + 5.5) * jax.lax.stop_gradient(x)
        return n.sum(n.sin(values[order]) * n.arange(3.0)) * scale

    ours, theirs = both(f)
    x = np.float32(0.3)
    for order in (1, 2, 3):
        np.testing.assert_allclose(tower(ft.grad, ours, order)(x), tower(jax.grad, theirs, order)(x), rtol=1e-5)
    np.testing.assert_allclose(ft.grad(ft.grad(lambda x: doubled(fnp.sin(x)) ** 2))(x), 8 * np.cos(0.6), rtol=1e-5)


def test_several_scalars_go_the_cheaper_way():
    f = lambda n, x, y, z: five_times(n, None, x) * y + n.sin(y * x) / z
    mixed = lambda dx, dy, dz: dx + 2 * dy + 3 * dz
    along = lambda t: lambda f: lambda *xs: mixed(*t.grad(f, (0, 1, 2))(*xs))
    xs = np.float32(0.3), np.float32(0.4), np.float32(1.5)
    for order in (1, 2, 3):
        ours = tower(along(ft), lambda *xs: f(fnp, *xs), order)
        theirs = tower(along(jax), lambda *xs: f(jnp, *xs), order)
        most = size_in_jax(jax.make_jaxpr(theirs)(*xs).jaxpr)
        assert size(ft.make_program(ours)(*xs)) < (most if order < 3 else 0.6 * most)
    np.testing.assert_allclose(ours(*xs), jax.jit(theirs)(*xs), rtol=1e-4)


# Reverse over reverse, of functions of a vector.
WIDE = {
    "five times": lambda n, x: n.sum(five_times(n, None, x)),
    "network": lambda n, x: n.sum(n.tanh(n.tanh(n.outer(x, V)) @ V) ** 2),
    "softmax": lambda n, x: n.log(n.sum(n.exp(x))) * x[0],
    "product": lambda n, x: n.prod(n.sin(x) + 2) * n.sum(x**3),
    "rosenbrock": lambda n, x: n.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2),
    "norm": lambda n, x: n.sqrt(n.sum(x * x)) + n.sum(1 / x),
}


@pytest.mark.parametrize("name", WIDE)
def test_reverse_over_reverse_is_smaller_than_in_jax(name):
    along = lambda t, n: lambda f: lambda x: n.sum(t.grad(f)(x) * V)
    x = np.linspace(0.1, 0.9, 4).astype(np.float32)
    for order in (1, 2, 3):
        ours = tower(along(ft, fnp), lambda x: WIDE[name](fnp, x), order)
        theirs = tower(along(jax, jnp), lambda x: WIDE[name](jnp, x), order)
        assert size(ft.make_program(ours)(x)) < size_in_jax(jax.make_jaxpr(theirs)(x).jaxpr), order
        np.testing.assert_allclose(ours(x), jax.jit(theirs)(x), rtol=1e-4)


def beam_loss(n, t):
    """The mean of (u'''' - 1)^2 over points: one reverse over four forwards."""

    def loss(layers, points):
        residual = lambda x: tower(t.grad, lambda x: network(n, t, x, layers), 4)(x) - 1
        return n.mean(t.vmap(residual)(points) ** 2)

    return loss


def test_gradient_of_a_loss_of_fourth_derivatives():
    layers = jax.tree_util.tree_map(np.float32, LAYERS)
    points = np.linspace(0, 1, 8, dtype=np.float32)
    ours, theirs = ft.grad(beam_loss(fnp, ft)), jax.grad(beam_loss(jnp, jax))
    program = ft.make_program(ours)(layers, points)
    assert size(program) < 300
    assert 3 * size(program) < size_in_jax(jax.make_jaxpr(theirs)(layers, points).jaxpr)
    found, expected = ours(layers, points), jax.jit(theirs)(layers, points)
    for g, e in zip(jax.tree_util.tree_leaves(found), jax.tree_util.tree_leaves(expected), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-4 * abs(np.asarray(e)).max())


# Accuracy, against power series in 60 digits.


def times(a, b):
    return [sum((a[i] * b[k - i] for i in range(k + 1)), Decimal(0)) for k in range(len(a))]


def exp_series(a):
    y = [a[0].exp()]
    for k in range(1, len(a)):
        y.append(sum((i * a[i] * y[k - i] for i in range(1, k + 1)), Decimal(0)) / k)
    return y


def sin_cos_series(a):
    term, s, c = Decimal(1), Decimal(0), Decimal(0)
    for i in range(60):
        (s, c) = (s, c + (-1) ** (i // 2) * term) if i % 2 == 0 else (s + (-1) ** (i // 2) * term, c)
        term *= a[0] / (i + 1)
    s, c = [s], [c]
    for k in range(1, len(a)):
        pairs = [(i * a[i], k - i) for i in range(1, k + 1)]
        s.append(sum((v * c[j] for v, j in pairs), Decimal(0)) / k)
        c.append(-sum((v * s[j] for v, j in pairs), Decimal(0)) / k)
    return s, c


def exactly(f, x, order):
    """Derivatives of orders 0 to `order` of a function of series."""
    with localcontext() as context:
        context.prec = 60
        series = f([Decimal(x), Decimal(1), *[Decimal(0)] * (order - 1)])
        factorial, found = 1, []
        for k, c in enumerate(series):
            factorial *= max(k, 1)
            found.append(float(c * factorial))
        return found


def five_times_series(x):
    for _ in range(5):
        product = times(sin_cos_series(x)[0], exp_series([-v for v in x]))
        x = [a + b for a, b in zip(product, x, strict=True)]
    return x


def tanh_sine_series(x):
    u = exp_series([2 * v for v in times(sin_cos_series(x)[0], x)])
    quotient, bottom = [], [u[0] + 1, *u[1:]]
    for k, v in enumerate([u[0] - 1, *u[1:]]):
        quotient.append((v - sum((quotient[i] * bottom[k - i] for i in range(k)), Decimal(0))) / bottom[0])
    return quotient


@pytest.mark.parametrize(
    ("f", "series", "x", "orders"),
    [(five_times, five_times_series, 0.25, (3, 7)), (tanh_sine, tanh_sine_series, 0.75, (4, 8, 10))],
)  # fmt: skip
def test_towers_are_accurate(f, series, x, orders):
    expected = exactly(series, x, max(orders))
    with jax.enable_x64(True):
        for order in orders:
            np.testing.assert_allclose(tower(ft.grad, both(f)[0], order)(x), expected[order], rtol=1e-11)


def test_towers_of_known_derivatives():
    with jax.enable_x64(True):
        x, order = 0.7, 8
        factorial = 40320.0
        for f, expected in [
            (fnp.sin, np.sin(x)), (fnp.exp, np.exp(x)), (lambda x: 1 / x, factorial / x**9),
            (fnp.log, -factorial / 8 / x**8), (lambda x: x**8, factorial), (lambda x: x**7, 0.0),
            (fnp.sqrt, -135135 / 256 * x**-7.5), (lambda x: fnp.sinh(2 * x), 256 * np.sinh(2 * x)),
        ]:  # fmt: skip
            np.testing.assert_allclose(tower(ft.grad, f, order)(x), expected, rtol=1e-12)


@ft.custom_jvp
def log_by_jvp(x, y):
    return x * fnp.log(fnp.where(x == 0, 1.0, y))


@ft.custom_vjp
def log_by_vjp(x, y):
    return x * fnp.log(fnp.where(x == 0, 1.0, y))


def in_y(x, y):
    return x / fnp.where((x == 0) & (y == 0), 1.0, y)


log_by_jvp.defjvp(lambda xs, dxs: (log_by_jvp(*xs), dxs[0] * fnp.log(xs[1]) + dxs[1] * in_y(*xs)))
log_by_vjp.defvjp(lambda x, y: (log_by_vjp(x, y), (x, y)), lambda xs, ct: (ct * fnp.log(xs[1]), ct * in_y(*xs)))


# Where forward mode must give way to reverse mode, or give what it gives.

GUARDED = {
    "log in where": lambda x: fnp.where(x > 0, fnp.log(x), 0.0),
    "sqrt of where": lambda x: fnp.sqrt(fnp.where(x > 0, x, 0.0)),
    "sqrt of max": lambda x: fnp.sqrt(fnp.maximum(x, 0.0)),
    "arccos of clip": lambda x: fnp.arccos(fnp.clip(x - 1, -1.0, 1.0)),
    "power of where": lambda x: fnp.where(x > 0, x, 0.0) ** 0.5,
    "log of exp of where": lambda x: fnp.log(fnp.exp(fnp.where(x > 0, x, -np.inf))),
    "sqrt of a sum": lambda x: fnp.sqrt(fnp.sum(fnp.where(x > 0, x * fnp.arange(1.0, 4.0), 0.0))),
    "sum of sqrt": lambda x: fnp.sum(fnp.sqrt(fnp.where(fnp.arange(3) * x > 0, fnp.arange(3) * x, 0.0))),
    "lgamma of where": lambda x: ft.scipy.special.gammaln(fnp.where(x > 0, x, 0.0)),
    "sqrt of relu": lambda x: fnp.sqrt(ft.nn.relu(x)),
    "in jit": lambda x: fnp.sqrt(ft.jit(lambda x: fnp.where(x > 0, x, 0.0))(x)),
    "of jit": lambda x: ft.jit(fnp.sqrt)(fnp.where(x > 0, x, 0.0)),
    "whole in jit": lambda x: ft.jit(lambda x: fnp.sqrt(fnp.where(x > 0, x, 0.0)))(x),
    "constant branch": lambda x: fnp.sqrt(ft.lax.cond(x > 0, lambda x: x, lambda x: 0.0, x)),
    "scan from a constant": lambda x: ft.lax.fori_loop(0, 2, lambda i, s: fnp.sqrt(s) + x * x, 0.0),
    "while from a constant": lambda x: ft.lax.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, fnp.sqrt(s[1]) + x * x), (0, 0.0)
    )[1],
    "custom_jvp of a constant": lambda x: log_by_jvp(0.0, x + 1),
    "custom_vjp of a constant": lambda x: log_by_vjp(0.0, x + 1),
    "custom_vjp in jit": lambda x: ft.jit(log_by_vjp)(0.0, x + 1),
    "xlogy": lambda x: fnp.sum(ft.scipy.special.xlogy(fnp.zeros(3), x + 1)),
    "in scan": lambda x: ft.lax.fori_loop(0, 2, lambda i, s: fnp.sqrt(fnp.where(s > 0, s, 0.0)) * x, x),
}


@pytest.mark.parametrize("name", GUARDED)
def test_what_a_where_leaves_out_stays_out(name):
    for x in np.float32([-1.0, 1.3]):
        traced = trace(GUARDED[name], (x,), transform="test")
        moving = (False,) * len(traced.captures) + (True,)
        values = [*traced.captures, x]
        chosen, reverse = (
            execute(rewrite(traced.program, moving), values)[-1] for rewrite in (rewrites.gradient, rewrites.pullback)
        )
        np.testing.assert_allclose(chosen, reverse, rtol=1e-6)
        assert np.isfinite(chosen)


def test_a_custom_backward_is_kept():
    @ft.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, ct: (fnp.clip(ct, -1.0, 1.0),))

    @ft.custom_vjp
    def tripled(x):
        return fnp.sin(x)

    tripled.defvjp(lambda x: (fnp.sin(x), x), lambda x, ct: (3 * ct * fnp.cos(x),))
    assert float(ft.grad(lambda x: 5 * clipped(x))(2.0)) == 1.0
    np.testing.assert_allclose(ft.grad(lambda x: 5 * tripled(x))(0.3), 15 * np.cos(0.3), rtol=1e-6)
    np.testing.assert_allclose(ft.grad(ft.grad(tripled))(0.3), -3 * np.sin(0.3), rtol=1e-6)
    hooked = lambda x: ft.on_backward(x, lambda ct: fnp.minimum(ct, 1.0)) * 5
    assert float(ft.grad(hooked)(2.0)) == 1.0
    assert float(ft.grad(lambda x: ft.jit(hooked)(x) * 2)(2.0)) == 1.0


def test_types_are_those_of_the_argument():
    with jax.enable_x64(True):
        for x in (np.float32(2), np.float64(2), np.ones(1, np.float32), np.ones((1, 1)), jnp.bfloat16(2)):
            for f in (lambda x: x.astype("float32").sum() * 3, lambda x: x.sum() * 0 + 1, lambda x: (x * x).sum()):
                g = ft.grad(f)(x)
                assert (g.shape, g.dtype) == (np.shape(x), x.dtype)


# Random nestings.

UNITS = {
    "sin": lambda n, t, x: n.sin(x),
    "tanh": lambda n, t, x: n.tanh(x),
    "square": lambda n, t, x: x * x,
    "reciprocal": lambda n, t, x: 1 / (2 + x * x),
    "exp": lambda n, t, x: n.exp(-x),
    "where": lambda n, t, x: n.where(x > 0.2, x, x * x),
    "jit": lambda n, t, x: t.jit(n.cos)(x),
    "scan": lambda n, t, x: t.lax.fori_loop(0, 2, lambda i, s: n.sin(s + x), x),
    "vmap": lambda n, t, x: n.sum(t.vmap(lambda a: n.cos(a * x))(n.arange(2.0))),
    "checkpoint": lambda n, t, x: t.checkpoint(n.sin)(x) * x,
    "inner derivative": lambda n, t, x: t.grad(lambda y: n.sin(x * y) * y)(x),
}
NESTINGS = {
    "grad": lambda n, t, f: t.grad(f),
    "value and grad": lambda n, t, f: lambda x: (lambda v, g: v * g)(*t.value_and_grad(f)(x)),
    "jvp": lambda n, t, f: lambda x: t.jvp(f, (x,), (n.cos(x),))[1],
    "vjp": lambda n, t, f: lambda x: t.vjp(f, x)[1](n.sin(x))[0],
    "linearize": lambda n, t, f: lambda x: t.linearize(f, x)[1](x),
    "jit": lambda n, t, f: t.jit(f),
    "vmap": lambda n, t, f: lambda x: n.sum(t.vmap(f)(x * n.arange(1.0, 3.0))),
    "plus": lambda n, t, f: lambda x: f(x) + x * x,
}


def nested(n, t, units, nestings):
    def f(x):
        for unit in units:
            x = UNITS[unit](n, t, x)
        return x

    for nesting in nestings:
        f = NESTINGS[nesting](n, t, f)
    return f


@settings(max_examples=15, derandomize=True, **QUIET)
@given(
    st.lists(st.sampled_from(sorted(UNITS)), min_size=1, max_size=3),
    st.lists(st.sampled_from(sorted(NESTINGS)), min_size=1, max_size=4),
)
def test_random_nestings_equal_jax(units, nestings):
    with jax.enable_x64(True):
        ours, theirs = nested(fnp, ft, units, nestings), nested(jnp, jax, units, nestings)
        program = ft.make_program(ours)(0.4).verify()
        np.testing.assert_allclose(execute(program, [0.4])[0], jax.jit(theirs)(0.4), rtol=1e-9, atol=1e-9)
