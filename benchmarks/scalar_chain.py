"""Long scalar computations: the cost of tracing and differentiating, an operation."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate, human

import functrace as ft
from functrace import numpy as fnp
from functrace.rewrites import gradient

TITLE = "Scalar chains: tracing and differentiating, seconds an operation"
COUNT = 10_000
LONG = 200_000


def affine(np_, x, count):
    """Products and sums by turns: `count` operations."""
    for _ in range(count // 2):
        x = x * 0.999 + 0.001
    return x


def waves(np_, x, count):
    """Sines and products by turns: `count` operations."""
    for _ in range(count // 2):
        x = np_.sin(x) * x
    return x


def measure() -> list[Row]:
    """Rows for tracing, for the gradient of a traced Program, and for a very long chain."""
    rows = []
    for name, chain in (("x * a + b", affine), ("sin(x) * x", waves)):
        ours = ft.grad(lambda x, chain=chain: chain(fnp, x, 100))(0.5)
        theirs = jax.grad(lambda x, chain=chain: chain(jnp, x, 100))(0.5)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
        tracing = {
            "functrace": lambda c=chain: ft.make_program(lambda x: c(fnp, x, COUNT))(0.5),
            "jax": lambda c=chain: jax.make_jaxpr(lambda x: c(jnp, x, COUNT))(0.5),
        }
        rows.append(per_operation(f"trace, {name}", alternate(tracing, rounds=3), COUNT))
        both = {
            "functrace": lambda c=chain: ft.make_program(ft.grad(lambda x: c(fnp, x, COUNT)))(0.5),
            "jax": lambda c=chain: jax.make_jaxpr(jax.grad(lambda x: c(jnp, x, COUNT)))(0.5),
        }
        timed = per_operation(f"trace and differentiate, {name}", alternate(both, rounds=3), COUNT)
        traced = ft.make_program(lambda x, c=chain: c(fnp, x, COUNT))(0.5)
        alone = alternate({"functrace": lambda p=traced: gradient(copied(p), (True,))}, rounds=5)["functrace"]
        rows.append(timed._replace(note=f"gradient of the traced Program alone: {human(alone / COUNT)}"))
    long = {"functrace": lambda: ft.make_program(ft.grad(lambda x: affine(fnp, x, LONG)))(0.5)}
    timed = per_operation(f"trace and differentiate, x * a + b, {LONG:,} operations", alternate(long, rounds=2), LONG)
    program = ft.make_program(ft.grad(lambda x: affine(fnp, x, LONG)))(0.5)
    printed = alternate({"functrace": lambda: str(program)}, rounds=3)["functrace"] / len(program.equations)
    rows.append(timed._replace(note=f"printing: {human(printed)} an equation"))
    return rows


def copied(program: ft.Program) -> ft.Program:
    """A Program that remembers no rewrites."""
    return ft.Program(program.inputs, program.equations, program.outputs)


def per_operation(task: str, seconds: dict[str, float], count: int) -> Row:
    """A row in seconds an operation."""
    return Row(task, {name: s / count for name, s in seconds.items()})
