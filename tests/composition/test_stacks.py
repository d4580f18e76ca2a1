"""Random transform stacks on random programs give what JAX gives."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import functrace as ft
from tests.composition.random_programs import FUNCTRACE, JAX, X, programs, stacked, stacks

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def check(program, stack):
    with jax.enable_x64(True):
        f = stacked(FUNCTRACE, program, stack)
        ours = f(X)
        expected = jax.jit(stacked(JAX, program, stack))(X)
        np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
        ft.make_program(f)(X).verify()


@settings(max_examples=60, derandomize=True, **QUIET)
@given(programs, stacks)
def test_stack_equals_jax(program, stack):
    check(program, stack)


@pytest.mark.slow
@settings(max_examples=2500, **QUIET)
@given(programs, stacks)
def test_many_stacks_equal_jax(program, stack):
    check(program, stack)
