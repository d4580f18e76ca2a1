"""Complex numbers: holomorphic functions, Wirtinger derivatives, and JAX's conventions for both."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import DtypeError
from tests.against_jax import QUICKLY

POINT = 0.3 + 0.4j
Z = np.array([0.3 + 0.4j, -0.7 + 0.2j, 0.5 - 0.6j])
DZ = np.array([1.0 - 0.5j, 0.2j, -0.3 + 0.1j])
X = np.array([0.3, -0.7, 0.5])
MATRIX = np.array([[1.0 + 0.2j, 0.3j, 0.1], [0.2, 2.0 - 0.1j, 0.4], [0.1j, -0.3, 1.5 + 0.5j]])

# Of a complex number, or of each entry of an array.
HOLOMORPHIC = {
    name: (lambda f: lambda n, z: getattr(n, f)(z))(name)
    for name in (
        "sin", "cos", "tan", "exp", "expm1", "log", "log1p", "sqrt", "sinh", "cosh", "tanh", "arcsin", "arctan",
        "arcsinh", "arctanh", "square", "reciprocal", "negative",
    )
}  # fmt: skip
HOLOMORPHIC |= {
    "power": lambda n, z: z**3,
    "negative power": lambda n, z: z**-2,
    "complex power": lambda n, z: z ** (0.5 + 1j),
    "exponential": lambda n, z: (1.5 + 0.5j) ** z,
    "quotient": lambda n, z: n.sin(z) / (z * z + 2j),
    "product": lambda n, z: z * n.exp(1j * z),
    "chosen": lambda n, z: n.where(z.real > 0, z * z, 1j * z),
}
# Of an array to an array.
MAPS = {
    "matvec": lambda n, z: MATRIX @ n.sin(z),
    "solve": lambda n, z: n.linalg.solve(MATRIX + n.diag(z), z),
    "cumsum": lambda n, z: n.cumsum(z * z),
    "gather": lambda n, z: z[np.array([2, 0, 0])] * z,
    "sort of parts": lambda n, z: z[::-1] * n.exp(z),
}
# With conjugates and parts: z and its conjugate are two variables.
MIXED = {
    "conj": lambda n, z: n.conj(z) * z,
    "real": lambda n, z: n.real(z * z),
    "imag": lambda n, z: n.imag(n.exp(z)),
    "abs": lambda n, z: n.abs(z * z + 1),
    "angle": lambda n, z: n.angle(z),
    "abs squared": lambda n, z: n.abs(n.sin(z)) ** 2,
    "vdot": lambda n, z: n.vdot(z, n.sin(z)),
    "norm": lambda n, z: n.linalg.norm(z * DZ),
    "real and back": lambda n, z: n.real(z) + 1j * n.imag(z) ** 2,
    "fft": lambda n, z: n.abs(n.fft.fft(z)) ** 2,
    "to real and complex": lambda n, z: (n.real(z), z * n.conj(z), n.sum(n.abs(z))),
}


def quickly(f):
    """What it returns, compiled."""
    return jax.jit(f, compiler_options=QUICKLY)()


def same(ours, theirs):
    for a, b in zip(*map(jax.tree_util.tree_leaves, (ours, theirs)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


HOLOMORPHIC_TRANSFORMS = {
    "grad": lambda t, f: t.grad(f, holomorphic=True)(POINT),
    "value and grad": lambda t, f: t.value_and_grad(f, holomorphic=True)(POINT),
    "second": lambda t, f: t.grad(t.grad(f, holomorphic=True), holomorphic=True)(POINT),
    "grad under vmap": lambda t, f: t.vmap(t.grad(f, holomorphic=True))(Z),
    "jit of grad": lambda t, f: t.jit(t.grad(f, holomorphic=True))(POINT),
    "jvp": lambda t, f: t.jvp(f, (Z,), (DZ,)),
    "vjp": lambda t, f: t.vjp(f, Z)[1](DZ),
    "jacfwd": lambda t, f: t.jacfwd(f, holomorphic=True)(Z),
    "jacrev": lambda t, f: t.jacrev(f, holomorphic=True)(Z),
}


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_holomorphic_functions(name):
    def everything(t, n):
        f = lambda z: HOLOMORPHIC[name](n, z)
        return {key: transform(t, f) for key, transform in HOLOMORPHIC_TRANSFORMS.items()}

    with jax.enable_x64(True):
        ours = quickly(lambda: everything(ft, fnp))
        same(ours, quickly(lambda: everything(jax, jnp)))
        h = 1e-6
        f = lambda z: np.asarray(HOLOMORPHIC[name](jnp, z))
        for direction in (h, 1j * h):  # the slope is one number, whatever the direction
            numerical = (f(POINT + direction) - f(POINT - direction)) / (2 * direction)
            np.testing.assert_allclose(ours["grad"], numerical, rtol=1e-7)


@pytest.mark.parametrize("name", ["sin", "power", "quotient", "product"])
def test_holomorphic_towers_are_small(name):
    f, order = lambda n: lambda z: HOLOMORPHIC[name](n, z) * z, 5
    ours, theirs = f(fnp), f(jnp)
    for _ in range(order):
        ours, theirs = ft.grad(ours, holomorphic=True), jax.grad(theirs, holomorphic=True)
    with jax.enable_x64(True):
        assert len(ft.make_program(ours)(POINT).equations) < 150
        same(quickly(lambda: ours(POINT)), quickly(lambda: theirs(POINT)))


@pytest.mark.parametrize("name", ["conj", "abs squared", "real and back", "conj of exp"])
def test_a_broken_promise_is_what_it_is_in_jax(name):
    """`holomorphic=True` of a function that is not: the same number as JAX's, which conjugates on the way back."""
    of = {**MIXED, "conj of exp": lambda n, z: n.conj(n.exp(z)) * z}[name]
    grad = lambda t, n: t.grad(lambda z: of(n, z) * (1 + 2j), holomorphic=True)(POINT)
    with jax.enable_x64(True):
        same(quickly(lambda: grad(ft, fnp)), quickly(lambda: grad(jax, jnp)))


@pytest.mark.parametrize("name", MAPS)
def test_holomorphic_maps(name):
    def everything(t, n):
        f = lambda z: MAPS[name](n, z)
        return {
            "jacfwd": t.jacfwd(f, holomorphic=True)(Z),
            "jacrev": t.jacrev(f, holomorphic=True)(Z),
            "hessian": t.hessian(lambda z: n.sum(f(z) * DZ), holomorphic=True)(Z),
            "hessian of all": t.hessian(f, holomorphic=True)(Z),
            "jvp": t.jvp(f, (Z,), (DZ,)),
            "vjp": t.vjp(f, Z)[1](DZ),
        }

    with jax.enable_x64(True):
        same(quickly(lambda: everything(ft, fnp)), quickly(lambda: everything(jax, jnp)))


@pytest.mark.parametrize("name", MIXED)
def test_wirtinger(name):
    """JAX's: the cotangent of z is df/dx - i df/dy of a real f, the conjugate of the steepest ascent."""

    def everything(t, n):
        f = lambda z: MIXED[name](n, z)
        total = lambda z: sum(n.sum(n.real(y) + 2 * n.imag(y)) for y in jax.tree_util.tree_leaves(f(z)))
        y, pull = t.vjp(f, Z)
        ct = jax.tree_util.tree_map(lambda v: n.cos(v.real).astype(v.dtype), y)
        return {
            "jvp": t.jvp(f, (Z,), (DZ,)),
            "vjp": pull(ct),
            "linearize": t.linearize(f, Z)[1](DZ),
            "grad": t.grad(total)(Z),
            "grad of parts": t.grad(lambda x, y: total(x + 1j * y), argnums=(0, 1))(Z.real, Z.imag),
            "of a real": t.grad(lambda a: total(a * Z))(0.7),
            "twice": t.grad(lambda z: n.sum(n.real(t.grad(total)(z) * DZ)))(Z),
            "jacfwd of a real": t.jacfwd(lambda x: f(x + 1j * x * x))(X),
            "jacrev of a real": t.jacrev(lambda x: total(x + 1j * x * x))(X),
            "hessian of a real": t.hessian(lambda x: total(x + 1j * x * x))(X),
        }

    with jax.enable_x64(True):
        ours = quickly(lambda: everything(ft, fnp))
        same(ours, quickly(lambda: everything(jax, jnp)))
        dx, dy = ours["grad of parts"]
        np.testing.assert_allclose(ours["grad"], dx - 1j * dy, rtol=1e-12)


@pytest.mark.parametrize("name", ["quotient", "product", "power", "conj", "abs squared", "real and back", "matvec"])
def test_check_grads(name):
    f = {**HOLOMORPHIC, **MAPS, **MIXED}[name]
    with jax.enable_x64(True):
        ft.testing.check_grads(lambda z: f(fnp, z), (Z,), order=2)


CONJ = lambda n: lambda z: n.sum(n.conj(z) * 1j)
REFUSED = {
    "complex output": (lambda t, n: t.grad(CONJ(n))(Z), "the output must be real floating"),
    "real output": (lambda t, n: t.grad(lambda z: n.sum(n.abs(z)), holomorphic=True)(Z), "must be complex"),
    "real input": (lambda t, n: t.grad(lambda x: n.sum(x), holomorphic=True)(X), "needs complex inputs"),
    "value, real input": (lambda t, n: t.value_and_grad(n.sum, holomorphic=True)(X), "needs complex inputs"),
    "jacfwd": (lambda t, n: t.jacfwd(n.sin)(Z), "argument 0 is complex; pass holomorphic=True"),
    "jacfwd, real input": (lambda t, n: t.jacfwd(n.sin, holomorphic=True)(X), "needs complex inputs"),
    "jacrev": (lambda t, n: t.jacrev(n.sin)(Z), "outputs must be real floating"),
    "jacrev, real to complex": (lambda t, n: t.jacrev(lambda x: x * 1j)(X), "outputs must be real floating"),
    "jacrev, real output": (lambda t, n: t.jacrev(n.abs, holomorphic=True)(Z), r"outputs must be complex"),
    "hessian": (lambda t, n: t.hessian(lambda z: n.sum(n.abs(z) ** 2))(Z), "argument 0 is complex"),
    "hessian, real input": (lambda t, n: t.hessian(n.sum, holomorphic=True)(X), "needs complex inputs"),
    "vjp of a wrong cotangent": (lambda t, n: t.vjp(n.abs, Z)[1](DZ), "c128"),
    "jvp of a wrong tangent": (lambda t, n: t.jvp(n.sin, (X,), (DZ,)), "c128"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_in_jax(name):
    call, message = REFUSED[name]
    with jax.enable_x64(True):
        with pytest.raises((TypeError, ValueError)):
            call(jax, jnp)
        with pytest.raises(DtypeError, match=message):
            call(ft, fnp)
