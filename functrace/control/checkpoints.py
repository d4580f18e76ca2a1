"""How a loop of unknown length is walked backwards with a bounded number of states kept.

Forward, every `stride`-th state is kept; when the slots for that are full, every other state is dropped
and the stride doubles (online checkpointing: Stumm and Walther 2010). Backward, the kept states are a
stack: the last one is advanced to where the walk stands, states pushed on the way, as close together as
the free slots allow, and once it is no more than a leaf of steps away, these are undone and it is popped
(offline checkpointing: Griewank and Walther 2000). A loop of T steps with K slots recomputes each step about
log T / log K times.

A leaf is one step, but for the smallest states several, of which what the derivative reads is written down: two short
loops, one forward and one backward. XLA compiles a loop whose body touches less than 1,024 bytes as one function,
ten times as quick as kernel after kernel, and each of the two is half as large as a step undone at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax, numpy as jnp

Step = Callable[[list[Any]], list[Any]]
SMALL, LEAF = 32, 32  # bytes of a state, and steps of a leaf if it is so small


def leaf_steps(state: Sequence[Any]) -> int:
    """How many steps are undone at once, for a state of such arrays (or avals)."""
    return LEAF if sum(x.size * x.dtype.itemsize for x in state) <= SMALL else 1


def put(buffers: Sequence[Any], at: Any, state: Sequence[Any]) -> list[Any]:
    """A state in slot `at`."""
    return [lax.dynamic_update_index_in_dim(b, x, at, 0) for b, x in zip(buffers, state, strict=True)]


def get(buffers: Sequence[Any], at: Any) -> list[Any]:
    """The state in slot `at`."""
    return [lax.dynamic_index_in_dim(b, at, 0, keepdims=False) for b in buffers]


def advance(step: Step, state: list[Any], count: Any) -> list[Any]:
    """`state` after `count` steps."""
    return lax.fori_loop(0, count, lambda _, s: step(s), state)


def online(slots: int) -> int:
    """How many of the slots, an even number, are filled on the way forward; the others are for the way back."""
    return max(2, slots // 4 * 2)


def run_saving(going: Callable[[list[Any]], Any], step: Step, state: list[Any], slots: int) -> list[Any]:
    """Run while `going`; returns the last state, the steps, the stride, the slots used, and the slots.

    Slot m holds the state before step m * stride. There are `slots + 1`: one is for the way back.
    """
    limit = online(slots)
    buffers = [jnp.zeros((slots + 1, *x.shape), x.dtype) for x in state]

    def thin(given: Any) -> Any:
        stride, _, buffers = given
        halves = [b.at[: limit // 2].set(b[:limit:2]) for b in buffers]
        return 2 * stride, jnp.int32(limit // 2), halves

    def fill(given: Any) -> Any:
        _, state, steps, stride, used, buffers = given
        buffers = put(buffers, used, state)

        def one(given: Any) -> Any:
            k, _, state = given
            state = step(state)
            return k + 1, going(state), state

        k, more, state = lax.while_loop(
            lambda given: (given[0] < stride) & given[1], one, (jnp.int32(0), jnp.bool_(True), state)
        )
        return more, state, steps + k, stride, used + 1, buffers

    def epoch(given: Any) -> Any:
        more, state, steps, *kept = given
        stride, used, buffers = lax.cond(kept[1] == limit, thin, lambda kept: tuple(kept), tuple(kept))
        given = (more, state, steps, stride, used, buffers)
        return lax.while_loop(lambda given: given[0] & (given[4] < limit), fill, given)

    start = (going(state), state, jnp.int32(0), jnp.int32(leaf_steps(state)), jnp.int32(0), buffers)
    _, state, steps, stride, used, buffers = lax.while_loop(lambda given: given[0], epoch, start)
    return [*state, steps, stride, used, *buffers]


def run_backward(
    step: Step, read: Step, undo: Callable[[list[Any], list[Any]], list[Any]], steps: Any, stride: Any, used: Any,
    buffers: list[Any], cts: list[Any],
) -> list[Any]:  # fmt: skip
    """Apply `cts = undo(read(state), cts)` for the states before each step, the last one first.

    `buffers` are slots as `run_saving` left them.
    """
    slots = (buffers[0].shape[0] if buffers else 1) - 1
    leaf = leaf_steps([b[0] for b in buffers])

    def subdivide(given: Any) -> Any:
        """Push states between the one on top and where the walk stands, and undo leaves while they are on top."""
        left, top, at, buffers, cts = given
        first = at[top - 1]
        gap, free = left - first, slots - top
        pieces = free // 2 + 1
        spread = (gap + pieces - 1) // pieces
        fits = (gap - 1) // leaf <= free
        apart = jnp.where(fits, leaf, jnp.maximum(jnp.where(free >= 2, spread, gap - leaf), 1))

        def push(given: Any) -> Any:
            here, state, top, at, buffers = given
            state = advance(step, state, apart)
            here = here + apart
            return here, state, top + 1, at.at[top].set(here), put(buffers, top, state)

        start = (first, get(buffers, top - 1), top, at, buffers)
        _, _, top, at, buffers = lax.while_loop(lambda given: given[0] + apart < left, push, start)

        def pop(given: Any) -> Any:
            left, top, cts = given
            state = get(buffers, top - 1)
            if leaf == 1:
                return left - 1, top - 1, undo(read(state), cts)
            first = at[top - 1]
            return first, top - 1, undo_leaf(state, left - first, cts)

        is_on_top = lambda given: (given[0] > 0) & (at[given[1] - 1] >= given[0] - leaf)
        left, top, cts = lax.while_loop(is_on_top, pop, (left, top, cts))
        return left, top, at, buffers, cts

    def undo_leaf(state: list[Any], count: Any, cts: list[Any]) -> list[Any]:
        """Undo the `count` steps from `state` on."""

        def forward(i: Any, given: Any) -> Any:
            state, notes = given
            return step(state), put(notes, i, read(state))

        notes = [jnp.zeros((leaf, *x.shape), x.dtype) for x in jax.eval_shape(read, state)]
        _, notes = lax.fori_loop(0, count, forward, (state, notes))
        backward = lambda given: (given[0] - 1, undo(get(notes, given[0] - 1), given[1]))
        return lax.while_loop(lambda given: given[0] > 0, backward, (count, cts))[1]

    at = jnp.arange(slots + 1, dtype=jnp.int32) * stride
    walk = (steps, used, at, buffers, cts)
    return lax.while_loop(lambda given: given[0] > 0, subdivide, walk)[-1]
