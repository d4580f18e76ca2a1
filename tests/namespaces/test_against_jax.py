"""functrace.lax, scipy and random under every transform, against JAX's, in float32."""

import jax
import numpy as np
import pytest

import functrace as ft
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
