"""Gradients of loops: how long they take, and what they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

try:
    from equinox.internal import while_loop as equinox_while
except ImportError:  # an optional rival
    equinox_while = None

TITLE = "Gradients of loops: while loops of a length known at run time, and scans of a known one"
NOTE = """\
XLA on the CPU compiles a loop whose step touches less than 1,024 bytes as one function, about ten times as quick as
one kernel after another. The gradient for one pair of predators and prey is so small that some contenders come under
that threshold and some do not, by little; for 64 pairs none does."""
LENGTHS, KEPT, FEW = (100, 1_000, 10_000), 200, 20
WHILE, SPARING, SCAN, JAX, EQUINOX = (
    f"functrace while, {KEPT} kept", f"functrace while, {FEW} kept", "functrace scan", "jax scan",
    f"equinox while, {KEPT} kept",
)  # fmt: skip

Step = Callable[[Any], Any]


def turns(step: Step, state: Any, count: Any, **options: Any) -> Any:
    """`count` steps by functrace's while loop; `count` may be an array."""
    more = lambda carry: carry[0] < count
    return ft.lax.while_loop(more, lambda carry: (carry[0] + 1, step(carry[1])), (0, state), **options)[1]


def equinox_turns(step: Step, state: Any, count: Any) -> Any:
    """The same by Equinox's."""
    more, body = lambda carry: carry[0] < count, lambda carry: (carry[0] + 1, step(carry[1]))
    return equinox_while(more, body, (0, state), kind="checkpointed", checkpoints=KEPT)[1]


def scanned(lax: Any, step: Step, state: Any, length: int) -> Any:
    """`length` steps by a scan."""
    return lax.scan(lambda state, _: (step(state), None), state, None, length)[0]


def contenders(make_step: Callable[[Any, Any], Step], length: int) -> dict[str, Callable[..., Any]]:
    """Jitted gradients of the sum of the state after `length` steps, functions `(params, state, count)`."""

    def gradient(t: Any, np_: Any, loop: Callable[..., Any]) -> Callable[..., Any]:
        loss = lambda params, state, count: loop(make_step(np_, params), state, count).sum()
        return t.jit(t.grad(loss))

    found = {
        WHILE: gradient(ft, fnp, lambda *args: turns(*args, checkpoints=KEPT)),
        SPARING: gradient(ft, fnp, lambda *args: turns(*args, checkpoints=FEW)),
        SCAN: gradient(ft, fnp, lambda step, state, _: scanned(ft.lax, step, state, length)),
        JAX: gradient(jax, jnp, lambda step, state, _: scanned(jax.lax, step, state, length)),
    }
    if equinox_while is not None:
        found[EQUINOX] = gradient(jax, jnp, equinox_turns)
    return found


def runge_kutta(np_: Any, params: Any) -> Step:
    """A step of RK4 for predators and prey; params are four rates and the length of the step."""
    a, b, c, d, h = params

    def field(y: Any) -> Any:
        prey, predators = y
        return np_.stack([a * prey - b * prey * predators, d * prey * predators - c * predators])

    def step(y: Any) -> Any:
        k1 = field(y)
        k2 = field(y + 0.5 * h * k1)
        k3 = field(y + 0.5 * h * k2)
        k4 = field(y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return step


def wave(np_: Any, params: Any) -> Step:
    """An elementwise step."""
    return lambda x: np_.sin(params * x)


def measure() -> list[Row]:
    """Rows of seconds by length, and of the bytes that the gradient of a loop over a large state needs."""
    rows = []
    for state, pairs in ((jnp.array([2.0, 1.0]), "a pair"), (jnp.stack([jnp.linspace(1, 4, 64)] * 2), "64 pairs")):
        for length in LENGTHS:
            args = jnp.array([1.5, 1.0, 3.0, 1.0, 5.0 / length], jnp.float32), state, jnp.int32(length)
            found = contenders(runge_kutta, length)
            check_agreement(found, args)
            timed = {name: lambda f=f, args=args: jax.block_until_ready(f(*args)) for name, f in found.items()}
            seconds = alternate(timed, calls=max(1, 2_000 // length))
            rows.append(Row(f"{length:,} steps of RK4, {pairs}", seconds, goals(seconds)))
    x, scale = jnp.full((256, 256), 0.5, jnp.float32), jnp.full((256, 256), 1.1, jnp.float32)
    check_agreement(contenders(wave, 50), (scale, x, jnp.int32(50)))
    last = LENGTHS[-1]
    needed = {
        name: f.lower(scale, x, jnp.int32(last)).compile().memory_analysis().temp_size_in_bytes
        for name, f in contenders(wave, last).items()
    }
    note = f"a state is {x.nbytes // 1024} KiB; {KEPT} of them {KEPT * x.nbytes / 2**20:.3g} MiB"
    rows.append(Row(f"{last:,} steps over f32[256,256], compiled only", {}, note, needed))
    return rows


def goals(seconds: dict[str, float]) -> str:
    """How the while loop stands to its goals: 4 times functrace's scan at most, and no slower than Equinox."""
    ours = seconds[WHILE]
    text = f"while / functrace scan: {ours / seconds[SCAN]:.2f} (goal: 4 at most)"
    if EQUINOX in seconds:
        text += f"; while / equinox: {ours / seconds[EQUINOX]:.2f} (goal: 1 at most)"
    return text


def check_agreement(found: dict[str, Callable[..., Any]], args: tuple[Any, ...]) -> None:
    """All give the gradient that jax's scan gives."""
    expected = np.asarray(found[JAX](*args))
    for name, f in found.items():
        np.testing.assert_allclose(f(*args), expected, rtol=1e-3, atol=1e-4 * abs(expected).max(), err_msg=name)
