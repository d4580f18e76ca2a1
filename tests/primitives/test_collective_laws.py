"""The laws of every collective, under the named axis "i": the lowering mapped by JAX is the reference."""

import inspect
import itertools
import zlib

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from functrace import rewrites
from functrace.foreign.importing import Foreign, import_jaxpr
from functrace.ir import Builder, Primitive, Program
from functrace.lower.evaluate import evaluate
from functrace.primitives.collectives import Collective
from functrace.rewrites.jvp import push
from tests.primitives.samples import case, draw

SIZE = 3
CASES = [
    case(s)
    for cls in Primitive.named.values()
    if inspect.isclass(cls) and issubclass(cls, Collective)
    for s in cls.axis_samples(None)
]
MOVING = [c for c in CASES if any(c.moving)]


def cases(of):
    return pytest.mark.parametrize("c", of, ids=[c.name for c in of])


def values(c, *lead, seed=0):
    """Operands with leading axes of these sizes."""
    rng = np.random.default_rng([zlib.crc32(c.name.encode()), seed])
    return [draw(rng, a.with_shape((*lead, *a.shape)), "real") for a in c.avals]


def close(ours, expected):
    assert len(ours) == len(expected)
    for y, z in zip(ours, expected, strict=True):
        y, z = np.asarray(y), np.asarray(z)
        assert (y.shape, y.dtype) == (z.shape, z.dtype)
        np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-5)


def mapped(program, flags=None, fill=True):
    """The Program under its axis."""
    flags = (True,) * len(program.inputs) if flags is None else flags
    found, _ = rewrites.batch(program, SIZE, flags, "i", fill)
    found.verify()
    assert not any(eqn.primitive.uses_axis("i") for eqn in found.equations)
    return found


def pushforward(c):
    with Builder() as b:
        xs, dxs = ([b.input(a) for a in c.avals] for _ in range(2))
        ys, dys = push(b, c.program, xs, dxs)
        return b.build([*ys, *dys])


def jax_mapped(f):
    return jax.vmap(f, axis_name="i", axis_size=SIZE)


@cases(CASES)
def test_value_is_jax(c):
    for batched in itertools.product([True, False], repeat=len(c.avals)):
        xs = [values(c, SIZE)[i] if b else values(c)[i] for i, b in enumerate(batched)]
        # Repeated for JAX, whose all_to_all of an operand that is not mapped has a wrong shape.
        repeated = [x if b else np.stack([x] * SIZE) for x, b in zip(xs, batched, strict=True)]
        expected = jax_mapped(c.function)(*repeated)
        close(evaluate(mapped(c.program, batched), xs), expected)


@cases([c for c in CASES if c.avals])
def test_another_axis_is_a_loop(c):
    xs = values(c, 2, SIZE)
    whole = mapped(c.program)
    expected = [np.stack(ys) for ys in zip(*[evaluate(whole, [x[k] for x in xs]) for k in range(2)], strict=True)]
    inner_first, _ = rewrites.batch(whole, 2, (True,) * len(xs), None, True)
    close(evaluate(inner_first, xs), expected)
    other, _ = rewrites.batch(c.program, 2, (True,) * len(xs), None, True)
    swapped = [np.swapaxes(x, 0, 1) for x in xs]
    close([np.swapaxes(y, 0, 1) for y in evaluate(mapped(other), swapped)], expected)


@cases([c for c in MOVING if c.primitive.name not in ("pmax", "pmin")])
def test_derivatives_are_jax(c):
    xs, dxs, ddxs, more = (values(c, SIZE, seed=s) for s in range(4))
    forward = pushforward(c)

    def first(xs, dxs):
        ys, dys = jax.jvp(lambda xs: c.function(*xs), (xs,), (dxs,))
        return [*ys, *dys]

    close(evaluate(mapped(forward), [*xs, *dxs]), jax_mapped(first)(xs, dxs))
    twice, moved = rewrites.jvp(forward, (True,) * (2 * len(xs)))
    assert all(moved)
    ys, dys = jax_mapped(lambda at, along: jax.jvp(first, at, along))((xs, dxs), (ddxs, more))
    close(evaluate(mapped(twice), [*xs, *dxs, *ddxs, *more]), [*ys, *dys])


@cases([c for c in MOVING if c.primitive.name not in ("pmax", "pmin")])
def test_transpose_is_jax_and_adjoint(c):
    xs = values(c, SIZE)
    linear = (True,) * len(xs)
    program, _ = rewrites.transpose(c.program, linear, (True,))
    out = c.program.out_avals[0]
    ct = draw(np.random.default_rng(5), out.with_shape((SIZE, *out.shape)), "real")

    def pullback(ct, *xs):
        return jax.vjp(lambda *xs: c.function(*xs)[0], *xs)[1](ct)

    ct_xs = evaluate(mapped(program), [ct])
    close(ct_xs, jax_mapped(pullback)(ct, *xs))
    (y,) = evaluate(mapped(c.program), xs)
    np.testing.assert_allclose(
        np.sum(np.asarray(y) * ct).real, sum(np.sum(x * c) for x, c in zip(xs, ct_xs, strict=True)).real, rtol=1e-4
    )


@cases([c for c in MOVING if c.primitive.name in ("pmax", "pmin")])
def test_extremum_derivative_is_that_of_the_array(c):
    (x,), (dx,) = values(c, SIZE), values(c, SIZE, seed=1)
    x[0] = x[1]  # a tie
    reduce = jnp.max if c.primitive.name == "pmax" else jnp.min
    y, dy = jax.jvp(lambda x: jnp.broadcast_to(reduce(x, 0), x.shape), (x,), (dx,))
    close(evaluate(mapped(pushforward(c)), [x, dx]), [y, dy])


@cases(CASES)
def test_text_reads_back(c):
    assert Program.parse(str(c.program)) == c.program


@cases([c for c in CASES if c.primitive.name != "all_to_all"])  # whose tiled form in JAX stays foreign
def test_jaxpr_of_lowering_imports(c):
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in c.avals]
    program = import_jaxpr(jax.make_jaxpr(c.function, axis_env=[("i", SIZE)])(*structs)).program
    assert not [e for e in program.equations if isinstance(e.primitive, Foreign)]
    assert program == c.program
