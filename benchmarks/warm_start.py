"""The first step of a process, where an earlier one has compiled the same step and kept it on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np
from deep_transformer import LARGE, SMALL, arguments, centred_once, centred_twice, make_step
from jax import numpy as jnp
from timing import Row

import functrace as ft
from functrace import numpy as fnp

TITLE = "First step of a process that finds it on disk"
NOTE = """The training step of the 24-layer transformer above, in processes of their own that share a folder:
`functrace.config.cache_dir`, and `jax_compilation_cache_dir` with all that takes no time to compile too. Imports and
parameters are there before the clock runs. "with nothing kept" is the first of them."""
DEPTH = 24
ON_CPU = jax.default_backend() == "cpu"
SIZE, PROCESSES = (SMALL, 2) if ON_CPU else (LARGE, 1)
NORMS = {norm.__name__: norm for norm in ((centred_once, centred_twice) if ON_CPU else (centred_once,))}


def first_step(contender: str, norm: str, folder: str) -> tuple[float, float]:
    """Seconds to the first result in this process, and the loss."""
    if contender == "functrace":
        ft.config.cache_dir = folder
        step = ft.jit(make_step(fnp, ft.value_and_grad, NORMS[norm], SIZE))
    else:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        step = jax.jit(make_step(jnp, jax.value_and_grad, NORMS[norm], SIZE))
    args = jax.block_until_ready(arguments(DEPTH, SIZE))
    start = time.perf_counter()
    loss = jax.block_until_ready(step(*args))[0]
    return time.perf_counter() - start, float(loss)


def in_a_process(*task: str) -> tuple[float, float]:
    """`first_step` in a process of its own."""
    command = [sys.executable, str(Path(__file__)), *task]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(json.loads(said.splitlines()[-1]))


def measure() -> list[Row]:
    """A row for each state of the folder."""
    rows = []
    for norm in NORMS:
        with tempfile.TemporaryDirectory() as base:
            folders = {name: str(Path(base, name)) for name in ("functrace", "jax")}
            runs = [{n: in_a_process(n, norm, f) for n, f in folders.items()} for _ in range(1 + PROCESSES)]
        losses = [loss for run in runs for _, loss in run.values()]
        np.testing.assert_allclose(losses, losses[0], rtol=1e-5 if ON_CPU else 1e-2)
        task = norm.replace("_", " ")
        rows.append(Row(f"{task}, with nothing kept", {n: seconds for n, (seconds, _) in runs[0].items()}))
        later = {n: median([run[n][0] for run in runs[1:]]) for n in folders}
        rows.append(Row(f"{task}, found on disk", later))
    return rows


if __name__ == "__main__":
    print(json.dumps(first_step(*sys.argv[1:])))
