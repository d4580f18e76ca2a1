"""Initialisers against jax.nn.initializers: the same numbers for the same key."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import nn, numpy as fnp, random
from functrace.errors import ArgumentError

THEIRS = jax.nn.initializers
FANS = [f"{who}_{what}" for who in ("he", "kaiming", "glorot", "xavier", "lecun")
        for what in ("normal", "uniform")]  # fmt: skip
FACTORIES = [*FANS, "normal", "uniform", "truncated_normal", "orthogonal"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("name", FACTORIES)
def test_equals_jax(name, dtype):
    if name in ("uniform", "truncated_normal") and dtype == "complex64":
        pytest.skip("jax.random has no such numbers")
    key, shape = random.key(7), (3, 8, 6)
    ours = getattr(nn.initializers, name)()
    w = ours(key, shape, dtype)
    assert w.shape == shape
    assert w.dtype == dtype
    if name == "orthogonal" and dtype in ("float16", "bfloat16"):
        return  # JAX has none
    expected = getattr(THEIRS, name)()(key, shape, dtype)
    # Newer versions of JAX compile the product with the sample, and round once instead of twice.
    rounding = max(1e-5, 2 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(as_numpy(w), as_numpy(expected), rtol=rounding, atol=1e-6)
    jitted = ft.jit(lambda key: ours(key, shape, dtype))(key)
    np.testing.assert_allclose(as_numpy(jitted), as_numpy(expected), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal"])
@pytest.mark.parametrize(
    "axes",
    [
        {"in_axis": 1, "out_axis": 0},
        {"in_axis": (0, 1), "out_axis": 3},
        {"batch_axis": 0},
        {"in_axis": 0, "out_axis": (1, 2), "batch_axis": (3,)},
    ],
)
def test_variance_scaling_equals_jax(mode, distribution, axes):
    key, shape = random.key(0), (2, 3, 4, 5)
    ours = nn.initializers.variance_scaling(3.0, mode, distribution, **axes)(key, shape)
    theirs = THEIRS.variance_scaling(3.0, mode, distribution, **axes)(key, shape)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_variance(distribution, dtype):
    init = nn.initializers.variance_scaling(2.0, "fan_in", distribution, dtype=dtype)
    w = np.asarray(init(random.key(1), (400, 300)))
    assert w.dtype == dtype
    np.testing.assert_allclose(abs(w.mean()), 0, atol=1e-3)
    np.testing.assert_allclose(w.std(), (2 / 400) ** 0.5, rtol=1e-2)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("column_axis", [-1, 0])
def test_orthogonal(shape, column_axis):
    key = random.key(0)
    w = nn.initializers.orthogonal(2.0, column_axis)(key, shape)
    expected = THEIRS.orthogonal(2.0, column_axis)(key, shape)
    np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-6)
    matrix = np.moveaxis(np.asarray(w), column_axis, -1).reshape(-1, shape[column_axis])
    small = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_vmap_over_keys():
    keys, init = random.split(random.key(0), 3), nn.initializers.he_normal()
    together = ft.vmap(lambda key: init(key, (4, 2)))(keys)
    np.testing.assert_allclose(together, np.stack([init(key, (4, 2)) for key in keys]), rtol=1e-6)


@pytest.mark.parametrize("name", [*FACTORIES, "zeros", "ones", "constant"])
def test_empty_and_default_dtype(name):
    made = getattr(nn.initializers, name)
    if name == "constant":
        made = made(3.0, "float16")
    elif name not in ("zeros", "ones"):
        made = made(dtype="float16")
    else:
        assert made(random.key(0), (2, 2)).dtype == "float32"
        assert made(random.key(0), (2, 2), "float16").dtype == "float16"
        return
    assert made(random.key(0), (0, 3)).shape == (0, 3)
    assert made(random.key(0), (2, 3)).dtype == "float16"
    assert made(random.key(0), (2, 3), "float32").dtype == "float32"


def test_values_of_the_constant_ones():
    assert nn.initializers.constant(fnp.arange(2.0))(None, (2, 2)).tolist() == [[0, 1], [0, 1]]
    assert nn.initializers.zeros(None, ()).tolist() == 0
    assert nn.initializers.ones(None, (1,)).tolist() == [1]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: nn.initializers.he_normal()(random.key(0), (3,)),
            r"shape \(3,\) has no axis -2, the in_axis.*zeros, constant or normal for a bias",
        ),
        (
            lambda: nn.initializers.he_normal(in_axis=4)(random.key(0), (3, 2)),
            r"shape \(3, 2\) has no axis 4, the in_axis",
        ),
        (
            lambda: nn.initializers.orthogonal()(random.key(0), (3,)),
            r"orthogonal: shape \(3,\); a matrix has at least two axes",
        ),
        (
            lambda: nn.initializers.variance_scaling(1.0, "fan", "normal"),
            r"mode is 'fan'; one of \['fan_in', 'fan_out', 'fan_avg', 'fan_geo_avg'\]",
        ),
        (
            lambda: nn.initializers.variance_scaling(1.0, "fan_in", "cauchy"),
            r"distribution is 'cauchy'; one of",
        ),
    ],
)
def test_messages(run, message):
    with pytest.raises(ArgumentError, match=message):
        run()


def as_numpy(x):
    return np.asarray(x.astype("float32") if x.dtype in ("float16", "bfloat16") else x)
