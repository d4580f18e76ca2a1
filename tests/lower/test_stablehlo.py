"""The text of a block is what JAX writes, and is good in every module."""

import re
from functools import partial

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ShapeError
from functrace.ir import Aval, Equation, Literal, Program, Var
from functrace.lower import evaluate, plain, stablehlo
from functrace.lower.block import Block, block_p
from functrace.lower.kinds import Kind, trace
from functrace.lower.staging import LONG, Writing
from functrace.primitives.comparison import eq
from functrace.primitives.elementwise import add, mul, sub
from functrace.primitives.quotients import div
from functrace.primitives.selection import select_n

from ..primitives.samples import all_samples, case

F32, I32, BF16 = np.dtype(np.float32), np.dtype(np.int32), Aval((), "bfloat16").dtype
CASES = [case(sample) for sample in all_samples()]
HERE = {*plain.OF_FLOATS, *plain.OF_NUMBERS, *plain.OF_BITS, *plain.COMPARISONS, *plain.REDUCTIONS, *plain.AXES} | {
    "select_n", "square", "integer_pow", "slice",
}  # fmt: skip
# Operands of other shapes than the result.
BROADCAST = [
    (prim, (Aval(first, dtype), Aval(second, dtype)))
    for prim in (add, sub, mul, div, eq)
    for dtype in (F32, I32, BF16)
    for first, second in [((2, 3, 4), (1, 3, 1)), ((), (2, 0)), ((2, 1), (1, 3)), ((3,), (2, 3))]
] + [(select_n, (Aval((), bool), Aval((3,), F32), Aval((3,), F32)))]


def program_of(prim, operands):
    """One equation, or None where these operands are none of its."""
    avals = [x.aval if isinstance(x, Literal) else x for x in operands]
    try:
        result = prim.shape(*avals)
    except ShapeError:
        return None
    inputs = [x if isinstance(x, Literal) else Var(x) for x in operands]
    output = Var(result)
    return Program(
        tuple(x for x in inputs if type(x) is Var), (Equation(prim, tuple(inputs), (output,), None),), (output,)
    )


def with_numbers(avals):
    """These operands, and those with a number in the place of one of them."""
    yield avals
    for i, aval in enumerate(avals):
        if len(avals) > 1 and aval.dtype.kind in "fib":
            for weak in {False, aval.dtype.kind != "b"}:
                number = Literal(np.asarray(1.7, aval.dtype), Aval((), aval.dtype, weak))
                yield [*avals[:i], number, *avals[i + 1 :]]


def block_of(program):
    """The block that a Program is."""
    block, _ = Writing(program, frozenset()).block()
    return block


def left_to_jax(block):
    """The same block, every kind of which JAX writes anew, but for those with constants, which are so already."""
    kinds = [kind if kind.variables else Kind(kind.function, kind.avals) for kind in block.kinds]
    trace(kinds)
    return Block(block.calls, kinds, block.inputs, block.outputs, block.name)


def lowered(block):
    """What JAX makes of the call of a block."""
    types = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in block.in_types]
    return jax.jit(lambda *xs: block_p.bind(*xs, block=block)).lower(*types)


@pytest.mark.parametrize("name", sorted(HERE))
def test_what_is_written_here_is_what_jax_writes(name):
    count = 0
    pairs = [(c.primitive, c.avals) for c in CASES] + BROADCAST
    for prim, avals in pairs:
        for operands in with_numbers(avals) if prim.name == name else ():
            program = program_of(prim, operands)
            if program is not None:
                block = block_of(program)
                if block.kinds[0].text:
                    count += 1
                    assert lowered(block).as_text() == lowered(left_to_jax(block)).as_text()
    assert count


FIRST = {c.primitive.name: c for c in reversed(CASES)}


@pytest.mark.parametrize("name", FIRST)
def test_every_primitive(name):
    """What JAX writes for it is copied into a second module, and computes what it did."""
    c = FIRST[name]
    program = c.program
    found = Writing(program, frozenset()).block()
    if found is None:
        pytest.skip("JAX is to take it apart")
    block, constants = left_to_jax(found[0]), list(found[1].values())
    values = [x for x, v in zip(c.values(), program.inputs, strict=True) if v in block.inputs]
    first, second = lowered(block), lowered(block)
    assert first.as_text() == second.as_text()
    expected = jax.jit(lambda *xs: evaluate(program, xs))(*c.values())
    for a, b in zip(second.compile()(*constants, *values), expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def repeated(step, x):
    for i in range(LONG):
        x = step(i, x)
    return x


jitted = partial(ft.jit, roll=False)
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def written(monkeypatch):
    """The texts that JAX is asked for."""
    texts = []

    def text_by_jax(kind, ctx, write=stablehlo.text_by_jax):
        texts.append(write(kind, ctx))
        return texts[-1]

    monkeypatch.setattr(stablehlo, "text_by_jax", text_by_jax)
    return texts


def test_jax_writes_a_kind_once(written):
    x = np.ones((3, 5, 7), np.float32)

    def f(scale):
        return jitted(lambda x: repeated(lambda i, x: fnp.cumsum(fnp.sin(x), 1) * scale, x)).lower(x).as_text()

    first = f(0.25)
    count = len(written)
    assert count
    assert f(0.25) == first and f(0.5) != first
    assert len(written) == count


def test_a_kind_of_which_jax_has_the_address_is_left_to_it(written):
    """Two functions of Python's that are called back, alike but for what they compute."""
    for number in (1.0, 2.0):
        shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
        back = ft.from_jax(lambda x, n=number, s=shape: jax.pure_callback(lambda x: np.asarray(x) + n, s, x))
        y = jitted(lambda x, back=back: repeated(lambda i, x: fnp.sin(x), back(x)))(X)
        np.testing.assert_allclose(y, repeated(lambda i, x: np.sin(x), X + np.float32(number)), rtol=1e-5)
    assert written == [None, None]


def test_operations_tell_the_line_and_the_transform():
    def loss(x):
        with ft.named_scope("encoder"):
            x = repeated(lambda i, x: fnp.sin(x), x)
        return x.sum()

    text = jitted(ft.grad(loss)).lower(X).as_text(debug_info=True)
    places = set(re.findall(r'loc\("(encoder/.*?)"', text))
    assert {"encoder/sin", "encoder/transpose of sin/mul"} <= places
    line = loss.__code__.co_firstlineno + 2
    assert re.search(rf'test_stablehlo\.py":{line}:', text)


def test_what_jax_calls_comes_along():
    """Functions that JAX's text calls, and that others call, are in each module once, whatever they are named."""

    @jax.jit
    def inner(x):
        return jax.lax.sin(x) * 2

    def named(x):
        return inner(jax.lax.cos(x)) + inner(x)

    named.__name__ = "<odd name>"
    outer = ft.from_jax(jax.jit(named))
    f = jitted(lambda x: repeated(lambda i, x: outer(outer(x)) * 0.1, x))
    expected = repeated(lambda i, x: named(named(x)) * np.float32(0.1), X)
    np.testing.assert_allclose(f(X), expected, rtol=1e-4, atol=1e-6)


def test_written_for_two_platforms():
    f = jitted(lambda x: repeated(lambda i, x: fnp.sin(x @ fnp.eye(4)), x))
    exported = jax.export.export(jax.jit(f), platforms=("cpu", "cuda"))(X)
    np.testing.assert_allclose(exported.call(X), f(X), rtol=1e-6)


def test_kinds_are_known_by_jax_settings():
    f = jitted(lambda x: repeated(lambda i, x: fnp.sin(x) * 1.5, x))
    assert f(X).dtype == np.float32
    with jax.enable_x64(True):
        assert jitted(f)(X.astype(np.float64)).dtype == np.float64
