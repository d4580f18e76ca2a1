"""Which leaves of a pytree are meant: by flags, by labels, by patterns of their paths.

A path is written with slashes, `encoder/layers/0/w`. A pattern is such a path in which `*` stands for any text (slashes
too) and `?` for one character; it means all leaves under it: `encoder`, `*/b`, `encoder/layers/[01]`.
"""

import fnmatch
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as onp

from functrace import tree
from functrace.errors import ArgumentError, DtypeError
from functrace.optim.checking import check_structure, failure, leaf_paths

PyTree = Any
Mask = PyTree | Callable[[PyTree], PyTree] | None
Labels = PyTree | Callable[[PyTree], PyTree]


class Masked(NamedTuple):
    """What stands in the place of a leaf that a transformation does not see: a node without leaves."""


def at_paths(*patterns: str) -> Callable[[PyTree], PyTree]:
    """The mask of the leaves whose path matches one of some patterns.

    Args:
      patterns: such as `"head"`, `"*/b"`, `"encoder/layers/0"`; see the module.
    Returns:
      A function from a pytree to one of Python booleans, for `masked`, `freeze`, `adamw(mask=...)`.
    Raises:
      ArgumentError: at the call, a pattern that matches nothing; the message lists the paths.

    >>> at_paths("head", "*/b")({"body": {"w": 1.0, "b": 1.0}, "head": [1.0]})
    {'body': {'b': True, 'w': False}, 'head': [True]}
    """
    return labels_by_path(dict.fromkeys(patterns, True), False)


def labels_by_path(labels: Mapping[str, Hashable], default: Hashable) -> Callable[[PyTree], PyTree]:
    """A label for every leaf, by the first pattern that its path matches.

    Args:
      labels: from patterns (see the module) to labels.
      default: the label of the leaves that match none.
    Returns:
      A function from a pytree to one of labels, for `partition`.
    Raises:
      ArgumentError: at the call, a pattern that matches nothing; the message lists the paths.

    >>> labels_by_path({"head": "fast"}, default="slow")({"body": 1.0, "head": {"w": 1.0}})
    {'body': 'slow', 'head': {'w': 'fast'}}
    """

    def labelled(params: PyTree) -> PyTree:
        flat, structure = jax.tree_util.tree_flatten_with_path(params)
        paths = [slash_path(path) for path, _ in flat]
        found = [next((p for p in labels if _matches(p, path)), None) for path in paths]
        unused = [p for p in labels if not any(_matches(p, path) for path in paths)]
        if unused and not _has_masked(params):
            shown = ", ".join(paths[:12]) + (", ..." if len(paths) > 12 else "")
            raise failure(ArgumentError, f"path patterns: no leaf matches {unused[0]!r}; the leaves are {shown}.")
        return tree.unflatten(structure, [default if p is None else labels[p] for p in found])

    return labelled


def slash_path(path: Any) -> str:
    """A key path as `layers/0/w`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def chosen_leaves(owner: str, mask: Mask, params: PyTree, name: str = "mask") -> PyTree:
    """The mask as a pytree of Python booleans of the parameters' structure."""
    if mask is None:
        return tree.map(lambda _: True, params)
    chosen = mask(params) if callable(mask) else mask
    for path, flag in leaf_paths(chosen):
        if not isinstance(flag, bool | onp.bool_):
            raise failure(
                DtypeError, f"{owner}: {name} leaf {path} is a {type(flag).__name__}; a Python boolean was expected."
            )
    return spread(owner, name, chosen, params)


def spread(owner: str, name: str, prefix: PyTree, params: PyTree) -> PyTree:
    """A pytree of the parameters' structure, from one whose leaves may stand for whole subtrees."""
    try:
        return tree.broadcast(prefix, params)
    except ValueError:
        check_structure(owner, name, prefix, "parameters", params)
        raise


def hide(chosen: PyTree, pytree: PyTree) -> PyTree:
    """The pytree with `Masked` in the place of the leaves that are not chosen; None stays None."""
    if pytree is None:
        return None
    return tree.map(lambda is_chosen, leaf: leaf if is_chosen else Masked(), chosen, pytree)


def _matches(pattern: str, path: str) -> bool:
    parts = path.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _has_masked(params: PyTree) -> bool:
    return any(isinstance(x, Masked) for x in tree.leaves(params, is_leaf=lambda x: isinstance(x, Masked)))
