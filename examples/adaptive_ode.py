"""Differentiate an ODE solver that chooses its own steps.

    python examples/adaptive_ode.py                    # predators and prey
    python examples/adaptive_ode.py --tolerance 1e-6   # fewer steps

Dormand and Prince's pair of orders 5 and 4 in a while loop: how many steps it takes is known only when it has
taken them. Reverse mode differentiates the loop as it ran; forward mode, finite differences and the continuous
adjoint, which is an ODE of its own, say the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import functrace as ft
from functrace import lax, numpy as fnp

Array = Any
Field = Callable[[Array, Array], Array]  # f(y, params) is dy/dt

# Dormand and Prince, "A family of embedded Runge-Kutta formulae" (1980): the stages, whose last row is the
# solution of order 5, and how it differs from that of order 4.
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
MOST_STEPS = 10_000

NAMES = ("prey", "predators", "a", "b", "c", "d")  # what is differentiated


class Solution(NamedTuple):
    """The state at the end, and how many steps were accepted and refused."""

    y: Array
    accepted: Array
    refused: Array


def solve(field: Field, y0: Array, params: Array, duration: float, tolerance: float) -> Solution:
    """y at t = duration, where dy/dt = field(y, params) and y = y0 at t = 0.

    Args:
      field: the right-hand side, of a state f[d].
      tolerance: of the error of a step, relative to 1 + |y|.
    """

    def going(carry: Any) -> Array:
        return carry[0] < duration

    def step(carry: Any) -> Any:
        t, h, y, accepted, refused = carry
        last = t + h >= duration
        h = fnp.where(last, duration - t, h)
        stages = [field(y, params)]
        for row in STAGES:
            y_next = y + h * sum(a * k for a, k in zip(row, stages, strict=True))
            stages.append(field(y_next, params))
        error = h * sum(e * k for e, k in zip(ERROR, stages, strict=True))
        scale = tolerance * (1 + fnp.maximum(abs(y), abs(y_next)))
        size = fnp.sqrt(fnp.mean((error / scale) ** 2) + 1e-12)  # no square root of zero: it has no derivative
        good = size <= 1
        t_next = fnp.where(last, duration, t + h)
        t, y = fnp.where(good, t_next, t), fnp.where(good, y_next, y)
        h = h * fnp.clip(SAFETY * size**-0.2, SHRINK, GROW)
        return t, h, y, accepted + good, refused + ~good

    start = (0.0, 0.01 * duration, y0, 0, 0)
    _, _, y, accepted, refused = lax.while_loop(going, step, start, max_steps=MOST_STEPS)
    return Solution(y, accepted, refused)


def adjoint(
    field: Field, y: Array, params: Array, ct_y: Array, duration: float, tolerance: float
) -> tuple[Array, Array]:
    """Cotangents of y0 and params from that of the end state `y`, by the continuous adjoint method.

    The state, its cotangent and the parameters' are solved together back in time.
    Reference: Pontryagin et al. (1962); Chen et al., "Neural ordinary differential equations" (2018).
    """
    d = y.shape[0]

    def backward(z: Array, params: Array) -> Array:
        y, ct_y = z[:d], z[d : 2 * d]
        dy, pullback = ft.vjp(field, y, params)
        ct, ct_params = pullback(ct_y)
        return fnp.concatenate([-dy, ct, ct_params])

    z = fnp.concatenate([y, ct_y, fnp.zeros_like(params)])
    z = solve(backward, z, params, duration, tolerance).y
    return z[d : 2 * d], z[2 * d :]


def lotka_volterra(y: Array, params: Array) -> Array:
    """Prey and predators: dx/dt = a x - b x y, dy/dt = d x y - c y; params are a, b, c, d."""
    prey, predators = y
    a, b, c, d = params
    return fnp.stack([a * prey - b * prey * predators, d * prey * predators - c * predators])


def central_differences(f: Callable[[Array], Array], x: Array, h: float) -> Array:
    """The gradient of a scalar function, by differences of fourth order."""
    slope = lambda e: (8 * (f(x + h * e) - f(x - h * e)) - (f(x + 2 * h * e) - f(x - 2 * h * e))) / (12 * h)
    return np.array([float(slope(e)) for e in np.eye(len(x))])


class Run(NamedTuple):
    """The solution, the gradient by each method, and the solutions from several initial states."""

    solution: Solution
    gradients: dict[str, np.ndarray]
    starts: np.ndarray
    fan: Solution
    fan_gradients: np.ndarray


def compare(duration: float, tolerance: float) -> Run:
    """The gradient of prey + 2 predators at the end, by four methods."""
    y0, params, ct_y = np.array([2.0, 1.0]), np.array([1.5, 1.0, 3.0, 1.0]), np.array([1.0, 2.0])
    point = np.concatenate([y0, params])
    solution = ft.jit(lambda p: solve(lotka_volterra, p[:2], p[2:], duration, tolerance))
    loss = lambda p: solution(p).y @ ct_y
    end = solution(point)
    back = ft.jit(lambda y: fnp.concatenate(adjoint(lotka_volterra, y, params, ct_y, duration, tolerance)))
    gradients = {
        "reverse mode": ft.jit(ft.grad(loss))(point),
        "forward mode": ft.jit(ft.jacfwd(loss))(point),
        "continuous adjoint": back(end.y),
        "central differences": central_differences(loss, point, 1e-3),
    }
    starts = np.array([[prey, 1.0, *params] for prey in (0.5, 1.0, 2.0, 4.0, 8.0)])
    fan, fan_gradients = ft.jit(lambda ps: (ft.vmap(solution)(ps), ft.vmap(ft.grad(loss))(ps)))(starts)
    return ft.tree.map(np.asarray, Run(end, gradients, starts, fan, fan_gradients))


def main(arguments: Sequence[str] | None = None) -> Run:
    """Solve, differentiate, and print how far the methods are from each other."""
    parser = argparse.ArgumentParser(
        prog="adaptive_ode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--tolerance", type=float, default=1e-10, help="of the error of a step; 1e-10")
    options = parser.parse_args(arguments)
    with jax.enable_x64(True):
        run = compare(options.duration, options.tolerance)
    end = run.solution
    print(f"to t = {options.duration:g}: {int(end.accepted)} steps, and {int(end.refused)} refused")
    print(f"{'derivative by':20}" + "".join(f"{name:>13}" for name in NAMES) + "   differs by")
    exact = run.gradients["reverse mode"]
    for name, gradient in run.gradients.items():
        print(f"{name:20}" + "".join(f"{g:13.8f}" for g in gradient) + f"{difference(gradient, exact):13.1e}")
    print("under vmap each row takes its own steps:")
    rows = zip(run.starts, run.fan.accepted, run.fan.refused, run.fan_gradients, strict=True)
    for start, accepted, refused, gradient in rows:
        print(f"  from {start[0]:3.1f} prey: {accepted:4d} steps, {refused:3d} refused, d / da {gradient[2]:12.8f}")
    return run


def difference(gradient: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference of entries, relative to the largest entry."""
    return float(abs(gradient - exact).max() / abs(exact).max())


if __name__ == "__main__":
    main()
