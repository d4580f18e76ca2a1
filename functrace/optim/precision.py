"""Mixed precision: parameters in float32, arithmetic in bfloat16 or float16.

Either the parameters are kept in float32 and cast within the function that is differentiated (`Policy.wrap`; the
gradients are then float32 too), or they are kept in half precision, and `master_weights` keeps the float32 copy that
small steps add up in. With float16, add loss scaling (loss_scaling.py).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as onp

from functrace import numpy as fnp, tree
from functrace.errors import DtypeError
from functrace.optim.base import Transformation, apply_updates, check_part, computing_dtype, update_with
from functrace.optim.checking import as_arrays, check_match, check_state, checked, failure
from functrace.optim.masks import Mask, chosen_leaves

Array = jax.Array
PyTree = Any


@dataclass(frozen=True)
class Policy:
    """Which dtype parameters are kept in, arithmetic is done in, and results are given in.

    Casts touch leaves of floating dtype only: integers, booleans, complex numbers, keys and Python numbers stay.

    Args:
      param_dtype: the dtype of parameters between steps.
      compute_dtype: that of parameters and data within a function.
      output_dtype: that of its results, the loss among them.
    Raises:
      DtypeError: a dtype is not floating.
    Source: Micikevicius et al., Mixed precision training, ICLR (2018).

    >>> import functrace as ft
    >>> policy = Policy(compute_dtype=fnp.bfloat16)
    >>> loss = policy.wrap(lambda p, x: (p["w"] @ x).sum())
    >>> params, x = {"w": fnp.ones((2, 2))}, fnp.ones(2)
    >>> loss(params, x).dtype.name, ft.grad(loss)(params, x)["w"].dtype.name
    ('float32', 'float32')
    """

    param_dtype: Any = fnp.float32
    compute_dtype: Any = fnp.bfloat16
    output_dtype: Any = fnp.float32

    def __post_init__(self) -> None:
        """Check the dtypes at once."""
        for name in ("param_dtype", "compute_dtype", "output_dtype"):
            dtype = getattr(self, name)
            if not fnp.issubdtype(dtype, fnp.floating):
                raise failure(DtypeError, f"Policy: {name} is {onp.dtype(dtype)}; a floating dtype was expected.")

    def cast_to_param(self, pytree: PyTree) -> PyTree:
        """The pytree with its floating leaves in `param_dtype`."""
        return _cast(pytree, self.param_dtype)

    def cast_to_compute(self, pytree: PyTree, keep: Mask = None) -> PyTree:
        """The pytree with its floating leaves in `compute_dtype`, but for those that `keep` chooses."""
        if keep is None:
            return _cast(pytree, self.compute_dtype)
        kept = chosen_leaves("cast_to_compute", keep, pytree)
        return tree.map(lambda is_kept, x: x if is_kept else _cast(x, self.compute_dtype), kept, pytree)

    def cast_to_output(self, pytree: PyTree) -> PyTree:
        """The pytree with its floating leaves in `output_dtype`."""
        return _cast(pytree, self.output_dtype)

    def wrap(self, f: Callable[..., Any], keep: Mask = None) -> Callable[..., Any]:
        """The function computed in `compute_dtype`, its results in `output_dtype`.

        Derivatives go through the casts, and come out in the dtypes of the arguments.

        Args:
          f: any function of pytrees.
          keep: which leaves of the first argument, the parameters, stay as they are: a mask, such as
            `at_paths("*/norm")`.
        """

        @functools.wraps(f)
        def computed(*args: Any, **kwargs: Any) -> Any:
            first = [self.cast_to_compute(arg, keep) for arg in args[:1]]
            rest, named = self.cast_to_compute((args[1:], kwargs))
            return self.cast_to_output(f(*first, *rest, **named))

        return computed


class MasterState(NamedTuple):
    """State of `master_weights`: the parameters in float32 at least, and the inner state, made for those."""

    master: PyTree
    inner: PyTree


def master_weights(inner: Transformation) -> Transformation:
    """`inner` on a float32 copy of parameters that are themselves kept in half precision.

    A step of less than a thousandth of a parameter is lost in bfloat16; here it is kept, and the parameters follow the
    copy as closely as their dtype can.

    Args:
      inner: any transformation; it sees gradients and parameters in float32 at least.
    Returns:
      A transformation with a `MasterState`. Its update needs the parameters; its updates are of
      float32 at least, so that `apply_updates` lands on the copy, rounded.
    Raises:
      ArgumentError: no parameters given to `update`.
    Source: Micikevicius et al., Mixed precision training, section 3.1, ICLR (2018).

    >>> import functrace.optim as optim
    >>> optimizer = master_weights(optim.sgd(1.0))
    >>> params = fnp.ones((), fnp.bfloat16)
    >>> state = optimizer.init(params)
    >>> for _ in range(8):
    ...     updates, state = optimizer.update(fnp.asarray(1e-3, fnp.bfloat16), state, params)
    ...     params = optim.apply_updates(params, updates)
    >>> float(params)
    0.9921875
    """
    check_part("master_weights", "inner", inner)

    def init(params: PyTree) -> MasterState:
        master = _widened(as_arrays("master_weights", "parameter", params))
        return MasterState(master, inner.init(master))

    def update(grads: PyTree, state: MasterState, params: PyTree = None, **extra: Any) -> tuple[PyTree, MasterState]:
        grads, params = checked("master_weights", grads, params, needs_params=True)
        check_state("master_weights", state, MasterState)
        check_match("master_weights", "parameters", params, "parameters given to init", state.master)
        updates, inner_state = update_with(inner, _widened(grads), state.inner, state.master, extra)
        master = apply_updates(state.master, updates)
        moved = tree.map(lambda p, m: m.astype(p.dtype).astype(m.dtype) - p, params, master)
        return moved, MasterState(master, inner_state)

    return Transformation(init, update, "master_weights")


def _widened(pytree: PyTree) -> PyTree:
    return tree.map(lambda x: x.astype(computing_dtype(x)), pytree)


def _cast(pytree: PyTree, dtype: Any) -> PyTree:
    def cast(leaf: Any) -> Any:
        is_floating = hasattr(leaf, "dtype") and fnp.issubdtype(leaf.dtype, fnp.floating)
        return leaf.astype(dtype) if is_floating else leaf

    return tree.map(cast, pytree)
