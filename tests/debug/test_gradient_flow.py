"""Planted faults, which must be named with the layer where they begin, and healthy networks, of which none may be."""

from __future__ import annotations

import re
import sys
from itertools import pairwise

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import nn, numpy as fnp
from functrace.errors import ArgumentError, DtypeError

RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(size=(16, 12)))
Y = np.float32(RNG.normal(size=(16, 1)))
SEQUENCE = np.float32(RNG.normal(size=(40, 8, 5)))
WIDTH = 20


def normal(*shape, scale=1.0):
    return np.float32(RNG.normal(size=shape) * scale)


def dense(m, n, gain=1.0):
    return {"W": normal(m, n, scale=gain / m**0.5), "b": np.zeros(n, np.float32)}


def mlp(depth, gain=1.0):
    """Parameters of a network with so many layers in all."""
    return [dense(m, n, gain) for m, n in pairwise([12, *[WIDTH] * (depth - 1), 1])]


def affine(p, x):
    return x @ p["W"] + p["b"]


def squared(y):
    return fnp.mean((y - Y) ** 2)


def feed(act):
    """The loss of an MLP with a scope a layer."""

    def loss(params, x):
        for i, p in enumerate(params[:-1]):
            with ft.named_scope(f"layer_{i}"):
                x = act(affine(p, x))
        with ft.named_scope("head"):
            return squared(affine(params[-1], x))

    return loss


def without_scopes(params, x):
    for p in params[:-1]:
        x = nn.relu(affine(p, x))
    return squared(affine(params[-1], x))


def stacked(params, x):
    """Layers in a scan."""
    x = x @ params["first"]
    x, _ = ft.lax.scan(lambda x, w: (nn.sigmoid(x @ w), None), x, params["layers"])
    return squared(x @ params["last"])


def rnn(act):
    def loss(params, xs):
        def step(h, x):
            with ft.named_scope("cell"):
                return act(h @ params["W"] + x @ params["U"]), None

        h, _ = ft.lax.scan(step, fnp.zeros((8, WIDTH)), xs)
        return fnp.mean((h @ params["V"]) ** 2)

    return loss


def rnn_params(gain):
    q, _ = np.linalg.qr(RNG.normal(size=(WIDTH, WIDTH)))
    return {"W": np.float32(gain * q), "U": normal(5, WIDTH, scale=0.3), "V": normal(WIDTH, 1)}


def with_biases(params, layer, biases):
    """Parameters with the biases of one layer set."""
    params[layer]["b"] = np.broadcast_to(np.float32(biases), params[layer]["b"].shape)
    return params


def log_of_negative(params, x):
    with ft.named_scope("log"):
        h = fnp.log(affine(params[0], x))
    return fnp.mean(h)


def one_is_unused(params, x):
    return squared(affine(params[0], x)) + 0.0 * Y[0, 0]


# Loss, parameters, batch, the verdict, and where it begins.
PLANTED = {
    "50 sigmoid layers": (feed(nn.sigmoid), mlp(50), X, "vanishing", {f"layer_{i}" for i in range(40, 46)}),
    "50 sigmoid layers in a scan": (
        stacked, {"first": normal(12, WIDTH), "layers": normal(50, WIDTH, WIDTH, scale=0.2), "last": normal(WIDTH, 1)},
        X, "vanishing", "scan at test_gradient_flow.py",
    ),
    "8 layers of tanh that saturates": (feed(lambda x: fnp.tanh(30 * x + 40)), mlp(8), X, "vanishing", None),
    "recurrent relu, weights too large": (rnn(nn.relu), rnn_params(3.0), SEQUENCE, "exploding", {"cell"}),
    "recurrent and linear": (rnn(lambda x: x), rnn_params(2.0), SEQUENCE, "exploding", {"cell"}),
    "25 layers, weights too large": (feed(nn.relu), mlp(25, 8.0), X, "exploding", None),
    "recurrent tanh, weights too small": (rnn(fnp.tanh), rnn_params(0.3), SEQUENCE, "vanishing", {"cell"}),
    "a layer of dead units": (feed(nn.relu), with_biases(mlp(4, 1.4), 1, -30.0), X, "dead", {"layer_1"}),
    "a layer of 19 dead units and a live one": (
        feed(nn.relu), with_biases(mlp(4, 1.4), 1, [-30.0] * 19 + [5.0]), X, "dead", {"layer_1"},
    ),
    "dead without scopes": (without_scopes, with_biases(mlp(4, 1.4), 1, -30.0), X, "dead", {"params.3.W"}),
    "not finite": (log_of_negative, mlp(2), X, "exploding", {"log"}),
    "a parameter that is not used": (one_is_unused, [dense(12, 1), dense(3, 3)], X, "dead", {"params.1.b"}),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED.values(), ids=PLANTED)
def test_planted_faults(case, tmp_path):
    loss, params, batch, verdict, begins = case
    flow = ft.debug.gradient_flow(loss)(params, batch)
    assert flow.verdict == verdict, str(flow)
    if isinstance(begins, str):
        assert flow.begins.startswith(begins)
        assert any(r.name == flow.begins and len(r.steps) == 50 and "from step 4" in r.note for r in flow.rows)
    elif begins:
        assert flow.begins in begins, str(flow)
    assert flow.advice
    lines = str(flow).splitlines()
    assert lines[0].startswith("part") and lines[0].endswith("smallest  zeros   update  verdict")
    assert verdict in lines[-2] and flow.begins in lines[-2]


def norm(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / fnp.sqrt(x.var(axis, keepdims=True) + 1e-5)


def batch_normed(params, x):
    """The biases before a batch norm have a gradient that is rounding alone."""
    for i, p in enumerate(params[:-1]):
        with ft.named_scope(f"layer_{i}"):
            x = nn.relu(norm(affine(p, x), 0))
    return squared(affine(params[-1], x))


def residual(params, x):
    x = affine(params["first"], x)
    for i, p in enumerate(params["blocks"]):
        with ft.named_scope(f"block_{i}"):
            x = x + p["scale"] * affine(p["out"], nn.gelu(affine(p["in"], norm(x))))
    with ft.named_scope("head"):
        return squared(affine(params["last"], norm(x)))


def residual_params(depth, scale):
    block = lambda: {"in": dense(WIDTH, WIDTH), "out": dense(WIDTH, WIDTH), "scale": np.full(WIDTH, scale, np.float32)}
    return {"first": dense(12, WIDTH), "blocks": [block() for _ in range(depth)], "last": dense(WIDTH, 1)}


def attention(params, tokens):
    """One block of a transformer; the biases of the keys have no gradient by nature."""
    with ft.named_scope("embed"):
        x = params["table"][tokens]
    with ft.named_scope("attention"):
        q, k, v = (affine(params[name], norm(x)) for name in "qkv")
        weights = nn.softmax(q @ k.mT / WIDTH**0.5)
        x = x + affine(params["o"], weights @ v)
    with ft.named_scope("mlp"):
        x = x + affine(params["out"], nn.relu(affine(params["in"], norm(x))))
    logits = norm(x) @ params["table"].T
    return -fnp.mean(fnp.take_along_axis(nn.log_softmax(logits), fnp.roll(tokens, -1, -1)[..., None], -1))


def convolution(params, x):
    image = x.reshape(16, 4, 3, 1)
    for i, w in enumerate(params["conv"]):
        with ft.named_scope(f"conv_{i}"):
            image = ft.lax.conv_general_dilated(image, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            image = nn.relu(image)
    return squared(affine(params["head"], image.mean((1, 2))))


def gru(params, xs):
    def step(h, x):
        with ft.named_scope("gru"):
            z, r = (nn.sigmoid(x @ params["U" + g] + h @ params["W" + g]) for g in "zr")
            return (1 - z) * h + z * fnp.tanh(x @ params["Un"] + (r * h) @ params["Wn"]), None

    h, _ = ft.lax.scan(step, fnp.zeros((8, WIDTH)), xs[:12])
    return fnp.mean((h @ params["V"] - 1.0) ** 2)


def jitted(params, x):
    layer = ft.jit(lambda p, x: nn.silu(affine(p, x)))
    for i, p in enumerate(params[:-1]):
        with ft.named_scope(f"layer_{i}"):
            x = layer(p, x)
    return squared(affine(params[-1], x))


def checkpointed(params, x):
    for i, p in enumerate(params[:-1]):
        with ft.named_scope(f"layer_{i}"):
            x = ft.checkpoint(lambda p, x: fnp.tanh(affine(p, x)))(p, x)
    return squared(affine(params[-1], x))


def by_row(params, x):
    return fnp.mean(ft.vmap(lambda x, y: (feed_one(params, x)[0] - y[0]) ** 2)(x, Y))


def feed_one(params, x):
    for p in params[:-1]:
        with ft.named_scope("layer"):
            x = nn.relu(affine(p, x))
    return affine(params[-1], x)


def masked_by_infinity(params, x):
    with ft.named_scope("mask"):
        logits = fnp.where(np.tri(16, dtype=bool), affine(params[0], x) @ x.T, -fnp.inf)
    largest, _ = ft.lax.scan(lambda m, row: (fnp.maximum(m, row), None), fnp.full(16, -fnp.inf), logits)
    return squared(nn.softmax(logits) @ Y) + fnp.mean(largest)


TOKENS = RNG.integers(0, 30, (4, 10)).astype(np.int32)
HEALTHY = {
    "linear": (feed(nn.relu), mlp(1), X),
    "3 layers of relu": (feed(nn.relu), mlp(3, 2**0.5), X),
    "12 layers of relu, He": (feed(nn.relu), mlp(12, 2**0.5), X),
    "12 layers of tanh, Xavier": (feed(fnp.tanh), mlp(12), X),
    "4 layers of sigmoid": (feed(nn.sigmoid), mlp(4), X),
    "10 layers of gelu": (feed(nn.gelu), mlp(10, 2**0.5), X),
    "12 layers of selu": (feed(nn.selu), mlp(12), X),
    "8 layers of leaky relu": (feed(nn.leaky_relu), mlp(8, 2**0.5), X),
    "without scopes": (without_scopes, mlp(5, 2**0.5), X),
    "last layer at zero": (feed(nn.relu), [*mlp(4, 2**0.5)[:-1], dense(WIDTH, 1, 0.0)], X),
    "8 layers with batch norm and biases": (batch_normed, mlp(8), X),
    "6 residual blocks": (residual, residual_params(6, 1.0), X),
    "residual blocks that begin at zero": (residual, residual_params(2, 0.0), X),
    "transformer block": (
        attention, {"table": normal(30, WIDTH, scale=0.3), **{k: dense(WIDTH, WIDTH) for k in (*"qkvo", "in", "out")}},
        TOKENS,
    ),
    "convolutions": (
        convolution, {"conv": [normal(3, 3, 1, 8, scale=0.4), normal(3, 3, 8, 8, scale=0.17)], "head": dense(8, 1)}, X,
    ),
    "GRU": (
        gru, {**{"U" + g: normal(5, WIDTH, scale=0.4) for g in "zrn"}, **{"W" + g: rnn_params(1.0)["W"] for g in "zrn"},
              "V": normal(WIDTH, 1, scale=0.3)}, SEQUENCE,
    ),
    "orthogonal recurrent net": (rnn(fnp.tanh), rnn_params(1.0), SEQUENCE[:12]),
    "masked by -inf": (masked_by_infinity, [dense(12, 12)], X),
    "jit": (jitted, mlp(4, 2**0.5), X),
    "checkpoint": (checkpointed, mlp(4), X),
    "vmap": (by_row, mlp(4, 2**0.5), X),
}  # fmt: skip


@pytest.mark.parametrize("case", HEALTHY.values(), ids=HEALTHY)
def test_no_alarm(case):
    """At the start, and after steps of training."""
    loss, params, batch = case
    for steps in (0, 5):
        for _ in range(steps):
            params = jax.tree.map(lambda p, g: p - 0.02 * g, params, ft.grad(loss)(params, batch))
        flow = ft.debug.gradient_flow(loss)(params, batch)
        assert flow.verdict == "healthy" and flow.begins is None and not flow.advice, str(flow)
        assert "healthy: the gradient reaches every part." in str(flow)


def test_numbers():
    """Norms and extremes are those of the arrays, of parameters and of what leaves a scope."""
    params = mlp(3, 2**0.5)
    loss = feed(nn.relu)
    flow = ft.debug.gradient_flow(loss, update=lambda g: jax.tree.map(lambda g: 0.1 * g, g))(params, X)
    rows = {r.name: r for r in flow.rows}
    assert [r.name for r in flow.rows if r.kind == "scope"] == ["layer_0", "layer_1", "head"]
    gradient = ft.grad(loss)(params, X)
    for i, layer in enumerate(gradient):
        for name, g in layer.items():
            r = rows[f"params.{i}.{name}"]
            p = params[i][name]
            expected = (np.linalg.norm(g), np.linalg.norm(p), np.max(g), np.min(g), np.mean(np.asarray(g) == 0))
            if g.ndim > 1:
                expected = (*expected[:4], np.mean(np.all(np.asarray(g) == 0, axis=0)))
            np.testing.assert_allclose((r.grad_norm, r.param_norm, r.max, r.min, r.zero_fraction), expected, rtol=1e-4)
            if np.any(p):
                np.testing.assert_allclose(r.update_ratio, 0.1 * np.linalg.norm(g) / np.linalg.norm(p), rtol=1e-4)

    def tail(hidden, layers):
        x = hidden
        for p in layers[:-1]:
            x = jax.nn.relu(x @ p["W"] + p["b"])
        return jnp.mean((x @ layers[-1]["W"] + layers[-1]["b"] - Y) ** 2)

    hidden = jax.nn.relu(X @ params[0]["W"] + params[0]["b"])
    ct = jax.grad(tail)(hidden, params[1:])
    r = rows["layer_0"]
    dead = np.mean(np.all(hidden == 0, axis=0))
    expected = (np.linalg.norm(ct), np.linalg.norm(hidden), np.max(ct), np.min(ct), dead)
    np.testing.assert_allclose((r.grad_norm, r.param_norm, r.max, r.min, r.zero_fraction), expected, rtol=1e-4)
    logged = flow.to_dict()
    assert logged["scope/layer_0/grad_norm"] == r.grad_norm and "scope/layer_0/update_ratio" not in logged
    assert all(type(v) is float for v in logged.values())


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e20, 3e37])
def test_norms_neither_overflow_nor_underflow(scale):
    flow = ft.debug.gradient_flow(lambda p: fnp.sum(p * np.float32(scale)))(np.ones(3, np.float32))
    np.testing.assert_allclose(flow.rows[0].grad_norm, scale * 3**0.5, rtol=1e-5)


def test_inside_a_jitted_step():
    """Sampled by a count that jit knows nothing of; the value and the gradient are those of the plain step."""
    loss = feed(nn.relu)

    def with_aux(params, x):
        return loss(params, x), x

    @ft.jit
    def step(params, x, count):
        return ft.debug.flow_stats(with_aux, has_aux=True, when=count % 10 == 0)(params, x)

    params = mlp(3, 2**0.5)
    expected = ft.grad(loss)(params, X)
    whole = ft.debug.gradient_flow(loss)(params, X)
    for count in (0, 1, 10):
        (value, aux), gradient, stats = step(params, X, count)
        np.testing.assert_allclose(value, loss(params, X), rtol=1e-5)
        np.testing.assert_array_equal(aux, X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, expected)
        assert bool(stats.sampled) is (count != 1)
        if count == 1:
            with pytest.raises(ArgumentError, match=r"nothing was sampled at this step .*test_gradient_flow.py"):
                stats.report()
        else:
            assert [r[:2] for r in stats.report().rows] == [r[:2] for r in whole.rows]
            for ours, theirs in zip(stats.report().rows, whole.rows, strict=True):
                np.testing.assert_allclose(ours.grad_norm, theirs.grad_norm, rtol=1e-4)


def test_figure(tmp_path):
    """A PNG that opens, of bars and of a profile."""
    from matplotlib.image import imread

    for depth in (3, 40):
        flow = ft.debug.gradient_flow(feed(nn.relu))(mlp(depth, 2**0.5), X)
        flow.plot(tmp_path / "flow.png")
        image = imread(tmp_path / "flow.png")
        assert image.shape[1] == 1100 and 300 < image.shape[0] < 2200
        assert image[..., :3].std() > 0.05


def test_figure_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    flow = ft.debug.gradient_flow(lambda p: p * p)(2.0)
    with pytest.raises(ImportError, match=r"draws with matplotlib, which is not installed: pip install 'functrace\["):
        flow.plot(tmp_path / "flow.png")


MISTAKES = {
    "integers": (lambda p: fnp.sum(p * 1.0), np.arange(3), r"argument 0 has dtype int32"),
    "not a scalar": (lambda p: p * 2.0, np.ones(3, np.float32), r"must return a scalar, got f32\[3\]"),
    "complex": (lambda p: fnp.sum(p) * 1j, np.ones(3, np.float32), r"must be real floating, got c64"),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(case):
    """The error names the function that was called, and advises nothing that it has not."""
    loss, params, message = case
    for report in (ft.debug.gradient_flow, ft.debug.flow_stats, ft.debug.explain_zero):
        with pytest.raises(DtypeError, match=rf"^{report.__name__}: .*{message}.*test_gradient_flow.py") as caught:
            report(loss)(params)
        assert not re.search("argnums|allow_int|jacrev|holomorphic", str(caught.value))


@pytest.mark.parametrize("name", ["gradient_flow", "flow_stats", "explain_zero", "find_nonfinite", "cost", "taps"])
def test_arguments_that_are_missing(name):
    report = getattr(ft.debug, name)
    loss = lambda params, x: fnp.sum(params * x)
    with pytest.raises(DtypeError, match=rf"^{name}: <lambda>\(params, x\) was given 1 .*'x'.*test_gradient_flow.py"):
        report(loss)(1.0)
    with pytest.raises(DtypeError, match=rf"^{name}: expected a function, got int"):
        report(3)
    if name in ("gradient_flow", "flow_stats", "explain_zero"):
        with pytest.raises(DtypeError, match="no argument to differentiate"):
            report(lambda: 1.0)()
    else:
        with pytest.raises(DtypeError, match=rf"^{name}: argument 1 is a str \('a'\), not an array; close over it"):
            report(loss)(1.0, "a")
