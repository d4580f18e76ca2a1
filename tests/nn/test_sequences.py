"""Layers of sequences: pieces are the whole, transforms agree with JAX's, and what does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functrace as ft
from functrace import nn, numpy as fnp, random
from functrace.errors import ArgumentError, DtypeError, ShapeError

BATCH, TIME, FEATURES = 2, 6, 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (BATCH, TIME)).astype(np.int32)
SIZES = {"features": 4, "heads": 2, "layers": 1, "length": TIME}

LAYERS = {
    "rnn": (nn.rnn(FEATURES, 3, layers=2), X),
    "lstm": (nn.lstm(FEATURES, 3), X),
    "gru": (nn.gru(FEATURES, 3), X),
    "attention": (nn.multi_head_attention(FEATURES, 2, causal=True), X),
    "rotary attention": (nn.multi_head_attention(FEATURES, 2, causal=True, rotary_base=100.0), X),
    "transformer_lm": (nn.transformer_lm(7, **{**SIZES, "layers": 2}), TOKENS),
    "rotary transformer_lm": (nn.transformer_lm(7, **SIZES, positions="rotary", tied=False), TOKENS),
}
PARAMS = {name: layer.init(random.key(1)) for name, (layer, _) in LAYERS.items()}


def close(x, y, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), x, y)


@pytest.mark.parametrize("name", LAYERS)
def test_pieces_are_the_whole(name):
    """Uneven pieces, and compiled single positions: one program for all of them."""
    layer, x = LAYERS[name]
    whole = ft.jit(layer.apply)(PARAMS[name], x)
    step = ft.jit(lambda params, x, state: layer.apply(params, x, state=state))
    for ends in ((3, 4, 6), range(1, TIME + 1)):
        state, outputs, last = layer.start((BATCH,), length=TIME), [], 0
        for end in ends:
            y, state = step(PARAMS[name], x[:, last:end], state)
            outputs.append(y)
            last = end
        close(fnp.concatenate(outputs, axis=1), whole)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_the_batch(name):
    layer, x = LAYERS[name]
    whole = ft.jit(layer.apply)(PARAMS[name], x)
    close(ft.jit(ft.vmap(lambda x: layer.apply(PARAMS[name], x)))(x), whole)
    close(layer.apply(PARAMS[name], x[1]), whole[1])


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "rotary attention"])
def test_derivatives_equal_jax(name):
    """The gradient, and its derivative along a direction, which for recurrent layers goes through the scan twice."""
    layer, x = LAYERS[name]
    loss = lambda params: fnp.sum(fnp.sin(layer.apply(params, x)))
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS[name])
    ours, theirs = (
        t.jit(lambda p, v, t=t: t.jvp(t.grad(loss), (p,), (v,)))(PARAMS[name], direction) for t in (ft, jax)
    )
    close(ours, theirs, 2e-4)
    assert all(fnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(ours[1]))


def test_checkpointed_scan():
    layers = [nn.gru(FEATURES, 3, checkpoint=c) for c in (None, "auto")]
    params = layers[0].init(random.key(0))
    grads = [ft.jit(ft.grad(lambda p, layer=layer: fnp.sum(layer.apply(p, X) ** 2)))(params) for layer in layers]
    close(*grads)


@pytest.mark.parametrize("name", ["gru", "attention", "transformer_lm"])
def test_half_precision(name):
    layer, x = LAYERS[name]
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS[name])
    x = x if x.dtype == np.int32 else jnp.asarray(x, jnp.bfloat16)
    y, state = layer.apply(half, x, state=layer.start((BATCH,), length=TIME, dtype=jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    close(y.astype(np.float32), layer.apply(PARAMS[name], x), 0.1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {"bfloat16", "int32"}


DROPOUT = {
    "between recurrent layers": (nn.lstm(FEATURES, 3, layers=2, dropout_rate=0.5), X),
    "in attention": (nn.multi_head_attention(FEATURES, 2, dropout_rate=0.5), X),
    "in a model": (nn.transformer_lm(7, **SIZES, dropout_rate=0.5), TOKENS),
}


@pytest.mark.parametrize("case", DROPOUT)
def test_dropout(case):
    layer, x = DROPOUT[case]
    params = layer.init(random.key(0))
    apply = ft.jit(layer.apply, static_argnames="training")
    first, again, other = (apply(params, x, training=True, key=random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not fnp.allclose(first, other)
    np.testing.assert_array_equal(apply(params, x), apply(params, x, key=random.key(1)))
    assert not fnp.allclose(first, apply(params, x))
    with pytest.raises(ArgumentError, match=r"dropout.*: key is None; in training a key was expected"):
        layer.apply(params, x, training=True)


def test_attention_weights_are_dropped_and_scaled():
    """A mean of ones is 1 whatever the weights; with dropout it is 1 on average."""
    layer = nn.multi_head_attention(4, 1, dropout_rate=0.25)
    params = {n: {"kernel": fnp.eye(4), "bias": fnp.zeros(4)} for n in ("query", "key", "value", "output")}
    y = layer.apply(params, fnp.ones((500, 8, 4)), training=True, key=random.key(0))
    assert 0.98 < float(y.mean()) < 1.02
    assert float(y.std()) > 0.1


def test_a_query_that_may_look_nowhere():
    layer = nn.multi_head_attention(FEATURES, 2)
    params = layer.init(random.key(0))
    params["output"]["bias"] = fnp.arange(4.0)
    mask = np.ones((BATCH, 1, TIME, TIME), bool)
    mask[1, :, 2] = False
    y = layer.apply(params, X, mask=mask)
    np.testing.assert_array_equal(y[1, 2], np.arange(4.0))
    grads = ft.grad(lambda p, x: fnp.sum(layer.apply(p, x, mask=mask) ** 2), argnums=(0, 1))(params, X)
    assert all(bool(fnp.isfinite(g).all()) for g in jax.tree.leaves(grads))


def test_rotary_keeps_norms_and_sees_distances_only():
    q, k = RNG.standard_normal((2, 5, 1, 8)).astype(np.float32)
    turned = nn.rotary(q, np.arange(5))
    np.testing.assert_allclose(fnp.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[0], q[0])
    product = lambda i, j: float(nn.rotary(q[:1], [i])[0, 0] @ nn.rotary(k[:1], [j])[0, 0])
    np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-3)
    assert abs(product(7, 3) - product(7, 4)) > 1e-3


def test_a_full_cache():
    """Known, it is an error; in a compiled program the result is NaN, and what fits is right."""
    for name in ("attention", "transformer_lm"):
        layer, x = LAYERS[name]
        params = PARAMS[name]
        _, state = layer.apply(params, x, state=layer.start((BATCH,), length=TIME))
        with pytest.raises(ArgumentError, match=r"the cache has room for 6 positions, and 6 are in it; 1 more do not"):
            layer.apply(params, x[:, :1], state=state)
        step = ft.jit(lambda params, x, state, layer=layer: layer.apply(params, x, state=state)[0])
        assert bool(fnp.isnan(step(params, x[:, :1], state)).all())
        assert not bool(fnp.isnan(step(params, x, layer.start((BATCH,), length=TIME))).any())


def test_embedding():
    layer = nn.embedding(5, 3)
    params = {"table": fnp.arange(15.0).reshape(5, 3)}
    np.testing.assert_array_equal(layer.apply(params, [[0, 4]])[0], [[0, 1, 2], [12, 13, 14]])
    unknown = ft.jit(layer.apply)(params, np.array([-1, 5, 2]))
    np.testing.assert_array_equal(unknown, [[np.nan] * 3] * 2 + [[6, 7, 8]])
    counts = ft.grad(lambda p: fnp.sum(layer.apply(p, np.array([1, 1, 3]))))(params)
    np.testing.assert_array_equal(counts["table"][:, 0], [0, 2, 0, 1, 0])
    np.testing.assert_array_equal(layer.apply(params, fnp.ones(3), attend=True), params["table"].sum(1))


def test_scopes_are_the_params_paths():
    layer, tokens = LAYERS["transformer_lm"]
    program = ft.make_program(layer.apply)(PARAMS["transformer_lm"], tokens)
    scopes = {eqn.source.scope for eqn in program.equations if eqn.source is not None}
    for part in ("embedding", "block_0/norm_0", "block_1/attention/query", "block_1/attention", "norm"):
        assert f"transformer_lm/{part}" in scopes


def test_they_go_into_sequential_and_remat():
    model = nn.sequential(nn.embedding(7, 4), nn.gru(4, 3), nn.remat(nn.gru(3, 3)), nn.dense(3, 2))
    params = model.init(random.key(0))
    assert set(params) == {"embedding", "gru_0", "gru_1", "dense"}
    assert model.apply(params, TOKENS).shape == (BATCH, TIME, 2)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_generate(positions):
    """The likeliest tokens are those of whole forward passes; drawn ones follow from the key."""
    model = nn.transformer_lm(7, **{**SIZES, "length": 10}, positions=positions)
    params = jax.tree.map(lambda p: p * 8, model.init(random.key(3)))  # so that it has opinions
    made = ft.jit(lambda p, x: nn.generate(model, p, x, 4, temperature=0))(params, TOKENS)
    text, whole = TOKENS, ft.jit(model.apply)
    for _ in range(4):
        padded = np.pad(text, ((0, 0), (0, 10 - text.shape[1])))  # one shape, and later positions are not seen
        token = np.asarray(whole(params, padded))[:, text.shape[1] - 1].argmax(-1)
        text = np.concatenate([text, token[:, None]], axis=1)
    np.testing.assert_array_equal(made, text[:, TIME:])
    assert made.dtype == TOKENS.dtype
    draw = ft.jit(lambda key: nn.generate(model, params, TOKENS, 4, key, temperature=30.0))
    first, again, other = (draw(random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.slow
def test_transformer_lm_learns():
    """Copying: after a separator, the text before it. Only attention can know."""
    model = nn.transformer_lm(8, features=32, heads=4, layers=2, length=10, positions="rotary")
    params = model.init(random.key(0))
    assert abs(float(loss_of(model, params, texts(0))) - np.log(8)) < 0.2
    optimizer = ft.optim.adam(3e-3)

    @ft.jit
    def step(params, state, tokens):
        loss, grads = ft.value_and_grad(lambda p: loss_of(model, p, tokens))(params)
        updates, state = optimizer.update(grads, state, params)
        return ft.optim.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for i in range(300):
        params, state, loss = step(params, state, texts(i))
    assert loss < 0.1
    test = texts(1_000)
    made = nn.generate(model, params, test[:, :6], 4, temperature=0)
    assert (made == test[:, 6:]).mean() > 0.95


def texts(seed):
    """Four random tokens, a separator twice, the same four."""
    start = np.random.default_rng(seed).integers(1, 8, (64, 4))
    return np.concatenate([start, np.zeros((64, 2), int), start], axis=1).astype(np.int32)


def loss_of(model, params, tokens):
    logits = model.apply(params, tokens[:, :-1])[:, 5:]
    return nn.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 6:]).mean()


ATTENTION, CAUSAL = nn.multi_head_attention(4, 2), LAYERS["attention"][0]
P = PARAMS["attention"]
GRU = nn.gru(4, 3, name="encoder")
G = GRU.init(random.key(0))
MESSAGES = [
    (lambda: nn.multi_head_attention(6, 4), ArgumentError, "multi_head_attention: features is 6 and heads 4; a nu"),
    (lambda: nn.multi_head_attention(6, 2, rotary_base=1e4), ArgumentError, "6 and heads 2: 3 for each. Rotary pos"),
    (lambda: nn.multi_head_attention(6, 0), ArgumentError, "heads is 0; a whole number of at least 1"),
    (lambda: nn.multi_head_attention(6, 2, dropout_rate=2), ArgumentError, "dropout_rate is 2; a number from 0 to 1"),
    (lambda: ATTENTION.apply(P, X[..., :3]), ShapeError, r"x has shape \(2, 6, 3\); \[..., positions, 4\] was"),
    (lambda: ATTENTION.apply(P, X, X[..., :3]), ShapeError, r"context has shape \(2, 6, 3\); \[..., positions, 4\]"),
    (lambda: ATTENTION.apply(P, TOKENS[..., None]), DtypeError, "x has dtype int32; a floating one"),
    (lambda: ATTENTION.apply(P, X, mask=X), DtypeError, "mask has dtype float32; bool was expected"),
    (lambda: ATTENTION.apply(P, X, mask=np.ones((2, 6), bool)), ShapeError,
     r"mask has shape \(2, 6\); one that broadcasts to \[..., heads, t, s\] = \(2, 2, 6, 6\).*mask\[:, None, No"),
    (lambda: ATTENTION.apply({"query": P["query"]}, X), ArgumentError, r"params are \['query'\]; a dict with keys"),
    (lambda: ATTENTION.apply(P, X, state={}), ArgumentError, "state was given to a layer that is not causal; give"),
    (lambda: CAUSAL.apply(P, X, X), ArgumentError, "context was given to a layer that is causal"),
    (lambda: nn.multi_head_attention(4, 2, context_features=3).apply(P, X), ArgumentError, "context is None; one"),
    (lambda: CAUSAL.start((2,)), ArgumentError, "length is None; start needs to know how many"),
    (lambda: CAUSAL.apply(P, X, state=CAUSAL.start((3,), 6)), ShapeError,
     r"state\['key'\] has shape \(3, 6, 2, 2\); \(2, 6, 2, 2\) was expected"),
    (lambda: CAUSAL.apply(P, X, state={"h": X}), ArgumentError, r"keys of state are \['h'\]; a dict with keys"),
    (lambda: nn.gru(4, -1), ArgumentError, "gru: hidden is -1; a whole number"),
    (lambda: GRU.apply(G, X[..., :3]), ShapeError,
     r"encoder: x has shape \(2, 6, 3\); \[..., time, 4\] was expected, to fit params\['layer_0'\]\['input'\] of"),
    (lambda: GRU.apply(G, X.swapaxes(1, 2)), ShapeError, r"before the time axis: give fnp.moveaxis\(x, -2, -1\)"),
    (lambda: GRU.apply(G, X[0, 0]), ShapeError, r"encoder: x has shape \(4,\)"),
    (lambda: GRU.apply(G["layer_0"], X), ArgumentError, r"encoder: .*keys of params are .*; a dict with keys"),
    (lambda: GRU.apply({"layer_0": {**G["layer_0"], "hidden": X}}, X), ShapeError,
     r"\['hidden'\] has shape \(2, 6, 4\); \(3, 9\)"),
    (lambda: GRU.apply(G, X, state=GRU.start((3,))), ShapeError,
     r"state\['layer_0'\]\['h'\] has shape \(3, 3\); \(2, 3\) was"),
    (lambda: LAYERS["transformer_lm"][0].apply(P, TOKENS, state={}), ArgumentError, "params are .*; a dict with keys"),
    (lambda: LAYERS["transformer_lm"][0].apply(PARAMS["transformer_lm"], TOKENS, state={}), ArgumentError,
     r"transformer_lm: the keys of state are \[\]; a dict with keys \['block_0', 'block_1'\] was expected"),
    (lambda: GRU.apply(G, X, state=X), ArgumentError, "encoder: .*state came as a ndarray; a dict with keys"),
    (lambda: nn.rnn(4, 3, bidirectional=True).apply({"layer_0": {}, "layer_0_reverse": {}}, X, state={}), ArgumentError,
     "rnn: state was given to a bidirectional layer; give it whole sequences"),
    (lambda: nn.embedding(5, 3).apply({"table": np.ones((5, 3))}, [0.5]), DtypeError,
     "embedding: x has dtype float32; integers were expected, the tokens' numbers"),
    (lambda: nn.embedding(5, 3).apply({"table": np.ones((5, 3))}, [0, 5]), ArgumentError,
     r"embedding: x goes from 0 to 5; 0 to 4 was expected, as params\['table'\] has shape \(5, 3\)"),
    (lambda: nn.embedding(5, 3).apply({"table": np.ones((4, 3))}, [0]), ShapeError,
     r"\['table'\] has shape \(4, 3\); \(5, 3\)"),
    (lambda: nn.rotary(np.ones((2, 1, 3)), [0, 1]), ShapeError, r"rotary: x has shape \(2, 1, 3\) and positions"),
    (lambda: nn.transformer_lm(7, **SIZES, positions="none"), ArgumentError, "positions is 'none'; 'learned' or"),
    (lambda: LAYERS["transformer_lm"][0].apply(PARAMS["transformer_lm"], np.zeros((1, 7), int)), ArgumentError,
     "transformer_lm: x has 7 positions, and the model has vectors for 6; give shorter texts"),
    (lambda: nn.generate(LAYERS["transformer_lm"][0], PARAMS["transformer_lm"], TOKENS, 0), ArgumentError,
     r"generate: tokens have shape \(2, 6\) and count is 0; at least one position"),
    (lambda: nn.generate(LAYERS["transformer_lm"][0], PARAMS["transformer_lm"], TOKENS, 1), ArgumentError,
     "generate: key is None; a key was expected"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "error", "message"), MESSAGES)
def test_messages(run, error, message):
    with pytest.raises(error, match=message) as raised:
        run()
    assert "(test_sequences.py:" in str(raised.value)
