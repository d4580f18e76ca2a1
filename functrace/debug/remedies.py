"""What happened in an equation that made a NaN or an Inf, and what helps: rows of a table, tried in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Made(NamedTuple):
    """An equation with the values of its operands; `of` is the primitive that the user wrote, where a derivative made
    the equation."""

    primitive: str
    of: str
    is_derivative: bool
    operands: Sequence[np.ndarray[Any, Any]]

    def has(self, i: int, test: Callable[[Any], Any]) -> bool:
        """Whether an element of operand i passes."""
        return i < len(self.operands) and bool(np.any(test(self.operands[i])))


class Remedy(NamedTuple):
    """When a row applies, what happened, and what helps."""

    applies: Callable[[Made], bool]
    cause: str
    fix: str


def zero(x: Any) -> Any:
    """Elements that are 0."""
    return x == 0


def negative(x: Any) -> Any:
    """Elements below 0."""
    return x < 0 if x.dtype.kind != "c" else False


def infinite(x: Any) -> Any:
    """Elements that are Inf."""
    return np.isinf(x) if x.dtype.kind in "fc" else False


def is_(*names: str) -> Callable[[Made], bool]:
    """The equation's primitive is one of these."""
    return lambda m: m.primitive in names


def of(*names: str) -> Callable[[Made], bool]:
    """The equation belongs to the derivative of one of these."""
    return lambda m: m.is_derivative and m.of in names


def both(*tests: Callable[[Made], bool]) -> Callable[[Made], bool]:
    """All of them hold."""
    return lambda m: all(t(m) for t in tests)


def operand(i: int, test: Callable[[Any], Any]) -> Callable[[Made], bool]:
    """An element of operand i passes."""
    return lambda m: m.has(i, test)


def some(test: Callable[[Any], Any]) -> Callable[[Made], bool]:
    """An element of an operand passes."""
    return lambda m: any(m.has(i, test) for i in range(len(m.operands)))


TRAP = Remedy(
    lambda m: True,
    "the branch of a `where` that was not taken: its cotangent is 0, its derivative Inf, and 0 * Inf is NaN",
    "guard the argument as well: `safe = where(mask, x, 1.0)`, then `where(mask, f(safe), other)`; a `where` around "
    "the result alone does not stop the derivative of the branch not taken",
)

NOT_READ = Remedy(
    lambda m: True,
    "what was not read of the result: its cotangent is 0, its derivative Inf, and 0 * Inf is NaN",
    "read before you compute, `f(x[1:])` for `f(x)[1:]`, so that what is left out has no derivative",
)

TABLE = [
    Remedy(of("sqrt", "rsqrt"), "the derivative of sqrt is infinite at 0",
           "keep the argument above 0: `sqrt(x + eps)`; for the length of a vector that may be 0, `linalg.norm`, or "
           "`where(s > 0, sqrt(where(s > 0, s, 1.0)), 0.0)`"),
    Remedy(of("cbrt"), "the derivative of cbrt is infinite at 0", "keep the argument away from 0"),
    Remedy(of("log", "log1p"), "the derivative of log, 1/x, is infinite at 0",
           "keep the argument above 0: `log(maximum(x, eps))`; for probabilities compute the logarithm from logits "
           "(`log_softmax`, `log_sigmoid`)"),
    Remedy(both(of("pow", "integer_pow"), some(zero)), "the derivative of x ** p is infinite at 0 for p < 1",
           "keep the base above 0: `maximum(x, eps) ** p`"),
    Remedy(of("asin", "acos", "atanh"), "the derivative is infinite at the ends of the domain, -1 and 1",
           "clip the argument to within them: `clip(x, -1 + eps, 1 - eps)`"),
    Remedy(of("div"), "the derivative of a quotient divides by the square of the divisor, which is 0 or underflows",
           "keep the divisor away from 0: `x / maximum(y, eps)`"),
    Remedy(both(is_("log"), operand(0, negative)), "log of a negative number is NaN",
           "keep the argument positive: `log(maximum(x, eps))`"),
    Remedy(is_("log"), "log of 0 is -Inf",
           "keep the argument above 0: `log(x + eps)` or `log(maximum(x, eps))`; for probabilities `log_softmax` of "
           "the logits; for x * log(x), which is 0 at 0, `scipy.special.xlogy(x, x)`, or, as its slope there is -Inf, "
           "`xlogy(x, x + eps)` where it is differentiated"),
    Remedy(is_("log1p"), "log1p of -1 is -Inf, and of less NaN",
           "keep the argument above -1: `log1p(maximum(x, -1 + eps))`"),
    Remedy(both(is_("sqrt", "rsqrt"), operand(0, negative)), "the square root of a negative number is NaN",
           "keep the argument at 0 or above: `sqrt(maximum(x, 0.0))`; a variance computed as E[x^2] - E[x]^2 can fall "
           "below 0: use `var`"),
    Remedy(both(is_("div"), operand(0, zero), operand(1, zero)), "0 / 0 is NaN",
           "keep the divisor away from 0: `x / maximum(y, eps)`, or `where(y == 0, 0.0, x / where(y == 0, 1.0, y))`"),
    Remedy(both(is_("div"), operand(1, zero)), "a division by 0",
           "keep the divisor away from 0: `x / maximum(y, eps)`, or guard it: `where(y == 0, 1.0, y)`"),
    Remedy(both(is_("div"), operand(0, infinite), operand(1, infinite)), "Inf / Inf is NaN",
           "find out why both are infinite; a softmax subtracts its largest logit first (`nn.softmax`)"),
    Remedy(both(is_("integer_pow", "rsqrt", "pow"), operand(0, zero)),
           "a negative power of 0, which is a division by 0",
           "keep the base away from 0: `1 / maximum(x, eps)`"),
    Remedy(both(is_("pow"), operand(0, negative)),
           "a power of a negative number with an exponent that is no integer is NaN",
           "take the power of `abs(x)`, or write an integer exponent"),
    Remedy(is_("exp", "exp2", "expm1", "sinh", "cosh"), "exp overflows",
           "subtract the largest exponent first, as `logsumexp`, `softmax` and `log_softmax` do, or clip the argument "
           "(float32 overflows from 88.7 on, float16 from 11.1 on)"),
    Remedy(both(is_("mul", "dot_general"), some(infinite), some(zero)), "0 * Inf is NaN",
           "find out why one factor is infinite; where it is masked by the 0, use `where` instead of a product"),
    Remedy(both(is_("sub", "add", "reduce_sum", "cumsum"), some(infinite)), "Inf - Inf is NaN",
           "a row in which everything is masked with -inf has no largest element: mask with a large finite number "
           "(-1e9, or `finfo(dtype).min`), or leave such rows out"),
    Remedy(both(is_("atanh"), lambda m: not m.has(0, lambda x: abs(x) > 1)), "atanh of -1 or 1 is infinite",
           "keep the argument within: `clip(x, -1 + eps, 1 - eps)`"),
    Remedy(is_("asin", "acos", "atanh", "acosh"), "an argument outside of the function's domain",
           "clip the argument to the domain"),
    Remedy(is_("gather"), "an index out of range, which reads NaN", "check the index, or pass mode='clip'"),
    Remedy(is_("cholesky", "lu", "eigh", "triangular_solve"), "the matrix is singular, or not positive definite",
           "add a little to its diagonal: `a + eps * eye(n)`"),
    Remedy(is_("mul", "add", "sub", "div", "dot_general", "reduce_sum", "integer_pow", "pow", "square", "cumsum",
               "conv_general_dilated", "reduce_prod", "cumprod", "scatter_add"),
           "the result is larger than its dtype holds",
           "scale down (smaller weights or learning rate, clip the gradient, normalise), or use a wider dtype"),
    Remedy(is_("convert_element_type"), "a number is larger than the new dtype holds",
           "scale down before the cast, or cast to bfloat16, which has float32's range"),
]  # fmt: skip
OTHERWISE = Remedy(lambda m: True, "its operands are finite and its result is not", "look at the operands' ranges")


def remedy(made: Made) -> Remedy:
    """The first row that applies."""
    return next((row for row in TABLE if row.applies(made)), OTHERWISE)
