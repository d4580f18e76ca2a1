"""How a loop of unknown length is walked backwards with a bounded number of states kept.

Forward, every `stride`-th state is kept; when the slots for that are full, every other state is dropped
and the stride doubles (online checkpointing: Stumm and Walther 2010). Backward, the kept states are a
stack: the last one is advanced to where the walk stands, states pushed on the way, as close together as
the free slots allow, and each step whose state is on top is undone and popped (offline checkpointing:
Griewank and Walther 2000). A loop of T steps with K slots recomputes each step about log T / log K times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import lax, numpy as jnp

Step = Callable[[list[Any]], list[Any]]


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

    start = (going(state), state, jnp.int32(0), jnp.int32(1), jnp.int32(0), buffers)
    _, state, steps, stride, used, buffers = lax.while_loop(lambda given: given[0], epoch, start)
    return [*state, steps, stride, used, *buffers]


def run_backward(
    step: Step, undo: Callable[[list[Any], list[Any]], list[Any]], steps: Any, stride: Any, used: Any,
    buffers: list[Any], cts: list[Any],
) -> list[Any]:  # fmt: skip
    """Apply `cts = undo(state, cts)` for the states before each step, the last one first.

    `buffers` are slots as `run_saving` left them.
    """
    slots = (buffers[0].shape[0] if buffers else 1) - 1

    def subdivide(given: Any) -> Any:
        """Push states between the one on top and where the walk stands, and undo what is then on top."""
        left, top, at, buffers, cts = given
        first = at[top - 1]
        gap, free = left - first, slots - top
        pieces = free // 2 + 1
        spread = (gap + pieces - 1) // pieces
        apart = jnp.maximum(jnp.where(gap - 1 <= free, 1, jnp.where(free >= 2, spread, gap - 1)), 1)

        def push(given: Any) -> Any:
            here, state, top, at, buffers = given
            state = advance(step, state, apart)
            here = here + apart
            return here, state, top + 1, at.at[top].set(here), put(buffers, top, state)

        start = (first, get(buffers, top - 1), top, at, buffers)
        _, _, top, at, buffers = lax.while_loop(lambda given: given[0] + apart < left, push, start)

        def pop(given: Any) -> Any:
            left, top, cts = given
            return left - 1, top - 1, undo(get(buffers, top - 1), cts)

        is_on_top = lambda given: (given[0] > 0) & (at[given[1] - 1] == given[0] - 1)
        left, top, cts = lax.while_loop(is_on_top, pop, (left, top, cts))
        return left, top, at, buffers, cts

    at = jnp.arange(slots + 1, dtype=jnp.int32) * stride
    walk = (steps, used, at, buffers, cts)
    return lax.while_loop(lambda given: given[0] > 0, subdivide, walk)[-1]
