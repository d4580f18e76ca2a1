"""Reductions of the entries of a stack as one: which are taken together, and that nothing else changes."""

import numpy as np
import pytest
from jax import tree_util

import functrace as ft
from functrace import lax, numpy as fnp, optim
from functrace.control.rolling import rolled
from functrace.control.together import FEWEST, REDUCTIONS, together
from functrace.ir.verify import verify
from functrace.lower import evaluate

COUNT = 12
X = np.linspace(-1, 1, 3 * 8, dtype=np.float32).reshape(3, 8)


def stacks(x, count=COUNT):
    """What a loop stacks: arrays and rows, an entry a step."""
    turn = lambda x, i: (fnp.sin(x + 1) * 1.5, (x * i, fnp.cos(x[0]) + i))
    return lax.scan(turn, x, fnp.arange(count, dtype=x.dtype))[1]


def squares(x):
    ys, _ = stacks(x)
    return sum([(y**2).sum() for y in ys])


def all_finite(x):
    ys, zs = stacks(x)
    return [fnp.isfinite(y).all() for y in ys], [fnp.isfinite(z).any() for z in zs]


def scaled(x):
    """A norm that does not overflow: the second reduction reads what the first has made of all entries."""
    ys, zs = stacks(x)
    leaves = [*ys, *zs]
    most = leaves[0].max()
    for y in leaves:
        most = fnp.maximum(most, fnp.abs(y).max())
    return most * fnp.sqrt(sum([((y / most) ** 2).sum() for y in leaves]))


def pairs(x):  # entries of two loops' stacks at one place
    return [(y * z - 1).min() for y, z in zip(stacks(x)[0], stacks(x + 1)[0], strict=True)]


def products(x):
    return [fnp.vdot(y, y) for y in stacks(x)[0]]


def some(x):  # an entry fewer than there are, and not in order
    ys, _ = stacks(x)
    return [fnp.abs(ys[i]).max() for i in (*range(COUNT - 1, 5, -1), *range(5))]


def read_elsewhere_too(x):
    ys, _ = stacks(x)
    norms = [(y**2).sum() for y in ys]
    return [y / n for y, n in zip(ys, norms, strict=True)]


def many_steps(x):  # more than Python calls within calls
    ys, _ = stacks(x)
    for k in range(1100):
        ys = [y * (1 + 1e-4 * (k % 3)) for y in ys]
    return [y.sum() for y in ys]


def none_left(x):  # an array without entries is taken apart
    ys, _ = stacks(x)
    return [y.sum() for y in ys], [*x[:0]], [*ys[0][:0]]


def twice(x):
    ys, _ = stacks(x)
    return [y.sum() for y in ys], [y.sum() for y in ys]


def of_few(x):
    return [y.sum() for y in stacks(x, FEWEST - 1)[0]]


def less_than_half(x):
    ys, _ = stacks(x, 3 * FEWEST)
    return [y.sum() for y in ys[:FEWEST]]


def to_much(x):  # what is made is no less than what is read by much
    return [y.sum(0) for y in stacks(x)[0]]


def each_its_own(x):
    return [(y * i).sum() for i, y in enumerate(stacks(x)[0])]


def across(x):  # of two entries
    ys, _ = stacks(x)
    return [(y * z).sum() for y, z in zip(ys[1:], ys[:-1], strict=True)]


# Functions, and how many reductions are left in them.
FUNCTIONS = {
    "squares": (squares, 1),
    "finite or not": (all_finite, 1 + COUNT),  # rows of 8 are not LESS times a number
    "scaled": (scaled, 2 + 1 + 2 * COUNT),
    "pairs": (pairs, 1),
    "products": (products, 1),
    "some": (some, 1),
    "read elsewhere too": (read_elsewhere_too, 1),
    "twice": (twice, 1),
    "many steps": (many_steps, 1),
    "none left": (none_left, 1),
    "of few": (of_few, FEWEST - 1),
    "less than half": (less_than_half, FEWEST),
    "to much": (to_much, COUNT),
    "each its own": (each_its_own, COUNT),
    "across": (across, COUNT - 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_together(name):
    function, left = FUNCTIONS[name]
    before = ft.make_program(function)(X)
    after = together(before)
    verify(after)
    assert len([eqn for eqn in after.equations if eqn.primitive.name in REDUCTIONS]) == left
    assert after.out_avals == before.out_avals
    for a, b in zip(evaluate(after, [X]), evaluate(before, [X]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)
    assert together(after) == after


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_of_every_type(dtype):
    before = ft.make_program(squares)(fnp.asarray(X).astype(dtype))
    after = together(before)
    assert len(after.equations) < len(before.equations)
    values = [fnp.asarray(X).astype(dtype)]
    rtol = {"float16": 4e-3, "bfloat16": 2e-2, "complex64": 1e-5}[dtype]  # a few roundings
    for a, b in zip(evaluate(after, values), evaluate(before, values), strict=True):
        np.testing.assert_allclose(np.asarray(a, complex), np.asarray(b, complex), rtol=rtol)


def test_nothing_of_a_stack_that_no_loop_has_made():
    program = ft.make_program(lambda x: [(y**2).sum() for y in x])(np.ones((COUNT, 20), np.float32))
    assert together(program) is program


def test_clipping_asks_once_for_all_layers():
    """As `jit` does it, with the layers as a loop."""
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(8, 8)).astype(np.float32) / 4, np.zeros(8, np.float32)) for _ in range(20)]
    clip = optim.clip_by_global_norm(0.1)

    def step(layers, x):
        def loss(layers):
            y = x
            for w, b in layers:
                y = y + fnp.tanh(y @ w + b)
            return (y**2).sum()

        grads = ft.grad(loss)(layers)
        grads, _ = clip.update(grads, clip.init(layers), layers)
        return tree_util.tree_map(lambda p, g: p - g, layers, grads)

    program = rolled(ft.make_program(step)(layers, X), True)
    assert len([eqn for eqn in program.equations if eqn.primitive.name in REDUCTIONS]) < 40
    ours, theirs = ft.jit(step, roll=True)(layers, X), ft.jit(step, roll=False)(layers, X)
    for a, b in zip(*map(tree_util.tree_leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
