"""The transformer: its block, a language model of such blocks, and sampling from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from jax import Array

from functrace import lax, numpy as fnp, random
from functrace.errors import ArgumentError
from functrace.nn.activations import gelu
from functrace.nn.attention import check_room, multi_head_attention
from functrace.nn.checking import check_keys, count, failure, number_between
from functrace.nn.composition import Part, combine
from functrace.nn.dense import dense
from functrace.nn.dropout import dropout
from functrace.nn.embedding import embedding
from functrace.nn.initializers import Initializer, normal, variance_scaling
from functrace.nn.layer import SequenceLayer
from functrace.nn.normalization import layer_norm
from functrace.nn.scoping import scoped

ROTARY_BASE = 10_000.0


def transformer_block(
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    causal: bool = True,
    activation: Callable[[Any], Any] = gelu,
    dropout_rate: float = 0.0,
    rotary_base: float | None = None,
    use_bias: bool = True,
    output_init: Initializer | None = None,
    dtype: Any = None,
    name: str = "transformer_block",
) -> SequenceLayer:
    """The block that adds self-attention, then two dense layers, to its input, each after a layer norm.

    Params: `{"norm_0", "attention", "norm_1", "dense_0", "dense_1", "dropout"}`. In training there is dropout on the
    weights of attention, on what it adds, within the dense layers and on what these add.

    Args:
      features: the length of the last axis.
      heads: of attention; they divide features.
      hidden: the features between the two dense layers; by default `4 * features`.
      causal, rotary_base: as in `multi_head_attention`.
      activation: between the dense layers, a function of arrays.
      dropout_rate: from 0 to 1.
      use_bias: False leaves the biases of attention and dense layers out.
      output_init: initialiser of the kernels whose products are added; by default that of `dense`.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A SequenceLayer from `[..., t, features]` to the same; `mask` and `state` are those of attention.
    Raises:
      ArgumentError, ShapeError, DtypeError: as `multi_head_attention`.
    Source: Vaswani et al., NeurIPS 2017; with the norms first, Xiong et al., On layer normalization in the transformer
      architecture, ICML 2020.

    >>> from functrace import nn, numpy as fnp, random
    >>> block = nn.transformer_block(8, 2)
    >>> block.apply(block.init(random.key(0)), fnp.ones((3, 5, 8))).shape
    (3, 5, 8)
    """
    features = count("transformer_block", "features", features)
    hidden = 4 * features if hidden is None else count("transformer_block", "hidden", hidden)
    attention = multi_head_attention(
        features, heads, causal=causal, dropout_rate=dropout_rate, rotary_base=rotary_base, use_bias=use_bias,
        output_init=output_init, dtype=dtype,
    )  # fmt: skip
    parts: dict[str, Part] = {
        "norm_0": layer_norm(features, dtype=dtype),
        "attention": attention,
        "norm_1": layer_norm(features, dtype=dtype),
        "dense_0": dense(features, hidden, use_bias=use_bias, dtype=dtype),
        "dense_1": dense(hidden, features, use_bias=use_bias, kernel_init=output_init, dtype=dtype),
        "dropout": dropout(dropout_rate),
    }

    def forward(
        x: Any, *, norm_0: Any, attention: Any, norm_1: Any, dense_0: Any, dense_1: Any, dropout: Any, mask: Any = None,
        state: Any = None,
    ) -> Any:  # fmt: skip
        y = attention(norm_0(x), mask=mask, state=state)
        y, later = (y, None) if state is None else y
        x = x + dropout(y)
        x = x + dropout(dense_1(dropout(activation(dense_0(norm_1(x))))))
        return x if state is None else (x, later)

    block = combine(parts, forward, name=name)
    return scoped(SequenceLayer(block.init, block.apply, name, attention.start))


def transformer_lm(
    vocabulary: int,
    *,
    features: int,
    heads: int,
    layers: int,
    length: int,
    hidden: int | None = None,
    positions: Literal["learned", "rotary"] = "learned",
    activation: Callable[[Any], Any] = gelu,
    dropout_rate: float = 0.0,
    tied: bool = True,
    dtype: Any = None,
    name: str = "transformer_lm",
) -> SequenceLayer:
    """The model that gives, at each position of a text, logits for the token that comes next.

    Params: `{"embedding", "positions" (learned ones), "block_0", ..., "norm", "output" (if not tied), "dropout"}`.
    Embeddings begin with standard deviation 0.02; what the blocks add, with a variance that is less by the number of
    additions, so that at first all tokens are about as likely.

    Args:
      vocabulary: how many tokens there are.
      features, heads, hidden, activation, dropout_rate: those of each `transformer_block`.
      layers: how many blocks.
      length: how many positions a text has at most; rotary ones work beyond, and `start` may be given more.
      positions: "learned", a vector for each, or "rotary", which turn queries and keys.
      tied: whether the output's weights are the embedding's; else it is a dense layer without bias.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A SequenceLayer from tokens, integers `[..., t]`, to logits `[..., t, vocabulary]`. Its state has a cache for each
      block.
    Raises:
      ArgumentError: a size is not at least 1, heads do not divide features; from `apply`, when a text is longer than
        `length`.
      DtypeError: from `apply`, when tokens are not integers.
      ShapeError: from `apply`, when params or state do not fit.
    Source: Radford et al., Language models are unsupervised multitask learners (2019); Su et al., arXiv:2104.09864.

    >>> from functrace import nn, random
    >>> model = nn.transformer_lm(50, features=16, heads=2, layers=2, length=32)
    >>> params = model.init(random.key(0))
    >>> model.apply(params, [[3, 1, 4], [1, 5, 9]]).shape
    (2, 3, 50)
    """
    owner = "transformer_lm"
    layers, length = count(owner, "layers", layers), count(owner, "length", length)
    if positions not in ("learned", "rotary"):
        raise failure(ArgumentError, owner, f"positions is {positions!r}; 'learned' or 'rotary' was expected.")
    learned = positions == "learned"
    block = partial(
        transformer_block, features, heads, hidden=hidden, activation=activation, dropout_rate=dropout_rate,
        rotary_base=None if learned else ROTARY_BASE, dtype=dtype,
        output_init=variance_scaling(0.5 / layers, "fan_in", "truncated_normal"),
    )  # fmt: skip
    blocks = {f"block_{i}": block(name=f"block_{i}") for i in range(layers)}
    parts: dict[str, Part] = {
        "embedding": embedding(vocabulary, features, table_init=normal(0.02), dtype=dtype),
        "positions": embedding(length, features, table_init=normal(0.02), dtype=dtype),
        **blocks,
        "norm": layer_norm(features, dtype=dtype),
        "output": dense(features, vocabulary, use_bias=False, dtype=dtype),
        "dropout": dropout(dropout_rate),
    }
    for part, wanted in (("positions", learned), ("output", not tied)):
        if not wanted:
            del parts[part]

    def forward(
        tokens: Any, *, embedding: Any, norm: Any, dropout: Any, positions: Any = None, output: Any = None,
        mask: Any = None, state: Any = None, **blocks: Any,
    ) -> Any:  # fmt: skip
        if state is not None:
            check_keys(owner, "state", state, blocks)
        x = embedding(tokens)
        if positions is not None:
            if x.shape[-2] > length:
                raise failure(
                    ArgumentError, owner, f"x has {x.shape[-2]} positions, and the model has vectors for {length}; "
                    "give shorter texts, or a larger length.",
                )  # fmt: skip
            if state is not None:
                check_room(owner, state["block_0"], x.shape[-2])
            x = x + positions(fnp.arange(x.shape[-2]) + (0 if state is None else state["block_0"]["position"]))
        x, later = dropout(x), {}
        for part, block in blocks.items():
            if state is None:
                x = block(x, mask=mask)
            else:
                x, later[part] = block(x, mask=mask, state=state[part])
        x = norm(x)
        logits = embedding(x, attend=True) if output is None else output(x)
        return logits if state is None else (logits, later)

    model = combine(parts, forward, name=name)

    def start(batch: Sequence[int] = (), length: int | None = length, dtype: Any = dtype) -> Any:
        return {part: block.start(batch, length, dtype) for part, block in blocks.items()}

    return scoped(SequenceLayer(model.init, model.apply, name, start))


def generate(
    model: SequenceLayer, params: Any, tokens: Any, count: int, key: Any = None, *, temperature: float = 1.0
) -> Array:
    """Continue texts, drawing each token after those before it; each is computed once, as the rest is in the cache.

    Args:
      model: maps tokens `[..., t]` to logits `[..., t, vocabulary]`, such as a `transformer_lm`.
      params: its params.
      tokens: how the texts begin: integers `[..., t]`, at least one position.
      count: how many tokens to draw for each.
      key: to draw with; not needed at temperature 0.
      temperature: divides the logits; 0 for the likeliest token each time.
    Returns:
      Integers `[..., count]` of the dtype of `tokens`.
    Raises:
      ArgumentError: no tokens, a negative temperature, or no key.

    >>> from functrace import nn, random
    >>> model = nn.transformer_lm(50, features=16, heads=2, layers=2, length=32)
    >>> generate(model, model.init(random.key(0)), [[3, 1, 4], [1, 5, 9]], 7, random.key(1)).shape
    (2, 7)
    """
    tokens = fnp.asarray(tokens)
    if not tokens.ndim or not tokens.shape[-1] or not isinstance(count, int) or count < 1:
        raise failure(
            ArgumentError, "generate", f"tokens have shape {tokens.shape} and count is {count!r}; at least one "
            "position, and a whole number of at least 1, were expected.",
        )  # fmt: skip
    temperature = number_between("generate", "temperature", temperature, 0, float("inf"))
    if temperature and key is None:
        raise failure(ArgumentError, "generate", "key is None; a key was expected, as random.key(0), or temperature=0.")

    def draw(logits: Any, key: Any) -> Any:
        last = logits[..., -1, :]
        chosen = random.categorical(key, last / temperature) if temperature else fnp.argmax(last, axis=-1)
        return chosen.astype(tokens.dtype)

    def step(carry: Any, key: Any) -> Any:
        state, token = carry
        logits, state = model.apply(params, token[..., None], state=state)
        token = draw(logits, key)
        return (state, token), token

    state = model.start(tokens.shape[:-1], length=tokens.shape[-1] + count - 1)
    logits, state = model.apply(params, tokens, state=state)
    keys = random.split(random.key(0) if key is None else key, count)
    token = draw(logits, keys[0])
    _, rest = lax.scan(step, (state, token), keys[1:])
    return fnp.concatenate([token[..., None], fnp.moveaxis(rest, 0, -1)], axis=-1)
