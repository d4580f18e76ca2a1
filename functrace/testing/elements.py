"""Every entry of a Jacobian against numerical derivatives: PyTorch's `gradcheck` and `gradgradcheck`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrace.errors import DerivativeError
from functrace.ir.source import caller_source
from functrace.testing.checks import check_value, checked_modes, derivatives_of, derived_point
from functrace.testing.numerical import Point, Settings, directional, moved
from functrace.testing.places import basis, described, dual_entries_of, entries_of, product
from functrace.testing.points import prepared
from functrace.tracing.tracer import at


def gradcheck(
    f: Callable[..., Any],
    args: Sequence[Any],
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = True,
    modes: Sequence[str] = ("rev", "fwd"),
    allow_float32: bool = False,
) -> bool:
    """Check every entry of the Jacobian of `f`, in both modes, against a numerical one.

    The cost is four calls of `f` for each entry of its arguments: `check_grads` is for large ones.

    Args:
      f: a pure function of pytrees of arrays.
      args: a tuple of its positional arguments, of dtype float64 or complex128; integer leaves are
        constants. Real and imaginary parts are checked apart.
      eps, atol, rtol, modes, allow_float32: see `check_grads`.
      raise_exception: False returns False where a derivative is wrong.
    Returns:
      True.
    Raises:
      DerivativeError: an entry is wrong; the message and the error's fields tell of the most wrong one.
      DtypeError: an argument or an output is not in double precision.
      ArgumentError: the output is not finite; unknown modes; a step or a tolerance that is none.

    >>> import functrace as ft, jax, numpy as np
    >>> with jax.enable_x64(True):
    ...     ft.testing.gradcheck(lambda p: p["a"] * p["b"], ({"a": 0.5, "b": np.ones(3)},))
    True
    """
    point, settings = prepared("gradcheck", f, args, allow_float32, (), atol, rtol, eps)
    return verdict(lambda: check_elements(point, checked_modes("gradcheck", modes), settings), raise_exception)


def gradgradcheck(
    f: Callable[..., Any],
    args: Sequence[Any],
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = True,
    modes: Sequence[str] = ("rev", "fwd"),
    allow_float32: bool = False,
) -> bool:
    """Check every entry of the derivatives of the pullback of `f`, by arguments and cotangents.

    Args:
      f, args, eps, atol, rtol, raise_exception, allow_float32: see `gradcheck`.
      modes: of the second derivative; the first is the pullback.
    Returns:
      True.
    Raises:
      DerivativeError: an entry is wrong; `leaf` is an argument, or the cotangent of an output.
      DtypeError: an argument or an output is not in double precision.
      ArgumentError: the output is not finite; unknown modes; a step or a tolerance that is none.

    >>> import functrace as ft, jax
    >>> with jax.enable_x64(True):
    ...     ft.testing.gradgradcheck(lambda x: x**3, (0.5,))
    True
    """
    point, settings = prepared("gradgradcheck", f, args, allow_float32, ("rev",), atol, rtol, eps)
    _, pullback = derivatives_of(point)
    derived = derived_point(point, pullback, "rev", 2)
    return verdict(lambda: check_elements(derived, checked_modes("gradgradcheck", modes), settings), raise_exception)


def verdict(check: Callable[[], None], raise_exception: bool) -> bool:
    """True, or the error, or False in its place."""
    try:
        check()
    except DerivativeError:
        if raise_exception:
            raise
        return False
    return True


def check_elements(point: Point, modes: tuple[str, ...], settings: Settings) -> None:
    """The Jacobian by columns (fwd) and by rows (rev), against differences along every entry."""
    ys = [np.asarray(y) for y in point.fun(point.xs)]
    inputs, outputs = entries_of(point.xs), dual_entries_of(ys)
    columns = [directional(point, basis(point.xs, [x]), settings) for x in inputs]
    shape = len(inputs), len(outputs)
    numerical = np.array([[product(basis(ys, [y]), c.dys) for y in outputs] for c in columns]).reshape(shape)
    noise = np.array([[c.noise[y.leaf] for y in outputs] for c in columns]).reshape(shape)
    pushforward, pullback = derivatives_of(point)
    for mode in modes:
        here = settings._replace(modes=(*settings.modes, mode))
        analytic = np.empty(shape)
        for i, x in enumerate(inputs if mode == "fwd" else []):
            values, dys = pushforward(point.xs, basis(point.xs, [x]))
            check_value(point, values, here)
            analytic[i] = [product(basis(ys, [y]), dys) for y in outputs]
        for j, y in enumerate(outputs if mode == "rev" else []):
            values, ct_xs = pullback(point.xs, basis(ys, [y]))
            check_value(point, values, here)
            analytic[:, j] = [product(ct_xs, basis(point.xs, [x])) for x in inputs]
        compare(point, here, ys, analytic, numerical, noise)


def compare(point: Point, settings: Settings, ys: list[Any], analytic: Any, numerical: Any, noise: Any) -> None:
    """Each entry of two Jacobians; the error is about the most wrong one."""
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(np.abs(analytic - numerical), nan=np.inf)
        is_wrong = ~(error <= settings.atol + settings.rtol * np.abs(numerical) + noise)
    if not is_wrong.any():
        return
    i, j = np.unravel_index(np.argmax(np.where(is_wrong, error, -1.0)), error.shape)
    x, y = entries_of(point.xs)[i], dual_entries_of(ys)[j]
    message = (
        f"{settings.where}: {is_wrong.sum()} of {is_wrong.size} entries of the Jacobian are wrong.{at(caller_source())}"
    )
    direction, one = basis(point.xs, [x]), basis(ys, [y])
    raise described(
        message, point, settings, x, y, float(analytic[i, j]), float(numerical[i, j]), float(noise[i, j]),
        lambda h: product(one, moved(point, direction, h)),
    )  # fmt: skip
