"""Which entry of which leaf a wrong derivative is wrong at, and whether the function is smooth there.

A derivative is the bilinear form `<ct, df dx>`. The entry of the argument is sought with a random ct, by
halving where there are many, then the entry of the output with that entry's dx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrace.errors import DerivativeError
from functrace.testing.numerical import Point, Settings, directional, draw, moved, pairing

ONE_BY_ONE = 64  # among so many entries the worst is looked for one by one


class Mismatch(DerivativeError):
    """A derivative that is not the numerical one, before its place is known."""


class Form(NamedTuple):
    """The derivative under test as `<ct, df dx>`, with either side given first."""

    given_cts: Callable[[list[Any]], Callable[[list[Any]], float]]
    given_dxs: Callable[[list[Any]], Callable[[list[Any]], float]]


class Entry(NamedTuple):
    """One real number in a list of arrays."""

    leaf: int
    index: tuple[int, ...]
    unit: complex  # 1, or for an imaginary part 1j (of a tangent) or -1j (of a cotangent)


def forward_form(point: Point, pushforward: Callable[..., Any]) -> Form:
    """Of a pushforward: `dx -> df dx`."""

    def given_dxs(dxs: list[Any]) -> Callable[[list[Any]], float]:
        _, dys = pushforward(point.xs, dxs)
        return lambda cts: product(cts, dys)

    return Form(lambda cts: lambda dxs: given_dxs(dxs)(cts), given_dxs)


def reverse_form(point: Point, pullback: Callable[..., Any]) -> Form:
    """Of a pullback: `ct -> ct df`."""

    def given_cts(cts: list[Any]) -> Callable[[list[Any]], float]:
        _, ct_xs = pullback(point.xs, cts)
        return lambda dxs: product(ct_xs, dxs)

    return Form(given_cts, lambda dxs: lambda cts: given_cts(cts)(dxs))


def placed(message: str, point: Point, form: Form, settings: Settings) -> DerivativeError:
    """The error with the place of the worst entry, if one by itself is wrong."""
    ys = [np.asarray(y) for y in point.fun(point.xs)]
    cts = draw(ys, (len(settings.modes), 3))
    analytic = form.given_cts(cts)

    def by_argument(entries: Sequence[Entry]) -> float:
        dxs = basis(point.xs, entries)
        return apart(analytic(dxs), product(cts, directional(point, dxs, settings).dys))

    x = worst(entries_of(point.xs), by_argument)
    dxs = basis(point.xs, [x])
    found, numerical = form.given_dxs(dxs), directional(point, dxs, settings)

    def by_output(entries: Sequence[Entry]) -> float:
        one = basis(ys, entries)
        return apart(found(one), product(one, numerical.dys))

    y = worst(dual_entries_of(ys), by_output)
    one = basis(ys, [y])
    return described(
        message, point, settings, x, y, found(one), product(one, numerical.dys), numerical.noise[y.leaf],
        lambda h: product(one, moved(point, dxs, h)),
    )  # fmt: skip


def described(
    message: str, point: Point, settings: Settings, x: Entry, y: Entry, analytic: float, numerical: float,
    noise: float, along: Callable[[float], float],
) -> DerivativeError:  # fmt: skip
    """The error about one entry; `along` is the function on the line through it."""
    error = apart(analytic, numerical)
    kink, sides = sides_of(along, settings)
    fields = {
        "leaf": point.inputs[x.leaf],
        "index": x.index,
        "output": point.outputs[y.leaf],
        "output_index": y.index,
        "analytic": analytic,
        "numerical": numerical,
        "error": error,
        "step": settings.eps,
        "kink": kink,
    }
    if error <= settings.atol + settings.rtol * abs(numerical) + noise:
        more = "No entry by itself is wrong: is the derivative linear in its direction?"
        return DerivativeError(f"{message}\n  {more}", step=settings.eps, kink=kink)
    more = (
        f"Most wrong is the derivative of {part(y, point.outputs)} by {part(x, point.inputs)}: analytic "
        f"{analytic:.10g}, numerical {numerical:.10g}, apart by {error:.3g}, with a step of {settings.eps:g}.{sides}"
    )
    return DerivativeError(f"{message}\n  {more}", **fields)


def part(entry: Entry, names: list[str]) -> str:
    """An entry in words: `argument 0 leaf ['w'] at index (1, 2)`."""
    of = "" if entry.unit == 1 else "the imaginary part of "
    return f"{of}{names[entry.leaf]}{f' at index {entry.index}' if entry.index else ''}"


def sides_of(along: Callable[[float], float], settings: Settings) -> tuple[bool, str]:
    """Whether a function on a line has a kink at 0, or so near that no step gets between, and what shows it."""
    here = along(0.0)
    gaps, slopes = [], []
    for h in (settings.eps, settings.eps / 8, settings.eps / 64):
        right, left = (along(h) - here) / h, (here - along(-h)) / h
        if not (np.isfinite(right) and np.isfinite(left)):
            return True, " The function is not finite on one side of this point: choose another."
        slopes.append((right, left))
        gaps.append(abs(right - left))
    allowed = settings.atol + settings.rtol * max(map(abs, slopes[2])) + 1024 * settings.unit / settings.eps * abs(here)
    if gaps[2] > max(gaps[0] / 2, allowed):
        right, left = slopes[2]
        return True, (
            f" This looks like a kink: the slope is {right:.6g} on the right and {left:.6g} on the left. Choose "
            "another point."
        )
    return not converges(along, settings), ""


def converges(along: Callable[[float], float], settings: Settings) -> bool:
    """Whether central differences settle as their step is halved, as those of a smooth function do: by 4 or 16."""
    slopes = [(along(h) - along(-h)) / (2 * h) for h in (settings.eps, settings.eps / 2, settings.eps / 4)]
    first, second = abs(slopes[1] - slopes[0]), abs(slopes[2] - slopes[1])
    noise = 64 * settings.unit / settings.eps * abs(along(0.0))
    return first <= settings.atol + settings.rtol * abs(slopes[2]) + noise or 0.04 * first < second < 0.5 * first


def worst(entries: list[Entry], gap: Callable[[Sequence[Entry]], float]) -> Entry:
    """The entry with the largest gap; of many, by way of the half whose gap is larger."""
    while len(entries) > ONE_BY_ONE:
        halves = entries[: len(entries) // 2], entries[len(entries) // 2 :]
        entries = max(halves, key=gap)
    return max(entries, key=lambda entry: gap([entry]))


def entries_of(arrays: Sequence[Any], imaginary: complex = 1j) -> list[Entry]:
    """Every real number in a list of arrays."""
    return [
        Entry(leaf, tuple(int(i) for i in index), unit)
        for leaf, x in enumerate(arrays)
        for index in np.ndindex(np.shape(x))
        for unit in ((1, imaginary) if np.iscomplexobj(x) else (1,))
    ]


def dual_entries_of(arrays: Sequence[Any]) -> list[Entry]:
    """The cotangents that read them: `Re(-i z)` is the imaginary part."""
    return entries_of(arrays, -1j)


def basis(like: Sequence[Any], entries: Sequence[Entry]) -> list[Any]:
    """The direction that is one (or i) at some entries and zero elsewhere."""
    direction = [np.zeros(np.shape(x), np.asarray(x).dtype) for x in like]
    for leaf, index, unit in entries:
        direction[leaf][index] += unit
    return direction


def product(cts: Sequence[Any], dxs: Sequence[Any]) -> float:
    """Cotangents applied to tangents."""
    return float(sum(pairing(ct, dx).sum() for ct, dx in zip(cts, dxs, strict=True)))


def apart(a: float, b: float) -> float:
    """How far two numbers are apart; Inf where that is NaN."""
    return float(np.nan_to_num(abs(a - b), nan=np.inf, posinf=np.inf))
