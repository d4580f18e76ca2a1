"""check_grads passes right derivatives, and names the place of planted wrong ones."""

from functools import partial

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ArgumentError, DerivativeError, DtypeError
from functrace.testing import check_grads, check_jvp, check_vjp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3))
W = RNG.standard_normal((3, 4))
Z = RNG.standard_normal(3) + 1j * RNG.standard_normal(3)
PARAMS = {"layers": [{"W": W, "b": W[0]}], "scale": 0.5}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def model(p, x):
    layer = p["layers"][0]
    h = fnp.tanh(x @ layer["W"] + layer["b"])
    return {"h": h, "loss": p["scale"] * fnp.mean(h * h)}


RIGHT = {
    "scalar": (lambda x: fnp.sin(x) / x, (0.7,), 3),
    "pytrees": (model, (PARAMS, X), 2),
    "integers": (lambda x, i: (x[i] ** 3, i + 1), (X, np.array([1, 0])), 2),
    "complex": (lambda z: fnp.exp(z) * z, (Z,), 2),
    "complex, not holomorphic": (lambda z: fnp.conj(z) * fnp.sin(z) + fnp.abs(z), (Z,), 2),
    "complex to real": (lambda z, x: fnp.abs(z) ** 2 * x, (Z, X), 2),
    "real to complex": (lambda x: fnp.exp(1j * x), (X,), 2),
    "large values": (lambda x: 1e5 + x**2, (X,), 1),
    "steep": (lambda x: 1 / x, (0.1,), 2),
    "large argument": (lambda x: fnp.log(x), (1e6,), 2),
    "no elements": (lambda x, y: (x.sum() * y, x), (np.ones((0, 3)), 2.0), 2),
    "constant": (lambda x: (x * 0.0, 3.0), (X,), 2),
    "collective": (ft.vmap(lambda x: x / ft.lax.psum(fnp.exp(x), "i"), axis_name="i"), (X,), 2),
    "in Python": (lambda x: x * x if x > 0 else -x, (0.7,), 2),
    "of a derivative": (ft.grad(lambda x: (fnp.sin(x) * x).sum()), (X,), 1),
}


@pytest.mark.parametrize("row", RIGHT)
def test_right_derivatives_pass(row):
    f, args, order = RIGHT[row]
    check_grads(f, args, order)


def test_jvp_and_vjp_of_transforms_pass():
    check_jvp(model, lambda xs, dxs: ft.jvp(model, xs, dxs), (PARAMS, X))
    check_vjp(model, partial(ft.vjp, model), (PARAMS, X))
    f = lambda x, i: (x * i, i)
    check_jvp(f, lambda xs, dxs: ft.jvp(f, xs, dxs), (X, 2))
    check_vjp(f, partial(ft.vjp, f), (X, 2))


def with_jvp(f, rule):
    function = ft.custom_jvp(f)
    function.defjvp(rule)
    return function


def with_vjp(f, forward, backward):
    function = ft.custom_vjp(f)
    function.defvjp(forward, backward)
    return function


def sine(error):
    """sin with `error(x, dx)` added to its tangent."""
    return with_jvp(
        fnp.sin, lambda xs, dxs: (fnp.sin(xs[0]), fnp.cos(xs[0]) * dxs[0] + error(xs[0], dxs[0]))
    )


def wrong_at_second_order(x):
    """A number whose value is that of cos, and whose derivative is off by a little."""
    return with_jvp(fnp.cos, lambda xs, dxs: (fnp.cos(xs[0]), -1.001 * fnp.sin(xs[0]) * dxs[0]))(x)


def one_leaf(factor):
    """A product of a dict's leaves whose pullback scales the cotangent of one."""
    return with_vjp(
        lambda p: {"y": p["a"] * p["b"][0], "z": p["b"][0] ** 2},
        lambda p: ({"y": p["a"] * p["b"][0], "z": p["b"][0] ** 2}, p),
        lambda p, ct: (
            {"a": ct["y"] * p["b"][0], "b": [factor * (ct["y"] * p["a"] + 2.0 * p["b"][0] * ct["z"])]},
        ),
    )


def one_output(error):
    """Two outputs, the tangent of one of them off."""

    def f(x):
        return {"y": fnp.sin(x), "z": x**2}

    return with_jvp(f, lambda xs, dxs: (f(xs[0]), {"y": fnp.cos(xs[0]) * dxs[0], "z": (2 + error) * xs[0] * dxs[0]}))


# Function, arguments, order, modes, and what the message must say.
WRONG = {
    "factor, forward": (
        sine(lambda x, dx: 1e-3 * dx), (X,), 1, ("fwd",),
        r"check_grads: order 1, fwd: the derivative of the output along argument 0 is wrong at index "
        r"\(\d, \d\), 6 of 6 entries in all: expected -?\d\.\d+ \(numerical\), got -?\d\.\d+.*test_testing.py:\d+",
    ),
    "factor, reverse": (
        sine(lambda x, dx: 1e-3 * dx), (X,), 1, ("rev",),
        r"check_grads: order 1, rev: the derivative of the output along argument 0, paired with a cotangent, "
        r"is wrong: expected -?\d+\.\d+ \(numerical\), got -?\d+\.\d+",
    ),
    "small": (sine(lambda x, dx: 1e-6 * dx), (X,), 1, ("fwd",), r"order 1, fwd"),
    "one entry": (
        sine(lambda x, dx: dx * (fnp.arange(6).reshape(2, 3) == 5)), (X,), 1, ("fwd",),
        r"wrong at index \(1, 2\), 1 of 6 entries in all",
    ),
    "sign": (sine(lambda x, dx: -2.0 * fnp.cos(x) * dx), (0.5,), 1, ("fwd", "rev"), r"order 1, fwd.*wrong: expected"),
    "second order, fwd of fwd": (
        sine(lambda x, dx: (wrong_at_second_order(x) - fnp.cos(x)) * dx), (X,), 2, ("fwd",),
        r"order 2, fwd of fwd: the derivative of the tangent of the output along argument 0",
    ),
    "second order, rev of rev": (
        sine(lambda x, dx: (wrong_at_second_order(x) - fnp.cos(x)) * dx), (X,), 2, ("rev",),
        r"order 2, rev of rev: the derivative of the cotangent of argument 0 along argument 0",
    ),
    "one leaf": (
        one_leaf(1.001), ({"a": X, "b": [X + 1.0]},), 1, ("rev",),
        r"order 1, rev: the derivative of the output leaf \['y'\] along argument 0 leaf \['b'\]\[0\], paired",
    ),
    "one leaf, forward": (
        one_leaf(1.001), ({"a": X, "b": [X + 1.0]},), 1, ("fwd",),
        r"order 1, fwd: the derivative of the output leaf \['y'\] along argument 0 leaf \['b'\]\[0\] is wrong",
    ),
    "one output": (
        one_output(1e-4), (X,), 1, ("fwd",), r"the derivative of the output leaf \['z'\] along argument 0 is wrong",
    ),
    "one output, reverse": (
        one_output(1e-4), (X,), 1, ("rev",), r"the derivative of the output leaf \['z'\] along argument 0, paired",
    ),
    "one of two arguments": (
        lambda x, y: sine(lambda x, dx: 0.01 * dx)(y) * x, (X, X), 1, ("rev",), r"along argument 1, paired",
    ),
    "missing conjugate": (
        with_vjp(fnp.conj, lambda z: (fnp.conj(z), None), lambda _, ct: (ct,)), (Z,), 1, ("rev",),
        r"order 1, rev: .*along argument 0",
    ),
    "a conjugate too many": (
        with_jvp(fnp.exp, lambda zs, dzs: (fnp.exp(zs[0]), fnp.conj(fnp.exp(zs[0])) * dzs[0])), (Z,), 1, ("fwd",),
        r"order 1, fwd: .*expected .*j \(numerical\), got .*j",
    ),
    "not linear in the tangent": (
        with_jvp(fnp.sin, lambda xs, dxs: (fnp.sin(xs[0]), fnp.cos(xs[0]) * dxs[0] ** 2)), (X,), 1, ("fwd",),
        r"order 1, fwd",
    ),
    "zero": (ft.stop_gradient, (X,), 1, ("rev",), r"expected -?\d\.\d+ \(numerical\), got 0"),
    "not a number": (
        lambda x: fnp.sqrt(x * x), (np.array([0.0, 2.0]),), 1, ("rev",), r"got nan",
    ),
    "infinite nearby": (
        lambda x: fnp.where(x > 1, fnp.inf, x), (np.array([1.0, 0.5]),), 1, ("fwd",),
        r"wrong at .*expected -?(inf|nan)",
    ),
    "value beside the derivative": (
        with_jvp(fnp.sin, lambda xs, dxs: (fnp.sin(xs[0]) + 1e-3, fnp.cos(xs[0]) * dxs[0])), (0.5,), 1, ("fwd",),
        r"order 1, fwd: the output beside the derivative is wrong: expected 0.479.*that of the function.*, got 0.480",
    ),
    "a kink": (fnp.abs, (0.0,), 1, ("fwd",), r"is wrong: expected 0 \(numerical\), got -?0\.\d+\."),
    "a kink nearby": (
        lambda x: fnp.abs(x - 1.00005), (1.0,), 1, ("fwd",), r"changes by .* when its step is halved: .*eps=0.0001",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", WRONG)
def test_wrong_derivative_is_named(row):
    f, args, order, modes, message = WRONG[row]
    with pytest.raises(DerivativeError, match=message) as caught:
        check_grads(f, args, order, modes)
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("row", [r for r in WRONG if r.startswith("second order")])
def test_error_at_second_order_is_none_at_first(row):
    f, args, _, modes, _ = WRONG[row]
    check_grads(f, args, 1, modes)


def test_tolerances_are_the_callers():
    f = sine(lambda x, dx: 1e-3 * dx)
    check_grads(f, (X,), 1, atol=1e-2)
    check_grads(f, (X,), 1, rtol=1e-2)
    with pytest.raises(DerivativeError):
        check_grads(f, (X,), 1, atol=1e-5, rtol=0.0)
    check_grads(lambda x: fnp.abs(x - 1.00005), (1.0,), 1, eps=1e-6)


def test_given_derivatives_are_named():
    f = lambda p: {"y": p["a"] ** 2 * p["b"]}
    p = {"a": 2.0, "b": 3.0}
    with pytest.raises(DerivativeError, match=r"check_jvp: order 1, fwd: .*leaf \['y'\] along argument 0 leaf \['b'\]"):
        check_jvp(f, lambda xs, dxs: (f(*xs), {"y": 12.0 * dxs[0]["a"] + 5.0 * dxs[0]["b"]}), (p,))
    with pytest.raises(DerivativeError, match=r"check_vjp: order 1, rev: .*along argument 0 leaf \['a'\], paired"):
        check_vjp(f, lambda p: (f(p), lambda ct: ({"a": 11.0 * ct["y"], "b": 4.0 * ct["y"]},)), (p,))
    with pytest.raises(DerivativeError, match=r"cotangent of argument 0 has type f64\[3\], and must have .*f64\[\]"):
        check_vjp(lambda x: x * X[0], lambda x: (x * X[0], lambda ct: (ct,)), (2.0,))
    with pytest.raises(DerivativeError, match=r"check_jvp: the tangent has 0 floating or complex leaves, .*have 1"):
        check_jvp(lambda x: x, lambda xs, dxs: (xs[0], None), (2.0,))


REFUSED = {
    "float32": (
        lambda: check_grads(fnp.sin, ({"W": np.ones(2, np.float32)},), 1), DtypeError,
        r"check_grads: argument 0 leaf \['W'\] has dtype float32; numerical derivatives need float64 or complex128. "
        r'Enable them, `jax.config.update\("jax_enable_x64", True\)`.*astype\(numpy.float64\).*test_testing.py:\d+',
    ),
    "complex64": (lambda: check_vjp(fnp.sin, None, (np.complex64(1),)), DtypeError, r"argument 0 has dtype complex64"),
    "float32 output": (
        lambda: check_grads(lambda x: {"y": x.astype("float32")}, (1.0,), 1), DtypeError,
        r"the output leaf \['y'\] has dtype float32",
    ),
    "not finite": (
        lambda: check_grads(lambda x: {"y": fnp.log(x)}, (X[0] * 0.0,), 1), ArgumentError,
        r"the output leaf \['y'\] is not finite.*choose other args",
    ),
    "no derivative": (lambda: check_grads(lambda i: i * 1.0, (3,), 1), DtypeError, r"no leaf of args has a floating"),
    "no output": (lambda: check_grads(lambda x: 3, (1.0,), 1), DtypeError, r"no output has a floating"),
    "modes": (lambda: check_grads(fnp.sin, (1.0,), 1, modes=("forward",)), ArgumentError, r'"fwd" and "rev", got'),
    "order": (lambda: check_grads(fnp.sin, (1.0,), 0), ArgumentError, r"order must be a positive int, got 0"),
    **{
        f"{name}={value}": (
            lambda name=name, value=value: check_grads(fnp.sin, (1.0,), 1, **{name: value}), ArgumentError,
            rf"check_grads: {name} must be a finite number .*, got {value!r}; leave it out .*test_testing.py:\d+",
        )
        for name, value in [("eps", -1.0), ("eps", 0), ("eps", np.nan), ("atol", -1e-3), ("rtol", np.inf), ("rtol", "")]
    },
    "args": (lambda: check_grads(fnp.sin, 1.0, 1), DtypeError, r"args must be a tuple .*got float"),
    "function": (lambda: check_jvp(3, None, (1.0,)), DtypeError, r"check_jvp: expected a function, got int"),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_bad_arguments_are_refused(row):
    call, kind, message = REFUSED[row]
    with pytest.raises(kind, match=message):
        call()


def test_without_double_precision_the_message_says_how():
    with jax.enable_x64(False), pytest.raises(DtypeError, match=r"argument 0 has dtype float32; .*jax_enable_x64"):
        check_grads(fnp.sin, (1.0,), 1)


def test_same_verdict_as_jax():
    from jax import test_util

    right, wrong = sine(lambda x, dx: 0.0 * dx), sine(lambda x, dx: 0.01 * dx)
    for check in (check_grads, test_util.check_grads):
        check(right, (X,), 2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4, eps=1e-4)
        with pytest.raises(AssertionError):
            check(wrong, (X,), 1, modes=("rev",), atol=1e-4, rtol=1e-4, eps=1e-4)
