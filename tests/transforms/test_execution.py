"""Un-jitted transforms find what they made before, and their caches are bounded and can be emptied."""

import threading

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.lower.execute import compiled_programs, numbered_programs


def entries():
    return len(compiled_programs.entries)


def test_an_equal_function_finds_the_compiled_program():
    ft.clear_caches()
    results = [float(ft.grad(lambda x: fnp.sin(x) * x)(0.5)) for _ in range(4)]
    assert entries() == 1
    np.testing.assert_allclose(results, np.sin(0.5) + 0.5 * np.cos(0.5), rtol=1e-6)


def test_a_constant_is_part_of_the_program():
    ft.clear_caches()
    for scale in (2.0, 3.0):
        assert float(ft.grad(lambda x, scale=scale: x * scale)(0.5)) == scale
    weights = [np.full(3, w, np.float32) for w in (1.0, 2.0)]
    gradients = [ft.grad(lambda x, w=w: (x * w * w).sum())(np.ones(3, np.float32)) for w in weights]
    np.testing.assert_array_equal(gradients, [[1, 1, 1], [4, 4, 4]])


def test_a_first_meeting_and_a_second_agree():
    ft.clear_caches()
    x = np.linspace(0.1, 2.0, 5).astype(np.float32)
    f = ft.grad(lambda x: fnp.sum(fnp.log(x) * fnp.tanh(x) / (1 + x)))
    first, second, third = f(x), f(x), f(x)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    np.testing.assert_array_equal(second, third)


def first_and_none(x, y):
    return (x**3).sum(), fnp.ones(3)


@ft.custom_vjp
def stopped(x, y):
    return (x * y).sum()


stopped.defvjp(lambda x, y: (stopped(x, y), y), lambda y, ct: (ct * y, None))

# Functions of two arrays with derivatives that are zero, or that start from unit vectors, written with either library.
MADE = {
    "vjp": lambda t, x, y: t.vjp(first_and_none, x, y)[1]((1.0, fnp.ones(3))),
    "jvp": lambda t, x, y: t.jvp(first_and_none, (x, y), (x, y))[1],
    "linearize": lambda t, x, y: t.linearize(first_and_none, x, y)[1](x, y),
    "grad": lambda t, x, y: t.grad(lambda x, y: first_and_none(x, y)[0], (0, 1))(x, y),
    "jacfwd": lambda t, x, y: t.jacfwd(first_and_none, (0, 1))(x, y),
    "jacrev": lambda t, x, y: t.jacrev(first_and_none, (0, 1))(x, y),
    "hessian": lambda t, x, y: t.hessian(lambda x, y: first_and_none(x, y)[0], (0, 1))(x, y),
}


@pytest.mark.parametrize("name", MADE)
def test_zeros_and_unit_vectors_are_computed(name):
    """They are arrays of JAX's, and in a Program equations: a constant would be kept, and read at each call."""
    x, y = np.ones(3, np.float32), np.ones((2, 2), np.float32)
    ours = MADE[name](ft, x, y)
    jax.tree.map(np.testing.assert_array_equal, ours, MADE[name](jax, x, y))
    assert all([isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(ours)])
    program = ft.make_program(lambda x, y: MADE[name](ft, x, y))(x, y)
    assert [v.name for v in program.inputs] == ["x", "y"]


def test_unit_vectors_are_where_they_are_asked_for():
    first = ft.make_program(lambda x: ft.jacfwd(fnp.sin)(x))(np.ones(3))
    second = ft.make_program(lambda x: ft.jacfwd(fnp.sin)(x))(np.ones(3))
    assert second.equations[0].source.line == first.equations[0].source.line + 1


def test_a_cotangent_that_a_rule_leaves_out_is_computed():
    program = ft.make_program(lambda x, y: ft.grad(stopped, (0, 1))(x, y))(np.ones(3), np.ones(3))
    assert [v.name for v in program.inputs] == ["x", "y"]


def test_branches_make_programs_of_their_own():
    f = ft.grad(lambda x: x * x if x > 0 else -x)
    assert [float(f(v)) for v in (3.0, -3.0, 2.0, -2.0)] == [6.0, -1.0, 4.0, -1.0]


def test_caches_are_bounded(monkeypatch):
    ft.clear_caches()
    monkeypatch.setattr(compiled_programs, "capacity", 3)
    for scale in range(6):
        ft.grad(lambda x, scale=scale: x * float(scale + 2))(1.0)
        ft.grad(lambda x, scale=scale: x * x * float(scale + 2))(1.0)
    assert entries() <= 3


def many_kinds(x, c):
    """A function of `x` with a number in it, several times."""
    return fnp.sinh(fnp.exp(fnp.tanh(fnp.sin(x) * c) - c) / (1 + fnp.cos(x) ** 2)) * fnp.log1p(x * x)


NUMBERS = {
    "numbers": np.linspace(0.1, 1.0, 12).tolist(),
    "numbers with a type": list(np.linspace(0.1, 1.0, 12, dtype=np.float32)),
    "some that are NaN and Inf": [0.5, np.nan, np.inf, -0.0, 0.25, 1.0],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_programs_that_differ_in_a_number_share_what_is_compiled(name):
    ft.clear_caches()
    for _ in range(3):
        for c in NUMBERS[name]:
            found = ft.grad(lambda x, c=c: many_kinds(x, c))(0.5)
            np.testing.assert_allclose(found, ft.jit(ft.grad(many_kinds))(0.5, c), rtol=1e-5)
    assert 1 <= entries() <= 5  # some numbers take terms away, or are among the others
    assert len(numbered_programs.entries) >= len(NUMBERS[name]) - 3


def test_numbers_that_are_whole_stay_in_the_program():
    ft.clear_caches()
    for n in range(2, 6):
        found = ft.grad(lambda x, n=n: (x[2:] * x[1] ** n * 1.5).sum() + n)(np.ones(8, np.float32))
        np.testing.assert_allclose(found, [0, 9.0 * n, *[1.5] * 6])


def test_threads_share_the_caches():
    ft.clear_caches()
    x, wrong = np.float32(0.7), []

    def work():
        for k in range(1, 20):
            y = ft.grad(lambda x, k=k: fnp.sin(x * float(k)))(x)
            if not np.allclose(y, k * np.cos(k * x), rtol=1e-4):
                wrong.append(k)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_precision_modes_do_not_mix():
    f = lambda: ft.grad(lambda x: x * 2.0 + fnp.ones(()))(1.0)
    assert f().dtype == np.float32
    with jax.enable_x64(True):
        assert f().dtype == np.float64
    assert f().dtype == np.float32


def test_large_results_are_the_same_under_jit():
    f = lambda x: fnp.sin(x) @ fnp.cos(x).T
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    plain, jitted = ft.vjp(f, x)[1](x)[0], ft.jit(lambda x: ft.vjp(f, x)[1](x)[0])(x)
    np.testing.assert_allclose(plain, jitted, rtol=1e-5, atol=1e-5)
