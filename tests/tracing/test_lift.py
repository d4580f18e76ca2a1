"""Calls of jax.numpy's functions: what is recorded for one number serves for all. Small arrays that are captured: equal
ones are one, those of one entry are numbers."""

import importlib

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp

lift = importlib.import_module("functrace.tracing.lift")

CALLS = {  # of a number and an array
    "operator": lambda n, t, x: t * x - x / t,
    "add": lambda n, t, x: n.add(x, t),
    "multiply": lambda n, t, x: n.multiply(t, x),
    "ufunc": lambda n, t, x: (n if n is jnp else np).subtract(x, np.float32(t)),
    "maximum": lambda n, t, x: n.maximum(x, t) + x,
    "where": lambda n, t, x: n.where(x > 0, t, x),
    "clip": lambda n, t, x: n.clip(x, t, t + 0.7),
    "full": lambda n, t, x: x + n.full((2, 1), t),
    "full_like": lambda n, t, x: x * n.full_like(x, t),
    "full integers": lambda n, t, x: x * n.full((2, 1), t, jnp.int32),
    "asarray": lambda n, t, x: x + n.asarray(t),
    "array": lambda n, t, x: x[0] * n.array([t, 1.0, 2.0]),
    "exp": lambda n, t, x: x * n.exp(t),
    "power": lambda n, t, x: x * n.power(n.abs(x), t),
}
TYPES = (float, np.float64, np.float32, np.float16)
SPECIAL = (0.25, -1.5, 0.0, -0.0, 3.0, 1.0, np.inf, np.nan)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_mean_what_they_mean_to_jax(name, kind, dtype):
    x = np.array([[0.3, -0.2, 1.1], [-0.7, 2.0, 0.9]], np.float32)
    for number in SPECIAL:
        if name == "full integers" and not np.isfinite(number):
            continue
        call = lambda n, x: CALLS[name](n, kind(number), x.astype(dtype))  # noqa: B023
        ours = ft.jit(lambda x: call(fnp, x))(x)  # noqa: B023
        theirs = jax.jit(lambda x: call(jnp, x))(x)  # noqa: B023
        assert (ours.dtype, ours.weak_type) == (theirs.dtype, theirs.weak_type)
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(theirs, np.float32))


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"full integers", "array", "power"}))
@pytest.mark.parametrize("kind", TYPES)
def test_another_number_asks_jax_no_more(name, kind, monkeypatch):
    asked = []
    importing = lift.import_call
    monkeypatch.setattr(lift, "import_call", lambda *args: asked.append(args) or importing(*args))
    program = lambda number: ft.make_program(lambda x: CALLS[name](fnp, kind(number), x))(np.ones((2, 3), np.float32))
    program(0.125)
    asked.clear()
    program(0.375)
    assert not asked


@pytest.mark.parametrize("table", [lambda i: np.arange(6.0) * i, lambda i: jnp.arange(6.0) * i], ids=["numpy", "jax"])
def test_equal_small_arrays_are_one(table):
    """Made anew each time, they are captured once; those of another content, or type, are others."""
    made = lambda x: sum([fnp.sin(x * table(i % 2 + 1)) for i in range(8)]) + fnp.cos(np.int32([1] * 6) * x)
    program = ft.make_program(made)(np.ones(6, np.float32))
    assert len(program.captured) == 3
    expected = sum([np.sin(np.arange(6.0) * (i % 2 + 1)) for i in range(8)]) + np.cos(1.0)
    np.testing.assert_allclose(ft.jit(made)(np.ones(6, np.float32)), expected, rtol=1e-5)


X = np.linspace(-0.5, 1.0, 6, dtype=np.float32)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("library", [np, jnp])
def test_arrays_of_one_entry_are_numbers(library, shape, dtype):
    """As what is cut from a schedule; of their type, so that the result is of JAX's."""
    values = [library.full(shape, i, dtype) for i in range(3)]
    made = lambda x: [x * v for v in values]
    program = ft.make_program(made)(X)
    assert not program.captured
    for ours, theirs in zip(program(X), made(jnp.asarray(X)), strict=True):
        assert (ours.dtype, ours.shape, ours.weak_type) == (theirs.dtype, theirs.shape, theirs.weak_type)
        np.testing.assert_array_equal(ours, theirs)


def test_a_schedule_of_arrays_makes_a_loop():
    rates = jnp.linspace(0.1, 0.3, 60)  # the steps contract, so that rounding does not grow

    def chain(n, x):
        for i in range(60):
            x = x / 2 + rates[i] * n.sin(n.cos(x @ x) * x + n.array([i / 60.0]))
        return x

    report = ft.debug.explain_roll(lambda x: chain(fnp, x))(X)
    assert [row.copied for row in report.rows if not row.why_not] == [0]
    np.testing.assert_allclose(ft.jit(lambda x: chain(fnp, x))(X), chain(jnp, X), rtol=1e-5)
