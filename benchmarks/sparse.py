"""Sparse Jacobians: what a call takes when the pattern is known, and what finding it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.sparse import BCOO
from scipy.sparse import csr_array
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

try:
    import asdex
except ImportError:  # an optional rival
    asdex = None
try:
    import sparsejac
except ImportError:  # an optional rival, which must be told the pattern
    sparsejac = None

TITLE = "Sparse Jacobians"
NOTE = """\
Calls are jitted; "first call" is the whole of it: tracing, the pattern, its colours, compilation and the values.
sparsejac is told the pattern that functrace has found."""


def tridiagonal(np_: Any, x: Any) -> Any:
    """The residual of a heat equation with a source, on a line."""
    u = np_.pad(x, (1, 1))
    return u[:-2] - 2 * u[1:-1] + u[2:] + np_.sin(x)


def laplacian(np_: Any, x: Any) -> Any:
    """The same on a square of 100 x 100, of which `x` holds the rows."""
    u = x.reshape(100, 100)
    v = np_.pad(u, ((1, 1), (1, 1)))
    return (v[2:, 1:-1] + v[:-2, 1:-1] + v[1:-1, 2:] + v[1:-1, :-2] - 4 * u + np_.exp(u)).ravel()


def measure() -> list[Row]:
    """A row a residual and a Hessian: seconds a call, and the first call in the note."""
    x = jnp.linspace(0, 1, 10_000, dtype=jnp.float32)
    return [
        compared("tridiagonal, n = 10,000", tridiagonal, x),
        compared("five-point Laplacian, 100 x 100", laplacian, x),
    ]


def compared(task: str, residual: Callable[[Any, Any], Any], x: Any) -> Row:
    """All contenders on one residual, the same answer of each checked first."""
    ours, theirs = (lambda x: residual(fnp, x)), (lambda x: residual(jnp, x))
    found = {"functrace": lambda: ft.jit(ft.jacobian(ours, sparse=True))}
    if asdex is not None:
        found["asdex"] = lambda: jax.jit(asdex.jacobian(theirs, x))
    if sparsejac is not None:
        pattern = ft.sparsity(ours)(x).pattern
        like = BCOO.from_scipy_sparse(pattern.astype(np.float32))
        found["sparsejac"] = lambda: jax.jit(sparsejac.jacfwd(theirs, like))
    calls, first, expected = {}, [], None
    for name, make in found.items():
        start = time.perf_counter()
        f = make()
        result = jax.block_until_ready(f(x))
        first.append(f"{name} {time.perf_counter() - start:.2f} s")
        matrix = as_scipy(result)
        expected = matrix if expected is None else expected
        assert abs(matrix - expected).max() < 1e-5, name
        calls[name] = lambda f=f: jax.block_until_ready(f(x))
    note = f"{ft.sparsity(ours)(x).colors} products; first call: {', '.join(first)}"
    return Row(task, alternate(calls, 9, 10), note)


def as_scipy(matrix: Any) -> Any:
    """A BCOO as a matrix of scipy's."""
    rows, columns = np.asarray(matrix.indices).T
    return csr_array((np.asarray(matrix.data), (rows, columns)), shape=matrix.shape)
