"""Values that XLA for CPU would compute in every kernel again are computed once, and nothing else changes."""

import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.ir import Aval, Var
from functrace.lower import evaluate
from functrace.lower.fusion import LEAST, computed_once, kept, unknown_one, unknown_ones
from functrace.tracing.binding import bind

WIDTH, BATCH = 32, 64


def residual(n, params, x):
    """Normed layers with residual connections; `n` is a numpy."""
    for w, v in params:
        h = (x - n.mean(x, -1, keepdims=True)) / n.sqrt(n.var(x, -1, keepdims=True) + 1e-5)
        x = x + n.tanh(h @ w) @ v
    return n.mean(x**2)


def drawn(depth, dtype="float32"):
    """Parameters and a batch."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(depth, 2, WIDTH, WIDTH)).astype(dtype) / 6
    return [(w, v) for w, v in weights], rng.normal(size=(BATCH, WIDTH)).astype(dtype)


def gradient(depth, dtype="float32"):
    """The Program of the gradient, and values for it."""
    args = drawn(depth, dtype)
    program = ft.make_program(ft.grad(lambda params, x: residual(fnp, params, x)))(*args)
    return program, jax.tree.leaves(args)


def largest_kernel(program, values, once):
    """The number of operations in the largest fused computation."""
    return max(kernels_in(compiled(program, values, once)), default=1)


def compiled(program, values, once):
    """What XLA makes of a Program."""
    return jax.jit(lambda *xs: evaluate(program, xs, once)).lower(*values).compile().as_text()


def kernels_in(text):
    """The numbers of operations in fused computations."""
    fused = re.findall(r"^%(?:fused|wrapped)\S* \(.*?^}", text, re.DOTALL | re.MULTILINE)
    return [body.count("\n") for body in fused]


def test_few_values_of_each_layer_are_kept():
    counts = [len(kept(gradient(depth)[0])) for depth in (4, 8, 16)]
    assert 0 < counts[1] - counts[0] <= 4 * 3
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_do_not_grow_with_the_depth(dtype):
    with jax.enable_x64(True):
        shallow, deep = gradient(6, dtype), gradient(18, dtype)
        assert largest_kernel(*deep, kept(deep[0])) <= largest_kernel(*shallow, kept(shallow[0]))
        assert largest_kernel(*deep, frozenset()) > largest_kernel(*deep, kept(deep[0]))


@pytest.mark.cpu
def test_kernels_of_a_block_do_not_grow_with_the_depth():
    """As `jit` writes it, in float64 too."""
    with jax.enable_x64(True):
        step = ft.jit(ft.grad(lambda params, x: residual(fnp, params, x)))
        texts = [step.lower(*drawn(depth, "float64")).compile().as_text() for depth in (6, 18)]
    shallow, deep = [max(kernels_in(text)) for text in texts]
    assert deep <= shallow


def table(n, softmin, side):
    """A table filled entry by entry, each from the least of those before it: soft dynamic time warping."""

    def fill(costs):
        row = [costs[0, i] for i in range(side)]
        for j in range(1, side):
            below, row = row, [row[0] + costs[j, 0]]
            for i in range(1, side):
                row.append(costs[j, i] + softmin(n.stack([row[-1], below[i], below[i - 1]])))
        return row[-1]

    return fill


@pytest.mark.cpu
def test_code_of_an_entry_does_not_grow_with_a_table():
    grad = lambda side: ft.grad(table(fnp, lambda x: -ft.nn.logsumexp(-x), side))
    costs = np.random.default_rng(0).uniform(size=(9, 9)).astype(np.float32)

    def code(side, keep):
        part = costs[:side, :side]
        program = ft.make_program(grad(side))(part)
        return sum(kernels_in(compiled(program, [part], keep(program)))) / side**2

    assert code(9, kept) < 1.5 * code(5, kept)
    assert code(9, lambda program: frozenset()) > 2 * code(9, kept)
    theirs = jax.grad(table(jnp, lambda x: -jax.nn.logsumexp(-x), 9))(costs)
    np.testing.assert_allclose(ft.jit(grad(9))(costs), theirs, rtol=1e-4, atol=1e-6)


BODIES = {
    "scan": lambda fun, *xs: lax.scan(lambda c, _: (fun(*c), None), xs, None, 3)[0],
    "while": lambda fun, *xs: lax.while_loop(lambda c: c[1][0, 0] < 9, lambda c: fun(*c), xs),
    "cond": lambda fun, *xs: lax.cond(xs[1][0, 0] < 9, fun, lambda *xs: xs, *xs),
    "checkpoint": lambda fun, *xs: ft.checkpoint(fun)(*xs),
}


@pytest.mark.cpu
@pytest.mark.parametrize("name", BODIES)
def test_kernels_in_bodies_do_not_grow_with_the_depth(name):
    def trained(params, x):
        slope = ft.grad(lambda params: residual(fnp, params, x))(params)
        return ft.tree.map(lambda p, g: p - 0.1 * g, params, slope), x + 1

    step = ft.jit(lambda params, x: BODIES[name](trained, params, x))
    texts = [step.lower(*drawn(depth)).compile().as_text() for depth in (6, 18)]
    shallow, deep = [max(kernels_in(text)) for text in texts]
    assert deep <= shallow


@pytest.mark.cpu
def test_what_xla_knows_is_not_asked():
    """Of a table that a function closes over, XLA may know that no number is below minus infinity."""
    table = jnp.cos(jnp.arange(float(WIDTH)))
    step = ft.jit(ft.grad(lambda params, x: residual(fnp, params, x * table)))
    shallow, deep = [max(kernels_in(step.lower(*drawn(depth)).compile().as_text())) for depth in (6, 18)]
    assert deep <= shallow


def test_equals_jax():
    args = drawn(6)
    ours = ft.jit(ft.value_and_grad(lambda params, x: residual(fnp, params, x)))(*args)
    theirs = jax.jit(jax.value_and_grad(lambda params, x: residual(jnp, params, x)))(*args)
    for y, z in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-6)


def test_jax_transforms_what_is_jitted():
    params, x = drawn(3)
    f = ft.jit(lambda x: residual(fnp, params, x))
    assert kept(ft.make_program(lambda x: residual(fnp, params, x))(x))
    theirs = lambda x: residual(jnp, params, x)
    np.testing.assert_allclose(jax.grad(f)(x), jax.grad(theirs)(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(f)(x[None]), jax.vmap(theirs)(x[None]), rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(f, (x,), (x,))[1], jax.jvp(theirs, (x,), (x,))[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("expression", "is_kept"),
    [
        # Two kernels read a sum of three: 6 reads are as many as 3, a write and 2. More with three kernels, or of four.
        (lambda a, b, c, d, w: (fnp.sum(a + b + c, 0), fnp.sum(a + b + c, 1)), False),
        (lambda a, b, c, d, w: (fnp.sum(a + b + c, 0), fnp.sum(a + b + c, 1), fnp.sum(a + b + c)), True),
        (lambda a, b, c, d, w: (fnp.sum(a + b + c + d, 0), fnp.sum(a + b + c + d, 1)), True),
        # One kernel reads it, however often.
        (lambda a, b, c, d, w: fnp.sum((a + b + c + d) * (a + b + c + d) - (a + b + c + d), 0), False),
        # Arrays that are small beside the result cost nothing to read again.
        (lambda a, b, c, d, w: (fnp.sum(a + b[0] + c[0] + d[0], 0), fnp.sum(a + b[0] + c[0] + d[0], 1)), False),
        (lambda a, b, c, d, w: ((a + b + c + d).astype(int) @ w, w @ (a + b + c + d).astype(int)), True),
        # A product of matrices has it in memory.
        (lambda a, b, c, d, w: (fnp.sum(a + b + c + d, 0), (a + b + c + d) @ w), False),
        (lambda a, b, c, d, w: (fnp.sum(a + b + c + d, 0), ((a + b + c + d) * 2) @ w), True),
        # No kernel but that one computes what it is made of.
        (lambda a, b, c, d, w: (fnp.sum(a + b * c * d, 0), fnp.sum(a + b * c * d, 1), (a + b * c * d) @ w), False),
    ],
)
def test_what_is_kept(expression, is_kept):
    xs = [jnp.ones((WIDTH, WIDTH))] * 5
    assert bool(kept(ft.make_program(expression)(*xs))) == is_kept
    small = [jnp.ones((4, 4))] * 5
    assert small[0].size < LEAST
    assert not kept(ft.make_program(expression)(*small))


def test_keys_are_not_kept():
    def drawn_twice(library, keys):
        part = bind("slice", keys, start=(0,), limit=(1,), strides=(1,)) if library is ft else keys[:1]
        return [library.vmap(lambda key, n=n: library.random.normal(key, (n,)))(part) for n in (1, 2)]

    keys = jax.random.split(jax.random.key(0), 4)
    assert not kept(ft.make_program(lambda keys: drawn_twice(ft, keys))(keys))
    for x, y in zip(ft.jit(lambda keys: drawn_twice(ft, keys))(keys), drawn_twice(jax, keys), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("reader", "is_whole"),
    {
        "returned": (lambda x: x, True),
        "a product": (lambda x: x @ x.T, True),
        "its transpose's product": (lambda x: x.T @ x, True),
        "a loop": (lambda x: lax.fori_loop(0, 3, lambda i, x: fnp.sin(x), x), True),
        "a choice": (lambda x: lax.cond(x[0, 0] > 0, fnp.sin, fnp.cos, x), True),
        "a product of what is made of it": (lambda x: (x * 2) @ fnp.ones((WIDTH, 2)), False),
        "arithmetic": (lambda x: fnp.exp(x) * 2, False),
    }.values(),
    ids=lambda value: "" if callable(value) else "whole" if value else "again",
)
def test_what_xla_keeps_by_itself_is_let_be(reader, is_whole):
    def sums(*xs):
        x, results = xs[0], []
        for y in xs[1:]:
            x = x + y
            results.append(reader(x))
        return results

    def largest(count):
        xs = [jnp.ones((WIDTH, WIDTH))] * count
        return largest_kernel(ft.make_program(sums)(*xs), xs, frozenset())

    assert (largest(12) == largest(6)) == is_whole
    assert bool(kept(ft.make_program(sums)(*[jnp.ones((WIDTH, WIDTH))] * 12))) != is_whole


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_is_kept_keeps_its_bits(dtype):
    with jax.enable_x64(True):
        info = jnp.finfo(dtype)
        x = jnp.asarray([0.0, -0.0, 1 / 3, -7.0, info.max, info.tiny, jnp.inf, -jnp.inf, jnp.nan], dtype)
        y = jax.jit(lambda x: computed_once(x, unknown_one(x, x.dtype)))(x)
    assert y.dtype == x.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_the_one_is_one_whatever_it_is_asked_of():
    once = {Var(Aval((2,), np.float32))}
    for values in ([-np.inf], [np.nan], [np.zeros(0, np.float32), 3, np.float16(2)]):
        (one,) = jax.jit(lambda values: [*unknown_ones(once, values).values()])([np.asarray(x) for x in values])
        assert (one, one.dtype) == (1, np.float32)
    assert not unknown_ones(once, [np.arange(3), np.zeros((0, 2))])


def test_integers_alone_are_left():
    program = ft.make_program(lambda a, b: (a + b) @ (a - b))(*[np.ones((WIDTH, WIDTH), np.int32)] * 2)
    assert not kept(program)
