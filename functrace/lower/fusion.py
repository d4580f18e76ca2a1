"""What XLA for CPU should compute once: values that it would compute again in every kernel that reads them.

XLA fuses a cheap operation into all its readers, and into those what it reads itself, as far back as cheap operations
go. Through the sums of a residual network they go back to the first layer: the input of layer n is the sum of n terms,
added up anew in each kernel that reads it. Compilation and step then grow with the square of the depth. Where each
such sum is kept, they grow with the depth, and the layers' kernels are equal, of which XLA compiles one.

`kept` chooses by the arrays that are read and written. Computed from k arrays by each of c kernels, a value costs c k
reads. Kept, it costs k reads and a write, and one read by each kernel:

    c k  >  k + 1 + c

Small arrays cost no time to read, but code: XLA compiles all that it computes again. Where numbers are made of numbers
made of numbers, as in a table that is filled entry by entry, or on the coarse grids of a solver, each kernel would hold
all that was before. A small value is kept if its operations, in all kernels but one, are more than `CODE`.

What XLA keeps by itself is let be: a sum, product and the like that is returned, or that a loop, a choice or a product
of matrices reads as it is. It does not compute those again, whoever else reads them: a kernel ends there.

XLA for CPU takes `optimization_barrier` away before it fuses, but never computes a division twice. So a value is kept
by dividing it by a one that XLA cannot tell to be one, which is exact for every number, NaN and Inf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jax import lax, numpy as jnp

from functrace.ir import Equation, Literal, Program, Var

JOINED = frozenset({"stack", "concatenate"})  # what puts each operand in its place by a kernel of its own
ONE_BY_ONE = JOINED | {"unstack", "reduce_sum", "reduce_max", "reduce_min"}  # which is arithmetic of few entries
DIVISIONS = frozenset({"div", "integer_pow"})  # which XLA does once
LEAST = 1024  # entries of an array that is worth a kernel for what is read and written
CODE = 64  # operations that are worth one
FEW = 16  # entries that are put together, added up or taken apart one by one
MOST = 8  # readers, and arrays read, that are told apart: enough to decide, and few enough for linear time


def kept(program: Program) -> frozenset[Var]:
    """The variables that are to be computed once."""
    ends, weighed = kernels(program)
    reads: dict[Var, dict[Var, int]] = {}  # by variable, the arrays it is computed from, and how much of each is read
    operations: dict[Any, int] = {}  # by variable, those that it is computed by
    found: set[Var] = set()
    for eqn in weighed:
        code = 1 + sum([operations.get(x, 0) for x in eqn.inputs])
        of_inputs = [reads.get(x, {x: x.aval.size}) for x in eqn.inputs if type(x) is Var]
        arrays = of_inputs[0] if len(of_inputs) == 1 else {x: n for each in of_inputs for x, n in each.items()}
        for v in eqn.outputs:
            size, c = v.aval.size, len(ends.get(v, ()))
            if is_eligible(v, c):
                k = len([n for n in arrays.values() if 2 * n >= size])
                if c * k > k + 1 + c if size >= LEAST else (c - 1) * code > CODE:
                    found.add(v)
                    continue
            operations[v] = min(code, CODE + 1)
            is_whole = len(arrays) <= MOST and max(arrays.values(), default=0) <= size
            reads[v] = arrays if is_whole else {x: min(n, size) for x, n in islice(arrays.items(), MOST)}
    return frozenset(found)


def is_eligible(v: Var, readers: int) -> bool:
    """Whether a value is one that may be kept."""
    return readers > 1 and v.aval.kind == "f"


def is_of_several(eqn: Equation, spread: Container[Any]) -> bool:
    """Whether an equation reads several arrays, as XLA counts them: of its rank, and no numbers that are spread."""
    rank = eqn.outputs[0].aval.ndim
    return len([x for x in eqn.inputs if type(x) is Var and x.aval.ndim >= rank and x not in spread]) > 1


def reads_whole(eqn: Equation) -> bool:
    """Whether XLA must have the operands of an equation in memory: loops, choices, and products of matrices whose axes
    it need not turn or join first."""
    if eqn.primitive.name != "dot_general":
        return bool(eqn.primitive.runs()) and eqn.primitive.applied() is None
    contracted, batch = eqn.params["dimension_numbers"]
    axes = tuple(range(len(batch[0])))
    ranks = [x.aval.ndim for x in eqn.inputs]
    return batch == (axes, axes) and len(contracted[0]) == 1 and max(ranks) <= len(axes) + 2


def is_computed_again(eqn: Equation, readers: Counter[Any]) -> bool:
    """Whether XLA computes the results of an equation in each kernel that reads them."""
    name = eqn.primitive.name
    if not eqn.primitive.fuses:
        return name in ONE_BY_ONE and sum([x.aval.size for x in eqn.inputs]) <= FEW
    if name not in DIVISIONS or readers[eqn.outputs[0]] == 1 or eqn.outputs[0].aval.size >= LEAST:
        return True
    return type(eqn.inputs[1]) is Literal if name == "div" else eqn.params["exponent"] > 0


def kernels(program: Program) -> tuple[dict[Var, tuple[Any, ...]], list[Equation]]:
    """By variable, what ends the kernels in which it is read: equations, operands that are put together with others,
    and -1, which returns the results.

    And the equations that make what may be kept, and what that is computed from in a kernel.
    """
    found: dict[Any, tuple[Any, ...]] = {x: (-1,) for x in program.outputs if type(x) is Var}
    readers = Counter([x for eqn in program.equations for x in eqn.inputs])
    asked: set[Any] = set()
    whole: set[Any] = set(program.outputs)
    # What is one value, or some, again and again.
    spread = {v for eqn in program.equations if eqn.primitive.name == "broadcast_in_dim" for v in eqn.outputs}
    weighed: list[Equation] = []
    for i in reversed(range(len(program.equations))):
        eqn = program.equations[i]
        ends: tuple[Any, ...] = (i,)
        is_let_be = not whole.isdisjoint(eqn.outputs) and is_of_several(eqn, spread)
        again = not is_let_be and is_computed_again(eqn, readers)
        if again:
            v, *others = eqn.outputs
            ends = found.get(v, ())
            is_asked = v in asked or is_eligible(v, len(ends))
            if others:
                ends = first([end for v in eqn.outputs for end in found.get(v, ())])
                is_asked = is_asked or any([v in asked or is_eligible(v, len(found.get(v, ()))) for v in others])
            if is_asked:
                weighed.append(eqn)
                asked.update(eqn.inputs)
        elif reads_whole(eqn):
            whole.update(eqn.inputs)
        is_joined = eqn.primitive.name in JOINED
        for k, x in enumerate(eqn.inputs):
            if type(x) is Var:
                own = ends if not is_joined else (*ends, (i, k)) if again else ((i, k),)
                known = found.get(x)
                found[x] = own if known is None or known == own else first([*known, *own])
    weighed.reverse()
    return found, weighed


def first(ends: Sequence[Any]) -> tuple[Any, ...]:
    """The first of these, each once."""
    return tuple(islice(dict.fromkeys(ends), MOST))


def unknown_ones(once: Collection[Var], values: Sequence[Any]) -> dict[Any, Any]:
    """By dtype of what is to be computed once, a one that XLA for CPU cannot know; none without a value to ask.

    The last one is asked, as what a function closes over, which XLA may know, comes first.
    """
    may_be_asked = lambda x: np.size(x) and jnp.issubdtype(jnp.result_type(x), np.floating)
    asked = next((x for x in reversed(values) if may_be_asked(x)), None)
    return {} if asked is None else {dtype: unknown_one(asked, dtype) for dtype in dtypes_of(once)}


def dtypes_of(once: Collection[Var]) -> list[Any]:
    """The dtypes of variables, in a fixed order."""
    return sorted({v.aval.dtype for v in once}, key=str)


def unknown_one(asked: Any, dtype: Any) -> Any:
    """A scalar that is one: no value is below minus infinity. A division by it must have others of its type beside it:
    by a scalar that nothing else reads, XLA makes a product of it."""
    one = jnp.ones((), dtype)
    return lax.platform_dependent(
        jnp.ravel(asked)[0],
        cpu=lambda x: lax.select(x < -np.inf, 2 * one, one),
        default=lambda x: one,
    )


def computed_once(x: Any, one: Any) -> Any:
    """`x`, which no kernel computes again."""
    return lax.div(x, lax.broadcast(one, x.shape))
