"""Entries of what a loop has stacked: taken by equal kernels where they are many, and the same values."""

import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.lower.entries import MANY, taken, unknown_places

WIDTH = 3


def squares(b, xs):
    """A loop that stacks rows; `b` is a library."""
    return b.lax.scan(lambda s, x: (s + x, (s * x, s.sum())), xs[0], xs)[1]


def apart(b, n, xs):
    """Each row of a stack in an update of its own."""
    rows, sums = squares(b, xs)
    return [n.sin(rows[i]) * 0.5 - sums[i] for i in range(len(xs))]


def unstacked(b, n, xs):
    """The same, all rows taken at once."""
    rows, sums = (n.unstack(ys) for ys in squares(b, xs))
    return [n.sin(row) * 0.5 - y for row, y in zip(rows, sums, strict=True)]


def drawn(count):
    """Rows."""
    return np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fun", [apart, unstacked])
@pytest.mark.parametrize("transform", [
    lambda t, f: f,
    lambda t, f: t.grad(lambda xs: sum([y.sum() for y in f(xs)])),
    lambda t, f: lambda xs: t.vmap(f)(xs + np.float32([[[0]], [[1]]])),
    lambda t, f: lambda xs: t.jvp(f, (xs,), (xs,)),
], ids=["value", "grad", "vmap", "jvp"])  # fmt: skip
def test_equals_jax(fun, transform):
    """Transformed by functrace, and by JAX where it is compiled."""
    xs = drawn(MANY)
    ours, theirs = (lambda xs: fun(ft, fnp, xs)), (lambda xs: fun(jax, jnp, xs))
    expected = transform(jax, theirs)(xs)
    close(ft.jit(transform(ft, ours))(xs), expected)
    close(transform(jax, ft.jit(ours))(xs), expected)


@pytest.mark.parametrize("fun", [apart, unstacked])
def test_many_entries_are_taken(fun):
    def count(n):
        return sum([len(at) for at in taken(ft.make_program(lambda xs: fun(ft, fnp, xs))(drawn(n))).values()])

    assert count(MANY) == 2 * MANY
    assert count(MANY // 2 - 1) == 0
    assert not taken(ft.make_program(lambda xs: [fnp.sin(xs)[i] for i in range(MANY)])(drawn(MANY)))  # no loop's


@pytest.mark.cpu
def test_xla_compiles_one_kernel_for_all():
    def kernels(n):
        text = ft.jit(lambda xs: apart(ft, fnp, xs)).lower(drawn(n)).compile().as_text()
        bodies = re.findall(r"^%(?:fused|wrapped)\S* \(.*?^}", text, re.DOTALL | re.MULTILINE)
        names = re.compile(r"%[\w.-]+|[\w.]+: |, metadata=\{.*?\}|, frontend_attributes=\{.*?\}")
        return len({names.sub("", body) for body in bodies})

    assert kernels(2 * MANY) <= kernels(MANY) + 2
    assert kernels(MANY) < MANY


def test_places_are_places_whatever_is_asked():
    for value in (-np.inf, np.nan, 0.0, jnp.bfloat16(2), np.float16(-np.inf)):
        places = jax.jit(lambda x: unknown_places(x, 4))(jnp.full((2, 2), value))
        assert [int(i) for i in places] == [0, 1, 2, 3]
