"""Runs of equations that come again are lowered once, and are computed as they were."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import functrace as ft
from functrace import numpy as fnp
from functrace.ir.repeats import Stretch, stretches
from functrace.lower import evaluate, staged
from functrace.lower.outlined import A_CALL, grouped


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def block(params, x):
    """Some twenty operations."""
    w, v = params
    h = fnp.tanh(x @ w) * fnp.arange(8.0) / 8
    for _ in range(4):
        h = fnp.sin(h) * v + fnp.cos(x)
    return 0.9 * x + 0.1 * h


def deep(layers, x):
    for params in layers:
        x = block(params, x)
    return (x**2).sum()


def the_first_differs(layers, x):
    return deep(layers, fnp.exp(-fnp.abs(x)))


def one_reads_another_value(layers, x):  # a part that is unlike the others, between them
    start = x
    for i, (w, v) in enumerate(layers):
        x = block((w, v), start if i == 3 else x)
    return x.sum() + start.sum()


def every_state(layers, x):
    states = []
    for params in layers:
        x = block(params, x)
        states.append(x)
    return states, 1.5, x


def read_far_behind(layers, x):
    states = [x, fnp.sin(x)]
    for params in layers:
        states.append(block(params, states[-1]) + states[-2])
    return (states[-1] * states[2]).sum()


def one_value_twice_at_first(layers, x):  # where the others read two
    y = x
    for w, v in layers:
        h = fnp.tanh(x + y)
        for _ in range(4):
            h = fnp.sin(h @ w) * v + fnp.cos(h)
        x, y = 0.9 * x + 0.1 * h, fnp.sin(h)
    return x.sum() + y.sum()


def updates(layers, x):  # nothing goes from one to the next
    gradient = ft.grad(deep)(layers, x)
    return jax.tree.map(lambda p, g: p - 0.1 * g / (fnp.sqrt(g * g) + 1e-3), layers, gradient)


def large(layers, x):  # what XLA would compute again in each layer is kept
    return deep(layers, fnp.broadcast_to(x[0] / 16, (256, 8)))


FUNCTIONS = [
    deep, the_first_differs, one_reads_another_value, every_state, read_far_behind, one_value_twice_at_first, updates,
    large,
]  # fmt: skip


def arguments(depth):
    return [(normal(8, 8, seed=i) / 8, normal(8, seed=i) / 4) for i in range(depth)], normal(3, 8)


def lowered(program, values):
    """The text that JAX makes of a Program that is handed to it in one piece."""
    return jax.jit(lambda *xs: staged(program, xs)).lower(*values)


def gradient(function):
    """Of the sum of what a function returns."""
    return ft.grad(lambda layers, x: sum([fnp.sum(y) for y in jax.tree.leaves(function(layers, x))]))


@pytest.mark.parametrize("transform", [lambda f: f, gradient], ids=["value", "gradient"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=[f.__name__ for f in FUNCTIONS])
def test_equals_the_equations_one_by_one(function, transform):
    program = ft.make_program(transform(function))(*arguments(16))
    values = jax.tree.leaves(arguments(16))
    text = lowered(program, values)
    assert "call @repeated" in text.as_text()
    expected = jax.jit(lambda *xs: evaluate(program, xs))(*values)
    for a, b in zip(text.compile()(*values), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


def test_the_text_hardly_grows_with_the_depth():
    def lines(depth):
        args = arguments(depth)
        return lowered(ft.make_program(ft.grad(deep))(*args), jax.tree.leaves(args)).as_text().count("\n")

    assert lines(128) < 4 * lines(8)  # as the root of the depth, and a line for each call


OPERATIONS = [fnp.add, fnp.multiply, lambda a, b: fnp.where(a > b, a, 0.5), lambda a, b: a @ b, fnp.maximum]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=12),
    st.lists(st.booleans(), min_size=6, max_size=20),
    st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_random_bodies(steps, plain, differentiated):
    """Bodies of random operations on what the three before made, some of them with an operation more."""

    def model(params, x):
        before = older = fnp.cos(x)
        for p, is_plain in zip(params, plain, strict=True):
            values = [x, p, before, params[0], older]
            for operation, i, j in steps:
                values.append(fnp.tanh(OPERATIONS[operation](values[i % len(values)], values[j % len(values)])))
            older, before, x = before, x, values[-1] if is_plain else fnp.sin(values[-1])
        return x.sum()

    args = [normal(3, 3, seed=i) for i in range(len(plain))], normal(3, 3)
    program = ft.make_program(ft.grad(model) if differentiated else model)(*args)
    values = jax.tree.leaves(args)
    found, expected = jax.jit(lambda *xs: staged(program, xs))(*values), evaluate(program, values)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("string", "found"),
    [
        ("abcabcabcx", [Stretch(0, 9, 3)]),
        ("xyabababab", [Stretch(2, 10, 2)]),
        ("abcdefgh", []),
        ("aabaabaab", [Stretch(0, 9, 3)]),
        ("", []),
    ],
)
def test_repeats_of_a_string(string, found):
    numbers = [ord(c) for c in string]
    assert stretches(numbers, [1] * len(numbers), fewest=2, least=4) == found


def test_a_long_period_is_found_where_its_halves_differ_in_one_place():
    """As the step of a solver, whose stages are alike but for one equation, and repeat themselves in many ways."""
    half = [100 * size + i for size in range(17, 26) for _ in range(2) for i in range(size)]
    step = [*half, 1, *half, 2]
    numbers = step * 4
    assert stretches(numbers, [1] * len(numbers), fewest=3, least=4)[0] == Stretch(0, len(numbers), len(step))


@pytest.mark.parametrize(("count", "size", "period"), [(24, 95, 95), (50, 4, 40), (5000, 2, 282), (5, 12, 12)])
def test_short_repetitions_are_put_together(count, size, period):
    run = grouped(Stretch(0, count * size, size), [1] * (count * size))
    assert run == (Stretch(0, count * size, period) if count * size >= 2 * A_CALL * 5 else None)


def test_few_equations_stay():
    assert grouped(Stretch(0, 40, 10), [1] * 40) is None
