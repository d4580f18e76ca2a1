"""Derivatives held against numerical ones, at any order and in both modes.

    forward   jvp f (x, dx)          ==  d/dt f(x + t dx)
    reverse   <vjp f x ct, dx>       ==  <ct, d/dt f(x + t dx)>

A derivative is again a function, so order n checks the pushforward and the pullback of what order n - 1
has checked. Every check is along one random direction of all arguments together; where it fails, it is
repeated along one argument's leaf at a time, to name the place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import tree_util

from functrace.errors import ArgumentError, DerivativeError
from functrace.ir.source import caller_source
from functrace.testing.numerical import (
    Point,
    Settings,
    as_array,
    directional,
    draw,
    pairing,
    steps,
    widened,
)
from functrace.testing.places import Form, Mismatch, forward_form, placed, reverse_form
from functrace.testing.points import joiner, prepared, result
from functrace.tracing import aval_of
from functrace.tracing.tracer import at
from functrace.transforms import jvp, vjp
from functrace.transforms.arguments import check_callable, zero_tangent


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
    allow_float32: bool = False,
) -> None:
    """Check derivatives of `f` up to an order against numerical ones, along random directions.

    Args:
      f: a pure function of pytrees of arrays.
      args: its positional arguments, of dtype float64 or complex128; integer leaves are constants.
      order: the highest order. Every sequence of that many modes is checked.
      modes: "fwd" (`functrace.jvp`), "rev" (`functrace.vjp`), or both.
      atol: how far a derivative may be off; by default 1e-7 (2e-3 in single precision).
      rtol: the same, in parts of the largest entry of the numerical derivative; by default 1e-7 (2e-3).
      eps: step of the finite differences, which are of fourth order; by default 1e-4 (1e-2).
      allow_float32: check float32 and complex64 too, as far as their differences show.
    Raises:
      DerivativeError: a derivative is not the numerical one; an AssertionError that names order, mode,
        output and argument by their pytree paths, and both values. It has them as fields: `leaf`,
        `index`, `analytic`, `numerical`, `error`, `step`, and `kink`, whether the function is not smooth
        there.
      DtypeError: an argument or an output is not in double precision.
      ArgumentError: the output is not finite, or a step or a tolerance is none.

    >>> import functrace as ft, jax, numpy as np
    >>> from functrace import numpy as fnp
    >>> with jax.enable_x64(True):
    ...     ft.testing.check_grads(lambda p: fnp.sin(p["a"] * p["b"]), ({"a": 0.5, "b": np.ones(3)},), order=2)
    """
    check_callable("check_grads", f)
    modes = checked_modes("check_grads", modes)
    if not isinstance(order, int) or order < 1:
        raise ArgumentError(f"check_grads: order must be a positive int, got {order!r}.{at(caller_source())}")
    point, settings = prepared("check_grads", f, args, allow_float32, (), atol, rtol, eps)
    check_orders(point, order, modes, settings)


def check_jvp(
    f: Callable[..., Any],
    f_jvp: Callable[..., Any],
    args: Sequence[Any],
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
    allow_float32: bool = False,
) -> None:
    """Check a pushforward of `f` against numerical derivatives, along a random direction.

    Args:
      f: a pure function of pytrees of arrays.
      f_jvp: `f_jvp(primals, tangents) -> (output, tangent)`, as `partial(functrace.jvp, f)`.
      args: the positional arguments of `f`; see `check_grads`, also for the tolerances.
      atol, rtol, eps, allow_float32: see `check_grads`.
    Raises:
      DerivativeError: a tangent is not the numerical one, or the output is not that of `f`.

    >>> import functrace as ft, jax
    >>> from functools import partial
    >>> with jax.enable_x64(True):
    ...     ft.testing.check_jvp(lambda x: x ** 3, lambda x, dx: (x[0] ** 3, 3 * x[0] ** 2 * dx[0]), (2.0,))
    """
    point, settings = prepared("check_jvp", f, args, allow_float32, ("fwd",), atol, rtol, eps)
    join, count = joiner(args), len(point.outputs)

    def pushforward(xs: list[Any], dxs: list[Any]) -> tuple[list[Any], list[Any]]:
        y, dy = f_jvp(join(xs), join(dxs, zero_tangent))
        return result("check_jvp", "the output", y, count), result("check_jvp", "the tangent", dy, count)

    check_forward(point, pushforward, settings)


def check_vjp(
    f: Callable[..., Any],
    f_vjp: Callable[..., Any],
    args: Sequence[Any],
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
    allow_float32: bool = False,
) -> None:
    """Check a pullback of `f` against numerical derivatives, along a random direction.

    Args:
      f: a pure function of pytrees of arrays.
      f_vjp: `f_vjp(*args) -> (output, pullback)`, as `partial(functrace.vjp, f)`.
      args: the positional arguments of `f`; see `check_grads`, also for the tolerances.
      atol, rtol, eps, allow_float32: see `check_grads`.
    Raises:
      DerivativeError: a cotangent is not the numerical one, or the output is not that of `f`.

    >>> import functrace as ft, jax
    >>> with jax.enable_x64(True):
    ...     ft.testing.check_vjp(lambda x: x ** 3, lambda x: (x ** 3, lambda ct: (3 * x ** 2 * ct,)), (2.0,))
    """
    point, settings = prepared("check_vjp", f, args, allow_float32, ("rev",), atol, rtol, eps)
    join, count = joiner(args), len(point.outputs)

    def pullback(xs: list[Any], cts: list[Any]) -> tuple[list[Any], list[Any]]:
        y, pulled = f_vjp(*join(xs))
        leaves, tree = tree_util.tree_flatten(y)
        given = iter(cts)
        ct = [next(given) if aval_of(v).is_inexact else zero_tangent(aval_of(v)) for v in leaves]
        ct_xs = pulled(tree_util.tree_unflatten(tree, ct))
        found = result("check_vjp", "the cotangents", ct_xs, len(xs))
        return result("check_vjp", "the output", y, count), found

    check_reverse(point, pullback, settings)


def checked_modes(caller: str, modes: Sequence[str]) -> tuple[str, ...]:
    """The modes as a tuple."""
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or set(modes) - {"fwd", "rev"}:
        raise ArgumentError(f'{caller}: modes must be of "fwd" and "rev", got {modes!r}.{at(caller_source())}')
    return modes


def check_orders(point: Point, order: int, modes: tuple[str, ...], settings: Settings) -> None:
    """Check the first derivative in each mode, then, as functions, those derivatives."""

    pushforward, pullback = derivatives_of(point)
    for mode in modes:
        derivative, check = (pushforward, check_forward) if mode == "fwd" else (pullback, check_reverse)
        here = settings._replace(modes=(*settings.modes, mode))
        check(point, derivative, here)
        if order > 1:
            check_orders(derived_point(point, derivative, mode, order), order - 1, modes, here)


def derivatives_of(point: Point) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The pushforward `(xs, dxs) -> (ys, dys)` and the pullback `(xs, cts) -> (ys, ct_xs)` of a point's function."""

    def pushforward(xs: list[Any], dxs: list[Any]) -> tuple[list[Any], list[Any]]:
        return jvp(point.fun, (xs,), (dxs,))

    def pullback(xs: list[Any], cts: list[Any]) -> tuple[list[Any], list[Any]]:
        ys, pulled = vjp(point.fun, xs)
        return ys, pulled(cts)[0]

    return pushforward, pullback


def derived_point(point: Point, derivative: Callable[..., Any], mode: str, seed: int) -> Point:
    """A pushforward or pullback as a function of its point and its direction together."""
    n = len(point.xs)
    if mode == "fwd":
        what, given, made = "the tangent", point.inputs, point.outputs
        directions = draw(point.xs, (seed, 0))
    else:
        what, given, made = "the cotangent", point.outputs, point.inputs
        directions = draw(point.fun(point.xs), (seed, 0))

    def both(values: list[Any]) -> list[Any]:
        ys, moves = derivative(values[:n], values[n:])
        return [*ys, *moves]

    return Point(
        both,
        [*point.xs, *map(as_array, directions)],
        [*point.inputs, *[f"{what} of {name}" for name in given]],
        [*point.outputs, *[f"{what} of {name}" for name in made]],
        point.dtype,
    )


def check_forward(point: Point, pushforward: Callable[..., Any], settings: Settings) -> None:
    """The pushforward along a random direction, against the numerical derivative along it."""

    def compare(dxs: list[Any], along: str) -> None:
        ys, dys = pushforward(point.xs, dxs)
        check_value(point, ys, settings)
        numerical = directional(point, dxs, settings)
        for name, dy, expected, noise in zip(point.outputs, dys, numerical.dys, numerical.noise, strict=True):
            label = f"{settings.where}: the derivative of {name} along {along}"
            check_leaf(label, np.asarray(dy), expected, noise, settings, lambda: steps(point, dxs, settings))

    dxs = draw(point.xs, (len(settings.modes), 1))
    with_place(
        lambda: located(dxs, point.inputs, "all arguments", compare), point, forward_form(point, pushforward), settings
    )


def check_reverse(point: Point, pullback: Callable[..., Any], settings: Settings) -> None:
    """The pullback of a random cotangent, against the numerical derivative along a random direction."""

    def compare_pairing(cts: list[Any], dxs: list[Any], of: str, along: str) -> None:
        ys, ct_xs = pullback(point.xs, cts)
        check_value(point, ys, settings)
        for name, ct, x in zip(point.inputs, ct_xs, point.xs, strict=True):
            if not aval_of(ct).matches(aval_of(x)):
                raise DerivativeError(
                    f"{settings.where}: the cotangent of {name} has type {aval_of(ct)}, and must have that of the "
                    f"argument, {aval_of(x)}.{at(caller_source())}"
                )
        numerical = directional(point, dxs, settings)
        terms = [pairing(ct, dy) for ct, dy in zip(cts, numerical.dys, strict=True)]
        expected = sum(t.sum() for t in terms)
        got = sum(pairing(ct, dx).sum() for ct, dx in zip(ct_xs, dxs, strict=True))
        size = sum(np.abs(t).sum() for t in terms)
        noise = sum(np.abs(ct).sum() * n for ct, n in zip(cts, numerical.noise, strict=True))
        if not abs(got - expected) <= settings.atol + settings.rtol * size + noise:
            raise Mismatch(
                f"{settings.where}: the derivative of {of} along {along}, paired with a cotangent, is wrong: expected "
                f"{expected:.10g} (numerical), got {got:.10g}.{steps(point, dxs, settings)}{at(caller_source())}"
            )

    cts = draw(point.fun(point.xs), (len(settings.modes), 2))

    def compare(dxs: list[Any], along: str) -> None:
        located(cts, point.outputs, "all outputs", lambda cts, of: compare_pairing(cts, dxs, of, along))

    dxs = draw(point.xs, (len(settings.modes), 1))
    with_place(
        lambda: located(dxs, point.inputs, "all arguments", compare), point, reverse_form(point, pullback), settings
    )


def with_place(check: Callable[[], None], point: Point, form: Form, settings: Settings) -> None:
    """Run a check; where derivatives differ, add to its error which entry of which leaf is wrong."""
    try:
        check()
    except Mismatch as mismatch:
        error = placed(str(mismatch), point, form, settings)
    else:
        return
    raise error


def located(xs: list[Any], names: list[str], everything: str, compare: Callable[[list[Any], str], None]) -> None:
    """Compare for all arrays together; where that fails, for each with zeros in the place of the others."""
    if len(xs) == 1:
        return compare(xs, names[0])
    try:
        compare(xs, everything)
    except DerivativeError as error:
        failed = error
    else:
        return
    for i, name in enumerate(names):
        compare([x if i == j else np.zeros_like(x) for j, x in enumerate(xs)], name)
    raise failed


def check_value(point: Point, ys: list[Any], settings: Settings) -> None:
    """The value beside a derivative must be that of the function."""
    for name, y, expected in zip(point.outputs, ys, point.fun(point.xs), strict=True):
        label = f"{settings.where}: {name} beside the derivative"
        check_leaf(label, np.asarray(y), np.asarray(expected), 0.0, settings, lambda: "", "that of the function")


def check_leaf(
    label: str, got: Any, expected: Any, noise: float, settings: Settings, more: Callable[[], str],
    kind: str = "numerical",
) -> None:  # fmt: skip
    """Entries must agree, up to parts of the largest."""
    if got.shape != expected.shape or widened(got).dtype != widened(expected).dtype:
        raise DerivativeError(
            f"{label} has type {aval_of(got)}, and must have {aval_of(expected)}.{at(caller_source())}"
        )
    largest = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    allowed = settings.atol + settings.rtol * largest + noise
    with np.errstate(invalid="ignore"):
        error = np.abs(got - expected)
    wrong = ~(error <= allowed)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
        place = f" at index {tuple(int(i) for i in worst)}" if worst else ""
        count = f", {wrong.sum()} of {wrong.size} entries in all" if wrong.size > 1 else ""
        raise (Mismatch if kind == "numerical" else DerivativeError)(
            f"{label} is wrong{place}{count}: expected {expected[worst]:.10g} ({kind}), got {got[worst]:.10g}."
            f"{more()}{at(caller_source())}"
        )


__all__ = ["check_grads", "check_jvp", "check_vjp"]
