"""The pair of pure functions that everything in this package is, and how pairs are composed."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import jax

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError, DtypeError
from functrace.optim.checking import as_arrays, check_match, check_state, checked, failure, speaking_for
from functrace.optim.hyperparameters import Settings

Array = jax.Array
PyTree = Any
P = ParamSpec("P")


@dataclass(frozen=True)
class Transformation:
    """A pair of pure functions on gradients.

    Args:
      init: `params -> state`.
      update: `(grads, state, params=None, **extra) -> (updates, state)`; updates are to be added to
        the parameters. What else a part needs (`lbfgs` the loss, `sam` its gradient) comes by name,
        through chains and wrappers; one that needs nothing need not take it.
      name: how `chain` calls its state.

    >>> import functrace.optim as optim
    >>> def update(grads, state, params=None):
    ...     return -grads, state
    >>> negate = Transformation(lambda params: (), update, "negate")
    >>> chain(negate, optim.scale(2.0)).init(1.0).keys()
    dict_keys(['negate', 'scale'])
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]
    name: str = "transformation"


def chain(*parts: Transformation, **named_parts: Transformation) -> Transformation:
    """The transformation that feeds each part's updates to the next.

    Args:
      parts: transformations, in order; optax's are accepted too.
      named_parts: further ones, after them, under names of your own.
    Returns:
      A transformation whose state is a dict from each part's name to its state. A name that comes
      again gets a number: `clip_by_norm`, `clip_by_norm_2`.
    Raises:
      DtypeError: a part has no `init` and `update`.
      ArgumentError: the state is not of this chain.

    >>> import functrace.optim as optim
    >>> optimizer = chain(optim.clip_by_global_norm(1.0), step=optim.sgd(0.5))
    >>> updates, state = optimizer.update({"w": 4.0}, optimizer.init({"w": 0.0}))
    >>> float(updates["w"]), float(state["clip_by_global_norm"].norm)
    (-0.5, 4.0)
    """
    named: dict[str, Transformation] = {}
    for part, given_name in [(p, None) for p in parts] + [(p, name) for name, p in named_parts.items()]:
        check_part("chain", f"part {len(named)}", part)
        named[_fresh(given_name or getattr(part, "name", type(part).__name__), named)] = part

    def init(params: PyTree) -> dict[str, PyTree]:
        return {name: part.init(params) for name, part in named.items()}

    def update(grads: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, dict[str, PyTree]]:
        if not isinstance(state, Mapping) or state.keys() != named.keys():
            came = list(state) if isinstance(state, Mapping) else type(state).__name__
            raise failure(
                ArgumentError,
                f"chain: the state is of {came}; one of {list(named)}, from this chain's init, was expected.",
            )
        new_state = {}
        for name, part in named.items():
            grads, new_state[name] = update_with(part, grads, state[name], params, extra)
        return grads, new_state

    return Transformation(init, update, "chain")


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """`params + updates`, each leaf in the dtype of its parameter.

    Args:
      params: pytree of arrays.
      updates: pytree of the same structure and shapes. A sum of mixed dtypes is rounded once, at
        the end.
    Returns:
      The new parameters.
    Raises:
      ArgumentError: structures or shapes differ; the message names the path.

    >>> apply_updates({"w": fnp.ones(2, fnp.bfloat16)}, {"w": fnp.array([1.0, -0.5])})["w"]
    Array([2, 0.5], dtype=bfloat16)
    """
    params = as_arrays("apply_updates", "parameter", params)
    check_match("apply_updates", "parameters", params, "updates", updates)
    return tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)


def transformation(
    settings: Settings,
    state_type: type[Any],
    step: Callable[[PyTree, Any, PyTree], tuple[PyTree, dict[str, PyTree]]],
    memory: Callable[[PyTree], dict[str, PyTree]] = lambda params: {},
    *,
    like: str | None = None,
    needs_params: bool = False,
) -> Transformation:
    """A transformation from its step; counting, schedules, dtypes and checks are done here.

    Args:
      settings: its name and hyper-parameters.
      state_type: a NamedTuple with the fields `step`, `hyperparams` and those of `memory`.
      step: `(grads, state, params) -> (updates, new memory)`; the state has the hyper-parameters of
        this step.
      memory: the fields of the state that are its own, from the parameters; they keep the dtypes
        they have here.
      like: the field that has the structure of the gradients.
      needs_params: whether `update` must be given the parameters.
    """
    owner = settings.owner

    def init(params: PyTree) -> Any:
        fields = memory(as_arrays(owner, "parameter", params))
        return state_type(step=fnp.zeros((), fnp.int32), hyperparams=settings.initial(), **fields)

    def update(grads: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, Any]:
        grads, params = checked(owner, grads, params, needs_params=needs_params)
        check_state(owner, state, state_type)
        if like is not None:
            remembered = getattr(state, like)
            check_match(owner, "gradients", grads, "parameters given to init", remembered)
        now = state._replace(hyperparams=settings.at(state.step, state.hyperparams))
        updates, fields = step(grads, now, params)
        updates = tree.map(lambda u, g: u.astype(g.dtype), updates, grads)
        kept = {
            name: tree.map(lambda new, old: new.astype(old.dtype), new, getattr(state, name))
            for name, new in fields.items()
        }
        return updates, now._replace(step=increment(state.step), **kept)

    return Transformation(init, update, owner)


def optimizer(make: Callable[P, Transformation]) -> Callable[P, Transformation]:
    """What `make` returns under its name, which stands in the place of its parts' names in errors."""
    name = make.__name__

    @wraps(make)
    def named(*args: P.args, **kwargs: P.kwargs) -> Transformation:
        with speaking_for(name):
            whole = make(*args, **kwargs)

        def init(params: PyTree) -> PyTree:
            with speaking_for(name):
                return whole.init(params)

        def update(grads: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
            with speaking_for(name):
                return update_with(whole, grads, state, params, extra)

        return Transformation(init, update, name)

    return named


def check_part(owner: str, role: str, part: Any) -> None:
    """Raise unless it is a transformation."""
    if not (callable(getattr(part, "init", None)) and callable(getattr(part, "update", None))):
        raise failure(
            DtypeError,
            f"{owner}: {role} is a {type(part).__name__}; a transformation (with init and update) was expected. "
            "Is the call missing, as in `chain(adam)` for `chain(adam(1e-3))`?",
        )


def update_with(
    part: Transformation, grads: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, Any]
) -> tuple[PyTree, PyTree]:
    """`part.update`, with the arguments beyond the parameters if it takes such."""
    if extra:
        kinds = {parameter.kind for parameter in inspect.signature(part.update).parameters.values()}
        extra = extra if inspect.Parameter.VAR_KEYWORD in kinds else {}
    return part.update(grads, state, params, **extra)


def increment(count: Array) -> Array:
    """`count + 1`, which stays at the largest integer once there."""
    return fnp.where(count < fnp.iinfo(count.dtype).max, count + 1, count)


def computing_dtype(leaf: Any) -> Any:
    """The dtype to compute in for a leaf: its own, and float32 at least."""
    return fnp.promote_types(leaf.dtype, fnp.float32)


def real_dtype(leaf: Any) -> Any:
    """The real dtype to compute in for a leaf: float32 at least."""
    return fnp.finfo(computing_dtype(leaf)).dtype


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    numbered = (name if n == 1 else f"{name}_{n}" for n in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate not in taken)
