"""A Program as Python gives the same results to the bit, whatever it is made of."""

import functools
import re

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, ProgramError
from functrace.foreign.importing import to_jax_struct
from functrace.ir import Program
from functrace.lower import evaluate
from tests.against_jax import QUICKLY
from tests.composition.random_programs import FUNCTRACE, X, control_programs, programs, stacked, stacks
from tests.primitives.samples import all_samples, case

CASES = [case(s) for s in all_samples()]
M = np.array([[2.0, 0.3, 0.1], [0.3, 3.0, 0.2], [0.1, 0.2, 1.5]], np.float32)


def executed(text, name="program"):
    """The function that a text defines."""
    names = {}
    exec(text, names)
    return names[name]


def same_bits(found, expected):
    """Whether two arrays are of one type and have the same bytes."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == expected.tobytes()


def check(program, values):
    """The text, traced, is the Program again; where it is another one, it has the same results."""
    again = ft.make_program(executed(program.to_python()))(*map(to_jax_struct, program.in_avals)).verify()
    if unlabelled(again) != unlabelled(program):
        run = lambda *xs: (evaluate(again, xs), evaluate(program, xs))
        found, expected = jax.jit(run, compiler_options=QUICKLY)(*values)
        for x, y in zip(found, expected, strict=True):
            same_bits(x, y)


def unlabelled(program):
    """The Program with one name for all that it calls, since Python has no function that is called `<lambda>`, and all
    types strong, as those of NumPy's numbers are."""
    return Program.parse(re.sub(r"label='[^']*'", "label='f'", str(program)).replace("~", ""))


@functools.cache
def by_primitive():
    """The cases of each primitive."""
    found = {}
    for c in CASES:
        found.setdefault(c.primitive.name, []).append(c)
    return found


def test_most_primitives_have_cases():
    assert len(by_primitive()) > 100


@pytest.mark.parametrize("name", [n for n in by_primitive() if n != "custom_vmap"])
def test_primitives(name):
    for c in by_primitive()[name]:
        if c.primitive.name not in ("axis_index", "psum", "pmax", "pmin", "ppermute") or c.avals:
            check(c.program, c.values())


def loss(params, x):
    h = fnp.tanh(x @ params["W"] + params["b"])
    h, rows = lax.scan(lambda c, y: (c * y + params["b"], c.sum()), h, h[:, None] * 2, reverse=True)
    h = lax.while_loop(lambda v: v[0] < 3, lambda v: (v[0] + 1, fnp.sin(v[1]) * params["b"]), (0, h))[1]
    y = lax.cond(h[0, 0] > 0, lambda h: (h**2).sum(), lambda h: h.mean(), h)
    return y + ft.jit(fnp.max)(x) + ft.checkpoint(fnp.sin)(rows).sum() + relu(x).sum()


@ft.custom_jvp
def relu(x):
    return fnp.maximum(x, 0)


relu.defjvps(lambda dx, y, x: fnp.where(x > 0, dx, 0))
PARAMS = {"W": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.linspace(0.5, 1, 4, dtype=np.float32)}
ROWS = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)

FUNCTIONS = {
    "loss": (loss, (PARAMS, ROWS)),
    "gradient": (ft.grad(loss), (PARAMS, ROWS)),
    "batch of gradients": (ft.vmap(ft.grad(loss), (None, 0)), (PARAMS, np.stack([ROWS, ROWS + 0.1]))),
    "factorizations": (lambda a: fnp.linalg.cholesky(a) @ fnp.linalg.inv(a) + fnp.linalg.eigh(a)[0], (M,)),
    "Fourier": (lambda x: fnp.fft.irfft(fnp.fft.rfft(x) * 2), (ROWS,)),
    "random": (lambda x: x * ft.random.normal(ft.random.key(3), x.shape), (ROWS,)),
    "odd numbers": (lambda x: (x + fnp.inf, fnp.where(x > 0, x, fnp.nan), x * 1e-45, x + 1j, x == -0.0), (ROWS,)),
    "bfloat16": (lambda x: x * 0.1 + np.array(3.0, fnp.bfloat16), (ROWS.astype(fnp.bfloat16),)),
    "narrow integers": (lambda x: (x + 100, x // 3, ~x, x << 2, -x), (np.arange(-3, 3, dtype=np.int8),)),
    "unsigned": (lambda x: (x - np.uint32(7), x ^ np.uint32(4294967295)), (np.arange(6, dtype=np.uint32),)),
    "names of Python's": (lambda np, lax, print, x1=None: np * lax - print, (ROWS, ROWS, ROWS)),
    "constants": (lambda: (1.0, 2, True, np.float16(3)), ()),
    "nothing": (lambda x: {}, (ROWS,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    fun, args = FUNCTIONS[name]
    program = ft.make_program(fun)(*args)
    values = [*program.captured, *map(jax.numpy.asarray, ft.tree.leaves(args))]
    check(program, values)
    found = executed(program.to_python())(*values)
    assert jax.tree.structure(found) == jax.tree.structure(program(*args))


WEAK = {
    "a float": (lambda x: x * 2.0 + fnp.sin(x), 1.5),
    "an integer": (lambda n: (n + 1, n * 0.5), 3),
    "a loop": (lambda x: lax.fori_loop(0, 2, lambda i, c: c * 1.5 + i, x), 0.5),
}


@pytest.mark.parametrize("name", WEAK)
def test_python_numbers_with_64_bits(name):
    """A number of Python's has the type that it had when the Program was traced."""
    fun, x = WEAK[name]
    program = ft.make_program(fun)(x)
    expected, text = jax.tree.leaves(program(x)), program.to_python()
    for wide in (False, True):
        with jax.enable_x64(wide):
            found = executed(text)(x)
        for y, z in zip(jax.tree.leaves(found), expected, strict=True):
            same_bits(y, z)


QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def check_random(program, stack):
    """The text reads back, and as Python it is the same."""
    made = Program.runtime.settled(ft.make_program(stacked(FUNCTRACE, program, stack))(np.float32(X)))
    if "[...]" in str(made):
        with pytest.raises(ProgramError, match=r"to_python: .* has parameters that no text gives back"):
            made.to_python()
    else:
        assert ft.Program.parse(str(made)) == made
        check(made, [*made.captured, np.float32(X)])


@settings(max_examples=25, **QUIET)
@given(programs, stacks)
def test_random_programs(program, stack):
    check_random(program, stack)


@settings(max_examples=8, **QUIET)
@given(control_programs, stacks.filter(lambda s: len(s) < 3))
def test_random_loops_and_branches(program, stack):
    check_random(program, stack)


@pytest.mark.slow
@settings(max_examples=400, **QUIET | {"derandomize": False})
@given(control_programs, stacks.filter(lambda s: len(s) < 3))
def test_many_random_loops_and_branches(program, stack):
    check_random(program, stack)


def test_reads_like_python():
    def f(params, x):
        y, _ = lax.scan(lambda c, row: (c * row + 1.0, None), x[0], x)
        return {"out": fnp.tanh(y @ params["W"])}

    text = ft.make_program(f)({"W": np.ones((3, 2), np.float32)}, ROWS).to_python("model")
    assert text.splitlines()[6:] == [
        'def model(params_W: "f32[3,2]", x: "f32[2,3]"):',
        "    a = lax.slice(x, (0, 0), (1, 3), (1, 1))",
        "    b = lax.reshape(a, (3,))",
        "    def step(carry, entry):",
        "        (carry_1,) = carry",
        "        (x_1,) = entry",
        "        c = carry_1 * x_1",
        "        d = c + 1.0",
        "        return (d,), ()",
        "    (e,), () = lax.scan(step, (b,), (x,), length=2)",
        "    f = e @ params_W",
        "    g = lax.tanh(f)",
        "    return {'out': g}",
    ]


def test_messages():
    program = ft.make_program(fnp.sin)(1.0)
    for name in ("two words", "def", 3, ""):
        with pytest.raises(ArgumentError, match=r"to_python: name must be one that Python takes for a function, got"):
            program.to_python(name)


BOUND = {
    "no such primitive": (
        lambda: lax.bind("sine", 1.0), ArgumentError, r"no primitive is called 'sine'; did you mean 'sin'\?",
    ),
    "a parameter too many": (lambda: lax.bind("sin", 1.0, axis=0), ArgumentError, r"sin takes no parameters, got axis"),
    "a parameter too few": (lambda: lax.bind("rev", M), ArgumentError, r"rev: .*missing .*'dimensions'"),
    "twice": (lambda: lax.bind(ft.primitives.unary.sin, 1.0, axis=0), ArgumentError, r"has its parameters already"),
    "no primitive": (lambda: lax.bind(np.sin, 1.0), DtypeError, r"expected a Primitive or its name, got ufunc"),
    "no such one of JAX's": (lambda: lax.bind("foreign.qqr", M), ArgumentError, r"'qqr' is an equation of JAX's"),
    "no annotation": (
        lambda: lax.bind("call", M, program=lambda x: x, label="f"), ArgumentError,
        r"the argument 'x' of <lambda> must be annotated with its type, as in `x: \"f32\[3\]\"`",
    ),
    "not closed": (
        lambda: lax.bind("call", M, program=annotated(lambda x: x * jax.numpy.asarray(M)), label="f"), ArgumentError,
        r"closes over 1 values, and must be closed",
    ),
}  # fmt: skip


def annotated(fun):
    """The function, its argument annotated with the type of M."""
    fun.__annotations__["x"] = "f32[3,3]"
    return fun


@pytest.mark.parametrize("name", BOUND)
def test_messages_of_bind(name):
    call, error, message = BOUND[name]
    with pytest.raises(error, match=rf"bind: .*{message}.*test_python\.py"):
        call()
