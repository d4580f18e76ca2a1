"""Recurrent layers, by `lax.scan` over the positions. The gates and their order are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from functrace import lax, numpy as fnp, random
from functrace.errors import ArgumentError
from functrace.nn.activations import sigmoid
from functrace.nn.checking import Parts, channels_last, check_keys, count, failure, initial, number_between, parameters
from functrace.nn.dropout import dropout
from functrace.nn.layer import SequenceLayer
from functrace.nn.scoping import scoped

State = dict[str, Any]  # h, and c of an LSTM: [..., hidden]
Cell = Callable[[State, Any, Any], State]
Checkpoint = int | Literal["auto"] | None


def rnn(
    in_features: int, hidden: int, *, activation: Callable[[Any], Any] = fnp.tanh, layers: int = 1,
    bidirectional: bool = False, use_bias: bool = True, dropout_rate: float = 0.0, checkpoint: Checkpoint = None,
    dtype: Any = None, name: str = "rnn",
) -> SequenceLayer:  # fmt: skip
    """The plain recurrent layer: `h = activation(x @ input + h @ hidden + biases)`.

    Params: `{"layer_0": {"input": [in_features, hidden], "hidden": [hidden, hidden], "input_bias": [hidden],
    "hidden_bias": [hidden]}, ...}`, with `layer_0_reverse` and so on in a bidirectional one. They begin uniform in
    `hidden ** -0.5` to either side of 0.

    Args:
      in_features: the length of the last axis of x.
      hidden: that of the state h, and of y.
      activation: a function of arrays.
      layers: how many, one on the output of the other.
      bidirectional: whether each layer also goes from the end to the start; y is then `[..., t, 2 * hidden]`.
      use_bias: False leaves the biases out.
      dropout_rate: in training, of what goes from one layer to the next.
      checkpoint: what reverse mode keeps, as in `lax.scan`: "auto" for long sequences.
      dtype: of the params; by default the default floating one.
      name: what errors and reports call it.
    Returns:
      A SequenceLayer from `[..., t, in_features]` to `[..., t, hidden]`, the last layer's h at each position. Its state
      is `{"layer_0": {"h": [..., hidden]}, ...}`; a bidirectional one has none.
    Raises:
      ArgumentError: a size is not at least 1; from `apply`, when a bidirectional one is given a state.
      ShapeError: from `apply`, when x, params or state do not fit.
      DtypeError: from `apply`, when x is of integers.
    Source: Elman, Finding structure in time, Cognitive Science 14 (1990).

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.rnn(3, 5, layers=2)
    >>> y, state = layer.apply(layer.init(random.key(0)), fnp.ones((8, 7, 3)), state=layer.start((8,)))
    >>> y.shape, bool((y[:, -1] == state["layer_1"]["h"]).all())
    ((8, 7, 5), True)
    """

    def cell(state: State, from_x: Any, from_h: Any) -> State:
        return {"h": activation(from_x + from_h)}

    return _recurrent(
        name, "rnn", cell, 1, ("h",), in_features, hidden, layers, bidirectional, use_bias, dropout_rate, checkpoint,
        dtype,
    )  # fmt: skip


def lstm(
    in_features: int, hidden: int, *, layers: int = 1, bidirectional: bool = False, use_bias: bool = True,
    dropout_rate: float = 0.0, checkpoint: Checkpoint = None, dtype: Any = None, name: str = "lstm",
) -> SequenceLayer:  # fmt: skip
    """Long short-term memory: `c = f * c + i * g; h = o * tanh(c)`.

    i, f and o are the sigmoids and g the tanh of four parts of `x @ input + h @ hidden + biases`, in the order i, f, g,
    o. Params are those of `rnn`, with 4 times as many columns; the state has `c` beside `h`.

    Args:
      in_features, hidden, layers, bidirectional, use_bias, dropout_rate, checkpoint, dtype, name: as in `rnn`.
    Returns:
      A SequenceLayer from `[..., t, in_features]` to `[..., t, hidden]`.
    Raises:
      ArgumentError, ShapeError, DtypeError: as `rnn`.
    Source: Hochreiter and Schmidhuber, Neural Computation 9 (1997); Gers et al., Learning to forget (2000).

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.lstm(3, 5, bidirectional=True)
    >>> layer.apply(layer.init(random.key(0)), fnp.ones((8, 7, 3))).shape
    (8, 7, 10)
    """

    def cell(state: State, from_x: Any, from_h: Any) -> State:
        i, f, g, o = fnp.split(from_x + from_h, 4, axis=-1)
        c = sigmoid(f) * state["c"] + sigmoid(i) * fnp.tanh(g)
        return {"h": sigmoid(o) * fnp.tanh(c), "c": c}

    return _recurrent(
        name, "lstm", cell, 4, ("h", "c"), in_features, hidden, layers, bidirectional, use_bias, dropout_rate,
        checkpoint, dtype,
    )  # fmt: skip


def gru(
    in_features: int, hidden: int, *, layers: int = 1, bidirectional: bool = False, use_bias: bool = True,
    dropout_rate: float = 0.0, checkpoint: Checkpoint = None, dtype: Any = None, name: str = "gru",
) -> SequenceLayer:  # fmt: skip
    """The gated recurrent unit: `h = (1 - z) * n + z * h`.

    `x @ input + input_bias` and `h @ hidden + hidden_bias` have three parts each, for r, z and n: r and z are the
    sigmoids of the sums of their two, and `n = tanh(from_x + r * from_h)`. Params are those of `rnn`, with 3 times as
    many columns.

    Args:
      in_features, hidden, layers, bidirectional, use_bias, dropout_rate, checkpoint, dtype, name: as in `rnn`.
    Returns:
      A SequenceLayer from `[..., t, in_features]` to `[..., t, hidden]`.
    Raises:
      ArgumentError, ShapeError, DtypeError: as `rnn`.
    Source: Cho et al., EMNLP 2014.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.gru(3, 5)
    >>> layer.apply(layer.init(random.key(0)), fnp.ones((7, 3))).shape
    (7, 5)
    """

    def cell(state: State, from_x: Any, from_h: Any) -> State:
        x_r, x_z, x_n = fnp.split(from_x, 3, axis=-1)
        h_r, h_z, h_n = fnp.split(from_h, 3, axis=-1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        return {"h": (1 - z) * fnp.tanh(x_n + r * h_n) + z * state["h"]}

    return _recurrent(
        name, "gru", cell, 3, ("h",), in_features, hidden, layers, bidirectional, use_bias, dropout_rate, checkpoint,
        dtype,
    )  # fmt: skip


def _recurrent(
    name: str, owner: str, cell: Cell, gates: int, kept: Sequence[str], in_features: int, hidden: int, layers: int,
    bidirectional: bool, use_bias: bool, dropout_rate: float, checkpoint: Checkpoint, dtype: Any,
) -> SequenceLayer:  # fmt: skip
    """The layer whose step is `cell`: (state, x @ input + bias, h @ hidden + bias) -> state."""
    in_features, hidden = count(owner, "in_features", in_features), count(owner, "hidden", hidden)
    layers, columns = count(owner, "layers", layers), gates * hidden
    between = dropout(number_between(owner, "dropout_rate", dropout_rate, 0, 1))
    ways = ("", "_reverse") if bidirectional else ("",)

    def uniform(key: Any, shape: Any, dtype: Any = None) -> Any:
        bound = 1 / math.sqrt(hidden)
        return random.uniform(key, shape, fnp.result_type(float) if dtype is None else dtype, -bound, bound)

    def parts_of(number: int) -> Parts:
        size = in_features if number == 0 else hidden * len(ways)
        parts = {"input": ((size, columns), uniform), "hidden": ((hidden, columns), uniform)}
        biases = {"input_bias": ((columns,), uniform), "hidden_bias": ((columns,), uniform)}
        return {**parts, **biases} if use_bias else parts

    names = [[f"layer_{number}{way}" for way in ways] for number in range(layers)]

    every = [part for row in names for part in row]

    def init(key: Any) -> Any:
        flat = [(number, part) for number, row in enumerate(names) for part in row]
        keys = random.split(key, len(flat))
        return {part: initial(k, parts_of(number), dtype) for k, (number, part) in zip(keys, flat, strict=True)}

    def run(params: Any, number: int, state: State, x: Any, reverse: bool) -> tuple[State, Any]:
        shapes = {part: shape for part, (shape, _) in parts_of(number).items()}
        weights, recurrent, *biases = parameters(owner, params, shapes)
        from_x = x @ weights + biases[0] if biases else x @ weights
        state = {part: value.astype(from_x.dtype) for part, value in state.items()}

        def step(state: State, from_x: Any) -> tuple[State, Any]:
            from_h = state["h"] @ recurrent
            state = cell(state, from_x, from_h + biases[1] if biases else from_h)
            return state, state["h"]

        state, hs = lax.scan(step, state, fnp.moveaxis(from_x, -2, 0), reverse=reverse, checkpoint=checkpoint)
        return state, fnp.moveaxis(hs, 0, -2)

    def apply(params: Any, x: Any, *, state: Any = None, training: bool = False, key: Any = None) -> Any:
        beside = f"params['layer_0']['input'] of shape {(in_features, columns)}"
        x = channels_last(owner, x, in_features, 1, beside, axis="time")
        check_keys(owner, "params", params, every)
        if state is not None and bidirectional:
            raise failure(ArgumentError, owner, "state was given to a bidirectional layer; give it whole sequences.")
        given = start(x.shape[:-2], dtype=x.dtype) if state is None else checked(state, x.shape[:-2])
        later = {}
        for number, row in enumerate(names):
            if number:
                now = None if key is None else random.fold_in(key, number)
                x = between.apply({}, x, training=training, key=now)
            outputs = []
            for part, reverse in zip(row, (False, True), strict=False):
                later[part], y = run(params[part], number, given[part], x, reverse)
                outputs.append(y)
            x = outputs[0] if len(outputs) == 1 else fnp.concatenate(outputs, axis=-1)
        return x if state is None else (x, later)

    def start(batch: Sequence[int] = (), length: int | None = None, dtype: Any = dtype) -> Any:
        return {part: {k: fnp.zeros((*batch, hidden), dtype) for k in kept} for part in every}

    def checked(state: Any, batch: Sequence[int]) -> Any:
        check_keys(owner, "state", state, every)
        for part in every:
            parameters(owner, state[part], dict.fromkeys(kept, (*batch, hidden)), f"state[{part!r}]")
        return state

    return scoped(SequenceLayer(init, apply, name, start))
