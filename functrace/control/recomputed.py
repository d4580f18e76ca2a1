"""What one loop makes for a later one, that one computes again, where this takes less than to write and to read it.

    recomputed : operands of a scan -> operands of a scan

A loop over the steps of a backward pass reads what the loop of the forward pass has stacked. Much of it is a sum or a
product of two other stacks that are read too; XLA would compute it twice in a Program without loops, and does so here.
Entries of two loops that stand at the same place of a stack belong together, whichever way the loops run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.control.again import found_again
from functrace.control.groups import cut
from functrace.control.scan import Scan
from functrace.ir import Atom, Builder, Equation, Literal, Program, Var


def recomputed(
    b: Builder, body: Program, consts: Sequence[Atom], inits: Sequence[Atom], stacks: Sequence[Atom], length: int
) -> tuple[Program, list[Atom], list[Atom]]:
    """The body, constants and stacks of a scan that needs fewer stacks."""
    consts, read = list(consts), dict(enumerate(stacks))
    recipes: list[tuple[Equation, dict[int, list[Equation]], dict[int, Any]]] = []
    for maker in dict.fromkeys([eqn for x in stacks if (eqn := b.definition(x)) is not None]):
        scan = maker.primitive
        if type(scan) is not Scan or scan.length != length:
            continue
        results = dict(zip(maker.outputs[scan.carry :], scan.body.outputs[scan.carry :], strict=True))
        made = {k: results[x] for k, x in enumerate(stacks) if x in results}
        consts_in, _, rows = cut(scan.body.inputs, scan.consts, scan.carry)
        found = found_again(scan.body.equations, {*consts_in, *rows}, made)
        if found:
            recipes.append((maker, found, made))
            for k in found:
                del read[k]
    if not recipes:
        return body, consts, list(stacks)
    with Builder() as inner:
        first = [inner.input(x.aval) for x in consts]
        carry = [inner.input(x.aval) for x in inits]
        entries = {k: inner.input(row(x)) for k, x in read.items()}
        more_consts: dict[Atom, Var] = {}
        more_stacks: dict[Atom, Var] = {}
        for maker, found, made in recipes:
            scan: Any = maker.primitive
            operands, inputs = (cut(xs, scan.consts, scan.carry) for xs in (maker.inputs, scan.body.inputs))
            env: dict[Any, Any] = {made[k]: x for k, x in entries.items() if k in made}
            needed = {x for equations in found.values() for eqn in equations for x in eqn.inputs}
            for v, x in zip(inputs[0], operands[0], strict=True):
                if v in needed:
                    env[v] = x if type(x) is Literal else more_consts.setdefault(x, Var(x.aval))
            for v, x in zip(inputs[2], operands[2], strict=True):
                if v in needed and v not in env:
                    env[v] = more_stacks.setdefault(x, Var(row(x)))
            for k in found:
                copy(inner, found[k], env)
                entries[k] = env[made[k]]
        outputs = inner.inline(body, [*first, *carry, *[entries[k] for k in range(len(stacks))]])
        inner.inputs[len(first) : len(first)] = more_consts.values()
        inner.inputs.extend(more_stacks.values())
        return inner.build(outputs), [*consts, *more_consts], [*read.values(), *more_stacks]


def copy(b: Builder, equations: Sequence[Equation], env: dict[Any, Atom]) -> None:
    """Write equations again, their operands looked up in `env`, where their results go."""
    for eqn in equations:
        b.source = eqn.source
        env.update(zip(eqn.outputs, b.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs])), strict=True))


def row(stack: Atom) -> Any:
    """The type of an entry of a stack."""
    return stack.aval.with_shape(stack.aval.shape[1:])
