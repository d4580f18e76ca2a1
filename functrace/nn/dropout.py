"""Dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace import numpy as fnp, random
from functrace.errors import ArgumentError
from functrace.nn.checking import failure, inexact, number_between
from functrace.nn.layer import Layer
from functrace.nn.scoping import scoped


def dropout(rate: float, *, shared_axes: Sequence[int] = (), name: str = "dropout") -> Layer:
    """The layer that in training sets elements to 0 at random and divides the others by `1 - rate`; else the identity.

    It has no params. The same key drops the same elements.

    Args:
      rate: the probability of being dropped, from 0 to 1.
      shared_axes: axes along which all is dropped or nothing: `(1, 2)` drops whole channels of images NHWC.
      name: what errors and reports call it.
    Returns:
      A Layer; in training its `apply` needs a key.
    Raises:
      ArgumentError: `rate` is not from 0 to 1; from `apply`, when there is no key in training, or x has no such axis.
    Source: Srivastava et al., Dropout, JMLR 15 (2014).

    >>> from functrace import nn, numpy as fnp, random
    >>> y = nn.dropout(0.5).apply({}, fnp.ones(1000), training=True, key=random.key(0))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    rate = number_between("dropout", "rate", rate, 0, 1)
    shared = tuple(shared_axes)

    def apply(params: Any, x: Any, *, training: bool = False, key: Any = None) -> Any:
        x = inexact("dropout", x)
        if any(not -x.ndim <= axis < x.ndim for axis in shared):
            raise failure(ArgumentError, "dropout", f"x has shape {x.shape}; it lacks one of shared_axes {shared}.")
        if not training or rate == 0:
            return x
        if key is None:
            raise failure(
                ArgumentError,
                "dropout",
                "key is None; in training a key was expected. Pass apply(..., training=True, key=random.key(0)), with "
                "another key at each step: random.fold_in(key, step).",
            )
        if rate == 1:
            return fnp.zeros_like(x)
        together = {axis % x.ndim for axis in shared}
        kept = random.bernoulli(key, 1 - rate, [1 if i in together else n for i, n in enumerate(x.shape)])
        return fnp.where(kept, x / (1 - rate), 0)

    return scoped(Layer(lambda key: {}, apply, name))
