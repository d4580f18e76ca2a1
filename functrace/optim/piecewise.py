"""Schedules given by what happens at boundaries; the others are in schedules.py."""

from collections.abc import Mapping
from typing import Any, Literal

from functrace import numpy as fnp
from functrace.errors import ArgumentError
from functrace.optim.checking import failure
from functrace.optim.hyperparameters import Number, Schedule
from functrace.optim.schedules import check_length


def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: Mapping[int, Number] | None = None
) -> Schedule:
    """A value that is multiplied at each boundary.

    Args:
      init_value: the scalar to start from.
      boundaries_and_scales: from the step at which to multiply, to the factor.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a negative factor.

    >>> float(piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.5})(15))
    0.5
    """
    boundaries = _checked_boundaries("piecewise_constant_schedule", boundaries_and_scales)

    def schedule(count: Any) -> Any:
        value = init_value
        for boundary, factor in boundaries:
            value = fnp.where(count < boundary, value, value * factor)
        return value

    return schedule


def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Number,
    boundaries_and_scales: Mapping[int, Number] | None = None,
) -> Schedule:
    """A value that is multiplied from boundary to boundary, along lines or cosine arcs.

    Args:
      interpolate_type: "linear" or "cosine".
      init_value: the scalar to start from.
      boundaries_and_scales: from the step at which the factor has taken effect, to the factor.
    Returns:
      A schedule.
    Raises:
      ArgumentError: another type of interpolation, a negative factor.

    >>> float(piecewise_interpolate_schedule("linear", 1.0, {4: 0.5})(2))
    0.75
    """
    if interpolate_type not in ("linear", "cosine"):
        raise failure(
            ArgumentError,
            f"piecewise_interpolate_schedule: interpolate_type is {interpolate_type!r}; "
            "'linear' or 'cosine' was expected.",
        )
    boundaries = _checked_boundaries("piecewise_interpolate_schedule", boundaries_and_scales)

    def between(start: Any, end: Any, fraction: Any) -> Any:
        if interpolate_type == "linear":
            return start + (end - start) * fraction
        return end + (start - end) / 2 * (fnp.cos(fnp.pi * fraction) + 1)

    def schedule(count: Any) -> Any:
        begin, value, result = 0, init_value, init_value
        for boundary, factor in boundaries:
            target = value * factor
            inside = between(value, target, (count - begin) / max(boundary - begin, 1))
            result = fnp.where(count < begin, result, fnp.where(count < boundary, inside, target))
            begin, value = boundary, target
        return result

    return schedule


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Number,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Three straight lines: up to the peak, back down, and on down to nearly nothing.

    Args:
      transition_steps: length of the whole.
      peak_value: the scalar at the top.
      pct_start: the fraction of the steps at which the peak is reached.
      pct_final: the fraction at which the first value is reached again.
      div_factor: the first value is `peak_value / div_factor`.
      final_div_factor: the last value is the first one divided by it.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a length that is not positive.
    Source: Smith and Topin, Super-convergence (2017).

    >>> schedule = linear_onecycle_schedule(100, 1.0, div_factor=10.0)
    >>> [round(float(schedule(step)), 6) for step in (0, 30, 85)]
    [0.1, 1.0, 0.1]
    """
    check_length("linear_onecycle_schedule", "transition_steps", transition_steps)
    corners = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1 / div_factor,
        transition_steps: 1 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, corners)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Number,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Two cosine arcs: up to the peak, and down to nearly nothing.

    Args:
      transition_steps: length of the whole.
      peak_value: the scalar at the top.
      pct_start: the fraction of the steps at which the peak is reached.
      div_factor: the first value is `peak_value / div_factor`.
      final_div_factor: the last value is the first one divided by it.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a length that is not positive.
    Source: Smith and Topin, Super-convergence (2017).

    >>> schedule = cosine_onecycle_schedule(100, 1.0, div_factor=10.0)
    >>> [round(float(schedule(step)), 6) for step in (0, 15, 30)]
    [0.1, 0.55, 1.0]
    """
    check_length("cosine_onecycle_schedule", "transition_steps", transition_steps)
    corners = {
        int(pct_start * transition_steps): div_factor,
        transition_steps: 1 / (div_factor * final_div_factor),
    }
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, corners)


def _checked_boundaries(owner: str, boundaries_and_scales: Mapping[int, Any] | None) -> list[tuple[int, Any]]:
    boundaries = sorted((boundaries_and_scales or {}).items())
    for boundary, factor in boundaries:
        if isinstance(factor, int | float) and not factor >= 0:
            raise failure(
                ArgumentError, f"{owner}: the factor at step {boundary} is {factor}; it must be zero or more."
            )
    return boundaries
