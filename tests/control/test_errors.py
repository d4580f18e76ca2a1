"""Bad input to a loop or a branch gets an error that names the argument, what came, what was expected, and the fix."""

import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace.errors import FunctraceError
from functrace.lax import associative_scan, cond, fori_loop, scan, switch, while_loop

X = np.ones(3, np.float32)
PAIR = {"a": X, "n": np.int32(0)}
going = lambda v: v.sum() < 3
small = lambda v: v < 100.0
same = lambda x: x
step = lambda s, x: (s, x)


def carry_of_another_dtype(s, x):
    return {"a": s["a"], "n": s["n"] + 0.5}, x


ROWS = {
    "carry of another dtype": (
        lambda: scan(carry_of_another_dtype, PAIR, X), TypeError,
        "scan: f (carry_of_another_dtype) must return the types of init; ['n'] differs:\n"
        "  ['a']  f32[3] -> f32[3]\n"
        "  ['n']  i32[] -> f32[]~   <- differs\n"
        "Cast what is in init to float32, or what f (carry_of_another_dtype) returns to int32.",
    ),
    "carry of another shape": (
        lambda: scan(lambda s, x: (s[None], x), X, X), TypeError,
        "the types of init; the carry differs:\n  carry  f32[3] -> f32[1,3]   <- differs\n"
        "Keep the shape (3,): give init its final shape from the start.",
    ),
    "two leaves that differ": (
        lambda: scan(lambda s, x: ({"a": s["a"].sum(), "n": s["n"] * 1j}, x), PAIR, X), TypeError,
        "['a'], ['n'] differ:\n  ['a']  f32[3] -> f32[]   <- differs\n  ['n']  i32[] -> c64[]~   <- differs\n"
        "Keep the shape (3,): give init its final shape from the start. Cast what is in init to complex64",
    ),
    "carry without a leaf": (
        lambda: scan(lambda s, x: ({"a": s["a"]}, x), PAIR, X), TypeError,
        "must return the pytree structure of init; ['n'] differs:\n  ['a']  f32[3] -> f32[3]\n"
        "  ['n']  i32[] -> nothing   <- differs\nReturn every part of the carry, in the same containers.",
    ),
    "carry in another container": (
        lambda: scan(lambda s, x: ([s[0], s[1]], x), (X, X), X), TypeError,
        "must return the pytree structure of init:\n  PyTreeDef((*, *)) -> PyTreeDef([*, *])\nReturn every part",
    ),
    "carry in an impossible type": (
        lambda: scan(step, {"a": "text"}, length=2), TypeError, "scan: init['a'] is a str ('text'), not an array",
    ),
    "no pair": (
        lambda: scan(lambda s, x: s, X, X), TypeError,
        "scan: f (<lambda>) must return a pair (carry, y), got f32[3]; return None for y where there is none.",
    ),
    "three results": (lambda: scan(lambda s, x: (s, x, x), X, X), TypeError, "(carry, y), got a tuple of 3;"),
    "xs of two lengths": (
        lambda: scan(step, X, {"a": np.ones(2), "b": X}), ValueError,
        "scan: the leaves of xs differ in length: xs['a']: 2, xs['b']: 3.",
    ),
    "xs a scalar": (
        lambda: scan(step, X, {"a": 1.0}), ValueError,
        "scan: xs['a'] is a scalar of type f32[]~; xs must have a leading axis. Close over what is the same",
    ),
    "another length": (
        lambda: scan(step, X, X, length=2), ValueError,
        "scan: length is 2, and xs has length 3; leave length out.",
    ),
    "no length": (lambda: scan(step, X), ValueError, "scan: xs has no arrays, so length must be given."),
    "a length below zero": (
        lambda: scan(step, X, length=-1), ValueError, "scan: length must be at least 0, got -1.",
    ),
    "a length that is traced": (
        lambda: ft.jit(lambda n: scan(step, 1.0, length=n))(3), TypeError, "scan: length must be a Python int, got",
    ),
    "unroll of zero": (
        lambda: scan(step, X, X, unroll=0), ValueError, "scan: unroll must be at least 1, got 0.",
    ),
    "scan of no function": (
        lambda: scan(3.0, X, X), TypeError, "scan: expected a function as f, got float (3.0).",  # pyright: ignore
    ),
    "map over two lengths": (
        lambda: ft.lax.map(same, (X, np.ones(2))), ValueError,
        "map: the leaves of xs differ in length: xs[0]: 3, xs[1]: 2.",
    ),
    "map to no array": (
        lambda: ft.lax.map(lambda x: "text", X), TypeError, "map: the result of f (<lambda>) is a str ('text')",
    ),
    "map of no batch": (
        lambda: ft.lax.map(same, X, batch_size=0), ValueError, "map: batch_size must be at least 1, got 0.",
    ),
    "predicate an array": (
        lambda: while_loop(lambda v: v < 3, same, X), TypeError,
        "while_loop: cond_fun (<lambda>) must return a boolean scalar, got bool[3]; reduce it with .all() or .any().",
    ),
    "predicate a float": (
        lambda: while_loop(lambda v: v, same, np.float32(1)), TypeError,
        "must return a boolean scalar, got f32[]; compare it with a number.",
    ),
    "predicate a pytree": (
        lambda: while_loop(lambda v: (v < 3,), same, 1.0), TypeError,
        "must return a boolean scalar, got the pytree PyTreeDef((*,)); return one value.",
    ),
    "predicate an array, with max_steps": (
        lambda: while_loop(lambda v: v < 3, same, X, max_steps=4), TypeError,
        "while_loop: cond_fun (<lambda>) must return a boolean scalar, got bool[3];",
    ),
    "val of another type": (
        lambda: while_loop(lambda v: v[0] < 3, lambda v: (v[0] + 1, v[1] * 1j), (0, X)), TypeError,
        "while_loop: body_fun (<lambda>) must return the types of init_val; [1] differs:\n  [0]  i32[]~ -> i32[]~\n"
        "  [1]  f32[3] -> c64[3]   <- differs\nCast what is in init_val to complex64, or what body_fun (<lambda>)",
    ),
    "val of another type, with max_steps": (
        lambda: while_loop(going, lambda v: v[0], X, max_steps=4), TypeError,
        "must return the types of init_val; the carry differs:\n  carry  f32[3] -> f32[]   <- differs\nKeep the shape",
    ),
    "body no function": (
        lambda: while_loop(going, None, X), TypeError,  # pyright: ignore
        "while_loop: expected a function as body_fun, got NoneType (None).",
    ),
    "max_steps of zero": (
        lambda: while_loop(going, same, X, max_steps=0), ValueError, "while_loop: max_steps must be at least 1, got 0.",
    ),
    "max_steps a float": (
        lambda: while_loop(going, same, X, max_steps=2.5), TypeError,  # pyright: ignore
        "while_loop: max_steps must be a Python int, got 2.5.",
    ),
    "too few checkpoints": (
        lambda: while_loop(going, same, X, checkpoints=3), ValueError,
        "while_loop: checkpoints must be at least 4, got 3.",
    ),
    "derivative of a stopped loop": (
        lambda: ft.grad(lambda x: while_loop(small, lambda v: 2 * v, x, max_steps=3))(1.0), ValueError,
        "while_loop: the loop was stopped by max_steps=3 before cond_fun became false, so what it returns is not the "
        "loop's result and has no derivative; raise max_steps.",
    ),
    "a bound that is no integer": (
        lambda: fori_loop(0, 2.5, lambda i, v: v, 1.0), TypeError,
        "fori_loop: upper must be an integer scalar, got 2.5.",
    ),
    "a bound that is an array": (
        lambda: fori_loop(np.arange(2), 2, lambda i, v: v, 1.0), TypeError,
        "fori_loop: lower must be an integer scalar, got array([0, 1]).",
    ),
    "bounds of two dtypes": (
        lambda: fori_loop(jnp.int32(0), jnp.int8(2), lambda i, v: v, 1.0), TypeError,
        "fori_loop: lower and upper must have one dtype, got i32[] and i8[]; cast one of them.",
    ),
    "unroll of traced bounds": (
        lambda: fori_loop(0, jnp.int32(2), lambda i, v: v, 1.0, unroll=2), ValueError,
        "fori_loop: unroll needs bounds that are Python ints.",
    ),
    "fori_loop of another type": (
        lambda: fori_loop(0, 2, lambda i, v: v * 0.5, np.int32(1)), TypeError,
        "fori_loop: body_fun (<lambda>) must return the types of init_val; the carry differs:\n"
        "  carry  i32[] -> f32[]~   <- differs",
    ),
    "fori_loop of traced bounds, of another structure": (
        lambda: fori_loop(0, jnp.int32(2), lambda i, v: (v, v), X), TypeError,
        "fori_loop: body_fun (<lambda>) must return the pytree structure of init_val; the carry, [0], [1] differ",
    ),
    "pred an array": (
        lambda: cond(X > 0, same, same, X), TypeError,
        "cond: pred must be a scalar, got bool[3]; reduce it with .all() or .any(), or select between arrays entry by "
        "entry with functrace.numpy.where.",
    ),
    "pred a pytree": (lambda: cond((True,), same, same, X), TypeError, "cond: pred must be a scalar, got (True,)."),
    "pred no array": (lambda: cond("yes", same, same, X), TypeError, "cond: pred is a str ('yes'), not an array"),
    "pred complex": (
        lambda: cond(1j, same, same, X), TypeError, "cond: pred must be a boolean or a real number, got c64[]~.",
    ),
    "branches of two structures": (
        lambda: cond(True, same, lambda x: (x,), X), TypeError,
        "cond: the branches must return one pytree structure.\n  false_fun (<lambda>): PyTreeDef((*,))\n"
        "  true_fun (<lambda>): PyTreeDef(*)\nReturn the same containers from each.",
    ),
    "branches of two shapes": (
        lambda: cond(True, lambda x: {"a": x, "b": x}, lambda x: {"a": x, "b": x[0]}, X), TypeError,
        "cond: the branches must return values of one type; leaf ['b'] differs:\n  false_fun (<lambda>): f32[]\n"
        "  true_fun (<lambda>): f32[3]\nBroadcast them to one shape.",
    ),
    "branches of two dtypes": (
        lambda: switch(1, [same, same, lambda x: x > 0], X), TypeError,
        "switch: the branches must return values of one type; the result differs:\n  branch 0 (<lambda>): f32[3]\n"
        "  branch 1 (<lambda>): f32[3]\n  branch 2 (<lambda>): bool[3]\nCast them to one dtype.",
    ),
    "branch no function": (
        lambda: cond(True, same, 3.0, X), TypeError,  # pyright: ignore
        "cond: expected a function as false_fun, got float (3.0).",
    ),
    "one of the branches no function": (
        lambda: switch(0, [same, 3], X), TypeError,  # pyright: ignore
        "switch: expected a function as branches[1], got int (3).",
    ),
    "branches no sequence": (
        lambda: switch(0, same, X), TypeError, "switch: branches must be a sequence of functions, got one.",  # pyright: ignore
    ),
    "no branches": (lambda: switch(0, [], X), ValueError, "switch: there must be at least one branch."),
    "index a float": (
        lambda: switch(1.0, [same, same], X), TypeError,
        "switch: index must be an integer scalar, got f32[]~; cast it with .astype(int).",
    ),
    "index an array": (
        lambda: switch(np.arange(2), [same, same], X), TypeError,
        "switch: index must be a scalar, got i32[2]; choose a branch for each entry with functrace.vmap",
    ),
    "batched another way": (
        lambda: cond(True, same, same, X, batched="nonsense"), ValueError,  # pyright: ignore
        "cond: batched must be 'select' or 'map', got 'nonsense'.",
    ),
    "batched another way, of one branch": (
        lambda: switch(0, [same], X, batched="nonsense"), ValueError,  # pyright: ignore
        "switch: batched must be 'select' or 'map', got 'nonsense'.",
    ),
    "prefixes over two lengths": (
        lambda: associative_scan(np.add, {"a": X, "b": np.ones(2)}), ValueError,
        "associative_scan: elems must have arrays of one size along the axis, got elems['a']: 3, elems['b']: 2.",
    ),
    "prefixes along no axis": (
        lambda: associative_scan(np.add, {"w": np.ones((3, 2)), "v": X}, axis=1), ValueError,
        "associative_scan: elems['v'] has type f32[3], which has no axis 1.",
    ),
    "prefixes of another shape": (
        lambda: associative_scan(lambda a, b: a.sum(), X), TypeError,
        "associative_scan: fn (<lambda>) must return the types of its arguments; the carry differs:",
    ),
    "prefixes of another structure": (
        lambda: associative_scan(lambda a, b: (a, b), X), TypeError,
        "associative_scan: fn (<lambda>) must return the pytree structure of its arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_message(row):
    run, builtin, message = ROWS[row]
    with pytest.raises(FunctraceError, match=re.escape(message)) as caught:
        run()
    assert isinstance(caught.value, builtin)
    assert re.search(r"  \(test_errors\.py:\d+, in \S+\)$", str(caught.value))


def test_derivative_of_a_stopped_loop_is_nan_under_jit():
    doubled = lambda x: while_loop(small, lambda v: 2 * v, x, max_steps=3)
    assert ft.jit(doubled)(1.0) == 8.0
    assert np.isnan(ft.jit(ft.grad(doubled))(1.0))
    assert np.isnan(ft.jit(lambda x: ft.jvp(doubled, (x,), (1.0,))[1])(1.0))
    assert ft.jit(ft.grad(doubled))(20.0) == 8.0  # three steps were enough


def recording(seen):
    """The identity, which notes the values that it is called with."""

    def note(x):
        jax.debug.callback(lambda v: seen.append(float(v)), x)
        return x

    return ft.from_jax(note)


def looped_with_effect(seen, where):
    note = recording(seen)
    if where == "body":
        return lambda x: while_loop(small, lambda v: 3.0 * note(v), x)
    return lambda x: while_loop(lambda v: note(v) < 100.0, lambda v: 3.0 * v, x)


@pytest.mark.parametrize("where", ["body", "predicate"])
def test_effect_in_a_while_loop(where):
    """It happens once a step in plain evaluation and forward mode, and reverse mode is refused."""
    seen = []
    f = looped_with_effect(seen, where)
    once = [2.0, 6.0, 18.0, 54.0] + ([162.0] if where == "predicate" else [])
    for run in (lambda: f(2.0), lambda: ft.jit(f)(2.0), lambda: ft.jvp(f, (2.0,), (1.0,))[0]):
        seen.clear()
        assert run() == 162.0
        jax.effects_barrier()
        assert seen == once
    for run in (lambda: ft.grad(f)(2.0), lambda: ft.jit(ft.grad(f))(2.0), lambda: ft.linearize(f, 2.0)):
        with pytest.raises(FunctraceError, match=r"has an effect \(debug_callback\).*more than once.*test_errors.py"):
            run()


def test_effect_in_a_scan_happens_once_in_reverse_mode():
    seen = []
    note = recording(seen)
    f = lambda x: scan(lambda s, _: (note(s) * s, None), x, None, length=3)[0]
    assert ft.grad(f)(2.0) == 8 * 2.0**7
    jax.effects_barrier()
    assert seen == [2.0, 4.0, 16.0]
