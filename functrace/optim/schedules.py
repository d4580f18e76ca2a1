"""Schedules: functions from the step count to a hyper-parameter, with optax's names and formulas.

The count is a Python integer or an i32[] array (the state's); the value is a scalar of float dtype.
Values given may be arrays or tracers, lengths are Python integers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from functrace import numpy as fnp
from functrace.errors import ArgumentError
from functrace.optim.checking import failure
from functrace.optim.hyperparameters import Number, Schedule


def constant_schedule(value: Number) -> Schedule:
    """The value at every step.

    Args:
      value: a scalar.
    Returns:
      A schedule.

    >>> constant_schedule(0.5)(100)
    0.5
    """
    return lambda count: value


def polynomial_schedule(
    init_value: Number,
    end_value: Number,
    power: Number,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    """`end + (init - end) (1 - t)^power`, t going from 0 to 1 over the transition.

    Args:
      init_value, end_value: scalars; held before and after the transition.
      power: of the polynomial.
      transition_steps: length of the transition.
      transition_begin: where it begins.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a length that is not positive, a negative beginning.

    >>> float(polynomial_schedule(1.0, 0.0, 2, transition_steps=4)(2))
    0.25
    """
    check_length("polynomial_schedule", "transition_steps", transition_steps)
    _check_beginning("polynomial_schedule", transition_begin)

    def schedule(count: Any) -> Any:
        # Subtracted before it is divided: `1 - 20 * (1 / 20)` may be below 0, its power NaN.
        left = transition_steps - fnp.clip(count - transition_begin, 0, transition_steps)
        return (init_value - end_value) * (left / transition_steps) ** power + end_value

    return schedule


def linear_schedule(
    init_value: Number, end_value: Number, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """From one value to the other on a straight line.

    Args:
      init_value, end_value: scalars; held before and after the transition.
      transition_steps: length of the transition.
      transition_begin: where it begins.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a length that is not positive, a negative beginning.

    >>> float(linear_schedule(0.0, 1.0, transition_steps=4)(1))
    0.25
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def exponential_decay(
    init_value: Number,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    """`init_value * decay_rate ** (steps / transition_steps)`.

    Args:
      init_value: the scalar to start from.
      transition_steps: steps in which the value is multiplied by `decay_rate` once.
      decay_rate: a positive number.
      transition_begin: where the decay begins.
      staircase: decay only at multiples of `transition_steps`.
      end_value: a bound that the value does not pass.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a length or a rate that is not positive, a negative beginning.

    >>> float(exponential_decay(1.0, transition_steps=10, decay_rate=0.25)(5))
    0.5
    """
    check_length("exponential_decay", "transition_steps", transition_steps)
    _check_beginning("exponential_decay", transition_begin)
    if not decay_rate > 0:
        raise failure(ArgumentError, f"exponential_decay: decay_rate is {decay_rate}; a positive number was expected.")

    def schedule(count: Any) -> Any:
        exponent = fnp.maximum(count - transition_begin, 0) / transition_steps
        value = init_value * fnp.power(decay_rate, fnp.floor(exponent) if staircase else exponent)
        if end_value is None:
            return value
        return (fnp.maximum if decay_rate < 1 else fnp.minimum)(value, end_value)

    return schedule


def cosine_decay_schedule(
    init_value: Number, decay_steps: int, alpha: Number = 0.0, exponent: Number = 1.0
) -> Schedule:
    """Half a cosine from `init_value` to `alpha * init_value`.

    Args:
      init_value: the scalar to start from.
      decay_steps: length of the decay; the last value is held after it.
      alpha: what is left at the end, as a fraction.
      exponent: to which the cosine's fall from 1 to 0 is raised.
    Returns:
      A schedule.
    Raises:
      ArgumentError: a length that is not positive.
    Source: Loshchilov and Hutter, SGDR, ICLR (2017).

    >>> round(float(cosine_decay_schedule(1.0, decay_steps=10)(5)), 6)
    0.5
    """
    check_length("cosine_decay_schedule", "decay_steps", decay_steps)

    def schedule(count: Any) -> Any:
        fall = 0.5 * (1 + fnp.cos(fnp.pi * fnp.minimum(count, decay_steps) / decay_steps))
        return init_value * ((1 - alpha) * fall**exponent + alpha)

    return schedule


def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    decay_steps: int,
    end_value: Number = 0.0,
    exponent: Number = 1.0,
) -> Schedule:
    """A straight line up to `peak_value`, then half a cosine down to `end_value`.

    Args:
      init_value, peak_value, end_value: scalars.
      warmup_steps: length of the line; 0 for none.
      decay_steps: length of the whole, the line included.
      exponent: as in `cosine_decay_schedule`.
    Returns:
      A schedule.
    Raises:
      ArgumentError: `warmup_steps` is negative or not less than `decay_steps`.
    Source: Loshchilov and Hutter, SGDR, ICLR (2017).

    >>> schedule = warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=4, decay_steps=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 2, 4, 7, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _check_warmup("warmup_cosine_decay_schedule", warmup_steps)
    if not warmup_steps < decay_steps:
        raise failure(
            ArgumentError,
            f"warmup_cosine_decay_schedule: decay_steps is {decay_steps} and warmup_steps "
            f"{warmup_steps}; decay_steps is the "
            "length of the whole, warm-up included, and must be larger.",
        )
    is_zero = isinstance(peak_value, int | float) and peak_value == 0
    alpha = 0.0 if is_zero else end_value / peak_value
    decay = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    return _after_warmup(init_value, peak_value, warmup_steps, decay)


def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    """A straight line up to `peak_value`, then exponential decay.

    Args:
      init_value, peak_value: scalars.
      warmup_steps: length of the line; 0 for none.
      transition_steps, decay_rate, transition_begin, staircase, end_value: as in
        `exponential_decay`, counted from the peak.
    Returns:
      A schedule.
    Raises:
      ArgumentError: as `exponential_decay`, or a negative `warmup_steps`.

    >>> schedule = warmup_exponential_decay_schedule(0.0, 1.0, 4, 10, decay_rate=0.25)
    >>> [float(schedule(step)) for step in (2, 4, 9)]
    [0.5, 1.0, 0.5]
    """
    _check_warmup("warmup_exponential_decay_schedule", warmup_steps)
    decay = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return _after_warmup(init_value, peak_value, warmup_steps, decay)


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Cosine decay with warm restarts: one `warmup_cosine_decay_schedule` after another.

    Args:
      cosine_kwargs: the arguments of each; `decay_steps` is also when the next begins.
    Returns:
      A schedule.
    Raises:
      ArgumentError: no cycles, or as `warmup_cosine_decay_schedule`.
    Source: Loshchilov and Hutter, SGDR, ICLR (2017).

    >>> cycle = {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": 10}
    >>> [round(float(sgdr_schedule([cycle, cycle])(step)), 6) for step in (0, 5, 10, 15)]
    [1.0, 0.5, 1.0, 0.5]
    """
    cycles = [dict(kwargs) for kwargs in cosine_kwargs]
    ends = [sum(cycle["decay_steps"] for cycle in cycles[: n + 1]) for n in range(len(cycles) - 1)]
    return join_schedules([warmup_cosine_decay_schedule(**cycle) for cycle in cycles], ends)


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another, each counting from its own beginning.

    Args:
      schedules: at least one.
      boundaries: the steps at which the second, third, ... begin.
    Returns:
      A schedule.
    Raises:
      ArgumentError: the number of boundaries is not one less than that of schedules.

    >>> float(join_schedules([constant_schedule(1.0), linear_schedule(2.0, 0.0, 4)], [10])(12))
    1.0
    """
    if len(schedules) != len(boundaries) + 1:
        raise failure(
            ArgumentError,
            f"join_schedules: {len(schedules)} schedules and {len(boundaries)} boundaries; "
            "one boundary fewer than schedules was expected.",
        )

    def schedule(count: Any) -> Any:
        value = schedules[0](count)
        for boundary, following in zip(boundaries, schedules[1:], strict=True):
            value = fnp.where(count < boundary, value, following(count - boundary))
        return value

    return schedule


def _after_warmup(init_value: Number, peak_value: Number, warmup_steps: int, decay: Schedule) -> Schedule:
    if warmup_steps == 0:
        return decay
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), decay], [warmup_steps])


def check_length(owner: str, name: str, steps: int) -> None:
    """Raise an ArgumentError unless the number of steps is positive."""
    if not steps > 0:
        raise failure(ArgumentError, f"{owner}: {name} is {steps}; a positive number of steps was expected.")


def _check_warmup(owner: str, steps: int) -> None:
    if steps < 0:
        raise failure(ArgumentError, f"{owner}: warmup_steps is {steps}; it must be zero or more.")


def _check_beginning(owner: str, transition_begin: int) -> None:
    if transition_begin < 0:
        raise failure(ArgumentError, f"{owner}: transition_begin is {transition_begin}; it must be zero or more.")
