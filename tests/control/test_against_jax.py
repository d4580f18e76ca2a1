"""Loops and branches under every transform, in float32 and float64, against JAX's."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from tests.against_jax import FIRST, SECOND, THIRD, Case, Library, compute, differences
from tests.control.table import (
    OUR_FUNCTIONS,
    OURS as OUR_CONTROL,
    ROWS,
    THEIR_FUNCTIONS,
    THEIRS as THEIR_CONTROL,
    nested_loops,
)

THEIRS = Library(jax, jnp, THEIR_FUNCTIONS)
OURS = Library(ft, fnp, OUR_FUNCTIONS)


@pytest.mark.parametrize("row", ROWS, ids=[r.names[0] for r in ROWS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_jax(row, dtype):
    checks = FIRST + (SECOND + THIRD if dtype == "float64" else ())  # types are settled at first order
    with jax.enable_x64(dtype == "float64"):
        assert differences(THEIRS, OURS, [(dtype, Case(row, dtype))], checks) == []


@pytest.mark.parametrize("row", ROWS, ids=[r.names[0] for r in ROWS])
def test_programs_are_sound(row):
    """Derivatives verify, and read back from their text."""
    case = Case(row, "float32")
    f = case.function(OURS, row.names[0])
    for check in ("value", "vjp", "grad of grad", "vmap of grad"):
        run = lambda *xs, check=check: jax.tree.leaves(compute(check, OURS, f, case, xs, case.dxs, case.batch))
        program = ft.make_program(run)(*case.xs).verify()
        assert ft.Program.parse(str(program)) == program


def test_reverse_mode_three_times_of_a_loop_in_a_loop():
    with jax.enable_x64(True):
        ours, theirs = (b.t.grad(b.t.grad(b.t.grad(nested_loops(b)))) for b in (OUR_CONTROL, THEIR_CONTROL))
        np.testing.assert_allclose(ours(0.7), jax.jit(theirs)(0.7), rtol=1e-10)


def test_custom_jvp_around_a_gradient_of_a_loop():
    gradient = ft.grad(nested_loops(OUR_CONTROL))
    f = ft.custom_jvp(gradient)
    f.defjvp(lambda xs, dxs: ft.jvp(gradient, xs, dxs))
    np.testing.assert_allclose(ft.grad(f)(0.7), ft.grad(gradient)(0.7), rtol=1e-5)
