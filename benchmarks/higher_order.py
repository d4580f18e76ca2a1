"""Towers of derivatives: equations, seconds to the first value, seconds a call, in float64."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.jet import jet
from timing import Row, alternate, firsts, human

import functrace as ft
from functrace import numpy as fnp
from functrace.rewrites.collect import programs_of

try:
    import torch
except ImportError:
    torch = None

TITLE = "Derivatives of high order"
NOTE = """Of a scalar function, as `grad(grad(...))`, as `jvp(jvp(...))` with the tangent 1, and as one series by
`jax.experimental.jet`; torch.func runs without a compiler. The first value is tracing, rewriting, lowering, compiling
and one call; of three, where none takes two seconds. Nested jax.grad at order 8 has a process of its own, and a limit
of 40 seconds in it."""

FUNCTRACE, GRAD, JVP, JET, TORCH = "functrace grad", "jax grad", "jax jvp", "jax jet", "torch.func grad"
X = 0.3
Scalar = Callable[[Any, Any], Any]
# Beyond these orders a rival is left out.
UP_TO = {GRAD: 4, JVP: 6, TORCH: 4}
ALONE, LIMIT = 8, 40  # the order at which nested jax.grad runs in its own process, and for how many seconds
ORDERS = (2, 4, 8, 10)
GOALS = {("five times", 8): 2500, ("five times", 10): 4500}

RANDOM = np.random.default_rng(0)
LAYERS = [
    (RANDOM.normal(size=s) / np.sqrt(s[0]), 0.1 * RANDOM.normal(size=s[1])) for s in ((1, 16), (16, 16), (16, 1))
]  # fmt: skip
POINTS = np.linspace(0.0, 1.0, 64)


def five_times(np_: Any, x: Any) -> Any:
    """sin(x) * exp(-x) + x, applied five times."""
    for _ in range(5):
        x = np_.sin(x) * np_.exp(-x) + x
    return x


def tanh_sine(np_: Any, x: Any) -> Any:
    """tanh(sin(x) * x)."""
    return np_.tanh(np_.sin(x) * x)


def network(np_: Any, x: Any, layers: Any = LAYERS) -> Any:
    """A 1-16-16-1 tanh network."""
    h = x.reshape(1) if np_ is torch else np_.reshape(x, (1,))
    for i, (w, b) in enumerate(layers):
        if np_ is torch and not isinstance(w, torch.Tensor):
            w, b = torch.as_tensor(w), torch.as_tensor(b)
        h = h @ w + b
        if i < len(layers) - 1:
            h = np_.tanh(h)
    return h[0]


FUNCTIONS: dict[str, Scalar] = {"five times": five_times, "tanh of sine": tanh_sine, "network": network}


def tower(transform: Callable[[Any], Any], f: Callable[..., Any], order: int) -> Callable[..., Any]:
    """A transform applied so many times."""
    for _ in range(order):
        f = transform(f)
    return f


def slope(f: Callable[..., Any]) -> Callable[..., Any]:
    """The derivative by jax.jvp."""
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def last_of_series(f: Callable[..., Any], order: int) -> Callable[..., Any]:
    """The derivative of an order by jet."""
    series = [1.0, *[0.0] * (order - 1)]
    return lambda x: jet(f, (x,), ([jnp.full(jnp.shape(x), s, jnp.result_type(x)) for s in series],))[1][-1]


def derivatives(f: Scalar, order: int) -> dict[str, Callable[..., Any]]:
    """A function's derivative of an order, by contender."""
    theirs = lambda x: f(jnp, x)
    found = {
        FUNCTRACE: tower(ft.grad, lambda x: f(fnp, x), order),
        JET: last_of_series(theirs, order),
        JVP: tower(slope, theirs, order),
        GRAD: tower(jax.grad, theirs, order),
    }
    if torch is not None:
        found[TORCH] = tower(torch.func.grad, lambda x: f(torch, x), order)
    return {name: g for name, g in found.items() if order <= UP_TO.get(name, order)}


def beam_losses() -> dict[str, Callable[..., Any]]:
    """The gradient in a network's parameters of the mean of (u'''' - 1)^2 over points, by contender."""

    def loss(np_: Any, vmap: Any, fourth: Callable[[Any], Any]) -> Callable[..., Any]:
        residuals = lambda layers: fourth(lambda x: network(np_, x, layers))
        return lambda layers, points: np_.mean((vmap(residuals(layers))(points) - 1) ** 2)

    found = {
        FUNCTRACE: ft.grad(loss(fnp, ft.vmap, lambda f: tower(ft.grad, f, 4))),
        JET: jax.grad(loss(jnp, jax.vmap, lambda f: last_of_series(f, 4))),
        JVP: jax.grad(loss(jnp, jax.vmap, lambda f: tower(slope, f, 4))),
        GRAD: jax.grad(loss(jnp, jax.vmap, lambda f: tower(jax.grad, f, 4))),
    }
    if torch is not None:
        found[TORCH] = torch.func.grad(loss(torch, torch.func.vmap, lambda f: tower(torch.func.grad, f, 4)))
    return found


def size(program: ft.Program) -> int:
    """Equations, those of held Programs included."""
    return sum(sum(map(size, programs_of(e.primitive))) or 1 for e in program.equations)


def size_in_jax(jaxpr: Any) -> int:
    """The same of a jaxpr."""
    total = 0
    for e in jaxpr.eqns:
        values = [u for v in e.params.values() for u in (v if isinstance(v, tuple) else (v,))]
        held = [getattr(v, "jaxpr", v) for v in values if hasattr(v, "jaxpr") or hasattr(v, "eqns")]
        total += sum(map(size_in_jax, held)) or 1
    return total


def equations(name: str, f: Callable[..., Any], args: tuple[Any, ...]) -> int | None:
    """How many equations a contender's program has; None of one that has no program."""
    if name == TORCH:
        return None
    return size(ft.make_program(f)(*args)) if name == FUNCTRACE else size_in_jax(jax.make_jaxpr(f)(*args).jaxpr)


def runner(name: str, f: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Any]:
    """A call of a contender, compiled where it can be, until its value is there."""
    if name == TORCH:
        tensors = jax.tree_util.tree_map(torch.as_tensor, args)
        return lambda: f(*tensors)
    compiled = ft.jit(f) if name == FUNCTRACE else jax.jit(f)
    on_device = jax.tree_util.tree_map(jnp.asarray, args)
    return lambda: jax.block_until_ready(compiled(*on_device))


def print_nested(name: str) -> None:
    """Print the value that nested jax.grad gives at the order where it runs alone, and the seconds to it."""
    with jax.enable_x64(True):
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) + 1)(X))
        start = time.perf_counter()
        value = float(jax.jit(tower(jax.grad, lambda x: FUNCTIONS[name](jnp, x), ALONE))(np.float64(X)))
        print(value, time.perf_counter() - start)


def against_nested(name: str, ours: float, value: float) -> str:
    """Of nested jax.grad, in its own process: how many times functrace's seconds to the first value it takes."""
    try:
        command = [sys.executable, __file__, name]
        alone = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"jax grad: none in {LIMIT} s, so jax grad / functrace is over {LIMIT / ours:.0f}"
    theirs, seconds = map(float, alone.stdout.split())
    np.testing.assert_allclose(value, theirs, rtol=1e-7)
    return f"jax grad: {human(seconds)}, so jax grad / functrace: {seconds / ours:.1f}"


def rows_of(
    task: str,
    contenders: Callable[[], dict[str, Callable[..., Any]]],
    args: tuple[Any, ...],
    most: int | None = None,
    alone: str | None = None,
) -> list[Row]:
    """A row of seconds to the first value, and one of seconds a call.

    Args:
      task: the rows' name.
      contenders: fresh functions of the same value, by name.
      args: where they are called.
      most: the goal for functrace's equations.
      alone: which of FUNCTIONS it is, where nested jax.grad is to run alone.
    """

    def start(name: str) -> tuple[Callable[[], Any], Any]:
        run = runner(name, contenders()[name], args)
        return run, jax.tree_util.tree_map(np.asarray, run())

    functions = contenders()
    started, first = firsts({name: lambda name=name: start(name) for name in functions})
    runs = {name: run for name, (run, _) in started.items()}
    values = {name: value for name, (_, value) in started.items()}
    for name, value in values.items():
        for g, e in zip(*map(jax.tree_util.tree_leaves, (value, values[FUNCTRACE])), strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-7, atol=1e-7 * abs(e).max(), err_msg=f"{task}, {name}")
    sizes = {name: equations(name, f, args) for name, f in functions.items()}
    note = "equations: " + ", ".join(f"{name} {n:,}" for name, n in sizes.items() if n is not None)
    if most is not None:
        note += f" (goal: {most:,} at most)"
    if alone is not None:
        nested = against_nested(alone, first[FUNCTRACE], float(values[FUNCTRACE]))
        note += f"; {nested} (goal: 50 at least)"
    if JET in first:
        note += f"; functrace / jet: {first[FUNCTRACE] / first[JET]:.2f} (goal: 2 at most)"
    slowest = max(alternate(runs, rounds=1).values())
    calls = max(1, min(200, int(0.2 / slowest)))
    return [Row(f"{task}, first value", first, note), Row(f"{task}, a call", alternate(runs, rounds=9, calls=calls))]


def measure() -> list[Row]:
    """Rows by function and order, and of the gradient of a loss made of fourth derivatives."""
    rows = []
    with jax.enable_x64(True):
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) + 1)(X))  # the backend's own start
        for name, f in FUNCTIONS.items():
            for order in ORDERS:
                task, most = f"{name}, order {order}", GOALS.get((name, order))
                alone = name if order == ALONE else None
                rows += rows_of(task, lambda f=f, order=order: derivatives(f, order), (np.float64(X),), most, alone)
        rows += rows_of("loss of 4th derivatives, by parameters", beam_losses, (LAYERS, POINTS))
    return rows


if __name__ == "__main__":
    print_nested(sys.argv[1])
