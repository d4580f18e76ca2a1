"""view: a Program as one HTML file, to look at in a browser.

The file needs nothing from anywhere: its script, its style and the Program's data are in it. The data are JSON, which
the page puts on the screen as text alone; what a source file or a name holds is never markup and never runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import linecache
import math
import os
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp, tree_util

from functrace.debug.cost import Row, placed, program_cost
from functrace.debug.norms import measure, shown
from functrace.errors import ArgumentError, DtypeError, FileError, MissingFileError
from functrace.ir import Equation, Literal, Program, Source
from functrace.ir.source import caller_source
from functrace.ir.text import Names, told, value_text
from functrace.tracing.tracer import at, aval_of

SCRIPTS = ("model.js", "layout.js", "graph.js", "panels.js")
WHOLE = 4000  # lines of a file that are all put into the page; of a longer one, those around what is told of
AROUND = 60
LONGEST = 400  # characters of a parameter's text


def view(program: Program, values: Sequence[Any] | None = None, path: str | os.PathLike[str] = "program.html") -> str:
    """Write a Program as one self-contained HTML page, which any browser opens.

    It shows the Program as a graph that folds by `named_scope` and by nested Program, with the equations beside the
    source lines that they came from; a search; and for each equation its line, operands, parameters and cost. Colours
    tell forward from backward, operations, memory, and with `values` the norms of all values, or of cotangents alone.

    Args:
      program: what to show: `ft.make_program(ft.grad(loss))(params, batch)`.
      values: arguments to run the Program on once: pytrees whose leaves are its inputs in order.
      path: where the file is written.
    Returns:
      The absolute path of the file.
    Raises:
      DtypeError: `program` is not a Program, or a value has not the type of its input.
      ArgumentError: there are not as many values as inputs.
      FileError: the file cannot be written; a MissingFileError where there is no such folder.

    >>> import functrace as ft, numpy as np, tempfile, os
    >>> program = ft.make_program(ft.grad(lambda x: (x ** 3).sum()))(np.ones(4))
    >>> where = os.path.join(tempfile.mkdtemp(), "cube.html")
    >>> os.path.getsize(ft.debug.view(program, [np.ones(4)], where)) > 10_000
    True
    """
    if not isinstance(program, Program):
        raise DtypeError(
            f"view: expected a Program, got {type(program).__name__} ({program!r}). Make one with "
            f"ft.make_program(f)(*args), or ft.make_program(ft.grad(f))(*args).{at(caller_source())}"
        )
    norms = None if values is None else measured(program, values)
    where = os.path.abspath(path)
    text = page(page_data(program, norms), os.path.splitext(os.path.basename(where))[0])
    try:
        with open(where, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        kind = MissingFileError if isinstance(error, FileNotFoundError) else FileError
        raise kind(
            f"view: path {os.fspath(path)!r} cannot be written ({error.strerror or error}): give the path of a file in "
            f"a folder that exists.{at(caller_source())}"
        ) from error
    return where


def measured(program: Program, values: Sequence[Any]) -> Iterator[float]:
    """The norms of all results, in the order of `measure`; the values are checked first."""
    leaves = tree_util.tree_leaves(values)
    if len(leaves) != len(program.inputs):
        raise ArgumentError(
            f"view: values has {len(leaves)} arrays, and the Program has {len(program.inputs)} inputs: give one for "
            f"each, in order; arrays that the function closes over come first.{at(caller_source())}"
        )
    for i, (v, x) in enumerate(zip(program.inputs, leaves, strict=True)):
        aval = aval_of(x)
        if not aval.matches(v.aval):
            raise DtypeError(
                f"view: value {i} is {aval}, and input {v.name or i} of the Program is {v.aval}.{at(caller_source())}"
            )
    return map(float, jax.device_get(measure(program, list(map(jnp.asarray, leaves)))[1]))


def page(data: dict[str, Any], title: str) -> str:
    """The text of the file. Only its own script and style, known by their hashes, may run in it."""
    read = lambda name: resources.files("functrace.debug").joinpath("page", name).read_text("utf-8")
    script, style = "\n".join(map(read, SCRIPTS)), read("page.css")
    fields = {
        "title": html.escape(title),
        "policy": f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'",
        "style": style,
        "script": script,
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda m: fields[m[1]], read("page.html"))


def digest(text: str) -> str:
    """The hash of a script or style, as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def page_data(program: Program, norms: Iterator[float] | None = None) -> dict[str, Any]:
    """What the page shows: Programs, the sources of their equations, and the text of the source files."""
    cost = program_cost(program)
    writer = Writer(iter(cost.rows), norms)
    writer.program(program, "program", Source("", 0, ""))
    totals = {k: getattr(cost, k) for k in ("flops", "transcendentals", "bytes", "peak_bytes", "input_bytes")}
    files = [file_text(name, sorted(lines)) for name, lines in writer.lines.items()]
    return {
        "totals": totals, "loops": list(cost.loops), "measured": norms is not None, "files": files,
        "sources": writer.sources, "programs": writer.programs,
    }  # fmt: skip


class Writer:
    """Puts Programs into plain lists; one that is run in two places stands there twice, as it costs twice.

    An operand is a number, that of a variable (inputs first, then results in order), or the text of a literal.
    """

    def __init__(self, rows: Iterator[Row], norms: Iterator[float] | None):
        self.rows = rows
        self.norms = norms
        self.programs: list[dict[str, Any]] = []
        self.sources: list[list[Any]] = []
        self.lines: dict[str, set[int]] = {}
        self._numbers: dict[Source, int] = {}

    def program(self, program: Program, label: str, around: Source, counted: bool = True) -> int:
        """Write a Program, and give its number. `counted` says that rows tell what its equations take."""
        number = len(self.programs)
        written: dict[str, Any] = {"label": label}
        self.programs.append(written)
        names = Names()
        numbers = {v: i for i, v in enumerate(program.inputs)}
        written["inputs"] = [[names.bind(v), repr(v.aval)] for v in program.inputs]
        read = lambda x: names.read(x) if type(x) is Literal else numbers[x]
        equations = written["equations"] = []
        for eqn in program.equations:
            operands = [read(x) for x in eqn.inputs]
            for v in eqn.outputs:
                numbers[v] = len(numbers)
            results = [[names.bind(v), repr(v.aval), self.norm()] for v in eqn.outputs]
            equations.append({
                "primitive": eqn.primitive.name, "operands": operands, "results": results,
                "params": params(eqn), **self.taken(eqn, placed(eqn.source, around), counted),
            })  # fmt: skip
        written["outputs"] = [read(x) for x in program.outputs]
        return number

    def norm(self) -> float | str | None:
        """The next norm: None where there is none, and text where JSON has no number for it."""
        x = -1.0 if self.norms is None else next(self.norms)
        return None if x < 0 else float(f"{x:.4g}") if math.isfinite(x) else str(x)

    def taken(self, eqn: Equation, source: Source, counted: bool) -> dict[str, Any]:
        """The source, cost and nested Programs of an equation."""
        held = shown(eqn.primitive)
        found: dict[str, Any] = {"source": self.source(source)}
        if not held:
            row = next(self.rows) if counted else None
            if row is not None:
                found["cost"] = [row.flops, row.transcendentals, row.bytes, row.live_bytes, row.times]
            return found
        pending = list(eqn.primitive.runs())
        programs = []
        for i, program in enumerate(held):
            label = next((k for k, x in eqn.params.items() if x is program), f"branch {i}")
            run = next((r for r in pending if r.program is program), None)
            if run is not None:
                pending.remove(run)
                label += "" if run.times == 1 else f" x{'?' if run.times is None else run.times}"
            programs.append(self.program(program, label, source, counted and run is not None))
        return {**found, "programs": programs}

    def source(self, source: Source) -> int:
        """The number of a source; its line is remembered."""
        if source not in self._numbers:
            self._numbers[source] = len(self.sources)
            if source.file:
                self.lines.setdefault(source.file, set()).add(source.line)
            file = list(self.lines).index(source.file) if source.file else -1
            phase = "backward" if source.backward else "forward"
            self.sources.append([file, source.line, source.function, source.rewrite, source.scope, phase])
        return self._numbers[source]


def params(eqn: Equation) -> list[list[str]]:
    """Names and texts of the parameters that are not Programs."""
    found = eqn.params.items() if not eqn.primitive.readable_text else told(eqn.primitive).items()
    texts = ([k, value_text(v)] for k, v in found if not holds_program(v))
    return [[k, t if len(t) <= LONGEST else f"{t[:LONGEST]}..."] for k, t in texts]


def holds_program(value: Any) -> bool:
    """Whether a parameter is a Program, or has one in it."""
    return isinstance(value, Program) or (isinstance(value, tuple) and any(map(holds_program, value)))


def file_text(name: str, lines: Sequence[int]) -> dict[str, Any]:
    """The text of a source file in pieces `[first line, texts]`: all of it, or around `lines`; none if it is not
    there to be read."""
    texts = [line.rstrip("\n") for line in linecache.getlines(name)]
    if len(texts) <= WHOLE:
        pieces = [[1, texts]] if texts else []
    else:
        kept = np.zeros(len(texts) + 2, bool)
        for n in lines:
            kept[max(n - AROUND, 1) : n + AROUND + 1] = True
        kept[-1] = False
        edges = np.flatnonzero(np.diff(kept.astype(int)))
        pieces = [[int(a) + 1, texts[a:b]] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return {"name": os.path.basename(name), "path": name, "pieces": pieces}
