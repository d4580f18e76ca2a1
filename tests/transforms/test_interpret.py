"""Programs under rules: what they are asked, what is walked into, and what they must say."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, RuleError
from functrace.primitives.unary import sin
from functrace.transforms import interpret

X = np.array([0.3, -0.7, 1.1], np.float32)
SINE = ft.make_program(fnp.sin)(X)


class Dual(NamedTuple):
    value: object
    slope: object


def value(x):
    return x.value if isinstance(x, Dual) else x


def slope(x):
    return x.slope if isinstance(x, Dual) else 0.0


DUAL = {
    "sin": lambda x: Dual(fnp.sin(x.value), fnp.cos(x.value) * x.slope),
    "exp": lambda x: Dual(fnp.exp(x.value), fnp.exp(x.value) * x.slope),
    "add": lambda x, y: Dual(value(x) + value(y), slope(x) + slope(y)),
    "mul": lambda x, y: Dual(value(x) * value(y), slope(x) * value(y) + value(x) * slope(y)),
    "scan": lambda *xs, body, consts, carry, length, reverse, unroll: scanned(xs, body, consts, length),
}


def scanned(xs, body, consts, length):
    """A scan with one carry and nothing else, of dual numbers."""
    step = interpret(body, DUAL)
    carry = Dual(value(xs[consts]), slope(xs[consts]))
    for _ in range(length):
        carry = step(*xs[:consts], carry)
    return [carry]


@ft.custom_jvp
def wrong(x):
    return fnp.sin(x)


wrong.defjvps(lambda dx, y, x: 7.0 * dx)

WALKED = {
    "arithmetic": lambda x: fnp.sin(x) * x + 2.0 * x,
    "calls": lambda x: ft.jit(lambda y: ft.jit(fnp.sin)(y) * y)(x) + x,
    "checkpoint": lambda x: ft.checkpoint(fnp.sin)(x * x),
    "a custom rule": lambda x: wrong(x) * x,
    "JAX's custom rule": lambda x: ft.from_jax(custom_of_jax)(x) * x,
    "a loop with a rule": lambda x: lax.fori_loop(0, 3, lambda i, c: fnp.sin(c) * x, x),
}


@jax.custom_jvp
def custom_of_jax(x):
    return jax.numpy.sin(x)


custom_of_jax.defjvp(lambda xs, dxs: (jax.numpy.sin(*xs), 7.0 * dxs[0]))


@pytest.mark.parametrize("name", WALKED)
@pytest.mark.parametrize("how", ["on arrays", "in a trace", "batched"])
def test_a_transform(name, how):
    fun = WALKED[name]
    program = ft.make_program(fun)(X[0])
    pushed = lambda x: interpret(program, DUAL)(Dual(x, 1.0))
    plain = lambda x: (fun if "custom rule" not in name else lambda x: fnp.sin(x) * x)(x)
    expected = [ft.vmap(plain)(X), ft.vmap(ft.grad(plain))(X)]
    if how == "on arrays":
        found = [np.stack(parts) for parts in zip(*map(pushed, X), strict=True)]
    elif how == "in a trace":
        found = [np.stack(parts) for parts in zip(*map(ft.jit(pushed), X), strict=True)]
    else:
        found = ft.vmap(pushed)(X)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    np.testing.assert_allclose(ft.grad(lambda x: pushed(x).slope)(X[0]), ft.grad(ft.grad(plain))(X[0]), rtol=1e-5)


def test_rules_are_given_parameters_and_many_results():
    def f(x):
        first, second = lax.split(x, (1, 2))
        return {"sum": second.sum(), "first": first}

    seen = []

    def split(x, **params):
        seen.append(params)
        return [x[:1] * 10, x[1:] * 10]

    found = interpret(ft.make_program(f)(X), {"split": split})(X)
    assert seen == [{"sizes": (1, 2), "axis": 0}]
    np.testing.assert_allclose(found["sum"], 10 * X[1:].sum(), rtol=1e-6)
    np.testing.assert_allclose(found["first"], 10 * X[:1])


@pytest.mark.parametrize("key", ["sin", sin, type(ft.make_program(lambda x: x[::-1])(X).equations[0].primitive)])
def test_keys(key):
    program = ft.make_program(lambda x: fnp.sin(x)[::-1])(X)
    found = interpret(program, {key: lambda x, **_: x * 0})(X)
    np.testing.assert_array_equal(found, 0 * X)


def test_default_sees_equations_and_literal_sees_numbers():
    program = ft.make_program(lambda x: (fnp.sin(x) * 2.0).sum())(X)
    seen = []

    def default(eqn, *values):
        seen.append((eqn.primitive.name, values, eqn.outputs[0].aval.shape, str(eqn.source).split(":")[0]))
        return len(seen)

    assert interpret(program, {"sin": lambda x: "s"}, default=default, literal=lambda x: ("number", x))("x") == 2
    where = "test_interpret.py"
    assert seen == [("mul", ("s", ("number", 2.0)), (3,), where), ("reduce_sum", (1,), (), where)]


def test_captured_values_are_filled_in():
    program = ft.make_program(lambda x: x * jax.numpy.asarray(X))(X)
    np.testing.assert_allclose(interpret(program, {"mul": lambda x, y: x + y})(X), X + X)


def test_lines_are_kept():
    program = ft.make_program(lambda x: fnp.sin(x) * x)(X)
    again = ft.make_program(interpret(program, {}))(X)
    assert again == program and [e.source for e in again.equations] == [e.source for e in program.equations]


def loop(x):
    return lax.scan(lambda c, _: (fnp.sin(c), None), x, None, length=3)[0]


ERRORS = {
    "no Program": (lambda: interpret(fnp.sin, {}), DtypeError, r"expected a Program, got function; make_program\(f\)"),
    "no such primitive": (
        lambda: interpret(SINE, {"sine": abs}), ArgumentError,
        r"no primitive is called 'sine'; did you mean 'sin'\?.*test_interpret",
    ),
    "no key": (lambda: interpret(SINE, {3: abs}), DtypeError, r"or the name of one, got int \(3\)"),
    "no rule": (lambda: interpret(SINE, {"sin": 3}), DtypeError, r"rule of 'sin' is of type int, no function"),
    "values": (
        lambda: interpret(SINE, {})(X, X), ArgumentError, r"the Program has 1 inputs, got 2 values",
    ),
    "a loop": (
        lambda: interpret(ft.make_program(loop)(X), {"sin": abs})(X), RuleError,
        r"'scan' \(test_interpret.py:\d+\) holds 'sin', which has a rule; give a rule for 'scan' too, .* body, consts,",
    ),
    "operands": (
        lambda: interpret(ft.make_program(lambda x: fnp.sin(fnp.exp(x)))(X), {"exp": lambda x: "e"})(X), RuleError,
        r"no rule for 'sin' \(test_interpret.py:\d+\), and its operand 0 is a str \('e'\).*rules\['sin'\], or default=",
    ),
    "results": (
        lambda: interpret(ft.make_program(lambda x: lax.split(x, (1, 2)))(X), {"split": lambda x, **_: [x]})(X),
        RuleError,
        r"'split' \(test_interpret.py:\d+\) has 2 results, and its rule returned 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_messages(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_loops_without_rules_in_them_are_computed():
    np.testing.assert_allclose(interpret(ft.make_program(loop)(X), {"cos": abs})(X), loop(X), rtol=1e-6)


def test_errors_in_rules_say_where():
    with pytest.raises(ZeroDivisionError) as caught:
        interpret(ft.make_program(fnp.sin)(X), {"sin": lambda x: 1 // 0})(X)
    line = test_errors_in_rules_say_where.__code__.co_firstlineno + 2
    assert caught.value.__notes__ == [f"in the rule of 'sin' (test_interpret.py:{line})"]
