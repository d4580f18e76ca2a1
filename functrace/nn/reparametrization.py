"""Layers whose kernel is computed from other params: weight norm and spectral norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from functrace import lax, numpy as fnp, random
from functrace.errors import ArgumentError, DtypeError
from functrace.nn.checking import count, failure, keys_of, number_between, parameters
from functrace.nn.layer import Layer, StatefulLayer
from functrace.nn.scoping import scoped, unscoped

FIRST_ITERATIONS = 15  # of the power method before training, as in PyTorch


def weight_norm(layer: Layer, *, parameter: str = "kernel", name: str | None = None) -> Layer:
    """The layer with its kernel as `magnitude * direction / |direction|`, a norm and a magnitude for each output.

    Params: those of the layer with `"direction"`, of the shape of the kernel, and `"magnitude"`, as long as its last
    axis, in place of `"kernel"`. At first the kernel is what the layer's own init makes it.

    Args:
      layer: one whose params are a dict with that kernel, such as `dense` and `conv`; its last axis is the outputs.
      parameter: what its params call the kernel.
      name: what errors and reports call it; by default the name of the layer.
    Returns:
      A Layer.
    Raises:
      DtypeError: `layer` is not a Layer.
      ArgumentError: from `init`, when its params have no such kernel.
    Source: Salimans and Kingma, Weight normalization, NeurIPS 2016.

    >>> from functrace import nn, random
    >>> params = nn.weight_norm(nn.dense(3, 2)).init(random.key(0))
    >>> {part: array.shape for part, array in sorted(params.items())}
    {'bias': (2,), 'direction': (3, 2), 'magnitude': (2,)}
    """
    layer = unscoped(_checked("weight_norm", layer))

    def init(key: Any) -> Any:
        kernel, rest = _taken("weight_norm", layer.init(key), parameter)
        return {**rest, "direction": kernel, "magnitude": _norms(kernel).ravel()}

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        direction, rest = _taken("weight_norm", params, "direction")
        magnitude, rest = _taken("weight_norm", rest, "magnitude")
        parameters("weight_norm", {"magnitude": magnitude}, {"magnitude": direction.shape[-1:]})
        norms = _norms(direction)
        kernel = direction * (magnitude / fnp.where(norms == 0, 1, norms))
        return layer.apply({**rest, parameter: kernel}, x, training=training, key=key)

    return scoped(Layer(init, apply, name or layer.name))


def spectral_norm(
    layer: Layer, *, iterations: int = 1, epsilon: float = 1e-12, parameter: str = "kernel", name: str | None = None
) -> StatefulLayer:
    """The layer with its kernel divided by its largest singular value, as a matrix from inputs to outputs.

    Params: those of the layer. State: `{"left": [inputs], "right": [outputs]}`, the singular vectors, which the power
    method makes better at each step of training; the gradient does not go through them.

    Args:
      layer: one whose params are a dict with that kernel, such as `dense` and `conv`; its last axis is the outputs,
        and the others together are the inputs.
      iterations: of the power method, at each step of training.
      epsilon: the least that a vector's norm is taken to be.
      parameter: what its params call the kernel.
      name: what errors and reports call it; by default the name of the layer.
    Returns:
      A StatefulLayer.
    Raises:
      DtypeError: `layer` is not a Layer.
      ArgumentError: `iterations` is not at least 1; from `init`, when its params have no such kernel.
    Source: Miyato et al., Spectral normalization for generative adversarial networks, ICLR 2018.

    >>> from functrace import nn, numpy as fnp, random
    >>> layer = nn.spectral_norm(nn.dense(2, 2, use_bias=False), iterations=50)
    >>> _, state = layer.init(random.key(0))
    >>> params = {"kernel": fnp.diag(fnp.array([3.0, 1.0]))}
    >>> y, state = layer.apply(params, state, fnp.array([0.0, 1.0]), training=True)
    >>> round(float(y[1]), 3)
    0.333
    """
    owner = "spectral_norm"
    layer = unscoped(_checked(owner, layer))
    count(owner, "iterations", iterations)
    number_between(owner, "epsilon", epsilon, 0, math.inf)

    def improved(kernel: Any, left: Any, right: Any, times: int) -> tuple[Any, Any]:
        matrix = lax.stop_gradient(_matrix(kernel))
        for _ in range(times):
            right = _unit(left @ matrix, epsilon)
            left = _unit(matrix @ right, epsilon)
        return left, right

    def init(key: Any) -> Any:
        layer_key, left_key = random.split(key)
        params = layer.init(layer_key)
        kernel, _ = _taken(owner, params, parameter)
        inputs = math.prod(kernel.shape[:-1])
        left = _unit(random.normal(left_key, (inputs,), fnp.float32), epsilon)
        left, right = improved(kernel, left, fnp.zeros(kernel.shape[-1], fnp.float32), FIRST_ITERATIONS)
        return params, {"left": left, "right": right}

    def apply(params: Any, state: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        kernel, rest = _taken(owner, params, parameter)
        shapes = {"left": (math.prod(kernel.shape[:-1]),), "right": kernel.shape[-1:]}
        left, right = parameters(owner, state, shapes, "state")
        if training:
            left, right = improved(kernel, left, right, iterations)
            state = {"left": left, "right": right}
        largest = left @ _matrix(kernel) @ right
        scaled = {**rest, parameter: (kernel / largest).astype(kernel.dtype)}
        return layer.apply(scaled, x, training=training, key=key), state

    return scoped(StatefulLayer(init, apply, name or layer.name))


def _checked(owner: str, layer: Any) -> Layer:
    """The layer, which must be a Layer and nothing else."""
    if not isinstance(layer, Layer):
        came = (
            f"the StatefulLayer {layer.name!r}"
            if isinstance(layer, StatefulLayer)
            else f"of type {type(layer).__name__}"
        )
        raise failure(DtypeError, owner, f"layer is {came}; a Layer with a kernel, such as dense or conv, expected.")
    return layer


def _taken(owner: str, params: Any, part: str) -> tuple[Any, dict[str, Any]]:
    """One of the params, and the others."""
    if not isinstance(params, Mapping) or part not in params:
        raise failure(
            ArgumentError,
            owner,
            f"{keys_of('params', params)}; {part!r} was expected among them. Wrap each dense or conv by itself, before "
            "`sequential`, or say what its kernel is called by `parameter`.",
        )
    return fnp.asarray(params[part]), {name: value for name, value in params.items() if name != part}


def _matrix(kernel: Any) -> Any:
    """The kernel from all inputs together to the outputs, in float32 at least."""
    wide = kernel.astype(fnp.promote_types(kernel.dtype, fnp.float32))
    return wide.reshape(-1, kernel.shape[-1])


def _norms(kernel: Any) -> Any:
    """The norm of what leads to each output, along the last axis; its derivative at zeros is 0."""
    square = fnp.sum(kernel * kernel, tuple(range(kernel.ndim - 1)), keepdims=True)
    positive = fnp.where(square == 0, 1, square)
    return fnp.where(square == 0, 0, fnp.sqrt(positive))


def _unit(vector: Any, epsilon: float) -> Any:
    """The vector over its norm, which is taken to be at least epsilon."""
    return vector / fnp.maximum(fnp.sqrt(fnp.sum(vector * vector)), epsilon)
