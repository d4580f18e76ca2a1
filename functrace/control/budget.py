"""A budget of bytes for what reverse mode keeps: which parts of a Program to compute again.

    within(program, moving, budget) : Program -> the same, with some of its equations in `checkpoint`s

The equations, in the order of the Program, are cut into segments. A segment is kept, so all that its
derivative reads stays; or it is computed again, so what it reads of earlier segments stays, and all that its
derivative reads is there while the way back goes through it. The plan that computes least again, among
those that never hold more than the budget, is found by dynamic programming over the cuts, where a state is
the bytes that stay and the work done twice; a state that another beats in both is dropped.

What a plan holds is counted from the linearization of each equation; cotangents, and the results of the whole,
come on top.

Sources: Kumar et al., "Efficient rematerialization for deep networks" (NeurIPS 2019), for the form of the
problem; Beaumont et al., "Optimal checkpointing for heterogeneous chains" (2019), for the recurrence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from functrace.control.call import Call
from functrace.control.checkpoint import Checkpoint, inlined
from functrace.errors import BudgetInfeasible
from functrace.ir import Aval, Builder, Equation, Program, Sample, Var, ambient, primitive
from functrace.primitives.elementwise import F32, mul
from functrace.primitives.unary import cos, sin
from functrace.rewrites import linearize, memoised
from functrace.rewrites.jvp import push
from functrace.rewrites.memo import copy_input

CUTS = 48  # places where a segment may end; where a Program has more, those with the least alive
STATES = 64  # states that a place keeps


@primitive
class Budgeted(Call):
    """`program(*operands)`, whose derivative holds at most `budget` bytes of what was computed."""

    name = "budgeted"
    budget: int
    prevent_cse: bool = True

    def samples(self) -> Iterator[Sample]:
        aval = Aval((3,), F32)
        with Builder() as b:
            x, y = b.input(aval), b.input(aval)
            z = mul(x, y)
            for _ in range(12):
                z = sin(z)
            program = b.build([mul(cos(z), y), y])
        for budget in (300, 10_000):  # the first makes segments of wide or batched operands
            yield Sample(Budgeted(program, "sample", budget), (aval, aval))

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple(dx is not None for dx in dxs)
        planned = within(inlined(self.program), moving, self.budget, self.label, self.prevent_cse)
        return push(ambient(), planned, xs, dxs, "linearize")


class Needs(NamedTuple):
    """What the derivative of one equation reads: bytes of its own, and values of the Program."""

    own: int
    reads: frozenset[Var]


class Segment(NamedTuple):
    """What equations [start, end) take: bytes.

    alive: of values made here that later equations read; kept: of those and of what its derivative reads;
    held: what its derivative reads and is made here, or again. work: to compute it again.
    """

    alive: int
    kept: int
    held: int
    work: int


class State(NamedTuple):
    """A plan of a first part: bytes that stay, the most held so far, work done again, the segments."""

    kept: int
    most: int
    work: int
    plan: tuple[tuple[int, int, bool], ...]  # start, end, whether computed again


@memoised
def within(program: Program, moving: tuple[bool, ...], budget: int, label: str, prevent_cse: bool) -> Program:
    """The Program whose derivative holds at most `budget` bytes.

    Raises:
      BudgetInfeasible: every plan holds more; the message says what the smallest holds.
    """
    segments = Segments(program, moving)
    best = cheapest(segments, budget)
    if best is None:
        least = smallest(segments)
        inexactly = f" ({least / 2**20:.2f} MiB)" if least > 2**20 else ""
        raise BudgetInfeasible(
            f"checkpoint: {label} cannot be differentiated with {budget:,} bytes kept; the smallest budget is "
            f"{least:,} bytes{inexactly}.",
            least,
        )
    return in_segments(program, best.plan, label, prevent_cse)


class Segments:
    """The costs of all runs of equations of a Program that may be a segment."""

    def __init__(self, program: Program, moving: tuple[bool, ...]):
        self.equations = program.equations
        self.needs = needs(program, moving)
        self.born = {v: i for i, eqn in enumerate(self.equations) for v in eqn.outputs}
        self.last: dict[Any, int] = {x: i for i, eqn in enumerate(self.equations) for x in eqn.inputs if x in self.born}
        self.works = [eqn.primitive.work(*[x.aval for x in eqn.inputs]).total for eqn in self.equations]
        self.cuts = self._cuts()
        self.ends = set(self.cuts)

    def _cuts(self) -> list[int]:
        n = len(self.equations)
        if n < CUTS:
            return list(range(n + 1))
        alive = [0] * (n + 1)
        for v, end in self.last.items():
            for i in range(self.born[v] + 1, end + 1):
                alive[i] += nbytes(v)
        edges = [1 + (n - 1) * i // (CUTS - 1) for i in range(CUTS)]
        windows = [range(a, b) for a, b in pairwise(edges)]
        return [0, *[min(window, key=alive.__getitem__) for window in windows if window], n]

    def starting(self, start: int) -> Iterator[tuple[int, Segment]]:
        """The ends of the segments that start here, and their costs."""
        own = work = 0
        read: set[Var] = set()
        alive: set[Var] = set()
        for i in range(start, len(self.equations)):
            own += self.needs[i].own
            work += self.works[i]
            read.update(v for v in self.needs[i].reads if self.born.get(v, -1) >= start)
            alive.difference_update(x for x in self.equations[i].inputs if self.last.get(x) == i)
            alive.update(v for v in self.equations[i].outputs if v in self.last)
            if i + 1 in self.ends:
                held = own + sum(map(nbytes, read))
                yield i + 1, Segment(sum(map(nbytes, alive)), held + sum(map(nbytes, alive - read)), held, work)


def needs(program: Program, moving: tuple[bool, ...]) -> list[Needs]:
    """What the derivative of each equation reads."""
    moves = {v for v, m in zip(program.inputs, moving, strict=True) if m}
    found = []
    for eqn in program.equations:
        inputs = tuple(dict.fromkeys(x for x in eqn.inputs if type(x) is Var))
        flags = tuple([v in moves for v in inputs])
        if not any(flags):
            found.append(Needs(0, frozenset()))
            continue
        lin = linearize(Program(inputs, (eqn,), eqn.outputs), flags)
        moves.update(v for v, moved in zip(eqn.outputs, lin.moved, strict=True) if moved)
        outs = dict(zip(lin.forward.inputs, inputs, strict=True))
        outs |= {y: v for y, v in zip(lin.forward.outputs, eqn.outputs, strict=False) if type(y) is Var}
        residuals = set(lin.forward.outputs[len(eqn.outputs) :])
        own = sum(nbytes(r) for r in residuals if r not in outs)
        found.append(Needs(own, frozenset(outs[r] for r in residuals if r in outs)))
    return found


def nbytes(v: Any) -> int:
    """The bytes of a value."""
    return v.aval.nbytes


def cheapest(segments: Segments, budget: int) -> State | None:
    """The plan that computes least again and never holds more than the budget."""
    return best_plan(segments, budget, lambda s: s.work)


def smallest(segments: Segments) -> int:
    """The least that a plan can hold."""
    found = best_plan(segments, None, lambda s: s.most)
    assert found is not None
    return found.most


def best_plan(segments: Segments, budget: int | None, cost: Any) -> State | None:
    """The plan of least cost, by dynamic programming from the first cut to the last."""
    states: dict[int, list[State]] = {cut: [] for cut in segments.cuts}
    states[0] = [State(0, 0, 0, ())]
    for start in segments.cuts[:-1]:
        states[start] = undominated(states[start], cost)
        for end, seg in segments.starting(start):
            for state in states[start]:
                for again in (False, True):
                    kept = state.kept + (seg.alive if again else seg.kept)
                    most = max(state.most, kept, state.kept + (seg.held if again else 0))
                    if budget is None or most <= budget:
                        work = state.work + (seg.work if again else 0)
                        states[end].append(State(kept, most, work, (*state.plan, (start, end, again))))
    return min(states[segments.cuts[-1]], key=cost, default=None)


def undominated(states: Sequence[State], cost: Any) -> list[State]:
    """The states that no other beats in what stays and in cost; not more than STATES of them."""
    front: list[State] = []
    for state in sorted(states, key=lambda s: (s.kept, cost(s))):
        if not front or cost(state) < cost(front[-1]):
            front.append(state)
    step = -(-len(front) // STATES)
    return front if step <= 1 else [*front[:-1:step], front[-1]]


def in_segments(program: Program, plan: Sequence[tuple[int, int, bool]], label: str, prevent_cse: bool) -> Program:
    """The Program with the segments that are computed again in checkpoints."""
    with Builder() as b:
        inputs = [copy_input(b, v) for v in program.inputs]
        env: dict[Any, Any] = dict(zip(program.inputs, inputs, strict=True))
        for start, end, again in plan:
            equations = program.equations[start:end]
            if again:
                segment = cut_out(program, equations, {x for e in program.equations[end:] for x in e.inputs})
                ys = Checkpoint(segment, label, "nothing", prevent_cse)(*[env[x] for x in segment.inputs])
                env.update(zip(segment.outputs, ys, strict=True))
                continue
            for eqn in equations:
                b.source = eqn.source
                ys = b.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs]))
                env.update(zip(eqn.outputs, ys, strict=True))
        return b.build([env.get(y, y) for y in program.outputs])


def cut_out(program: Program, equations: Sequence[Equation], read_later: set[Any]) -> Program:
    """The Program of some equations, with the results that the rest reads."""
    made = {v: None for eqn in equations for v in eqn.outputs}
    read = dict.fromkeys(x for eqn in equations for x in eqn.inputs if type(x) is Var and x not in made)
    wanted = read_later | set(program.outputs)
    return Program(tuple(read), tuple(equations), tuple(v for v in made if v in wanted))
