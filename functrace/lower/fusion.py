"""What XLA for CPU should compute once: values that it would compute again in every kernel that reads them.

XLA fuses a cheap operation into all its readers, and into those what it reads itself, as far back as cheap operations
go. Through the sums of a residual network they go back to the first layer: the input of layer n is the sum of n terms,
added up anew in each kernel that reads it. Compilation and step then grow with the square of the depth. Where each
such sum is kept, they grow with the depth, and the layers' kernels are equal, of which XLA compiles one.

`kept` chooses by the arrays that are read and written. Computed from k arrays by each of c kernels, a value costs c k
reads. Kept, it costs k reads and a write, and one read by each kernel:

    c k  >  k + 1 + c

XLA for CPU takes `optimization_barrier` away before it fuses, but never computes a division twice. So a value is kept
by dividing it by a one that XLA cannot tell to be one, which is exact for every number, NaN and Inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from jax import lax, numpy as jnp

from functrace.ir import Equation, Program, Var

LEAST = 1024  # entries of an array that is worth a kernel
MOST = 8  # readers, and arrays read, that are told apart: enough to decide, and few enough for linear time


def kept(program: Program) -> frozenset[Var]:
    """The variables that are to be computed once."""
    ends, weighed = kernels(program)
    reads: dict[Var, dict[Var, int]] = {}  # by variable, the arrays it is computed from, and how much of each is read
    found: set[Var] = set()
    for eqn in weighed:
        of_inputs = [reads.get(x, {x: x.aval.size}) for x in eqn.inputs if type(x) is Var]
        arrays = of_inputs[0] if len(of_inputs) == 1 else {x: n for each in of_inputs for x, n in each.items()}
        for v in eqn.outputs:
            size, c = v.aval.size, len(ends.get(v, ()))
            if is_eligible(v, c):
                k = len([n for n in arrays.values() if 2 * n >= size])
                if c * k > k + 1 + c:
                    found.add(v)
                    continue
            is_whole = len(arrays) <= MOST and max(arrays.values(), default=0) <= size
            reads[v] = arrays if is_whole else {x: min(n, size) for x, n in islice(arrays.items(), MOST)}
    return frozenset(found)


def is_eligible(v: Var, readers: int) -> bool:
    """Whether a value is one that may be kept."""
    return readers > 1 and v.aval.size >= LEAST and v.aval.dtype.kind == "f"


def kernels(program: Program) -> tuple[dict[Var, tuple[int, ...]], list[Equation]]:
    """By variable, the equations that end the kernels in which it is read; -1 is what returns the results.

    And the equations that make what may be kept, and what that is computed from in a kernel.
    """
    found: dict[Var, tuple[int, ...]] = {x: (-1,) for x in program.outputs if type(x) is Var}
    asked: set[Any] = set()
    weighed: list[Equation] = []
    for i in reversed(range(len(program.equations))):
        eqn = program.equations[i]
        ends = (i,)
        if eqn.primitive.fuses:
            v = eqn.outputs[0]
            ends = found.get(v, ())
            if v in asked or is_eligible(v, len(ends)):
                weighed.append(eqn)
                asked.update(eqn.inputs)
        for x in eqn.inputs:
            if type(x) is Var:
                others = found.get(x)
                found[x] = ends if others is None else tuple(islice(dict.fromkeys(others + ends), MOST))
    weighed.reverse()
    return found, weighed


def unknown_one(values: Sequence[Any]) -> Any:
    """A scalar that is one, where XLA for CPU cannot know it: no value is below minus infinity. None without a value
    to ask; the last one is, as what a function closes over, which XLA may know, comes first."""
    may_be_asked = lambda x: np.size(x) and jnp.issubdtype(jnp.result_type(x), np.floating)
    asked = next((x for x in reversed(values) if may_be_asked(x)), None)
    if asked is None:
        return None
    one = jnp.float32(1)
    return lax.platform_dependent(
        jnp.ravel(asked)[0],
        cpu=lambda x: lax.select(x < -np.inf, 2 * one, one),
        default=lambda x: one,
    )


def computed_once(x: Any, one: Any) -> Any:
    """`x`, which no kernel computes again."""
    return lax.div(x, lax.broadcast(lax.convert_element_type(one, x.dtype), x.shape))
