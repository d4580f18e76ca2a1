"""Run the benchmarks and write `benchmarks/RESULTS.md`, or `RESULTS_GPU.md` on a GPU.

    python benchmarks/run.py                # all
    python benchmarks/run.py dispatch       # some, printed only
    python benchmarks/run.py --write sparse # some, put in the place of their older figures
    python benchmarks/run.py checkpointing --plot curve.png    # with a picture, for those that draw one
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import time
from pathlib import Path

import jax
from timing import table

NAMES = [
    "front_half", "deep_transformer", "deep_models", "warm_start", "unrolled", "unjitted_grad", "dispatch",
    "scalar_chain", "higher_order", "series", "laplacian", "per_example", "loops", "checkpointing", "gradient_flow",
    "nonfinite", "sparse",
]  # fmt: skip
HEAD = """# Benchmarks

Made by `{command}` on {date}: {cores} cores, Python {python}, jax {jax} on {device}{rivals}. Contenders
take turns in one process, in changing order; each figure is the median of its turns, and beside a rival stands how many
times functrace's median its own is (above 1, functrace is quicker). All contenders are checked to agree before they are
timed. The machine is shared: trust the ratios, not the times.
"""


def rivals() -> str:
    """The versions of the optional rivals that are installed."""
    found = []
    for name in ("autograd", "torch", "equinox", "folx", "asdex", "sparsejac"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "".join(f", {text}" for text in found)


def replaced(text: str, title: str, section: str) -> str:
    """`text` with the section that has this title made anew, or with the section at its end where it has none."""
    found = re.compile(rf"\n## {re.escape(title)}\n.*?(?=\n## |\Z)", re.DOTALL)
    return found.sub(lambda _: section, text) if found.search(text) else text + section


def main(chosen: list[str], picture: Path | None, write: bool) -> None:
    """Measure, print, and write the results where everything was run or `write` asks for it."""
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        sys.exit(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if picture and importlib.util.find_spec("matplotlib") is None:
        sys.exit("--plot needs matplotlib: pip install 'functrace[bench]'")
    modules = {name: importlib.import_module(name) for name in chosen or NAMES}
    if picture and not any(hasattr(module, "plot") for module in modules.values()):
        sys.exit(f"--plot: {', '.join(modules)} draws no picture")
    backend, device = jax.default_backend(), jax.devices()[0].device_kind
    results = Path(__file__).with_name("RESULTS.md" if backend == "cpu" else f"RESULTS_{backend.upper()}.md")
    text = HEAD.format(
        command="make bench" if backend == "cpu" else "python benchmarks/run.py",
        date=datetime.date.today(), cores=os.cpu_count(), python=platform.python_version(),
        jax=jax.__version__, device=device, rivals=rivals(),
    )  # fmt: skip
    for name, module in modules.items():
        start = time.perf_counter()
        rows = module.measure()
        took = time.perf_counter() - start
        drawn = picture is not None and hasattr(module, "plot")
        if drawn:
            module.plot(rows, picture)
        command = f"python benchmarks/run.py {name}" + (f" --plot {picture}" if drawn else "")
        note = f"{module.NOTE}\n\n" if hasattr(module, "NOTE") else ""
        section = f"\n## {module.TITLE}\n\n{note}{table(rows)}\n\n`{command}`, {datetime.date.today()}, {took:.0f} s\n"
        print(section, flush=True)
        if chosen and write:
            older = results.read_text() if results.exists() else text
            results.write_text(replaced(older, module.TITLE, section))
        text += section
    if not chosen:
        results.write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(NAMES)}; all by default")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw memory against time, as PNG")
    parser.add_argument("--write", action="store_true", help="put the named ones into RESULTS.md")
    options = parser.parse_args()
    main(options.names, options.plot, options.write)
