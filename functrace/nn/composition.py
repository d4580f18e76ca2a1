"""Layers made of layers: `combine` wires them by any function, `sequential` and `residual` in the usual two ways.

Params, and the state of those that have one, are dicts with the names of the parts for keys. A part runs under the
`named_scope` of its name, within that of the whole: `resnet50/stage_2/block_0/conv_1`. Where a layer is expected a
function of arrays, such as `nn.relu`, will do.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, overload

from functrace import numpy as fnp, random
from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.nn.checking import check_keys, failure
from functrace.nn.functions import as_layer
from functrace.nn.layer import Layer, SequenceLayer, StatefulLayer
from functrace.nn.scoping import AnyLayer, Scoped, renamed, scoped, unscoped
from functrace.transforms import checkpoint

Part = Layer | StatefulLayer | SequenceLayer | Callable[..., Any]


def combine(parts: Mapping[str, Part], forward: Callable[..., Any], *, name: str = "combine") -> Layer | StatefulLayer:
    """The layer whose output is `forward(x, **parts)`, where each part is a function of its input alone.

    Params, states and keys of the parts are handed to them and gathered again; `forward` is the wiring and nothing
    else. A part may be called more than once: it then shares its params, goes on from the state that the call before
    left, and gets another key. A transform goes around a layer, as `remat` does, not around the call of a part
    with state, which would be lost in it.

    Args:
      parts: layers by name; a function stands for `as_layer` of itself.
      forward: `(x, **parts) -> y`. More arguments of `apply` reach it, and so may those of a part's call the part.
      name: what errors and reports call it.
    Returns:
      A StatefulLayer if a part is one, else a Layer; params and state are dicts by name, state of the stateful only.
    Raises:
      DtypeError: a part is neither a layer nor a function.
      ArgumentError: from `apply`, when params or state lack a part, or have more.

    >>> from functrace import nn, numpy as fnp, random
    >>> gated = nn.combine(
    ...     {"value": nn.dense(4, 8), "gate": nn.dense(4, 8)},
    ...     lambda x, value, gate: value(x) * nn.sigmoid(gate(x)),
    ...     name="gated",
    ... )
    >>> params = gated.init(random.key(0))
    >>> sorted(params), gated.apply(params, fnp.ones((2, 4))).shape
    (['gate', 'value'], (2, 8))
    """
    layers = {part: renamed(_layer(name, repr(part), given), part) for part, given in parts.items()}
    stateful = {part for part, layer in layers.items() if isinstance(layer, StatefulLayer)}

    def init(key: Any) -> Any:
        keys = random.split(key, len(layers))
        made = {part: layer.init(k) for k, (part, layer) in zip(keys, layers.items(), strict=True)}
        params = {part: m[0] if part in stateful else m for part, m in made.items()}
        return (params, {part: made[part][1] for part in layers if part in stateful}) if stateful else params

    def run(params: Any, state: Any, inputs: Any, training: bool, key: Any, options: Any) -> tuple[Any, Any]:
        if not inputs:
            takes = "params, state" if stateful else "params"
            raise failure(
                DtypeError, name, f"x is missing: call it as `apply({takes}, x)`, with what `{takes} = init(key)` made."
            )
        check_keys(name, "params", params, layers)
        check_keys(name, "state", state, stateful)
        state = dict(state)
        calls = itertools.count()

        def call(part: str, *args: Any, **kwargs: Any) -> Any:
            number = next(calls)
            kwargs.setdefault("training", training)
            kwargs.setdefault("key", None if key is None else random.fold_in(key, number))
            if part not in stateful:
                return layers[part].apply(params[part], *args, **kwargs)
            y, state[part] = layers[part].apply(params[part], state[part], *args, **kwargs)
            return y

        return forward(*inputs, **{part: partial(call, part) for part in layers}, **options), state

    def apply(params: Any, *inputs: Any, training: bool = False, key: Any = None, **options: Any) -> Any:
        return run(params, {}, inputs, training, key, options)[0]

    def stateful_apply(
        params: Any, state: Any, *inputs: Any, training: bool = False, key: Any = None, **options: Any
    ) -> Any:
        return run(params, state, inputs, training, key, options)

    return scoped(StatefulLayer(init, stateful_apply, name)) if stateful else scoped(Layer(init, apply, name))


@overload
def sequential(*layers: Layer, name: str = ...) -> Layer: ...


@overload
def sequential(*layers: Part, name: str = ...) -> Layer | StatefulLayer: ...


def sequential(*layers: Part, name: str = "sequential") -> Layer | StatefulLayer:
    """The layer that applies the layers one after the other.

    Params and state are dicts by the layers' names; a name that more than one has is numbered: `dense_0`, `dense_1`.

    Args:
      *layers: layers; a function stands for `as_layer` of itself.
      name: what errors and reports call it.
    Returns:
      A StatefulLayer if one of the layers is, else a Layer.
    Raises:
      DtypeError: one of them is neither a layer nor a function.
      ArgumentError: a numbered name is another layer's own; from `apply`, when params or state do not fit.

    >>> from functrace import nn, numpy as fnp, random
    >>> model = nn.sequential(nn.dense(4, 8), nn.relu, nn.dropout(0.1), nn.dense(8, 2))
    >>> params = model.init(random.key(0))
    >>> sorted(params)
    ['dense_0', 'dense_1', 'dropout', 'relu']
    >>> model.apply(params, fnp.ones((3, 4)), training=True, key=random.key(1)).shape
    (3, 2)
    """
    made = [_layer(name, str(place), given) for place, given in enumerate(layers)]
    times, seen, parts = Counter(layer.name for layer in made), Counter(), {}
    for layer in made:
        part = layer.name if times[layer.name] == 1 else f"{layer.name}_{seen[layer.name]}"
        seen[layer.name] += 1
        if part in parts:
            raise failure(ArgumentError, name, f"two layers would be called {part!r}. Give one of them another name.")
        parts[part] = layer

    def forward(x: Any, **calls: Callable[..., Any]) -> Any:
        for call in calls.values():
            x = call(x)
        return x

    return combine(parts, forward, name=name)


def residual(layer: Part, shortcut: Part | None = None, *, name: str = "residual") -> Layer | StatefulLayer:
    """The layer `layer(x) + shortcut(x)`.

    Params and state: `{"layer": ..., "shortcut": ...}`.

    Args:
      layer: a layer, or a function.
      shortcut: what x goes through on its way around; by default nothing. It makes the shapes agree where `layer`
        changes them: a `conv` of kernel 1 with the same strides.
      name: what errors and reports call it.
    Returns:
      A StatefulLayer if one of the two is, else a Layer.
    Raises:
      DtypeError: one of them is neither a layer nor a function.
      ShapeError: from `apply`, when the two sides differ in shape.
    Source: He et al., Deep residual learning for image recognition, CVPR 2016.

    >>> from functrace import nn, numpy as fnp
    >>> nn.residual(nn.relu).apply({"layer": {}}, fnp.array([-1.0, 2.0])).tolist()
    [-1.0, 4.0]
    """
    parts = {"layer": layer} if shortcut is None else {"layer": layer, "shortcut": shortcut}

    def forward(x: Any, layer: Callable[..., Any], shortcut: Callable[..., Any] | None = None) -> Any:
        y, around = layer(x), x if shortcut is None else shortcut(x)
        if fnp.shape(y) != fnp.shape(around):
            remedy = " Give a shortcut that makes them alike." if shortcut is None else ""
            raise failure(
                ShapeError,
                name,
                f"the layer made {fnp.shape(y)} of x of shape {fnp.shape(x)}, and the shortcut {fnp.shape(around)}; "
                f"they are to be added.{remedy}",
            )
        return y + around

    return combine(parts, forward, name=name)


def remat(layer: AnyLayer, **options: Any) -> AnyLayer:
    """The layer whose inner values are not kept for the backward pass but computed again: `checkpoint` of its `apply`.

    Args:
      layer: a layer.
      **options: those of `functrace.checkpoint`, such as `policy`.
    Returns:
      A layer of the same kind, name, params and state.
    Raises:
      DtypeError: `layer` is not a layer.
    Source: Chen et al., Training deep nets with sublinear memory cost, arXiv:1604.06174.

    >>> from functrace import nn
    >>> model = nn.sequential(*[nn.remat(nn.mlp((8, 32, 8))) for _ in range(3)])
    """
    if not isinstance(layer, Layer | StatefulLayer | SequenceLayer):
        raise failure(DtypeError, "remat", f"layer is of type {type(layer).__name__}; a layer was expected.")
    inner = unscoped(layer).apply

    def apply(*args: Any, training: bool = False, key: Any = None, **kwargs: Any) -> Any:
        return checkpoint(partial(inner, training=training), **options)(*args, key=key, **kwargs)

    return layer._replace(apply=Scoped(apply, layer.name))


def _layer(owner: str, part: str, given: Any) -> Any:
    """What was given, as a layer."""
    if isinstance(given, Layer | StatefulLayer):
        return given
    if isinstance(given, SequenceLayer):
        return Layer(given.init, given.apply, given.name)
    if callable(given):
        return as_layer(given)
    raise failure(
        DtypeError, owner, f"layer {part} is of type {type(given).__name__}; a layer or a function was expected."
    )
