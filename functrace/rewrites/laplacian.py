"""The forward Laplacian: value, Jacobian and Laplacian carried forward together.

laplacian : Program(x -> y) -> Program(x -> (y, Ly))            L y = sum over k of d2y / dx_k2

Beside each value y of the Program go J, its derivatives along all directions of the input (a leading axis), and L,
its Laplacian. An equation z = f(y) makes of them

    J_z = df[J_y]            L_z = df[L_y] + sum over k of d2f[J_y k, J_y k]

What is zero is None: J of what does not depend on the input, L of the input itself and of what is linear in it.
The last sum is what a primitive's own rule makes cheap; by default it is the derivative of the derivative.

Source: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward
Laplacian" (2024), arXiv:2307.08214.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from functrace.ir import Atom, Aval, Builder, Literal, Primitive, Program, Var, ambient
from functrace.primitives.directions import Part, dense, identity, matched, meeting
from functrace.primitives.elementwise import add, mul, neg, summed_along
from functrace.primitives.selection import where
from functrace.primitives.space import broadcast_to, full, reduce_sum, zeros
from functrace.rewrites.batch import batch
from functrace.rewrites.collect import unobserved
from functrace.rewrites.jvp import jvp
from functrace.rewrites.memo import copy_input, derived, memoised, scatter, select


class Directions(NamedTuple):
    """What a rule for J and L is written with: there are `size` directions.

    `leaves` has the sizes of the inputs whose entries they are, where a J may come in parts.
    """

    size: int
    leaves: tuple[int, ...] = ()

    def densely(self, j: Any) -> Any:
        """A J with all directions."""
        return dense(j, self.leaves) if isinstance(j, tuple) else j

    def push(
        self, prim: Primitive, xs: Sequence[Atom], js: Sequence[Any], ls: Sequence[Any]
    ) -> tuple[list[Atom], list[Any], list[Any]]:
        """The results, df[J] and df[L]: lists, whether or not there are several results."""
        moving, bent = flags_of(js), flags_of(ls)
        b = ambient()
        n = len(xs)
        of = signature(xs)
        ys = list(b.emit(prim, tuple(xs)))
        pushed, moved = pushforward(prim, of, moving)
        along, _ = batch(pushed, self.size, (False,) * n + (True,) * sum(moving), None, True)
        jys = scatter(moved, b.inline(along, [*xs, *select(moving, js)]))
        pushed, moved = pushforward(prim, of, bent) if any(bent) else (pushed, ())
        lys = scatter(moved, b.inline(pushed, [*xs, *select(bent, ls)])) if moved else [None] * len(ys)
        return ys, jys, lys

    def bend(self, prim: Primitive, xs: Sequence[Atom], js: Sequence[Any]) -> list[Any]:
        """The sums over k of d2f[J_k, J_k], one a result."""
        moving = flags_of(js)
        program, moved = second(prim, signature(xs), moving)
        along, _ = batch(program, self.size, (False,) * len(xs) + (True,) * sum(moving), None, True)
        return scatter(moved, [reduce_sum(d, (0,)) for d in ambient().inline(along, [*xs, *select(moving, js)])])

    def partial(self, prim: Primitive, xs: Sequence[Atom], i: int, j: int) -> Atom | None:
        """The second derivative in operands i and j of a function applied entry by entry, or None."""
        program = second_partial(prim, signature(xs), i, j)
        return None if program is None else ambient().inline(program, xs)[0]

    def total(self, *terms: Any) -> Any:
        """The sum of those that are not None."""
        result = None
        for t in terms:
            if t is not None:
                result = t if result is None else add(result, t)
        return result

    def along(self, x: Atom, j: Any, moving: bool) -> Any:
        """The J of `x`, zeros where it must have one and has none."""
        return zeros(wider(x.aval, self.size)) if j is None and moving else j

    def through(self, programs: Sequence[Program], js: Sequence[Any], ls: Sequence[Any]) -> Spread:
        """Programs of which one runs, carrying J and L: each gives what any of them has to give."""
        moving, bent = flags_of(js), flags_of(ls)
        each = [spread(p, self.size, moving, bent) for p in programs]
        moved = tuple(map(any, zip(*[e.moved for e in each], strict=True)))
        curved = tuple(map(any, zip(*[e.bent for e in each], strict=True)))
        return Spread(tuple([spread(p, self.size, moving, bent, moved, curved)[0][0] for p in programs]), moved, curved)


class Spread(NamedTuple):
    """Programs `(x, J, L) -> (y, J, L)`, with a J for outputs that `moved` flags, and an L for those of `bent`."""

    programs: tuple[Program, ...]
    moved: tuple[bool, ...]
    bent: tuple[bool, ...]

    def operands(self, js: Sequence[Any], ls: Sequence[Any]) -> list[Atom]:
        """What they take besides x."""
        return [x for x in (*js, *ls) if x is not None]

    def apart(self, outputs: Sequence[Any]) -> tuple[Sequence[Any], list[Any], list[Any]]:
        """What they give, as y, J and L."""
        n, m = len(self.moved), len(self.moved) + sum(self.moved)
        return outputs[:n], scatter(self.moved, outputs[n:m]), scatter(self.bent, outputs[m:])


def flags_of(items: Sequence[Any]) -> tuple[bool, ...]:
    """Which are not None."""
    return tuple([x is not None for x in items])


def carry(
    builder: Builder, at: Directions, program: Program, xs: Sequence[Atom], js: Sequence[Any], ls: Sequence[Any]
) -> tuple[list[Atom], list[Any], list[Any]]:
    """Walk the equations forward into `builder`: the outputs with J, an atom or a tuple of parts, and L."""
    value: dict[Any, Atom] = dict(zip(program.inputs, xs, strict=True))
    first: dict[Any, Any] = {v: j for v, j in zip(program.inputs, js, strict=True) if j is not None}
    second: dict[Any, Atom] = {v: x for v, x in zip(program.inputs, ls, strict=True) if x is not None}
    outer = builder.source
    for eqn in program.equations:
        prim = eqn.primitive
        operands = tuple([value[x] if type(x) is Var else x for x in eqn.inputs])
        moves = [first.get(x) for x in eqn.inputs]
        if any([j is not None for j in moves]) and any([v.aval.is_inexact for v in eqn.outputs]):
            builder.source = derived(eqn.source, "laplacian", prim.name)
            bends = [second.get(x) for x in eqn.inputs]
            found = in_parts(at, prim, operands, moves, bends) if at.leaves else None
            ys, jys, lys = found or prim.laplacian(at, operands, [at.densely(j) for j in moves], bends)
            if not prim.multiple_results:
                ys, jys, lys = (ys,), (jys,), (lys,)
            for v, j, x in zip(eqn.outputs, jys, lys, strict=True):
                if j is not None:
                    first[v] = j
                if x is not None:
                    second[v] = x
        else:
            builder.source = eqn.source
            ys = builder.emit(prim, operands)
        for v, y in zip(eqn.outputs, ys, strict=True):
            value[v] = y
            if v.name is not None and type(y) is Var and y.name is None:
                y.name = v.name
    builder.source = outer
    outs = [value[x] if type(x) is Var else x for x in program.outputs]
    of = lambda known: [known.get(x) if type(x) is Var else None for x in program.outputs]
    return outs, of(first), of(second)


def in_parts(
    at: Directions, prim: Primitive, xs: Sequence[Atom], js: Sequence[Any], ls: Sequence[Any]
) -> tuple[Any, Any, Any] | None:
    """The rule of a primitive for operands with a J in parts: part by part, each along its own free directions.

    None where that is no gain.
    """
    if prim.multiple_results or prim.has_effects or not any([isinstance(j, tuple) for j in js]):
        return None
    avals = tuple([x.aval for x in xs])
    placed: list[tuple[int, Part]] = []
    for i, j in enumerate(js):
        if j is None:
            continue
        if not isinstance(j, tuple):
            return None
        along = prim.entries_along(i, *avals)
        placed += [(i, moved_along(part, along)) for part in j]
    parts = matched([part for _, part in placed])
    groups: dict[Any, list[Any]] = {}
    for (i, _), part in zip(placed, parts, strict=True):
        group = groups.setdefault(part.kind, [None] * len(xs))
        group[i] = part.data if group[i] is None else add(group[i], part.data)
    kinds = list(groups)
    free = [next(p for p in parts if p.kind == kind).free for kind in kinds]
    if sum(free) >= at.size and at.size > 1:
        return None
    found: list[Part] = []
    y: Any = None
    total: Any = None
    for n, (kind, group) in enumerate(groups.items()):
        part_of = Directions(free[n])
        y, jy, ly = prim.laplacian(part_of, xs, group, ls if n == 0 else [None] * len(xs))
        if jy is not None:
            found.append(Part(kind[0], kind[1], kind[2], jy))
        total = at.total(total, ly)
    for n, one in enumerate(kinds):
        for other in kinds[n + 1 :]:
            meet = meeting(one, other, y.aval.shape)
            term = None if meet is False else crossed(Directions(free[n]), prim, xs, y, groups[one], groups[other])
            if isinstance(meet, Atom) and term is not None:
                term = where(broadcast_to(meet, y.aval.shape), term, 0)
            total = at.total(total, term)
    return y, tuple(found) or None, total


def moved_along(part: Part, along: dict[int, tuple[tuple[int, int], ...]]) -> Part:
    """The part with its ties those to axes of the result, free where there is none."""
    for k in reversed(range(len(part.sizes))):
        axis = part.ties[k]
        if axis is not None and axis not in along:
            part = part.untied(k)
    sizes: list[int] = []
    ties: list[int | None] = []
    for n, axis in zip(part.sizes, part.ties, strict=True):
        if axis is None:
            sizes.append(n)
            ties.append(None)
        else:
            sizes += [m for _, m in along[axis]]
            ties += [a for a, _ in along[axis]]
    return Part(part.leaf, tuple(sizes), tuple(ties), part.data)


def crossed(
    at: Directions, prim: Primitive, xs: Sequence[Atom], y: Atom, js: Sequence[Any], others: Sequence[Any]
) -> Atom | None:
    """What two groups of parts add to L together where their directions meet: 2 d2f[J, J'], summed."""
    moving = [x.aval for x, j, o in zip(xs, js, others, strict=True) if j is not None or o is not None]
    if not prim.is_entrywise(*moving, y.aval):
        # By what the sum of both has that neither has alone.
        whole, one, other = (at.bend(prim, xs, j)[0] for j in (list(map(at.total, js, others)), js, others))
        return at.total(whole, *[neg(t) for t in (one, other) if t is not None])
    term = None
    for i, j in enumerate(js):
        for k, o in enumerate(others):
            slope = None if j is None or o is None else at.partial(prim, xs, i, k)
            if j is not None and o is not None and slope is not None:
                term = at.total(term, summed_along(j, o, mul(slope, 2.0), y.aval))
    return term


@memoised
def laplacian(program: Program, moving: tuple[bool, ...], count: int) -> Program:
    """`x -> (y, L)`, the Laplacians of the first `count` outputs in all entries of the flagged inputs together."""
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        avals = [v.aval for v in select(moving, program.inputs)]
        at = Directions(sum(a.size for a in avals), tuple([a.size for a in avals]))
        ys, _, ls = carry(b, at, program, xs, scatter(moving, identity(avals)), [None] * len(xs))
        return b.build([*ys, *[zeros(y.aval) if x is None else x for y, x in zip(ys[:count], ls, strict=False)]])


@memoised
def spread(
    program: Program, size: int, moving: tuple[bool, ...], bent: tuple[bool, ...],
    fill: tuple[bool, ...] = (), fill_bent: tuple[bool, ...] = (),
) -> Spread:  # fmt: skip
    """The Program that carries J and L along `size` directions, for use inside of another one.

    Args:
      program: x -> y.
      size: how many directions there are.
      moving: which inputs have a J; it has the directions as its leading axis.
      bent: which inputs have an L.
      fill: outputs that must have a J; zeros are put where there is none.
      fill_bent: outputs that must have an L.
    """
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        js = [b.input(wider(v.aval, size)) if m else None for v, m in zip(program.inputs, moving, strict=True)]
        ls = [b.input(v.aval) if m else None for v, m in zip(program.inputs, bent, strict=True)]
        ys, jys, lys = carry(b, Directions(size), program, xs, js, ls)
        for i, f in enumerate(fill):
            if f and jys[i] is None:
                jys[i] = zeros(wider(ys[i].aval, size))
        for i, f in enumerate(fill_bent):
            if f and lys[i] is None:
                lys[i] = zeros(ys[i].aval)
        moved, curved = flags_of(jys), flags_of(lys)
        whole = b.build([*ys, *select(moved, jys), *select(curved, lys)])
        return Spread((whole,), moved, curved)


def wider(aval: Aval, size: int) -> Aval:
    """The type of a J of `size` directions."""
    return aval.with_shape((size, *aval.shape))


Signature = tuple[Aval | Literal, ...]


def signature(xs: Sequence[Atom]) -> Signature:
    """What is known of operands: the type, or the value."""
    return tuple([x if type(x) is Literal else x.aval for x in xs])


@lru_cache(4096)
def single(prim: Primitive, of: Signature) -> Program:
    """The Program of one equation."""
    with Builder() as b:
        xs = [b.input(x.aval if isinstance(x, Literal) else x) for x in of]
        known = tuple([x if isinstance(x, Literal) else v for x, v in zip(of, xs, strict=True)])
        return unobserved(b.build(b.emit(prim, known)))


@lru_cache(4096)
def pushforward(prim: Primitive, of: Signature, moving: tuple[bool, ...]) -> tuple[Program, tuple[bool, ...]]:
    """`(x, dx) -> dy` of one equation, and which results move."""
    program, moved = jvp(single(prim, of), moving)
    return Program(program.inputs, program.equations, program.outputs[len(moved) :]), moved


@lru_cache(4096)
def second(prim: Primitive, of: Signature, moving: tuple[bool, ...]) -> tuple[Program, tuple[bool, ...]]:
    """`(x, dx) -> d2f[dx, dx]` of one equation, and which results have one that is not zero."""
    pushed, moved = pushforward(prim, of, moving)
    again, curved = jvp(pushed, (*moving, *(False,) * sum(moving)))
    with Builder() as b:
        inputs = [copy_input(b, v) for v in pushed.inputs]
        outputs = b.inline(again, [*inputs, *inputs[len(of) :]])[len(curved) :]
        found = scatter(moved, scatter(curved, outputs))
        return b.build(select(flags_of(found), found)), flags_of(found)


@lru_cache(4096)
def second_partial(prim: Primitive, of: Signature, i: int, j: int) -> Program | None:
    """x -> d2f / dx_i dx_j, entry by entry of the result."""
    unit = lambda k: tuple([m == k for m in range(len(of))])
    pushed, moved = pushforward(prim, of, unit(i))
    again, curved = jvp(pushed, (*unit(j), False)) if moved[0] else (pushed, moved)
    if not curved[0]:
        return None
    with Builder() as b:
        xs = [copy_input(b, v) for v in pushed.inputs[:-1]]
        ones = [full(Aval(xs[k].aval.shape, xs[k].aval.dtype, True), 1) for k in (i, j)]
        return b.build(b.inline(again, [*xs, *ones])[1:])
