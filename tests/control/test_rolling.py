"""Repeated equations as loops: which are found, and that nothing else changes."""

import importlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import tree_util

import functrace as ft
from functrace import lax, nn, numpy as fnp, random
from functrace.control.rolling import rolled, size
from functrace.ir.verify import verify
from functrace.lower import evaluate

DEPTH = 6


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def layers(depth=DEPTH, width=4):
    return [(normal(width, width, seed=i) / 2, normal(width, seed=i)) for i in range(depth)]


def layer(params, x):
    w, b = params
    h = fnp.tanh(x @ w + b)
    return x + h * nn.sigmoid(h - 0.5)


def deep(params, x):
    for p in params:
        x = layer(p, x)
    return (x**2).mean()


def first_and_last_differ(params, x):
    x = fnp.sin(x) * 2.0 + 1.0
    for p in params:
        x = layer(p, x)
    return (fnp.cos(x) / 2.0).sum()


def masked(params, x):  # the mask is written in the first layer and read in all
    for w, b in params:
        mask = fnp.tril(fnp.ones((3, 4)))
        x = fnp.tanh((x * mask) @ w + b) + x
    return x.sum()


def of_the_first(params, x):  # what the first layer makes of an input is read by all
    start = x
    for w, b in params:
        x = fnp.tanh((x * fnp.exp(fnp.sin(start))) @ w + b) + x
    return x.sum()


def two_back(params, x):  # an operand of the layer before the last one
    before = x
    for p in params:
        x, before = layer(p, x) + 0.1 * before, x
    return x.sum()


def two_kinds(params, x):
    for i, p in enumerate(params):
        x = layer(p, x) if i % 2 else layer(p, fnp.sin(x))
    return x.sum()


def dropped(params, x):
    key = random.key(0)
    for i, p in enumerate(params):
        keep = random.bernoulli(random.fold_in(key, i), 0.8, (3, 4))
        x = layer(p, x) * keep
    return x.sum()


def timed(params, x):  # numbers of its own in each layer, by themselves and in full shape
    for i, p in enumerate(params):
        column = fnp.full((3, 1), (i + 1) / 7)
        x = layer(p, x) * np.float32(1 / (2 + i)) + column * fnp.sin(0.3 + i) - np.float64(i % 2 + 0.5)
    return x.sum()


def bounded(params, x):  # numbers in full shape that all layers read, written in the first one
    for p in params:
        x = layer(p, x)
        x = fnp.where(x > 2, 2.0, fnp.where(x < -2, -2.0, fnp.where(x == 0, 0.5, x)))
    return x.sum()


@ft.jit
def jitted_layer(params, x):
    return layer(params, x)


def calls(params, x):
    for p in params:
        x = jitted_layer(p, x)
    return x.sum()


def all_states(params, x):
    states = []
    for p in params:
        x = layer(p, x)
        states.append(x)
    return states


def backwards(params, x):
    total = 0.0
    states = all_states(params, x)
    for state in states[::-1]:
        total = fnp.sin(total + state.sum() * 0.1)
    return total


def loops(params, x):
    for p in params:
        x = lax.fori_loop(0, 3, lambda i, x, p=p: layer(p, x), x)
    return x.sum()


def counted(params, x):
    n = x.astype(np.int32).sum()
    for p in params:
        x = layer(p, x) + n.astype(fnp.float32)
        n = n * 2 + 1
    return x.sum(), n


def step(params, x):
    def update(p, g):
        return p - 0.1 * g / (fnp.abs(g) + 1e-3)

    value, grads = ft.value_and_grad(deep)(params, x)
    norm = fnp.sqrt(sum([(g**2).sum() for g in tree_util.tree_leaves(grads)]))
    return value, norm, ft.tree.map(update, params, grads)


PROGRAMS = {  # how often each loop runs
    "deep": (deep, [DEPTH]),
    "first and last differ": (first_and_last_differ, [DEPTH]),
    "mask": (masked, [DEPTH]),
    "of the first": (of_the_first, [DEPTH]),
    "two back": (two_back, [4]),
    "two kinds": (two_kinds, [DEPTH // 2]),
    "dropout": (dropped, [6]),
    "timed": (timed, [6]),
    "bounded": (bounded, [DEPTH]),
    "calls": (calls, [6]),
    "all states": (all_states, [DEPTH]),
    "backwards": (backwards, [5, 6]),
    "loops": (loops, [6]),
    "counted": (counted, [6]),
    "gradient": (ft.grad(deep), [5, 6]),
    "gradient of first and last": (ft.grad(first_and_last_differ), [5, 6]),
    "gradient of calls": (ft.grad(calls), [4, 6]),
    "gradient of dropout": (ft.grad(dropped), [5, 5]),
    "gradient of timed": (ft.grad(timed), [4, 5]),
    "hessian product": (lambda ps, x: ft.jvp(ft.grad(deep), (ps, x), (ps, x))[1], [5, 5]),
    "batch": (lambda ps, x: ft.vmap(ft.grad(deep), (None, 0))(ps, np.stack([x, x + 1])), [5, 6]),
    "step": (step, [5, 6, 6, 6]),
}


def lengths(program):
    return sorted(eqn.primitive.length for eqn in program.equations if eqn.primitive.name == "scan")


def close(ours, plain):
    for y, z in zip(tree_util.tree_leaves(ours), tree_util.tree_leaves(plain), strict=True):
        assert (y.shape, y.dtype) == (z.shape, z.dtype)
        np.testing.assert_allclose(y, z, rtol=2e-5, atol=2e-5 * max(1.0, float(np.max(np.abs(z)))))


def check(fun, *args):
    program = ft.make_program(fun)(*args)
    short = rolled(program, always=True).verify()
    values = tree_util.tree_leaves(args)
    close(jax.jit(lambda xs: evaluate(short, xs))(values), evaluate(program, values))
    return program, short


@pytest.mark.parametrize("name", PROGRAMS)
def test_equals_the_unrolled(name):
    fun, expected = PROGRAMS[name]
    program, short = check(fun, layers(), normal(3, 4))
    assert lengths(short) == expected
    if not any(eqn.primitive.runs() for eqn in program.equations):
        assert len(short.equations) < len(program.equations) or not expected


def test_what_is_made_of_numbers_is_made_in_front():
    def scaled(t, params, x):
        for p in params:
            x = layer(p, x) * fnp.reshape(fnp.exp(t) * 2.0, (1,)) + fnp.reshape(t, (1, 1))
        return x.sum()

    for fun in (scaled, ft.grad(scaled), ft.grad(scaled, 1)):
        check(fun, 0.5, layers(), normal(3, 4))


OPERATIONS = [
    lambda a, b: a + b, lambda a, b: a * b - 0.5, lambda a, b: fnp.sin(a) + b, lambda a, b: a @ fnp.tanh(b),
    lambda a, b: fnp.where(a > 0, a, 0.2 * b), lambda a, b: fnp.maximum(a, b), lambda a, b: b.T + a.sum(0),
    lambda a, b: fnp.exp(-(a**2)) * b, lambda a, b: fnp.concatenate([a[1:], b[:1]]), lambda a, b: a / (1.0 + b**2),
]  # fmt: skip


STEP = st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 9), st.integers(0, 9))


@given(
    st.lists(STEP, min_size=2, max_size=7),
    st.integers(2, 7),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_random_bodies(steps, depth, order, states):
    """Bodies of random operations on what the layers before made, on parameters and on constants."""

    def model(params, x):
        before, seen = fnp.cos(x), []
        for p in params:
            values = [x, p, before, params[0]]
            for operation, i, j in steps:
                values.append(fnp.tanh(OPERATIONS[operation](values[i % len(values)], values[j % len(values)])))
            before, x = x, values[-1]
            seen.append(values[-2])
        return sum([s.sum() for s in seen], x.sum()) if states else x.sum()

    fun = [model, ft.grad(model), lambda ps, x: ft.jvp(ft.grad(model), (ps, x), (ps, x))[1]][order]
    args = [normal(3, 3, seed=i) for i in range(depth)], normal(3, 3)
    close(ft.jit(fun, roll=True)(*args), ft.jit(fun)(*args))


WIDTH = 8


def recurrent(p, xs):  # reads the rows of an input
    h, total = fnp.zeros((4, WIDTH)), 0.0
    for x in xs:
        h = fnp.tanh(x @ p["u"] + h @ p["w"])
        total = total + ((h @ p["u"].T - x) ** 2).mean()
    return total


def trained_inside(p, xs):  # a gradient of gradient steps
    loss = lambda q: ((fnp.tanh(fnp.tanh(xs[0] @ q["u"]) @ q["w"]) - 0.5) ** 2).mean()
    q = p
    for _ in range(len(xs)):
        q = ft.tree.map(lambda a, b: a - 0.1 * b, q, ft.grad(loss)(q))
    return loss(q)


def solved(p, xs):  # conjugate gradients
    a = p["w"] @ p["w"].T + 10.0 * fnp.eye(WIDTH)
    x, r = fnp.zeros(WIDTH), p["w"][0]
    d, rr = r, r @ r
    for _ in xs:
        step = rr / (d @ a @ d + 1e-3)
        x, r = x + step * d, r - step * (a @ d)
        new = r @ r
        d, rr = r + new / (rr + 1e-3) * d, new
    return (x**2).sum()


def integrated(p, xs):  # Runge-Kutta, a method of order 4
    rate = lambda z: fnp.tanh(z @ p["w"])
    z = xs[0] @ p["u"]
    for _ in xs:
        a = rate(z)
        b = rate(z + 0.05 * a)
        c = rate(z + 0.05 * b)
        z = z + 0.1 / 6 * (a + 2 * b + 2 * c + rate(z + 0.1 * c))
    return (z**2).sum()


def scalars(p, xs):  # a chain of operations on numbers
    x = p["u"][0, 0]
    for _ in range(30 * len(xs)):
        x = fnp.sin(x) * x + 0.1
    return x


def indexed(p, xs):  # the rows of one array of parameters are those of layers, in three shapes
    x, weights, biases = xs[0] @ p["u"], fnp.sin(fnp.outer(xs[:, 0, 0], p["w"])), p["w"][0] * xs[:, 0, :1]
    for i in range(len(xs)):
        x = x + fnp.tanh(fnp.sin(x) @ weights[i].reshape(WIDTH, WIDTH) / 9 + biases[i])
    return (x**2).sum() + (biases**2).sum()


def of_columns(p, xs):  # a sequence along an axis that is not the first one, and gates cut from one product
    sequence = fnp.moveaxis(xs, 0, 1) @ p["u"]
    h = sequence[:, 0]
    for i in range(len(xs)):
        a, b = (h @ p["w"])[:, :4], (h @ p["w"])[:, 4:]
        h = fnp.tanh(fnp.concatenate([b, a * sequence[:, i][:, :4]], 1) * 0.5) + sequence[:, i]
    return (h**2).sum()


def gated(p, xs):  # of what is kept for the backward pass, some follows from what follows from the rest
    h = xs[0] @ p["u"]
    for x in xs:
        gate = 1 / (1 + fnp.exp(x @ p["u"] - h @ p["w"]))
        h = gate * h + (1 - gate) * fnp.tanh(h @ p["w"].T) * gate
    return (h**2).sum()


def collected(p, xs):  # states are put together in the end
    h, states = xs[0] @ p["u"], []
    for x in xs:
        h = 0.9 * fnp.tanh(x @ p["u"] + fnp.sin(h) @ p["w"]) + 0.1 * h
        states.append(h)
    return (fnp.stack(states, 1) ** 2).sum()


def at_times(p, xs):  # a solver whose rate depends on time, a number of Python's
    rate = lambda z, t: fnp.tanh(z @ p["w"] + fnp.concatenate([xs[0] @ p["u"][:, 1:], fnp.full((4, 1), t)], 1))
    z = xs[0] @ p["u"]
    for i in range(len(xs)):
        middle = z + 0.05 * rate(z, 0.1 * i)
        z = z + np.float32(0.1 / (1 + i)) * rate(middle, 0.1 * i + 0.05)
    return (z**2).sum()


def turned(p, xs):  # single entries of two tables, of which the steps are the first axis and the second one
    angles, others, h = fnp.sin(xs[:, :2, 0] * p["u"][0, 0]), fnp.cos(xs[:, :2, 1] * p["u"][1, 0]).T, p["w"][0]
    for i in range(len(xs)):
        for k in range(2):
            one, other = h[:4] * angles[i, k], h[4:] * others[k, i]
            h = fnp.concatenate([other - one, one + other])
    return (h**2).sum()


LOOPS = (
    recurrent, gated, collected, at_times, trained_inside, solved, integrated, scalars, indexed, of_columns, turned,
)  # fmt: skip
PAY = {f.__name__: f for f in LOOPS}
STEPS = 60


def numbers():
    """Parameters, and a sequence."""
    return {"u": normal(2, WIDTH) / 2, "w": normal(WIDTH, WIDTH) / 4}, normal(STEPS, 4, 2)


@pytest.mark.parametrize("name", PAY)
def test_what_pays_is_rolled(name):
    """The Program of a gradient does not grow with the steps, and has the gradient's value."""
    fun = ft.value_and_grad(PAY[name])
    args = numbers()
    program = ft.make_program(fun)(*args)
    shorter, short = rolled(ft.make_program(fun)(args[0], args[1][:40])), rolled(program)
    verify(short)
    assert len(lengths(short)) == 2
    assert len(short.equations) <= len(shorter.equations) < 200
    close(tree_util.tree_leaves(ft.jit(fun)(*args)), evaluate(program, tree_util.tree_leaves(args)))


@pytest.mark.parametrize("order", [1, 2])
def test_what_is_rolled_can_be_differentiated_and_batched(order):
    fun = recurrent
    for _ in range(order):
        fun = lambda p, xs, f=fun: sum([(g**2).sum() for g in tree_util.tree_leaves(ft.grad(f)(p, xs))])
    batch = lambda p, xs: ft.vmap(fun, (None, 0))(p, xs)
    p, xs = numbers()
    args = p, np.stack([xs[:30], xs[30:]])
    close(ft.jit(batch)(*args), ft.jit(batch, roll=False)(*args))


def made_before(layers, x):  # each layer reads two arrays that are made in front
    for w, b in [(fnp.sin(w), fnp.sin(b)) for w, b in layers]:
        x = fnp.tanh(x @ w + b)
    return x.sum()


def elementwise(x):  # XLA runs all as one kernel
    for _ in range(200):
        x = fnp.sin(x) * x + 0.1
    return x.sum()


def few(p, xs):
    return solved(p, xs[:4])


def tower(x):  # a derivative of high order, whose terms come back three times
    def applied(x):
        for _ in range(5):
            x = fnp.sin(x) * fnp.exp(-x) + x
        return x

    for _ in range(8):
        applied = ft.grad(applied)
    return applied(x)


DO_NOT_PAY = [
    (lambda layers, x: deep(layers, x), (layers(80), normal(3, 4)), "inputs of its own, which a loop copies"),
    (made_before, (layers(90), normal(3, 4)), "a loop copies 180 arrays to save"),
    (elementwise, (normal(64, 64),), "all is elementwise"),
    (few, numbers(), "a loop saves fewer than 256 equations"),
    (tower, (0.5,), "all are single numbers"),
]


@pytest.mark.parametrize(("fun", "args", "why"), DO_NOT_PAY)
def test_what_does_not_pay_stays(fun, args, why):
    program = ft.make_program(fun)(*args)
    assert lengths(rolled(program)) == []
    assert lengths(rolled(program, always=True)) != []
    report = ft.debug.explain_roll(fun)(*args)
    assert why in str(report)
    assert all([row.why_not for row in report.rows])


def deeper(params, x):  # layers with parameters of their own, and many equations for each
    for w, b in params:
        h = fnp.tanh(x @ w + b)
        x = fnp.sin(x) * h + nn.sigmoid(h - 0.5) * fnp.cos(x) - fnp.exp(-h * h) / (2.0 + fnp.sin(h))
    return (x**2).mean()


@pytest.mark.cpu
@pytest.mark.parametrize(("rows", "is_rolled"), [(64, True), (1, False)])
def test_a_deep_model_is_rolled_where_parameters_are_few_beside_what_is_kept(rows, is_rolled, monkeypatch):
    monkeypatch.setattr("functrace.control.rolling.MUCH", 512)
    args, gradient = (layers(40), normal(rows, 4)), ft.value_and_grad(deeper)
    assert lengths(rolled(ft.make_program(gradient)(*args))) == ([39, 39] if is_rolled else [])
    whys = [row.why_not for row in ft.debug.explain_roll(gradient)(*args).rows]
    assert (whys == ["", ""]) == is_rolled
    assert is_rolled or any(["bytes, and keep" in why for why in whys])
    close(ft.jit(gradient)(*args), ft.jit(gradient, roll=False)(*args))


def test_a_loop_inside_of_what_does_not_pay():
    """Layers of their own parameters each, and in each of them many steps that share them."""

    def model(layers, x):
        for w, b in layers:
            for _ in range(100):
                x = fnp.tanh(x @ w + b)
        return x.sum()

    short = rolled(ft.make_program(model)(layers(), normal(3, 4)))
    assert lengths(short) == [100] * DEPTH
    rows = ft.debug.explain_roll(model)(layers(), normal(3, 4)).rows
    assert [row.repetitions for row in rows if not row.why_not] == [100] * DEPTH


def test_a_loop_that_saves_little_pays_for_those_that_read_it():
    """The Hessian in two numbers of an optimizer, whose steps are gradients already."""
    a, b = normal(9, WIDTH), normal(9)
    loss = lambda w: fnp.mean((a @ w - b) ** 2)

    def trained(h):
        w = m = v = fnp.zeros(WIDTH)
        total = 0.0
        for _ in range(20):
            value, g = ft.value_and_grad(loss)(w)
            m, v = h[1] * m + (1 - h[1]) * g, 0.99 * v + 0.01 * g * g
            w, total = w - h[0] * m / (fnp.sqrt(v) + 1e-3), total + value
        return total

    fun, args = lambda h: (*ft.value_and_grad(trained)(h), ft.hessian(trained)(h)), (np.float32([0.1, 0.9]),)
    rows = [row for row in ft.debug.explain_roll(fun)(*args).rows if not row.why_not]
    assert len(rows) == 6
    assert min([row.saved for row in rows]) < 128
    close(ft.jit(fun)(*args), ft.jit(fun, roll=False)(*args))


def test_calls_are_written_out_in_a_loop():
    short = rolled(ft.make_program(ft.grad(calls))(layers(), normal(3, 4)), always=True)
    bodies = [eqn.primitive.body for eqn in short.equations if eqn.primitive.name == "scan"]
    assert len(bodies) >= 2
    assert "call" not in [eqn.primitive.name for body in bodies for eqn in body.equations]


def plain_layer(w, r, xs):
    h, out = fnp.zeros(WIDTH), []
    for x in xs:
        h = fnp.tanh(x @ w + h * r) + h * h
        out.append(h / (1.0 + h * h) * r + fnp.exp(-h))
    return fnp.stack(out) @ w


def mixing_layer(w, r, xs):
    shifted = (xs + fnp.concatenate([fnp.zeros((1, WIDTH)), xs[:-1]])) * w[0]
    keys, values, decay = shifted @ w, shifted @ w.T, fnp.exp(-fnp.exp(r))
    top, below, out = fnp.zeros(WIDTH), fnp.zeros(WIDTH), []
    for key, value in zip(keys, values, strict=True):
        now = fnp.exp(key)
        out.append((top + now * r * value) / (below + now * r))
        top, below = decay * top + now * value, decay * below + now
    return xs + fnp.stack(out) @ w


@pytest.mark.parametrize("layer", [plain_layer, mixing_layer])
def test_recurrent_layers_on_one_another(layer):
    """Layers are a run too, whose loop would have all steps in its body, or copies too much and is dropped."""

    def loss(params, xs):
        for w, r in params:
            xs = layer(w, r, xs)
        return (xs**2).sum()

    params = [(normal(WIDTH, WIDTH, seed=i) / 4, normal(WIDTH, seed=9 + i) / 4) for i in range(4)]
    args = params, normal(40, WIDTH)
    short = rolled(ft.make_program(ft.grad(loss))(*args))
    assert len(lengths(short)) == 8
    assert min(lengths(short)) >= 36
    assert 0 < size(short) < 1000
    check(ft.grad(loss), *args)


def test_numbers_of_their_own_keep_weak_types():
    def wave(n, x):
        for i in range(120):
            x = n.sin(x) * (0.9 - 0.001 * i) + 0.013 * (i + 1) * n.cos(x)
        return x, x * np.ones(2, np.float32)

    found, expected = ft.jit(lambda x: wave(fnp, x))(0.3), jax.jit(lambda x: wave(jax.numpy, x))(0.3)
    assert [y.weak_type for y in found] == [y.weak_type for y in expected] == [True, False]
    close(found, expected)
    assert lengths(rolled(ft.make_program(lambda x: wave(fnp, x))(0.3))) == [120]


def test_loops_within_loops():
    def cost(controls, w):
        state, total = controls[0], 0.0
        for i in range(len(controls)):
            state = fnp.tanh(w @ state + fnp.sin(state) * controls[i])
            total = total + (state**2).sum() * 0.9**i
        return total

    def planned(controls, w):
        for i in range(4):
            controls = controls - 0.1 / (1 + i) * ft.grad(cost)(controls, w)
        return controls

    args = normal(40, 5), normal(5, 5) / 3
    program = ft.make_program(planned)(*args)
    short = rolled(program)
    verify(short)
    assert 20 * size(short) < size(program)
    close(evaluate(short, args), evaluate(program, args))
    report = ft.debug.explain_roll(planned)(*args)
    assert [r.inside for r in report.rows if not r.why_not] == [("scan",), ("scan",), ()]


def test_what_is_cheap_is_computed_again():
    """The backward pass of trained steps reads no product or difference of stacks that it reads too."""
    args = numbers()
    short = rolled(ft.make_program(ft.grad(trained_inside))(*args))
    forward, backward = [eqn for eqn in short.equations if eqn.primitive.name == "scan"]
    made = forward.primitive.body.outputs[forward.primitive.carry :]
    writers = {v: eqn.primitive.name for eqn in forward.primitive.body.equations for v in eqn.outputs}
    assert {writers.get(v) for v in made} <= {"tanh", "one_minus_square", "dot_general", "mul", "sub"}
    assert len(made) <= 7
    stacks = len(backward.inputs) - backward.primitive.consts - backward.primitive.carry
    assert stacks <= len(made) + 2


@pytest.mark.parametrize("reverse", [False, True])
def test_a_part_of_what_a_loop_has_stacked_is_read_in_place(reverse):
    def fun(start, xs):
        ys = lax.scan(lambda s, x: (s * x, s), start, xs)[1]
        step = lambda s, rows: (s * rows[0] + rows[1].sum() * rows[2], s - rows[2] * rows[3])
        return lax.scan(step, start, (ys[1:-1], xs[2:], ys[2:], ys[:-2, :1]), reverse=reverse)

    args = normal(3), normal(7, 3)
    plain = ft.make_program(lambda start, xs: fun(start, xs)[::-1])(*args)
    short = rolled(plain)
    loop = [eqn for eqn in short.equations if eqn.primitive.name == "scan"][-1]
    rows = len(loop.inputs) - loop.primitive.consts - loop.primitive.carry
    assert rows == 2  # what no loop has made, and a part of a row
    assert [eqn.primitive.name for eqn in short.equations].count("slice") == 2
    close(evaluate(short, args), evaluate(plain, args))
    loss = lambda start, xs: fun(start, xs)[1].sum()
    close(ft.jit(ft.grad(loss, 1))(*args), jax.grad(loss, 1)(*args))


def test_a_step_outside_of_the_loop_keeps_no_stack():
    """The last step of a backward pass is no part of its loop; the loop reads no copies and the step no stack alone."""
    args = numbers()
    short = rolled(ft.make_program(ft.grad(integrated))(*args))
    forward, backward = [eqn for eqn in short.equations if eqn.primitive.name == "scan"]
    assert backward.primitive.length < forward.primitive.length
    stacks = set(forward.outputs[forward.primitive.carry :])
    # Of three stages what they make, of the last one the derivative of that, and the state before a step and after it:
    # the first state was made by no step.
    assert len(stacks) == 6
    assert len(stacks.intersection(backward.inputs)) == 5
    assert len(backward.inputs) == backward.primitive.consts + backward.primitive.carry + 1


def test_a_loop_begins_where_the_other_one_reads_whole_stacks():
    """The first layer needs no gradient of the data, and its first half is shorter; each half carries one value on."""

    def halves(params, x):
        for w, _ in params:
            x = x + fnp.tanh(fnp.sin(x) @ w)
            x = x + fnp.cos(fnp.exp(-x) @ w)
        return (x**2).mean()

    args = layers(), normal(3, 4)
    plain = ft.make_program(ft.grad(halves))(*args)
    short = rolled(plain, always=True).verify()
    forward, backward = [eqn for eqn in short.equations if eqn.primitive.name == "scan"]
    assert forward.primitive.length == backward.primitive.length == DEPTH - 1
    stacks = forward.outputs[forward.primitive.carry :]
    assert stacks and set(stacks) <= set(backward.inputs)
    leaves = tree_util.tree_leaves(args)
    close(evaluate(short, leaves), evaluate(plain, leaves))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_stacks_what_tells_most(reverse):
    """Of what one value tells, some is read in a loop, some entry by entry, and some is returned."""

    def fun(start, xs):
        def first(s, x):
            h = fnp.tanh(s * x)
            return h, (h * 2.0, h + x, 1.0 - h * h, h * 3.0, 4.0)

        two, more, slope, three, four = lax.scan(first, start, xs)[1]
        rows = two[1:], more[1:], four[1:]
        total = lax.scan(lambda s, r: (s * r[0] + r[1] * r[2], None), start, rows, reverse=reverse)[0]
        return total, slope[0] + slope[-1], three, lax.scan(lambda s, r: (s + r, s), start, three, reverse=reverse)

    args = normal(4), normal(6, 4)
    plain = ft.make_program(fun)(*args)
    short = rolled(plain).verify()
    maker, plain_maker = [next(e for e in p.equations if e.primitive.name == "scan") for p in (short, plain)]
    stacks = lambda eqn: len(eqn.outputs) - eqn.primitive.carry
    assert (stacks(plain_maker), stacks(maker)) == (5, 3)  # the value, what is returned, and what is a number
    close(evaluate(short, args), evaluate(plain, args))


def test_explanation():
    report = ft.debug.explain_roll(ft.grad(solved))(*numbers())
    assert [row.why_not for row in report.rows] == ["", ""]
    assert {row.phase for row in report.rows} == {"forward", "backward"}
    assert all([row.repetitions > STEPS - 4 and row.saved > 256 and row.copied < 30 for row in report.rows])
    assert all([row.file.endswith("test_rolling.py") for row in report.rows])
    assert f"{report.rows[0].line}, " in str(report)
    called = ft.debug.explain_roll(lambda p, xs: ft.jit(solved)(p, xs))(*numbers())
    assert [row.inside for row in called.rows] == [("call",)]
    assert "in call" in str(called)
    with pytest.raises(ft.errors.ArgumentError, match="jit: roll must be True, False or 'auto', got 'yes'"):
        ft.jit(solved, roll="yes")


def test_what_is_compiled_without_jit_is_rolled(monkeypatch):
    found = []
    execute = importlib.import_module("functrace.lower.execute")
    compiled = execute.compiled
    monkeypatch.setattr(execute, "compiled", lambda program: (found.append(program), compiled(program))[1])
    gradient, args = ft.grad(solved), numbers()
    ft.clear_caches()
    alone, together, again = [gradient(*args) for _ in range(3)]  # equation by equation, then compiled
    assert [len(lengths(program)) for program in found] == [2]
    close(together, alone)
    close(again, together)


def test_jit_rolls_when_asked():
    args = layers(), normal(3, 4)
    plain, short = ft.jit(step), ft.jit(step, roll=True)
    close(short(*args), plain(*args))
    assert short.lower(*args).as_text().count("stablehlo.while") == 4
    assert plain.lower(*args).as_text().count("stablehlo.while") == 0


def test_effects_stay():
    def talks(params, x):
        for p in params:
            x = ft.from_jax(lambda v: (jax.debug.print("{v}", v=v.sum()), v)[1])(layer(p, x))
        return x

    program = ft.make_program(talks)(layers(), normal(3, 4))
    assert program.has_effects
    assert rolled(program) is program
