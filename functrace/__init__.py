"""functrace: functions traced to Programs; transforms rewrite Programs; XLA runs them.

To understand it, read in this order: `ir` (the language), `primitives` (what it is made of),
`rewrites` (the calculus, Program -> Program), `tracing` (Python -> Program), `transforms` (the
calculus on Python functions), `lower` (Program -> XLA).

>>> import functrace as ft
>>> from functrace import numpy as fnp
>>> float(ft.grad(lambda x: fnp.sin(x) ** 2)(0.0))
0.0
"""

from functrace import debug, errors, io, lax, nn, numpy, optim, random, scipy, testing, tree
from functrace.config import config
from functrace.ir import Program, named_scope
from functrace.lax.sequential_vmap import sequential_vmap
from functrace.tracing import clear_caches, from_jax
from functrace.transforms import (
    biharmonic,
    checkpoint,
    checkpoint_name,
    checkpoint_policies,
    closure_convert,
    curl,
    custom_jvp,
    custom_vjp,
    custom_vmap,
    derivative,
    divergence,
    empirical_fisher_vp,
    eval_shape,
    fisher_vp,
    gauss_newton_vp,
    ggn,
    grad,
    hessian,
    hessian_diag,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    jet,
    jit,
    jvp,
    laplacian,
    linear_transpose,
    linearize,
    make_program,
    on_backward,
    per_example_clipped_grad,
    per_example_norms,
    sparsity,
    stop_gradient,
    tap,
    taylor,
    value_and_grad,
    vhp,
    vjp,
    vmap,
)

remat = checkpoint

__version__ = "0.1.0"

__all__ = [
    "Program", "biharmonic", "checkpoint", "checkpoint_name", "checkpoint_policies", "clear_caches",
    "closure_convert", "config", "curl", "custom_jvp", "custom_vjp", "custom_vmap", "debug", "derivative",
    "divergence", "empirical_fisher_vp", "errors", "eval_shape", "fisher_vp", "from_jax", "gauss_newton_vp",
    "ggn", "grad", "hessian", "hessian_diag", "hvp", "io", "jacfwd", "jacobian", "jacrev", "jet", "jit", "jvp",
    "laplacian", "lax", "linear_transpose", "linearize", "make_program", "named_scope", "nn", "numpy", "on_backward",
    "optim",
    "per_example_clipped_grad", "per_example_norms", "random", "remat", "scipy", "sequential_vmap",
    "sparsity", "stop_gradient", "tap", "taylor", "testing", "tree", "value_and_grad", "vhp", "vjp", "vmap",
]  # fmt: skip
