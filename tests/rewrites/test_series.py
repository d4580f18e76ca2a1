"""Power series of every primitive: the coefficients are those of forward mode of forward mode.

A test walks all samples of all primitives, along a curve x_0 + x_1 t + x_2 t^2 + x_3 t^3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial, reduce
from typing import Any

import jax
import numpy as np
import pytest

from functrace.errors import RuleError
from functrace.ir import Aval, Builder, Literal, Program, is_inexact
from functrace.lower.evaluate import evaluate
from functrace.primitives.elementwise import Elementwise, add, convert_element_type, mul
from functrace.primitives.recurrences import series_of_power
from functrace.primitives.space import zeros
from functrace.primitives.unary import of_quotient
from functrace.rewrites import series
from functrace.rewrites.jvp import push
from tests.primitives.samples import Case, all_samples, case, draw, epsilon, widened

MOVING = [c for c in map(case, all_samples()) if any(c.moving)]
QUICK = list({c.primitive.name: c for c in reversed(MOVING)}.values())  # of every primitive the first sample


def along_curve(program: Program, moving: Sequence[bool], order: int) -> Program:
    """`(t, x, coefficients of each x that moves) -> y`."""
    with Builder() as b:
        t = b.input(Aval((), np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)))
        xs: list[Any] = [b.input(v.aval) for v in program.inputs]
        for i, m in enumerate(moving):
            if m:
                dtype = xs[i].aval.dtype
                time = convert_element_type(t, dtype)
                coefficients = [xs[i], *[b.input(xs[i].aval) for _ in range(order)]]
                xs[i] = reduce(lambda sum, x: add(x, mul(sum, time)), reversed(coefficients))
        return b.build(b.inline(program, xs))


def derivative(program: Program) -> Program:
    """The derivative of each inexact result in the first input."""
    with Builder() as b:
        xs = [b.input(v.aval) for v in program.inputs]
        _, dys = push(b, program, xs, [Literal(1, xs[0].aval), *[None] * (len(xs) - 1)])
        pairs = zip(program.out_avals, dys, strict=True)
        return b.build([zeros(a) if dy is None else dy for a, dy in pairs if a.is_inexact])


def curve(c: Case, order: int) -> tuple[list[Any], list[Any]]:
    """The operands, and coefficients 1 to the order of each that moves, one after the other."""
    rng = np.random.default_rng(7)
    values = c.values()
    rest = [0.5**k * draw(rng, a, "real") for a, m in zip(c.avals, c.moving, strict=True) if m for k in range(order)]
    avals = [a for a, m in zip(c.avals, c.moving, strict=True) if m for _ in range(order)]
    return values, [np.asarray(x, a.dtype) for x, a in zip(rest, avals, strict=True)]


def nested(c: Case, order: int, operands: list[Any]) -> list[list[Any]]:
    """The coefficients of each inexact result, by forward mode of forward mode, to the order that has a rule."""
    current, found = along_curve(c.program, c.moving, order), []
    for k in range(order + 1):
        ys = evaluate(current, [np.zeros((), current.inputs[0].aval.dtype), *operands])
        found.append([np.asarray(y) / math.factorial(k) for y in ys if k or is_inexact(np.dtype(y.dtype))])
        try:
            current = derivative(current)
        except RuleError:  # the incomplete gamma function has no second derivative in its shape
            break
    return [list(coefficients) for coefficients in zip(*found, strict=True)]


def direct(c: Case, values: list[Any], rest: list[Any]) -> list[list[Any]]:
    """The same by `series`."""
    order = len(rest) // sum(c.moving)
    program, found = series(c.program, tuple((m,) * order for m in c.moving))
    program.verify()
    outputs = evaluate(program, [*values, *rest])
    ys, coefficients = outputs[: len(found)], iter(outputs[len(found) :])
    pairs = zip(ys, found, strict=True)
    filled = [[y, *[next(coefficients) if f else np.zeros_like(y) for f in flags]] for y, flags in pairs]
    return [y for y, a in zip(filled, c.program.out_avals, strict=True) if a.is_inexact]


def check(c: Case, order: int) -> None:
    """Both must agree, to a thousand units of the coarsest dtype, where the derivative is finite."""
    with jax.enable_x64(True) if c.in_double else nullcontext():
        c = widened(c) if c.in_double else c
        values, rest = curve(c, order)
        expected = nested(c, order, [*values, *rest])
        reached = min(map(len, expected)) - 1
        assert reached >= 1
        ours = direct(c, values, [x for i, x in enumerate(rest) if i % order < reached])
        bits = getattr(c.primitive, "mantissa_bits", 52)
        unit = max(epsilon(*[a.dtype for a in (*c.avals, *c.program.out_avals)]), 2.0**-bits)
        for y, z in zip(ours, expected, strict=True):
            for k, (a, b) in enumerate(zip(y, z, strict=True)):
                a, b = np.asarray(a, b.dtype), np.asarray(b)
                assert a.shape == b.shape
                exists = np.isfinite(b)
                size = np.max(np.abs(b), initial=1.0, where=exists)
                np.testing.assert_allclose(a[exists], b[exists], 1e3 * unit, 1e3 * unit * size, err_msg=f"order {k}")


@pytest.mark.parametrize("c", QUICK, ids=[c.name for c in QUICK])
def test_series_is_nested_forward_mode(c):
    # Those of one number go on to order 12, along a line, in tests/primitives/test_series_digits.py.
    check(c, 2 if isinstance(c.primitive, Elementwise) and len(c.avals) == 1 else 3)


# Wrong rules, by primitive: the attribute that is wrong.
PLANTED = {
    "sqrt": {"_series": lambda xs, ys: lambda k: xs[0][k]},
    "exp": {"locally_linear": True},
    "sin": {"_series": partial(series_of_power, 0.5)},
    "mul": {"_series": lambda xs, ys: lambda k: mul(xs[0][k], xs[1][k])},
    "atan": {"_series": of_quotient(lambda x: x)},
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistakes_are_found(name, monkeypatch):
    c = next(c for c in MOVING if c.primitive.name == name)
    for attribute, wrong in PLANTED[name].items():
        monkeypatch.setattr(c.primitive, attribute, wrong)
    with pytest.raises(AssertionError):
        check(c, 2)


@pytest.mark.slow
@pytest.mark.parametrize("c", MOVING, ids=[c.name for c in MOVING])
def test_series_of_every_sample(c):
    check(c, 4)
