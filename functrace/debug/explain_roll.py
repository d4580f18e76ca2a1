"""What `jit(roll="auto")` makes of a function: which repeated equations become loops, and why others do not; and what
is compiled apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from functrace.control.rolling import Verdict, rolled, steps
from functrace.control.updates import divided
from functrace.ir import Program
from functrace.transforms.arguments import check_callable, fun_name
from functrace.transforms.program import made_program


class RollRow(NamedTuple):
    """A run of repeated equations.

    equations: of one repetition; repetitions: how often they come; saved: equations that a loop saves; copied: arrays
    that it puts into a stack or takes out of one; why_not: why it is no loop, "" where it is one; file, line: where
    most of its equations were written; inside: the equations whose Programs it is in.
    """

    equations: int
    repetitions: int
    saved: int
    copied: int
    why_not: str
    file: str
    line: int
    phase: str
    inside: tuple[str, ...]


class UpdatesRow(NamedTuple):
    """Results that are made by an executable of their own, so many in each of its calls."""

    results: int
    calls: int


@dataclass(frozen=True)
class RollReport:
    """The runs of a function, in `rows`, the number of its equations, and the `updates` that are compiled apart."""

    name: str
    equations: int
    rows: tuple[RollRow, ...]
    updates: tuple[UpdatesRow, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.equations:,} equations, {len(self.rows)} repeated runs"]
        for r in self.rows:
            where = f"{r.file}:{r.line}, {r.phase}" if r.file else r.phase
            within = f", in {' in '.join(reversed(r.inside))}" if r.inside else ""
            lines.append(f"  {r.repetitions} times {r.equations} equations ({where}{within})")
            made = f"a loop: it saves {r.saved:,} equations and copies {r.copied} arrays"
            lines.append(f"    {f'no loop: {r.why_not}' if r.why_not else made}")
        lines += [f"  {u.calls} calls of an executable make {u.results} results each" for u in self.updates]
        return "\n".join(lines)


def explain_roll(fun: Callable[..., Any], static_argnums: int | Sequence[int] = ()) -> Callable[..., RollReport]:
    """A function that says which repeated equations of `fun` its `jit` makes loops, in place of running it.

    Args:
      fun: a pure function of pytrees of arrays, as it would be given to `jit`.
      static_argnums: positions of arguments that are Python values.
    Returns:
      A function with the arguments of `fun` (arrays, or anything with their shape and dtype) that returns a
      `RollReport`: print it, or read its `.rows`.

    >>> import functrace as ft, numpy as np
    >>> def newton(x, a):
    ...     for _ in range(100):
    ...         x = x - (x @ a @ x - 1.0) / (2.0 * a @ x)
    ...     return x
    >>> print(ft.debug.explain_roll(newton)(np.ones(3, np.float32), np.eye(3, dtype=np.float32)))  # doctest: +ELLIPSIS
    newton: 601 equations, 1 repeated runs
      99 times 6 equations (...:3, forward)
        a loop: it saves 588 equations and copies 0 arrays
    """
    check_callable("explain_roll", fun)

    def explained(*args: Any, **kwargs: Any) -> RollReport:
        program = made_program("explain_roll", fun, static_argnums)(*args, **kwargs)
        apart = divided(rolled(program))
        updates = [UpdatesRow(len(part.program.outputs), len(part.calls)) for part in apart.parts] if apart else ()
        return RollReport(fun_name(fun), len(program.equations), tuple(rows(program, ())), tuple(updates))

    return explained


def rows(program: Program, inside: tuple[str, ...]) -> Iterator[RollRow]:
    """The runs of a Program, and of those that its equations run."""
    taken = [] if program.has_effects else steps(program)
    seen: set[Program] = set()
    for eqn in (taken[-1].before if taken else program).equations:
        for run in eqn.primitive.runs():
            if run.program not in seen:
                seen.add(run.program)
                yield from rows(run.program, (*inside, eqn.primitive.name))
    for step in taken:
        for verdict in step.found:
            # The loops that are written; at the end, the runs that stay, once each.
            if not verdict.why_not or (step.after is None and not is_several(verdict, step.found)):
                yield row(step.before, verdict, inside)


def is_several(verdict: Verdict, found: Sequence[Verdict]) -> bool:
    """Whether another run has the same equations, but for one repetition, more often."""
    run = verdict.stretch
    least = run.stop - run.start - run.period
    return any([run.overlaps(other) and other.period < run.period and run.period % other.period == 0
                and other.stop - other.start >= least
                for other in [v.stretch for v in found]])  # fmt: skip


def row(program: Program, verdict: Verdict, inside: tuple[str, ...]) -> RollRow:
    """What was found of one run."""
    start, stop, period = verdict.stretch
    sources = [eqn.source for eqn in program.equations[start : start + period] if eqn.source]
    lines = Counter([(s.file, s.line, s.backward) for s in sources])
    file, line, backward = lines.most_common(1)[0][0] if lines else ("", 0, False)
    return RollRow(
        period, (stop - start) // period, verdict.saved, verdict.copied, verdict.why_not, file, line,
        "backward" if backward else "forward", inside,
    )  # fmt: skip
