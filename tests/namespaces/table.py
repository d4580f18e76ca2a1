"""Functions of functrace.lax, scipy and random with a floating result, by module: operands, static arguments."""

import jax
import numpy as np
from jax import lax

from tests.against_jax import AS_USERS_DO, definite, distinct, normal, positive, regular, row, uniform

M = normal(2, 3)
KEY = jax.random.key(3)
NHWC = ("NHWC", "HWIO", "NHWC")
UNIT = uniform(0.1, 0.9, 2, 3)
TAKE_ROWS = lax.GatherDimensionNumbers((1,), (0,), (0,))
ADD_ROWS = lax.ScatterDimensionNumbers((1,), (0,), (0,))
ROW_INDICES = np.array([[2], [0]], np.int32)

LAX = [
    row("abs", M),
    row("batch_matmul", normal(2, 2, 3), normal(2, 3, 2)),
    row("broadcast", normal(3), (2,)),
    row("broadcast_in_dim", normal(3), (2, 3), (1,)),
    row("clamp", -0.5, M, 0.7),
    row("collapse", normal(2, 3, 2), 0, 2),
    row("concatenate", [M, normal(1, 3)], 0),
    row("conv", normal(1, 2, 5, 4), normal(3, 2, 2, 2), (1, 2), "VALID"),
    row("conv_general_dilated", normal(1, 5, 4, 2), normal(2, 2, 2, 3), (2, 1), "SAME", dimension_numbers=NHWC),
    row("conv_general_dilated_patches", normal(1, 2, 4, 4), (2, 2), (1, 1), "VALID"),
    row("conv_transpose", normal(1, 3, 3, 2), normal(2, 2, 2, 3), (2, 2), "SAME", dimension_numbers=NHWC),
    row("conv_with_general_padding", normal(1, 2, 5), normal(3, 2, 2), (1,), [(1, 0)], None, None),
    row("cumlogsumexp", normal(5), 0),
    row("cummax", distinct(5), 0),
    row("cumprod", normal(5), 0, True),
    row("cumsum", M, 1),
    row("dot", M, normal(3)),
    row("dot_general", M, normal(2, 4), (((0,), (0,)), ((), ()))),
    row("dynamic_index_in_dim", M, 1, 0),
    row("dynamic_slice", M, (0, 1), (2, 2)),
    row("dynamic_slice_in_dim", M, 1, 2, 1),
    row("dynamic_update_index_in_dim", M, normal(3), 1, 0),
    row("dynamic_update_slice", M, normal(1, 2), (1, 0)),
    row("dynamic_update_slice_in_dim", M, normal(1, 3), 1, 0),
    row("erf_inv", uniform(-0.8, 0.8, 2, 3)),
    row("expand_dims", M, (0, 3)),
    row("gather", normal(4, 3), ROW_INDICES, TAKE_ROWS, (1, 3)),
    row("index_in_dim", M, 2, 1),
    row("integer_pow", M, 3),
    row("logistic", M),
    row("pad", M, np.float32(0.0), ((1, 0, 0), (0, 2, 1))),
    row("polygamma", np.float32(1.0), positive(3)),
    row("pow", positive(2, 3), normal(2, 3)),
    row("reduce_max", distinct(2, 3), (1,)),
    row("reduce_prod", M, (0,)),
    row("rsqrt", positive(2, 3)),
    row("scatter_add", normal(4, 3), ROW_INDICES, normal(2, 3), ADD_ROWS),
    row("scatter_mul", normal(4, 3), ROW_INDICES, normal(2, 3), ADD_ROWS, unique_indices=True),
    row("select", np.array([[True, False, True]] * 2), M, M),
    row("slice", M, (0, 1), (2, 3)),
    row("slice_in_dim", M, 0, 3, 2, 1),
    row("sort", distinct(4)),
    row("sort_key_val", distinct(4), normal(4)),
    row("split", normal(5), (2, 3)),
    row("squeeze", normal(1, 3), (0,)),
    row("tile", M, (2, 1)),
    row("top_k", distinct(5), 2),
    row("transpose", M, (1, 0)),
]

SPECIAL = [
    row("bernoulli", 4, call=lambda f, n: f(n)),
    row("beta", positive(3), positive(3)),
    row("betainc", positive(3), positive(3), uniform(0.2, 0.8, 3), refused=("grad of grad", "jvp", "vjp",
        "vmap of grad", "grad of vmap")),
    row("betaln", positive(3), positive(3)),
    row("digamma", positive(3)),
    row("entr", positive(3)),
    row("erf", M),
    row("erfc", M),
    row("erfinv", uniform(-0.8, 0.8, 3)),
    row("expi", positive(3)),
    row("expit", M),
    row("gamma", positive(3)),
    row("gammainc", positive(3), positive(3), refused=("grad of grad",)),
    row("gammaln", positive(3)),
    row("i0", M),
    row("i0e", M),
    row("i1", M),
    row("i1e", M),
    row("kl_div", positive(3), positive(3)),
    row("log_ndtr", M, looser=4.0),
    row("log_softmax", M, axis=-1),
    row("logit", UNIT),
    row("logsumexp", M, axis=1),
    row("multigammaln", uniform(3.0, 4.0, 3), 2),
    row("ndtr", M),
    row("ndtri", UNIT),
    row("rel_entr", positive(3), positive(3)),
    row("softmax", M, axis=0),
    row("spence", uniform(0.2, 0.9, 3)),
    row("xlog1py", M, positive(2, 3)),
    row("xlogy", M, positive(2, 3)),
]

LINALG = [
    row("block_diag", M, normal(1, 2)),
    row("cho_factor", definite(3), call=lambda f, a: f(a + a.T)[0], looser=8.0),
    row("cholesky", definite(3), call=lambda f, a: f(a + a.T), looser=8.0),
    row("det", regular(3), looser=8.0),
    row("eigh", regular(3), call=lambda f, a: f(a + a.T)[0], looser=8.0),
    row("expm", normal(2, 2), looser=8.0),
    row("inv", regular(3), looser=8.0),
    row("lu", regular(3), call=lambda f, a: f(a)[1:], looser=8.0),
    row("qr", regular(3), looser=16.0),
    row("solve", regular(3), normal(3), looser=8.0),
    row("solve_triangular", regular(3), normal(3), lower=True, looser=8.0),
    row("svd", regular(3), compute_uv=False, looser=8.0),
    row("toeplitz", normal(3)),
]

STATS = [
    row(f"{name}.logpdf", x, *parameters)
    for name, x, parameters in (
        ("beta", UNIT, (positive(3), positive(3))), ("cauchy", M, (normal(3), positive(3))),
        ("chi2", positive(3), (positive(3),)), ("expon", positive(3), (0.0, positive(3))),
        ("gamma", positive(3), (positive(3), 0.0, positive(3))), ("laplace", M, (3.0, positive(3))),
        ("logistic", M, (normal(3), positive(3))), ("norm", M, (normal(3), positive(3))),
        ("t", M, (positive(3), normal(3), positive(3))),
        ("multivariate_normal", normal(3), (normal(3), np.eye(3, dtype=np.float32))),
    )
] + [
    row("norm.cdf", M), row("norm.logcdf", M, looser=4.0), row("norm.ppf", UNIT),
    row("bernoulli.logpmf", np.array([0, 1, 1]), uniform(0.2, 0.8, 3)),
    row("poisson.logpmf", np.array([0, 3]), positive(2)),
    row("sem", normal(4)),
]  # fmt: skip

SIGNAL = [
    row("convolve", normal(5), normal(3), mode="same"),
    row("convolve2d", normal(4, 3), normal(2, 2)),
    row("correlate", normal(5), normal(3)),
    row("detrend", normal(6), looser=4.0),
    row("fftconvolve", normal(5), normal(3), looser=4.0),
]

RANDOM = [
    row("dirichlet", KEY, positive(3), looser=8.0, refused=("grad of grad",)),
    row("gamma", KEY, positive(3), looser=8.0, refused=("grad of grad",)),
    row("multivariate_normal", KEY, normal(2), definite(2), call=lambda f, k, m, c: f(k, m, c + c.T, method="cholesky"),
        looser=8.0),
    row("normal", KEY, (3,), call=lambda f, k, s: f(k, s)),
    row("permutation", KEY, normal(4)),
    row("truncated_normal", KEY, uniform(-2.0, -1.0, 3), uniform(1.0, 2.0, 3), options=AS_USERS_DO),
    row("uniform", KEY, (3,), np.float32, uniform(-2.0, -1.0, 3), uniform(1.0, 2.0, 3)),
    row("choice", KEY, normal(5), (3,)),
]  # fmt: skip

TABLES = {
    "lax": LAX, "scipy.special": SPECIAL, "scipy.linalg": LINALG, "scipy.stats": STATS, "scipy.signal": SIGNAL,
    "random": RANDOM,
}  # fmt: skip
