"""Planted wrong derivatives are placed exactly, kinks are recognised, and healthy functions raise no alarm."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ArgumentError, DerivativeError, DtypeError
from functrace.testing import check_grads, check_jvp, gradcheck, gradgradcheck

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 3)), RNG.standard_normal((3, 2))
Z = RNG.standard_normal(3) + 1j * RNG.standard_normal(3)
PARAMS = {"layer": [W, W[0]], "scale": np.array(1.5)}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def with_vjp(f, backward):
    """f with a pullback of its own: `backward(args, ct)`."""
    function = ft.custom_vjp(f)
    function.defvjp(lambda *args: (f(*args), args), backward)
    return function


def with_jvp(f, tangent):
    """f with a pushforward of its own: `tangent(xs, dxs)`."""
    function = ft.custom_jvp(f)
    function.defjvp(lambda xs, dxs: (f(*xs), tangent(xs, dxs)))
    return function


def mlp(p, x):
    return fnp.sum(fnp.tanh(x @ p["layer"][0] + p["layer"][1]) * p["scale"])


def in_one_entry(factor):
    """The model whose gradient of one weight is wrong by a factor."""

    def backward(args, ct):
        p, x = args
        layer = p["layer"][0], p["layer"][1]
        h = fnp.tanh(x @ layer[0] + layer[1])
        d = ct * p["scale"] * (1 - h * h)
        right = x.T @ d
        wrong = right * fnp.where(fnp.arange(6).reshape(3, 2) == 3, factor, 1.0)
        return {"layer": [wrong, d.sum(0)], "scale": ct * h.sum()}, d @ layer[0].T

    return with_vjp(mlp, backward)


def cubes(x):
    return {"sum": fnp.sum(x**3), "all": x**3}


def without_a_term(x):
    """x**3 and its sum: the pullback forgets one output's part, at one entry."""
    keeps = fnp.arange(6).reshape(2, 3) != 4
    return with_vjp(cubes, lambda args, ct: (3 * args[0] ** 2 * (ct["sum"] * keeps + ct["all"]),))(x)


def second_only(x):
    """sin, whose first derivative has the right value and the wrong derivative, at one entry."""
    factor = fnp.where(fnp.arange(6).reshape(2, 3) == 2, 1.01, 1.0)
    cosine = with_jvp(fnp.cos, lambda xs, dxs: -factor * fnp.sin(xs[0]) * dxs[0])
    return with_jvp(fnp.sin, lambda xs, dxs: cosine(xs[0]) * dxs[0])(x)


# Function, arguments, and where it is wrong: the argument's leaf and index, the output's leaf and index.
OUT, ARG = "the output", "argument 0"
PLANTED = {
    "factor in one entry": (in_one_entry(1.001), (PARAMS, X), "argument 0 leaf ['layer'][0]", (1, 1), OUT, ()),
    "sign": (with_vjp(lambda x: fnp.sum(x[0] * 2) + x[1, 2] ** 2, lambda args, ct: (
        ct * fnp.zeros((2, 3)).at[0].set(2.0).at[1, 2].set(-2 * args[0][1, 2]),)), (X,), ARG, (1, 2), OUT, ()),
    "missing term": (without_a_term, (X,), ARG, (1, 1), "the output leaf ['sum']", ()),
    "conjugate": (with_vjp(lambda z: z * fnp.conj(z[0]), lambda args, ct: (
        (ct * fnp.conj(args[0][0])).at[0].add(fnp.sum(fnp.conj(args[0]) * fnp.conj(ct)) * 0
            + fnp.sum(args[0] * ct)),)), (Z,), ARG, (0,), OUT, None),
    "one argument of two": (with_vjp(lambda x, y: x * y, lambda args, ct: (ct * args[1], ct * args[0] * 1.01)),
        (X[0], X[1]), "argument 1", None, OUT, None),
    "forward": (with_jvp(lambda x: x**2, lambda xs, dxs: 2 * xs[0] * dxs[0] * fnp.where(fnp.arange(3) == 1, 0.9, 1.0)),
        (X[0],), ARG, (1,), OUT, (1,)),
    "not a number": (with_vjp(lambda x: fnp.sum(fnp.sin(x)), lambda args, ct: (
        ct * fnp.where(fnp.arange(3) == 1, fnp.nan, fnp.cos(args[0])),)), (X[0],), ARG, (1,), OUT, ()),
    "blocked": (lambda x: x[0] * ft.stop_gradient(x[2]) + x[1], (X[0],), ARG, (2,), OUT, ()),
}  # fmt: skip


def assert_place(error, leaf, index, output, output_index):
    assert (error.leaf, error.output) == (leaf, output)
    assert index is None or error.index == index
    assert output_index is None or error.output_index == output_index
    np.testing.assert_allclose(error.error, np.nan_to_num(abs(error.analytic - error.numerical), nan=np.inf))
    assert error.error > 1e-7 and error.step == 1e-4
    assert f"by {leaf}" in str(error) or f"imaginary part of {leaf}" in str(error)
    assert f"numerical {error.numerical:.10g}" in str(error) and "test_gradcheck.py:" in str(error)


@pytest.mark.parametrize("row", PLANTED)
@pytest.mark.parametrize("check", [lambda f, args: check_grads(f, args, 1, modes=("rev",)), gradcheck])
def test_wrong_derivative_is_placed(row, check):
    f, args, *place = PLANTED[row]
    with pytest.raises(DerivativeError) as caught:
        check(f, args)
    assert_place(caught.value, *place)
    assert caught.value.kink is False


@pytest.mark.parametrize("check", [lambda f, args: check_grads(f, args, 2, modes=("rev",)), gradgradcheck])
def test_wrong_second_derivative_is_placed(check):
    assert gradcheck(second_only, (X,))
    with pytest.raises(DerivativeError, match="order 2") as caught:
        check(second_only, (X,))
    assert_place(caught.value, ARG, (0, 2), "the cotangent of argument 0", (0, 2))
    assert caught.value.kink is False


HEALTHY = {
    "model": (mlp, (PARAMS, X)),
    "two outputs": (cubes, (X,)),
    "complex": (lambda z: fnp.exp(z) * fnp.conj(z[0]), (Z,)),
    "complex to real": (lambda z, x: fnp.abs(z) ** 2 * x, (Z, X[0])),
    "real to complex": (lambda x: fnp.exp(1j * x), (X[0],)),
    "relu away from 0": (lambda x: fnp.maximum(x, 0.0), (X,)),
    "large values": (lambda x: 1e5 + fnp.cumsum(x), (X[0],)),
    "integers": (lambda x, i: x[i] ** 2, (X[0], np.array([1, 0]))),
    "no entries": (lambda x, y: x.sum() * y, (np.ones((0, 2)), 2.0)),
    "of a derivative": (ft.grad(lambda x: fnp.sum(fnp.sin(x) * x)), (X[0],)),
}


@pytest.mark.parametrize("row", HEALTHY)
def test_healthy_functions_raise_no_alarm(row):
    f, args = HEALTHY[row]
    assert gradcheck(f, args)
    if row != "model":
        assert gradgradcheck(f, args)


KINKS = {
    "abs": (fnp.abs, np.array(0.0), ()),
    "abs of one entry": (lambda x: fnp.sum(fnp.abs(x)), np.array([0.5, 0.0, -1.0]), (1,)),
    "relu": (lambda x: fnp.sum(ft.nn.relu(x)), np.array([0.5, 0.0]), (1,)),
    "three that tie": (fnp.max, np.array([1.0, 2.0, 2.0, 2.0]), None),
    "a root": (lambda x: fnp.sum(fnp.sqrt(fnp.abs(x))), np.array([1.0, 0.0]), (1,)),
    "nearby": (lambda x: fnp.sum(fnp.abs(x - 1.00005)), np.array([1.0]), (0,)),
    "the end of a domain": (lambda x: fnp.sum(fnp.where(x > 1, fnp.inf, x)), np.array([0.5, 1.0]), (1,)),
}


@pytest.mark.parametrize("row", KINKS)
def test_kinks_are_recognised(row):
    f, x, index = KINKS[row]
    with pytest.raises(DerivativeError) as caught:
        gradcheck(f, (x,), modes=("rev",))
    assert caught.value.kink is True
    assert index is None or caught.value.index == index
    if row in ("abs", "relu", "three that tie"):
        assert "looks like a kink: the slope is" in str(caught.value)


def test_kink_in_check_grads():
    with pytest.raises(DerivativeError, match="the slope is 1 on the right and -1 on the left") as caught:
        check_grads(fnp.abs, (0.0,), 1, modes=("fwd",))
    assert caught.value.kink and (caught.value.leaf, caught.value.index) == (ARG, ())
    assert caught.value.numerical == 0 and abs(caught.value.analytic) == 1


def test_derivative_that_is_not_linear_has_no_place():
    with pytest.raises(DerivativeError, match="No entry by itself is wrong: is the derivative linear") as caught:
        check_jvp(fnp.sin, lambda xs, dxs: (fnp.sin(xs[0]), fnp.cos(xs[0]) * dxs[0] ** 2), (X[0],))
    assert (caught.value.leaf, caught.value.kink) == (None, False)


def test_many_entries_are_halved():
    x = np.linspace(-1, 1, 3000)
    factor = np.where(np.arange(3000) == 1234, 1.5, 1.0)
    f = with_vjp(lambda x: fnp.sum(fnp.sin(x)), lambda args, ct: (ct * fnp.cos(args[0]) * factor,))
    with pytest.raises(DerivativeError) as caught:
        check_grads(f, (x,), 1, modes=("rev",))
    assert_place(caught.value, ARG, (1234,), OUT, ())
    np.testing.assert_allclose(caught.value.analytic, 1.5 * np.cos(x[1234]))


def test_false_in_place_of_an_exception():
    wrong = with_jvp(fnp.sin, lambda xs, dxs: 2 * dxs[0])
    assert gradcheck(wrong, (X,), raise_exception=False) is False
    assert gradgradcheck(second_only, (X,), raise_exception=False) is False
    assert gradcheck(wrong, (X,), atol=10.0)


SINGLE = {
    "model": (mlp, (PARAMS, X)),
    "complex": (lambda z: fnp.exp(z) * fnp.conj(z[0]), (Z,)),
    "large argument": (lambda x: fnp.log(x), (1e3 * np.abs(X),)),
}


@pytest.mark.parametrize("row", SINGLE)
def test_single_precision_when_asked(row):
    f, args = SINGLE[row]
    args = ft.tree.map(lambda x: x.astype({"f": np.float32, "c": np.complex64}[x.dtype.kind]), args)
    for check in (gradcheck, gradgradcheck, lambda *a, **k: check_grads(*a, 2, **k)):
        with pytest.raises(DtypeError, match="float32=True"):
            check(f, args)
    assert gradcheck(f, args, allow_float32=True)
    check_grads(f, args, 1, allow_float32=True)
    wrong = with_vjp(lambda x: fnp.sum(x**2), lambda args, ct: (2.1 * ct * args[0],))
    with pytest.raises(DerivativeError) as caught:
        gradcheck(wrong, (np.ones(3, np.float32),), allow_float32=True)
    assert caught.value.step == 1e-2 and caught.value.kink is False


def test_bad_arguments():
    with pytest.raises(ArgumentError, match='gradcheck: modes must be of "fwd" and "rev", got'):
        gradcheck(fnp.sin, (X,), modes=("backward",))
    for check in (gradcheck, gradgradcheck):
        with pytest.raises(ArgumentError, match=rf"^{check.__name__}: eps must be a finite number above 0, got -1.0"):
            check(fnp.sin, (X,), eps=-1.0)
    with pytest.raises(DtypeError, match=r"gradgradcheck: argument 0 has dtype float16; numerical .*numpy.float64"):
        gradgradcheck(fnp.sin, (np.float16(1),), allow_float32=True)
