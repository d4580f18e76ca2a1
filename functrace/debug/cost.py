"""What a function takes to run: operations, bytes and memory, told by equation, source line and scope.

The count is of the Program, as it is written: nothing is fused, and no buffer is used again for another value. So
operations agree with what XLA counts of the compiled function. Bytes and memory do in their order: fusing takes less
of both, and the room that some of XLA's operations work in (convolutions on a CPU) takes more.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from functrace.errors import ArgumentError
from functrace.ir import Equation, Program, Source, Var
from functrace.ir.source import caller_source
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name
from functrace.transforms.program import made_program

NOWHERE = Source("", 0, "")
WIDTH = 44  # of the column of names


class Row(NamedTuple):
    """What one equation takes in all its turns, and the bytes alive while it runs.

    `inside` names the equations whose Programs it is in, outermost first, as `scan x100`; `times` is how often it
    runs, `trips` whether that has a number in it that is not known.
    """

    primitive: str
    source: Source
    phase: str  # "forward" or "backward"
    inside: tuple[str, ...]
    times: int
    trips: bool
    flops: int
    transcendentals: int
    bytes: int
    live_bytes: int


class Part(NamedTuple):
    """The sum over some equations of one phase; `peak_bytes` is the most that is alive while one of them runs."""

    name: str
    phase: str
    equations: int
    flops: int
    transcendentals: int
    bytes: int
    peak_bytes: int
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of a function: `print` gives a table.

    rows: one for each equation that computes, in order, those of nested Programs in the place of what runs them.
    input_bytes: those of the arguments, which are alive throughout: they are the caller's.
    peak_bytes: the most that is alive at a time, arguments included.
    loops: lines of the loops whose number of turns is not known, and was taken to be `trips`.
    """

    name: str
    rows: tuple[Row, ...]
    input_bytes: int
    peak_bytes: int
    loops: tuple[str, ...]
    trips: int

    @property
    def flops(self) -> int:
        """Arithmetic operations; a multiplication and an addition are two."""
        return sum(r.flops for r in self.rows)

    @property
    def transcendentals(self) -> int:
        """Operations such as exp and sqrt, which are not among the flops."""
        return sum(r.transcendentals for r in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes that equations read and write."""
        return sum(r.bytes for r in self.rows)

    @property
    def by_phase(self) -> list[Part]:
        """Forward and backward."""
        return parts(self.rows, lambda r: [r.phase])

    @property
    def by_line(self) -> list[Part]:
        """One for each `file` and `line` and phase, the one that takes most first."""
        sources = {whole_line(r): r.source for r in self.rows}
        found = []
        for part in parts(self.rows, lambda r: [whole_line(r)]):
            source = sources[part.name]
            name = str(source) if source.file else "(no line)"
            found.append(part._replace(name=name, file=source.file, line=source.line))
        return sorted(found, key=lambda p: (-p.flops - p.transcendentals, -p.bytes))

    @property
    def by_scope(self) -> list[Part]:
        """One for each `named_scope` and phase, with all that is in it: `encoder` has the sum of `encoder/layer_0`
        and the others."""
        return parts(self.rows, lambda r: list(ancestors(r.source.scope)) or ["(no scope)"])

    def to_dict(self) -> dict[str, Any]:
        """The totals and the parts, of plain values."""
        totals = {k: getattr(self, k) for k in ("flops", "transcendentals", "bytes", "peak_bytes", "input_bytes")}
        tables = {k: [p._asdict() for p in getattr(self, k)] for k in ("by_phase", "by_scope", "by_line")}
        return {"name": self.name, **totals, **tables, "loops": list(self.loops), "trips": self.trips}

    def __str__(self) -> str:
        return "\n".join(table(self))


def cost(
    fun: Callable[..., Any], static_argnums: int | Sequence[int] = (), trips: int = 1
) -> Callable[..., Cost]:
    """A function that says what `fun` takes to run, in place of running it.

    A scan counts its body `length` times, a cond its largest branch. How often a while loop goes round is not known
    before it runs: it counts `trips` turns, and the report says so. Bytes are those that each equation reads and
    writes, and peak memory counts arguments throughout, and every other value until its last use, in the order of the
    Program. XLA fuses equations and reorders them, so its own numbers of these two differ.

    Args:
      fun: a pure function of pytrees of arrays; gradients and other transforms of one too.
      static_argnums: positions of arguments that are Python values.
      trips: turns that a while loop is taken to make.
    Returns:
      A function with the arguments of `fun` (arrays, or anything with their shape and dtype) that returns a `Cost`:
      `.flops`, `.transcendentals`, `.bytes`, `.peak_bytes`, tables `.rows`, `.by_phase`, `.by_line`, `.by_scope`.
    Raises:
      ArgumentError: `trips` is not a positive number.

    >>> import functrace as ft, numpy as np
    >>> x, w = np.ones((8, 16), np.float32), np.ones((16, 4), np.float32)
    >>> report = ft.debug.cost(lambda w, x: x @ w)(w, x)
    >>> report.flops, report.bytes, report.peak_bytes
    (1024, 896, 896)
    """
    check_callable("cost", fun)
    if not isinstance(trips, int) or trips < 1:
        raise ArgumentError(
            f"cost: trips is how often a while loop is taken to go round, a positive int; got {trips!r}."
            f"{at(caller_source())}"
        )

    def cost_of(*args: Any, **kwargs: Any) -> Cost:
        return program_cost(made_program("cost", fun, static_argnums)(*args, **kwargs), fun_name(fun), trips)

    return cost_of


def program_cost(program: Program, name: str = "program", trips: int = 1) -> Cost:
    """The cost of a Program: see `cost`."""
    counter = Counter(trips)
    given = sum(map(nbytes, program.inputs))
    peak = counter.walk(program, Place(given, 1, False, NOWHERE, ()))
    return Cost(name, tuple(counter.rows), given, peak, tuple(dict.fromkeys(counter.loops)), trips)


class Place(NamedTuple):
    """Where a Program runs: the bytes alive around it, how often, and of what equation it is a part."""

    alive: int
    times: int
    trips: bool
    source: Source
    inside: tuple[str, ...]


class Counter:
    """Walks Programs in order, and writes a row for each equation that runs no other Program."""

    def __init__(self, trips: int):
        self.trips = trips
        self.rows: list[Row] = []
        self.loops: list[str] = []

    def walk(self, program: Program, place: Place) -> int:
        """The most bytes alive at a time while a Program runs; its inputs are counted by what is around it."""
        alive = peak = place.alive
        for eqn, freed in last_uses(program):
            written = sum(map(nbytes, eqn.outputs))
            source = placed(eqn.source, place.source)
            if eqn.primitive.runs():
                peak = max(peak, alive + written, self.enter(eqn, place._replace(alive=alive, source=source), written))
            else:
                self.rows.append(self.row(eqn, place, source, written, alive + written))
            peak = max(peak, alive + written)
            alive += written - sum(map(nbytes, freed))
        return peak

    def enter(self, eqn: Equation, place: Place, written: int) -> int:
        """Walk the Programs that an equation runs. A loop's results are there from its first turn on."""
        peak = 0
        for program, n in eqn.primitive.runs():
            label = eqn.primitive.name if n == 1 else f"{eqn.primitive.name} x{'?' if n is None else n}"
            if n is None:
                self.loops.append(f"{eqn.primitive.name} at {place.source}" if place.source.file else label)
            inner = Place(
                place.alive + (written if n != 1 else 0), place.times * (self.trips if n is None else n),
                place.trips or n is None, place.source, (*place.inside, label),
            )  # fmt: skip
            peak = max(peak, self.walk(program, inner))
        return peak

    def row(self, eqn: Equation, place: Place, source: Source, written: int, alive: int) -> Row:
        """The row of an equation that computes by itself."""
        work = eqn.primitive.work(*[x.aval for x in eqn.inputs]) * place.times
        moved = (sum(nbytes(x) for x in dict.fromkeys(eqn.inputs)) + written) * place.times
        phase = "backward" if source.backward else "forward"
        return Row(
            eqn.primitive.name, source, phase, place.inside, place.times, place.trips, work.flops,
            work.transcendentals, moved, alive,
        )  # fmt: skip


def last_uses(program: Program) -> Iterator[tuple[Equation, list[Var]]]:
    """The equations, each with the values computed in here that nothing reads after it."""
    last: dict[Any, int] = {}
    for i, eqn in enumerate(program.equations):
        last.update(dict.fromkeys(eqn.outputs, i))
        last.update({x: i for x in eqn.inputs if x in last})
    freed: list[list[Var]] = [[] for _ in program.equations]
    kept = set(program.outputs)
    for v, i in last.items():
        if v not in kept:
            freed[i].append(v)
    return zip(program.equations, freed, strict=True)


def placed(source: Source | None, outer: Source) -> Source:
    """The line of an equation in a Program that an equation of `outer` runs: of its phase, and in its scope.

    A jitted function is traced once for all calls, so its equations have the scope of the first.
    """
    if source is None or not source.file:
        return outer
    scope = source.scope if f"{source.scope}/".startswith(f"{outer.scope}/") or not outer.scope else outer.scope
    source = source if scope == source.scope else source._replace(scope=scope)
    return source.in_backward() if outer.backward else source


def nbytes(x: Any) -> int:
    """The bytes of a value; a number that stands in the Program takes none."""
    return x.aval.nbytes if isinstance(x, Var) else 0


def ancestors(scope: str) -> Iterator[str]:
    """`a`, `a/b`, `a/b/c` of the scope `a/b/c`."""
    steps = scope.split("/") if scope else []
    return ("/".join(steps[: i + 1]) for i in range(len(steps)))


def whole_line(row: Row) -> str:
    """The line of a row with the whole path of its file: two files may have one name."""
    return f"{row.source.file}:{row.source.line}"


def parts(rows: Iterable[Row], names: Callable[[Row], list[str]]) -> list[Part]:
    """The sums over the rows of each name and phase, in the order of their first rows."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for name in names(row):
            found.setdefault((name, row.phase), []).append(row)
    return [
        Part(
            name, phase, len(group), sum(r.flops for r in group), sum(r.transcendentals for r in group),
            sum(r.bytes for r in group), max(r.live_bytes for r in group),
        )
        for (name, phase), group in found.items()
    ]  # fmt: skip


def quantity(n: float, unit: str = "") -> str:
    """A number with three digits: `1.53 M`, and the unit behind it."""
    for prefix in ("", "k", "M", "G", "T"):
        if n < 999.5:
            return f"{n:.3g} {prefix}{unit}".rstrip()
        n /= 1000
    return f"{n:.3g} P{unit}"


def table(report: Cost, lines: int = 12) -> Iterator[str]:
    """The lines of the text."""
    yield (
        f"{report.name}: {quantity(report.flops, 'FLOP')}, {quantity(report.transcendentals)} transcendental; "
        f"{quantity(report.bytes, 'B')} read and written; at most {quantity(report.peak_bytes, 'B')} alive, of which "
        f"{quantity(report.input_bytes, 'B')} are the arguments"
    )
    for loop in report.loops:
        yield f"  {loop}: its number of turns is not known, and taken to be {report.trips} (trips=)"
    yield from section("", report.by_phase, report)
    if any(r.source.scope for r in report.rows):
        yield from section("scope", report.by_scope, report)
    by_line = report.by_line
    yield from section("line", by_line[:lines], report)
    if len(by_line) > lines:
        yield f"  and {len(by_line) - lines} more, in .by_line"


def section(title: str, found: Sequence[Part], report: Cost) -> Iterator[str]:
    """One table, with a share of all operations in each row."""
    if not found:
        return
    whole = max(report.flops + report.transcendentals, 1)
    yield ""
    yield f"  {title:<{WIDTH}} {'phase':<8} {'FLOP':>9} {'share':>6} {'transc.':>9} {'moved':>9} {'alive':>9}"
    for p in found:
        name = "  " * p.name.count("/") + p.name.rsplit("/", 1)[-1] if title == "scope" else p.name
        name = f"{name}  {line_text(p.file, p.line)}".strip() if title == "line" else name
        name = name if len(name) <= WIDTH else name[: WIDTH - 3] + "..."
        yield (
            f"  {name if title else 'all':<{WIDTH}} {p.phase:<8} {quantity(p.flops):>9} "
            f"{(p.flops + p.transcendentals) / whole:>6.1%} {quantity(p.transcendentals):>9} "
            f"{quantity(p.bytes, 'B'):>9} {quantity(p.peak_bytes, 'B'):>9}"
        )


def line_text(file: str, line: int) -> str:
    """The text of a line, where its file can be read."""
    return linecache.getline(file, line).strip()
