"""Operations that the factorizations and Fourier transforms of JAX's take, which come as foreign equations.

They are counted for real numbers, and by what the usual algorithms take in the leading order.
Source: Golub and Van Loan, Matrix Computations (4th ed., 2013): sections 3.2, 4.2, 5.2, 7.5, 8.3 and 8.6; the
Fourier transform by Cooley and Tukey's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from functrace.ir import Aval


def of_matrix(count: Callable[[float, float], float]) -> Callable[[Any, Sequence[Aval]], int]:
    """For each matrix of the first operand, of which `count` takes the longer and the shorter side."""

    def flops(_: Any, xs: Sequence[Aval]) -> int:
        *batch, m, n = xs[0].shape
        return round(math.prod(batch) * count(max(m, n), min(m, n)))

    return flops


def triangular_solve(params: Any, xs: Sequence[Aval]) -> int:
    """A multiplication and an addition for each half of the matrix, a column."""
    matrix, right = xs
    return right.size * matrix.shape[-1]


def fft(params: Any, xs: Sequence[Aval]) -> int:
    """5 n log n, for real operands or results half of it."""
    lengths = params["fft_lengths"]
    n = math.prod(lengths)
    batch = math.prod(xs[0].shape[: xs[0].ndim - len(lengths)])
    is_complex = str(params["fft_type"]).split(".")[-1] in ("FFT", "IFFT", "0", "1")
    return round(batch * (5 if is_complex else 2.5) * n * math.log2(max(n, 1)))


FLOPS: dict[str, Callable[[Any, Sequence[Aval]], int]] = {
    "cholesky": of_matrix(lambda m, n: n**3 / 3),
    "lu": of_matrix(lambda m, n: m * n**2 - n**3 / 3),
    "qr": of_matrix(lambda m, n: 4 * m * n**2 - 4 * n**3 / 3),
    "eigh": of_matrix(lambda m, n: 9 * n**3),
    "svd": of_matrix(lambda m, n: 14 * m * n**2 + 8 * n**3),
    "eig": of_matrix(lambda m, n: 25 * n**3),
    "triangular_solve": triangular_solve,
    "fft": fft,
}

# How many leading axes are those of a batch; all entries behind them mix.
BATCHED: dict[str, Callable[[Any, Aval], int]] = {
    "add_any": lambda _, x: x.ndim,
    "triangular_solve": lambda _, x: x.ndim - 2,
    "fft": lambda params, x: x.ndim - len(params["fft_lengths"]),
}
