"""A finite function has a finite gradient: what a select masks stays masked through all that is behind it.

Each row is a function whose value at `x` is finite, with its gradient there by hand. The gradient is taken in
every way there is, and so are second derivatives, which must be finite too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import functrace as ft
from functrace import lax, nn, numpy as fnp, rewrites, scipy
from functrace.ir import Aval, Builder, Primitive
from functrace.lower.evaluate import evaluate
from functrace.primitives.comparison import logical_not
from functrace.primitives.selection import covers
from functrace.primitives.space import broadcast_in_dim

X = np.array([0.0, 1.0, 4.0], np.float32)
ZERO, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)
ROWS = np.array([[1.0, 2.0], [0.0, 3.0]], np.float32)
W = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
roots = ft.jit(lambda x: fnp.sqrt(x) * 2)
again = ft.checkpoint(lambda x: fnp.log(fnp.sqrt(x)))


class Row(NamedTuple):
    """A function to a scalar, a point, and the gradient there."""

    function: Callable[[Any], Any]
    x: np.ndarray
    gradient: Any


def masked(f):
    """f where x > 0, summed."""
    return lambda x: fnp.where(x > 0, f(x), 0.0).sum()


def if_positive(f):
    """f as a whole if all of x is positive, else 0."""
    return lambda x: fnp.where((x > 0).all(), f(x), 0.0)


def scanned(step, *operands):
    """The carry of a scan from 0."""
    return lax.scan(step, 0.0, operands if len(operands) > 1 else operands[0])[0]


@ft.custom_vjp
def log_by_vjp(x):
    return fnp.log(x)


log_by_vjp.defvjp(lambda x: (fnp.log(x), x), lambda x, ct: (ct / x,))


@ft.custom_jvp
def log_by_jvp(x):
    return fnp.log(x)


log_by_jvp.defjvp(lambda xs, dxs: (fnp.log(xs[0]), dxs[0] / xs[0]))


def log_if_positive(x):
    return lax.cond(x > 0, fnp.log, lambda x: 0.0, x)


def steps_while_positive(x):
    """log(x) three times where x is positive; none where it is not."""
    return lax.while_loop(lambda s: s[0] < 3 * fnp.sign(x), lambda s: (s[0] + 1, s[1] + fnp.log(x)), (0.0, 0.0))[1]


SELECTED = {
    # One singular function behind the select.
    "sqrt": Row(masked(fnp.sqrt), X, [0, 0.5, 0.25]),
    "log": Row(masked(fnp.log), X, [0, 1, 0.25]),
    "reciprocal": Row(masked(lambda x: 1 / x), X, [0, -1, -1 / 16]),
    "power": Row(masked(lambda x: x**0.25), X, [0, 0.25, 0.25 * 4**-0.75]),
    "arccos": Row(
        lambda x: fnp.where(abs(x) < 1, fnp.arccos(x), 0.0).sum(), np.array([1, 0, 2.0], np.float32), [0, -1, 0]
    ),
    "exp, where it overflows": Row(
        lambda x: fnp.where(x < 9, fnp.exp(x), x).sum(), np.array([0, 1e4], np.float32), [1, 1]
    ),
    "missing data": Row(
        lambda x: fnp.where(fnp.isnan(np.array([1, np.nan])), 0, (x - np.array([1, np.nan])) ** 2).sum(),
        ROWS[0], [0, 0],
    ),
    # Several, one behind the other.
    "a chain": Row(masked(lambda x: fnp.exp(0.5 * fnp.log(x))), X, [0, 0.5, 0.25]),
    "a chain that branches": Row(
        masked(lambda x: fnp.sqrt(x) * fnp.log(x) + 1 / x), X, [0, 0, 0.25 * math.log(4) + 0.5 - 1 / 16]
    ),
    "a select behind a select": Row(masked(lambda x: fnp.log(fnp.where(x < 3, fnp.sqrt(x), 1.0))), X, [0, 0.5, 0]),
    "both cases": Row(
        lambda x: fnp.where(x > 0, fnp.sqrt(x), -fnp.sqrt(-x)).sum(), np.array([1, -1.0], np.float32), [0.5, 0.5]
    ),
    "select": Row(lambda x: fnp.select([x > 2, x > 0], [fnp.log(x), fnp.sqrt(x)], 0.0).sum(), X, [0, 0.5, 0.25]),
    "piecewise by extrema": Row(lambda x: fnp.maximum(fnp.sqrt(x), 0.5).sum(), X, [0, 0.5, 0.25]),
    "clip": Row(lambda x: fnp.clip(fnp.sqrt(x), 0.5, 1.5).sum(), X, [0, 0.5, 0]),
    "the greatest": Row(lambda x: fnp.max(fnp.sqrt(x)), X, [0, 0, 0.25]),
    # Behind what moves, repeats, sums and multiplies.
    "a norm": Row(if_positive(lambda x: (x / fnp.sqrt((x * x).sum())).sum()), ZERO, ZERO),
    "a norm, by entries": Row(masked(lambda x: x / fnp.sqrt((x * x).sum())), ZERO, ZERO),
    "reshape, transpose, reverse": Row(masked(lambda x: fnp.sqrt(x)[::-1].reshape(3, 1).T[0, ::-1]), X, [0, 0.5, 0.25]),
    "indices": Row(
        lambda x: fnp.where(np.array([False, True]), fnp.log(x)[np.array([0, 2])], 0.0).sum(), X, [0, 0, 0.25]
    ),
    "slices": Row(lambda x: fnp.where(x[0] > 0, fnp.log(x[:1]), 0.0).sum() + fnp.log(x[1:]).sum(), X, [0, 1, 0.25]),
    "an entry wherever it is": Row(
        lambda x: masked(lambda y: lax.dynamic_slice(fnp.sqrt(x), (fnp.argmin(x),), (2,)) * y)(x[:2]), X, [0, 1.5, 0]
    ),
    "joined": Row(
        lambda x: fnp.where(fnp.concatenate([x, x]) > 0, fnp.concatenate([fnp.sqrt(x), fnp.log(x)]), 0.0).sum(),
        X, [0, 1.5, 0.5],
    ),
    "unstacked, one of them not used": Row(
        lambda x: sum(masked(fnp.sqrt)(y) for y in fnp.unstack(fnp.sqrt(x))[::2]),
        np.diag(X), [[0, 0, 0], [0, 0, 0], [0, 0, 0.25 * 4**-0.75]],
    ),
    "split, one of them not used": Row(
        lambda x: sum(masked(fnp.sqrt)(y) for y in fnp.split(fnp.sqrt(x), 3)[::2]), X, [0, 0, 0.25 * 4**-0.75]
    ),
    "broadcast": Row(lambda x: fnp.where(x[:, None] > 0, fnp.sqrt(x)[:, None] * ONE, 0.0).sum(), X, [0, 1.5, 0.75]),
    "a sum": Row(lambda x: fnp.where(x.min() > 0, fnp.log(x).sum(), 0.0), X, ZERO),
    "a running sum": Row(lambda x: fnp.where(x[::-1] > 0, fnp.cumsum(fnp.sqrt(x)[::-1]), 0.0).sum(), X, [0, 0.5, 0.5]),
    "dot": Row(if_positive(lambda x: fnp.sqrt(x) @ ONE), X, ZERO),
    "dot, by entries": Row(masked(lambda x: np.ones((3, 3), np.float32) @ fnp.sqrt(x)), ZERO, ZERO),
    "rows": Row(lambda x: fnp.where((x > 0).all(1)[:, None], fnp.log(x) @ W, 0.0).sum(), ROWS, [[3, 3.5], [0, 0]]),
    "convolution": Row(if_positive(lambda x: fnp.convolve(fnp.sqrt(x), ONE).sum()), X, ZERO),
    "solve": Row(if_positive(lambda x: fnp.linalg.solve(fnp.diag(x), ONE).sum()), X, ZERO),
    "complex": Row(masked(lambda x: fnp.real(fnp.sqrt(x + 0j))), X, [0, 0.5, 0.25]),
    # Through functions and control flow.
    "jit": Row(masked(roots), X, [0, 1, 0.5]),
    "behind jit": Row(masked(lambda x: fnp.log(roots(x))), X, [0, 0.5, 0.125]),
    "a mask inside of jit": Row(
        lambda x: ft.jit(lambda y, m: fnp.where(m, y, 0.0))(fnp.log(x), x > 0).sum(), X, [0, 1, 0.25]
    ),
    "jit of jit": Row(masked(lambda x: roots(roots(x))), X, [0, 0.5**0.5, 0.25]),
    "checkpoint": Row(masked(again), X, [0, 0.5, 0.125]),
    "checkpoint twice": Row(masked(lambda x: again(fnp.exp(again(x)))), X, [0, 0.25, 1 / 16]),
    "custom_vjp": Row(masked(log_by_vjp), X, [0, 1, 0.25]),
    "custom_jvp": Row(masked(log_by_jvp), X, [0, 1, 0.25]),
    "scan": Row(lambda x: scanned(lambda c, a: (fnp.where(a > 0, c + fnp.sqrt(a), c), None), x), X, [0, 0.5, 0.25]),
    "behind scan": Row(
        lambda x: scanned(lambda c, a: (fnp.where(a[1] > 0, c + a[0], c), None), fnp.log(x), x), X, [0, 1, 0.25]
    ),
    "a mask on the carry of scan": Row(
        masked(lambda x: lax.scan(lambda c, a: (c + fnp.sqrt(x) * a, None), fnp.log(x), ONE[:2])[0]), X, [0, 2, 0.75]
    ),
    "a mask on what scan stacks": Row(
        masked(lambda x: lax.scan(lambda c, a: (c, fnp.log(a)), 0.0, x)[1]), X, [0, 1, 0.25]
    ),
    "a mask of the next step": Row(
        lambda x: lax.scan(lambda c, a: (fnp.sqrt(x * a), fnp.where(x > 0, c, 0.0)), x, ONE)[1].sum(), X, [0, 2, 1.5]
    ),
    "cond": Row(lambda x: ft.vmap(log_if_positive)(x).sum(), X, [0, 1, 0.25]),
    "behind cond": Row(lambda x: lax.cond(x[0] > 0, lambda y: y.sum(), lambda y: 1.0, fnp.log(x)), X, ZERO),
    "a mask on cond": Row(masked(lambda x: lax.cond(x[1] > 0, fnp.log, fnp.sqrt, x)), X, [0, 1, 0.25]),
    "a mask inside of cond": Row(
        lambda x: lax.cond(x[1] > 0, lambda y: fnp.where(x > 0, y, 0.0), lambda y: y, fnp.log(x)).sum(), X, [0, 1, 0.25]
    ),
    "while, by rows": Row(lambda x: ft.vmap(steps_while_positive)(x).sum(), X, [0, 3, 0.75]),
    "vmap": Row(lambda x: ft.vmap(if_positive(fnp.log))(x).sum(), X, [0, 1, 0.25]),
    "vmap of scan": Row(
        lambda x: ft.vmap(if_positive(lambda x: scanned(lambda c, a: (c + fnp.log(x) * a, None), ONE)))(x).sum(),
        X, [0, 3, 0.75],
    ),
}  # fmt: skip

REMOVABLE = {
    "norm": Row(fnp.linalg.norm, ZERO, ZERO),
    "norm ** 2": Row(lambda x: fnp.linalg.norm(x) ** 2, ZERO, ZERO),
    "norm of rows": Row(
        lambda x: fnp.linalg.norm(x, axis=1).sum(), np.array([[0, 0], [3, 4]], np.float32), [[0, 0], [0.6, 0.8]]
    ),
    "3-norm": Row(lambda x: fnp.linalg.norm(x, 3), ZERO, ZERO),
    "vector_norm": Row(lambda x: fnp.linalg.vector_norm(x), ZERO, ZERO),
    "matrix_norm": Row(lambda x: fnp.linalg.matrix_norm(fnp.diag(x)), ZERO, ZERO),
    "norm of complex": Row(lambda x: fnp.linalg.norm(x + 1j * x), ZERO, ZERO),
    "std": Row(fnp.std, ONE, ZERO),
    "std, a method": Row(lambda x: x.std(ddof=1), ONE, ZERO),
    "var": Row(fnp.var, ONE, ZERO),
    "hypot ** 2": Row(lambda x: fnp.hypot(x[0], x[1]) ** 2, ZERO, ZERO),
    "sinc": Row(lambda x: fnp.sinc(x).sum(), ZERO, ZERO),
    "xlogy": Row(lambda x: scipy.special.xlogy(ZERO, x).sum(), X, ZERO),
    "xlogy, y away from x": Row(lambda x: scipy.special.xlogy(x, x + 1e-6).sum(), X[:2], [math.log(1e-6), 1]),
    "xlog1py": Row(lambda x: scipy.special.xlog1py(ZERO, x - 1).sum(), X, ZERO),
    "x ** 0": Row(lambda x: (x**0.0).sum(), ZERO, ZERO),
    "x ** y": Row(lambda x: fnp.power(x, np.array([0, 1, 2], np.float32)).sum(), ZERO, [0, 1, 0]),
    "det, singular": Row(lambda x: fnp.linalg.det(fnp.diag(x)), np.array([1, 2, 0], np.float32), [0, 0, 2]),
    "prod": Row(fnp.prod, ZERO, ZERO),
}
NUMERICS = {
    "norm, huge": Row(fnp.linalg.norm, ONE * 1e30, ONE / 3**0.5),
    "norm, tiny": Row(fnp.linalg.norm, ONE * 1e-15, ONE / 3**0.5),
    "log_softmax, huge": Row(lambda x: nn.log_softmax(x)[1], np.array([1e4, 0, -1e4], np.float32), [-1, 1, 0]),
    "log_softmax, -inf": Row(lambda x: nn.log_softmax(x)[0], np.array([0, -np.inf, 0], np.float32), [0.5, 0, -0.5]),
    "logsumexp, huge": Row(nn.logsumexp, np.array([1e4, 0, -1e4], np.float32), [1, 0, 0]),
    "logsumexp, -inf": Row(nn.logsumexp, np.array([0, -np.inf, 0], np.float32), [0.5, 0, 0.5]),
    "logsumexp, all -inf": Row(scipy.special.logsumexp, -ONE * np.inf, ZERO),
    "softplus": Row(lambda x: nn.softplus(x).sum(), np.array([-1e4, 0, 1e4], np.float32), [0, 0.5, 1]),
    "softplus, inf": Row(lambda x: nn.softplus(x).sum(), np.array([-np.inf, np.inf], np.float32), [0, 1]),
    "log_sigmoid": Row(lambda x: nn.log_sigmoid(x).sum(), np.array([-1e4, 0, 1e4], np.float32), [1, 0.5, 0]),
    "x log x": Row(lambda x: scipy.special.xlogy(x, x).sum(), X, [-np.inf, 1, 1 + math.log(4)]),
    "entropy": Row(lambda x: scipy.special.entr(x).sum(), X, [np.inf, -1, -1 - math.log(4)]),
    "softmax, nothing included": Row(
        lambda x: nn.softmax(x, where=np.array([False] * 3)).sum(), np.array([0, 1, 2], np.float32), ZERO
    ),
}
TABLE = {**SELECTED, **REMOVABLE, **NUMERICS}
FIRST_ORDER = {
    **dict.fromkeys(["x log x", "entropy"], "its slope is infinite at 0"),
    "norm, tiny": "its curvature is the reciprocal of it",
    "det, singular": "jax 0.12 has 0 / 0 in its rule",
}
parametrize = pytest.mark.parametrize("name", TABLE)


@parametrize
def test_gradient(name):
    f, x, expected = TABLE[name]
    ways = {
        "grad": ft.grad(f),
        "jit": ft.jit(ft.grad(f)),
        "vjp": lambda x: ft.vjp(f, x)[1](np.float32(1))[0],
        "vmap": lambda x: ft.vmap(ft.grad(f))(np.stack([x, x]))[1],
    }
    for way, g in ways.items():
        np.testing.assert_allclose(g(x), expected, rtol=1e-5, atol=1e-6, err_msg=way)


@parametrize
def test_second_derivatives(name):
    """All ways agree, and are finite."""
    f, x, _ = TABLE[name]
    if name in FIRST_ORDER:
        pytest.skip(FIRST_ORDER[name])
    v = np.linspace(1, 2, x.size, dtype=np.float32).reshape(x.shape)
    along = lambda x: fnp.sum(ft.grad(f)(x) * v)
    forward = ft.jvp(ft.grad(f), (x,), (v,))[1]
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(ft.grad(along)(x), forward, rtol=1e-4, atol=1e-5)
    jacobian = np.asarray(ft.jacrev(ft.grad(f))(x)).reshape(x.size, x.size)
    np.testing.assert_allclose(jacobian @ v.ravel(), np.ravel(forward), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_any_order(order):
    f = lambda x: fnp.where(x > 0, fnp.log(fnp.sqrt(x)), 0.0)
    for _ in range(order):
        f = ft.grad(f)
    assert float(f(0.0)) == 0
    assert float(f(1.0)) == [0.5, -0.5, 1.0, -3.0][order - 1]


def test_square_of_a_norm_is_smooth():
    for square in (lambda n: n**2, lambda n: n * n, fnp.square):
        np.testing.assert_array_equal(ft.hessian(lambda x: square(fnp.linalg.norm(x)))(ZERO), 2 * np.eye(3))  # noqa: B023
    np.testing.assert_allclose(ft.hessian(lambda x: fnp.std(x) ** 2)(ONE), ft.hessian(fnp.var)(ONE), atol=1e-6)


@pytest.mark.parametrize("f", [lambda x: x * fnp.log(x), fnp.sqrt, lambda x: fnp.where(x < 1, fnp.log(x), 0.0)])
def test_what_is_singular_stays_so(f):
    """No select has masked anything: the derivative is JAX's infinity or NaN."""
    assert not np.isfinite(ft.grad(f)(0.0))


def test_rules_an_argument_each_where_the_value_is_infinite():
    """A rule of `defjvps` adds to nothing, not to the value times 0; integers have none."""
    assert ft.jvp(scipy.special.exp1, (0.0,), (1.0,))[1] == -np.inf
    assert ft.grad(scipy.special.xlogy, 1)(2, 0.5) == 4


def test_rows_of_the_other_operand():
    """Rows that meet nothing but what is masked do not enter the sum over rows."""
    log = np.log(ROWS, where=ROWS > 0, out=np.full_like(ROWS, -np.inf))
    gradient = ft.grad(lambda w: fnp.where((ROWS > 0).all(1)[:, None], fnp.asarray(log) @ w, 0.0).sum())
    np.testing.assert_allclose(gradient(W), [[0, 0], [math.log(2)] * 2], rtol=1e-6)


def test_linear_transpose_of_select():
    f = lambda x: fnp.where(np.array([True, False, True]), 2.0 * x, 0.0)
    (ct,) = ft.linear_transpose(f, ZERO)(ONE)
    np.testing.assert_array_equal(ct, [2, 0, 2])


SMOOTH = [nn.silu, nn.mish, nn.gelu, lambda x: nn.gelu(x, approximate=False)]
ACTIVATIONS = [nn.relu, nn.leaky_relu, nn.elu, lambda x: fnp.maximum(x, 0.0), fnp.tanh, *SMOOTH]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masks_that_nobody_reads_are_not_there(activation):
    """The gradient of a network with no singular function has as many equations as without masks."""
    layers = [(np.eye(4, dtype=np.float32), ONE[:1].repeat(4))] * 3

    def loss(layers, x):
        for w, b in layers:
            x = activation(x @ w + b)
        return (x**2).mean()

    program = ft.make_program(ft.grad(loss))(layers, np.ones((2, 4), np.float32))
    booleans = [e for e in program.equations if e.outputs[0].aval.dtype == bool]
    assert not [e for e in booleans if e.primitive.name in ("and", "or", "reduce_or", "not")]


@pytest.mark.parametrize("activation", [*SMOOTH, nn.logsumexp])
def test_a_smooth_activation_leaves_no_mask(activation):
    """Not for what moves and multiplies entries before it, either."""
    loss = lambda x, y: activation(fnp.concatenate([x[1:] * y, x[:1] + x.sum()]) * y[0]).sum()
    program = ft.make_program(ft.grad(loss, (0, 1)))(X, X[1:])
    assert not [e for e in program.equations if e.primitive.name in ("and", "or", "reduce_or", "not")]


def by_square(x):
    return x / (x * x).sum(-1, keepdims=True)


def by_softmax(x):
    weights = fnp.exp(x - x.max(-1, keepdims=True))
    return x / (weights * x).sum(-1, keepdims=True)


@pytest.mark.parametrize("norm", [by_square, by_softmax])
def test_rows_that_are_absent_as_a_whole_have_one_mask(norm):
    """Behind a norm it is asked whether anything of a row is there, which is no other mask if all of it is or none."""
    f = lambda x: fnp.where(x[:, :1] != 0, norm(norm(x)), 0.0).sum()
    x = np.array([[1, 2, 3], [0, 0, 0]], np.float32)
    program = ft.make_program(ft.grad(f))(x)
    assert not [e for e in program.equations if e.primitive.name in ("and", "or", "not")]
    np.testing.assert_allclose(ft.grad(f)(x), [ft.grad(lambda x: norm(norm(x)).sum())(x[0]), ZERO], rtol=1e-5)


Z, R = Aval((4, 4), np.dtype(bool)), Aval((4,), np.dtype(bool))
some = Primitive.named["reduce_or"]
# Of flags z of shape (4, 4) and r of shape (4,): two flags, and whether the first is set wherever the second one is,
# whatever z and r are.
COVERED = {
    "itself": (lambda z, r: (z, z), True),
    "another": (lambda z, r: (z, logical_not(z)), False),
    "rows": (lambda z, r: (spread(some((1,))(z), 0), z), True),
    "columns": (lambda z, r: (spread(some((0,))(z), 1), z), True),
    "rows for columns": (lambda z, r: (spread(some((1,))(z), 1), z), False),
    "all": (lambda z, r: (broadcast_in_dim(some((0,))(some((1,))(z)), (4, 4), ()), z), True),
    "of rows again": (lambda z, r: (spread(some((1,))(logical_not(logical_not(spread(r, 0)))), 0), spread(r, 0)), True),
    "repeated, by rows": (
        lambda z, r: (broadcast_in_dim(some((1,))(z), (2, 4, 4), (1,)), broadcast_in_dim(z, (2, 4, 4), (1, 2))), True,
    ),
    "repeated elsewhere": (
        lambda z, r: (broadcast_in_dim(some((1,))(z), (4, 4, 2), (0,)), broadcast_in_dim(z, (4, 4, 2), (1, 0))), False,
    ),
    "of something else": (lambda z, r: (spread(r, 0), z), False),
    "the flags of their rows": (lambda z, r: (z, spread(some((1,))(z), 0)), False),
}  # fmt: skip


def spread(r, axis):
    return broadcast_in_dim(r, (4, 4), (axis,))


@pytest.mark.parametrize("row", COVERED)
def test_flags_that_cover_others(row):
    write, expected = COVERED[row]
    with Builder() as b:
        wide, flags = write(b.input(Z), b.input(R))
        assert covers(wide, flags) == expected
        program = b.build([wide, flags])
    random = np.random.default_rng(0)
    found = []
    for share in (0.02, 0.1, 0.3, 0.6, 0.95) * 4:
        wide, flags = evaluate(program, [random.random((4, 4)) < share, random.random(4) < share])
        found.append(bool((wide | ~flags).all()))
    assert all(found) == expected


def test_masks_of_long_programs():
    """No recursion over the length of a Program."""

    def f(x):
        y = fnp.sqrt(x)
        for _ in range(3000):
            y = fnp.where(x > 0, y[::-1], 0.0)
        return y.sum()

    gradient = rewrites.gradient(ft.make_program(f)(ZERO), (True,))
    assert np.isfinite(evaluate(gradient, [ZERO])[1]).all()
