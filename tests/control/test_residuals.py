"""What the forward pass of a scan keeps for its backward pass: no more than JAX's, and less where that is cheap."""

from itertools import combinations

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.control import Scan
from functrace.control.again import least_kept
from functrace.ir import Literal

LENGTH = 7
H = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)
W = np.linspace(0.5, -0.5, 32, dtype=np.float32).reshape(4, 8)


def gated(n, w, h):
    gates = h @ w
    keep, new = 1 / (1 + n.exp(-gates[:, :4])), n.tanh(gates[:, 4:])
    return keep * h + (1 - keep) * new


def runge_kutta(n, w, h):
    rate = lambda h: (h * h - h) * w[0, :4]
    a = rate(h)
    b = rate(h + 0.05 * a)
    return h + 0.1 * rate(h + 0.1 * b)


def normed(n, w, h):
    centred = h - h.mean(-1, keepdims=True)
    return centred / n.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[1, :4] + n.maximum(h @ w[:, :4], 0)


def softmaxed(n, w, h):
    z = h @ w
    weight = n.exp(z - z.max(-1, keepdims=True))
    return (weight / weight.sum(-1, keepdims=True))[:, :4] + h


def fed(n, w, h):  # the gelu of a product: of all that is made of the product, the product is kept
    z = h @ w
    return h + (0.5 * z * (1 + n.tanh(0.8 * (z + 0.044715 * z**3)))) @ w.T


STEPS = {"gated": gated, "fed": fed, "Runge-Kutta": runge_kutta, "normed": normed, "softmax": softmaxed}


def loss_of(step, n, scan):
    return lambda w, h: (scan(lambda h, _: (step(n, w, h), None), h, None, length=LENGTH)[0] ** 2).sum()


def kept_by_jax(loss):
    """Bytes of the stacks that the first scan of JAX's gradient makes; its carry has no axis of their length."""
    first = next(q for q in jax.make_jaxpr(jax.grad(loss))(W, H).jaxpr.eqns if q.primitive.name == "scan")
    return sum(v.aval.size * v.aval.dtype.itemsize for v in first.outvars if v.aval.shape[:1] == (LENGTH,))


def kept_by_functrace(loss):
    """The same of functrace's."""
    first = next(e for e in ft.make_program(ft.grad(loss))(W, H).equations if type(e.primitive) is Scan)
    return sum(v.aval.size * v.aval.dtype.itemsize for v in first.outputs[first.primitive.carry :])


@pytest.mark.parametrize("name", STEPS)
def test_a_scan_keeps_no_more_than_in_jax(name):
    ours, theirs = loss_of(STEPS[name], fnp, lax.scan), loss_of(STEPS[name], jnp, jax.lax.scan)
    assert kept_by_functrace(ours) <= kept_by_jax(theirs)
    for a, b in zip(ft.grad(ours, (0, 1))(W, H), jax.grad(theirs, (0, 1))(W, H), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
    moved = ft.jvp(ft.grad(ours), (W, H), (W, H))[1]
    np.testing.assert_allclose(moved, jax.jvp(jax.grad(theirs), (W, H), (W, H))[1], rtol=2e-4, atol=2e-4)


def test_the_input_of_an_activation_is_kept_in_place_of_what_is_made_of_it():
    sizes = H.nbytes + (H @ W).nbytes
    assert kept_by_functrace(loss_of(fed, fnp, lax.scan)) == LENGTH * sizes


def test_which_is_the_greatest_is_kept():
    """The row is computed again of what is kept, perhaps rounded otherwise than where its maximum was found."""

    def loss(a, h):
        def step(h, _):
            x = h * a + 0.1
            return h * a * 0.3 + x.max(-1, keepdims=True) * fnp.tanh(x) * h, None

        return lax.scan(step, h, None, length=LENGTH)[0].sum()

    first = next(e for e in ft.make_program(ft.grad(loss))(H, H + 1).equations if type(e.primitive) is Scan)
    assert [v.aval.dtype for v in first.outputs[first.primitive.carry :]].count(bool) == 1
    np.testing.assert_allclose(ft.jit(ft.grad(loss))(H, H + 1), jax.grad(ft.from_jax(loss))(H, H + 1), rtol=1e-5)


WHOLE = {
    "floor": fnp.floor,
    "round": fnp.round,
    "rem": lambda x: lax.rem(x, 0.7),
    "int": lambda x: x.astype("int32").astype("float32"),
    "equal": lambda x: (x == x[:, ::-1]).astype("float32"),
}


@pytest.mark.parametrize("name", [*WHOLE, "abs"])
def test_what_jumps_is_kept(name):
    """Of a number that is computed again: rounded otherwise, the backward pass would have another whole one."""

    def loss(a, h):
        def step(h, _):
            x = fnp.exp(h * a)
            return h * a * 0.3 + WHOLE.get(name, fnp.abs)(x) * fnp.tanh(x) * h * 0.1, None

        return lax.scan(step, h, None, length=LENGTH)[0].sum()

    first = next(e for e in ft.make_program(ft.grad(loss))(H, H + 1).equations if type(e.primitive) is Scan)
    kept = sorted([v.aval.dtype.kind for v in first.outputs[first.primitive.carry :]])
    assert kept == {"abs": ["f"], "equal": ["b", "f"]}.get(name, ["f", "f"])
    np.testing.assert_allclose(ft.jit(ft.grad(loss))(H, H + 1), jax.grad(ft.from_jax(loss))(H, H + 1), rtol=1e-5)


def test_what_both_halves_count_is_not_kept():
    """The number of the step is a carry of the backward pass too; a row that is made of it needs no stack."""

    def loss(h):
        def step(carry, _):
            i, h = carry
            row = (i * np.arange(4)).astype("float32")
            return (i + 1, fnp.sin(h) * i + h * row * 0.1), None

        return lax.scan(step, (0, h), None, length=LENGTH)[0][1].sum()

    first = next(e for e in ft.make_program(ft.grad(loss))(H).equations if type(e.primitive) is Scan)
    assert [v.aval.shape for v in first.outputs[first.primitive.carry :]] == [(LENGTH, *H.shape)]
    np.testing.assert_allclose(ft.jit(ft.grad(loss))(H), jax.grad(ft.from_jax(loss))(H), rtol=1e-5)


def test_what_is_kept_has_the_fewest_bytes(monkeypatch):
    """Of random equations, compared with all choices of up to four; chains may have any length."""
    monkeypatch.setattr("functrace.control.again.LONGEST", 99)
    rng = np.random.default_rng(0)
    for _ in range(40):
        program = random_program(rng)
        values = [*program.inputs[1:], *[v for eqn in program.equations for v in eqn.outputs]]
        wanted = [values[i] for i in sorted(rng.choice(len(values), 3, replace=False))]
        kept, again = least_kept(program.equations, set(program.inputs[:1]), wanted)
        ways = [set(vs) for n in range(5) for vs in combinations(values, n)]
        assert size(kept) <= min([size(way) for way in ways if tells(program, way, wanted)])
        made = {*kept, *program.inputs[:1]}
        for eqn in again:
            assert made.issuperset([x for x in eqn.inputs if type(x) is not Literal])
            made.update(eqn.outputs)
        assert made.issuperset(wanted)


def size(values):
    return sum([v.aval.size * v.aval.dtype.itemsize for v in values])


def random_program(rng):
    """Cheap and other operations on arrays of two sizes; the first input is given."""

    def fun(x, y, row):
        values = [x, y, row]
        for _ in range(7):
            a, b = [values[i] for i in rng.integers(len(values), size=2)]
            kind = rng.integers(4)
            values.append([a + b, a * b - 0.5, fnp.exp(a) + 0.0 * b, (a + b)[:1] * 1.5][kind])
        return values

    return ft.make_program(fun)(np.ones((4, 3)), np.ones((4, 3)), np.ones((1, 3)))


def tells(program, kept, wanted):
    """Whether what is wanted follows cheaply from what is kept and the first input."""
    known = {*kept, program.inputs[0]}
    for eqn in program.equations:
        if eqn.primitive.fuses and known.issuperset([x for x in eqn.inputs if type(x) is not Literal]):
            known.update(eqn.outputs)
    return known.issuperset(wanted)


@pytest.mark.parametrize("name", ["exp", "sqrt", "tanh", "sin", "log1p"])
def test_what_is_quickly_made_of_what_is_kept_is_not_kept(name):
    """Of h * a + b * f(h): the slope in a is h, that in b is f(h), that in h is of these or of another function."""

    def loss(p, h):
        a, b = p
        return lax.scan(lambda h, _: (h * a + b * getattr(fnp, name)(h), None), h, None, length=LENGTH)[0].sum()

    h = np.ones(5, np.float32)
    program = ft.make_program(ft.grad(loss))((0.5 * h, 0.3 * h), h)
    first = next(e for e in program.equations if type(e.primitive) is Scan)
    kept = {"exp": 1, "sqrt": 1, "tanh": 1, "sin": 3, "log1p": 2}  # h; of sin, and its slope cos, the values too
    assert len(first.outputs) - first.primitive.carry == kept[name]
