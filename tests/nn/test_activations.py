"""Activations against jax.nn: values, first and second derivatives, at ordinary and awkward points.

Where jax.nn itself loses all digits or gives NaN, the limit stands in the tables by hand.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functrace as ft
from functrace import nn, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError

INF = np.inf
# Without the corners of the piecewise ones, where the second derivative is a matter of taste.
ORDINARY = [0.3, -0.7, 1.7, -2.5, 5.0, -5.0]
AWKWARD = [0.0, 1e-30, -1e-30, 50.0, -50.0, 1e4, -1e4]
HUGE = [1e30, -1e30, 3e38, -3e38, INF, -INF]

ELEMENTWISE = {
    "relu": (),
    "relu6": (),
    "leaky_relu": (0.3,),
    "prelu": (0.25,),
    "hard_tanh": (),
    "hard_sigmoid": (),
    "hard_silu": (),
    "hard_swish": (),
    "sigmoid": (),
    "log_sigmoid": (),
    "softplus": (),
    "soft_sign": (),
    "elu": (0.7,),
    "celu": (0.7,),
    "selu": (),
    "silu": (),
    "swish": (),
    "mish": (),
    "gelu": (True,),
    "gelu exact": (False,),
}
TOLERANCE = {"float32": 3e-6, "bfloat16": 2e-2}


def pair(row):
    """Ours and jax.nn's, each as a function of x alone."""
    name, rest = row.split()[0], ELEMENTWISE[row]
    ours = getattr(nn, name)
    theirs = getattr(jax.nn, "leaky_relu" if name == "prelu" else name)
    return lambda x: ours(x, *rest), lambda x: theirs(x, *rest)


def derivatives(f, transforms):
    """f, f' and f'' at each point of a vector."""
    first = transforms.grad(f)
    return [transforms.vmap(g) for g in (f, first, transforms.grad(first))]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("row", ELEMENTWISE)
def test_values_and_derivatives_equal_jax(row, dtype):
    ours, theirs = pair(row)
    x = jnp.array(ORDINARY + AWKWARD, dtype)
    pairs = zip(derivatives(ours, ft), derivatives(theirs, jax), strict=True)
    for order, (f, g) in enumerate(pairs):
        at = x if order < 2 else x[x != 0]
        y, expected = ft.jit(f)(at), g(at)
        assert y.dtype == dtype
        assert_close(y, expected, TOLERANCE[dtype] * 5**order)


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_second_derivative_at_zero(row):
    """That of the branch that 0 belongs to; the smooth ones have but one."""
    known = {"silu": 0.5, "swish": 0.5, "sigmoid": 0.0, "softplus": 0.25, "log_sigmoid": -0.25}
    known |= {"elu": 0.7, "celu": 1 / 0.7, "selu": 1.0507009873554805 * 1.6732632423543772}
    known |= {"mish": 0.64, "gelu": 2 / np.sqrt(2 * np.pi), "gelu exact": 2 / np.sqrt(2 * np.pi)}
    known |= {"hard_silu": 1 / 3, "hard_swish": 1 / 3, "soft_sign": -2.0}
    ours, _ = pair(row)
    expected = known.get(row, 0.0)
    np.testing.assert_allclose(ft.grad(ft.grad(ours))(0.0), expected, rtol=1e-6)


# Limits at +huge and -huge: (value at +inf, value at -inf), derivatives of (1, 2)nd order.
LINES = {
    "relu": (1, 0), "leaky_relu": (1, 0.3), "prelu": (1, 0.25), "hard_silu": (1, 0),
    "hard_swish": (1, 0), "softplus": (1, 0), "log_sigmoid": (0, 1), "elu": (1, 0), "celu": (1, 0),
    "selu": (1.0507010, 0), "silu": (1, 0), "swish": (1, 0), "mish": (1, 0), "gelu": (1, 0),
    "gelu exact": (1, 0),
}  # fmt: skip
LIMITS = {
    "relu6": (6, 0), "hard_tanh": (1, -1), "hard_sigmoid": (1, 0), "sigmoid": (1, 0),
    "soft_sign": (1, -1), "elu": (INF, -0.7), "celu": (INF, -0.7), "selu": (INF, -1.7580993),
}  # fmt: skip


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_huge_and_infinite(row):
    ours, _ = pair(row)
    x = np.array(HUGE, np.float32)
    slope = np.where(x > 0, *LINES.get(row, (0, 0)))
    line = np.where(slope == 0, 0, np.where(slope == 0, 0, x) * slope)
    limit = np.where(x > 0, *LIMITS.get(row, (INF, INF)))
    f, first, second = (ft.jit(g) for g in derivatives(ours, ft))
    np.testing.assert_allclose(f(x), np.where(np.isinf(limit), line, limit), rtol=1e-6)
    np.testing.assert_allclose(first(x), slope, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(second(x), np.zeros(len(x)), atol=1e-37)
    _, tangents = ft.jit(lambda x: ft.jvp(ours, (x,), (fnp.ones_like(x),)))(x)
    np.testing.assert_allclose(tangents, slope, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_nan_empty_scalar_and_shape(row):
    ours, _ = pair(row)
    assert np.isnan(ours(np.float32(np.nan)))
    assert ours(0.5).shape == ()
    for shape in [(2, 0, 3), (2, 3)]:
        x = np.full(shape, 0.3, np.float32)
        assert ours(x).shape == ft.grad(lambda x: ours(x).sum())(x).shape == shape


@pytest.mark.parametrize("row", ["hard_silu", "silu", "mish", "gelu", "gelu exact"])
def test_derivatives_where_a_line_begins(row):
    """At the bounds beyond which a function is computed as a line."""
    ours, theirs = pair(row)
    x = np.array([s * b for b in (3, 30, 40, 800) for s in (-1, 1)], np.float32)
    for f, g in zip(derivatives(ours, ft)[:2], derivatives(theirs, jax)[:2], strict=True):
        np.testing.assert_allclose(f(x), g(x), rtol=1e-6, atol=1e-6)  # JAX's gelu loses digits


@pytest.mark.cpu
@pytest.mark.parametrize("row", ["silu", "mish", "gelu"])
def test_what_is_kept_for_the_backward_pass(row):
    """The limits cost no memory: a deep network needs no more than with jax.nn's functions, which have none."""
    ours, theirs = pair(row)

    def loss(f, weights, x):
        for w in weights:
            x = f(x @ w)
        return (x**2).sum()

    args = [np.eye(64, dtype=np.float32)] * 12, np.ones((512, 64), np.float32)
    compiled = [ft.jit(ft.grad(partial(loss, ours))), jax.jit(jax.grad(partial(loss, theirs)))]
    sizes = [f.lower(*args).compile().memory_analysis().temp_size_in_bytes for f in compiled]
    assert sizes[0] <= 1.01 * sizes[1]


def test_soft_sign_keeps_its_digits():
    """jax.nn's derivative at 1e4 has three digits and at 1e6 none."""
    x = np.array([0.5, 1.0, 1.5, 1e3, 1e4, 1e6], np.float32)
    exact = 1 / (1 + x.astype(np.float64)) ** 2
    np.testing.assert_allclose(ft.vmap(ft.grad(nn.soft_sign))(x), exact, rtol=1e-6)


def test_gelu_keeps_its_digits():
    """jax.nn's approximate gelu is 0 at -6, for (1 + tanh) cancels."""
    x = np.array([-6.0, -7.0], np.float32)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)
    np.testing.assert_allclose(nn.gelu(x), x / (1 + np.exp(-2 * u)), rtol=2e-5)


def test_prelu_learns_its_slopes():
    x = np.array([[-2.0, INF], [3.0, -4.0]], np.float32)
    slopes = ft.grad(lambda s: fnp.where(x == INF, 0, nn.prelu(x, s)).sum())(fnp.array([0.1, 0.2]))
    np.testing.assert_allclose(slopes, [-2.0, -4.0])


ROWS = np.array([[1.0, -2.0, 0.5], [50.0, -50.0, 0.0], [1e4, 1e4, -1e4], [0, 0, 0]], np.float32)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "standardize"])
def test_functions_of_an_axis_equal_jax(name, axis, dtype):
    x = jnp.array(ROWS if name != "standardize" else ROWS[:1] * np.ones((4, 1)), dtype)
    if name == "standardize":  # jax.nn's variance, mean(x^2) - mean(x)^2, is off where it is small
        x = x + jnp.arange(4, dtype=dtype)[:, None]
    ours, theirs = (partial(getattr(module, name), axis=axis) for module in (nn, jax.nn))
    weights = jnp.cos(jnp.arange(theirs(x).size, dtype=dtype)).reshape(theirs(x).shape)
    tolerance = TOLERANCE[dtype] * (30 if name == "standardize" else 3)
    y = ft.jit(ours)(x)
    assert y.dtype == dtype
    assert_close(y, theirs(x), tolerance)
    assert_close(
        ft.grad(lambda x: (ours(x) * weights).sum())(x),
        jax.grad(lambda x: (theirs(x) * weights).sum())(x),
        tolerance,
    )
    assert_close(ft.vmap(ours)(x[None]), theirs(x)[None], tolerance)


def test_hessian_of_softmax_and_logsumexp():
    x = np.array([0.3, -1.0, 2.0], np.float32)
    for name in ("softmax", "log_softmax", "logsumexp"):
        ours, theirs = getattr(nn, name), getattr(jax.nn, name)
        assert_close(ft.hessian(ours)(x), jax.hessian(theirs)(x), 1e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_where_equals_jax(name):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    where = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]], bool)
    f = getattr(nn, name)
    assert_close(f(x, where=where), getattr(jax.nn, name)(x, where=where), 1e-6)
    x[~where] = np.nan  # what is left out is not looked at
    slope = ft.grad(lambda x: fnp.where(where, f(x, where=where), 0)[:, 2].sum())(x)
    assert np.isfinite(slope).all()
    assert (slope[~where] == 0).all()


def test_where_none_is_included():
    x, where = np.ones((2, 3), np.float32), np.array([[False] * 3, [True] * 3])
    assert nn.softmax(x, where=where)[0].tolist() == [0, 0, 0]
    assert np.isfinite(ft.grad(lambda x: (nn.softmax(x, where=where) ** 2).sum())(x)).all()


def test_minus_infinity_is_a_mask():
    x = np.array([1.0, -INF, 2.0], np.float32)
    assert nn.softmax(x)[1] == 0
    assert np.isfinite(ft.grad(lambda x: nn.softmax(x)[0])(x)).all()
    assert np.isfinite(ft.grad(nn.logsumexp)(x)).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "standardize"])
def test_empty_and_single(name):
    f = getattr(nn, name)
    assert f(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert f(np.zeros((3, 0), np.float32), axis=0).shape == (3, 0)
    np.testing.assert_allclose(f(np.ones((2, 1), np.float32)), 1.0 if name == "softmax" else 0.0)


def test_standardize_with_a_large_mean():
    """jax.nn gives mean(x^2) - mean(x)^2, which is rounding error here."""
    x = np.array([1e4, 1e4 + 1, 1e4 + 2], np.float32)
    np.testing.assert_allclose(nn.standardize(x, epsilon=0.0), [-1.5**0.5, 0, 1.5**0.5], rtol=1e-6)
    given = nn.standardize(x, mean=np.float32(1e4), variance=np.float32(4.0), epsilon=0.0)
    np.testing.assert_allclose(given, [0, 0.5, 1])


@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8"])
def test_one_hot_equals_jax(axis, dtype):
    x = np.array([[0, 3, 1], [2, 100, 0]], dtype)
    for wide in (4, 0):
        expected = jax.nn.one_hot(x, wide, axis=axis)
        np.testing.assert_array_equal(nn.one_hot(x, wide, axis=axis), expected)
    np.testing.assert_array_equal(ft.jit(lambda x: nn.one_hot(x, 4))(x), jax.nn.one_hot(x, 4))
    np.testing.assert_array_equal(ft.vmap(lambda x: nn.one_hot(x, 4))(x), jax.nn.one_hot(x, 4))
    assert nn.one_hot(x, 4, dtype="bfloat16").dtype == "bfloat16"


def test_one_hot_beyond_the_dtype():
    """jax.nn counts the classes in int8 too, and finds 300 - 256 = 44 twice."""
    assert nn.one_hot(np.array([44], np.int8), 400).sum() == 1
    assert nn.one_hot(-1, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("axis", [-1, 0])
def test_glu_equals_jax(axis):
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    assert_close(nn.glu(x, axis), jax.nn.glu(x, axis), 1e-6)
    ours, theirs = (
        transforms.grad(lambda x, f=f: (f(x, axis) ** 2).sum())(x)
        for transforms, f in ((ft, nn.glu), (jax, jax.nn.glu))
    )
    assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda: nn.glu(np.ones((2, 3))),
            ShapeError,
            r"glu: x has shape \(2, 3\); axis -1 is to be split",
        ),
        (lambda: nn.glu(np.ones(4), axis=1), ShapeError, r"glu: x has shape \(4,\); axis 1"),
        (lambda: nn.one_hot(np.ones(2), 3), DtypeError, r"one_hot: x has dtype float.*Cast it"),
        (lambda: nn.one_hot(1, -3), ArgumentError, r"num_classes is -3"),
        (lambda: nn.one_hot(1, 3, axis=1), ArgumentError, r"axis is 1; the result has 1 axes"),
    ],
)
def test_messages(run, error, message):
    with pytest.raises(error, match=message):
        run()


def assert_close(x, y, tolerance):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
