"""checkpoint: apply a Program of which reverse mode keeps little, and computes the rest again.

    y = f(x)          forward:   x -> (y, kept)               backward:   (x, kept, ct_y) -> ct_x

The backward half is one equation that holds the recomputation, so nothing in the Program around it can be
shared with it. What is kept is said by a policy, which is data: "nothing", "everything", "dots",
"dots_with_no_batch_dims", ("names", *names), ("except", *names), ("other_names", *names), ("either", p, q).

Source of the idea: Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse
automatic differentiation" (1992); Chen et al., "Training deep nets with sublinear memory cost" (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from functrace.control.call import Call
from functrace.control.groups import narrowed, needed_inputs
from functrace.ir import Aval, Builder, Equation, Program, Sample, Var, primitive
from functrace.lower.evaluate import evaluate
from functrace.lower.fence import fenced
from functrace.lower.staging import staged
from functrace.primitives.elementwise import mul
from functrace.primitives.naming import Name
from functrace.primitives.unary import cos, sin
from functrace.rewrites import jvp, memoised
from functrace.rewrites.collect import acts, unobserved
from functrace.rewrites.memo import copy_input, scatter, select
from functrace.rewrites.separate import separated

Policy = str | tuple[Any, ...]
POLICIES = ("nothing", "everything", "dots", "dots_with_no_batch_dims")
OF_NAMES = ("names", "except", "other_names")
OF_JAX: dict[Any, Policy] = {
    jax.checkpoint_policies.nothing_saveable: "nothing",
    jax.checkpoint_policies.everything_saveable: "everything",
    jax.checkpoint_policies.dots_saveable: "dots",
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable: "dots_with_no_batch_dims",
}


@primitive
class Checkpoint(Call):
    """`program(*operands)`, whose linearization keeps what `policy` says.

    `again` says that the Program computes what was computed before, and `prevent_cse` that XLA must not
    find that out: then it runs behind a fence.
    """

    name = "checkpoint"
    policy: Policy = "nothing"
    prevent_cse: bool = True
    again: bool = False

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), np.dtype(np.float32))
        with Builder() as b:
            x, y = b.input(aval), b.input(aval)
            program = b.build([mul(cos(Name("a")(sin(x))), y), y])
        for policy in ("nothing", "everything", ("names", "a")):
            yield Sample(Checkpoint(program, "sample", policy), (aval, aval))
        yield Sample(Checkpoint(program, "sample", "nothing", True, True), (aval, aval))

    def lower(self, *xs: Any) -> Any:
        if self.prevent_cse and self.again:
            return fenced(self.program, xs)
        # At arrays, as a debugger asks for it, a block would be compiled anew each time.
        is_traced = any([isinstance(x, jax.core.Tracer) for x in xs])
        return staged(self.program, xs) if is_traced else evaluate(self.program, xs)

    def prune(self, needed: tuple[bool, ...]) -> Any:
        inputs = needed_inputs(self.program, needed)
        return self.of(narrowed(self.program, inputs, needed)), inputs, needed

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple(dx is not None for dx in dxs)
        program, moved = jvp(inlined(self.program), moving, "linearize")
        dxs = select(moving, dxs)
        outputs, _ = self.of(program).separate((*xs, *dxs), [True] * len(xs) + [False] * len(dxs))
        n = len(moved)
        return outputs[:n], scatter(moved, outputs[n:])

    def separate(self, xs: Sequence[Any], known: Sequence[bool]) -> tuple[Any, Any]:
        halves = divided(self.program, self.policy, tuple(known))
        kept: Sequence[Any] = ()
        now, later = iter(()), iter(())
        if halves.first.outputs:
            early = self.of(halves.first)(*select(halves.read_first, xs))
            count = sum(halves.known)
            now, kept = iter(early[:count]), early[count:]
        if halves.second.outputs:
            again = Checkpoint(halves.second, self.label, self.policy, self.prevent_cse, True)
            later = iter(again(*kept, *select(halves.read_second, xs)))
        return [next(now) if k else next(later) for k in halves.known], halves.known


class Halves(NamedTuple):
    """`first: known operands -> (known results, kept)`, `second: (kept, operands) -> other results`.

    `read_first` and `read_second` say which operands they take, `known` which results are the first's.
    """

    first: Program
    second: Program
    read_first: tuple[bool, ...]
    read_second: tuple[bool, ...]
    known: tuple[bool, ...]


@memoised
def divided(program: Program, policy: Policy, known: tuple[bool, ...]) -> Halves:
    """Cut where operands are known, and let the second half compute again what the policy does not keep."""
    program, flags = separated(program, known)
    late = {v for v, k in zip(program.inputs, known, strict=True) if not k}
    early: list[Equation] = []
    second: list[Equation] = []
    for eqn in program.equations:
        if late.isdisjoint(eqn.inputs):
            early.append(eqn)
        else:
            second.append(eqn)
            late.update(eqn.outputs)
    same: dict[Any, Any] = {}  # what is observed is so the first time; then it is what it was
    for e in early:
        if e.primitive.observed:
            same[e.outputs[0]] = same.get(e.inputs[0], e.inputs[0])
    # A value that is kept under a name need not be computed again without it.
    labelled = [e for e in early if isinstance(e.primitive, Name) and keeps(policy, e)]
    named: dict[Any, Any] = {same.get(e.inputs[0], e.inputs[0]): e.outputs[0] for e in labelled}
    read: Callable[[Any], Any] = lambda x: named.get(same.get(x, x), same.get(x, x))
    rest = select(tuple([not k for k in flags]), program.outputs)
    needed = {read(x) for eqn in second for x in eqn.inputs} | set(rest)
    kept: list[Var] = []
    repeated: list[Equation] = []
    for eqn in reversed(early):
        wanted = [v for v in eqn.outputs if v in needed]
        if wanted and (acts(eqn.primitive) or keeps(policy, eqn)):
            kept += wanted
        elif wanted:
            repeated.append(eqn)
            needed.update([read(x) for x in eqn.inputs])
    kept += [h for h in named.values() if h in needed and h not in kept]  # read before they get their name
    again = [
        Equation(prim, tuple([read(x) for x in e.inputs]), e.outputs, e.source)
        for prim, e in [
            *[(e.primitive.with_programs(unobserved), e) for e in reversed(repeated)],
            *[(e.primitive, e) for e in second],
        ]
    ]
    first = Program(program.inputs, tuple(early), (*select(flags, program.outputs), *kept))
    read_first = needed_inputs(first, (True,) * len(first.outputs))
    read_second = tuple([v in needed or v in rest for v in program.inputs])
    return Halves(
        narrowed(first, read_first, (True,) * len(first.outputs)),
        Program((*kept, *select(read_second, program.inputs)), tuple(again), tuple(rest)),
        read_first,
        read_second,
        tuple(flags),
    )


def keeps(policy: Policy, eqn: Equation) -> bool:
    """Whether what an equation computes is kept for the way back."""
    kind, *names = (policy,) if isinstance(policy, str) else policy
    prim = eqn.primitive
    match kind:
        case "everything":
            return True
        case "dots":
            return prim.name in ("dot_general", "conv_general_dilated")
        case "dots_with_no_batch_dims":
            return prim.name == "dot_general" and not prim.params["dimension_numbers"][1][0]
        case "names":
            return isinstance(prim, Name) and prim.label in names
        case "except":
            return not (isinstance(prim, Name) and prim.label in names)
        case "other_names":
            return isinstance(prim, Name) and prim.label not in names
        case "either":
            return any(keeps(p, eqn) for p in names)
    return False


@memoised
def inlined(program: Program) -> Program:
    """The Program with the calls in it written out, so that a policy sees what is in them."""
    if not any(type(eqn.primitive) is Call for eqn in program.equations):
        return program
    with Builder() as b:
        inputs = [copy_input(b, v) for v in program.inputs]
        env: dict[Any, Any] = dict(zip(program.inputs, inputs, strict=True))
        for eqn in program.equations:
            operands = [env.get(x, x) for x in eqn.inputs]
            b.source = eqn.source
            if type(eqn.primitive) is Call:
                ys = b.inline(inlined(eqn.primitive.program), operands)
            else:
                ys = b.emit(eqn.primitive, tuple(operands))
            env.update(zip(eqn.outputs, ys, strict=True))
        return b.build([env.get(y, y) for y in program.outputs])
