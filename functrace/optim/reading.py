"""Reading an optimizer's state for a log."""

from typing import Any

import jax

from functrace import numpy as fnp, tree
from functrace.optim.checking import leaf_paths
from functrace.optim.clipping import ClipState
from functrace.optim.guards import AccumulateState, SkipState
from functrace.optim.hyperparameters import get_hyperparams
from functrace.optim.line_search import LineSearchState
from functrace.optim.loss_scaling import LossScaleState

Array = jax.Array
PyTree = Any


def metrics(state: PyTree) -> dict[str, Array]:
    """What to log of an optimizer's state: hyper-parameters, and what clipping and guards did.

    Args:
      state: the state of any transformation, chains and wrappers included.
    Returns:
      Name to scalar array, of a structure that does not change, so a jitted step can return it. For
      a clipping function `norm` (the largest of the leaves'), `clipped` (the mean fraction),
      `nonfinite` (leaves) and `skipped` (steps), for `skip_nonfinite` the last two, and for
      `dynamic_loss_scale` those of its inner part and its `scale`, for a line search the fields of
      its state; each after the path of the part.

    >>> import functrace.optim as optim
    >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.5))
    >>> _, state = optimizer.update({"w": 4.0}, optimizer.init({"w": 0.0}))
    >>> {name: float(value) for name, value in metrics(state).items() if "clip" in name}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'clip_by_global_norm.norm': 4.0, 'clip_by_global_norm.clipped': 1.0,
     'clip_by_global_norm.nonfinite': 0.0, 'clip_by_global_norm.skipped': 0.0}
    """
    logged: dict[str, Array] = dict(get_hyperparams(state))
    for path, part in _guards_of(state):
        if isinstance(part, ClipState):
            logged[f"{path}norm"] = fnp.max(fnp.stack(tree.leaves(part.norm) or [fnp.zeros(())]))
            logged[f"{path}clipped"] = fnp.mean(fnp.stack(tree.leaves(part.clipped) or [fnp.zeros(())]))
        if isinstance(part, ClipState | SkipState):
            flags = tree.leaves(part.nonfinite)
            logged[f"{path}nonfinite"] = fnp.asarray(sum(flags, fnp.zeros((), fnp.int32)))
            logged[f"{path}skipped"] = part.skipped if isinstance(part, ClipState) else part.total
        if isinstance(part, LossScaleState):
            logged[f"{path}scale"] = part.scale
        if isinstance(part, LineSearchState):
            for name in ("step_size", "value", "evaluations", "decrease_error", "curvature_error"):
                logged[f"{path}{name}"] = getattr(part, name)
        if isinstance(part, AccumulateState):
            logged[f"{path}gradient_step"] = part.gradient_step
    return logged


def nonfinite_paths(state: PyTree) -> list[str]:
    """The key paths of the gradient leaves that had an Inf or NaN at the last update.

    Args:
      state: the state of any transformation that has a clipping function or `skip_nonfinite` in it;
        not under `jit`.
    Returns:
      Paths such as `['layers'][2]['W']`, without repeats.

    >>> import functrace.optim as optim
    >>> optimizer = optim.skip_nonfinite(optim.adam(0.1))
    >>> state = optimizer.init({"w": 0.0, "b": 0.0})
    >>> _, state = optimizer.update({"w": 1.0, "b": float("inf")}, state)
    >>> nonfinite_paths(state)
    ["['b']"]
    """
    guards = [part for _, part in _guards_of(state) if isinstance(part, ClipState | SkipState)]
    return list(dict.fromkeys(path for part in guards for path, flag in leaf_paths(part.nonfinite) if bool(flag)))


def _guards_of(state: PyTree, prefix: str = "") -> list[tuple[str, Any]]:
    """Every clipping and guard state, with its dotted path; those inside of a wrapper too."""
    kinds = (ClipState, SkipState, AccumulateState, LossScaleState, LineSearchState)
    flat, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda node: isinstance(node, kinds))
    found = []
    for path, part in flat:
        if isinstance(part, kinds):
            here = prefix + "".join(f"{_key_name(key)}." for key in path)
            found.append((here, part))
            found += _guards_of(getattr(part, "inner", ()), f"{here}inner.")
    return found


def _key_name(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))
