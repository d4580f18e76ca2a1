"""Bad input gets an error that names the argument, what came, what was expected, and the fix."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import FunctraceError


@ft.custom_vjp
def too_few(x, y):
    return x * y


too_few.defvjp(lambda x, y: (x * y, x), lambda r, ct: (ct,))


@ft.custom_vjp
def wrong_tree(x, y):
    return x * y


wrong_tree.defvjp(lambda x, y: (x * y, x), lambda r, ct: (ct, (ct, ct)))


@ft.custom_vjp
def wrong_shape(x):
    return x * 2.0


wrong_shape.defvjp(lambda x: (x * 2.0, None), lambda r, ct: (ct.sum(),))


@ft.custom_vjp
def no_rules(x):
    return x


@ft.custom_vjp
def clip_gradient(x):
    return x


clip_gradient.defvjp(lambda x: (x, None), lambda _, ct: (fnp.clip(ct, -1.0, 1.0),))


@ft.custom_jvp
def wrong_tangent(x):
    return x * 2.0


wrong_tangent.defjvp(lambda primals, tangents: (primals[0] * 2.0, tangents[0].sum()))


@ft.custom_jvp
def mixed_rule(x):
    return x * 2.0


mixed_rule.defjvp(lambda xs, dxs: (xs[0] * 2.0 + 0.0 * dxs[0], dxs[0] * 2.0))


def closes_over(z):
    @ft.custom_vjp
    def scaled(x):
        return x * z

    scaled.defvjp(lambda x: (x * z, None), lambda _, ct: (ct * z,))
    return scaled(z)


def leak_one():
    kept = []
    ft.grad(lambda x: kept.append(x * 2) or x)(1.0)
    return kept[0]


ROWS = {
    "grad of an array": (
        lambda: ft.grad(fnp.sin)(np.ones(3, np.float32)),
        TypeError, r"grad: the function must return a scalar, got f32\[3\]. Reduce it .*jacrev",
    ),
    "grad of an integer leaf": (
        lambda: ft.grad(lambda p: p["a"][1].sum())({"a": [1.0, np.ones(2, np.int32)]}),
        TypeError, r"argument 0 leaf \['a'\]\[1\] has dtype int32; .*allow_int=True",
    ),
    "grad of a complex output": (
        lambda: ft.grad(lambda x: x * 1j)(1.0), TypeError, r"output must be real floating, got c64",
    ),
    "argnums out of range": (
        lambda: ft.grad(fnp.sin, argnums=2)(1.0),
        ValueError, r"argnums 2 is out of range: the function was called with 1 positional",
    ),
    "output is no array": (
        lambda: ft.grad(lambda x: "text")(1.0), TypeError, r"is a str \('text'\), and must be an array",
    ),
    "has_aux without a pair": (
        lambda: ft.grad(lambda x: x, has_aux=True)(1.0), TypeError, r"must return a pair \(output, aux\)",
    ),
    "in_axes of another length": (
        lambda: ft.vmap(lambda x, y: x + y, in_axes=(0,))(np.ones(2), np.ones(2)),
        ValueError, r"in_axes has 1 entries and the function was called with 2 positional",
    ),
    "in_axes is no prefix": (
        lambda: ft.vmap(lambda x: x["a"], in_axes=({"b": 0},))({"a": np.ones(2)}),
        ValueError, r"in_axes .* is not a prefix of the pytree",
    ),
    "axis sizes differ": (
        lambda: ft.vmap(lambda x, y: x + y)(np.ones(2), np.ones(3)),
        ValueError, r"sizes of the mapped axes differ: argument 0: 2, argument 1: 3",
    ),
    "axis of a scalar": (
        lambda: ft.vmap(lambda x: x)(1.0), ValueError, r"argument 0 has type f32\[\]~?, which has no axis 0",
    ),
    "nothing mapped": (
        lambda: ft.vmap(lambda x: x, in_axes=None)(1.0), ValueError, r"no argument is mapped",
    ),
    "tangents of another structure": (
        lambda: ft.jvp(fnp.sin, (1.0,), ((1.0, 2.0),)), TypeError,
        r"tangents must have the pytree structure of primals",
    ),
    "tangent of another shape": (
        lambda: ft.jvp(fnp.sin, (1.0,), (np.ones(2, np.float32),)),
        TypeError, r"leaf 0 of the tangents has type f32\[2\], and must have that of its primal, f32\[\]",
    ),
    "cotangent of another structure": (
        lambda: ft.vjp(fnp.sin, 1.0)[1]((1.0, 1.0)), TypeError, r"cotangent must have the structure of the output",
    ),
    "leaked tracer": (
        lambda: leak_one() + 1, RuntimeError,
        r"used after the function it belongs to has returned.*made at test_errors.py:\d+",
    ),
    "leaked tracer in another trace": (
        lambda: ft.grad(lambda x: x * leak_one())(1.0), RuntimeError, r"Return the value from the function instead",
    ),
    "tracer handed to jax.numpy": (
        lambda: ft.grad(lambda x: jnp.sin(x))(1.0),
        TypeError, r"handed to jax.numpy.sin, which .* use functrace.numpy.sin, or wrap .*test_errors.py:\d+",
    ),
    "tracer that indexes a closed-over array": (
        lambda: ft.vmap(lambda i: jnp.arange(3.0)[i])(np.arange(2)),
        IndexError, r"index of a jax array .* functrace.numpy.take\(array, index, axis=0\).*test_errors.py:\d+",
    ),
    "tracer handed to jax.numpy by another name": (
        lambda: ft.grad(lambda x: (lambda f: f(x))(jnp.sin))(1.0),
        TypeError, r"handed to a jax function.*functrace.numpy.*test_errors.py:\d+",
    ),
    "float of a jitted value": (
        lambda: ft.jit(lambda x: float(x))(1.0),
        TypeError, r"jit: float\(\) of a value .*depends on argument 'x'.*static_argnums",
    ),
    "branch on a jitted value": (
        lambda: ft.jit(lambda x: x if x > 0 else -x)(1.0), TypeError, r"jit: bool\(\) .*functrace.lax.cond",
    ),
    "branch on a batched value": (
        lambda: ft.vmap(lambda x: x if x > 0 else -x)(np.ones(2)), TypeError, r"vmap: bool\(\)",
    ),
    "shape mismatch in x @ w": (
        lambda: ft.jit(lambda x, w: x @ w)(np.ones((3, 4), np.float32), np.ones((5, 2), np.float32)),
        TypeError, r"matmul: .*f32\[3,4\], f32\[5,2\].*test_errors.py:\d+",
    ),
    "too many indices": (
        lambda: ft.jit(lambda x: x[0, 1])(np.ones(3, np.float32)), IndexError,
        r"indexing: Too many indices.*Operands: f32\[3\].*test_errors.py:\d+",
    ),
    "bwd with too few cotangents": (
        lambda: ft.grad(too_few)(1.0, 2.0), TypeError,
        r"too_few: its bwd must return a tuple with a cotangent for each of its 2 .* got a tuple of 1",
    ),
    "bwd with another structure": (
        lambda: ft.grad(wrong_tree)(1.0, 2.0), TypeError, r"wrong_tree: the cotangent of argument 1 .*structure",
    ),
    "bwd with another shape": (
        lambda: ft.jacrev(wrong_shape)(np.ones(2, np.float32)), TypeError,
        r"wrong_shape: leaf 0 of the cotangents .*has type f32\[\], and must have f32\[2\]",
    ),
    "no rules": (lambda: ft.grad(no_rules)(1.0), NotImplementedError, r"no_rules.defvjp first"),
    "jvp rule with another shape": (
        lambda: ft.jacfwd(wrong_tangent)(np.ones(2, np.float32)), TypeError,
        r"wrong_tangent: leaf 0 of the tangent of its jvp rule has type f32\[\]",
    ),
    "custom rule closes over a differentiated value": (
        lambda: ft.grad(closes_over)(2.0), NotImplementedError, r"scaled: .*closes over a value that is being",
    ),
    "jvp rule whose output depends on the tangent": (
        lambda: ft.grad(mixed_rule)(1.0), NotImplementedError,
        r"mixed_rule: the output of its jvp rule depends on the tangents",
    ),
    "forward mode of a backward that is not linear": (
        lambda: ft.jvp(clip_gradient, (1.0,), (1.0,)), NotImplementedError,
        r"clip_gradient: forward mode needs the transpose .*not linear in the cotangent",
    ),
    "unhashable static argument": (
        lambda: ft.jit(lambda x, n: x, static_argnums=1)(1.0, [1]), ValueError,
        r"jit: static argument 1 is a list \(\[1\]\), which is not hashable",
    ),
    "not a function": (lambda: ft.grad(3.0), TypeError, r"grad: expected a function, got float"),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_message(row):
    run, builtin, message = ROWS[row]
    with pytest.raises(FunctraceError, match=message) as caught:
        run()
    assert isinstance(caught.value, builtin)


def test_errors_inside_jax_are_not_hidden():
    with pytest.raises(TypeError):
        ft.jit(lambda x: fnp.zeros("no shape"))(1.0)
    assert jax.numpy.sin(0.0) == 0.0
