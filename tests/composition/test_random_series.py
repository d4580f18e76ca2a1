"""Taylor coefficients of random programs, under a random transform, are those of nested forward mode of JAX."""

import math

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import functrace as ft
from tests.against_jax import QUICKLY
from tests.composition.random_programs import FUNCTRACE, JAX, TRANSFORMS, V, X, control_programs, programs, stacked

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
ORDER = 3
inner = st.lists(st.sampled_from(sorted(TRANSFORMS)), max_size=1)


def check(program, stack, order):
    """The coefficients along a curve of degree 2, by jet of what a stack of transforms makes of a program."""
    terms = [V, 0.3 * V[::-1], *[0.0 * V] * (order - 2)][:order]
    g = stacked(JAX, program, stack)
    along = [lambda t: g(sum((c * t ** (k + 1) for k, c in enumerate(terms)), X))]
    for _ in range(order):
        along.append(lambda t, g=along[-1]: jax.jvp(g, (t,), (1.0,))[1])
    with jax.enable_x64(True):
        theirs = lambda t: [g(t) / math.factorial(k) for k, g in enumerate(along)]
        expected = jax.jit(theirs, compiler_options=QUICKLY)(0.0)
        f = lambda x, *terms: ft.jet(stacked(FUNCTRACE, program, stack), (x,), (list(terms),), factorial_scaled=False)
        y, coefficients = jax.jit(f, compiler_options=QUICKLY)(X, *terms)
        for ours, exact in zip([y, *coefficients], expected, strict=True):
            np.testing.assert_allclose(ours, exact, rtol=1e-8, atol=1e-8 * max(1.0, np.abs(expected).max()))
        ft.make_program(f)(X, *terms).verify()


@settings(max_examples=12, derandomize=True, **QUIET)
@given(programs, inner)
def test_series_of_random_programs(program, stack):
    check(program, stack, ORDER)


@settings(max_examples=3, derandomize=True, **QUIET)
@given(control_programs)
def test_series_of_random_control_flow(program):
    check(program, [], 2)


@pytest.mark.slow
@settings(max_examples=600, **QUIET)
@given(programs, inner)
def test_series_of_many_programs(program, stack):
    check(program, stack, ORDER)


@pytest.mark.slow
@settings(max_examples=150, **QUIET)
@given(control_programs, inner)
def test_series_of_much_control_flow(program, stack):
    check(program, stack, 2)
