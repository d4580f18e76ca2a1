"""A Program's text is readable, and reads back to the same Program."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ProgramError
from functrace.ir import Aval, Builder, Literal, Primitive, Program
from functrace.primitives import add, mul
from tests.composition.random_programs import FUNCTRACE, X, programs, stacked, stacks

F32 = np.dtype(np.float32)


def test_text():
    def loss(params, x):
        return fnp.tanh(x @ params["W"]).sum()

    program = ft.make_program(loss)({"W": np.ones((3, 2), np.float32)}, np.ones((4, 3), np.float32))
    lines = [line.split("#")[0].rstrip() for line in str(program).splitlines()]
    assert lines[0] == "program(params.W: f32[3,2], x: f32[4,3]) {"
    assert lines[2:] == ["  b: f32[4,2] = tanh a", "  c: f32[] = reduce_sum[axes=(0, 1)] b", "  return c", "}"]
    assert str(program).splitlines()[2].endswith(f"# test_text.py:{loss.__code__.co_firstlineno + 1}")


def test_scopes():
    @ft.named_scope("layer_0")
    def layer(x):
        return ft.jit(fnp.sin)(x) * x

    def loss(x):
        with ft.named_scope("encoder"):
            x = layer(x)
        return x + 1.0

    program = ft.make_program(ft.grad(loss))(1.0)
    assert {eqn.source.scope for eqn in program.equations} == {"encoder/layer_0"}
    assert "in encoder/layer_0\n" in str(program) and Program.parse(str(program)) == program
    assert [eqn.source.scope for eqn in ft.make_program(loss)(1.0).equations][-1] == ""
    for name in ("", 3):
        with pytest.raises(ft.errors.ArgumentError, match="named_scope: a name must be a string"), ft.named_scope(name):
            pass


@ft.custom_vjp
def double(x):
    return x * 2.0


double.defvjp(lambda x: (x * 2.0, None), lambda _, ct: (ct * 2.0,))

FUNCTIONS = {
    "nested call": lambda x: ft.jit(lambda y: ft.jit(fnp.sin)(y) * y)(x) + 1.0,
    "custom rule": lambda x: double(x),
    "no equations": lambda x: x,
    "constant": lambda x: (1.0, True, 3, x),
    "names that clash": lambda a, b=None: a * 2.0,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_reads_back(name):
    program = ft.make_program(FUNCTIONS[name])(X)
    again = Program.parse(str(program))
    assert again == program and hash(again) == hash(program)
    assert str(Program.parse(str(again))) == str(again)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs, stacks)
def test_random_programs_read_back(program, stack):
    made = ft.make_program(stacked(FUNCTRACE, program, stack))(X)
    if "[...]" not in str(made):
        assert Program.parse(str(made)) == made


LITERALS = [
    (np.float32, 0.1), (np.float32, -0.0), (np.float32, np.inf), (np.float32, -np.inf), (np.float32, np.nan),
    (np.float32, -np.nan), (np.float32, 1e-42), (np.float64, 1 / 3), (np.float16, 65504.0), (np.int32, -7),
    (np.uint8, 255), (np.bool_, True), (np.complex64, 1.5 - 2j), (np.complex64, complex(np.nan, -0.0)),
    (np.complex128, complex(np.inf, 1e300)), (jax.numpy.bfloat16, 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "value"), LITERALS, ids=str)
@pytest.mark.parametrize("weak", [False, True])
def test_literals_read_back_to_the_bit(dtype, value, weak):
    literal = Literal(value, Aval((), np.dtype(dtype), weak))
    program = Program((), (), (literal,))
    (again,) = Program.parse(str(program)).outputs
    assert again == literal


@given(st.floats(width=32))
def test_floats_read_back_to_the_bit(value):
    literal = Literal(value, Aval((), F32))
    assert Program.parse(str(Program((), (), (literal,)))).outputs == (literal,)


GOOD = "program(x: f32[3]) {\n  a: f32[3] = sin x\n  return a\n}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("sin", "sine"), r"line 2: unknown primitive 'sine'"),
        (GOOD.replace("sin x", "sin y"), r"line 2: 'y' is read before it is bound"),
        (GOOD.replace("a: f32[3] =", "x: f32[3] ="), r"line 2: 'x' is bound twice"),
        (GOOD.replace("a: f32[3] =", "a: f32[4] ="), r"the shape rule gives"),
        (GOOD.replace("f32[3]) {", "f33[3]) {"), r"line 1: unknown dtype 'f33'"),
        (GOOD.replace("sin x", "sin[accuracy=2] x"), r"line 2: sin takes no parameters"),
        (GOOD.replace("sin x", "reshape[shape=(3,)] x"), r"line 2: reshape: .*shape"),
        (GOOD.replace("sin x", "foreign.ftt x"), r"line 2: 'ftt' is an equation of JAX's .*cannot be read back"),
        (GOOD.replace("sin x", "sin é"), r"line 2: cannot read"),
        (GOOD[:-1], r"line 4: expected ',', found 'the end of the text'"),
        (GOOD + " more", r"line 4: expected the end of the text, found 'more'"),
    ],
)
def test_messages(text, message):
    with pytest.raises(ProgramError, match=message):
        Program.parse(text)


def test_foreign_equations_print():
    program = ft.make_program(lambda x: fnp.linalg.eigvalsh(x))(np.eye(3, dtype=np.float32))
    assert "foreign.eigh[lower=True, " in str(program)
    assert Program.parse(str(program)) == program
    text = str(ft.make_program(ft.from_jax(jax.nn.relu))(X))
    assert "foreign.custom_jvp_call[...] x" in text
    with pytest.raises(ProgramError, match="cannot be read back"):
        Program.parse(text)


@pytest.mark.slow
def test_deep_programs_need_no_recursion():
    with Builder() as b:
        x = y = b.input(Aval((), F32), "x")
        for _ in range(100_000):
            y = add(mul(y, x), 0.5)
        program = b.build([y])
    assert len(program.equations) == 200_000
    gradient = ft.rewrites.gradient(program, (True,))
    assert str(gradient).count("\n") > 200_000
    assert Program.parse(str(program)) == program
    assert hash(program) == hash(Program.parse(str(program)))


def test_names_are_not_part_of_equality():
    with Builder() as b:
        left = b.build([mul(b.input(Aval((3,), F32), "left"), 2.0)])
    with Builder() as b:
        right = b.build([mul(b.input(Aval((3,), F32), "right"), 2.0)])
    with Builder() as b:
        other = b.build([mul(b.input(Aval((3,), F32), "left"), 3.0)])
    assert left == right and hash(left) == hash(right)
    assert left != other


def test_every_primitive_is_known_by_its_name():
    for name, found in Primitive.named.items():
        assert found.name == name
