"""What one loop makes for a later one, that one computes again, where this takes less than to write and to read it.

    recomputed : operands of a scan -> operands of a scan

A loop over the steps of a backward pass reads what the loop of the forward pass has stacked. Much of it is a sum or a
product of two other stacks that are read too; XLA would compute it twice in a Program without loops, and does so here.
Entries of two loops that stand at the same place of a stack belong together, whichever way the loops run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.control.groups import cut
from functrace.control.scan import Scan
from functrace.ir import Atom, Builder, Equation, Literal, Program, Var

LONGEST = 8  # equations that are computed again for one stack


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
        found = found_again(scan, made)
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


def found_again(scan: Scan, made: dict[int, Any]) -> dict[int, list[Equation]]:
    """By number, the equations for what needs not be stacked, of what a scan makes."""
    definitions = {v: (i, eqn) for i, eqn in enumerate(scan.body.equations) for v in eqn.outputs}
    consts, _, rows = cut(scan.body.inputs, scan.consts, scan.carry)
    given = {*consts, *rows}
    kept = set(made.values())
    found: dict[int, list[Equation]] = {}

    def chain(v: Any, done: dict[int, Equation]) -> bool:
        if v in given or v in kept or type(v) is Literal:
            return True
        i, eqn = definitions.get(v, (-1, None))
        if i in done:
            return True
        if eqn is None or not eqn.primitive.fuses or len(done) >= LONGEST:
            return False
        done[i] = eqn
        return all([chain(x, done) for x in eqn.inputs])

    # The last ones first: what they were made of may be what is kept.
    for k, v in sorted(made.items(), key=lambda item: -definitions.get(item[1], (-1, None))[0]):
        kept.discard(v)
        done: dict[int, Equation] = {}
        if v in definitions and chain(v, done):
            found[k] = [done[i] for i in sorted(done)]
        else:
            kept.add(v)
    return dict(reversed(found.items()))  # each after what it is made of
