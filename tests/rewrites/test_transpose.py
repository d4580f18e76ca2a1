"""Cotangents that are parts of one array are put together, and not padded with zeros and added up."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.ir import Aval, Builder
from functrace.lower import evaluate
from functrace.primitives.structural import pad
from functrace.rewrites.transpose import united

X = np.linspace(-1, 2, 24, dtype=np.float32).reshape(6, 4)

# Functions of a numpy and of an array, and the numbers of additions and pads in the Program of their gradients.
ROWS = {
    "rows": (lambda n, x: sum([n.sin(x[i]).sum() * i for i in range(6)]), 0, 0),
    "rows, the last one first": (lambda n, x: sum([n.sin(x[i]).sum() * i for i in range(6)[::-1]]), 0, 0),
    "some of the rows": (lambda n, x: sum([n.sin(x[i]).sum() * i for i in range(2, 5)]), 0, 1),
    "columns": (lambda n, x: sum([n.sin(x[:, i]).sum() * i for i in range(4)]), 0, 0),
    "blocks of different sizes": (lambda n, x: n.sin(x[:1]).sum() + n.cos(x[1:4]).sum() + (x[4:] ** 2).sum(), 0, 0),
    "a gap": (lambda n, x: n.sin(x[:2]).sum() + n.cos(x[3:]).sum(), 1, 2),
    "one in the middle comes last": (lambda n, x: n.sin(x[2:4] * x[:2].sum() * x[4:].sum()).sum(), 0, 0),
    "overlapping": (lambda n, x: n.sin(x[:4]).sum() + n.cos(x[3:]).sum(), 1, 2),
    "twice the same": (lambda n, x: (n.sin(x[:3]) * x[:3]).sum() + n.cos(x[3:]).sum(), 2, 2),
    "two halves": (lambda n, x: n.sin(x[:, :2]).sum() + n.cos(x[:, 2:]).sum(), 1, 2),
    "with steps": (lambda n, x: n.sin(x[::2]).sum() + n.cos(x[1::2]).sum(), 1, 2),
    "quarters": (lambda n, x: n.sin(x[:3, :2]).sum() + n.cos(x[:3, 2:]).sum() + n.exp(x[3:, :2]).sum(), 1, 2),
    "columns of some rows": (lambda n, x: sum([n.sin(x[1:4, i : i + 1] * i).sum() for i in range(4)]), 0, 1),
    "entries": (lambda n, x: sum([n.sin(x[i, j] * (i + j)) for i in range(6) for j in range(4)]), 0, 0),
    "entries by columns": (lambda n, x: sum([n.sin(x[i, j] * (i + j)) for j in range(4) for i in range(6)]), 0, 0),
    "entries of some": (lambda n, x: sum([n.sin(x[i, j] * (i + j)) for i in range(2, 5) for j in range(3)]), 0, 1),
    "whole too, at first": (lambda n, x: (x**2).sum() + sum([n.sin(x[i]).sum() * i for i in range(6)]), 1, 0),
    "whole too, at last": (lambda n, x: sum([n.sin(x[i]).sum() * i for i in range(6)]) + (x**2).sum(), 1, 0),
    "padded by other things": (lambda n, x: (n.sin(n.pad(x, ((1, 0), (0, 0)), constant_values=2.0))[:3]).sum(), 0, 2),
    "masked": (lambda n, x: sum([n.where(x[i] > 0, n.log(x[i]), 0.0).sum() for i in range(6)]), 0, 0),
}  # fmt: skip


def counts(program):
    names = [eqn.primitive.name for eqn in program.equations]
    return names.count("add"), names.count("pad")


@pytest.mark.parametrize("name", ROWS)
def test_cotangents_of_slices(name):
    f, additions, pads = ROWS[name]
    found, expected = ft.grad(lambda x: f(fnp, x))(X), jax.grad(lambda x: f(jnp, x))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    of_values = counts(ft.make_program(lambda x: f(fnp, x))(X))
    of_both = counts(ft.make_program(ft.value_and_grad(lambda x: f(fnp, x)))(X))
    assert (of_both[0] - of_values[0], of_both[1] - of_values[1]) == (additions, pads)


@pytest.mark.parametrize("terms", ["aab", "aba", "baa", "abb", "abab", "abcabc", "ccab"])
def test_sums_in_which_a_part_comes_twice(terms):
    with Builder() as b:
        rows = {name: b.input(Aval((1, 4), X.dtype)) for name in "abc"}
        places = {"a": (0, 2, 0), "b": (1, 1, 0), "c": (2, 0, 0)}
        parts = {name: pad(row, 0, (places[name], (0, 0, 0))) for name, row in rows.items()}
        program = b.build([functools.reduce(united, [parts[name] for name in terms])])
    (found,) = evaluate(program, [X[i : i + 1] for i in range(3)])
    np.testing.assert_allclose(found, [terms.count(name) * X[i] for i, name in enumerate("abc")], rtol=1e-6)


def test_second_derivatives_of_slices():
    def slope(library, n):
        inner = library.grad(lambda x: sum([(n.sin(x[i]) * x[i - 1]).sum() ** 2 for i in range(6)]))
        return library.grad(lambda x: (inner(x) ** 2).sum())(X)

    np.testing.assert_allclose(slope(ft, fnp), slope(jax, jnp), rtol=1e-4, atol=1e-5)
