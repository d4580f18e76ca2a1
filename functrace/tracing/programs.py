"""Programs as functions: called with pytrees, in a trace or out of it, and with what they closed over written out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import jax
import jax.core
import jax.numpy
import numpy as np
from jax import tree_util

from functrace.errors import ArgumentError, DtypeError, ProgramError
from functrace.foreign.settled import settled
from functrace.ir import Aval, Builder, Program
from functrace.ir.program import held_programs
from functrace.ir.source import caller_source
from functrace.primitives.constant import constant
from functrace.rewrites import memoised
from functrace.tracing.lift import import_call
from functrace.tracing.trace import apply
from functrace.tracing.tracer import Tracer, at, aval_of

WIDE = ("int64", "uint64", "float64", "complex128")


class Calling:
    """What a Program is as a function."""

    def call(self, program: Program, args: Any, kwargs: Any) -> Any:
        """The results at the leaves of the arguments."""
        leaves = checked_leaves(program, tree_util.tree_leaves((args, kwargs)))
        return structured(program, apply(program, [*program.captured, *leaves]))

    def settled(self, program: Program) -> Program:
        """The same as its text can tell, JAX's custom derivatives being Programs."""
        made = settled(program)
        if made is not program:
            made.captured, made.structure = program.captured, program.structure
        return made

    def closed(self, program: Program) -> Program:
        """The same as its text can tell, captured values being constants."""
        written = self.settled(program)
        if not program.captured:
            return written
        for x in program.captured:
            if isinstance(x, Tracer | jax.core.Tracer):
                raise ProgramError(
                    f"save: the function closes over a value of type {aval_of(x)!r} of a trace that is running; make "
                    f"the Program outside of it, or pass the value as an argument.{at(caller_source())}"
                )
        with Builder() as b:
            values = [written_out(b, x) for x in program.captured]
            inputs = [b.input(v.aval, v.name) for v in program.inputs[len(values) :]]
            made = b.build(b.inline(written, [*values, *inputs]))
        made.structure = program.structure
        return made


Program.runtime = Calling()


def written_out(b: Builder, x: Any) -> Any:
    """An array as an equation; a key of a generator as its data, wrapped."""
    if not jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return constant(np.asarray(x))
    data = constant(np.asarray(jax.random.key_data(x)))
    wrap = lambda data: jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    _, tree = tree_util.tree_flatten(((data,), {}))
    lifted = import_call("wrap_key_data", wrap, [data], [True], tree, [data.aval])
    return b.inline(lifted.program, [data])[0]


def checked_leaves(program: Program, leaves: Sequence[Any]) -> Sequence[Any]:
    """The leaves, one an input that is not captured, each of its type."""
    inputs = program.inputs[len(program.captured) :]
    if len(leaves) != len(inputs):
        listed = ", ".join(f"{v.name or f'input {i}'}: {v.aval!r}" for i, v in enumerate(islice(inputs, 8)))
        raise ArgumentError(
            f"Program: called with {len(leaves)} arrays, and takes {len(inputs)}: "
            f"{listed}{', ...' if len(inputs) > 8 else ''}.{at(caller_source())}"
        )
    if has_wide(program) and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise DtypeError(
            "Program: it computes with 64 bits, and JAX's 64-bit types are off; switch them on with "
            f"jax.config.update('jax_enable_x64', True).{at(caller_source())}"
        )
    for i, (v, x) in enumerate(zip(inputs, leaves, strict=True)):
        try:
            found = aval_of(x)
        except TypeError as error:
            raise DtypeError(
                f"Program: {v.name or f'input {i}'} is a {type(x).__name__} ({x!r}), not an array of type {v.aval!r}."
                f"{at(caller_source())}"
            ) from error
        if not v.aval.matches(found):
            raise DtypeError(
                f"Program: {v.name or f'input {i}'} must be of type {v.aval!r}, got {found!r}. A Program is for the "
                f"shapes and dtypes that it was traced at; trace the function again for others.{at(caller_source())}"
            )
    return leaves


@memoised
def has_wide(program: Program) -> bool:
    """Whether a value in a Program is of a strong type of 64 bits."""
    values = [*program.inputs, *[v for eqn in program.equations for v in eqn.outputs]]
    if any([is_wide(v.aval) for v in values]):
        return True
    return any([
        has_wide(p) for eqn in program.equations for x in eqn.primitive.params.values() for p in held_programs(x)
    ])  # fmt: skip


def is_wide(aval: Aval) -> bool:
    """Whether a type has 64 bits a number, and means it."""
    return not aval.weak_type and aval.dtype.name in WIDE


def structured(program: Program, outputs: Sequence[Any]) -> Any:
    """The outputs as what a call returns."""
    if program.structure is ...:
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
    return tree_util.tree_map(lambda i: outputs[i], program.structure)


def structure_of(tree: Any) -> Any:
    """A pytree's structure with numbers for leaves, `...` if it is one leaf or a tuple of several."""
    n = tree.num_leaves
    made = numbered(tree, iter(range(n)))
    return ... if made == (0 if n == 1 else tuple(range(n))) else made


def numbered(tree: Any, numbers: Any) -> Any:
    """A pytree's structure with the next numbers for leaves: named tuples and other classes become dicts."""
    if tree_util.treedef_is_leaf(tree) and tree.num_leaves:
        return next(numbers)
    data = tree.node_data()
    parts = [numbered(child, numbers) for child in tree.children()]
    if data is None or data[0] is type(None):
        return None
    kind: Any = data[0]
    about: Any = data[1]
    if kind is list:
        return parts
    if kind is tuple:
        return tuple(parts)
    if kind is dict and all([type(k) in (str, int) for k in about]):
        return dict(zip(about, parts, strict=True))
    example = tree_util.tree_unflatten(tree, range(tree.num_leaves))
    paths = tree_util.tree_flatten_with_path(example, is_leaf=lambda x: x is not example)[0]
    names = [getattr(path[0], "name", getattr(path[0], "key", getattr(path[0], "idx", None))) for path, _ in paths]
    unique = len({str(n) for n in names}) == len(parts)
    return dict(zip(map(str, names), parts, strict=True)) if unique else tuple(parts)
