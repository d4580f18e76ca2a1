"""One gradient of a small function, called as a user at a prompt calls it: nothing compiled by hand."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

TITLE = "Un-jitted gradients"


def polynomial(x):
    """x**2 + x."""
    return x**2 + x


def measure() -> list[Row]:
    """Rows for a polynomial of a scalar and for a small function of a vector."""
    contenders = {"functrace": ft.grad(polynomial), "jax": jax.grad(polynomial)}
    expected = 2.0
    try:
        import autograd

        contenders["autograd"] = autograd.grad(polynomial)
    except ImportError:
        print("autograd is not installed: left out")
    try:
        import torch

        def with_torch(x):
            leaf = torch.tensor(x, requires_grad=True)
            return torch.autograd.grad(polynomial(leaf), leaf)[0]

        contenders["torch"] = with_torch
    except ImportError:
        print("torch is not installed: left out")
    for name, gradient in contenders.items():
        np.testing.assert_allclose(float(gradient(0.5)), expected, err_msg=name)
    rows = [
        Row(
            "grad(lambda x: x**2 + x)(0.5)",
            alternate({n: lambda g=g: g(0.5) for n, g in contenders.items()}, calls=50),
        )
    ]
    x = jnp.linspace(0.0, 1.0, 10)
    ours = ft.grad(lambda x: fnp.sum(fnp.sin(x) * fnp.exp(-x)))
    theirs = jax.grad(lambda x: jnp.sum(jnp.sin(x) * jnp.exp(-x)))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    rows.append(
        Row(
            "grad(lambda x: sum(sin(x) * exp(-x)))(f32[10])",
            alternate({"functrace": lambda: ours(x), "jax": lambda: theirs(x)}, calls=20),
        )
    )
    hessian, jax_hessian = ft.hessian(polynomial), jax.hessian(polynomial)
    np.testing.assert_allclose(hessian(0.5), jax_hessian(0.5))
    rows.append(
        Row(
            "hessian(lambda x: x**2 + x)(0.5)",
            alternate({"functrace": lambda: hessian(0.5), "jax": lambda: jax_hessian(0.5)}, calls=5),
        )
    )
    return rows
