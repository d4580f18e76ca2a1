"""Schedules against optax's, at many steps."""

import numpy as np
import optax
import pytest

import functrace as ft
from functrace import numpy as fnp, optim

CYCLES = [
    {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 10, "end_value": 0.05},
    {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 20},
    {"init_value": 0.0, "peak_value": 0.0, "warmup_steps": 2, "decay_steps": 7},
]
CASES = [
    ("constant_schedule", (0.3,)),
    ("polynomial_schedule", (1.0, 0.1, 2.5, 20, 5)),
    ("polynomial_schedule", (0.1, 1.0, 1, 7)),
    ("linear_schedule", (1.0, 0.1, 20, 3)),
    ("exponential_decay", (1.0, 7, 0.5)),
    ("exponential_decay", (1.0, 7, 0.5, 4, True, 0.2)),
    ("exponential_decay", (1.0, 7, 1.5, 4, False, 2.0)),
    ("cosine_decay_schedule", (0.7, 30)),
    ("cosine_decay_schedule", (0.7, 30, 0.1, 2.0)),
    ("warmup_cosine_decay_schedule", (0.01, 1.0, 5, 30, 0.1, 1.5)),
    ("warmup_cosine_decay_schedule", (0.01, 1.0, 0, 30)),
    ("warmup_exponential_decay_schedule", (0.0, 1.0, 5, 10, 0.5, 2, True, 0.1)),
    ("sgdr_schedule", (CYCLES,)),
    ("piecewise_constant_schedule", (1.0, {5: 0.1, 20: 3.0})),
    ("piecewise_constant_schedule", (1.0, None)),
    ("piecewise_interpolate_schedule", ("linear", 1.0, {5: 0.1, 20: 3.0})),
    ("piecewise_interpolate_schedule", ("cosine", 1.0, {5: 0.1, 20: 3.0})),
    ("linear_onecycle_schedule", (40, 1.0)),
    ("cosine_onecycle_schedule", (40, 1.0, 0.2, 10.0, 100.0)),
]


@pytest.mark.parametrize(("name", "args"), CASES)
def test_equals_optax(name, args):
    ours, theirs = getattr(optim, name)(*args), getattr(optax, name)(*args)
    counts = fnp.arange(50)
    expected = [float(theirs(n)) for n in range(50)]
    np.testing.assert_allclose(
        [float(ours(n)) for n in (0, 13, 49)], np.take(expected, [0, 13, 49]), rtol=1e-6, atol=1e-7
    )
    values = ft.jit(lambda counts: counts * 0.0 + ours(counts))(counts)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=2e-7)


def test_join_counts_each_from_its_own_beginning():
    joined = optim.join_schedules([optim.constant_schedule(1.0), lambda n: n, lambda n: -n], [3, 5])
    assert [float(joined(n)) for n in range(7)] == [1, 1, 1, 0, 1, 0, -1]


def test_a_schedule_is_differentiable_in_its_values():
    slope = ft.grad(lambda peak: optim.warmup_cosine_decay_schedule(0.0, peak, 4, 20)(2))(1.0)
    assert float(slope) == 0.5
