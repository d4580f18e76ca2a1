"""Derivatives held against numerical ones, at any order and in both modes.

    forward   jvp f (x, dx)          ==  d/dt f(x + t dx)
    reverse   <vjp f x ct, dx>       ==  <ct, d/dt f(x + t dx)>

A derivative is again a function, so order n checks the pushforward and the pullback of what order n - 1
has checked. Every check is along one random direction of all arguments together; where it fails, it is
repeated along one argument's leaf at a time, to name the place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import tree_util

from functrace.errors import ArgumentError, DerivativeError, DtypeError
from functrace.ir.source import caller_source
from functrace.tracing import aval_of
from functrace.tracing.tracer import at
from functrace.transforms import jvp, vjp
from functrace.transforms.arguments import check_callable, leaf_label, zero_tangent

DOUBLE = (np.dtype(np.float64), np.dtype(np.complex128))
EPS = 1e-4  # the step: what differences of fourth order leave out and what they round off are both near 1e-12
TOLERANCE = 1e-7


class Settings(NamedTuple):
    """Who checks, which derivative, and how closely."""

    caller: str
    modes: tuple[str, ...]  # of the derivative under test, the last one applied last
    atol: float
    rtol: float
    eps: float

    @property
    def where(self) -> str:
        """`check_grads: order 2, rev of fwd`."""
        return f"{self.caller}: order {len(self.modes)}, {' of '.join(reversed(self.modes))}"


class Point(NamedTuple):
    """A function of a list of double precision arrays to such a list, its arguments, and names of all leaves."""

    fun: Callable[[list[Any]], list[Any]]
    xs: list[Any]
    inputs: list[str]
    outputs: list[str]


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
) -> None:
    """Check derivatives of `f` up to an order against numerical ones, along random directions.

    Args:
      f: a pure function of pytrees of arrays.
      args: its positional arguments, of dtype float64 or complex128; integer leaves are constants.
      order: the highest order. Every sequence of that many modes is checked.
      modes: "fwd" (`functrace.jvp`), "rev" (`functrace.vjp`), or both.
      atol: how far a derivative may be off; by default 1e-7.
      rtol: the same, in parts of the largest entry of the numerical derivative; by default 1e-7.
      eps: step of the finite differences, which are of fourth order; by default 1e-4.
    Raises:
      DerivativeError: a derivative is not the numerical one; an AssertionError that names order, mode,
        output and argument by their pytree paths, and both values.
      DtypeError: an argument or an output is not in double precision.
      ArgumentError: the output is not finite.

    >>> import functrace as ft, jax, numpy as np
    >>> from functrace import numpy as fnp
    >>> with jax.enable_x64(True):
    ...     ft.testing.check_grads(lambda p: fnp.sin(p["a"] * p["b"]), ({"a": 0.5, "b": np.ones(3)},), order=2)
    """
    check_callable("check_grads", f)
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or set(modes) - {"fwd", "rev"}:
        raise ArgumentError(f'check_grads: modes must be of "fwd" and "rev", got {modes!r}.{at(caller_source())}')
    if not isinstance(order, int) or order < 1:
        raise ArgumentError(f"check_grads: order must be a positive int, got {order!r}.{at(caller_source())}")
    settings = made_settings("check_grads", (), atol, rtol, eps)
    check_orders(point_of("check_grads", f, args), order, modes, settings)


def check_jvp(
    f: Callable[..., Any],
    f_jvp: Callable[..., Any],
    args: Sequence[Any],
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
) -> None:
    """Check a pushforward of `f` against numerical derivatives, along a random direction.

    Args:
      f: a pure function of pytrees of arrays.
      f_jvp: `f_jvp(primals, tangents) -> (output, tangent)`, as `partial(functrace.jvp, f)`.
      args: the positional arguments of `f`; see `check_grads`, also for the tolerances.
      atol, rtol, eps: see `check_grads`.
    Raises:
      DerivativeError: a tangent is not the numerical one, or the output is not that of `f`.

    >>> import functrace as ft, jax
    >>> from functools import partial
    >>> with jax.enable_x64(True):
    ...     ft.testing.check_jvp(lambda x: x ** 3, lambda x, dx: (x[0] ** 3, 3 * x[0] ** 2 * dx[0]), (2.0,))
    """
    point = point_of("check_jvp", f, args)
    join, count = joiner(args), len(point.outputs)

    def pushforward(xs: list[Any], dxs: list[Any]) -> tuple[list[Any], list[Any]]:
        y, dy = f_jvp(join(xs), join(dxs, zero_tangent))
        return result("check_jvp", "the output", y, count), result("check_jvp", "the tangent", dy, count)

    check_forward(point, pushforward, made_settings("check_jvp", ("fwd",), atol, rtol, eps))


def check_vjp(
    f: Callable[..., Any],
    f_vjp: Callable[..., Any],
    args: Sequence[Any],
    atol: float | None = None,
    rtol: float | None = None,
    eps: float | None = None,
) -> None:
    """Check a pullback of `f` against numerical derivatives, along a random direction.

    Args:
      f: a pure function of pytrees of arrays.
      f_vjp: `f_vjp(*args) -> (output, pullback)`, as `partial(functrace.vjp, f)`.
      args: the positional arguments of `f`; see `check_grads`, also for the tolerances.
      atol, rtol, eps: see `check_grads`.
    Raises:
      DerivativeError: a cotangent is not the numerical one, or the output is not that of `f`.

    >>> import functrace as ft, jax
    >>> with jax.enable_x64(True):
    ...     ft.testing.check_vjp(lambda x: x ** 3, lambda x: (x ** 3, lambda ct: (3 * x ** 2 * ct,)), (2.0,))
    """
    point = point_of("check_vjp", f, args)
    join, count = joiner(args), len(point.outputs)

    def pullback(xs: list[Any], cts: list[Any]) -> tuple[list[Any], list[Any]]:
        y, pulled = f_vjp(*join(xs))
        leaves, tree = tree_util.tree_flatten(y)
        given = iter(cts)
        ct = [next(given) if aval_of(v).is_inexact else zero_tangent(aval_of(v)) for v in leaves]
        ct_xs = pulled(tree_util.tree_unflatten(tree, ct))
        found = result("check_vjp", "the cotangents", ct_xs, len(xs))
        return result("check_vjp", "the output", y, count), found

    check_reverse(point, pullback, made_settings("check_vjp", ("rev",), atol, rtol, eps))


def made_settings(
    caller: str, modes: tuple[str, ...], atol: float | None, rtol: float | None, eps: float | None
) -> Settings:
    """Settings with the defaults filled in."""
    atol, rtol = (TOLERANCE if t is None else t for t in (atol, rtol))
    return Settings(caller, modes, atol, rtol, EPS if eps is None else eps)


def check_orders(point: Point, order: int, modes: tuple[str, ...], settings: Settings) -> None:
    """Check the first derivative in each mode, then, as functions, those derivatives."""

    def pushforward(xs: list[Any], dxs: list[Any]) -> tuple[list[Any], list[Any]]:
        return jvp(point.fun, (xs,), (dxs,))

    def pullback(xs: list[Any], cts: list[Any]) -> tuple[list[Any], list[Any]]:
        ys, pulled = vjp(point.fun, xs)
        return ys, pulled(cts)[0]

    for mode in modes:
        derivative, check = (pushforward, check_forward) if mode == "fwd" else (pullback, check_reverse)
        here = settings._replace(modes=(*settings.modes, mode))
        check(point, derivative, here)
        if order > 1:
            check_orders(derived_point(point, derivative, mode, order), order - 1, modes, here)


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
    )


def check_forward(point: Point, pushforward: Callable[..., Any], settings: Settings) -> None:
    """The pushforward along a random direction, against the numerical derivative along it."""

    def compare(dxs: list[Any], along: str) -> None:
        ys, dys = pushforward(point.xs, dxs)
        check_value(point, ys, settings)
        numerical = directional(point, dxs, settings.eps)
        for name, dy, expected, noise in zip(point.outputs, dys, numerical.dys, numerical.noise, strict=True):
            label = f"{settings.where}: the derivative of {name} along {along}"
            check_leaf(label, np.asarray(dy), expected, noise, settings, lambda: steps(point, dxs, settings))

    dxs = draw(point.xs, (len(settings.modes), 1))
    located(dxs, point.inputs, "all arguments", compare)


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
        numerical = directional(point, dxs, settings.eps)
        terms = [pairing(ct, dy) for ct, dy in zip(cts, numerical.dys, strict=True)]
        expected = sum(t.sum() for t in terms)
        got = sum(pairing(ct, dx).sum() for ct, dx in zip(ct_xs, dxs, strict=True))
        size = sum(np.abs(t).sum() for t in terms)
        noise = sum(np.abs(ct).sum() * n for ct, n in zip(cts, numerical.noise, strict=True))
        if not abs(got - expected) <= settings.atol + settings.rtol * size + noise:
            raise DerivativeError(
                f"{settings.where}: the derivative of {of} along {along}, paired with a cotangent, is wrong: expected "
                f"{expected:.10g} (numerical), got {got:.10g}.{steps(point, dxs, settings)}{at(caller_source())}"
            )

    cts = draw(point.fun(point.xs), (len(settings.modes), 2))

    def compare(dxs: list[Any], along: str) -> None:
        located(cts, point.outputs, "all outputs", lambda cts, of: compare_pairing(cts, dxs, of, along))

    dxs = draw(point.xs, (len(settings.modes), 1))
    located(dxs, point.inputs, "all arguments", compare)


def located(
    xs: list[Any], names: list[str], everything: str, compare: Callable[[list[Any], str], None]
) -> None:
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


class Directional(NamedTuple):
    """The numerical derivative of each output, and the rounding error that may be in it."""

    dys: list[Any]
    noise: list[float]


def directional(point: Point, dxs: list[Any], eps: float) -> Directional:
    """Differences over one step and over two, extrapolated: what is left out is of order eps^4."""

    def evaluate(h: float) -> list[Any]:
        return [np.asarray(y) for y in point.fun([as_array(x + h * dx) for x, dx in zip(point.xs, dxs, strict=True)])]

    near, far = ([evaluate(h), evaluate(-h)] for h in (eps, 2 * eps))
    with np.errstate(invalid="ignore"):  # of infinities there is no derivative: NaN
        dys = [
            (4 * (up - down) / (2 * eps) - (far_up - far_down) / (4 * eps)) / 3
            for up, down, far_up, far_down in zip(*near, *far, strict=True)
        ]
    unit = np.finfo(np.float64).eps
    largest = [np.max(np.abs(y), initial=0.0, where=np.isfinite(y)) for y in near[0]]
    return Directional(dys, [16 * unit / eps * size for size in largest])


def steps(point: Point, dxs: list[Any], settings: Settings) -> str:
    """What to add to a message where the numerical derivative depends on the step."""
    here, half = (directional(point, dxs, eps) for eps in (settings.eps, settings.eps / 2))
    for name, dy, other, noise in zip(point.outputs, here.dys, half.dys, half.noise, strict=True):
        change = np.max(np.abs(dy - other), initial=0.0)
        if not change <= settings.atol + settings.rtol * np.max(np.abs(dy), initial=0.0) + noise:
            return (
                f" The numerical derivative of {name} changes by {change:.3g} when its step is halved: the function is "
                f"not smooth here, or eps={settings.eps:g} is too large."
            )
    return ""


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
    if got.shape != expected.shape or got.dtype != expected.dtype:
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
        raise DerivativeError(
            f"{label} is wrong{place}{count}: expected {expected[worst]:.10g} ({kind}), got {got[worst]:.10g}."
            f"{more()}{at(caller_source())}"
        )


def pairing(ct: Any, dx: Any) -> Any:
    """The terms of a cotangent applied to a tangent; complex numbers as pairs of reals."""
    return np.real(np.asarray(ct) * np.asarray(dx))


def draw(like: Sequence[Any], seed: tuple[int, int]) -> list[Any]:
    """A random direction in the space of some arrays, no entry near zero."""
    rng = np.random.default_rng(seed)

    def signed(shape: Any) -> Any:
        return rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape)

    return [
        np.asarray(signed(np.shape(x)) + 1j * signed(np.shape(x)) if np.iscomplexobj(x) else signed(np.shape(x)))
        for x in like
    ]


def as_array(x: Any) -> Any:
    """What the function is called with."""
    return jax.numpy.asarray(x)


def point_of(caller: str, f: Callable[..., Any], args: Sequence[Any]) -> Point:
    """`f` as a function of the inexact leaves of `args` alone, to its inexact outputs."""
    check_callable(caller, f)
    if not isinstance(args, tuple | list):
        raise DtypeError(
            f"{caller}: args must be a tuple with one entry a positional argument, got {type(args).__name__}."
            f"{at(caller_source())}"
        )
    leaves = tree_util.tree_leaves(tuple(args))
    moving = [i for i, x in enumerate(leaves) if aval_of(x).is_inexact]
    if not moving:
        raise DtypeError(f"{caller}: no leaf of args has a floating or complex dtype.{at(caller_source())}")
    names = [leaf_label(args, i) for i in moving]
    for i, name in zip(moving, names, strict=True):
        check_double(caller, name, leaves[i])
    join = joiner(args)

    def fun(xs: list[Any]) -> list[Any]:
        return [y for y in tree_util.tree_leaves(f(*join(xs))) if aval_of(y).is_inexact]

    xs = [as_array(leaves[i]) for i in moving]
    outputs = []
    for path, y in tree_util.tree_flatten_with_path(f(*join(xs)))[0]:
        if aval_of(y).is_inexact:
            outputs.append(f"the output{f' leaf {tree_util.keystr(path)}' if path else ''}")
            check_double(caller, outputs[-1], y)
            if not np.isfinite(y).all():
                raise ArgumentError(
                    f"{caller}: {outputs[-1]} is not finite, and has no derivative to check; choose other args, or "
                    f"leave those entries out.{at(caller_source())}"
                )
    if not outputs:
        raise DtypeError(f"{caller}: no output has a floating or complex dtype.{at(caller_source())}")
    return Point(fun, xs, names, outputs)


def check_double(caller: str, name: str, x: Any) -> None:
    """Numerical derivatives need double precision."""
    dtype = aval_of(x).dtype
    if dtype not in DOUBLE:
        raise DtypeError(
            f"{caller}: {name} has dtype {dtype}; numerical derivatives need float64 or complex128. Enable them, "
            '`jax.config.update("jax_enable_x64", True)` or `with jax.enable_x64(True):`, and cast to them '
            f"(`.astype(numpy.float64)`).{at(caller_source())}"
        )


def joiner(args: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
    """A function that puts inexact leaves back among the others (or among what `fill` makes of their types)."""
    leaves, tree = tree_util.tree_flatten(tuple(args))
    flags = [aval_of(x).is_inexact for x in leaves]

    def join(xs: Sequence[Any], fill: Callable[[Any], Any] | None = None) -> tuple[Any, ...]:
        rest = iter(xs)
        return tree_util.tree_unflatten(
            tree,
            [
                next(rest) if flag else x if fill is None else fill(aval_of(x))
                for x, flag in zip(leaves, flags, strict=True)
            ],
        )

    return join


def result(caller: str, what: str, tree: Any, count: int) -> list[Any]:
    """The inexact leaves of what a derivative under test returned, as many as there must be."""
    leaves = tree_util.tree_leaves(tree)
    found = [y for y in leaves if getattr(y, "dtype", None) != jax.dtypes.float0 and aval_of(y).is_inexact]
    if len(found) != count:
        raise DerivativeError(
            f"{caller}: {what} has {len(found)} floating or complex leaves, and must have {count}.{at(caller_source())}"
        )
    return found


__all__ = ["check_grads", "check_jvp", "check_vjp"]
