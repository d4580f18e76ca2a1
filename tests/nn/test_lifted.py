"""What is taken from `jax.nn` as it stands: values and gradients, and that nothing is missing."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import nn, numpy as fnp

X = np.array([0.7, 0.2, 1.3], np.float32)
HEADS = np.random.default_rng(0).normal(size=(1, 4, 2, 3)).astype(np.float32)
ROWS = {
    "dot_product_attention": (HEADS, lambda n, x: n.dot_product_attention(x, 2 * x, x * x, is_causal=True)),
    "identity": (X, lambda n, x: n.identity(x)),
    "log1mexp": (X, lambda n, x: n.log1mexp(x)),
    "logmeanexp": (X, lambda n, x: n.logmeanexp(x)),
    "sparse_plus": (X, lambda n, x: n.sparse_plus(x)),
    "sparse_sigmoid": (X, lambda n, x: n.sparse_sigmoid(x)),
    "squareplus": (X, lambda n, x: n.squareplus(x)),
    "tanh": (X, lambda n, x: n.tanh(x)),
}


@pytest.mark.parametrize("name", ROWS)
def test_equals_jax(name):
    x, f = ROWS[name]
    np.testing.assert_allclose(ft.jit(lambda x: f(nn, x))(x), f(jax.nn, x), rtol=1e-6)
    ours = ft.grad(lambda x: fnp.sum(f(nn, x) ** 2))(x)
    np.testing.assert_allclose(ours, jax.grad(lambda x: jnp.sum(f(jax.nn, x) ** 2))(x), rtol=1e-5)


# Made for products in the narrow formats of one kind of GPU.
LEFT_OUT = {"get_scaled_dot_general_config", "scaled_dot_general", "scaled_matmul"}


def test_has_the_functions_of_jax_nn():
    assert not {n for n in dir(jax.nn) if not n.startswith("_")} - set(dir(nn)) - LEFT_OUT
