"""Taps and hooks, against plain Python: a value is what a list collects, a cotangent the derivative in a zero that was
added there."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ArgumentError, DtypeError, RuleError

X, W = 0.7, 1.3
ROWS = np.float32([0.7, -0.4, 1.1])


def step(np_, h, w):
    return np_.sin(h * w) + h * h


def straight(np_, mark, x, w):
    return mark(step(np_, x, w)) ** 2


def in_jit(np_, mark, x, w):
    return ft.jit(lambda x, w: mark(step(np_, x, w)) * w)(x, w)


def in_checkpoint(np_, mark, x, w):
    return ft.checkpoint(lambda x: mark(step(np_, x, w)) * w)(x) ** 2


def in_scan(np_, mark, x, w):
    def body(h, _):
        h = mark(step(np_, h, w))
        return h, h

    h, hs = ft.lax.scan(body, x, None, length=3)
    return h + np_.sum(hs)


def in_scan_reversed(np_, mark, x, w):
    def body(h, c):
        return mark(step(np_, h, c * w)), None

    return ft.lax.scan(body, x, fnp.arange(1.0, 4.0), reverse=True)[0]


def in_while(np_, mark, x, w):
    def body(state):
        return state[0] + 1, mark(step(np_, state[1], w))

    return ft.lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]


def in_branch(np_, mark, x, w):
    return ft.lax.cond(w > 0, lambda x: mark(step(np_, x, w)) * 3, lambda x: x, x)


def loop(np_, mark, x, w):
    total, h = 0.0, x
    for _ in range(3):
        h = mark(step(np_, h, w))
        total = total + h
    return h + total


def loop_reversed(np_, mark, x, w):
    for c in (3.0, 2.0, 1.0):
        x = mark(step(np_, x, c * w))
    return x


def last_of_loop(np_, mark, x, w):
    for _ in range(3):
        x = mark(step(np_, x, w))
    return x


def times(np_, mark, x, w):
    return mark(step(np_, x, w)) * w


def times_squared(np_, mark, x, w):
    return times(np_, mark, x, w) ** 2


def times_three(np_, mark, x, w):
    return mark(step(np_, x, w)) * 3


def every(values):
    return np.stack(values) if len(values) > 1 else values[0]


# With functrace; the same in plain Python; which of the values, and of the cotangents, are collected.
CASES = {
    "straight": (straight, straight, every, every),
    "jit": (in_jit, times, every, every),
    "checkpoint": (in_checkpoint, times_squared, every, every),
    "scan": (in_scan, loop, every, every),
    "scan reversed": (in_scan_reversed, loop_reversed, lambda v: every(v[::-1]), lambda v: every(v[::-1])),
    "while": (in_while, last_of_loop, lambda v: v[-1], lambda v: v[0]),
    "cond": (in_branch, times_three, every, every),
}


def in_plain_python(plain, x, w):
    """Values and cotangents of what `mark` marks, in order."""
    values = []
    plain(jnp, lambda h: values.append(h) or h, x, w)

    def with_zeros(zeros):
        rest = iter(zeros)
        return plain(jnp, lambda h: h + next(rest), x, w)

    return values, jax.grad(with_zeros)([jnp.zeros_like(v) for v in values])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_cotangents(case):
    ours, plain, of_values, of_cotangents = case
    marked = lambda x: ours(fnp, lambda h: ft.tap(ft.tap(h, "value"), "cotangent", cotangent=True), x, W)
    values, cotangents = in_plain_python(plain, X, W)
    y, seen = ft.debug.taps(marked)(X)
    np.testing.assert_allclose(y, plain(jnp, lambda h: h, X, W), rtol=1e-5)
    assert list(seen) == ["value"]
    np.testing.assert_allclose(seen["value"], of_values(values), rtol=1e-5)
    for taps in (ft.debug.taps(ft.grad(marked)), ft.jit(ft.debug.taps(ft.jit(ft.grad(marked))))):
        g, seen = taps(X)
        np.testing.assert_allclose(g, jax.grad(lambda x: plain(jnp, lambda h: h, x, W))(X), rtol=1e-4)
        np.testing.assert_allclose(seen["value"], of_values(values), rtol=1e-5)
        np.testing.assert_allclose(seen["cotangent"], of_cotangents(cotangents), rtol=1e-4)


@pytest.mark.parametrize("name", ["straight", "scan", "while", "cond"])
def test_rows_of_vmap(name):
    ours, plain, of_values, of_cotangents = CASES[name]
    marked = lambda x: ours(fnp, lambda h: ft.tap(ft.tap(h, "value"), "cotangent", cotangent=True), x, W)
    rows = [in_plain_python(plain, x, W) for x in ROWS]
    for axis, taps in ((1, ft.debug.taps(ft.vmap(ft.grad(marked)))), (0, ft.vmap(ft.debug.taps(ft.grad(marked))))):
        _, seen = taps(ROWS)
        axis = axis if name == "scan" else 0  # a scan stacks in front of the rows that are mapped inside
        np.testing.assert_allclose(seen["value"], np.stack([of_values(v) for v, _ in rows], axis), rtol=1e-5)
        np.testing.assert_allclose(seen["cotangent"], np.stack([of_cotangents(c) for _, c in rows], axis), rtol=1e-4)


@pytest.mark.parametrize("name", ["straight", "checkpoint", "scan", "cond"])
def test_second_order(name):
    """The gradient of a tapped gradient, and both collected from the gradient of the gradient."""
    ours, plain, of_values, _ = CASES[name]
    marked = lambda x: ours(fnp, lambda h: ft.tap(ft.tap(h, "value"), "cotangent", cotangent=True), x, W)
    expected = jax.grad(jax.grad(lambda x: plain(jnp, lambda h: h, x, W)))(X)
    g, seen = ft.debug.taps(ft.grad(ft.grad(marked)))(X)
    np.testing.assert_allclose(g, expected, rtol=1e-4)
    np.testing.assert_allclose(seen["value"], of_values(in_plain_python(plain, X, W)[0]), rtol=1e-5)
    first = ft.debug.taps(ft.grad(marked))(X)[1]["cotangent"]
    both = seen["cotangent"]  # the inner gradient's, and the outer one's where it comes by
    np.testing.assert_allclose(both[0] if isinstance(both, tuple) else both, first, rtol=1e-5)
    slope = ft.grad(lambda x: fnp.sum(ft.debug.taps(ft.grad(marked))(x)[1]["cotangent"]))(X)
    e = 1e-2
    numeric = [np.sum(ft.debug.taps(ft.grad(marked))(np.float32(X + s))[1]["cotangent"]) for s in (e, -e)]
    np.testing.assert_allclose(slope, (numeric[0] - numeric[1]) / (2 * e), rtol=2e-2, atol=1e-2)


def test_names():
    """Scopes and paths are in names, and a name that is tapped twice has both values."""

    def f(x):
        with ft.named_scope("encoder"):
            h = ft.tap({"left": x, "right": (2 * x, 3)}, "h")
        for _ in range(2):
            x = ft.tap(x * h["right"][0], "twice")
        return x

    y, seen = ft.debug.taps(f)(2.0)
    assert float(y) == 32.0
    assert {k: v for k, v in seen.items() if k != "twice"} == {
        "encoder/h['left']": 2.0, "encoder/h['right'][0]": 4.0, "encoder/h['right'][1]": 3,
    }  # fmt: skip
    assert tuple(map(float, seen["twice"])) == (8.0, 32.0)
    shared = ft.jit(lambda x: ft.tap(x, "h"))

    def layers(x):
        for name in ("first", "second"):
            with ft.named_scope(name):
                x = shared(x) + 1
        return x

    assert ft.debug.taps(layers)(1.0)[1] == {"first/h": 1.0, "second/h": 2.0}


def test_what_is_not_there():
    """Loops of no step, and branches not taken."""
    taken = lambda x: ft.lax.cond(x > 0, lambda x: ft.tap(x, "a"), lambda x: ft.tap(-x, "b") + ft.tap(1, "n"), x)
    seen = ft.debug.taps(taken)(2.0)[1]
    assert float(seen["a"]) == 2.0 and np.isnan(seen["b"]) and int(seen["n"]) == 0
    seen = ft.debug.taps(ft.vmap(taken))(np.float32([2.0, -3.0]))[1]
    np.testing.assert_array_equal(seen["b"], [np.nan, 3.0])
    none = lambda x: ft.lax.while_loop(lambda s: s > 9, lambda s: ft.tap(s - 1, "s"), x)
    assert np.isnan(ft.debug.taps(none)(2.0)[1]["s"])
    same = lambda x: ft.lax.cond(x > 0, lambda x: ft.tap(x, "a"), lambda x: ft.tap(-x, "a"), x)
    assert float(ft.debug.taps(same)(-2.0)[1]["a"]) == 2.0


def test_unread_values_are_collected():
    def f(x):
        ft.tap(x + 1, "unread")

        def look(ct):
            ft.tap(ct, "seen")

        return 3 * ft.on_backward(x, look)

    assert ft.debug.taps(ft.grad(f))(2.0)[1] == {"unread": 3.0, "seen": 3.0}


def test_custom_rules():
    """Values are the function's own, or its rule's once it is differentiated."""

    @ft.custom_vjp
    def f(x):
        return ft.tap(x * x, "function")

    f.defvjp(lambda x: (ft.tap(x * x, "rule"), x), lambda x, ct: (ft.tap(2 * x * ct, "ct"),))
    assert ft.debug.taps(f)(3.0) == (9.0, {"function": 9.0})
    assert ft.debug.taps(ft.grad(f))(3.0) == (6.0, {"rule": 9.0, "ct": 6.0})
    assert ft.grad(lambda x: ft.debug.taps(f)(x)[0])(3.0) == 6.0
    assert ft.grad(lambda x: ft.debug.taps(f)(x)[1]["function"])(3.0) == 6.0

    @ft.custom_jvp
    def g(x):
        return ft.tap(x * x, "function")

    g.defjvp(lambda xs, dxs: (g(*xs), 2 * xs[0] * dxs[0]))
    assert ft.debug.taps(g)(3.0) == (9.0, {"function": 9.0})
    assert ft.debug.taps(ft.grad(g))(3.0) == (6.0, {"function": 9.0})


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_of_a_tap(name):
    """Where nothing collects, JAX is given the same program, gradient included."""
    ours = CASES[name][0]
    tapped = lambda h: ft.tap(ft.tap(h, "value"), "cotangent", cotangent=True)

    def text(mark):
        program = jax.jit(ft.grad(lambda x: ours(fnp, mark, x, W))).lower(np.float32(X)).compile().as_text()
        return sorted(line.split("metadata")[0].split("=", 1)[-1].count("(") for line in program.splitlines())

    assert text(tapped) == text(lambda h: h)


# Hooks.

HOOKS = {
    "scale": (lambda ct: 3.0 * ct, True),
    "reverse": (lambda ct: -ct, True),
    "clip": (lambda ct: fnp.clip(ct, -1.0, 1.0), False),
    "normalise": (lambda ct: ct / fnp.sqrt(fnp.sum(ct * ct) + 1e-6), False),
    "look": (lambda ct: None, True),
}
V = np.float32([0.3, -1.2, 0.8])


def cubed(fn):
    return lambda x: fnp.sum(fnp.sin(ft.on_backward(x * x, fn)) * fnp.arange(1.0, 4.0) * x)


@pytest.mark.parametrize("name", HOOKS)
def test_hook_in_every_mode(name):
    fn, is_linear = HOOKS[name]
    f = cubed(fn)
    # What it is: the derivative of the square, times fn of the cotangent that comes to it, plus the direct path.
    ct = np.cos(V * V) * np.arange(1.0, 4.0, dtype=np.float32) * V
    changed = fn(jnp.asarray(ct))
    changed = ct if changed is None else changed
    expected = np.sin(V * V) * np.arange(1.0, 4.0) + 2 * V * np.asarray(changed)
    for g in (ft.grad(f), ft.jit(ft.grad(f)), ft.grad(ft.jit(f)), jax.grad(f), jax.jit(jax.grad(f)), ft.jacrev(f)):
        np.testing.assert_allclose(g(V), expected, rtol=1e-5)
    rows = np.stack([V, V[::-1]])
    by_row = np.stack([ft.grad(f)(r) for r in rows])
    np.testing.assert_allclose(ft.vmap(ft.grad(f))(rows), by_row, rtol=1e-5)
    np.testing.assert_allclose(ft.grad(lambda rows: fnp.sum(ft.vmap(f)(rows)))(rows), by_row, rtol=1e-5)
    if is_linear:
        np.testing.assert_allclose(ft.jacfwd(f)(V), expected, rtol=1e-5)
        np.testing.assert_allclose(ft.jacfwd(ft.grad(f))(V), ft.jacrev(ft.grad(f))(V), rtol=1e-4)
    else:
        with pytest.raises(RuleError, match=r"on_backward at test_hooks.py:\d+: forward mode .*not linear"):
            ft.jvp(f, (V,), (V,))


@pytest.mark.parametrize("name", ["scale", "clip", "normalise"])
def test_second_derivatives_are_pytorchs(name):
    """A hook stays in derivatives of derivatives, as register_hook does with create_graph."""
    torch = pytest.importorskip("torch")
    hooks = {"scale": lambda ct: 3.0 * ct, "clip": lambda ct: ct.clamp(-1.0, 1.0),
             "normalise": lambda ct: ct / torch.sqrt(torch.sum(ct * ct) + 1e-6)}  # fmt: skip
    f = cubed(HOOKS[name][0])
    x = torch.tensor(V, requires_grad=True)
    h = x * x
    h.register_hook(hooks[name])
    y = torch.sum(torch.sin(h) * torch.arange(1.0, 4.0) * x)
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    np.testing.assert_allclose(ft.grad(f)(V), first.detach().numpy(), rtol=1e-5)
    (second,) = torch.autograd.grad(torch.sum(first**2), x)
    ours = ft.grad(lambda v: fnp.sum(ft.grad(f)(v) ** 2))(V)
    np.testing.assert_allclose(ours, second.numpy(), rtol=1e-4)
    np.testing.assert_allclose(jax.grad(lambda v: jnp.sum(jax.grad(f)(v) ** 2))(V), second.numpy(), rtol=1e-4)


def test_hook_closes_over_what_is_differentiated():
    f = lambda x, w: ft.on_backward(x, lambda ct: ct * w) ** 2 * w
    assert ft.grad(f, (0, 1))(3.0, 5.0) == (150.0, 9.0)
    assert ft.grad(lambda w: ft.grad(f)(3.0, w))(5.0) == 2 * 3.0 * 2 * 5.0
    assert jax.grad(f, (0, 1))(3.0, 5.0) == (150.0, 9.0)


def test_hook_of_a_pytree_in_a_scan():
    """One hook sees all leaves, at every step: the gradient is clipped by its global norm there."""

    def clip(cts):
        norm = fnp.sqrt(cts["a"] ** 2 + cts["b"] ** 2)
        scale = fnp.minimum(1.0, 1.0 / norm)
        return {"a": cts["a"] * scale, "b": cts["b"] * scale, "n": cts["n"]}

    def f(a, b):
        def body(s, _):
            s = ft.on_backward(s, clip)
            return {"a": s["a"] * s["b"], "b": s["b"] + s["a"], "n": s["n"] + 1}, None

        s, _ = ft.lax.scan(body, {"a": a, "b": b, "n": 0}, None, length=2)
        return s["a"] + s["b"]

    states = [(2.0, 3.0), (6.0, 5.0)]
    ct = np.array([1.0, 1.0])
    for a, b in reversed(states):
        ct = np.array([ct[0] * b + ct[1], ct[0] * a + ct[1]])
        ct = ct * min(1.0, 1.0 / np.hypot(*ct))
    np.testing.assert_allclose(ft.grad(f, (0, 1))(2.0, 3.0), ct, rtol=1e-5)


def test_hook_that_is_not_linear_in_loops():
    """Reverse mode asks for no transpose of it, wherever it stands."""
    clip = lambda h: ft.on_backward(h, lambda ct: fnp.clip(ct, -1.0, 1.0))
    expected = jax.grad(lambda x: last_of_loop(jnp, JAX_CLIP, x, 3.0))(X)
    np.testing.assert_allclose(ft.grad(lambda x: in_while(fnp, clip, x, 3.0))(X), expected, rtol=1e-4)
    counted = lambda x: ft.lax.fori_loop(0, 3, lambda _, h: clip(step(fnp, h, 3.0)), x)
    np.testing.assert_allclose(ft.grad(counted)(X), expected, rtol=1e-4)


@jax.custom_vjp
def JAX_CLIP(x):
    return x


JAX_CLIP.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -1.0, 1.0),))

MISTAKES = {
    "shape": (lambda x: ft.on_backward(x, lambda ct: fnp.sum(ct)), DtypeError,
              r"argument 0 and returned f32\[\]; it must return one of that shape .*test_hooks.py"),
    "structure": (lambda x: ft.on_backward(x, lambda ct: (ct, ct)), DtypeError, "what fn returns must have the pytree"),
    "not a function": (lambda x: ft.on_backward(x, 3.0), DtypeError, "expected a function as fn, got float"),
    "name": (lambda x: ft.tap(x, ""), ArgumentError, "a name must be a string that is not empty, got ''"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(case):
    f, error, message = case
    with pytest.raises(error, match=message):
        ft.vjp(f, V)


def test_refused():
    """What cannot be collected says so."""

    def wave(x):
        body = lambda s: (s[0] + 1, ft.tap(fnp.sin(s[1]), "ct", cotangent=True))
        return ft.lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]

    with pytest.raises(RuleError, match=r"linear_pair: values tapped inside one cannot be collected.*test_hooks.py"):
        ft.debug.taps(ft.grad(ft.grad(wave)))(1.0)
    assert np.isfinite(ft.grad(ft.grad(wave))(1.0))
