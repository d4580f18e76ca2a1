"""What a training run shows: a progress bar, a table of the epochs, a figure of the curves.

rich draws the first two and matplotlib the figure, both from `pip install 'functrace[examples]'`.
Without rich the lines are plain; without matplotlib there is no figure, and a line says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

MISSING = "not drawn, for want of matplotlib. pip install 'functrace[examples]'"
Row = dict[str, float]

HEADINGS = {
    "epoch": "{:.0f}",
    "loss": "{:.4f}",
    "accuracy": "{:.2%}",
    "gradient norm": "{:.3g}",
    "clipped": "{:.0%}",
}


class Report:
    """Lines, a progress bar and tables on the terminal; none but the lines if `quiet`."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.rich = find_spec("rich") is not None
        if self.rich:
            from rich.console import Console

            self.console: Any = Console(highlight=False, soft_wrap=True)
        elif not quiet:
            print("rich is not installed: no progress bar. pip install 'functrace[examples]'")

    def say(self, line: str) -> None:
        """One line of text."""
        if self.rich:
            self.console.print(line, markup=False)
        else:
            print(line)

    @contextmanager
    def progress(self, steps: int) -> Iterator[Any]:
        """A progress bar; yields a function to be called with a text after every step."""
        if self.quiet or not self.rich:
            yield lambda text: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = [
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.description}"),
        ]  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("", total=steps)
            yield lambda text: bar.update(task, advance=1, description=text)

    def table(self, rows: Sequence[Row], title: str) -> None:
        """One row for each epoch."""
        if self.quiet:
            return
        cells = [[form.format(row[name]) for name, form in HEADINGS.items()] for row in rows]
        if not self.rich:
            for line in [list(HEADINGS), *cells]:
                print("  ".join(f"{cell:>13}" for cell in line))
            return
        from rich.table import Table

        table = Table(title=title)
        for name in HEADINGS:
            table.add_column(name, justify="right")
        for line in cells:
            table.add_row(*line)
        self.console.print(table)


def draw(steps: Sequence[Row], path: Path, title: str) -> bool:
    """Loss, accuracy and gradient norm at every step, as a PNG; False if there is no matplotlib.

    Args:
      steps: a row for each step; Inf and NaN are left out of the curves.
      path: where to write, in a folder that is there.
      title: of the figure.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 3)
    for axes, name in zip(panels, ("loss", "accuracy", "gradient norm"), strict=True):
        curve = np.array([row[name] for row in steps])
        shown = np.isfinite(curve) & ((curve > 0) | (name == "accuracy"))
        axes.plot(np.flatnonzero(shown), curve[shown], linewidth=0.8)
        axes.set(title=name, xlabel="step")
        if name != "accuracy" and shown.any():
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))
    return True
