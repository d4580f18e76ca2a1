"""functrace.lax, scipy and random under every transform, against JAX's, in float32."""

from functools import partial

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import RuleError
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


def windows(lax, x, start, combine="max"):
    return lax.reduce_window(x, start, getattr(lax, combine), (2,), (2,), "VALID").sum()


@pytest.mark.parametrize("combine", ["add", "max", "mul"])
@pytest.mark.parametrize(
    "asked",
    [
        lambda t, f, x: t.grad(f)(x, x[0]),
        lambda t, f, x: t.grad(f, 1)(x, x[0]),
        lambda t, f, x: t.jvp(f, (x, x[0]), (x, x[0])),
        lambda t, f, x: t.vmap(f, (None, 0))(x, x),
    ],
    ids=["grad", "grad by the initial value", "jvp", "vmap"],
)
def test_an_initial_value_that_is_traced_has_a_value_alone(combine, asked):
    """As in JAX; the message says why, and what to write instead."""
    x = np.array([2, 1, 4, 3], np.float32)
    assert ft.jit(partial(windows, ft.lax, combine=combine))(x, x[3]) == windows(jax.lax, x, x[3], combine)
    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        asked(jax, partial(windows, jax.lax, combine=combine), x)
    for f in (partial(windows, ft.lax, combine=combine), ft.from_jax(partial(windows, jax.lax, combine=combine))):
        with pytest.raises(RuleError, match=REFUSED):
            asked(ft, f, x)


REFUSED = (
    r"^reduce_window: jax has no rule for this: .*\. It has them of a sum from 0, a maximum from -inf and a minimum "
    r"from inf, known when the function is traced, .* Combine yours with the result: lax.max\(start, "
    r"lax.reduce_window\(x, -numpy.inf, lax.max, ...\)\)\.  \(test_against_jax.py:\d+, in "
)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_the_message_says_to_write_has_its_derivative(axis):
    x = np.array([2, 1, 4, 3], np.float32)
    f = lambda x, start: (ft.lax.max(start, ft.lax.reduce_window(x, -np.inf, ft.lax.max, (2,), (2,)))).sum()
    assert f(x, x[3]) == windows(jax.lax, x, x[3])
    assert ft.grad(f, axis)(x, x[3]).tolist() == [[0, 0, 1, 0], 1][axis]
