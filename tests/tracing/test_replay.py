"""Functions that are called again: what is the same is looked up, what is not is traced, and every result is right."""

import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.errors import LeakedTracerError
from functrace.ir import Builder
from functrace.tracing.replay import recordings
from functrace.tracing.trace import trace
from tests.composition.random_programs import FUNCTRACE, JAX, X, programs, run

x = np.array([0.3, -0.7, 0.55, 0.9], np.float32)
xs = np.stack([x, 2 * x, -x])


def f(x):
    return (fnp.sin(x) * fnp.exp(-x) * 2.0).sum()


def inner_loop(w):
    return lax.scan(lambda c, _: (fnp.tanh(c * w), None), 1.0, None, length=5)[0].sum()


WAYS = {
    "grad": (lambda: ft.grad(f)(x)),
    "value_and_grad": (lambda: ft.value_and_grad(f)(x)),
    "grad of grad": (lambda: ft.grad(lambda x: ft.grad(f)(x).sum())(x)),
    "jvp": (lambda: ft.jvp(f, (x,), (x,))),
    "vjp": (lambda: ft.vjp(f, x)[1](np.float32(1.0))),
    "linearize": (lambda: ft.linearize(f, x)[1](x)),
    "vmap": (lambda: ft.vmap(f)(xs)),
    "vmap, other axes": (lambda: ft.vmap(lambda x: x * 2.0, in_axes=1, out_axes=1)(xs)),
    "vmap of grad": (lambda: ft.vmap(ft.grad(f))(xs)),
    "grad of vmap": (lambda: ft.grad(lambda xs: ft.vmap(f)(xs).sum())(xs)),
    "jacfwd": (lambda: ft.jacfwd(fnp.sin)(x)),
    "jacrev": (lambda: ft.jacrev(fnp.sin)(x)),
    "jacobian in chunks": (lambda: ft.jacobian(fnp.sin, chunk_size=2)(x)),
    "hessian": (lambda: ft.hessian(f)(x)),
    "grad of a scan": (lambda: ft.grad(lambda w: inner_loop(w))(x[0])),
    "grad of a branch": (lambda: ft.grad(lambda x: lax.cond(x > 0, fnp.sin, fnp.cos, x))(x[0])),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_call_that_goes_as_the_last_one_writes_nothing(name, monkeypatch):
    ft.clear_caches()
    call = WAYS[name]
    first, second = call(), call()
    written = []
    append = Builder.append
    monkeypatch.setattr(Builder, "append", lambda *args: written.append(args[1]) or append(*args))
    third = call()
    assert written == []
    for a, b, c in zip(*map(jax.tree.leaves, (first, second, third)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(b, c)


def test_the_program_is_the_earlier_one():
    ft.clear_caches()
    first, second = (trace(f, (x,), transform="test", concrete=True, like=f) for _ in range(2))
    assert second.program is first.program
    assert trace(f, (x,), transform="test", concrete=True).program is first.program  # known by what it is
    assert trace(f, (x[:2],), transform="test", concrete=True, like=f).program is not first.program


def steps(values, x):
    """As many steps as there are values, each with its number."""
    for v in values:
        x = fnp.sin(x) * v
    return x.sum()


SEQUENCES = {
    "longer": [[2.0], [2.0, 3.0], [2.0, 3.0, 4.0]],
    "shorter": [[2.0, 3.0, 4.0], [2.0, 3.0], []],
    "other in the middle": [[2.0, 3.0, 4.0], [2.0, 5.0, 4.0], [2.0, 3.0, 4.0]],
    "signs of zero": [[0.0], [-0.0], [0.0]],
    "numbers of other types": [[2.0], [2], [np.float32(2)], [True]],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_differs_is_traced(name):
    ft.clear_caches()
    for _ in range(2):
        for values in SEQUENCES[name]:
            found = ft.grad(lambda x, values=values: steps(values, x))(x)
            ft.clear_caches()
            alone = ft.grad(lambda x, values=values: steps(values, x))(x)
            np.testing.assert_allclose(found, alone, rtol=1e-6)
            expected = jax.grad(lambda x, values=values: jax_steps(values, x))(x)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def jax_steps(values, x):
    for v in values:
        x = jax.numpy.sin(x) * v
    return x.sum()


def test_values_that_are_closed_over_are_those_of_the_call():
    a, b = np.float32([1, 2, 3, 4]), np.float32([5, 6, 7, 8])
    for first, second in [(a, b), (a, a), (b, a), (b[:1], a), (a, b)] * 2:
        found = ft.grad(lambda x, p=first, q=second: (x * p * p + x * q).sum())(x)
        np.testing.assert_allclose(found, np.broadcast_to(first * first + second, 4))


def test_values_that_decide():
    g = ft.grad(lambda x: fnp.sin(x) if fnp.cos(x) > 0.5 else x * x if x > 3 else -x)
    for v in (0.1, 4.0, 2.0, 4.5, 0.2, 1.8) * 2:
        expected = np.cos(v) if np.cos(v) > 0.5 else 2 * v if v > 3 else -1
        np.testing.assert_allclose(g(v), expected, rtol=1e-6)


def test_a_function_that_differentiates_now_and_then():
    def loss(x, inner):
        y = fnp.sin(x)
        return ft.grad(lambda z: fnp.sin(z) ** 2)(y) if inner else y

    for inner in (False, True, True, False, True):
        found = ft.grad(lambda x, inner=inner: loss(x, inner))(0.3)
        y = np.sin(0.3)
        np.testing.assert_allclose(found, np.cos(0.3) * (2 * np.cos(2 * y) if inner else 1), rtol=1e-6)


def test_python_runs_each_time():
    def loss(x):
        calls.append(x)
        return x * 2.0

    calls = []
    for _ in range(3):
        ft.grad(loss)(1.0)
    assert len(calls) == 3


def test_a_leaked_tracer_is_told_of_with_its_own_line():
    kept, shift = [], []

    def loss(x):
        if shift:
            kept.append(fnp.sin(x))
        else:
            fnp.sin(x)
        return x * 2.0

    ft.grad(loss)(1.0)
    ft.grad(loss)(1.0)
    shift.append(True)
    ft.grad(loss)(1.0)
    line = loss.__code__.co_firstlineno + 2
    with pytest.raises(LeakedTracerError, match=rf"test_replay.py:{line}, in loss"):
        ft.grad(lambda x: x * kept[0])(1.0)


def test_an_error_in_between_leaves_nothing():
    def loss(x, fails):
        y = fnp.sin(x)
        if fails:
            raise RuntimeError("now")
        return y * 3.0

    for fails in (False, True, False, True, False):
        g = ft.grad(lambda x, fails=fails: loss(x, fails))
        if fails:
            with pytest.raises(RuntimeError, match="now"):
                g(0.5)
        else:
            np.testing.assert_allclose(g(0.5), 3 * np.cos(0.5), rtol=1e-6)


def test_nothing_is_remembered_of_what_is_compiled_and_comes_once():
    ft.clear_caches()
    ft.jit(ft.grad(lambda x: ft.grad(lambda y: y**3)(x)))(1.0)
    assert not recordings.entries


def test_what_comes_again_within_jit_is_one_program():
    def steps(n, grad, checkpoint, w, batches):
        block = checkpoint(lambda w, x: n.tanh(x * w + 1.0))
        for batch in batches:
            w = w - grad(lambda w, batch: block(w, block(w, batch)).sum())(w, batch)
        return w

    ours = ft.jit(lambda w, batches: steps(fnp, ft.grad, ft.checkpoint, w, batches))(x, xs)
    theirs = jax.jit(lambda w, batches: steps(jax.numpy, jax.grad, jax.checkpoint, w, batches))(x, xs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    block = ft.checkpoint(lambda w, x: fnp.tanh(x * w + 1.0))
    program = ft.make_program(lambda w, batches: [block(w, batch) for batch in batches])(x, xs)
    bodies = [eqn.primitive.program for eqn in program.equations if eqn.primitive.name == "checkpoint"]
    assert len(bodies) == 3
    assert bodies[1] is bodies[2]


def test_programs_within_jit_share_no_variables():
    """Each body begins as the one before it, and goes on in another way."""

    def chain(n, x):
        for i in range(n):
            x = fnp.sin(x) if i < n - 1 else fnp.cos(x) * n
        return x

    def all_lengths(x):
        return [ft.checkpoint(lambda x, n=n: chain(n, x))(x) for n in (3, 4, 2, 5)]

    program = ft.make_program(all_lengths)(x)
    bodies = [eqn.primitive.program for eqn in program.equations if eqn.primitive.name == "checkpoint"]
    assert len(bodies) == 4
    variables = [{*p.inputs, *[v for eqn in p.equations for v in eqn.outputs]} for p in bodies]
    assert len(set().union(*variables)) == sum(map(len, variables))
    for n, y in zip((3, 4, 2, 5), all_lengths(x), strict=True):
        z = x
        for _ in range(n - 1):
            z = np.sin(z)
        np.testing.assert_allclose(y, np.cos(z) * n, rtol=1e-6)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(recordings, "capacity", 40)
    ft.clear_caches()
    for n in range(1, 12):
        ft.grad(lambda x: (x * 3.0 + 1.0).sum())(np.ones(n, np.float32))
    assert 0 < recordings.size <= 40
    assert recordings.size == sum(len(r.steps) for r in recordings.entries.values())


def test_threads_replay_at_once():
    wrong = []

    def work(k):
        for _ in range(20):
            y = ft.grad(lambda x: fnp.sin(x * 2.0) * k)(np.float32(0.7))
            if not np.allclose(y, 2 * k * np.cos(1.4), rtol=1e-4):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def random_loss(library, program, x):
    return library.np.sum(library.np.tanh(run(library, program, [x])[-1]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(programs, min_size=2, max_size=4))
def test_random_programs_one_after_another(found):
    """All are traced by the same lines of `run`, so that each begins by following another one."""
    for program in [*found, *found]:
        ours = ft.grad(lambda x, p=program: random_loss(FUNCTRACE, p, x))(X)
        theirs = jax.grad(lambda x, p=program: random_loss(JAX, p, x))(X)
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
