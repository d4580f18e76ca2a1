"""Norms of single examples' gradients: those of vmap(grad), without the gradients where the Program shows how."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax, nn, numpy as fnp, random
from functrace.errors import ArgumentError, DtypeError
from functrace.ir.program import held_programs
from tests.against_jax import QUICKLY

RNG = np.random.default_rng(0)
N = 3
cross_entropy = nn.softmax_cross_entropy_with_integer_labels


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def whole(*shape):
    return RNG.integers(0, 7, shape).astype(np.int32)


def of_layer(layer, measure=lambda y: (y**2).sum()):
    """The loss of a layer's output, and its params."""
    return lambda p, x: measure(layer.apply(p, x)), layer.init(random.key(0))


def classified(layer):
    return lambda p, x, y: cross_entropy(layer.apply(p, x), y).mean(), layer.init(random.key(0))


def unrolled(p, x):
    h = x[0]
    for i in range(1, 4):
        h = fnp.tanh(h @ p["w"] + x[i])
    return h.sum()


def penalized(p, x):
    return unrolled(p, x) + (p["w"] ** 2).sum()


def tied(p, ids):
    """A table that is read, and that the logits are made of."""
    return fnp.sin(fnp.tanh(p[ids]) @ p.T).sum()


def used_both_ways(p, x):
    return fnp.sin(fnp.tanh(x @ p) @ p.T - x @ (3.0 * p) @ fnp.ones((9, 8), x.dtype)).sum()


def stacked_layers(p, x):
    """Weights of all layers in one array, a scan over them: a gradient is a row of what the scan stacks."""
    h, _ = lax.scan(lambda h, w: (fnp.tanh(h @ w), None), x, p)
    return (h**2).sum()


def heads(p, x):
    q, k = (fnp.einsum("td,hde->hte", x, p[name]) for name in "qk")
    return fnp.tanh(fnp.einsum("hte,hse->hts", q, k)).sum()


def cut_up(p, x):
    """One vector of all weights."""
    w, v = p[:12].reshape(4, 3), p[12:].reshape(3, 2)
    return (fnp.tanh(x @ w) @ v).sum()


def joined(p, x):
    return (x @ fnp.concatenate([p["a"], p["b"]], axis=1)).sum() ** 2


def padded(p, x):
    return (x @ fnp.pad(p, ((0, 1), (2, 0)))).sum() ** 2


def scaled(p, x):
    h = fnp.tanh(x @ (p["a"] / np.sqrt(4.0))) * 3.0
    return (h @ (-p["b"].T)).sum() * p["c"] + x.sum() * (p["d"] * 2.0)


def lowered(p, x):
    """Params in float32, the layer in bfloat16."""
    half = lambda v: v.astype(fnp.bfloat16)
    return (half(x) @ half(p)).astype(np.float32).sum() ** 2


def jitted(p, x):
    layer = ft.jit(lambda w, h: fnp.tanh(h @ w))
    return layer(p["b"], layer(p["a"], x)).sum()


def recomputed(p, x):
    layer = ft.checkpoint(lambda w, h: fnp.tanh(h @ w))
    return layer(p["b"], layer(p["a"], x)).sum()


def convolved(shape, window, **options):
    numbers = ("NHWC", "HWIO", "NHWC") if len(window) == 4 else ("NWC", "WIO", "NWC")
    defaults = {"window_strides": (1,) * (len(window) - 2), "padding": "SAME", "dimension_numbers": numbers}

    def loss(w, x):
        return (lax.conv_general_dilated(x[None], w, **{**defaults, **options}) ** 2).sum()

    return loss, normal(*window), (normal(N, *shape),)


def looked_up(mode):
    """Rows of a table, some more than once and some outside."""

    def loss(p, ids, x):
        return (fnp.take(p, ids, axis=0, mode=mode, fill_value=0) * x).sum() ** 2

    return loss, normal(30, 3), (np.array([[4, 9, 4, 4], [40, 1, 0, 40], [2, 29, 29, 2]]), normal(N, 4, 3))


def complex_weights(p, x):
    y = x @ p
    return (y.real**2 + 2 * y.imag**2).sum()


def tied_in_part(p, ids, x):
    """Uses of different dtypes."""
    half = (fnp.tanh(p[ids]).astype(fnp.bfloat16) @ p.T.astype(fnp.bfloat16)).astype(np.float32)
    return fnp.sin(half).sum() + fnp.sin(x @ p.T).sum() + fnp.abs(x @ p.T + 1j).sum()


AB = {"a": normal(4, 4), "b": normal(4, 4)}
CNN = nn.sequential(nn.conv(2, 4, (3, 3), strides=2), nn.as_layer(nn.relu), nn.conv(4, 8, (3, 3)))
CASES = {
    "mlp": (*classified(nn.mlp((5, 8, 7))), (normal(N, 5), whole(N))),
    "dense over a sequence": (*of_layer(nn.dense(12, 16), lambda y: fnp.sin(y).sum()), (normal(N, 3, 12),)),
    "dense over a long sequence": (*of_layer(nn.dense(2, 3)), (normal(N, 9, 2),)),
    "cnn": (*of_layer(CNN, lambda y: fnp.tanh(y).sum()), (normal(N, 6, 6, 2),)),
    "few places": convolved((2, 3, 6), (3, 3, 6, 10)),
    "strides": convolved((5, 4, 6), (2, 3, 6, 10), window_strides=(3, 2), padding=((1, 0), (2, 1))),
    "dilated": convolved((5, 4, 6), (2, 2, 6, 10), rhs_dilation=(2, 3)),
    "dilated input": convolved((3, 8), (3, 8, 12), lhs_dilation=(2,), padding=((0, 2),)),
    "cropped": convolved((5, 8), (2, 8, 12), padding=((-1, -1),)),
    "groups": convolved((3, 8), (3, 2, 12), feature_group_count=4),
    "embedding": (*of_layer(nn.embedding(40, 5), lambda y: fnp.sin(y).sum() ** 2), (whole(N, 4),)),
    "rows, dropped outside": looked_up("fill"),
    "rows, clipped": looked_up("clip"),
    "transformer": (
        *classified(nn.transformer_lm(7, features=8, heads=2, layers=1, length=4)), (whole(N, 4), whole(N, 4))
    ),
    "transformer, not tied": (
        *classified(nn.transformer_lm(7, features=8, heads=2, layers=1, length=4, tied=False)),
        (whole(N, 4), whole(N, 4)),
    ),
    "norms": (
        *of_layer(nn.sequential(nn.dense(4, 6), nn.layer_norm(6)), lambda y: fnp.sin(y).sum()), (normal(N, 3, 4),)
    ),
    "rnn by a scan": (*of_layer(nn.rnn(3, 4)), (normal(N, 5, 3),)),
    "weights used again": (unrolled, {"w": normal(8, 8)}, (normal(N, 4, 8),)),
    "weights used again, and a penalty": (penalized, {"w": normal(4, 4)}, (normal(N, 4, 4),)),
    "tied": (tied, normal(40, 16), (RNG.integers(0, 40, (N, 3)),)),
    "tied, some of it in bfloat16": (
        tied_in_part, normal(300, 4), (np.array([[3, 200], [255, 255], [0, 77]], np.uint8), normal(N, 4))
    ),
    "used both ways": (used_both_ways, normal(8, 9), (normal(N, 8),)),
    "layers by a scan": (stacked_layers, 0.5 * normal(3, 4, 4), (normal(N, 4),)),
    "layers of a sequence by a scan": (stacked_layers, 0.5 * normal(3, 8, 8), (normal(N, 2, 8),)),
    "heads": (heads, {"q": normal(2, 6, 5), "k": normal(2, 6, 5)}, (normal(N, 2, 6),)),
    "one vector of weights": (cut_up, normal(18), (normal(N, 4),)),
    "joined": (joined, {"a": normal(4, 2), "b": normal(4, 3)}, (normal(N, 2, 4),)),
    "padded": (padded, normal(3, 4), (normal(N, 4),)),
    "scaled": (scaled, {**AB, "c": np.float32(2), "d": normal()}, (normal(N, 4),)),
    "bfloat16": (lowered, normal(6, 6), (normal(N, 6),)),
    "layers under jit": (jitted, AB, (normal(N, 4),)),
    "layers computed again": (recomputed, AB, (normal(N, 2, 4),)),
    "complex": (complex_weights, normal(3, 4) + 1j * normal(3, 4), (normal(N, 3),)),
    "a parameter without gradient": (lambda p, x: (x @ p["a"]).sum(), AB, (normal(N, 4),)),
}  # fmt: skip


def gradients(loss, params, batch):
    return ft.vmap(ft.grad(loss), in_axes=(None, *(0,) * len(batch)))(params, *batch)


def at_once(f, *args):
    """What `f` gives, compiled together and quickly."""
    return jax.jit(f, compiler_options=QUICKLY)(*args)


def norms(gradient):
    """Of each leaf, in double precision."""
    wide = lambda g: np.asarray(g).astype(np.complex128).reshape(N, -1)
    return jax.tree.map(lambda g: np.linalg.norm(wide(g), axis=1), gradient)


def equal(found, expected, rtol=1e-4):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_norms(case):
    loss, params, batch = CASES[case]
    rtol = 2e-2 if "bfloat16" in case else 1e-4
    found, each = at_once(
        lambda p, *b: (ft.jit(ft.per_example_norms(loss, per_leaf=True))(p, *b), gradients(loss, p, b)), params, *batch
    )
    equal(found, norms(each), rtol)


def sizes(program):
    """How many entries the values have that are computed in a Program."""
    own = [v.aval.size for eqn in program.equations for v in eqn.outputs]
    inner = [sizes(p) for eqn in program.equations for value in eqn.params.values() for p in held_programs(value)]
    return max([*own, *inner], default=0)


GHOSTS = (
    "dense over a sequence", "few places", "strides", "embedding", "rows, dropped outside",
    "layers of a sequence by a scan", "heads", "scaled", "weights used again", "tied", "one vector of weights",
    "used both ways",
)  # fmt: skip


@pytest.mark.parametrize("case", GHOSTS)
def test_gradients_are_not_made(case):
    """For so many examples that one value for each example and weight would be the largest in the Program."""
    loss, params, batch = CASES[case]
    many = [np.repeat(x, 400, axis=0) for x in batch]
    largest = 400 * N * max(np.size(x) for x in jax.tree.leaves(params))
    assert sizes(ft.make_program(ft.per_example_norms(loss))(params, *many)) < largest
    assert sizes(ft.make_program(lambda p, *b: gradients(loss, p, b))(params, *many)) >= largest


def test_clipped():
    """The sum of gradients each of which is scaled down, by a loop; the mean; and norms beside it."""
    loss, params, batch = CASES["mlp"]
    each = at_once(lambda p, *b: gradients(loss, p, b), params, *batch)
    whole = np.sqrt(sum(n**2 for n in jax.tree.leaves(norms(each))))
    most = float(np.sort(whole)[1])
    weights = np.minimum(1, most / whole)
    expected = jax.tree.map(lambda g: np.tensordot(weights, np.asarray(g), 1), each)
    clipped = ft.per_example_clipped_grad
    total, (mean, seen), traced = at_once(
        lambda c, *args: (
            clipped(loss, most)(*args),
            ft.jit(clipped(loss, most, mean=True, with_norms=True))(*args),
            ft.jit(lambda c: clipped(loss, c)(*args))(c),
        ),
        np.float32(most), params, *batch,
    )  # fmt: skip
    equal(total, expected)
    equal(mean, jax.tree.map(lambda g: g / N, expected))
    equal(seen, whole)
    equal(traced, expected)


def test_shared_arguments():
    """What all examples share is not mapped; squares."""
    w, x, scale = normal(4, 3), normal(N, 4), np.float32(3)
    loss = lambda w, scale, x: (scale * fnp.tanh(x @ w)).sum()
    expected = norms(ft.vmap(ft.grad(loss), in_axes=(None, None, 0))(w, scale, x))
    equal(ft.per_example_norms(loss, in_axes=(None, 0), squared=True)(w, scale, x), expected**2)
    equal(ft.per_example_norms(loss, in_axes=(None, 1))(w, scale, x.T), expected)
    clipped = ft.per_example_clipped_grad(loss, 1e6, in_axes=(None, 0))(w, scale, x)
    equal(clipped, ft.grad(lambda w: ft.vmap(loss, in_axes=(None, None, 0))(w, scale, x).sum())(w))


def test_transformed():
    """Under grad and vmap, against JAX; where a gradient is 0 its norm has the slope 0."""
    import jax.numpy as jnp

    w, x = normal(4, 3), normal(N, 2, 4)
    x[1] = 0
    loss = lambda np_: lambda w, x: (np_.sin(x @ w) ** 2).sum()

    def penalty(w):
        g = jax.vmap(jax.grad(loss(jnp)), in_axes=(None, 0))(w, x)
        squares = (g**2).sum((1, 2))
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0).sum()

    ours = lambda w: ft.per_example_norms(loss(fnp))(w, x).sum()
    found, expected = at_once(
        lambda w, ws: (
            (ft.grad(ours)(w), ft.vmap(ours)(ws)), (jax.grad(penalty)(w), jnp.stack([penalty(w), penalty(2 * w)]))
        ),
        w, np.stack([w, 2 * w]),
    )  # fmt: skip
    equal(found, expected)
    with jax.enable_x64(True):
        found = ft.per_example_norms(loss(fnp))(w.astype(np.float64), x.astype(np.float64))
        assert found.dtype == np.float64


def test_sums_that_cancel_are_not_negative():
    """Two rows of a sequence whose parts of the gradient cancel but for rounding."""
    x = np.concatenate([normal(N, 1, 40)] * 2, axis=1)
    loss = lambda w, x: (x @ w @ np.linspace(1, 2, 30, dtype=np.float32) * np.array([1, -1 - 1e-7], np.float32)).sum()
    found = np.asarray(ft.per_example_norms(loss)(normal(40, 30), x))
    assert np.isfinite(found).all()
    assert (found < 1e-1).all()


X = normal(N, 2)
W = normal(2)
BAD = {
    "no function": (lambda: ft.per_example_norms(3), DtypeError, "per_example_norms: expected a function, got int"),
    "no batch": (lambda: ft.per_example_norms(lambda w: w.sum())(W), ArgumentError, "norms: there is no batch"),
    "not a scalar": (lambda: ft.per_example_norms(lambda w, x: w * x)(W, X), DtypeError,
                     "per_example_norms: the function must return a scalar, got f32[2]"),
    "integers": (lambda: ft.per_example_norms(lambda w, x: w @ x)(np.ones(2, np.int32), X), DtypeError,
                 "argument 0 has dtype int32"),
    "axis": (lambda: ft.per_example_norms(lambda w, x, y: w @ x)(W, X, X[:2]), ArgumentError,
             "sizes of the mapped axes differ: argument 1: 3, argument 2: 2"),
    "in_axes": (lambda: ft.per_example_norms(lambda w, x: w @ x, in_axes=(0, None))(W, X), ArgumentError,
                "in_axes has 2 entries, and 1 arguments come after params"),
    "max_norm": (lambda: ft.per_example_clipped_grad(lambda w, x: w @ x, -1.0), ArgumentError,
                 "per_example_clipped_grad: max_norm must be positive, got -1.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_messages(case):
    call, error, text = BAD[case]
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
    assert "test_per_example.py:" in str(caught.value)
