"""Run the benchmarks and write `benchmarks/RESULTS.md`.

    python benchmarks/run.py                # all
    python benchmarks/run.py dispatch       # some, printed only
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import jax
from timing import table

NAMES = ["deep_mlp", "unjitted_grad", "dispatch", "scalar_chain", "loops"]
HEAD = """# Benchmarks

Made by `make bench` on {date}: {cores} cores, Python {python}, jax {jax} on {backend}{rivals}. Contenders
take turns in one process; each figure is the median of its turns, and beside a rival stands how many times functrace's
median its own is (above 1, functrace is quicker). All contenders are checked to agree before they are timed. The
machine is shared: trust the ratios, not the times.
"""


def rivals() -> str:
    """The versions of the optional rivals that are installed."""
    found = []
    for name in ("autograd", "torch", "equinox"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "".join(f", {text}" for text in found)


def main(chosen: list[str]) -> None:
    """Measure, print, and write the results where everything was run."""
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        sys.exit(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    text = HEAD.format(
        date=datetime.date.today(), cores=os.cpu_count(), python=platform.python_version(),
        jax=jax.__version__, backend=jax.default_backend(), rivals=rivals(),
    )  # fmt: skip
    for name in chosen or NAMES:
        module = importlib.import_module(name)
        note = f"{module.NOTE}\n\n" if hasattr(module, "NOTE") else ""
        section = f"\n## {module.TITLE}\n\n{note}{table(module.measure())}\n\n`python benchmarks/run.py {name}`\n"
        print(section, flush=True)
        text += section
    if not chosen:
        Path(__file__).with_name("RESULTS.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
