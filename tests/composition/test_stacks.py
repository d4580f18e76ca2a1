"""Random transform stacks on random programs give what JAX gives."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import functrace as ft
from tests.composition.random_programs import FUNCTRACE, JAX, X, control_programs, function, programs, stacked, stacks

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def check(program, stack):
    with jax.enable_x64(True):
        try:
            f = stacked(FUNCTRACE, program, stack)
            ours = f(X)
            expected = jax.jit(stacked(JAX, program, stack))(X)
            np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
            ft.make_program(f)(X).verify()
        except Exception as error:
            error.add_note(f"{ft.make_program(function(FUNCTRACE, program))(X)}")
            raise


@settings(max_examples=60, derandomize=True, **QUIET)
@given(programs, stacks)
def test_stack_equals_jax(program, stack):
    check(program, stack)


@pytest.mark.slow
@settings(max_examples=2500, **QUIET)
@given(programs, stacks)
def test_many_stacks_equal_jax(program, stack):
    check(program, stack)


@settings(max_examples=20, derandomize=True, **QUIET)
@given(control_programs, stacks)
def test_stack_on_control_flow_equals_jax(program, stack):
    check(program, stack)
