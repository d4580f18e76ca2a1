"""Special functions: error function, gamma, beta, zeta and Bessel families.

JAX has no derivative of polygamma in its order, of the incomplete beta function in its shape
parameters, nor of zeta and igamma_grad_a; asking for one is a RuleError.

`takes` is what XLA writes for them, one turn of each loop in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import jit, lax, numpy as jnp

from functrace.errors import RuleError
from functrace.ir import Atom, Aval, Sample, Work
from functrace.ir.primitive import primitive
from functrace.primitives.complex import sign
from functrace.primitives.elementwise import F32, Elementwise, Formula, add, binary, mul, neg, sub, unary
from functrace.primitives.unary import exp, log, log1p, square

ROOT_PI = math.sqrt(math.pi)
VECTOR = Aval((3,), F32)


def missing(name: str, operand: str) -> Callable[..., Any]:
    """The partial derivative that is not known."""

    def refuse(*xs: Any) -> Any:
        raise RuleError(
            f"{name}: its derivative in {operand} is not known; wrap that operand in stop_gradient "
            "or define the derivative with custom_jvp"
        )

    return refuse


erf = unary("erf", lax.erf, lambda x, y: mul(exp(neg(square(x))), 2 / ROOT_PI), takes=(0, 1))
erfc = unary("erfc", lax.erfc, lambda x, y: mul(exp(neg(square(x))), -2 / ROOT_PI), takes=(60, 1))
erf_inv = unary(
    "erf_inv", lax.erf_inv, lambda x, y: mul(exp(square(y)), ROOT_PI / 2), domain="unit", has_pole=True, takes=(37, 2)
)

lgamma = unary("lgamma", lax.lgamma, lambda x, y: digamma(x), domain="positive", has_pole=True, takes=(52, 4))
digamma = unary(
    "digamma", lax.digamma, lambda x, y: polygamma(1.0, x), domain="positive", has_pole=True, takes=(73, 3)
)
polygamma = binary(
    "polygamma",
    lax.polygamma,
    missing("polygamma", "its order"),
    lambda m, x, y: polygamma(add(m, 1.0), x),
    samples=(np.array([1, 2, 3], np.float32), VECTOR),
    domain="positive",
    has_pole=True,
    fixed=(0,),
    takes=(254, 19),
)
zeta = binary(
    "zeta", lax.zeta, missing("zeta", "x"), missing("zeta", "q"), domain="above_one", has_pole=True,
    fixed=(0, 1), takes=(122, 11),
)


def _igamma_slope(a: Atom, x: Atom) -> Atom:
    return exp(sub(sub(mul(sub(a, 1.0), log(x)), x), lgamma(a)))


igamma_grad_a = binary(
    "igamma_grad_a", lax.igamma_grad_a, missing("igamma_grad_a", "a"), missing("igamma_grad_a", "x"),
    samples=(VECTOR, VECTOR), domain="positive", fixed=(0, 1),
    takes=(539, 11),
)  # fmt: skip
igamma = binary(
    "igamma",
    lax.igamma,
    lambda a, x, y: igamma_grad_a(a, x),
    lambda a, x, y: _igamma_slope(a, x),
    domain="positive",
    order=1,
    takes=(268, 6),
)
igammac = binary(
    "igammac",
    lax.igammac,
    lambda a, x, y: neg(igamma_grad_a(a, x)),
    lambda a, x, y: neg(_igamma_slope(a, x)),
    domain="positive",
    order=1,
    takes=(268, 6),
)


def _beta_slope(a: Atom, b: Atom, x: Atom, y: Atom) -> Atom:
    log_beta = sub(add(lgamma(a), lgamma(b)), lgamma(add(a, b)))
    powers = add(mul(sub(b, 1.0), log1p(neg(x))), mul(sub(a, 1.0), log(x)))
    return exp(sub(powers, log_beta))


regularized_incomplete_beta = Formula(
    "regularized_incomplete_beta",
    lax.betainc,
    (missing("betainc", "a"), missing("betainc", "b"), _beta_slope),
    samples=(VECTOR, VECTOR, np.array([0.2, 0.5, 0.7], np.float32)),
    domain="positive",
    fixed=(0, 1),
    takes=(258, 16),
)


@primitive
class BesselI0eSlope(Elementwise):
    """The mean of c^n exp(-|x| c) over t, with c = 1 - cos t: but for its sign the n-th derivative of exp(-x) I0(x).

    Written in the derivatives before it, it would be the small difference of large numbers, both near 0 and far off.
    """

    name = "bessel_i0e_slope"
    order: int

    def samples(self) -> Iterator[Sample]:
        for n in (1, 3):
            yield Sample(BesselI0eSlope(n), (VECTOR,))
        yield Sample(BesselI0eSlope(2), (np.array([0.01, -60.0, 200.0], np.float32),), differentiable=False)

    @property
    def work_each(self) -> Work:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Work(4 * sum(_terms(self.order)), 3)

    def lower(self, x: Any) -> Any:
        return _mean_of_power(self.order, x)

    def derivative(self, i: int, xs: Sequence[Any], y: Any) -> Any:
        (x,) = xs
        return neg(mul(sign(x), BesselI0eSlope(self.order + 1)(x)))


def _terms(n: int) -> tuple[int, int]:
    """Up to which z the power series is taken, and how many terms of it that needs beyond z."""
    far = 50 + 2 * n
    return far, round(8 * math.sqrt(far)) + 16


@partial(jit, static_argnums=0)
def _mean_of_power(n: int, x: Any) -> Any:
    """(1/2)_n 2^n / n! times exp(-z) 1F1(1/2, n + 1, z) with z = 2 |x|; far from 0 the asymptotic series of that.

    Source: NIST Digital Library of Mathematical Functions, 10.32.2, 13.2.2 and 13.7.1.
    """
    dtype = jnp.promote_types(x.dtype, np.float32)
    z = 2 * jnp.abs(x.astype(dtype))
    far, more = _terms(n)
    is_near = z < far
    near, inverse = jnp.minimum(z, far), 1 / jnp.maximum(z, far)

    def add_term(i: Any, total: Any) -> Any:
        k = (far + more - i).astype(dtype)
        ratio = jnp.where(is_near, near / (n + k), jnp.where(k > far, 0, n + k - 0.5) * inverse) * ((k - 0.5) / k)
        return 1 + ratio * total

    total = lax.fori_loop(0, far + more, add_term, jnp.ones_like(z))
    at_zero = math.comb(2 * n, n) / 2.0**n
    above = math.gamma(n + 0.5) * 2.0**n / math.pi * jnp.sqrt(inverse) * lax.integer_pow(inverse, n)
    return (jnp.where(is_near, at_zero * jnp.exp(-near), above) * total).astype(x.dtype)


def _bessel_i1e_slope(x: Atom, y: Atom) -> Atom:
    return sub(BesselI0eSlope(2)(x), BesselI0eSlope(1)(x))


bessel_i0e = unary("bessel_i0e", lax.bessel_i0e, lambda x, y: neg(mul(sign(x), BesselI0eSlope(1)(x))), takes=(83, 1))
bessel_i1e = unary("bessel_i1e", lax.bessel_i1e, _bessel_i1e_slope, edges=[(np.zeros(2, np.float32),)], takes=(83, 1))
