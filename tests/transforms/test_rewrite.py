"""Rewriting by pattern: what is found, what replaces it, and what stays."""

import numpy as np
import pytest

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError
from functrace.ir.program import held_programs
from functrace.transforms import rewrite

X = np.array([0.3, 0.7, 1.1], np.float32)
M = np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3) / 7


def names(program):
    """The primitives of a Program, and of those that it holds."""
    inside = [n for e in program.equations for v in e.params.values() for p in held_programs(v) for n in names(p)]
    return [e.primitive.name for e in program.equations] + inside


def log_of_exp(x):
    return fnp.log(fnp.exp(x))


def same(x):
    return x


def softmax(x):
    return fnp.exp(x) / fnp.exp(x).sum(-1, keepdims=True)


def stable_softmax(x):
    return softmax(x - fnp.max(x, -1, keepdims=True))


@ft.custom_jvp
def custom(x):
    return fnp.log(fnp.exp(x))


@custom.defjvp
def custom_rule(primals, tangents):
    return custom(*primals), fnp.log(fnp.exp(tangents[0]))


# function, its arguments, pattern, replacement, what is gone then, what is there
FOUND = {
    "elementwise": (lambda x: log_of_exp(x) + 1, (X,), log_of_exp, same, {"log", "exp"}, {"add"}),
    "any shape": (log_of_exp, (M,), log_of_exp, same, {"log", "exp"}, set()),
    "any dtype": (log_of_exp, (X.astype(fnp.bfloat16),), log_of_exp, same, {"log", "exp"}, set()),
    "a chain of them": (lambda x: log_of_exp(log_of_exp(log_of_exp(x))), (X,), log_of_exp, same, {"log"}, set()),
    "until there are none": (
        lambda x: fnp.log(log_of_exp(fnp.exp(x))), (X,), log_of_exp, same, {"log", "exp"}, set(),
    ),
    "a value that is read besides": (
        lambda x: log_of_exp(x) + fnp.exp(x), (X,), log_of_exp, same, {"log"}, {"exp", "add"},
    ),
    "either order": (
        lambda x, y: y + fnp.tanh(x), (X, X + 1), lambda x, y: fnp.tanh(x) + y,
        lambda x, y: y - fnp.tanh(-x), {"add"}, {"sub", "neg"},
    ),
    "literals": (lambda x: fnp.log(1 + x), (X,), lambda x: fnp.log(1 + x), fnp.log1p, {"log", "add"}, {"log1p"}),
    "one operand twice": (lambda x: fnp.sin(x) * x, (X,), lambda x: x * fnp.sin(x), lambda x: -fnp.sin(-x) * x,
                          set(), {"neg"}),
    "a scalar beside an array": (
        lambda x, y: x * y + y, (X, X[0]), lambda x, y: x * y + y, lambda x, y: (x + 1) * y, set(), {"mul", "add"},
    ),
    "axes": (softmax, (M,), softmax, stable_softmax, set(), {"reduce_max", "sub"}),
    "a product of matrices": (
        lambda a, b, x: (a @ b.T) @ x, (M, M, M), lambda a, b, x: (a @ b.T) @ x, lambda a, b, x: a @ (b.T @ x),
        set(), {"dot_general"},
    ),
    "in a call": (lambda x: ft.jit(log_of_exp)(x) + ft.jit(log_of_exp)(2 * x), (X,), log_of_exp, same, {"log"}, set()),
    "in a branch": (
        lambda x: lax.cond(x[0] > 0, log_of_exp, fnp.sin, x), (X,), log_of_exp, same, {"log"}, {"cond", "sin"},
    ),
    "in loops": (
        lambda x: lax.scan(
            lambda c, _: (c * 0.5, log_of_exp(c)), lax.fori_loop(0, 3, lambda i, c: log_of_exp(c) / 2, x), None, 2
        ),
        (X,), log_of_exp, same, {"log", "exp"}, {"scan"},
    ),
    "in custom rules": (custom, (X,), log_of_exp, same, {"log", "exp"}, set()),
    "in a gradient": (ft.grad(lambda x: log_of_exp(fnp.sin(x)).sum()), (X,), lambda x: fnp.exp(x) / fnp.exp(x),
                      lambda x: fnp.ones_like(x), set(), {"cos"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_found(name):
    fun, args, pattern, replacement, gone, there = FOUND[name]
    program = ft.make_program(fun)(*args)
    passes = 1 if name in ("one operand twice", "axes", "a product of matrices") else None
    made = rewrite(program, pattern, replacement, passes=passes).verify()
    assert made != program or name == "in a gradient"
    assert gone.isdisjoint(names(made)) and there <= set(names(made))
    assert [a.matches(b) for a, b in zip(made.out_avals, program.out_avals, strict=True)]
    for x, y in zip(ft.tree.leaves(made(*args)), ft.tree.leaves(program(*args)), strict=True):
        close = 2e-2 if x.dtype.itemsize == 2 else 1e-5
        np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), rtol=close)


LEFT = {
    "another literal": (lambda x: fnp.log(2 + x), lambda x: fnp.log(1 + x)),
    "another wiring": (lambda x: fnp.sin(x) - fnp.sin(2 * x), lambda x: fnp.sin(x) - fnp.sin(x / 2)),
    "an operand twice, two values": (lambda x: fnp.sin(x) * fnp.cos(x + 1), lambda x: fnp.sin(x) * fnp.cos(x)),
    "another order": (lambda x: fnp.sin(x) - x, lambda x: x - fnp.sin(x)),
    "other axes": (lambda x: x.sum(0) * 2, lambda x: x.sum(1) * 2),
    "other parameters": (lambda x: x**3, lambda x: x**4),
    "an equation more": (lambda x: fnp.log(-fnp.exp(x)), log_of_exp),
}


@pytest.mark.parametrize("name", LEFT)
def test_left(name):
    fun, pattern = LEFT[name]
    program = ft.make_program(fun)(M)
    assert rewrite(program, pattern, lambda x: pattern(x) + 0 * fnp.sum(x), passes=1) is program


def test_several_outputs():
    pair = lambda x, y: (fnp.sin(x) * y, fnp.cos(x) + 1)
    at = lambda x, y: (lambda z: (z.imag * y, z.real + 1))(fnp.exp(1j * x))
    program = ft.make_program(lambda x, y: [fnp.tanh(p) for p in pair(2 * x, y)] + [fnp.cos(x)])(X, X)
    made = rewrite(program, pair, at)
    assert "sin" not in names(made) and names(made).count("cos") == 1 and names(made).count("exp") == 1
    for x, y in zip(made(X, X), program(X, X), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    # One output alone is no match, nor are outputs that the other one is made of.
    for fun in (lambda x, y: fnp.sin(x) * y, lambda x, y: fnp.cos(fnp.sin(x) * y) + 1):
        program = ft.make_program(fun)(X, X)
        assert rewrite(program, pair, at) is program


def test_operands_that_come_too_late():
    # The replacement would have to stand before one of its operands.
    program = ft.make_program(lambda x: fnp.cos(fnp.sin(x)) + fnp.sin(x))(X)
    made = rewrite(program, lambda x, y: (fnp.sin(x), fnp.cos(y)), lambda x, y: (fnp.sinh(x), fnp.cosh(y)))
    assert made is program


def test_shared_programs_stay_shared():
    layer = ft.jit(log_of_exp)
    made = rewrite(ft.make_program(lambda x: layer(layer(x) * 2))(X), fnp.log, lambda x: fnp.log1p(x - 1))
    one, two = [e.params["program"] for e in made.equations if e.primitive.name == "call"]
    assert one is two


def test_keeps_what_a_program_is_called_with():
    bias = np.ones(3, np.float32)
    program = ft.make_program(lambda x: {"y": log_of_exp(x) + bias})(X)
    made = rewrite(program, log_of_exp, same)
    np.testing.assert_array_equal(made(X)["y"], X + 1)
    np.testing.assert_allclose(ft.grad(lambda x: made(x)["y"].sum())(X), np.ones(3))


def test_long_programs_take_linear_time_and_no_recursion():
    def chain(x):
        for _ in range(3000):
            x = log_of_exp(x) * 0.5
        return x

    made = rewrite(ft.make_program(chain)(X), log_of_exp, same)
    assert names(made) == ["mul"] * 3000


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((log_of_exp, same), {"passes": 0}, ArgumentError, r"rewrite: passes must be a positive int, got 0"),
        ((same, same), {}, ArgumentError, r"the pattern same can be traced at no types .* computes nothing at"),
        ((same, same), {"examples": (X,)}, ArgumentError, r"the pattern same computes nothing at f32\[3\]"),
        ((lambda x, y: fnp.exp(x), lambda x, y: y), {}, ArgumentError, r"operand y of the pattern .* is not used in"),
        ((lambda x: fnp.exp(x) * X, same), {}, ArgumentError, r"the pattern closes over an array of type f32\[3\]"),
        ((fnp.exp, lambda x: x.sum()), {}, ArgumentError,
         r"of operands f32\[3\], the pattern makes f32\[3\], and the replacement f32\[\]; they must agree"),
        ((fnp.exp, lambda x: (x, x)), {}, ArgumentError, r"the replacement f32\[3\], f32\[3\]; they must agree"),
        ((fnp.exp, lambda x: fnp.exp(x + 1) / 2.5), {}, ArgumentError,
         r"the pattern is still found after 100 passes: what replaces it holds it"),
        ((lambda *xs: xs[0], same), {}, ArgumentError, r"how many operands the pattern <lambda> has cannot be seen"),
        (("exp", same), {}, DtypeError, r"rewrite: expected a function as the pattern, got str"),
    ],
)  # fmt: skip
def test_messages(arguments, options, error, message):
    program = ft.make_program(lambda x: log_of_exp(x) * 2)(X)
    with pytest.raises(error, match=rf"(?s){message}.*test_rewrite\.py"):
        rewrite(program, *arguments, **options)


def test_functions_are_no_programs():
    with pytest.raises(DtypeError, match=r"rewrite: expected a Program, got function; make_program\(f\)"):
        rewrite(log_of_exp, log_of_exp, same)
