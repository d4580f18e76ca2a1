"""functrace.lax, scipy and random under every transform, against JAX's, in float32."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from tests.against_jax import FIRST, SECOND, Case, differences, libraries
from tests.namespaces.table import TABLES

ROWS = [(module, row) for module, rows in TABLES.items() for row in rows]


@pytest.mark.parametrize(("module", "row"), ROWS, ids=[f"{m}.{r.names[0]}" for m, r in ROWS])
def test_equals_jax(module, row):
    theirs, ours = libraries(module)
    assert differences(theirs, ours, [("float32", Case(row, "float32"))], FIRST + SECOND) == []


def test_exponential_integral():
    """JAX's own rule of `exp1` cannot be differentiated in one program with functrace's."""
    with jax.enable_x64(True):
        x = np.array([0.7, 1.2])
        ft.testing.check_grads(ft.scipy.special.exp1, (x,), order=3)
        np.testing.assert_allclose(ft.jit(ft.scipy.special.exp1)(x), jax.scipy.special.exp1(x), rtol=1e-12)


@pytest.mark.parametrize("initial", [np.zeros((), "f"), fnp.zeros(()), 0.0], ids=["numpy", "array", "number"])
def test_an_initial_value_may_be_an_array(initial):
    """jax.lax knows a sum, which has a derivative, by an initial value that is a scalar known beforehand."""
    x = np.arange(4, dtype=np.float32)
    window = lambda x: ft.lax.reduce_window(x, initial, ft.lax.add, (2,)).sum()
    np.testing.assert_array_equal(ft.grad(window)(x), [1, 2, 2, 1])
    whole = lambda x: ft.lax.reduce(x, initial, ft.lax.max, (0,))
    np.testing.assert_array_equal(ft.jit(ft.grad(lambda x: whole(x) + window(x)))(x + 1), [1, 2, 2, 2])
