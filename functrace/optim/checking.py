"""What every transformation asks of its pytrees, and the messages when it is not so."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as onp

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError, DtypeError
from functrace.ir.source import caller_source
from functrace.tracing.tracer import at

PyTree = Any

SPEAKER: ContextVar[str | None] = ContextVar("SPEAKER", default=None)
REMEDIES = {
    "parameters": "Give the gradient in these parameters.",
    "parameters given to init": "Call init again where the parameters have changed, and keep what update returns.",
    "updates": "Give what update returned for these parameters.",
}


@contextmanager
def speaking_for(name: str) -> Iterator[None]:
    """Errors of the parts that an optimizer is made of begin with its name, the only one that its user wrote."""
    token = SPEAKER.set(SPEAKER.get() or name)
    try:
        yield
    finally:
        SPEAKER.reset(token)


def failure(error: type[Exception], message: str) -> Exception:
    """The error to raise: the message, which begins with the function's name, and the user's line."""
    speaker, (owner, colon, rest) = SPEAKER.get(), message.partition(": ")
    if speaker and owner.isidentifier():
        message = f"{speaker}{colon}{rest}"
    return error(f"{message}{at(caller_source())}")


def leaf_paths(pytree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of a pytree, each with its key path as text: `[("['w'][0]", leaf), ...]`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(pytree)
    return [(jax.tree_util.keystr(path) or "(the whole tree)", leaf) for path, leaf in flat]


def as_arrays(owner: str, role: str, pytree: PyTree) -> PyTree:
    """The pytree with numbers and NumPy arrays made arrays; all must be floating or complex."""
    arrays = tree.map(_as_array, pytree)
    if not all(_is_inexact(leaf) for leaf in tree.leaves(arrays)):
        path, leaf = next((p, x) for p, x in leaf_paths(arrays) if not _is_inexact(x))
        came = f"dtype {leaf.dtype}" if hasattr(leaf, "dtype") else f"type {type(leaf).__name__}"
        raise failure(
            DtypeError,
            f"{owner}: {role} leaf {path} has {came}; a floating or complex dtype was expected. "
            "Cast it (`.astype(float)`), or keep it out of the trained pytree.",
        )
    return arrays


def check_structure(owner: str, left_name: str, left: PyTree, right_name: str, right: PyTree) -> None:
    """Raise an ArgumentError that names the first path that is in one of the pytrees only."""
    if tree.structure(left) != tree.structure(right):
        raise failure(
            ArgumentError,
            f"{owner}: {left_name} and {right_name} are different pytrees: "
            f"{_first_difference(left_name, left, right_name, right)}{_remedy(right_name)}",
        )


def check_match(owner: str, left_name: str, left: PyTree, right_name: str, right: PyTree) -> None:
    """As `check_structure`, and the same for the first leaf whose shapes differ."""
    check_structure(owner, left_name, left, right_name, right)
    for index, (a, b) in enumerate(zip(tree.leaves(left), tree.leaves(right), strict=True)):
        if shape_of(a) != shape_of(b):
            path = leaf_paths(left)[index][0]
            raise failure(
                ArgumentError,
                f"{owner}: leaf {path} has shape {shape_of(a)} in the {left_name} and "
                f"{shape_of(b)} in the {right_name}; the two must be alike.{_remedy(right_name)}",
            )


def checked(owner: str, grads: PyTree, params: PyTree, *, needs_params: bool = False) -> tuple[PyTree, PyTree]:
    """Gradients and parameters (or None) as arrays that match."""
    grads = as_arrays(owner, "gradient", grads)
    if params is not None:
        params = as_arrays(owner, "parameter", params)
        check_match(owner, "gradients", grads, "parameters", params)
    elif needs_params:
        raise failure(ArgumentError, f"{owner}: update needs the parameters; call `update(grads, state, params)`.")
    return grads, params


def check_state(owner: str, state: Any, state_type: type[Any]) -> None:
    """Raise unless the state is of the type that init makes."""
    if not isinstance(state, state_type):
        raise failure(
            ArgumentError,
            f"{owner}: the state is a {type(state).__name__}; a {state_type.__name__}, made by init, was expected.",
        )


def only_part(owner: str, state: PyTree, state_type: type[Any], maker: str) -> Any:
    """The one state of a type within a larger state."""

    def is_it(node: Any) -> bool:
        return isinstance(node, state_type)

    found = [part for part in tree.leaves(state, is_leaf=is_it) if is_it(part)]
    if len(found) != 1:
        raise failure(
            ArgumentError,
            f"{owner}: the state has {len(found)} parts made by {maker}; one was expected."
            + (" Give the state of one of them." if found else ""),
        )
    return found[0]


def check_count(owner: str, name: str, value: Any) -> None:
    """Raise unless the value is a Python integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise failure(ArgumentError, f"{owner}: {name} is {value!r}; an integer of 1 or more was expected.")


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array, and `()` of a number."""
    return getattr(value, "shape", ())


def _remedy(right_name: str) -> str:
    return f" {REMEDIES[right_name]}" if right_name in REMEDIES else ""


def _first_difference(left_name: str, left: PyTree, right_name: str, right: PyTree) -> str:
    left_paths = [path for path, _ in leaf_paths(left)]
    right_paths = [path for path, _ in leaf_paths(right)]
    for name, paths, others in (
        (left_name, left_paths, right_paths),
        (right_name, right_paths, left_paths),
    ):
        alone = [path for path in paths if path not in set(others)]
        if alone:
            return f"leaf {alone[0]} is in the {name} only."
    return f"their containers differ, {tree.structure(left)} against {tree.structure(right)}."


def _as_array(leaf: Any) -> Any:
    return fnp.asarray(leaf) if isinstance(leaf, bool | int | float | complex | onp.ndarray | onp.generic) else leaf


def _is_inexact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and fnp.issubdtype(leaf.dtype, fnp.inexact)
