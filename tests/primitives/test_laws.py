"""The laws of primitives, on every sample of every primitive.

    shape       the shape rule is the type of the lowering's result
    simplify    what is emitted, folded or simplified or not, is the lowering's value bit for bit
    jvp         is JAX's derivative of the lowering, and the numerical one
    linearize   is jvp, with the work on x done first
    transpose   <A v, w> = <v, A^T w>, and the vjp is JAX's
    batch       is a loop, for every subset of operands with a batch axis, and twice over
    second      jvp of jvp, vjp of batch and batch of vjp are JAX's
    laplacian   is the sum of second derivatives along directions, and the first along a Laplacian
    squares     they add up to the sum of squares of the result
    import      a jaxpr of the lowering reads back as a Program of the same meaning

A primitive enters by having samples; no test here names one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from functrace import rewrites
from functrace.foreign.importing import Foreign, import_function
from functrace.ir import Builder, Literal, Primitive, Program
from functrace.lower.evaluate import evaluate
from functrace.primitives import contraction
from functrace.rewrites.jvp import push
from functrace.rewrites.transpose import instantiate
from tests.against_jax import QUICKLY
from tests.primitives.samples import Case, all_samples, case, draw, epsilon, struct, widened


def tells_squares(primitive: Primitive) -> bool:
    """Whether it has a rule for the squares of its results."""
    own = type(primitive)
    return own.squares is not Primitive.squares or own.beside_squares is not Primitive.beside_squares


CASES = [case(s) for s in all_samples()]
MOVING = [c for c in CASES if any(c.moving)]
INEXACT = [c for c in CASES if any(a.is_inexact for a in c.program.out_avals)]
SQUARED = [c for c in INEXACT if any(tells_squares(eqn.primitive) for eqn in c.program.equations)]
SMOOTH = [c for c in MOVING if c.in_double]
SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, np.inf, -np.inf, np.nan)


def cases(of: list[Case]) -> Any:
    """Parametrize by case, with its name as the test's id."""
    return pytest.mark.parametrize("c", of, ids=[c.name for c in of])


@contextmanager
def precisely(c: Case) -> Iterator[Case]:
    """The case in double precision where it has that, else as it stands."""
    if not c.in_double:
        yield c
        return
    with jax.enable_x64(True):
        yield widened(c)


def assert_close(c: Case, ours: Any, expected: Any, factor: float = 64.0) -> None:
    """Equal to `factor` units in the coarsest dtype of the case, of the largest entry."""
    tolerance = factor * epsilon(*[a.dtype for a in (*c.avals, *c.program.out_avals)])
    assert len(ours) == len(expected)
    for y, z in zip(ours, expected, strict=True):
        y, z = np.asarray(y), np.asarray(z)
        assert (y.shape, y.dtype) == (z.shape, z.dtype)
        if z.dtype.kind in "biu":
            np.testing.assert_array_equal(y, z)
            continue
        y, z = (v.astype(np.complex128 if z.dtype.kind == "c" else np.float64) for v in (y, z))
        size = np.max(np.abs(z), initial=1.0, where=np.isfinite(z))
        np.testing.assert_allclose(y, z, rtol=tolerance, atol=tolerance * size)


def assert_same(ours: Any, expected: Any) -> None:
    """Equal bit for bit, but for the payload of a NaN."""
    assert len(ours) == len(expected)
    for y, z in zip(ours, expected, strict=True):
        y, z = np.asarray(y), np.asarray(z)
        assert (y.shape, y.dtype) == (z.shape, z.dtype)
        np.testing.assert_array_equal(y, z)
        if z.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(y) | np.isnan(y), np.signbit(z) | np.isnan(z))


def run(program: Program, values: list[Any]) -> list[Any]:
    """What a Program computes. A long one is compiled as one: XLA takes its time for each equation anew otherwise."""
    if len(program.equations) <= 4:
        return evaluate(program, values)
    return compiled(lambda values: evaluate(program, values), values)


def compiled(f: Any, *args: Any) -> Any:
    """f(*args), compiled as one; but not with a NaN, which maxima need not pass on then."""
    if any([np.isnan(x).any() for x in jax.tree.leaves(args) if np.asarray(x).dtype.kind == "f"]):
        return f(*args)
    return jax.jit(f, compiler_options=QUICKLY)(*args)


def partly(c: Case) -> list[Case]:
    """The case with all its moving operands, then with each of them alone."""
    n = len(c.moving)
    alone = [tuple(i == j for j in range(n)) for i in range(n) if c.moving[i]]
    return [c, *[c._replace(moving=m) for m in alone if m != c.moving]]


def pushforward(program: Program, moving: tuple[bool, ...]) -> Program:
    """`(x, dx) -> (y, dy)` with a tangent for each inexact output, zeros filled in."""
    with Builder() as b:
        xs = [b.input(v.aval) for v in program.inputs]
        dxs = [b.input(v.aval) if m else None for v, m in zip(program.inputs, moving, strict=True)]
        ys, dys = push(b, program, xs, dxs)
        moved = [i for i, y in enumerate(program.outputs) if y.aval.is_inexact]
        assert all(dy is None or i in moved for i, dy in enumerate(dys))
        dys = instantiate([dys[i] for i in moved], [program.outputs[i] for i in moved])
        return b.build([*ys, *dys])


def jax_pushforward(f: Any) -> Any:
    """JAX's: `(x, dx) -> (y, dy)`, `x` and `dx` lists."""

    def g(xs: Any, dxs: Any) -> list[Any]:
        ys, dys = jax.jvp(lambda xs: f(*xs), (xs,), (dxs,))
        return [*ys, *[dy for y, dy in zip(ys, dys, strict=True) if jnp.issubdtype(y.dtype, jnp.inexact)]]

    return g


def chosen(c: Case, values: list[Any]) -> list[Any]:
    """The values of the moving operands."""
    return [x for x, m in zip(values, c.moving, strict=True) if m]


def cotangents(c: Case, seed: int = 200) -> list[Any]:
    """A cotangent for each inexact result."""
    rng = np.random.default_rng(seed)
    return [draw(rng, a, "real") for a in c.program.out_avals if a.is_inexact]


def inexact_results(c: Case, values: list[Any]) -> Any:
    """The lowering as a function of the moving operands, with its inexact results."""
    f = c.of_moving(values)
    flags = [a.is_inexact for a in c.program.out_avals]
    return lambda *xs: [y for y, flag in zip(f(*xs), flags, strict=True) if flag]


def pullback(c: Case) -> Program:
    """`(x, ct_y) -> ct_x`."""
    with_ct = tuple(a.is_inexact for a in c.program.out_avals)
    program = rewrites.vjp(c.program, c.moving, with_ct)
    return Program(program.inputs, program.equations, program.outputs[len(with_ct) :])


@cases(CASES)
def test_shape_rule_is_type_of_lowering(c):
    program, values = c.program, c.values()
    expected = jax.eval_shape(c.function, *map(struct, c.avals))
    found = [(a.shape, a.dtype) for a in program.out_avals]
    assert found == [(a.shape, np.dtype(a.dtype)) for a in expected]
    program.verify()
    assert_same(evaluate(program, values), c.function(*values))


@cases(CASES)
def test_simplified_equation_has_the_same_value(c):
    with Builder() as b:
        inputs = [b.input(a) for a in c.avals]
        outputs = c.primitive(*inputs)
        program = b.build(outputs if c.primitive.multiple_results else [outputs])
    program.verify()
    assert_same(evaluate(program, c.values()), c.function(*c.values()))


def is_scalar(c: Case) -> bool:
    return bool(c.avals) and all(a.shape == () and a.dtype == np.float32 for a in c.avals)


@cases([c for c in CASES if is_scalar(c)])
def test_folded_literals_have_the_same_value(c):
    for values in [c.values(), *itertools.product(SPECIAL, repeat=len(c.avals))]:
        for variable in (None, *range(len(values))):
            with Builder() as b:
                operands = [
                    b.input(a) if i == variable else Literal(x, a)
                    for i, (x, a) in enumerate(zip(values, c.avals, strict=True))
                ]
                program = b.build([c.primitive(*operands)])
            if len(program.equations) == 1 and program.equations[0].primitive == c.primitive:
                continue  # neither folded nor simplified
            given = [] if variable is None else [np.float32(values[variable])]
            expected = c.function(*[np.float32(x) for x in values])
            assert_same(evaluate(program, given), expected)


@cases(MOVING)
def test_jvp_is_jax(c):
    with precisely(c) as c:
        for part in partly(c):
            values, tangents = part.values(), part.tangents()
            ours = run(pushforward(part.program, part.moving), [*values, *tangents])
            f = jax_pushforward(part.of_moving(values))
            assert_close(part, ours, f(chosen(part, values), tangents))


@cases(SMOOTH)
def test_jvp_is_numerical_derivative(c):
    with precisely(c) as c:
        values, tangents = c.values(), c.tangents()
        f = inexact_results(c, values)
        xs, h = chosen(c, values), np.finfo(np.float64).eps ** (1 / 3)
        above, below = (f(*[x + sign * h * dx for x, dx in zip(xs, tangents, strict=True)]) for sign in (1, -1))
        numerical = [(a - b) / (2 * h) for a, b in zip(above, below, strict=True)]
        ours = run(pushforward(c.program, c.moving), [*values, *tangents])
        # Truncation and rounding are both of order eps^(2/3); the factor is the third derivative.
        assert_close(c, ours[len(c.program.outputs) :], numerical, 64 / h)


@cases(MOVING)
def test_linearize_is_jvp(c):
    with precisely(c) as c:
        for part in partly(c):
            values, tangents, program = part.values(), part.tangents(), part.program
            n = len(program.outputs)
            lin = rewrites.linearize(program, part.moving)
            outputs = run(lin.forward, values)
            moved = iter(run(lin.linear, [*outputs[n:], *tangents]))
            dys = [
                next(moved) if m else np.zeros(a.shape, a.dtype)
                for a, m in zip(program.out_avals, lin.moved, strict=True)
                if a.is_inexact
            ]
            expected = run(pushforward(program, part.moving), [*values, *tangents])
            assert_close(part, [*outputs[:n], *dys], expected)


@cases([c for c in MOVING if c.sample.differentiable])
def test_transpose_is_adjoint(c):
    with precisely(c) as c:
        for part in partly(c):
            values, dxs, cts = part.values(), part.tangents(), cotangents(part)
            n = len(part.program.outputs)
            dys = run(pushforward(part.program, part.moving), [*values, *dxs])[n:]
            ct_xs = run(pullback(part), [*values, *cts])
            # Real parts suffice: conj and real are linear over the reals only.
            forward, backward = (
                [np.asarray(u * v).real.astype(np.float64) for u, v in zip(us, vs, strict=True)]
                for us, vs in ((dys, cts), (dxs, ct_xs))
            )
            size = 1.0 + sum(np.abs(term).sum() for term in (*forward, *backward))
            error = abs(sum(map(np.sum, forward)) - sum(map(np.sum, backward)))
            assert error <= 64 * size * epsilon(*[a.dtype for a in (*part.avals, *part.program.out_avals)])


def in_jax(c: Case) -> bool:
    """JAX has no reverse mode for what is extreme in windows with gaps."""
    params = c.primitive.params
    return not hasattr(c.primitive, "select") or set(params.get("window_dilation", ())) <= {1}


@cases([c for c in MOVING if in_jax(c)])
def test_vjp_is_jax(c):
    with precisely(c) as c:
        for part in partly(c):
            values, cts = part.values(), cotangents(part)
            _, jax_pullback = jax.vjp(inexact_results(part, values), *chosen(part, values))
            assert_close(part, run(pullback(part), [*values, *cts]), jax_pullback(cts))


@cases([c for c in MOVING if len(c.program.out_avals) > 1])
def test_transpose_of_each_result_alone(c):
    with precisely(c) as c:
        program, values, cts = c.program, c.values(), cotangents(c)
        inexact = [i for i, a in enumerate(program.out_avals) if a.is_inexact]
        _, jax_pullback = jax.vjp(inexact_results(c, values), *chosen(c, values))
        for k, i in enumerate(inexact):
            with_ct = tuple(j == i for j in range(len(program.outputs)))
            vjp = rewrites.vjp(program, c.moving, with_ct)
            ours = run(vjp, [*values, cts[k]])[len(program.outputs) :]
            others = [ct if j == k else np.zeros_like(ct) for j, ct in enumerate(cts)]
            assert_close(c, ours, jax_pullback(others))


def stacked(c: Case, operand: int, seeds: range) -> Any:
    """Values of an operand along a leading batch axis."""
    return np.stack([c.another(operand, seed) for seed in seeds])


def loop(c: Case, size: int, values: list[Any], batched: tuple[bool, ...], f: Any) -> list[Any]:
    """`f` at each index of the batch axis, the results stacked."""
    rows = [f(*[x[i] if b else x for x, b in zip(values, batched, strict=True)]) for i in range(size)]
    return [np.stack([np.asarray(y) for y in ys]) for ys in zip(*rows, strict=True)]


@cases([c for c in CASES if c.avals])
def test_batch_is_a_loop(c):
    n = len(c.avals)
    for batched in itertools.product([True, False], repeat=n):
        if not any(batched):
            continue
        values = [stacked(c, i, range(2)) if b else c.another(i, 0) for i, b in enumerate(batched)]
        program, _ = rewrites.batch(c.program, 2, batched, None, True)
        program.verify()
        assert_close(c, run(program, values), loop(c, 2, values, batched, c.function))


@cases([c for c in CASES if c.avals])
def test_batch_twice_is_two_loops(c):
    n = len(c.avals)
    first = tuple(i == 0 for i in range(n))
    everything = (True,) * n
    for outer, inner in ((everything, everything), (first, everything), (everything, first)):
        values = []
        for i in range(n):
            inside = [stacked(c, i, range(3 * k, 3 * k + 3)) if inner[i] else c.another(i, k) for k in range(2)]
            values.append(np.stack(inside) if outer[i] else inside[0])
        program, _ = rewrites.batch(c.program, 3, inner, None, True)
        program, _ = rewrites.batch(program, 2, outer, None, True)
        program.verify()
        expected = loop(c, 2, values, outer, lambda *xs: loop(c, 3, list(xs), inner, c.function))  # noqa: B023
        assert_close(c, run(program, values), expected)


@cases([c for c in MOVING if c.sample.order > 1])
def test_second_derivative_is_jax(c):
    with precisely(c) as c:
        values, xs = c.values(), chosen(c, c.values())
        dxs, ddxs, more = (c.tangents(seed) for seed in (100, 101, 102))
        program = pushforward(c.program, c.moving)
        program = pushforward(program, (*c.moving, *[True] * len(dxs)))
        ours = run(program, [*values, *dxs, *ddxs, *more])
        first = jax_pushforward(c.of_moving(values))
        n = len(xs)
        second = jax_pushforward(lambda *args: first(list(args[:n]), list(args[n:])))
        assert_close(c, ours, second([*xs, *dxs], [*ddxs, *more]))


def one_each(of: list[Case]) -> list[Any]:
    """The first case of each primitive; the others are slow."""
    first = {c.primitive.name: c for c in reversed(of)}
    return [pytest.param(c, marks=() if first[c.primitive.name] is c else pytest.mark.slow) for c in of]


BENT = [c for c in MOVING if c.sample.order > 1 and c.sample.differentiable]


@pytest.mark.parametrize("c", one_each(BENT), ids=[c.name for c in BENT])
def test_laplacian_is_a_sum_of_second_derivatives(c):
    with precisely(c) as c:
        values = c.values()
        js, ls = [c.tangents(seed) for seed in (100, 101)], c.tangents(102)
        n, m = len(c.program.outputs), len(ls)
        first = pushforward(c.program, c.moving)
        second = pushforward(first, (*c.moving, *[True] * m))
        inexact = sum(a.is_inexact for a in c.program.out_avals)
        bends = [run(second, [*values, *j, *j, *[np.zeros_like(x) for x in j]])[-inexact:] for j in js]
        expected = [run(first, [*values, *j])[n:] for j in js]
        lap = [sum(terms) for terms in zip(run(first, [*values, *ls])[n:], *bends, strict=True)]
        flags = tuple(a.is_inexact for a in c.program.out_avals)
        (program,), moved, bent = rewrites.spread(c.program, 2, c.moving, c.moving, flags, flags)
        program.verify()
        assert moved == bent == flags
        ours = run(program, [*values, *map(np.stack, zip(*js, strict=True)), *ls])
        assert_close(c, ours[n:], [*map(np.stack, zip(*expected, strict=True)), *lap])


@cases([c for c in MOVING if in_jax(c)])
def test_batched_pullback_is_jax(c):
    with precisely(c) as c:
        batched = tuple(i == 0 or c.avals[i].is_inexact for i in range(len(c.avals)))
        values = [stacked(c, i, range(2)) if b else c.another(i, 0) for i, b in enumerate(batched)]
        cts = [np.stack(pair) for pair in zip(cotangents(c, 1), cotangents(c, 2), strict=True)]

        def jax_pullback(*args: Any) -> list[Any]:
            values, cts = list(args[: len(batched)]), list(args[len(batched) :])
            return list(jax.vjp(inexact_results(c, values), *chosen(c, values))[1](cts))

        flags = (*batched, *[True] * len(cts))
        program, _ = rewrites.batch(pullback(c), 2, flags, None, True)
        axes = [0 if b else None for b in flags]
        expected = compiled(jax.vmap(jax_pullback, axes), *values, *cts)
        assert_close(c, run(program, [*values, *cts]), expected)

        program, _ = rewrites.batch(c.program, 2, batched, None, True)
        with_ct = tuple(a.is_inexact for a in program.out_avals)
        vjp = rewrites.vjp(program, c.moving, with_ct)
        ours = run(vjp, [*values, *cts])[len(with_ct) :]

        def mapped(*xs: Any) -> list[Any]:
            rest = iter(xs)
            moved = [next(rest) if m else x for m, x in zip(c.moving, values, strict=True)]
            ys = jax.vmap(c.function, axes[: len(batched)])(*moved)
            return [y for y, flag in zip(ys, with_ct, strict=True) if flag]

        expected = compiled(lambda xs, cts: jax.vjp(mapped, *xs)[1](cts), chosen(c, values), cts)
        assert_close(c, ours, expected)


@cases(SQUARED)
def test_squares_add_up(c):
    """Also where the rule is not worth it for operands as small as these."""
    flags = tuple(a.is_inexact for a in c.program.out_avals)
    with precisely(c) as c, pytest.MonkeyPatch.context() as patch:
        patch.setattr(contraction, "products_take_less", lambda k, m, n: True)
        values = c.values()
        found = run(rewrites.squares(c.program, flags).verify(), values)
        wide = [np.asarray(y) for y in run(c.program, values)]
        wide = [y.astype(np.complex128 if y.dtype.kind == "c" else np.float64) for y in wide]
        for n, y, flag in zip(found, wide, flags, strict=True):
            if flag:
                np.testing.assert_allclose(n, (abs(y) ** 2).sum(), rtol=1e-9 if c.in_double else 1e-2)
                assert np.asarray(n).dtype.kind == "f"
                assert not np.shape(n)



@cases([c for c in CASES if c.primitive.jax_names])
def test_jaxpr_of_lowering_imports(c):
    imported = import_function(lambda *xs: c.function(*xs), *c.avals)
    assert not [e for e in imported.program.equations if isinstance(e.primitive, Foreign)]
    imported.program.verify()
    ours = run(imported.program, [*imported.constants, *c.values()])
    assert_close(c, ours, c.function(*c.values()))
