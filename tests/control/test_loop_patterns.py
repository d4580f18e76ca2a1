"""Patterns of loops: exactly the entries of the Jacobian, and no fewer where a loop is too long to be followed."""

from __future__ import annotations

import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.control import loop_patterns, step_rows
from functrace.lax import cond, dynamic_slice, dynamic_update_slice, fori_loop, scan, while_loop

N = 7


def point(n: int) -> np.ndarray:
    """A point at which no entry of these functions is zero by chance."""
    return np.linspace(0.6, 1.7, n).astype(np.float32)


def residual(x):
    """A tridiagonal residual, an entry a step."""
    body = lambda i, r: r.at[i].set(x[i - 1] - 2 * x[i] ** 2 + x[i + 1])
    return fori_loop(1, len(x) - 1, body, fnp.zeros(len(x), np.float32))


def scattered(x):
    """Each step adds to two places."""
    body = lambda i, r: r.at[i].add(x[i] ** 2).at[i + 1].add(-x[i])
    return fori_loop(0, len(x) - 1, body, fnp.zeros(len(x), np.float32))


def sliced(x):
    """A window a step, the result stacked."""
    u = fnp.pad(x, 1)
    return scan(lambda _, i: (None, (dynamic_slice(u, (i,), (3,)) * np.arange(1, 4)).sum()), None, np.arange(len(x)))[1]


def rows(x):
    """Scanned row by row, in reverse, each with a running product of two of its own."""
    pairs = fnp.stack([x, fnp.roll(x, 1)], 1)
    return scan(lambda s, p: (p[0], p[1] * p[0]), x[0], pairs, reverse=True)[1]


def in_place(x):
    """A sweep in which a step reads what the one before has written."""
    return fori_loop(0, len(x) - 1, lambda i, s: s.at[i + 1].set(s[i] * s[i + 1]), x)


def ahead(x):
    """A sweep in which no step reads what was written."""
    return fori_loop(0, len(x) - 1, lambda i, s: s.at[i].set(s[i] * s[i + 1]), x)


def copied(x):
    """Written over with what does not depend, from some place on."""
    return fori_loop(2, len(x), lambda i, s: dynamic_update_slice(s, fnp.ones(1, np.float32), (i,)), x * x)


def permuted(x):
    """Where it writes is looked up."""
    order = np.random.default_rng(0).permutation(len(x))
    body = lambda s, ij: (s.at[ij[0]].set(x[ij[1]] ** 2), None)
    return scan(body, fnp.zeros(len(x), np.float32), (order, order[::-1].copy()))[0]


def chosen(x):
    """A branch that the counter chooses."""
    even = lambda i: x[i] ** 2
    body = lambda i, r: r.at[i].set(cond(i % 2 == 0, even, lambda i: x[0] * x[i], i))
    return fori_loop(0, len(x), body, fnp.zeros(len(x), np.float32))


def masked(x):
    """All of it at each step, but one entry changed."""
    body = lambda i, s: fnp.where(fnp.arange(len(x)) == i, s * x[i - 1], s)
    return fori_loop(1, len(x), body, fnp.ones(len(x), np.float32))


def nested(x):
    """A loop in a loop, whose counter both read."""
    inner = lambda i: fori_loop(0, 2, lambda j, s: s * x[i + j], fnp.float32(1))
    return fori_loop(0, len(x) - 1, lambda i, r: r.at[i].set(inner(i)), x)


def turned(x):
    """A while loop, of which a counter is the end."""
    body = lambda c: (c[0] + 2, c[1].at[c[0]].set(x[c[0] - 1] * x[c[0] + 1]))
    return while_loop(lambda c: c[0] < len(x) - 1, body, (1, x))[1]


def smoothed(x):
    """Steps that are all alike."""
    return fori_loop(0, 2, lambda _, s: s.at[1:-1].multiply(s[:-2] * s[2:]), x)


def rotated(x):
    """As many steps as bring everything back."""
    return fori_loop(0, len(x), lambda _, s: fnp.roll(s, 1) * 1.5, x)


SOME = [residual, in_place, permuted, chosen, smoothed]
OTHERS = [scattered, sliced, rows, ahead, copied, masked, nested, turned, rotated]
slow = lambda fs: [pytest.param(f, marks=pytest.mark.slow) for f in fs]


@pytest.mark.parametrize("f", [*SOME, *slow(OTHERS)])
def test_is_the_structure_of_the_jacobian(f):
    x = point(N)
    expected = np.asarray(ft.jacrev(f)(x)) != 0
    np.testing.assert_array_equal(ft.sparsity(f)(x).pattern.toarray(), expected)


@pytest.mark.parametrize("f", [residual, *slow([ahead, turned])])
def test_of_a_gradient(f):
    x = point(N)
    gradient = ft.grad(lambda x: (f(x) ** 2).sum())
    found = ft.sparsity(gradient)(x).pattern.toarray()
    np.testing.assert_array_equal(found, np.asarray(ft.jacfwd(gradient)(x)) != 0)


@pytest.mark.parametrize(
    ("most", "fs"),
    [(0, [residual, smoothed]), pytest.param(60, [in_place, rows, masked], marks=pytest.mark.slow)],
)
def test_covers_what_is_not_followed(monkeypatch, most, fs):
    x = point(N)
    monkeypatch.setattr(step_rows, "MOST", most)
    monkeypatch.setattr(loop_patterns, "FEW", 1)
    for f in fs:
        there = np.asarray(ft.jacrev(f)(x)) != 0
        assert not np.any(there & ~ft.sparsity(lambda x, f=f: f(x))(x).pattern.toarray())


def test_of_many_steps():
    x = point(10_000)
    for f, nnz, colors in ((residual, 29_994, 3), (turned, 14_999, 2)):
        found = ft.sparsity(f)(x)
        assert (found.nnz, found.colors, found.unbounded) == (nnz, colors, ())


def test_of_a_chain_of_many_steps(monkeypatch):
    monkeypatch.setattr(step_rows, "MOST", 2**12)  # sets of numbers become those of bits
    n = 130
    assert ft.sparsity(in_place)(point(n)).nnz == n * (n + 1) // 2
