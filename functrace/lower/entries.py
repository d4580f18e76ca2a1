"""Entries of what a loop has stacked are taken by kernels that are equal, of which XLA for CPU compiles one.

Where a loop makes the gradients of all layers, each is read by itself, in the update of its parameters. A slice has its
place in its code, so that each would be a kernel of its own, and to compile one takes as long as a layer's equations.
So the places are values that XLA cannot know, and a slice reads where it begins.

Numbers that a kernel could make would be made in it again, by code of its own. So they are what a loop hands on that
never turns, which XLA cannot know either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax, numpy as jnp

from functrace.ir import Equation, Program

MANY = 32  # entries that a Program takes from which on it is worth the loop


def taken(program: Program) -> dict[Equation, range]:
    """The equations that take entries, along its first axis, of what a loop has made, and which; none where few are."""
    loops = {v for eqn in program.equations if eqn.primitive.runs() for v in eqn.outputs}
    found = {eqn: at for eqn in program.equations if eqn.inputs and eqn.inputs[0] in loops and (at := entries(eqn))}
    return found if sum([len(at) for at in found.values()]) >= MANY else {}


def entries(eqn: Equation) -> range:
    """Which entries of its operand an equation takes, if that is what it does."""
    prim: Any = eqn.primitive
    if prim.name == "unstack" and prim.axis == 0:
        return range(len(eqn.outputs))
    shape = eqn.inputs[0].aval.shape
    if prim.name != "slice" or not shape or prim.limit[0] != prim.start[0] + 1:
        return range(0)
    is_whole = (prim.start[1:], prim.limit[1:], set(prim.strides)) == ((0,) * len(shape[1:]), shape[1:], {1})
    return range(prim.start[0], prim.limit[0]) if is_whole else range(0)


def entry(stack: Any, place: Any, shape: Sequence[int]) -> Any:
    """The entry of a stack at a place, in its shape or with an axis of length one in front."""
    return lax.reshape(lax.dynamic_index_in_dim(stack, place, allow_negative_indices=False), shape)


def unknown_places(asked: Any, count: int) -> list[Any]:
    """The numbers from 0 on, which XLA for CPU cannot know; `asked` is any floating array with an entry."""

    def handed_on(x: Any) -> Any:
        turns = lax.select(x < -jnp.inf, jnp.int32(1), jnp.int32(0))  # none: no number is below
        first = jnp.int32(0), [jnp.int32(i) for i in range(count)]
        turned = lambda state: (state[0] + 1, [2 * i + 1 for i in state[1]])
        return lax.while_loop(lambda state: state[0] < turns, turned, first)[1]

    return lax.platform_dependent(
        jnp.ravel(asked)[0], cpu=handed_on, default=lambda x: [jnp.int32(i) for i in range(count)]
    )
