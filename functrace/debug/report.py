"""What `find_nonfinite` found, for programs (fields) and for people (`str`)."""

from __future__ import annotations

import linecache
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from functrace.ir import dtype_text


@dataclass(frozen=True)
class Range:
    """A value of an equation: its type, the least and largest of its finite elements, and how many are not finite."""

    shape: tuple[int, ...]
    dtype: Any
    least: float | None
    largest: float | None
    zeros: int
    infinite: int
    nan: int

    @staticmethod
    def of(x: Any) -> Range:
        """That of an array."""
        x = np.asarray(x)
        wide = np.abs(x) if x.dtype.kind == "c" else x.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        least, largest = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
        nan = int(np.isnan(wide).sum())
        return Range(x.shape, x.dtype, least, largest, int((wide == 0).sum()), int(np.isinf(wide).sum()), nan)

    def __str__(self) -> str:
        kind = f"{dtype_text(self.dtype)}[{','.join(map(str, self.shape))}]"
        parts = []
        if self.least is not None:
            alone = self.least == self.largest
            parts.append(f"{self.least:.4g}" if alone else f"from {self.least:.4g} to {self.largest:.4g}")
        parts += [f"{count} {what}" for count, what in ((self.infinite, "Inf"), (self.nan, "NaN")) if count]
        return f"{kind} {', '.join(parts)}"


@dataclass(frozen=True)
class Step:
    """One equation on the way back to the inputs."""

    primitive: str
    file: str | None
    line: int | None

    def __str__(self) -> str:
        return f"{self.primitive} at {os.path.basename(self.file)}:{self.line}" if self.file else self.primitive


@dataclass(frozen=True)
class Report:
    """Where the first NaN or Inf came from; `found` says whether there is one.

    phase: "forward", or "backward" for an equation that belongs to a derivative. file, line, function, scope: the
    user's line, and text, what stands there. primitive: the equation's; rewrite: what made the equation of the user's
    (`transpose of log`). iteration: the turn of the innermost loop around it, from 0 (for a scan the entry, whichever
    way it runs); iterations: those of all loops, outermost first. row: where a vmap made the equation, the first
    row that is not finite. operands, result: their ranges. path: equations from there back to `inputs`, arguments by
    name. cause: what happened; fix: what helps. argument: the argument that was NaN already, where that is it.
    """

    found: bool
    phase: str | None = None
    file: str | None = None
    line: int | None = None
    function: str | None = None
    scope: str = ""
    text: str = ""
    primitive: str | None = None
    rewrite: str = ""
    iteration: int | None = None
    iterations: tuple[int, ...] = ()
    row: int | None = None
    operands: tuple[Range, ...] = ()
    result: Range | None = None
    path: tuple[Step, ...] = ()
    inputs: tuple[str, ...] = ()
    cause: str = ""
    fix: str = ""
    argument: str | None = None
    outputs: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.found

    def __str__(self) -> str:
        if not self.found:
            return "No NaN or Inf: all outputs are finite, or hold only what was Inf from the start."
        if self.argument is not None:
            return f"{named(self.argument)} has a NaN already, before anything is computed. {self.fix}"
        made = "NaN" if self.result is not None and self.result.nan else "Inf"
        place = f"{os.path.basename(self.file)}:{self.line}, in {self.function}" if self.file else "an unknown line"
        lines = [f"{made} made in the {self.phase} pass by {self.primitive} at {place}"]
        if self.text:
            lines.append(f"    {self.text}")
        lines += [f"  {name:<10}{value}" for name, value in self._details() if value]
        return "\n".join(lines)

    def _details(self) -> list[tuple[str, str]]:
        turns = ", ".join(map(str, self.iterations))
        path = " <- ".join([*map(str, self.path), *map(named, self.inputs)])
        return [
            ("made by", self.rewrite),
            ("scope", self.scope),
            ("iteration", f"{turns} (outermost loop first)" if len(self.iterations) > 1 else turns),
            ("row", "" if self.row is None else f"{self.row} of the batch"),
            ("operands", "; ".join(map(str, self.operands))),
            ("result", str(self.result or "")),
            ("from", path),
            ("reaches", ", ".join(self.outputs)),
            ("cause", self.cause),
            ("fix", self.fix),
        ]


CLOSED_OVER = "a value that the function closes over"


def named(argument: str) -> str:
    """What a report calls an input."""
    return argument if argument == CLOSED_OVER else f"argument {argument!r}"


def line_of(file: str, line: int) -> str:
    """The text of a line of a file."""
    return linecache.getline(file, line).strip() if file else ""
