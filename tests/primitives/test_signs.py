"""On which side of zero numbers are, and the masks that need not be followed where no pole is."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax, nn, numpy as fnp
from functrace.primitives.signs import NOT_NEGATIVE, POSITIVE, UNKNOWN, sign

X = np.linspace(-2.0, 2.0, 12, dtype=np.float32).reshape(3, 4)
MADE = {
    "an input": (lambda x: x, UNKNOWN),
    "a product": (lambda x: x * fnp.sin(x), UNKNOWN),
    "a square": (lambda x: x * x, NOT_NEGATIVE),
    "a square and a number": (lambda x: x**2 + 1e-6, POSITIVE),
    "a number far too small": (lambda x: x**2 + 1e-30, NOT_NEGATIVE),
    "a negative number": (lambda x: x**2 - 1e-6, UNKNOWN),
    "negated": (lambda x: -(x**2 + 1), UNKNOWN),
    "a cube": (lambda x: x**3, UNKNOWN),
    "a cube of what is positive": (lambda x: (x * x + 1) ** 3, NOT_NEGATIVE),
    "root mean square": (lambda x: fnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5), POSITIVE),
    "deviation": (lambda x: fnp.broadcast_to(fnp.sqrt(x.var(-1, keepdims=True) + 1e-5), x.shape), POSITIVE),
    "norm": (lambda x: fnp.sqrt((x**2).sum(-1, keepdims=True)), NOT_NEGATIVE),
    "norm, at least a number": (lambda x: fnp.maximum(fnp.sqrt((x**2).sum(-1)), 1e-6), POSITIVE),
    "the greatest, of numbers of any sign": (lambda x: x.max(-1), UNKNOWN),
    "exponentials": (lambda x: fnp.exp(x).sum(-1), NOT_NEGATIVE),
    "a softmax's": (lambda x: fnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True), POSITIVE),
    "a softmax's, its maximum without a slope": (
        lambda x: fnp.exp(x - fnp.maximum(-np.inf, lax.stop_gradient(x).max(-1, keepdims=True))).sum(-1),
        POSITIVE,
    ),
    "a softmax's, its maximum above zero": (
        lambda x: fnp.exp(x - fnp.maximum(0, x.max(-1, keepdims=True))).sum(-1),
        NOT_NEGATIVE,
    ),
    "a softmax's along another axis": (lambda x: fnp.exp(x - x.max(0, keepdims=True)).sum(-1), NOT_NEGATIVE),
    "a softmax's of another array": (lambda x: fnp.exp(x - fnp.sin(x).max(-1, keepdims=True)).sum(-1), NOT_NEGATIVE),
    "a softmax's of a square, its maximum beside other rows": (
        lambda x: fnp.exp(x[:, :3] - x[:, :3].max(1)[None]).sum(1),
        NOT_NEGATIVE,
    ),
    "a softmax's of another shape": (
        lambda x: fnp.exp(x.reshape(4, 3)[:3] - x.reshape(3, 4)[:, :3].max(1)[:, None]).sum(1),
        NOT_NEGATIVE,
    ),
    "a softmax's, reshaped": (
        lambda x: fnp.exp(x[:, :3].T.reshape(3, 3) - x[:, :3].max(1, keepdims=True)).sum(1),
        NOT_NEGATIVE,
    ),
    "a softmax's of what has no operands": (
        lambda x: fnp.exp(lax.iota("float32", 4) - x.max(1, keepdims=True)).sum(1),
        NOT_NEGATIVE,
    ),
    "a small part of it": (lambda x: 1e-20 * (x * x + 1) / 3, NOT_NEGATIVE),
    "of two": (lambda x: (x * x + 1) * (x * x + 1), NOT_NEGATIVE),
    "by itself": (lambda x: (x * x + 1) / (x * x + 2), NOT_NEGATIVE),
    "chosen": (lambda x: fnp.where(x > 0, x * x + 1, 1.0), POSITIVE),
    "chosen, of any sign": (lambda x: fnp.where(x > 0, x * x + 1, x), UNKNOWN),
    "complex": (lambda x: x * 1j + 1, UNKNOWN),
    "a complex square": (lambda x: (x * 1j) ** 2 + 1, UNKNOWN),
    "a size": (lambda x: abs(x * 1j) + 1, POSITIVE),
    "half precision": (lambda x: x.astype("bfloat16") ** 2 + 1, POSITIVE),
    "a number far too small in half precision": (lambda x: x.astype("float16") ** 2 + 1e-3, NOT_NEGATIVE),
    "whole numbers": (lambda x: x.astype("int32") ** 2 + 1, POSITIVE),
}


@pytest.mark.parametrize("name", MADE)
def test_signs(name):
    f, expected = MADE[name]
    found = []

    def traced(x):
        y = f(x)
        found.append(sign(y.atom))
        return y

    value = ft.make_program(traced)(X)(X)
    assert found == [expected]
    if expected != UNKNOWN:
        assert np.min(value) >= (1e-13 if expected == POSITIVE else 0)


def layers(n, norm):
    """Layers with a norm, each of which leaves some entries out."""

    def loss(ws, x, keep):
        for w in ws:
            x = x + n.where(keep, n.maximum(norm(n, x) @ w, 0) @ w.T, 0)
        return (x**2).sum()

    return loss


NORMS = {
    "root mean square": lambda n, x: x / n.sqrt((x * x).mean(-1, keepdims=True) + 1e-6),
    "layer norm": lambda n, x: (x - x.mean(-1, keepdims=True)) / n.sqrt(x.var(-1, keepdims=True) + 1e-6),
    "softmax": lambda n, x: (nn if n is fnp else jax.nn).softmax(x),
    "softmax by hand": lambda n, x: (
        n.exp(x - x.max(-1, keepdims=True)) / n.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "length": lambda n, x: x / n.sqrt((x * x).sum(-1, keepdims=True)),
}


@pytest.mark.parametrize("name", NORMS)
def test_rows_that_are_absent_by_chance_are_followed_where_a_pole_may_be(name):
    ws, keep = [X.T @ X / 4, X.T @ X / 5], X > -1
    ours = ft.make_program(ft.grad(layers(fnp, NORMS[name])))(ws, X, keep)
    followed = {"reduce_or", "any"} & {eqn.primitive.name for eqn in ours.equations}
    assert bool(followed) == (name == "length")
    theirs = jax.grad(layers(jax.numpy, NORMS[name]))(ws, X, keep)
    for a, b in zip(ft.grad(layers(fnp, NORMS[name]))(ws, X, keep), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_a_row_that_is_zero_has_no_pole_behind_a_small_number():
    """All of the second row is left out, by a relu; the norm of zeros has a slope of 1,000, not of infinity."""

    def loss(x):
        return nn.relu((x / fnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)) @ X.T - 1e-3).sum()

    x = X * np.array([1.0, 0.0, 1.0], np.float32)[:, None]
    g = ft.grad(loss)(x)
    assert np.isfinite(g).all()
    assert not np.asarray(g)[1].any()
