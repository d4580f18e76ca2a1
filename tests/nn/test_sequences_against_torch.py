"""Embedding, attention, recurrent layers and the transformer's block equal PyTorch's on the same weights."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import nn, random

torch = pytest.importorskip("torch")

BATCH, TIME, FEATURES, HEADS = 3, 5, 8, 2
RNG = np.random.default_rng(0)
X = RNG.standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
CONTEXT = RNG.standard_normal((BATCH, 4, 6)).astype(np.float32)
CT = RNG.standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
PADDED = np.array([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])  # which keys are there


def numpy(tensor):
    return tensor.detach().numpy()


def linear(layer):
    """A dense layer's params."""
    bias = {} if layer.bias is None else {"bias": numpy(layer.bias)}
    return {"kernel": numpy(layer.weight).T, **bias}


def attention_params(layer, of=lambda t: t):
    """Those of nn.MultiheadAttention; with `of` its gradients."""
    weights = (
        np.split(numpy(of(layer.in_proj_weight)), 3)
        if layer._qkv_same_embed_dim
        else [numpy(of(w)) for w in (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)]
    )
    biases = np.split(numpy(of(layer.in_proj_bias)), 3)
    parts = {
        n: {"kernel": w.T, "bias": b} for n, w, b in zip(("query", "key", "value"), weights, biases, strict=True)
    }
    out = layer.out_proj
    return {**parts, "output": {"kernel": numpy(of(out.weight)).T, "bias": numpy(of(out.bias))}}


def recurrent_params(layer, of=lambda t: t):
    """Those of nn.RNN, nn.LSTM or nn.GRU; with `of` its gradients."""
    names = {"weight_ih": "input", "weight_hh": "hidden", "bias_ih": "input_bias", "bias_hh": "hidden_bias"}
    params = {}
    for name, value in layer.named_parameters():
        kind, place = name.split("_l")
        number, *way = place.split("_")
        part = params.setdefault("_".join([f"layer_{number}", *way]), {})
        part[names[kind]] = numpy(of(value)).T
    return params


def grads(tensor):
    return tensor.grad


def assert_close(x, y, tolerance=2e-5):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for path, leaf in jax.tree_util.tree_flatten_with_path(x)[0]:
        other = y
        for key in path:
            other = other[getattr(key, "key", getattr(key, "idx", None))]
        np.testing.assert_allclose(leaf, other, tolerance, tolerance, err_msg=jax.tree_util.keystr(path))


def check(layer, params, theirs, their_params, inputs, ct):
    """Values and gradients in params and inputs; `theirs` maps tensors to a tensor."""
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    y = theirs(*tensors)
    y.backward(torch.tensor(ct))
    ours, pullback = ft.vjp(ft.jit(layer), params, *inputs)
    assert_close(ours, numpy(y))
    d_params, *d_inputs = pullback(ct)
    assert_close(d_params, their_params(grads))
    for dx, tensor in zip(d_inputs, tensors, strict=True):
        assert_close(dx, numpy(tensor.grad))


ATTENTION = {
    "self": ({}, {}, {}),
    "causal": ({"causal": True}, {"attn_mask": ~torch.ones(TIME, TIME).tril().bool()}, {}),
    "padded": ({}, {"key_padding_mask": torch.tensor(~PADDED)}, {"mask": PADDED[:, None, None]}),
    "causal and padded": (
        {"causal": True},
        {"attn_mask": ~torch.ones(TIME, TIME).tril().bool(), "key_padding_mask": torch.tensor(~PADDED)},
        {"mask": PADDED[:, None, None]},
    ),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_self_attention(case):
    options, their_options, call_options = ATTENTION[case]
    theirs = torch.nn.MultiheadAttention(FEATURES, HEADS, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
        theirs.out_proj.bias.normal_()
    ours = nn.multi_head_attention(FEATURES, HEADS, **options)
    params = attention_params(theirs)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, ours.init(random.key(0)))
    check(
        lambda p, x: ours.apply(p, x, **call_options), params,
        lambda x: theirs(x, x, x, need_weights=False, **their_options)[0],
        lambda of: attention_params(theirs, of), [X], CT,
    )  # fmt: skip


def test_cross_attention():
    theirs = torch.nn.MultiheadAttention(FEATURES, HEADS, batch_first=True, kdim=6, vdim=6)
    ours = nn.multi_head_attention(FEATURES, HEADS, context_features=6)
    check(
        ours.apply, attention_params(theirs), lambda x, c: theirs(x, c, c, need_weights=False)[0],
        lambda of: attention_params(theirs, of), [X, CONTEXT], CT,
    )  # fmt: skip


RECURRENT = [
    ("rnn", {}, {}),
    ("rnn", {"activation": nn.relu}, {"nonlinearity": "relu"}),
    ("lstm", {}, {}),
    ("gru", {}, {}),
    ("gru", {"use_bias": False}, {"bias": False}),
    ("rnn", {"layers": 2, "bidirectional": True}, {"num_layers": 2, "bidirectional": True}),
    ("lstm", {"layers": 2, "bidirectional": True}, {"num_layers": 2, "bidirectional": True}),
    ("gru", {"layers": 3}, {"num_layers": 3}),
]


@pytest.mark.parametrize(("name", "options", "their_options"), RECURRENT)
def test_recurrent(name, options, their_options):
    theirs = getattr(torch.nn, name.upper())(FEATURES, 4, batch_first=True, **their_options)
    ours = getattr(nn, name)(FEATURES, 4, **options)
    params = recurrent_params(theirs)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, ours.init(random.key(0)))
    ct = CT if "bidirectional" in options else CT[..., :4]
    check(ours.apply, params, lambda x: theirs(x)[0], lambda of: recurrent_params(theirs, of), [X], ct)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_recurrent_from_a_state(name):
    theirs = getattr(torch.nn, name.upper())(FEATURES, 4, batch_first=True, num_layers=2)
    ours = getattr(nn, name)(FEATURES, 4, layers=2)
    h, c = RNG.standard_normal((2, 2, BATCH, 4)).astype(np.float32)
    parts = {"h": h, "c": c} if name == "lstm" else {"h": h}
    state = {f"layer_{i}": {part: value[i] for part, value in parts.items()} for i in range(2)}
    y, state = ours.apply(recurrent_params(theirs), X, state=state)
    given = tuple(torch.tensor(value) for value in parts.values())
    their_y, last = theirs(torch.tensor(X), given if name == "lstm" else given[0])
    assert_close(y, numpy(their_y))
    for part, value in zip(parts, last if name == "lstm" else [last], strict=True):
        for i in range(2):
            assert_close(state[f"layer_{i}"][part], numpy(value[i]))


def test_embedding():
    theirs = torch.nn.Embedding(11, FEATURES)
    tokens = RNG.integers(0, 11, (BATCH, TIME))
    y = theirs(torch.tensor(tokens))
    y.backward(torch.tensor(CT))
    ours, pullback = ft.vjp(lambda p: nn.embedding(11, FEATURES).apply(p, tokens), {"table": numpy(theirs.weight)})
    assert_close(ours, numpy(y))
    assert_close(pullback(CT)[0], {"table": numpy(theirs.weight.grad)})


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_block(activation):
    theirs = torch.nn.TransformerEncoderLayer(
        FEATURES, HEADS, 16, dropout=0.0, activation=activation, batch_first=True, norm_first=True
    )
    functions = {"relu": nn.relu, "gelu": lambda x: nn.gelu(x, approximate=False)}
    ours = nn.transformer_block(FEATURES, HEADS, hidden=16, activation=functions[activation])

    def params_of(of=lambda t: t):
        norm = lambda layer: {"scale": numpy(of(layer.weight)), "bias": numpy(of(layer.bias))}
        dense = lambda layer: {"kernel": numpy(of(layer.weight)).T, "bias": numpy(of(layer.bias))}
        return {
            "norm_0": norm(theirs.norm1), "attention": attention_params(theirs.self_attn, of),
            "norm_1": norm(theirs.norm2), "dense_0": dense(theirs.linear1), "dense_1": dense(theirs.linear2),
            "dropout": {},
        }  # fmt: skip

    causal = ~torch.ones(TIME, TIME).tril().bool()
    check(ours.apply, params_of(), lambda x: theirs(x, src_mask=causal), params_of, [X], CT)
