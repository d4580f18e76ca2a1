"""Derivatives of high order: how long it takes to trace, rewrite, lower and compile them, and to run them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.jet import jet
from timing import Row, alternate

import functrace as ft
from functrace import numpy as fnp

TITLE = "n-th derivatives of functions of a scalar"
NOTE = """\
"To compile" is from the Python function to the executable, by nobody's cache; "to run" is one call, several
microseconds of which are the dispatch. `sin(x) exp(-x) + x` is applied five times; the network is 1-16-16-1 with tanh.
Nested `jax.grad` is left out above order 5, where it takes minutes."""
ORDERS, DEEPEST, POINT = (4, 8, 10), 5, 0.5
OURS, JET, NESTED = "functrace derivative", "jax jet", "nested jax.grad"

Function = Callable[[Any], Any]


def five_times(np_: Any) -> Function:
    """A step of five operations, five times."""
    return lambda x: reduce(lambda x, _: np_.sin(x) * np_.exp(-x) + x, range(5), x)


def composed(np_: Any) -> Function:
    """tanh(sin(x) x)."""
    return lambda x: np_.tanh(np_.sin(x) * x)


def network(np_: Any) -> Function:
    """A tanh network by its scalar input."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) / 2 for shape in ((16, 1), (16, 16), (1, 16))]

    def f(x: Any) -> Any:
        hidden = reduce(lambda h, w: np_.tanh(w @ h + 0.1), weights[:-1], np_.reshape(x, (1,)))
        return (weights[-1] @ hidden)[0]

    return f


def contenders(make: Callable[[Any], Function], n: int) -> dict[str, Function]:
    """The n-th derivative by each."""
    f = make(jnp)
    found = {
        OURS: ft.derivative(make(fnp), n),
        JET: lambda x: jet(f, (x,), ((1.0, *[0.0] * (n - 1)),))[1][-1],
    }
    if n <= DEEPEST:
        found[NESTED] = reduce(lambda f, _: jax.grad(f), range(n), f)
    return found


def compiled(f: Function, x: Any) -> Any:
    """The executable, of a function that JAX has not seen."""
    return jax.jit(lambda x: f(x)).lower(x).compile()


def measure() -> list[Row]:
    """Rows to compile and to run, by function and order."""
    rows = []
    with jax.enable_x64(True):
        x = jnp.float64(POINT)
        for make in (five_times, composed, network):
            for n in ORDERS:
                runs = {name: compiled(f, x) for name, f in contenders(make, n).items()}
                exact = float(runs[OURS](x))
                for name, run in runs.items():
                    np.testing.assert_allclose(run(x), exact, rtol=1e-9, err_msg=f"{name}, {make.__name__}, order {n}")
                size = len(ft.make_program(ft.derivative(make(fnp), n))(x).equations)
                timed = {name: partial(compile_anew, make, n, name, x) for name in runs}
                rows.append(Row(f"{make.__name__}, order {n}, to compile", alternate(timed, 2), f"{size:,} equations"))
                timed = {name: lambda run=run: jax.block_until_ready(run(x)) for name, run in runs.items()}
                rows.append(Row(f"{make.__name__}, order {n}, to run", alternate(timed, 7, calls=100)))
    return rows


def compile_anew(make: Callable[[Any], Function], n: int, name: str, x: Any) -> None:
    """Compile one contender from the start."""
    ft.clear_caches()
    compiled(contenders(make, n)[name], x)
