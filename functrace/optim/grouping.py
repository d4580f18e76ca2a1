"""Some leaves to one transformation, some to another: `masked`, `freeze`, `partition`."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from functrace import numpy as fnp, tree
from functrace.errors import ArgumentError
from functrace.optim.base import Transformation, check_part, update_with
from functrace.optim.checking import as_arrays, check_state, checked, failure, leaf_paths
from functrace.optim.masks import Labels, Mask, chosen_leaves, hide, spread

PyTree = Any


class MaskedState(NamedTuple):
    """State of `masked`: of the inner transformation, which sees `Masked` nodes for some leaves."""

    inner: PyTree


def set_to_zero() -> Transformation:
    """Updates of zero, whatever the gradients.

    >>> part = set_to_zero()
    >>> float(part.update(4.0, part.init(1.0))[0])
    0.0
    """

    def update(grads: PyTree, state: tuple[()], params: PyTree = None, **extra: Any) -> tuple[PyTree, tuple[()]]:
        return tree.map(fnp.zeros_like, as_arrays("set_to_zero", "gradient", grads)), state

    return Transformation(lambda params: (), update, "set_to_zero")


def masked(inner: Transformation, mask: Mask) -> Transformation:
    """`inner` for some leaves; the gradients of the others pass through as they are.

    Args:
      inner: any transformation.
      mask: which leaves: a pytree of Python booleans, of the parameters' structure or with a flag in
        the place of a whole subtree, or a function from the parameters to one, such as
        `at_paths("head", "*/b")`.
    Returns:
      A transformation with a `MaskedState`.
    Raises:
      ArgumentError: a mask of another structure.
      DtypeError: a leaf of the mask is not a Python boolean.

    >>> import functrace.optim as optim
    >>> part = masked(optim.scale(2.0), {"w": True, "b": False})
    >>> updates, state = part.update({"w": 1.0, "b": 1.0}, part.init({"w": 0.0, "b": 0.0}))
    >>> float(updates["w"]), float(updates["b"])
    (2.0, 1.0)
    """
    check_part("masked", "inner", inner)

    def init(params: PyTree) -> MaskedState:
        params = as_arrays("masked", "parameter", params)
        return MaskedState(inner.init(hide(chosen_leaves("masked", mask, params), params)))

    def update(grads: PyTree, state: MaskedState, params: PyTree = None, **extra: Any) -> tuple[PyTree, MaskedState]:
        grads, params = checked("masked", grads, params)
        check_state("masked", state, MaskedState)
        chosen = chosen_leaves("masked", mask, grads)
        updates, new = update_with(inner, hide(chosen, grads), state.inner, hide(chosen, params), extra)
        return tree.map(lambda is_chosen, g, u: u if is_chosen else g, chosen, grads, updates), MaskedState(new)

    return Transformation(init, update, "masked")


def freeze(mask: Mask) -> Transformation:
    """Updates of zero for some leaves, which so stay as they are; the last part of a chain.

    Args:
      mask: which leaves stay, as in `masked`: `freeze(at_paths("encoder"))`.
    Returns:
      A transformation with a `MaskedState`.
    Raises:
      ArgumentError: a mask of another structure.
      DtypeError: a leaf of the mask is not a Python boolean.

    >>> import functrace.optim as optim
    >>> optimizer = optim.chain(optim.sgd(1.0), freeze(optim.at_paths("b")))
    >>> updates, _ = optimizer.update({"w": 1.0, "b": 1.0}, optimizer.init({"w": 0.0, "b": 0.0}))
    >>> float(updates["w"]), float(updates["b"])
    (-1.0, 0.0)
    """
    part = masked(set_to_zero(), mask)
    return Transformation(part.init, part.update, "freeze")


def partition(transformations: Mapping[Any, Transformation], labels: Labels) -> Transformation:
    """A transformation of its own for each group of leaves.

    Args:
      transformations: from labels to transformations; `set_to_zero()` holds a group still.
      labels: the label of every leaf: a pytree of the parameters' structure, or with a label in the
        place of a whole subtree, or a function from the parameters to one, such as
        `labels_by_path({"head": "fast"}, default="slow")`.
    Returns:
      A transformation whose state is a dict from each label to its transformation's state, which
      has `Masked` nodes for the leaves of other groups.
    Raises:
      ArgumentError: a leaf's label has no transformation; labels of another structure.

    >>> import functrace.optim as optim
    >>> optimizer = partition({"fast": optim.sgd(1.0), "slow": optim.sgd(0.5)}, {"w": "slow", "b": "fast"})
    >>> updates, state = optimizer.update({"w": 1.0, "b": 1.0}, optimizer.init({"w": 0.0, "b": 0.0}))
    >>> float(updates["w"]), float(updates["b"])
    (-0.5, -1.0)
    """
    for label, part in transformations.items():
        check_part("partition", f"the transformation of {label!r}", part)
    groups = dict(transformations)

    def labelled(params: PyTree) -> PyTree:
        found = spread("partition", "labels", labels(params) if callable(labels) else labels, params)
        for path, label in leaf_paths(found):
            if label not in groups:
                known = ", ".join(map(repr, groups))
                raise failure(
                    ArgumentError, f"partition: leaf {path} has the label {label!r}; one of {known} was expected."
                )
        return found

    def members(found: PyTree, label: Hashable) -> PyTree:
        return tree.map(lambda other: other == label, found)

    def init(params: PyTree) -> dict[Hashable, PyTree]:
        params = as_arrays("partition", "parameter", params)
        found = labelled(params)
        return {label: part.init(hide(members(found, label), params)) for label, part in groups.items()}

    def update(
        grads: PyTree, state: Mapping[Hashable, PyTree], params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, dict[Hashable, PyTree]]:
        grads, params = checked("partition", grads, params)
        found = labelled(grads)
        if not isinstance(state, Mapping) or state.keys() != groups.keys():
            came = list(state) if isinstance(state, Mapping) else type(state).__name__
            raise failure(
                ArgumentError, f"partition: the state is of {came}; one of {list(groups)}, from init, was expected."
            )
        updates, new = grads, {}
        for label, part in groups.items():
            chosen = members(found, label)
            moved, new[label] = update_with(part, hide(chosen, grads), state[label], hide(chosen, params), extra)
            updates = tree.map(lambda is_chosen, u, m: m if is_chosen else u, chosen, updates, moved)
        return updates, new

    return Transformation(init, update, "partition")
