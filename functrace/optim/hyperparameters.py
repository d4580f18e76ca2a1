"""Hyper-parameters as leaves of the state: read, replaced, scheduled and differentiated there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import numpy as onp

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError, DtypeError
from functrace.optim.checking import failure, shape_of

Array = jax.Array
PyTree = Any
Schedule = Callable[[Any], Any]
Number = float | Array
Hyperparam = Number | Schedule

_FRACTIONS = ("b1", "b2", "beta", "decay", "ema_decay", "momentum", "backoff_factor", "slow_step_size")
_NOT_NEGATIVE = (
    *("eps", "eps_root", "trust_ratio_eps", "weight_decay", "l2"),
    *("max_delta", "max_norm", "min_norm", "min_scale", "threshold", "clipping", "decay_rate"),
    *("initial_scale", "growth_factor", "rho", "consistent_rms"),
    *("max_learning_rate", "tol", "slope_rtol", "curv_rtol", "approx_dec_rtol", "stepsize_precision"),
)
_AT_LEAST = {0.0: "zero", 4.0: "four"}
RANGES: dict[str, tuple[float, float]] = (
    dict.fromkeys(_FRACTIONS, (0.0, 1.0))
    | dict.fromkeys(_NOT_NEGATIVE, (0.0, float("inf")))
    | {"rho_threshold": (4.0, float("inf"))}
)


@jax.tree_util.register_pytree_with_keys_class
class Hyperparams(Mapping[str, Array]):
    """The hyper-parameters of one transformation: a mapping from names to scalar leaves.

    A decay rate close to one is also kept to twice the precision (`low` is what rounding left out),
    because `1 - b2` of a float32 `b2` has lost five of its seven digits.

    >>> import functrace.optim as optim
    >>> state = optim.scale_by_adam(b2=0.99).init({"w": 1.0})
    >>> round(float(state.hyperparams["b2"]), 6)
    0.99
    """

    __slots__ = ("_low", "_values", "scheduled")

    def __init__(self, values: Mapping[str, Any], low: Mapping[str, Any], scheduled: tuple[str, ...]):
        self._values = dict(values)
        self._low = dict(low)
        self.scheduled = scheduled

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Hyperparams({', '.join(f'{name}={value}' for name, value in self.items())})"

    def cast(self, name: str, dtype: Any) -> Array:
        """The value in the given dtype."""
        return self._values[name].astype(dtype)

    def complement(self, name: str, dtype: Any) -> Array:
        """`1 - value`, without the rounding of `value`, in the given dtype."""
        exact = 1 - self._values[name]
        return (exact - self._low[name] if name in self._low else exact).astype(dtype)

    def replace(self, **values: Any) -> "Hyperparams":
        """A copy with some values replaced, each in the dtype it had."""
        new, low = dict(self._values), dict(self._low)
        for name, value in values.items():
            old, new[name] = new[name], scalar(name, value, new[name].dtype)
            if name in low:
                is_host = _is_host_number(value)
                low[name] = rounding(value, old.dtype) if is_host else fnp.where(new[name] == old, low[name], 0)
        return Hyperparams(new, low, self.scheduled)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], Any]:
        """The values and their low parts as leaves; the names are the structure."""
        keyed = [(jax.tree_util.DictKey(name), value) for name, value in self._values.items()]
        keyed += [(jax.tree_util.DictKey(f"{name} (low part)"), value) for name, value in self._low.items()]
        return tuple(keyed), (tuple(self._values), tuple(self._low), self.scheduled)

    @classmethod
    def tree_unflatten(cls, names: Any, leaves: Any) -> "Hyperparams":
        """The inverse of `tree_flatten_with_keys`."""
        value_names, low_names, scheduled = names
        values, low = leaves[: len(value_names)], leaves[len(value_names) :]
        return cls(
            dict(zip(value_names, values, strict=True)),
            dict(zip(low_names, low, strict=True)),
            scheduled,
        )


@dataclass(frozen=True)
class Settings:
    """What a transformation was made with: numbers, which move to the state, and schedules."""

    owner: str
    given: Mapping[str, Hyperparam]
    decays: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check numbers at once, so that the error is raised where the optimizer is made."""
        for name, value in self.given.items():
            if not callable(value):
                check_value(self.owner, name, value)

    def initial(self) -> Hyperparams:
        """The hyper-parameters of step 0."""
        dtype = fnp.zeros(()).dtype
        values = {name: scalar(name, v(0) if callable(v) else v, dtype) for name, v in self.given.items()}
        fixed_decays = [name for name in self.decays if not callable(self.given[name])]
        low = {name: rounding(self.given[name], dtype) for name in fixed_decays}
        return Hyperparams(values, low, tuple(name for name, v in self.given.items() if callable(v)))

    def at(self, count: Any, hyperparams: Hyperparams) -> Hyperparams:
        """The hyper-parameters of step `count`: the schedules' values, else the state's."""
        return hyperparams.replace(**{name: v(count) for name, v in self.given.items() if callable(v)})


def get_hyperparams(state: PyTree) -> dict[str, Array]:
    """Every hyper-parameter in an optimizer's state.

    Args:
      state: the state of any transformation, chains and wrappers included.
    Returns:
      Name to scalar. A name that several parts have is written with its path:
      `['adam']['scale_by_adam'].b1`. For a scheduled one it is the value that the last update used.

    >>> import functrace.optim as optim
    >>> optimizer = optim.sgd(0.5, momentum=0.75)
    >>> {name: float(value) for name, value in get_hyperparams(optimizer.init({"w": 1.0})).items()}
    {'learning_rate': 0.5, 'momentum': 0.75}
    """
    found = [(path, name, hyper[name]) for path, hyper in _hyperparams_of(state) for name in hyper]
    names = [name for _, name, _ in found]
    return {name if names.count(name) == 1 else f"{path}.{name}": value for path, name, value in found}


def set_hyperparams(state: PyTree, **values: Number) -> PyTree:
    """The state with some hyper-parameters replaced; pure, so also under `jit`, `grad` and `vmap`.

    Args:
      state: the state of any transformation, chains and wrappers included.
      values: scalars by name. They take the dtype that the state has, so nothing is compiled again.
    Returns:
      A new state.
    Raises:
      ArgumentError: no part has the name; several have it (set it in the part's own state); it
        follows a schedule; the value is outside the range of its name.

    >>> import functrace.optim as optim
    >>> optimizer = optim.sgd(0.5)
    >>> state = set_hyperparams(optimizer.init({"w": 1.0}), learning_rate=0.25)
    >>> updates, state = optimizer.update({"w": 1.0}, state)
    >>> float(updates["w"])
    -0.25
    """
    found = _hyperparams_of(state)
    for name, value in values.items():
        _check_settable(name, found)
        check_value("set_hyperparams", name, value)

    def replaced(node: Any) -> Any:
        if not isinstance(node, Hyperparams):
            return node
        return node.replace(**{name: value for name, value in values.items() if name in node})

    return tree.map(replaced, state, is_leaf=lambda node: isinstance(node, Hyperparams))


def injected(state: PyTree, values: Mapping[str, Any]) -> PyTree:
    """The state with its hyper-parameters as in `values`, under the names that `get_hyperparams` gives them."""
    names = iter(get_hyperparams(state))

    def replaced(node: Any) -> Any:
        if not isinstance(node, Hyperparams):
            return node
        named = {name: values[next(names)] for name in node}
        return node.replace(**{name: value for name, value in named.items() if name not in node.scheduled})

    return tree.map(replaced, state, is_leaf=lambda node: isinstance(node, Hyperparams))


def check_value(owner: str, name: str, value: Any) -> None:
    """Raise unless it is a scalar that its name allows (of a traced array, by shape and dtype)."""
    is_number = isinstance(value, int | float | onp.number) and not isinstance(value, bool)
    if not (is_number or hasattr(value, "dtype")):
        raise failure(
            DtypeError,
            f"{owner}: {name} is a {type(value).__name__}; a number, a scalar array or a schedule "
            "(a function of the step count) was expected.",
        )
    if shape_of(value) != ():
        raise failure(ArgumentError, f"{owner}: {name} has shape {shape_of(value)}; a scalar was expected.")
    dtype = getattr(value, "dtype", onp.dtype(float))
    if not (fnp.issubdtype(dtype, fnp.floating) or fnp.issubdtype(dtype, fnp.integer)):
        raise failure(DtypeError, f"{owner}: {name} has dtype {dtype}; a real number was expected.")
    if is_number or isinstance(value, onp.ndarray) or (
        isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    ):
        low, high = RANGES.get(name, (-float("inf"), float("inf")))
        if not low <= float(value) <= high:
            allowed = "a number" if low == -high else "from 0 to 1" if high == 1 else f"{_AT_LEAST[low]} or more"
            raise failure(ArgumentError, f"{owner}: {name} is {value}; it must be {allowed}.")


def scalar(name: str, value: Any, dtype: Any) -> Array:
    """The value as a strongly typed scalar array."""
    if shape_of(value) != ():
        raise failure(ArgumentError, f"{name} has shape {shape_of(value)}; a scalar was expected.")
    return fnp.asarray(value, dtype) if _is_host_number(value) else value.astype(dtype)


def rounding(value: Any, dtype: Any) -> Array:
    """What rounding to the dtype leaves out of a Python number; nothing is left out of an array."""
    if not _is_host_number(value):
        return fnp.zeros((), dtype)
    return fnp.asarray(float(value) - float(onp.asarray(value, onp.dtype(dtype))), dtype)


def _is_host_number(value: Any) -> bool:
    return isinstance(value, int | float | onp.ndarray | onp.generic)


def _hyperparams_of(state: PyTree) -> list[tuple[str, Hyperparams]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda node: isinstance(node, Hyperparams))
    return [
        (jax.tree_util.keystr(path).removesuffix(".hyperparams"), node)
        for path, node in flat
        if isinstance(node, Hyperparams)
    ]


def _check_settable(name: str, found: list[tuple[str, Hyperparams]]) -> None:
    owners = [path for path, hyper in found if name in hyper]
    if not owners:
        known = sorted({name for _, hyper in found for name in hyper})
        raise failure(
            ArgumentError, f"set_hyperparams: the state has no {name!r}; it has {', '.join(known) or 'none'}."
        )
    if len(owners) > 1:
        raise failure(
            ArgumentError,
            f"set_hyperparams: {name!r} is in several parts, {', '.join(owners)}; set it in the "
            "state of one of them: `state | {part: set_hyperparams(state[part], ...)}`.",
        )
    if any(name in hyper.scheduled for _, hyper in found):
        raise failure(
            ArgumentError,
            f"set_hyperparams: {name!r} follows a schedule, which would overwrite it at the next "
            "update; give the optimizer a number to set it by hand.",
        )
