"""The laws are tested too: each wrong rule planted here must break the law that is named beside it."""

import dataclasses

import numpy as np
import pytest

from functrace.ir import Literal, Primitive, Through, builder
from functrace.primitives import comparison, convolution, elementwise as el, reductions, space, structural, unary
from functrace.primitives.elementwise import add, mul, neg, sub
from functrace.primitives.selection import where
from tests.primitives import test_laws as laws


def wrong_batch(self, size, xs, batched):
    return type(self)(self.axes)(xs[0]), True


def half(rule):
    """The rule, its cotangents halved."""
    return lambda self, ct, *xs: [None if c is None else mul(c, 0.5) for c in rule(self, ct, *xs)]


# The primitive, the attribute, the wrong rule in its place, and the law that must fail.
MISTAKES = {
    "a sign in a derivative": ("sin", "partials", (lambda x, y: neg(unary.cos(x)),), laws.test_jvp_is_jax),
    "the same, by numbers": (
        "sin",
        "partials",
        (lambda x, y: neg(unary.cos(x)),),
        laws.test_jvp_is_numerical_derivative,
    ),
    "a derivative that is right once": (
        "exp",
        "partials",
        (lambda x, y: unary.exp(Primitive.named["stop_gradient"](x)),),
        laws.test_second_derivative_is_jax,
    ),
    "all to one side at a tie": (
        "max",
        "term",
        lambda i, dx, xs, y: where(comparison.eq(xs[i], y), dx, 0),
        laws.test_jvp_is_jax,
    ),
    "a missing conjugate": ("conj", "transpose", lambda ct, *xs: [ct], laws.test_transpose_is_adjoint),
    "a factor in a transpose": (
        space.Reshape,
        "transpose",
        half(space.Reshape.transpose),
        laws.test_transpose_is_adjoint,
    ),
    "a cotangent for every case": (
        "select_n",
        "transpose",
        lambda ct, *xs: [None, *[ct] * (len(xs) - 1)],
        laws.test_vjp_is_jax,
    ),
    "a result whose cotangent is lost": (
        structural.Split,
        "transpose",
        lambda self, ct, *xs: [space.zeros(xs[0].aval)],
        laws.test_transpose_of_each_result_alone,
    ),
    "the batch axis reduced": (space.ReduceSum, "batch", wrong_batch, laws.test_batch_is_a_loop),
    "the batch axis reduced, in reverse": (
        reductions.ReduceMax,
        "batch",
        wrong_batch,
        laws.test_batched_pullback_is_jax,
    ),
    "a shape": (space.Transpose, "shape", lambda self, x: x, laws.test_shape_rule_is_type_of_lowering),
    "x * 0 is not 0": (
        "mul",
        "_simplify",
        lambda b, x, y: y if el.is_constant(y, 0.0) else None,
        laws.test_folded_literals_have_the_same_value,
    ),
    "x + 0 is not x": (
        "add",
        "_simplify",
        lambda b, x, y: x if type(y) is Literal and y.value == 0 else None,
        laws.test_folded_literals_have_the_same_value,
    ),
    "folded the wrong way round": (
        "sub",
        "_fold",
        lambda x, y: np.subtract(y, x),
        laws.test_folded_literals_have_the_same_value,
    ),
    "simplified to something else": (
        space.Transpose,
        "simplify",
        lambda self, b, x: space.reshape(x, self.shape(x.aval).shape),
        laws.test_simplified_equation_has_the_same_value,
    ),
    "an import that drops a parameter": (
        space.ReduceSum,
        "from_jax",
        classmethod(lambda cls, params, avals: cls(params["axes"][:1])),
        laws.test_jaxpr_of_lowering_imports,
    ),
    "squares of one part": (
        structural.Concatenate,
        "squares",
        lambda self, *xs: [Through(xs[0])],
        laws.test_squares_add_up,
    ),
    "windows taken at the wrong places": (
        convolution.ConvGeneralDilated,
        "patches",
        lambda self, x, window, places, right=convolution.ConvGeneralDilated.patches: right(
            dataclasses.replace(self, rhs_dilation=(1,) * len(window)), x, window, places
        ),
        laws.test_squares_add_up,
    ),
    "tangents and values mixed": (
        "sin",
        "linearize",
        lambda xs, dxs: (unary.sin(xs[0]), mul(add(dxs[0], sub(xs[0], xs[0])), unary.sin(xs[0]))),
        laws.test_linearize_is_jvp,
    ),
}


def cases_of(law, name):
    """The cases on which a law is tested that are of one primitive."""
    (mark,) = law.pytestmark
    return [c for c in mark.args[1] if c.primitive.name == name]


def broken(law, cases):
    """How many of the cases break the law."""
    count = 0
    for c in cases:
        try:
            law(c)
        except Exception:  # a wrong rule may fail in any way
            count += 1
    return count


@pytest.mark.parametrize("row", MISTAKES)
def test_a_law_finds_it(row, monkeypatch):
    found, attribute, wrong, law = MISTAKES[row]
    target = Primitive.named[found] if isinstance(found, str) else found
    cases = cases_of(law, target.name)
    assert cases
    assert not broken(law, cases)
    monkeypatch.setattr(target, attribute, wrong)
    monkeypatch.setattr(builder, "_shapes", {})
    assert broken(law, cases)
