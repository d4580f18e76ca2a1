"""Run a linear Program backwards.

transpose : Program((r, x) -> A(r) x) -> Program((r, ct_y) -> A(r)^T ct_y)    <A x, y> = <x, A^T y>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrace.ir import Atom, Builder, Program, Undefined, Var
from functrace.primitives.elementwise import add
from functrace.primitives.space import zeros
from functrace.rewrites.memo import copy_input, derived, memoised, scatter, select


def pull(
    builder: Builder,
    program: Program,
    linear: tuple[bool, ...],
    fixed: Sequence[Atom],
    cts: Sequence[Atom | None],
) -> list[Atom | None]:
    """Walk the equations backward into `builder`, adding up one cotangent a variable.

    `fixed` are the values of the inputs not flagged `linear`; `cts` one cotangent an output.
    Returns one an input flagged `linear`, None where it is zero.
    """
    env: dict[Any, Atom] = dict(
        zip([v for v, flag in zip(program.inputs, linear, strict=True) if not flag], fixed, strict=True)
    )
    unknown = {v for v, flag in zip(program.inputs, linear, strict=True) if flag}
    outer = builder.source
    backward = []
    for eqn in program.equations:
        if unknown.isdisjoint(eqn.inputs):  # a value that the linear equations read
            builder.source = eqn.source
            operands = tuple([env[x] if type(x) is Var else x for x in eqn.inputs])
            env.update(zip(eqn.outputs, builder.emit(eqn.primitive, operands), strict=True))
        else:
            backward.append(eqn)
            unknown.update(eqn.outputs)

    sums: dict[Any, Atom] = {}

    def accumulate(x: Atom, ct: Atom | None) -> None:
        if ct is not None and x in unknown:
            sums[x] = add(sums[x], ct) if x in sums else ct

    for x, ct in zip(program.outputs, cts, strict=True):
        accumulate(x, ct)
    for eqn in reversed(backward):
        prim = eqn.primitive
        ct_ys = [sums.pop(v, None) for v in eqn.outputs]
        if all([ct is None for ct in ct_ys]):
            continue
        operands = [
            Undefined(x.aval) if x in unknown else (env[x] if type(x) is Var else x)
            for x in eqn.inputs
        ]
        builder.source = derived(eqn.source, "transpose", prim.name)
        ct_xs = prim.transpose(ct_ys if prim.multiple_results else ct_ys[0], *operands)
        for x, ct in zip(eqn.inputs, ct_xs, strict=True):
            accumulate(x, ct)
    builder.source = outer
    return [
        sums.get(v) for v, flag in zip(program.inputs, linear, strict=True) if flag
    ]


@memoised
def transpose(
    program: Program, linear: tuple[bool, ...], with_ct: tuple[bool, ...]
) -> tuple[Program, tuple[bool, ...]]:
    """The transposed Program and which linear inputs get a cotangent (the others' is zero).

    Args:
      program: (r, x) -> y, linear in the inputs flagged `linear`.
      linear: which inputs those are.
      with_ct: which outputs have a cotangent.
    Returns:
      `(r, ct_y) -> ct_x` for the flagged cotangents.
    """
    with Builder() as b:
        fixed = [copy_input(b, v) for v, flag in zip(program.inputs, linear, strict=True) if not flag]
        given = [b.input(x.aval) for x in select(with_ct, program.outputs)]
        ct_xs = pull(b, program, linear, fixed, scatter(with_ct, given))
        found = tuple(ct is not None for ct in ct_xs)
        return b.build(select(found, ct_xs)), found


def instantiate(cts: Sequence[Atom | None], like: Sequence[Any]) -> list[Atom]:
    """Zeros in the place of what is absent; `like` has an aval an entry."""
    return [zeros(x.aval) if ct is None else ct for ct, x in zip(cts, like, strict=True)]
