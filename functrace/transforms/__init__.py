"""Transforms: a Python function in, a Python function out.

Each traces its function into a Program, has `rewrites` transform it, and runs the result or writes it
into the trace that is running. Read `jvp`, `linearize`, `vjp`, `grad`, `vmap`, `jit`, `custom_vjp` in that
order.
"""

from functrace.transforms import checkpoint_policies
from functrace.transforms.checkpoint import checkpoint, checkpoint_name
from functrace.transforms.closure_convert import closure_convert
from functrace.transforms.custom_jvp import custom_jvp
from functrace.transforms.custom_vjp import custom_vjp
from functrace.transforms.custom_vmap import custom_vmap
from functrace.transforms.grad import grad, value_and_grad
from functrace.transforms.hooks import on_backward, tap
from functrace.transforms.jacobian import hessian, jacfwd, jacobian, jacrev
from functrace.transforms.jit import jit
from functrace.transforms.jvp import jvp
from functrace.transforms.linearize import linearize
from functrace.transforms.program import eval_shape, make_program
from functrace.transforms.sparse import Sparsity, sparsity
from functrace.transforms.stop_gradient import stop_gradient
from functrace.transforms.taylor import derivative, jet, taylor
from functrace.transforms.vjp import linear_transpose, vjp
from functrace.transforms.vmap import vmap

__all__ = [
    "checkpoint", "checkpoint_name", "checkpoint_policies", "closure_convert", "custom_jvp", "custom_vjp",
    "custom_vmap", "derivative", "eval_shape", "grad", "hessian", "jacfwd", "jacobian", "jacrev", "jet", "jit", "jvp",
    "linear_transpose", "linearize", "make_program", "on_backward", "Sparsity", "sparsity", "stop_gradient", "tap",
    "taylor", "value_and_grad", "vjp", "vmap",
]  # fmt: skip
