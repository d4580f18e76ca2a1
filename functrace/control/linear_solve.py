"""linear_solve: the x of A x = b, found by a Program, differentiated as A^-1 is.

    dx = A^-1 (db - dA x)               the transpose solves with A^T; the batch, with A of every row

Nothing is differentiated through the Programs that solve, so that they may be loops that stop when they
have converged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax import lax

from functrace.control.call import Applies, forced, uses_axis
from functrace.control.groups import cut
from functrace.control.loop_patterns import assembled
from functrace.errors import RuleError
from functrace.ir import Aval, Builder, Program, Sample, Undefined, ambient, primitive
from functrace.ir.dependence import Matrix, Operand, Site, meeting
from functrace.lower.evaluate import evaluate
from functrace.primitives.elementwise import mul, sub
from functrace.primitives.quotients import div
from functrace.primitives.space import batched_operand
from functrace.primitives.structural import Rev
from functrace.rewrites import memoised
from functrace.rewrites.jvp import push
from functrace.rewrites.pattern import through
from functrace.rewrites.transpose import instantiate


@primitive
class LinearSolve(Applies):
    """`solve(c, b)`, the x for which `matvec(c, x)` is b, and what else `solve` returns.

    matvec: (c, x) -> A x; solve: (c, b) -> (x, aux); vecmat: (c, y) -> A^T y; transpose_solve:
    (c, ct_x) -> (ct_b, aux). All have the same `consts` leading inputs. Without the last two there is no
    reverse mode.
    """

    name = "linear_solve"
    multiple_results = True
    matvec: Program
    solve: Program
    consts: int
    vecmat: Program | None = None
    transpose_solve: Program | None = None

    def samples(self) -> Iterator[Sample]:
        aval, rev = Aval((3,), np.dtype(np.float32)), Rev((0,))

        def program(rule: Any) -> Program:
            with Builder() as b:
                return b.build([rule(b.input(aval), b.input(aval))])

        matvec, vecmat = program(lambda c, x: mul(c, rev(x))), program(lambda c, y: rev(mul(c, y)))
        solve, transpose_solve = program(lambda c, b: rev(div(b, c))), program(lambda c, ct: div(rev(ct), c))
        yield Sample(LinearSolve(matvec, solve, 1, vecmat, transpose_solve), (aval, aval))

    @property
    def has_effects(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solve.has_effects

    @property
    def size(self) -> int:
        """How many results are x; the others are aux."""
        return len(self.matvec.outputs)

    def shape(self, *xs: Aval) -> Any:
        return self.solve.out_avals

    def lower(self, *xs: Any) -> Any:
        if any(isinstance(x, jax.core.Tracer) for x in xs):
            return run(self, xs)
        return compiled(self.solve, self)(*xs)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self._pushed(xs, dxs, "jvp")

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        return self._pushed(xs, dxs, "linearize")

    def _pushed(self, xs: Sequence[Any], dxs: Sequence[Any], rule: str) -> tuple[Any, Any]:
        """The solution, and that of the same system for db - dA x."""
        consts, b = cut(xs, self.consts)
        d_consts, db = cut(dxs, self.consts)
        outputs = self(*xs)
        x, none = outputs[: self.size], [None] * len(outputs)
        _, moved = push(ambient(), self.matvec, [*consts, *x], [*d_consts, *none[: self.size]], rule)
        if all(d is None for d in (*db, *moved)):  # only what `solve` reads has a tangent
            return outputs, none
        right = [r if d is None else sub(r, d) for r, d in zip(instantiate(db, b), moved, strict=True)]
        return outputs, [*self(*consts, *right)[: self.size], *none[self.size :]]

    def transpose(self, ct: Any, *xs: Any) -> Any:
        consts, b = cut(xs, self.consts)
        if any(isinstance(x, Undefined) for x in consts) or any(c is not None for c in ct[self.size :]):
            return super().transpose(ct, *xs)
        if self.vecmat is None or self.transpose_solve is None:
            raise RuleError(
                "custom_linear_solve: reverse mode solves with the transpose of matvec, and no transpose_solve was "
                "given. Pass transpose_solve, or symmetric=True if matvec is its own transpose; or use forward mode "
                "(jvp, jacfwd)."
            )
        back = LinearSolve(self.vecmat, self.transpose_solve, self.consts, self.matvec, self.solve)
        found = back(*consts, *instantiate(ct[: self.size], self.matvec.outputs))
        return [None] * self.consts + [c if isinstance(x, Undefined) else None for c, x in zip(found, b, strict=False)]

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        """As the inverse of a matrix is: full within each part that the matrix does not connect with others."""
        # Not with functrace: it brings scipy.sparse.linalg, which takes a twentieth of a second.
        from scipy.sparse.csgraph import connected_components

        consts, b = cut(at.operands, self.consts)
        if any([x.moves for x in consts]):
            return super().pattern(at)
        xs = [Operand(y, True, lambda: None) for y in at.results[: self.size]]
        heights = [y.size for y in at.results[: self.size]]
        rows = [row[self.consts :] for row in through(self.matvec, [*consts, *xs], at.unbounded)]
        parts, labels = connected_components(assembled(rows, heights, heights), directed=False)
        if parts == 1:
            return at.everything()
        own = np.split(labels, np.cumsum(heights)[:-1])
        inverse = [
            [meeting(of_y, of_x) if x.moves else None for x, of_x in zip(b, own, strict=True)] for of_y in own
        ]
        aux = at._replace(results=at.results[self.size :]).everything()
        return [*[[None] * len(consts) + row for row in inverse], *aux]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        return self.batch_axis(None, size, xs, batched)

    def batch_axis(self, name: Any, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> Any:
        # Every x has a batch axis, and so every b: each is the other of the transpose.
        flags = (*batched[: self.consts], *(True,) * self.size)
        consts, b = cut(xs, self.consts)
        b = [batched_operand(x, f, size) for x, f in zip(b, batched[self.consts :], strict=True)]
        mapped = lambda p: None if p is None else forced(p, size, flags, name)
        matvec, solve = forced(self.matvec, size, flags, name), forced(self.solve, size, flags, name)
        solved = LinearSolve(matvec, solve, self.consts, mapped(self.vecmat), mapped(self.transpose_solve))
        return solved(*consts, *b), (True,) * len(solve.outputs)

    def applied(self) -> Program:
        return self.solve

    def uses_axis(self, name: Any) -> bool:
        held = (self.matvec, self.solve, self.vecmat, self.transpose_solve)
        return any(p is not None and uses_axis(p, name) for p in held)


def run(prim: LinearSolve, xs: Sequence[Any]) -> list[Any]:
    """The solution, by JAX's own linear solve, so that JAX differentiates it in the same way."""
    consts, b = cut(xs, prim.consts)

    def product(x: Any) -> list[Any]:
        return evaluate(prim.matvec, [*consts, *x])

    def solver(program: Program) -> Any:
        return lambda _, b: tuple(cut(evaluate(program, [*consts, *b]), prim.size))

    back = None if prim.transpose_solve is None else solver(prim.transpose_solve)
    try:
        x, aux = lax.custom_linear_solve(product, b, solver(prim.solve), back, has_aux=True)
    except (NotImplementedError, ValueError):  # JAX does not transpose matvec, as where it has a while loop
        return evaluate(prim.solve, xs)
    return [*x, *aux]


@memoised
def compiled(_: Program, prim: LinearSolve) -> Any:
    """The solution as one compiled function, for where it runs alone."""
    return jax.jit(lambda *xs: run(prim, xs))


__all__ = ["LinearSolve"]
