"""Random transform stacks on random programs give what JAX gives."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import functrace as ft
from tests.against_jax import QUICKLY
from tests.composition.random_programs import (
    FUNCTRACE,
    JAX,
    X,
    control_programs,
    function,
    programs,
    quick_stacks,
    stacked,
    stacks,
)  # fmt: skip

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def check(program, stack):
    with jax.enable_x64(True):
        f = stacked(FUNCTRACE, program, stack)
        ours = f(X)
        expected = jax.jit(stacked(JAX, program, stack))(X)
        np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
        ft.make_program(f)(X).verify()


def check_compiled(program, stack):
    """As `check`, both compiled at once. A failure shows the Program of the function under the stack."""
    with jax.enable_x64(True):
        f, theirs = (stacked(library, program, stack) for library in (FUNCTRACE, JAX))
        try:
            ours, expected = jax.jit(lambda x: (f(x), theirs(x)), compiler_options=QUICKLY)(X)
            np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
            ft.make_program(f)(X).verify()
        except Exception as error:
            error.add_note(str(ft.make_program(function(FUNCTRACE, program))(X)))
            raise


@settings(max_examples=60, derandomize=True, **QUIET)
@given(programs, stacks)
def test_stack_equals_jax(program, stack):
    check(program, stack)


@pytest.mark.slow
@settings(max_examples=2500, **QUIET)
@given(programs, stacks)
def test_many_stacks_equal_jax(program, stack):
    check_compiled(program, stack)


@settings(max_examples=6, derandomize=True, **QUIET)
@given(control_programs, quick_stacks)
def test_stack_on_control_flow_equals_jax(program, stack):
    check(program, stack)


@settings(max_examples=20, derandomize=True, **QUIET)
@given(control_programs, quick_stacks)
def test_compiled_stack_on_control_flow_equals_jax(program, stack):
    check_compiled(program, stack)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
@settings(max_examples=400, **QUIET)
@given(control_programs, quick_stacks)
def test_many_stacks_on_control_flow_equal_jax(part, program, stack):
    check_compiled(program, stack)


@pytest.mark.slow
@settings(max_examples=100, **QUIET)
@given(control_programs, stacks)
def test_slow_stacks_on_control_flow_equal_jax(program, stack):
    check_compiled(program, stack)
