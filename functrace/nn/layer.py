"""What a layer is: a pair of pure functions. Nothing is hidden in it: parameters, state and keys are arguments.

    Layer          init(key) -> params             apply(params, x) -> y
    StatefulLayer  init(key) -> (params, state)    apply(params, state, x) -> (y, state)
    SequenceLayer  init(key) -> params             apply(params, x) -> y, of a whole sequence, or in pieces:
                   start(batch) -> state           apply(params, x, state=state) -> (y, state)

Every `apply` also takes `training=False` and `key=None`, which a layer that does not need them passes over, so that
`sequential` can hand them to all. Params and state are plain pytrees of dicts and tuples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """A layer without state.

    init: `key -> params`, a pytree of arrays.
    apply: `(params, x, *, training=False, key=None) -> y`.
    name: what errors and reports call it.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    name: str


class StatefulLayer(NamedTuple):
    """A layer with state, such as running statistics, that `apply` returns anew.

    init: `key -> (params, state)`, two pytrees of arrays.
    apply: `(params, state, x, *, training=False, key=None) -> (y, state)`.
    name: what errors and reports call it.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    name: str


class SequenceLayer(NamedTuple):
    """A layer that reads sequences, all at once or a piece at a time: what the pieces give is what the whole gives.

    init: `key -> params`, a pytree of arrays.
    apply: `(params, x, *, training=False, key=None, state=None) -> y`. x is `[..., t, features]`, or tokens `[..., t]`.
      With a state, x goes on where the sequence before has ended, and the result is `(y, state)`.
    name: what errors and reports call it.
    start: `(batch=(), length=None, dtype=None) -> state`, that before the first position of sequences whose leading
      axes are `batch`; where the state holds all of a sequence, it has room for `length` positions.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    name: str
    start: Callable[..., Any]
