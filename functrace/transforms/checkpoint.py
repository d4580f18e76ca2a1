"""Keep less for the way back, and compute it again.

checkpoint : (a -> b) -> (a -> b)                checkpoint f = f, whose vjp recomputes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from jax import tree_util

from functrace.control import Budgeted
from functrace.control.checkpoint import OF_JAX, OF_NAMES, POLICIES, Checkpoint, Policy
from functrace.errors import ArgumentError
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.primitives.naming import Name
from functrace.tracing import Tracer, trace
from functrace.tracing.trace import parameter_names, record
from functrace.tracing.tracer import at, atom_of
from functrace.transforms.arguments import check_callable, fun_name
from functrace.transforms.jit import dynamic_names, without_static


def checkpoint(
    fun: Callable[..., Any],
    *,
    prevent_cse: bool = True,
    policy: Policy | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    budget: int | str | None = None,
) -> Callable[..., Any]:
    """`fun`, of which reverse mode keeps the arguments and what `policy` says, and computes the rest again.

    Args:
      fun: a pure function of pytrees of arrays.
      prevent_cse: fence the recomputation, so that XLA does not take what it has computed before. Not needed
        in the body of a `scan`, where the two are in different loops.
      policy: what to keep, of `functrace.checkpoint_policies`; nothing by default. Loops in `fun` are kept
        or computed again as a whole.
      static_argnums: positions of arguments that are Python values.
      budget: instead of a policy, how many bytes reverse mode may hold at a time of what `fun` has computed,
        as a number or such as "64MiB". What to compute again is chosen so that it takes least work.
        Arguments, results and cotangents come on top. A loop in `fun` is kept, or computed again, as a whole.
    Returns:
      A function with the values and derivatives of `fun`, in every mode and to any order.
    Raises:
      ArgumentError: the policy is none, or the budget is no size.
      BudgetInfeasible: when differentiated: no choice holds so little; `.smallest` is what the best does.

    Reference: Griewank and Walther, "Algorithm 799: revolve" (2000); Chen et al., "Training deep nets with
    sublinear memory cost" (2016).

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> layer = ft.checkpoint(lambda x: fnp.sin(fnp.sin(x)))
    >>> float(ft.grad(layer)(0.0))
    1.0
    """
    check_callable("checkpoint", fun)
    if budget is not None and policy is not None:
        raise ArgumentError(f"checkpoint: give a policy or a budget, not both.{at(caller_source())}")
    chosen = checked_policy(policy)
    most = None if budget is None else bytes_of(budget)
    numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    parameters = parameter_names(fun)

    @wraps(fun)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        of_arrays, xs, keyed = without_static(fun, args, kwargs, numbers, ())
        names = dynamic_names(parameters, len(args), numbers)
        traced = trace(of_arrays, xs, keyed, transform="checkpoint", names=names, like=fun)
        if most is None:
            prim = Checkpoint(traced.program, fun_name(fun), chosen, prevent_cse)
        else:
            prim = Budgeted(traced.program, fun_name(fun), most, prevent_cse)
        leaves = tree_util.tree_leaves((tuple(xs), keyed))
        return tree_util.tree_unflatten(traced.out_tree, record(prim, [*traced.captures, *leaves]))

    return checkpointed


def bytes_of(size: Any) -> int:
    """A number of bytes, from a number or a text such as "64MiB"."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kKMGT]?)(i?)B\s*", size) if isinstance(size, str) else None
    if found is None:
        raise ArgumentError(
            f"checkpoint: budget must be a positive number of bytes or such as '64MiB', got {size!r}."
            f"{at(caller_source())}"
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def checked_policy(policy: Any) -> Policy:
    """The policy as data, or an error that says which there are."""
    if policy is None:
        return "nothing"
    if callable(policy):
        policy = OF_JAX.get(policy, policy)
    if not is_policy(policy):
        raise ArgumentError(
            f"checkpoint: policy must be one of functrace.checkpoint_policies, which are data, such as "
            f"dots_saveable or save_only_these_names('hidden'); got {policy!r}.{at(caller_source())}"
        )
    return policy


def is_policy(policy: Any) -> bool:
    """Whether this is a policy as `functrace.checkpoint_policies` makes them."""
    if isinstance(policy, str):
        return policy in POLICIES
    if not isinstance(policy, tuple) or not policy:
        return False
    kind, *rest = policy
    if kind == "either":
        return all(map(is_policy, rest))
    return kind in OF_NAMES and all(isinstance(n, str) for n in rest)


def checkpoint_name(x: Any, name: str) -> Any:
    """`x`, under a name by which a checkpoint policy knows it.

    Args:
      x: a pytree of arrays.
      name: the name.
    Returns:
      The same pytree.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> keep = ft.checkpoint_policies.save_only_these_names("h")
    >>> f = ft.checkpoint(lambda x: fnp.sin(ft.checkpoint_name(fnp.exp(x), "h")), policy=keep)
    >>> float(ft.grad(f)(0.0)) == float(fnp.cos(1.0))
    True
    """
    builder = open_builder()
    if builder is None:
        return x
    return tree_util.tree_map(lambda leaf: Tracer(Name(str(name))(atom_of(leaf, builder)), builder), x)
