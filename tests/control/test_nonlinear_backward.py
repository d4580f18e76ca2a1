"""A custom_vjp whose backward function is not linear, such as a clip: reverse mode has it everywhere."""

import pytest

import functrace as ft
from functrace import lax, numpy as fnp


@ft.custom_vjp
def clip(x):
    """x, whose cotangent is clipped."""
    return x


clip.defvjp(lambda x: (x, None), lambda _, ct: (fnp.clip(ct, -1.0, 1.0),))


def step(x):
    return clip(2 * x)


def scan(x):
    return lax.scan(lambda c, _: (step(c), None), x, None, 4)[0]


def scan_in_segments(x):
    return lax.scan(lambda c, _: (step(c), None), x, None, 9, checkpoint=3)[0]


def while_loop(x):
    return lax.while_loop(lambda c: c < 100.0, step, x)


def fori_loop(x):
    return lax.fori_loop(0, fnp.int32(4), lambda i, c: step(c), x)


def cond(x):
    return lax.cond(x > 0, step, lambda x: x, x)


def while_in_scan(x):
    return lax.scan(lambda c, _: (while_loop(c), None), x, None, 2)[0]


FUNCTIONS = [scan, scan_in_segments, while_loop, fori_loop, cond, while_in_scan, ft.jit(step), ft.checkpoint(step)]


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("around", [lambda f: f, ft.jit, lambda f: lambda x: ft.vmap(f)(fnp.stack([x, x]))[0]])
def test_reverse_mode(f, around):
    """The last cotangent is 1 after the clip, and 2 after the step before it."""
    assert around(ft.grad(lambda x: 10 * f(x)))(1.5) == 2.0


@pytest.mark.parametrize("f", [scan, while_loop], ids=lambda f: f.__name__)
def test_forward_mode_says_why_not(f):
    with pytest.raises(ft.errors.RuleError, match="not linear in the cotangent"):
        ft.jvp(f, (1.5,), (1.0,))
