"""Many equations that JAX sees as one: the call of a block, whose jaxpr it asks for to transform it only.

JAX visits each equation of a jaxpr several times before there is StableHLO: to see what is unused, to look up how it
is lowered, to write it. A block is one equation, and is written as text (`lower/stablehlo.py`). Under a transform of
JAX's it is what its jaxpr is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from functrace.lower.kinds import Call, Form, Kind, jax_type, jaxpr_of, written
from functrace.lower.plain import TYPES, Text, type_text
from functrace.lower.stablehlo import lowered


class Block:
    """Calls of kinds of equation as a function of some variables; it is equal to itself only."""

    def __init__(
        self, calls: Sequence[Call], kinds: Sequence[Kind], inputs: Sequence[Any], outputs: Sequence[Any], name: str
    ):
        self.calls, self.kinds, self.inputs, self.outputs, self.name = calls, kinds, inputs, outputs, name

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def in_types(self) -> list[Any]:
        """JAX's types of the inputs."""
        return [jax_type(x) for x in self.inputs]

    @cached_property
    def out_types(self) -> list[Any]:
        """JAX's types of the outputs."""
        return [jax_type(x) for x in self.outputs]

    @cached_property
    def jaxpr(self) -> Any:
        """The block as JAX writes it."""
        inputs = [core.Var(t) for t in self.in_types]
        env: dict[Any, Any] = dict(zip(self.inputs, inputs, strict=True))
        equations = written(self.calls, self.kinds, env)
        return jaxpr_of(inputs, equations, [env[x] for x in self.outputs], self.name)

    @cached_property
    def function(self) -> Any:
        """The block as a function that JAX transforms."""
        return jax.jit(core.jaxpr_as_fun(core.ClosedJaxpr(self.jaxpr, ())))


block_p = core.Primitive("block")
block_p.multiple_results = True
block_p.def_impl(lambda *xs, block: block.function(*xs))
block_p.def_abstract_eval(lambda *xs, block: block.out_types)


@cache
def call_of_none(mesh: Any) -> Any:
    """JAX's equation that calls an empty block, under a mesh, which is part of it."""
    (call,) = jax.make_jaxpr(lambda: block_p.bind(block=Block((), (), (), (), "empty")))().jaxpr.eqns
    return call


def call_of(block: Block, constants: Sequence[Any]) -> Kind:
    """The kind that is a call of a block, the first inputs of which are constants."""
    k, n = len(constants), len(block.outputs)
    call = call_of_none(jax.sharding.get_abstract_mesh()).replace(params={"block": block})
    form = Form(constants, [(call, range(len(block.inputs)), block.out_types)], range(-n, 0))
    return Kind(None, [x.aval for x in block.inputs[k:]], text_of_call(block), form)


def text_of_call(block: Block) -> Text | None:
    """The call of a block; None where a type in it is for JAX to write."""
    types = [*block.in_types, *block.out_types]
    if any([t.dtype.name not in TYPES for t in types]):
        return None
    ins, outs = [", ".join([type_text(t) for t in ts]) for ts in (block.in_types, block.out_types)]
    n, operands = len(block.outputs), ", ".join([f"{{{i + 1}}}" for i in range(len(block.inputs))])
    template = f"%v{{0}}:{n} = call @{{called}}({operands}) : ({ins}) -> ({outs}) loc({{at}})\n"
    return Text(template, [f"%v{{0}}#{i}" for i in range(n)], called=block)


def reached(block: Block, chosen: Sequence[int]) -> list[bool]:
    """Which outputs follow from the chosen inputs."""
    found = {block.inputs[i] for i in chosen}
    for _, xs, ys, _ in block.calls:
        if not found.isdisjoint(xs):
            found.update(ys)
    return [y in found for y in block.outputs]


def jvp_of_block(primals: Sequence[Any], tangents: Sequence[Any], block: Block) -> tuple[Any, Any]:
    """That of its jaxpr, along the inputs that have a tangent."""
    moving = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]

    def of_moving(*xs: Any) -> Any:
        values = list(primals)
        for i, x in zip(moving, xs, strict=True):
            values[i] = x
        return block.function(*values)

    ys, dys = jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])
    moved = zip(ys, dys, reached(block, moving), strict=True)
    return ys, [dy if moves else ad.Zero(jax.typeof(y).to_tangent_aval()) for y, dy, moves in moved]


def rows_of_block(args: Sequence[Any], axes: Sequence[Any], *, block: Block) -> tuple[Any, Any]:
    """Its jaxpr, row by row."""
    rows = reached(block, [i for i, axis in enumerate(axes) if axis is not None])
    out_axes = [0 if has_rows else None for has_rows in rows]
    return jax.vmap(block.function, tuple(axes), out_axes)(*args), out_axes


ad.primitive_jvps[block_p] = jvp_of_block
batching.primitive_batchers[block_p] = rows_of_block
mlir.register_lowering(block_p, lowered, inline=False)
