"""One place makes equations: what it folds, simplifies, shares, keeps and drops."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp, rewrites
from functrace.errors import ProgramError, ShapeError
from functrace.ir import Aval, Builder, Equation, Literal, Primitive, Program, Var
from functrace.lower import evaluate
from functrace.primitives import add, div, mul, neg, select_n, sub
from functrace.primitives.elementwise import convert_element_type
from functrace.primitives.space import broadcast_in_dim, reduce_sum, reshape, transpose, zeros
from functrace.primitives.stacking import stack
from functrace.primitives.structural import concatenate, pad, rev, slice_, tile
from functrace.primitives.unary import sin

F32 = np.dtype(np.float32)
VECTOR = Aval((3,), F32)
MATRIX = Aval((2, 3), F32)


class Announce(Primitive):
    """Returns its operand, and acts on the world."""

    name = "announce"
    has_effects = True

    def shape(self, *xs):
        return xs[0]

    def lower(self, *xs):
        return xs[0]


# Each is what is written of an input x, and how many equations are left.
WRITTEN = {
    "shared": (VECTOR, lambda x: add(sin(x), sin(x)), 2),
    "shared with operands in the other order": (VECTOR, lambda x: sub(mul(x, sin(x)), mul(sin(x), x)), 3),
    "not shared when the order counts": (VECTOR, lambda x: add(sub(x, sin(x)), sub(sin(x), x)), 4),
    "times one": (VECTOR, lambda x: mul(x, 1.0), 0),
    "one times": (VECTOR, lambda x: mul(1.0, x), 0),
    "minus zero": (VECTOR, lambda x: sub(x, 0.0), 0),
    "plus minus zero": (VECTOR, lambda x: add(x, -0.0), 0),
    "plus zero is not exact at -0": (VECTOR, lambda x: add(x, 0.0), 1),
    "times zero is not exact at NaN": (VECTOR, lambda x: mul(x, 0.0), 1),
    "over one": (VECTOR, lambda x: div(x, 1.0), 0),
    "negated twice": (VECTOR, lambda x: neg(neg(x)), 0),
    "reshaped and back": (MATRIX, lambda x: reshape(reshape(x, (6,)), (2, 3)), 0),
    "reshaped twice": (MATRIX, lambda x: reshape(reshape(x, (6,)), (3, 2)), 1),
    "a computed scalar with axes of one": (Aval((), F32), lambda x: reshape(sin(x), (1, 1)), 2),
    "a computed scalar repeated once": (Aval((), F32), lambda x: broadcast_in_dim(sin(x), (1, 1), ()), 2),
    "transposed and back": (MATRIX, lambda x: transpose(transpose(x, (1, 0)), (1, 0)), 0),
    "broadcast twice": (
        VECTOR, lambda x: broadcast_in_dim(broadcast_in_dim(x, (2, 3), (1,)), (4, 2, 3), (1, 2)), 1,
    ),
    "converted to its own type": (VECTOR, lambda x: convert_element_type(x, F32), 0),
    "a select of equals": (VECTOR, lambda x: select_n(x_is_positive(x), sin(x), sin(x)), 1),
    "dead": (VECTOR, lambda x: (sin(x), neg(x))[1], 1),
    "effects stay, each of them": (VECTOR, lambda x: (Announce()(x), Announce()(x), x)[2], 2),
}  # fmt: skip


def x_is_positive(x):
    return Primitive.named["gt"](x, 0.0)


@pytest.mark.parametrize("row", WRITTEN)
def test_equations_left(row):
    aval, write, count = WRITTEN[row]
    with Builder() as b:
        program = b.build([write(b.input(aval, "x"))])
    assert len(program.equations) == count, program
    program.verify()


# What is made of x and y, which hold the scalars s and t everywhere, and of zeros: one value again, which is repeated.
ONE_VALUE = {
    "reshape": lambda s, x, y, zero: reshape(x, (3, 8)),
    "transpose": lambda s, x, y, zero: transpose(x, (1, 0)),
    "slice": lambda s, x, y, zero: slice_(x, (1, 0), (3, 6), (1, 2)),
    "rev": lambda s, x, y, zero: rev(x, (0,)),
    "tile": lambda s, x, y, zero: tile(x, (2, 1)),
    "pad with the same": lambda s, x, y, zero: pad(x, s, ((1, 0, 2), (0, -1, 0))),
    "pad of zeros": lambda s, x, y, zero: pad(zero, 0.0, ((1, 0, 2), (0, -1, 0))),
    "concatenate": lambda s, x, y, zero: concatenate((x, x), 1),
    "stack": lambda s, x, y, zero: stack((x, x), 1),
    "greatest": lambda s, x, y, zero: named("reduce_max")((0,))(x),
    "least of all": lambda s, x, y, zero: named("reduce_min")((0, 1))(x),
    "sum of zeros": lambda s, x, y, zero: reduce_sum(zero, (0,)),
    "select": lambda s, x, y, zero: select_n(named("gt")(x, y), x, neg(y)),
    "beside another shape": lambda s, x, y, zero: mul(broadcast_in_dim(s, (4, 1), ()), y),
    "clamp": lambda s, x, y, zero: named("clamp")(neg(y), x, y),
    "integer_pow": lambda s, x, y, zero: named("integer_pow")(3)(x),
    "round": lambda s, x, y, zero: named("round")(1)(x),
    "convert_element_type": lambda s, x, y, zero: convert_element_type(x, np.float16),
    **{name: lambda s, x, y, zero, name=name: named(name)(x, y) for name in (
        "add", "sub", "mul", "div", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "lt_to", "rem", "nextafter",
    )},
    **{name: lambda s, x, y, zero, name=name: named(name)(x) for name in (
        "neg", "abs", "sign", "floor", "ceil", "sqrt", "square", "is_finite",
    )},
}  # fmt: skip
# What is more than one value, or another one than it seems.
SEVERAL_VALUES = {
    "pad with another": lambda s, x, y, zero: pad(y, s, ((1, 0, 0), (0, 0, 0))),
    "pad of zeros with -0": lambda s, x, y, zero: pad(zero, -0.0, ((1, 0, 0), (0, 0, 0))),
    "concatenate two": lambda s, x, y, zero: concatenate((x, y), 0),
    "concatenate both zeros": lambda s, x, y, zero: concatenate((zero, neg(zero)), 0),
    "stack two": lambda s, x, y, zero: stack((x, y), 0),
    "sum": lambda s, x, y, zero: reduce_sum(x, (0,)),
    "sum of -0": lambda s, x, y, zero: reduce_sum(neg(zero), (0,)),
    "greatest of none": lambda s, x, y, zero: named("reduce_max")((0,))(slice_(x, (0, 0), (0, 6), (1, 1))),
}
VALUES = [np.float32(v) for v in (0.0, -0.0, 1.5, -2.25, 3e38, np.inf, -np.inf, np.nan)]
MANY = Aval((4, 6), F32)


def test_one_value_everywhere_is_computed_once():
    """No array is computed with, and the bits are those of the same written of arrays of which nothing is known."""
    with Builder() as b:
        s, t = b.input(Aval((), F32), "s"), b.input(Aval((), F32), "t")
        x, y = (broadcast_in_dim(v, MANY.shape, ()) for v in (s, t))
        written = {name: row(s, x, y, zeros(MANY)) for name, row in {**ONE_VALUE, **SEVERAL_VALUES}.items()}
        seen = b.build([written[name] for name in ONE_VALUE])
        for name, atom in written.items():
            program = b.build([atom])
            is_one = all([
                e.primitive.name == "broadcast_in_dim" or not e.outputs[0].aval.shape for e in program.equations
            ])  # fmt: skip
            assert is_one == (name in ONE_VALUE), (name, program)
    with Builder() as b:
        given = [b.input(Aval((), F32)), *[b.input(MANY) for _ in range(3)]]
        unseen = b.build([row(*given) for row in ONE_VALUE.values()])
    one, many = (jax.jit(lambda *xs, of=of: evaluate(of, xs)) for of in (seen, unseen))
    for p, q in zip(VALUES * 3, VALUES + VALUES[1:] + VALUES[:1] + VALUES[3:] + VALUES[:3], strict=True):
        expected = jax.device_get(many(p, *[np.full(MANY.shape, v, np.float32) for v in (p, q, 0)]))
        for name, a, b in zip(ONE_VALUE, jax.device_get(one(p, q)), expected, strict=True):
            assert a.dtype == b.dtype, name
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (name, p, q)
            assert a.dtype.kind != "f" or np.array_equal(*[np.signbit(v) & (v == v) for v in (a, b)]), (name, p, q)


def named(name):
    return Primitive.named[name]


# Of x, with shape (5, 4), and the number of entries that each product of matrices in it has.
REPEATED = {
    "rows": (lambda n, x: n.broadcast_to(n.sin(x[:1]), (5, 4)) @ x.T, [5]),
    "on the right": (lambda n, x: x @ n.broadcast_to(n.sin(x[0])[:, None], (4, 6)), [5]),
    "of both": (lambda n, x: n.broadcast_to(x[:1], (3, 4)) @ n.broadcast_to(x[0, :, None], (4, 6)), [1]),
    "a batch": (lambda n, x: n.broadcast_to(x[:, None], (5, 3, 4)) @ n.ones((5, 4, 2)), [5]),
    "an axis in the middle": (lambda n, x: n.einsum("iab,aj->iabj", n.broadcast_to(x[:, :, None], (5, 4, 3)), x.T),
                              [5 * 4 * 5]),
    "not of what is summed": (lambda n, x: x @ n.broadcast_to(x[:1].T, (4, 1)), [5]),
    "joined with a mean": (
        lambda n, x: n.concatenate([x, n.broadcast_to(x.mean(0, keepdims=True), x.shape)], 1) @ n.ones((8, 3)), [5, 1],
    ),
    "joined on the right": (
        lambda n, x: x.T @ n.concatenate([x[:2], n.broadcast_to(x[0, :3, None], (3, 4))]), [16, 4],
    ),
    "joined of nothing repeated": (lambda n, x: n.concatenate([x, n.sin(x)], 1) @ n.concatenate([x.T, x.T]), [25]),
}  # fmt: skip


@pytest.mark.parametrize("row", REPEATED)
def test_rows_that_are_the_same_are_multiplied_once(row):
    f, sizes = REPEATED[row]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    program = ft.make_program(lambda x: f(fnp, x))(x)
    assert [e.outputs[0].aval.size for e in program.equations if e.primitive.name == "dot_general"] == sizes
    found = ft.value_and_grad(lambda x: fnp.sin(f(fnp, x)).sum())(x)
    expected = jax.value_and_grad(lambda x: jax.numpy.sin(f(jax.numpy, x)).sum())(x)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


LOGIC = {name: Primitive.named[name] for name in ("and", "or", "not", "reduce_and", "reduce_or")}
# Of x and y of shape (4, 6), rows r of shape (4,) and a scalar s: what is written, and how many equations are left.
FLAGS = {
    "x or x": (lambda x, y, r, s: LOGIC["or"](x, x), 0),
    "x or (y or x)": (lambda x, y, r, s: LOGIC["or"](x, LOGIC["or"](y, x)), 1),
    "x or (x and y)": (lambda x, y, r, s: LOGIC["or"](x, LOGIC["and"](x, y)), 0),
    "(x and y) and x": (lambda x, y, r, s: LOGIC["and"](LOGIC["and"](x, y), x), 1),
    "(y or x) and x": (lambda x, y, r, s: LOGIC["and"](LOGIC["or"](y, x), x), 0),
    "s or (s and x) has the shape of x": (lambda x, y, r, s: LOGIC["or"](s, LOGIC["and"](s, x)), 2),
    "x or (s and x)": (lambda x, y, r, s: LOGIC["or"](x, LOGIC["and"](s, x)), 0),
    "not not x": (lambda x, y, r, s: LOGIC["not"](LOGIC["not"](x)), 0),
    "x and not x": (lambda x, y, r, s: LOGIC["and"](x, LOGIC["not"](x)), 2),
    "any of a repeated row": (lambda x, y, r, s: LOGIC["reduce_or"]((1,))(broadcast_in_dim(r, (4, 6), (0,))), 0),
    "any of repeated rows": (lambda x, y, r, s: LOGIC["reduce_or"]((0,))(broadcast_in_dim(r, (4, 6), (0,))), 2),
    "all of a repeated array": (
        lambda x, y, r, s: LOGIC["reduce_and"]((1, 3))(broadcast_in_dim(x, (5, 4, 6, 3), (1, 2))), 2,
    ),
    "all of a repeated scalar": (lambda x, y, r, s: LOGIC["reduce_and"]((0, 1))(broadcast_in_dim(s, (4, 6), ())), 0),
    "any of none": (lambda x, y, r, s: LOGIC["reduce_or"]((1,))(broadcast_in_dim(r, (4, 0), (0,))), 2),
    "any along no axis": (lambda x, y, r, s: LOGIC["reduce_or"](())(x), 0),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [bool, np.int32])
@pytest.mark.parametrize("row", FLAGS)
def test_flags_that_say_the_same_are_one(row, dtype):
    """The equations left, and that their value is that of the same equations with nothing simplified."""
    write, count = FLAGS[row]
    random, most = np.random.default_rng(0), 2 if dtype is bool else 99
    values = [np.asarray(random.integers(0, most, shape), dtype) for shape in ((4, 6), (4, 6), (4,), ())]
    with Builder() as b:
        program = b.build([write(*[b.input(Aval(v.shape, v.dtype)) for v in values])])
    assert len(program.equations) == count, program
    program.verify()
    with Unsimplified() as b:
        expected = b.build([write(*[b.input(Aval(v.shape, v.dtype)) for v in values])])
    np.testing.assert_array_equal(evaluate(program, values), evaluate(expected, values))


class Unsimplified(Builder):
    """Writes each equation as it is."""

    def emit(self, primitive, inputs):
        return self.append(primitive, inputs)


def test_literals_fold():
    with Builder() as b:
        x = b.input(VECTOR, "x")
        two = Literal(2.0, Aval((), F32))
        program = b.build([mul(x, add(two, mul(two, 3.0)))])
    (eqn,) = program.equations
    assert [x.value for x in eqn.inputs if isinstance(x, Literal)] == [8.0]


def test_folding_is_the_arithmetic_of_the_dtype():
    third = Literal(1 / 3, Aval((), F32))
    with Builder() as b:
        (y,) = b.build([mul(third, third)]).outputs
    assert y.value == np.float32(1 / 3) * np.float32(1 / 3)
    assert y.value.dtype == F32


def test_a_program_inlined_is_simplified_where_more_is_known():
    with Builder() as b:
        scale = b.build([mul(b.input(VECTOR), b.input(Aval((), F32)))])
    with Builder() as b:
        x = b.input(VECTOR)
        (y,) = b.inline(scale, [x, Literal(1.0, Aval((), F32, True))])
    assert y is x


def test_operand_shapes_must_fit():
    with Builder() as b, pytest.raises(ShapeError, match=r"add: .*f32\[3\], f32\[2,3\]"):
        add(b.input(VECTOR), b.input(MATRIX))


X, Y, Z = Var(VECTOR, "x"), Var(VECTOR, "y"), Var(Aval((2,), F32), "z")

# Programs that break a law, and what is said of them.
BROKEN = {
    "unbound": (Program((X,), (), (Y,)), "read before it is bound"),
    "used before": (
        Program((), (Equation(sin, (X,), (Y,), None),), (Y,)), r"equation 0 \(sin\).*read before",
    ),
    "bound twice": (
        Program((X,), (Equation(sin, (X,), (X,), None),), (X,)), r"equation 0 \(sin\).*bound twice",
    ),
    "of another type": (
        Program((X,), (Equation(sin, (X,), (Z,), None),), (Z,)), r"the shape rule gives .*f32\[3\].* says .*f32\[2\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", BROKEN)
def test_verify(row):
    program, message = BROKEN[row]
    with pytest.raises(ProgramError, match=message):
        program.verify()


def test_closed_over_arrays_are_leading_inputs():
    w = np.arange(3, dtype=np.float32)
    program = ft.make_program(lambda x: x * w + w)(2.0)
    assert [str(a) for a in program.in_avals] == ["f32[3]", "f32[]~"]
    np.testing.assert_array_equal(evaluate(program, [w, 2.0])[0], w * 2.0 + w)


def test_rewrites_are_made_once():
    program = ft.make_program(lambda x: fnp.sin(x).sum())(np.ones(3, np.float32))
    assert rewrites.gradient(program, (True,)) is rewrites.gradient(program, (True,))


def test_a_long_program_is_linear_work():
    sizes = {}
    for n in (1_000, 2_000):
        program = ft.make_program(lambda x, n=n: repeated(x, n))(0.5)
        sizes[n] = len(rewrites.gradient(program, (True,)).equations)
    assert sizes[2_000] < 2.01 * sizes[1_000]


def repeated(x, n):
    for _ in range(n):
        x = fnp.sin(x) * x
    return x


def test_higher_derivatives_stay_small():
    f = lambda x: fnp.exp(fnp.sin(x)) / (1.0 + x * x)
    sizes = []
    for _ in range(5):
        f = ft.grad(f)
        sizes.append(len(ft.make_program(f)(0.5).equations))
    assert sizes[-1] < 4 * sizes[-2], sizes
