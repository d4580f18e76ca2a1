"""What JAX is handed when it traces: one jaxpr, of which each kind of equation is traced once."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.ir import Aval, Builder, Primitive
from functrace.lower import evaluate, staged
from functrace.lower.staging import LONG

F32 = np.dtype(np.float32)
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def repeated(step):
    """A function that applies a step often."""

    def f(n, x):
        for _ in range(LONG):
            x = step(n, x)
        return x

    return f


def library(n):
    """What a numpy is part of."""
    return ft if n is fnp else jax


unrolled = partial(ft.jit, roll=False)  # what is repeated stays, and is staged

# Functions of the numpy at hand and of an array.
FUNCTIONS = {
    "elementwise": repeated(lambda n, x: n.sin(x) * 1.5 + x),
    "products": repeated(lambda n, x: n.tanh(x @ n.ones((4, 4), x.dtype) * 0.1)),
    "an array of constants": repeated(lambda n, x: x * np.arange(12, dtype=np.float32).reshape(3, 4) * 0.1 + 0.3),
    "what reads nothing": repeated(lambda n, x: x + n.arange(4) + n.zeros((3, 1))),
    "several results": repeated(lambda n, x: n.concatenate([*n.split(n.cos(x), 2, 1)[:1], n.sort(x, 1)[:, :2]], 1)),
    "nested": lambda n, x: repeated(lambda n, x: n.sin(x) + 0.5)(n, jitted(n)(jitted(n)(x))),
    "a loop": repeated(lambda n, x: library(n).lax.fori_loop(0, 3, lambda i, x: n.cos(x) * i, x)),
    "indices": repeated(lambda n, x: x[n.argsort(x[:, 0])] + n.where(x > 0, x, n.nan_to_num(1 / x)).astype(x.dtype)),
    "literals that are returned": lambda n, x: (repeated(lambda n, x: n.sin(x))(n, x), 2.0, np.int8(3), x),
    "weak types": lambda n, x: repeated(lambda n, y: n.sin(y) + 1)(n, 2.0 * x.sum().astype(int)) * n.bfloat16(2),
    "random numbers": repeated(lambda n, x: x + library(n).random.normal(library(n).random.key(0), x.shape)),
    "large": lambda n, x: repeated(lambda n, y: y + n.sin(y) * n.cos(y))(n, n.broadcast_to(x[:, :, None], (3, 4, 200))),
}  # fmt: skip


def jitted(n):
    """A function of more equations than LONG, jitted."""
    return library(n).jit(lambda x: repeated(lambda n, x: n.sin(x) - 0.1 * x)(n, x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_jax(name):
    f = FUNCTIONS[name]
    found, expected = unrolled(lambda x: f(fnp, x))(X), jax.jit(lambda x: f(jnp, x))(X)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(a) == jax.typeof(b)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    assert "block[block=program" in str(jax.make_jaxpr(unrolled(lambda x: f(fnp, x)))(X))


TRANSFORMS = {
    "grad": lambda f: jax.grad(lambda x: f(x).sum()),
    "hessian": lambda f: jax.jacfwd(jax.grad(lambda x: f(x).sum())),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
    "vmap": lambda f: jax.vmap(f),
    "jit": lambda f: jax.jit(lambda x: f(f(x))),
    "checkpoint": lambda f: jax.grad(
        jax.checkpoint(lambda x: f(x).sum(), policy=jax.checkpoint_policies.dots_saveable)
    ),
    "scan": lambda f: lambda x: jax.lax.scan(lambda x, _: (f(x), None), x, length=3)[0],
    "cond": lambda f: lambda x: jax.lax.cond(x[0, 0] < 0, f, lambda x: x, x),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_under_transforms_of_jax(name):
    step = repeated(lambda n, x: n.tanh(x * 1.1) + 0.01 * n.maximum(x, 0.5))
    transform = TRANSFORMS[name]
    found, expected = transform(unrolled(lambda x: step(fnp, x)))(X), transform(lambda x: step(jnp, x))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def both(n):
    """Of an integer too, which has no tangent, and of an array of which that has rows elsewhere."""
    return lambda x, i, w: (repeated(lambda n, x: n.tanh(x @ w) * 1.5 + i * 0.01)(n, x), i + 1)


@pytest.mark.parametrize("transform", [
    lambda f: jax.grad(lambda w: f(X, np.int32(3), w)[0].sum())(np.eye(4, dtype=F32)),
    lambda f: jax.jvp(lambda x, w: f(x, np.int32(3), w), *[(X, np.eye(4, dtype=F32))] * 2),
    lambda f: jax.vmap(f, (0, None, None), (1, None))(X[:, None], np.int32(3), np.eye(4, dtype=F32)),
    lambda f: jax.vmap(f, (None, 0, 1))(X, np.arange(3, dtype=np.int32), np.ones((4, 3, 4), F32) / 4),
], ids=["grad", "jvp", "rows of one", "rows of the others"])  # fmt: skip
def test_some_inputs_move(transform):
    found, expected = transform(unrolled(both(fnp))), transform(both(jnp))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2 * LONG])
def test_weak_types_are_those_of_jax(count):
    """Of a loop whose state began as a number, in a Program that is short and in one that is not."""

    def f(n, x):
        turns = library(n).lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] * 1.5 + 1, s[1] + 1), (x, 0))
        for _ in range(count):
            x = n.sin(x)
        return turns, x

    found, expected = unrolled(lambda x: f(fnp, x))(X[0, 0]), jax.jit(lambda x: f(jnp, x))(X[0, 0])
    assert [jax.typeof(y) for y in jax.tree.leaves(found)] == [jax.typeof(y) for y in jax.tree.leaves(expected)]


@pytest.mark.parametrize("f", [
    lambda l: l.while_loop(lambda c: c < 10, lambda c: c * 2.0, 1.0),
    lambda l: l.fori_loop(0, 3, lambda i, c: c + i, 1),
    lambda l: l.scan(lambda c, x: (c * 2.0, c + x), 1.0, np.arange(3, dtype=np.float16)),
    lambda l: l.cond(np.bool_(True), lambda c: c * 2.0, lambda c: c, 1.0),
    lambda l: l.fori_loop(0, 3, lambda i, c: c * 2.0, np.float32(1)),
    lambda l: l.fori_loop(0, 3, lambda i, c: c + i, np.int8(1)),
    lambda l: l.fori_loop(0, jnp.int32(3), lambda i, c: c + i, np.int8(1)),
], ids=["while", "fori", "scan", "cond", "strong", "counter", "counter to a traced bound"])  # fmt: skip
@pytest.mark.parametrize("run", [lambda f: f(), lambda f: jax.jit(f)()], ids=["at once", "within jax.jit"])
def test_weak_types_of_loops_without_jit(f, run):
    for _ in range(2):  # a Program that is new may run equation by equation
        found, expected = run(lambda: f(ft.lax)), run(lambda: f(jax.lax))
        assert [jax.typeof(y) for y in jax.tree.leaves(found)] == [jax.typeof(y) for y in jax.tree.leaves(expected)]


def test_without_jit():
    step = repeated(lambda n, x: n.sin(x) + 0.1)
    with jax.disable_jit():
        np.testing.assert_allclose(unrolled(lambda x: step(fnp, x))(X), step(jnp, X), rtol=1e-6)


class Counted(Primitive):
    """Adds one; knows how often it was lowered."""

    name = "counted"
    calls = 0

    def shape(self, *xs):
        return xs[0]

    def lower(self, *xs):
        Counted.calls += 1
        return xs[0] + 1


def test_each_kind_is_traced_once():
    counted = Counted()
    with Builder() as b:
        x, y = b.input(Aval((3,), F32)), b.input(Aval((2,), F32))
        for _ in range(LONG):
            x, y = counted(x), counted(y)
        program = b.build([x, y])
    found = jax.jit(lambda *xs: staged(program, xs))(np.zeros(3, F32), np.ones(2, F32))
    assert Counted.calls == 2
    np.testing.assert_array_equal(np.concatenate(found), [*[LONG] * 3, *[LONG + 1] * 2])
    assert jax.jit(lambda *xs: evaluate(program, xs)).lower(np.zeros(3, F32), np.ones(2, F32))
    assert Counted.calls == 2 + 2 * LONG


def test_effects_keep_their_order():
    said = []

    def f(x):
        for i in range(LONG):
            x = fnp.sin(x)
            ft.from_jax(lambda x, i=i: jax.debug.callback(lambda x: said.append(i), x, ordered=True))(x)
        return x

    jax.block_until_ready(unrolled(f)(X))
    jax.effects_barrier()
    assert said == list(range(LONG))


def test_unused_and_donated_arguments():
    step = unrolled(lambda x, y, z: repeated(lambda n, x: n.sin(x) + 1)(fnp, x), donate_argnums=0)
    lowered = step.lower(X, X, X)
    assert len(jax.tree.leaves(lowered.compile().in_avals)) == 3
    assert lowered.compile().memory_analysis().alias_size_in_bytes == X.nbytes
    assert lowered.compile().memory_analysis().argument_size_in_bytes == X.nbytes


def test_captured_arrays():
    """Of numpy's own wide types too, which JAX makes narrow."""
    w = np.linspace(0, 1, 4)
    f = repeated(lambda n, x: n.sin(x) * w)
    np.testing.assert_allclose(unrolled(lambda x: f(fnp, x))(X), jax.jit(lambda x: f(jnp, x))(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_under_a_mesh(kind):
    """Types that say where an array is are JAX's to trace."""
    step = repeated(lambda n, x: n.tanh(x @ n.ones((4, 4), x.dtype)) * 0.5)
    mesh = jax.make_mesh((1,), ("i",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, jax.NamedSharding(mesh, jax.P("i")))
        found = unrolled(lambda x: step(fnp, x))(x)
        expected = jax.jit(lambda x: step(jnp, x))(x)
    assert jax.typeof(found) == jax.typeof(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
