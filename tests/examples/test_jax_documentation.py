"""The control flow that JAX's documentation shows, with functrace in its place: the same values and derivatives.

After "Control flow and logical operators with JIT" and the docstrings of jax.lax. Each program takes a library:
`b.lax`, `b.np`, and `b` for the transforms.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax import lax, numpy as jnp

import functrace as ft
from functrace import numpy as fnp

THEIRS = SimpleNamespace(lax=lax, np=jnp, grad=jax.grad, jvp=jax.jvp, jit=jax.jit, vmap=jax.vmap, hessian=jax.hessian)
OURS = SimpleNamespace(lax=ft.lax, np=fnp, grad=ft.grad, jvp=ft.jvp, jit=ft.jit, vmap=ft.vmap, hessian=ft.hessian)


def add_or_subtract(b, x):
    """cond with an operand."""
    return b.lax.cond(x[0] > 0, lambda x: x + 1, lambda x: x - 1, x)


def cond_on_three(b, x):
    """A piecewise polynomial, by cond."""
    return b.lax.cond(x.sum() < 3.0, lambda x: 3.0 * x**2, lambda x: -4 * x, x)


def cond_of_several(b, x):
    """cond with several operands that are returned as a pytree."""
    return b.lax.cond(x[1] < x[0], lambda p, q: {"big": p, "product": p * q}, lambda p, q: {"big": q, "product": p},
                      x[0], x[1])  # fmt: skip


def cond_without_operands(b, x):
    """Branches that close over what they use."""
    return b.lax.cond(b.np.any(x > 10), lambda: b.np.log(abs(x)), lambda: b.np.exp(x))


def nested_cond(b, x):
    """elif, by a cond in a branch."""
    inner = lambda x: b.lax.cond(x[0] > -1, b.np.sin, b.np.cos, x)
    return b.lax.cond(x[0] > 1, b.np.tanh, inner, x)


def switch_between(b, x):
    """One of three by an index that is out of range, so clamped."""
    branches = [lambda x: x, lambda x: x**2, lambda x: b.np.sin(x) + 3]
    return [b.lax.switch(i, branches, x) for i in (-5, 0, 1, 2, 9)]


def select_and_where(b, x):
    """Both sides computed, one taken."""
    return b.np.where(x > 0, x * x, -x), b.lax.select(x > 0, 2 * x, x / 3)


def piecewise(b, x):
    """Conditions, the first that holds."""
    return b.np.select([x < 0, x < 1, x < 2], [0 * x, x**2, 2 * x - 1], 3 + 0 * x)


def sum_by_fori(b, x):
    """`for i in range(5): v += x[i]`, with static bounds."""
    return b.lax.fori_loop(0, 3, lambda i, v: v + b.np.take(x, i) ** 2, 0.0)


def factorial_like(b, x):
    """An index that enters the arithmetic."""
    return b.lax.fori_loop(1, 6, lambda i, v: v * (i + x), b.np.ones(3))


def nested_fori(b, x):
    """A triangle of indices: an inner bound that is the outer index is unrolled by Python's range."""
    rows = lambda i, v: b.lax.fori_loop(0, 4, lambda j, v: v + b.np.where(j <= i, b.np.sin(x * j), 0.0), v)
    return b.lax.fori_loop(0, 4, rows, 0 * x)


def cumulative_sum(b, x):
    """scan's first example."""
    step = lambda total, x: (total + x, total + x)
    return b.lax.scan(step, 0.0, x)


def cumulative_sum_with_init(b, x):
    """A carry that is a pair, as where the step's number is kept."""

    def step(carry, x):
        i, total = carry
        return (i + 1, total + i * x), total / (i + 1.0)

    return b.lax.scan(step, (0, x[0]), x)


def scan_of_pytrees(b, x):
    """Inputs and outputs of several arrays, reversed."""
    step = lambda carry, xs: (carry * xs["w"] + xs["v"][0], {"seen": carry, "used": xs["v"]})
    return b.lax.scan(step, x[0], {"w": x, "v": b.np.stack([x, b.np.cos(x)], axis=1)}, reverse=True)


def scan_of_nothing(b, x):
    """A number of steps without inputs."""
    return b.lax.scan(lambda x, _: (b.np.sin(x), x.sum()), x, None, length=4)


def affine_recurrence(b, x):
    """A recurrence y' = W y + x, by scan."""
    w = b.np.array([[0.5, 0.2, 0.0], [-0.3, 0.4, 0.1], [0.0, 0.2, 0.6]])
    return b.lax.scan(lambda y, x: ((y := b.np.tanh(w @ y + x)), y), 0 * x, b.np.stack([x, 2 * x, x - 1]))


def scan_in_scan(b, x):
    """A table of products."""
    row = lambda c, x_i: (c + 1.0, b.lax.scan(lambda d, x_j: (d + x_j, x_i * d * c), 0.0, x)[1])
    return b.lax.scan(row, 1.0, x)


def cond_in_scan(b, x):
    """A branch at every step."""
    step = lambda s, x: (b.lax.cond(x > 0, lambda s: s * x, lambda s: s - x, s), s)
    return b.lax.scan(step, 1.0, x)


def map_of_squares(b, x):
    """map's example, and in batches."""
    return b.lax.map(lambda x: x**3, x), b.lax.map(lambda x: b.np.exp(x), x, batch_size=2)


def sums_by_associative_scan(b, x):
    """Prefix sums and products."""
    return b.lax.associative_scan(b.np.add, x), b.lax.associative_scan(b.np.multiply, x, reverse=True)


def logical_operators(b, x):
    """`and`, `or` and `not` of arrays."""
    inside = b.np.logical_and(x > -1, x < 1)
    return b.np.where(inside, x**3, b.np.where(b.np.logical_or(x > 2, ~inside), -x, x))


def python_loop_over_a_shape(b, x):
    """A loop of Python's, whose length is a shape's: unrolled."""
    total = 0.0
    for i in range(x.shape[0]):
        total = total + x[i] ** i
    return total


def power_until(b, x):
    """while_loop's example: double until large."""
    return b.lax.while_loop(lambda v: abs(v).sum() < 40.0, lambda v: 2.0 * v, x)


def collatz_like(b, x):
    """A counter and a state: a pair as the carry, one of which decides."""
    go = lambda carry: carry[0] < 10
    step = lambda carry: (carry[0] + 3, b.np.sin(carry[1]) * x)
    return b.lax.while_loop(go, step, (0, b.np.ones(3)))


def fori_of_traced_bounds(b, x):
    """Bounds that are arrays."""
    n = b.np.int32(2) + (abs(x[0]) > 0.5).astype(b.np.int32)
    return b.lax.fori_loop(b.np.int32(0), n, lambda i, v: b.np.cos(v) + i * x, x)


def newton_square_root(b, x):
    """Newton's method, to where it stands still."""
    a = 2.0 + x.sum() ** 2
    return b.lax.while_loop(lambda v: abs(v * v - a) > 1e-9, lambda v: (v + a / v) / 2, 1.0 + a)


FORWARD_ONLY = [power_until, collatz_like, fori_of_traced_bounds, newton_square_root]  # JAX's while has no reverse mode
EVERY = [
    add_or_subtract, cond_on_three, cond_of_several, cond_without_operands, nested_cond, switch_between,
    select_and_where, piecewise, sum_by_fori, factorial_like, nested_fori, cumulative_sum, cumulative_sum_with_init,
    scan_of_pytrees, scan_of_nothing, affine_recurrence, scan_in_scan, cond_in_scan, map_of_squares,
    sums_by_associative_scan, logical_operators, python_loop_over_a_shape, *FORWARD_ONLY,
]  # fmt: skip
POINTS = np.array([[0.7, -0.4, 1.6], [-1.3, 0.2, 0.9], [2.5, 1.1, -0.6]])
DIRECTION = np.array([0.3, -1.0, 0.6])


def scalar(b, program):
    """A weighted sum of what moves in the result."""

    def f(x):
        leaves = [y for y in jax.tree.leaves(program(b, x)) if np.issubdtype(y.dtype, np.floating)]
        return sum((y * np.cos(np.arange(y.size) + 0.5).reshape(y.shape)).sum() for y in leaves)

    return f


def gradients(program, reverse):
    """In JAX's terms: gradient and Hessian at each point, by reverse mode or, where it has none, by forward mode."""
    f = scalar(THEIRS, program)
    first = jax.grad(f) if reverse else jax.jacfwd(f)
    return jax.jit(lambda xs: (jax.lax.map(first, xs), jax.lax.map(jax.jacfwd(first), xs)))(POINTS)


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("program", EVERY, ids=lambda p: p.__name__)
def test_values(program):
    with jax.enable_x64(True):
        for x in POINTS:
            expected = jax.jit(lambda x: program(THEIRS, x))(x)
            same(ft.jit(lambda x: program(OURS, x))(x), expected)
            same(jax.tree.map(jnp.asarray, program(OURS, jnp.asarray(x))), expected)
        same(
            ft.jit(ft.vmap(lambda x: program(OURS, x)))(POINTS),
            jax.jit(jax.vmap(lambda x: program(THEIRS, x)))(POINTS),
        )


@pytest.mark.parametrize("program", EVERY, ids=lambda p: p.__name__)
def test_derivatives(program):
    with jax.enable_x64(True):
        f = scalar(OURS, program)
        first, second = gradients(program, reverse=program not in FORWARD_ONLY)
        same(ft.jit(ft.vmap(ft.grad(f)))(POINTS), first)
        same(ft.jit(lambda xs: ft.lax.map(ft.hessian(f), xs))(POINTS), second)
        for x, g, h in zip(POINTS, first, second, strict=True):
            along = lambda x: ft.jvp(f, (x,), (DIRECTION,))[1]
            slope, curve = ft.jit(ft.value_and_grad(along))(x)
            np.testing.assert_allclose(slope, g @ DIRECTION, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(curve, h @ DIRECTION, rtol=1e-10, atol=1e-10)


def test_python_branches_on_values():
    """Un-jitted, Python's `if` sees numbers, under grad too; under jit it is an error."""
    f = lambda x: 3.0 * x**2 if x < 3 else -4 * x
    assert [float(ft.grad(f)(x)) for x in (2.0, 4.0)] == [12.0, -4.0]
    with pytest.raises(ft.errors.FunctraceError):
        ft.jit(f)(2.0)
    assert float(ft.jit(lambda x, n: x**n if n < 3 else x, static_argnums=1)(2.0, 2)) == 4.0


def test_jax_has_no_reverse_mode_of_while():
    """What the table above leaves out for JAX is what JAX refuses under jit."""
    for program in FORWARD_ONLY:
        with pytest.raises(ValueError, match=r"[Rr]everse-mode differentiation does not work for lax\.while_loop"):
            jax.jit(jax.grad(scalar(THEIRS, program)))(POINTS[0])
