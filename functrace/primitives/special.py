"""Special functions: error function, gamma, beta, zeta and Bessel families.

JAX has no derivative of polygamma in its order, of the incomplete beta function in its shape
parameters, nor of zeta and igamma_grad_a; asking for one is a RuleError.

`takes` is what XLA writes for them, one turn of each loop in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from jax import lax

from functrace.errors import RuleError
from functrace.ir import Atom, Aval
from functrace.primitives.comparison import gt
from functrace.primitives.complex import sign
from functrace.primitives.elementwise import F32, Formula, add, binary, mul, neg, sub, unary
from functrace.primitives.quotients import reciprocal
from functrace.primitives.selection import where
from functrace.primitives.space import full
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

bessel_i0e = unary("bessel_i0e", lax.bessel_i0e, lambda x, y: sub(bessel_i1e(x), mul(sign(x), y)), takes=(83, 1))


def _bessel_i1e_slope(x: Atom, y: Atom) -> Atom:
    # i0e(x) - i1e(x) / x tends to 1/2 at zero, where the quotient has no value.
    epsilon = float(ml_dtypes.finfo(x.aval.dtype).eps)
    is_far = gt(mul(x, sign(x)), epsilon)
    safe = where(is_far, x, epsilon)
    slope = sub(bessel_i0e(safe), mul(y, add(sign(safe), reciprocal(safe))))
    return where(is_far, slope, full(slope.aval, 0.5))


bessel_i1e = unary("bessel_i1e", lax.bessel_i1e, _bessel_i1e_slope, edges=[(np.zeros(2, np.float32),)], takes=(83, 1))
