"""Multi-head attention, of a sequence to itself or to another, whole or a piece at a time with a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax.core
import numpy as np

from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.nn.activations import softmax
from functrace.nn.checking import check_keys, count, failure, inexact, number_between, parameters
from functrace.nn.composition import Part, combine
from functrace.nn.dense import dense
from functrace.nn.dropout import dropout
from functrace.nn.embedding import rotary
from functrace.nn.initializers import Initializer
from functrace.nn.layer import Layer, SequenceLayer
from functrace.nn.scoping import scoped, unscoped
from functrace.tracing import Tracer
from functrace.tracing.lift import known_value

OWNER = "multi_head_attention"


def multi_head_attention(
    features: int,
    heads: int,
    *,
    causal: bool = False,
    context_features: int | None = None,
    dropout_rate: float = 0.0,
    rotary_base: float | None = None,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    output_init: Initializer | None = None,
    dtype: Any = None,
    name: str = OWNER,
) -> SequenceLayer:
    """The layer in which each position takes a mean of values at all positions, weighted by how its query fits keys.

    Params: `{"query": ..., "key": ..., "value": ..., "output": ...}`, each of a dense layer; each head has
    `features / heads` of the columns of the first three.

        apply(params, x)                    self-attention of x [..., t, features]
        apply(params, x, context)           cross-attention, to context [..., s, context_features]
        apply(params, x, mask=mask)         mask: bool, broadcasts to [..., heads, t, s]; True where a query may look
        apply(params, x, state=state)       (y, state), where the positions of x follow those that the state has seen

    The state is the cache of a causal layer: `{"key": k, "value": v, "position": p}`, where k and v are
    `[..., length, heads, features / heads]`, filled up to p, an int32; s above is then its length. A query that may
    look nowhere gives the output's bias. The softmax is computed in float32 at least.

    Args:
      features: the length of the last axis of x and y.
      heads: how many; they divide features.
      causal: whether a position sees only itself and those before it.
      context_features: the length of the context's last axis, by default `features`.
      dropout_rate: in training, the part of the weights that are dropped.
      rotary_base: gives queries and keys rotary positions of that base; None for none.
      use_bias: False leaves the biases out.
      kernel_init, output_init: initialisers of the first three and of the last kernel; by default those of `dense`.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A SequenceLayer. `start(batch, length)` is an empty cache. If more positions come than it has room for, that is
      an error where the position is known, and makes what `apply` returns NaN in a compiled program.
    Raises:
      ArgumentError: heads do not divide features, or features of a head are odd with rotary positions; from `apply`,
        when a causal layer is given a context, a state is given to another, or the cache is full.
      ShapeError: from `apply`, when x, context, mask or state do not fit.
      DtypeError: from `apply`, when x is of integers, or the mask not of booleans.
    Source: Vaswani et al., Attention is all you need, NeurIPS 2017.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.multi_head_attention(8, 2, causal=True)
    >>> params = layer.init(random.key(0))
    >>> x = random.normal(random.key(1), (3, 5, 8))
    >>> y, state = layer.apply(params, x[:, :4], state=layer.start((3,), length=5))
    >>> last, state = layer.apply(params, x[:, 4:], state=state)
    >>> bool(fnp.allclose(fnp.concatenate([y, last], 1), layer.apply(params, x), atol=1e-5))
    True
    """
    features, heads = count(OWNER, "features", features), count(OWNER, "heads", heads)
    context_features = count(OWNER, "context_features", features if context_features is None else context_features)
    number_between(OWNER, "dropout_rate", dropout_rate, 0, 1)
    if features % heads:
        raise failure(
            ArgumentError, OWNER, f"features is {features} and heads {heads}; a number of heads that divides features "
            "was expected.",
        )  # fmt: skip
    width = features // heads
    if rotary_base is not None and width % 2:
        raise failure(
            ArgumentError, OWNER, f"features is {features} and heads {heads}: {width} for each. Rotary positions turn "
            "pairs, and an even number was expected.",
        )  # fmt: skip
    options = {"use_bias": use_bias, "dtype": dtype}
    parts: dict[str, Part] = {
        "query": dense(features, features, kernel_init=kernel_init, **options),
        "key": dense(context_features, features, kernel_init=kernel_init, **options),
        "value": dense(context_features, features, kernel_init=kernel_init, **options),
        "output": dense(features, features, kernel_init=output_init or kernel_init, **options),
    }

    def forward(
        x: Any, context: Any = None, *, query: Any, key: Any, value: Any, output: Any, mask: Any, state: Any, drop: Any
    ) -> Any:
        x = sequence("x", x, features)
        source = x if context is None else sequence("context", context, context_features)
        split = lambda y: y.reshape(*y.shape[:-1], heads, width)
        q, k, v = split(query(x)), split(key(source)), split(value(source))
        first = 0 if state is None else state["position"]
        if rotary_base is not None:
            q = rotary(q, first + fnp.arange(q.shape[-3]), base=rotary_base)
            k = rotary(k, first + fnp.arange(k.shape[-3]), base=rotary_base)
        if state is not None:
            state, fits = extended(state, k, v)
            k, v = state["key"], state["value"]
        seen = None
        if causal:
            seen = fnp.arange(k.shape[-3]) <= first + fnp.arange(q.shape[-3])[:, None]
        if mask is not None:
            mask = checked_mask(mask, (*q.shape[:-3], heads, q.shape[-3], k.shape[-3]))
            seen = mask if seen is None else seen & mask
        y = output(attend(q, k, v, seen, drop).reshape(x.shape))
        return y if state is None else (fnp.where(fits, y, math.nan), state)

    inner = unscoped(cast(Layer, combine(parts, forward, name=name)))
    weights_dropout = dropout(dropout_rate)

    def apply(
        params: Any, x: Any, context: Any = None, *, mask: Any = None, state: Any = None, training: bool = False,
        key: Any = None,
    ) -> Any:  # fmt: skip
        if context is not None and (causal or state is not None or rotary_base is not None):
            raise failure(
                ArgumentError, OWNER, "context was given to a layer that is causal, has rotary positions or was given "
                "a state; those are for self-attention.",
            )  # fmt: skip
        if context is None and context_features != features:
            raise failure(
                ArgumentError, OWNER, f"context is None; one with {context_features} features was expected, as "
                "context_features says.",
            )  # fmt: skip
        if state is not None and not causal:
            raise failure(ArgumentError, OWNER, "state was given to a layer that is not causal; give causal=True.")
        if state is not None:
            check_keys(OWNER, "state", state, ("key", "value", "position"))
        drop = lambda weights: weights_dropout.apply({}, weights, training=training, key=key)
        return inner.apply(params, x, context, training=training, mask=mask, state=state, drop=drop)

    def start(batch: Sequence[int] = (), length: int | None = None, dtype: Any = dtype) -> Any:
        if length is None:
            raise failure(ArgumentError, OWNER, "length is None; start needs to know how many positions will come.")
        shape = (*batch, count(OWNER, "length", length), heads, width)
        return {"key": fnp.zeros(shape, dtype), "value": fnp.zeros(shape, dtype), "position": fnp.zeros((), fnp.int32)}

    return scoped(SequenceLayer(inner.init, apply, name, start))


def attend(q: Any, k: Any, v: Any, seen: Any, drop: Callable[[Any], Any]) -> Any:
    """Means of the values, as q [..., t, heads, d] and k, like v [..., s, heads, d], say; seen is a mask."""
    scores = fnp.einsum("...thd,...shd->...hts", q / math.sqrt(q.shape[-1]), k)
    weights = softmax(scores.astype(fnp.promote_types(scores.dtype, fnp.float32)), where=seen).astype(v.dtype)
    return fnp.einsum("...hts,...shd->...thd", drop(weights), v)


def extended(state: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """The cache with more keys and values, and whether there was room."""
    position, length, more = state["position"], fnp.shape(state["key"])[-3], k.shape[-3]
    wanted = (*k.shape[:-3], length, *k.shape[-2:])
    parameters(OWNER, state, {"key": wanted, "value": wanted, "position": ()}, "state")
    check_room(OWNER, state, more)
    zero = np.int32(0)
    begin = [zero] * (k.ndim - 3) + [position, zero, zero]
    put = lambda cache, new: lax.dynamic_update_slice(cache, new.astype(cache.dtype), begin)
    later = {"key": put(state["key"], k), "value": put(state["value"], v), "position": position + more}
    return later, position + more <= length


def sequence(name: str, x: Any, features: int) -> Any:
    """An array `[..., t, features]`."""
    x = inexact(OWNER, x)
    if x.ndim < 2 or x.shape[-1] != features:
        raise failure(
            ShapeError, OWNER, f"{name} has shape {x.shape}; [..., positions, {features}] was expected."
        )  # fmt: skip
    return x


def checked_mask(mask: Any, shape: tuple[int, ...]) -> Any:
    """A mask of booleans that broadcasts to that shape."""
    mask = fnp.asarray(mask)
    if mask.dtype != np.bool_:
        raise failure(
            DtypeError, OWNER, f"mask has dtype {mask.dtype}; bool was expected, True where a query may look."
        )  # fmt: skip
    sizes = zip(mask.shape[::-1], shape[::-1], strict=False)
    if mask.ndim > len(shape) or any(m not in (1, n) for m, n in sizes):
        raise failure(
            ShapeError, OWNER, f"mask has shape {mask.shape}; one that broadcasts to [..., heads, t, s] = {shape} was "
            "expected. That of padded keys [batch, s] is mask[:, None, None, :].",
        )  # fmt: skip
    return mask


def check_room(owner: str, state: Any, more: int) -> None:
    """That more positions fit into a cache, where it is known how many are in it."""
    known, length = known_value(state["position"]), fnp.shape(state["key"])[-3]
    seen = 0 if isinstance(known, Tracer | jax.core.Tracer) else int(known)
    if seen + more > length:
        raise failure(
            ArgumentError, owner, f"the cache has room for {length} positions, and {seen} are in it; {more} more do "
            "not fit. Give start a larger length.",
        )  # fmt: skip
