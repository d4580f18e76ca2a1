"""Transforms: a Python function in, a Python function out.

Each traces its function into a Program, has `rewrites` transform it, and runs the result or writes it
into the trace that is running. Read `jvp`, `linearize`, `vjp`, `grad`, `vmap`, `jit`, `custom_vjp` in that
order.
"""

from functrace.transforms import checkpoint_policies
from functrace.transforms.checkpoint import checkpoint, checkpoint_name
from functrace.transforms.closure_convert import closure_convert
from functrace.transforms.curvature import hessian_diag, hvp, vhp
from functrace.transforms.custom_jvp import custom_jvp
from functrace.transforms.custom_vjp import custom_vjp
from functrace.transforms.custom_vmap import custom_vmap
from functrace.transforms.fields import curl, divergence
from functrace.transforms.gauss_newton import empirical_fisher_vp, fisher_vp, gauss_newton_vp, ggn
from functrace.transforms.grad import grad, value_and_grad
from functrace.transforms.hooks import on_backward, tap
from functrace.transforms.interpret import interpret
from functrace.transforms.jacobian import hessian, jacfwd, jacobian, jacrev
from functrace.transforms.jit import jit
from functrace.transforms.jvp import jvp
from functrace.transforms.laplacian import biharmonic, laplacian
from functrace.transforms.linearize import linearize
from functrace.transforms.per_example import per_example_clipped_grad, per_example_norms
from functrace.transforms.program import eval_shape, make_program
from functrace.transforms.rewrite import rewrite
from functrace.transforms.sparse import Sparsity, sparsity
from functrace.transforms.stop_gradient import stop_gradient
from functrace.transforms.taylor import derivative, jet, taylor
from functrace.transforms.vjp import linear_transpose, vjp
from functrace.transforms.vmap import vmap

__all__ = [
    "biharmonic", "checkpoint", "checkpoint_name", "checkpoint_policies", "closure_convert", "curl",
    "custom_jvp", "custom_vjp", "custom_vmap", "derivative", "divergence", "empirical_fisher_vp", "eval_shape",
    "fisher_vp", "gauss_newton_vp", "ggn", "grad", "hessian", "hessian_diag", "hvp", "interpret", "jacfwd",
    "jacobian", "jacrev",
    "jet", "jit", "jvp", "laplacian", "linear_transpose", "linearize", "make_program", "on_backward",
    "per_example_clipped_grad", "per_example_norms", "rewrite", "Sparsity", "sparsity", "stop_gradient", "tap",
    "taylor",
    "value_and_grad", "vhp",
    "vjp", "vmap",
]  # fmt: skip
