"""optax's `inject_hyperparams`, for programs that read and set hyper-parameters through `state.hyperparams`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from functrace.errors import ArgumentError
from functrace.optim.base import Transformation, check_part, update_with
from functrace.optim.checking import check_state, failure
from functrace.optim.hyperparameters import get_hyperparams, injected

Array = jax.Array
PyTree = Any


class InjectedState(NamedTuple):
    """State of what `inject_hyperparams` makes.

    Args:
      hyperparams: name to scalar, a dict that may be written to; the next update uses what it holds.
      inner: the state of the optimizer itself.
    """

    hyperparams: dict[str, Array]
    inner: PyTree


def inject_hyperparams(factory: Callable[..., Transformation]) -> Callable[..., Transformation]:
    """The same optimizer, with `state.hyperparams` to read and to set, as in optax.

    Hyper-parameters are leaves of every state here, and `get_hyperparams` and `set_hyperparams` do the
    same without it. Scheduled ones follow their schedule, whatever is set.

    Args:
      factory: such as `optim.adamw`.
    Returns:
      A function with the factory's arguments; its transformation has an `InjectedState`. The names are
      those of `get_hyperparams`.
    Raises:
      ArgumentError: in `update`, `state.hyperparams` lacks one, or has one that the optimizer has not.

    >>> import functrace.optim as optim
    >>> optimizer = optim.inject_hyperparams(optim.sgd)(learning_rate=0.5)
    >>> state = optimizer.init(0.0)
    >>> state.hyperparams["learning_rate"] = 0.25
    >>> updates, state = optimizer.update(4.0, state)
    >>> float(updates)
    -1.0
    """

    @functools.wraps(factory)
    def made(*args: Any, **kwargs: Any) -> Transformation:
        inner = factory(*args, **kwargs)
        check_part("inject_hyperparams", "what the factory makes", inner)

        def init(params: PyTree) -> InjectedState:
            state = inner.init(params)
            return InjectedState(get_hyperparams(state), state)

        def update(
            grads: PyTree, state: InjectedState, params: PyTree = None, **extra: Any
        ) -> tuple[PyTree, InjectedState]:
            check_state("inject_hyperparams", state, InjectedState)
            known = get_hyperparams(state.inner)
            if state.hyperparams.keys() != known.keys():
                raise failure(
                    ArgumentError,
                    f"inject_hyperparams: state.hyperparams has {', '.join(sorted(state.hyperparams))}; "
                    f"{', '.join(sorted(known))} were expected.",
                )
            updates, stepped = update_with(inner, grads, injected(state.inner, state.hyperparams), params, extra)
            return updates, InjectedState(get_hyperparams(stepped), stepped)

        return dataclasses.replace(inner, init=init, update=update)

    return made
