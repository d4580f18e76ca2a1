"""Initialisers: `init = he_normal(); W = init(key, shape, dtype)`, as `jax.nn.initializers`.

The numbers are JAX's for the same key. A weight has shape `[..., fan_in, fan_out]`; the leading
axes of a convolution's kernel, its receptive field, multiply both fans. `in_axis`, `out_axis` and
`batch_axis` tell of other layouts.

>>> from functrace import random
>>> he_normal()(random.key(0), (3, 3, 16, 32)).shape
(3, 3, 16, 32)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from jax import Array

from functrace import numpy as fnp, random
from functrace.errors import ArgumentError

Axes = int | Sequence[int]
Initializer = Callable[..., Array]  # init(key, shape, dtype=None) -> array


def zeros(key: Any, shape: Sequence[int], dtype: Any = None) -> Array:
    """Zeros; `key` is not used.

    >>> zeros(None, (2,)).tolist()
    [0.0, 0.0]
    """
    return fnp.zeros(shape, dtype)


def ones(key: Any, shape: Sequence[int], dtype: Any = None) -> Array:
    """Ones; `key` is not used.

    >>> ones(None, (2,)).tolist()
    [1.0, 1.0]
    """
    return fnp.ones(shape, dtype)


def constant(value: Any, dtype: Any = None) -> Initializer:
    """The initialiser to `value`, a number or an array that broadcasts.

    >>> constant(7.0)(None, (2,)).tolist()
    [7.0, 7.0]
    """

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Array:
        return fnp.full(shape, value, _floating(dtype))

    return init


def uniform(scale: Any = 1e-2, dtype: Any = None) -> Initializer:
    """The initialiser with numbers uniform in `[0, scale)`.

    >>> bool((uniform(2.0)(random.key(0), (100,)) < 2).all())
    True
    """

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Array:
        return _scaled(random.uniform(key, shape, _floating(dtype)), scale)

    return init


def normal(stddev: Any = 1e-2, dtype: Any = None) -> Initializer:
    """The initialiser with normal numbers of mean 0 and the given standard deviation.

    >>> normal(2.0)(random.key(0), (3, 4)).shape
    (3, 4)
    """

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Array:
        return _scaled(random.normal(key, shape, _floating(dtype)), stddev)

    return init


def truncated_normal(
    stddev: Any = 1e-2, dtype: Any = None, lower: Any = -2.0, upper: Any = 2.0
) -> Initializer:
    """The initialiser with `stddev` times normal numbers that lie between `lower` and `upper`.

    The standard deviation after truncation is less than `stddev`.

    >>> bool((abs(truncated_normal(3.0)(random.key(0), (100,))) <= 6).all())
    True
    """

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Array:
        sample = random.truncated_normal(key, lower, upper, shape, _floating(dtype))
        return _scaled(sample, stddev)

    return init


def variance_scaling(
    scale: Any,
    mode: Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"],
    distribution: Literal["truncated_normal", "normal", "uniform"],
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
) -> Initializer:
    """The initialiser with numbers of mean 0 and variance `scale / fan`.

    Args:
      scale: a number.
      mode: which fan: that of the inputs, of the outputs, their arithmetic or geometric mean.
      distribution: normal, normal within two standard deviations, or uniform.
      in_axis, out_axis: the axes that inputs and outputs are counted along.
      batch_axis: axes that count for neither.
      dtype: floating or complex; by default the default floating one.
    Returns:
      An initialiser.
    Raises:
      ArgumentError: an unknown mode or distribution; from the initialiser, a shape without these
        axes.
    Source: Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015.

    >>> w = variance_scaling(1.0, "fan_in", "normal")(random.key(0), (10_000, 10))
    >>> round(float(w.std()), 3)
    0.01
    """
    for name, value, known in (
        ("mode", mode, _FANS),
        ("distribution", distribution, _DISTRIBUTIONS),
    ):
        if value not in known:
            raise ArgumentError(
                f"variance_scaling: {name} is {value!r}; one of {list(known)} was expected."
            )

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Array:
        dtype = _floating(dtype)
        fan = _FANS[mode](*_fans(shape, in_axis, out_axis, batch_axis))
        if not fan:  # an empty weight has nothing to fill
            return fnp.zeros(shape, dtype)
        return _DISTRIBUTIONS[distribution](key, shape, dtype, fnp.asarray(scale / fan, dtype))

    return init


he_normal = partial(variance_scaling, 2.0, "fan_in", "truncated_normal")
he_uniform = partial(variance_scaling, 2.0, "fan_in", "uniform")
glorot_normal = partial(variance_scaling, 1.0, "fan_avg", "truncated_normal")
glorot_uniform = partial(variance_scaling, 1.0, "fan_avg", "uniform")
lecun_normal = partial(variance_scaling, 1.0, "fan_in", "truncated_normal")
lecun_uniform = partial(variance_scaling, 1.0, "fan_in", "uniform")
kaiming_normal, kaiming_uniform = he_normal, he_uniform
xavier_normal, xavier_uniform = glorot_normal, glorot_uniform


def orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """The initialiser with `scale` times a matrix of orthonormal columns (or rows, if fewer).

    Args:
      scale: a number.
      column_axis: the axis of the columns; the others together are the rows.
      dtype: floating or complex; by default the default floating one.
    Returns:
      An initialiser.
    Raises:
      ArgumentError: from the initialiser, a shape of fewer than two axes.
    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning, ICLR 2014.

    >>> w = orthogonal()(random.key(0), (4, 3))
    >>> bool(fnp.allclose(w.T @ w, fnp.eye(3), atol=1e-6))
    True
    """

    def init(key: Any, shape: Sequence[int], dtype: Any = dtype) -> Array:
        shape, dtype = tuple(shape), _floating(dtype)
        if len(shape) < 2:
            raise ArgumentError(f"orthogonal: shape {shape}; a matrix has at least two axes.")
        if 0 in shape:
            return fnp.zeros(shape, dtype)
        columns = shape[column_axis]
        rows = math.prod(shape) // columns
        computed = fnp.promote_types(dtype, fnp.float32)  # there is no QR in half precision
        matrix = random.orthogonal(key, rows, (), computed, columns)
        others = list(shape)
        del others[column_axis]
        stacked = fnp.moveaxis(matrix.reshape(*others, columns), -1, column_axis)
        return _scaled(stacked, scale).astype(dtype)

    return init


_FANS: dict[str, Callable[[float, float], float]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: math.sqrt(fan_in * fan_out),
}


def _fans(
    shape: Sequence[int], in_axis: Axes, out_axis: Axes, batch_axis: Axes
) -> tuple[float, float]:
    """How many inputs each output sums over, and how many outputs each input goes to."""

    def size(name: str, axes: Axes) -> int:
        axes = (axes,) if isinstance(axes, int) else tuple(axes)
        for axis in axes:
            if not -len(shape) <= axis < len(shape):
                raise ArgumentError(
                    f"initializer: shape {tuple(shape)} has no axis {axis}, the {name}. A weight "
                    "is [..., fan_in, fan_out]; give in_axis and out_axis for another layout, "
                    "and use zeros, constant or normal for a bias."
                )
        return math.prod(shape[axis] for axis in axes)

    inputs, outputs = size("in_axis", in_axis), size("out_axis", out_axis)
    batch = size("batch_axis", batch_axis)
    if 0 in shape:
        return 0.0, 0.0
    field = math.prod(shape) / (inputs * outputs * batch)
    return inputs * field, outputs * field


def _truncated_normal(key: Any, shape: Sequence[int], dtype: Any, variance: Any) -> Array:
    """Normal numbers cut off at two standard deviations; the divisor is what the cut leaves."""
    if _is_complex(dtype):
        cut = -math.expm1(-4.0)
        sample = _in_disc(key, shape, dtype, lambda u: fnp.sqrt(-fnp.log(1 - cut * u)))
        return sample * (fnp.sqrt(variance) / fnp.asarray(0.95311164380491208, dtype))
    sample = random.truncated_normal(key, -2, 2, shape, dtype)
    return sample * (fnp.sqrt(variance) / fnp.asarray(0.87962566103423978, dtype))


def _normal(key: Any, shape: Sequence[int], dtype: Any, variance: Any) -> Array:
    return random.normal(key, shape, dtype) * fnp.sqrt(variance)


def _uniform(key: Any, shape: Sequence[int], dtype: Any, variance: Any) -> Array:
    """Numbers uniform on an interval around 0, or on a disc."""
    if _is_complex(dtype):
        return _in_disc(key, shape, dtype, lambda u: fnp.sqrt(2 * u)) * fnp.sqrt(variance)
    return random.uniform(key, shape, dtype, -1) * fnp.sqrt(3 * variance)


_DISTRIBUTIONS = {
    "truncated_normal": _truncated_normal,
    "normal": _normal,
    "uniform": _uniform,
}


def _in_disc(key: Any, shape: Sequence[int], dtype: Any, radius: Callable[[Any], Any]) -> Array:
    """Complex numbers of uniform angle; `radius` maps uniform numbers to their magnitudes."""
    key_radius, key_angle = random.split(key)
    real = fnp.finfo(dtype).dtype
    r = radius(random.uniform(key_radius, shape, real)).astype(dtype)
    angle = (2 * math.pi * random.uniform(key_angle, shape, real)).astype(dtype)
    return r * fnp.exp(1j * angle)


def _floating(dtype: Any) -> Any:
    """The dtype, or the default floating one."""
    return fnp.result_type(float) if dtype is None else fnp.dtype(dtype)


def _is_complex(dtype: Any) -> bool:
    return fnp.issubdtype(dtype, fnp.complexfloating)


def _scaled(sample: Any, factor: Any) -> Any:
    """`factor * sample`, in the dtype of the sample."""
    return sample * fnp.asarray(factor, sample.dtype)
