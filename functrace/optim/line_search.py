"""A line search by zooming: a step that lowers the loss enough and flattens its slope enough (strong Wolfe conditions).

First the step grows until an interval that holds a good one is found, then the interval shrinks about it, by cubic or
quadratic interpolation where that is well inside, else by halving. Each turn evaluates the loss and its gradient once.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax

from functrace import lax, numpy as fnp, tree
from functrace.errors import ArgumentError
from functrace.optim.base import Transformation, increment, real_dtype
from functrace.optim.checking import as_arrays, check_count, check_match, check_state, checked, failure, only_part
from functrace.optim.guards import select
from functrace.optim.hyperparameters import Hyperparam, Hyperparams, Settings
from functrace.transforms import value_and_grad

Array = jax.Array
PyTree = Any
InitialGuess = Literal["keep", "one"]


class LineSearchState(NamedTuple):
    """State of `scale_by_zoom_linesearch`.

    Args:
      step: i32[], updates so far.
      hyperparams: the numbers that it was made with.
      step_size: what the last direction was multiplied by.
      value: the loss after that step; Inf before the first.
      grad: its gradient there.
      evaluations: i32[], of the loss and its gradient in the last search.
      decrease_error: by how much the loss is not low enough; 0 if it is.
      curvature_error: by how much the slope is not flat enough; 0 if it is.
    """

    step: Array
    hyperparams: Hyperparams
    step_size: Array
    value: Array
    grad: PyTree
    evaluations: Array
    decrease_error: Array
    curvature_error: Array


class Probe(NamedTuple):
    """A step along the line, and the loss and its slope there."""

    step: Array
    value: Array
    slope: Array


class Search(NamedTuple):
    """Where a search is: the last probe, the interval, a third point for the cubic, the best safe step."""

    count: Array
    interval_found: Array
    done: Array
    failed: Array
    last: Probe
    grad: PyTree
    low: Probe
    high: Probe
    third: Probe
    safe: Probe
    safe_grad: PyTree
    decrease_error: Array
    curvature_error: Array


def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: Hyperparam | None = None,
    tol: Hyperparam = 0.0,
    increase_factor: Hyperparam = 2.0,
    slope_rtol: Hyperparam = 1e-4,
    curv_rtol: Hyperparam = 0.9,
    approx_dec_rtol: Hyperparam | None = 1e-6,
    stepsize_precision: Hyperparam = 1e-5,
    initial_guess_strategy: InitialGuess = "keep",
) -> Transformation:
    """The direction times a step that satisfies the strong Wolfe conditions; the last part of a chain.

    Its update needs the loss, and its value and gradient at the parameters, which it computes if they
    are not given: `update(grads, state, params, value=..., grad=..., value_fn=...)`. What else the loss
    takes by name (a batch) is given by that name.

    Args:
      max_linesearch_steps: evaluations at most, an integer of 1 or more.
      max_learning_rate: the largest step; None for no limit.
      tol: how far the conditions may be missed.
      increase_factor: by how much the step grows while there is no interval.
      slope_rtol: the loss must fall by this part of what the slope promises.
      curv_rtol: the slope must fall to this part of what it was.
      approx_dec_rtol: how far the loss may rise, in parts of itself, where rounding hides its fall and
        the slope shows it; None for not at all.
      stepsize_precision: an interval as short as this ends the search.
      initial_guess_strategy: the first step to try: "keep", the last one found, or "one".
    Returns:
      A transformation with a `LineSearchState`. Where the conditions cannot be met, the step is the best
      that lowers the loss enough, or none if every step leads to Inf or NaN.
    Raises:
      ArgumentError: a number outside of the range of its name, an unknown strategy; no parameters or
        no `value_fn` given to `update`.
    Source: Nocedal and Wright, Numerical optimization, algorithms 3.5 and 3.6 (1999); Hager and Zhang,
      SIAM J. Optim. 16 (2005), for the approximate decrease.

    >>> import functrace.optim as optim
    >>> optimizer = optim.chain(optim.sgd(1.0), optim.scale_by_zoom_linesearch(10))
    >>> updates, state = optimizer.update(10.0, optimizer.init(1.0), 1.0, value_fn=lambda w: 5 * w**2)
    >>> -1.2 < float(updates) < -0.8
    True
    """
    owner = "scale_by_zoom_linesearch"
    check_count(owner, "max_linesearch_steps", max_linesearch_steps)
    if initial_guess_strategy not in get_args(InitialGuess):
        choices = ", ".join(map(repr, get_args(InitialGuess)))
        raise failure(
            ArgumentError,
            f"{owner}: initial_guess_strategy is {initial_guess_strategy!r}; one of {choices} was expected.",
        )
    given = {
        "max_learning_rate": max_learning_rate,
        "tol": tol,
        "increase_factor": increase_factor,
        "slope_rtol": slope_rtol,
        "curv_rtol": curv_rtol,
        "approx_dec_rtol": approx_dec_rtol,
        "stepsize_precision": stepsize_precision,
    }
    settings = Settings(owner, {name: value for name, value in given.items() if value is not None})

    def init(params: PyTree) -> LineSearchState:
        params = as_arrays(owner, "parameter", params)
        dtype = _dtype(params)
        one, infinite = fnp.ones((), dtype), fnp.full((), fnp.inf, dtype)
        return LineSearchState(
            step=fnp.zeros((), fnp.int32),
            hyperparams=settings.initial(),
            step_size=one,
            value=infinite,
            grad=tree.map(fnp.zeros_like, params),
            evaluations=fnp.zeros((), fnp.int32),
            decrease_error=infinite,
            curvature_error=infinite,
        )

    def update(
        direction: PyTree, state: LineSearchState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, LineSearchState]:
        direction, params = checked(owner, direction, params, needs_params=True)
        check_state(owner, state, LineSearchState)
        check_match(owner, "gradients", direction, "parameters given to init", state.grad)
        loss = _loss_of(owner, extra)
        value, grad = extra.get("value"), extra.get("grad")
        if value is None or grad is None:
            value, grad = loss(params)
        grad = as_arrays(owner, "gradient", grad)
        hyper = settings.at(state.step, state.hyperparams)
        guess = state.step_size if initial_guess_strategy == "keep" else fnp.ones_like(state.step_size)
        start = Probe(*[fnp.asarray(x, guess.dtype) for x in (0, value, _slope(grad, direction))])
        found = _searched(loss, params, direction, start, grad, guess, hyper, max_linesearch_steps)
        updates = tree.map(lambda d: (found.last.step * d).astype(d.dtype), direction)
        return updates, LineSearchState(
            step=increment(state.step),
            hyperparams=hyper,
            step_size=found.last.step,
            value=found.last.value,
            grad=tree.map(lambda new, old: new.astype(old.dtype), found.grad, state.grad),
            evaluations=found.count,
            decrease_error=found.decrease_error,
            curvature_error=found.curvature_error,
        )

    return Transformation(init, update, owner)


def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., tuple[Array, PyTree]]:
    """The loss and its gradient, from the last line search where that left them, else computed.

    Args:
      value_fn: the loss, a function of the parameters and further arguments; it must be the same at
        every step: not that of a new batch.
    Returns:
      A function `(params, *args, state, **kwargs) -> (value, grad)`.
    Raises:
      ArgumentError: the state has no line search in it, or several.

    >>> import functrace.optim as optim
    >>> optimizer, loss = optim.lbfgs(), lambda w: (w - 3.0) ** 2
    >>> params, state = 0.0, optimizer.init(0.0)
    >>> for _ in range(2):
    ...     value, grad = optim.value_and_grad_from_state(loss)(params, state=state)
    ...     updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
    ...     params = optim.apply_updates(params, updates)
    >>> round(float(params), 4)
    3.0
    """

    def found(params: PyTree, *args: Any, state: PyTree, **kwargs: Any) -> tuple[Array, PyTree]:
        part = only_part("value_and_grad_from_state", state, LineSearchState, "scale_by_zoom_linesearch")

        def anew() -> tuple[Array, PyTree]:
            value, grad = value_and_grad(value_fn)(
                as_arrays("value_and_grad_from_state", "parameter", params), *args, **kwargs
            )
            return value.astype(part.value.dtype), tree.map(lambda g, old: g.astype(old.dtype), grad, part.grad)

        return lax.cond(fnp.isfinite(part.value), lambda: (part.value, part.grad), anew)

    return found


def _searched(
    loss: Callable[[PyTree], tuple[Array, PyTree]],
    params: PyTree,
    direction: PyTree,
    start: Probe,
    grad: PyTree,
    guess: Array,
    hyper: Hyperparams,
    max_steps: int,
) -> Search:
    """The search, from the parameters along a direction, run to its end."""
    dtype = guess.dtype
    number = {name: hyper.cast(name, dtype) for name in hyper}
    longest = number.get("max_learning_rate", fnp.asarray(fnp.inf, dtype))

    def probe(step: Array) -> tuple[Probe, PyTree]:
        value, g = loss(tree.map(lambda p, d: p + (step * d).astype(p.dtype), params, direction))
        g = tree.map(lambda new, old: new.astype(old.dtype), g, grad)
        return Probe(step, value.astype(dtype), _slope(g, direction).astype(dtype)), g

    def errors(new: Probe) -> tuple[Array, Array]:
        fall = new.value - start.value
        decrease = fall - number["slope_rtol"] * new.step * start.slope
        if "approx_dec_rtol" in number:
            slope = new.slope - (2 * number["slope_rtol"] - 1) * start.slope
            rise = fall - number["approx_dec_rtol"] * fnp.abs(start.value)
            decrease = fnp.minimum(fnp.maximum(slope, rise), decrease)
        curvature = fnp.abs(new.slope) - number["curv_rtol"] * fnp.abs(start.slope)
        bounded = [fnp.maximum(error, 0) for error in (decrease, curvature)]
        return tuple(fnp.where(fnp.isnan(error), fnp.inf, error) for error in bounded)

    def turn(s: Search) -> Search:
        grown = fnp.where(s.count == 0, guess, number["increase_factor"] * s.last.step)
        new, new_grad = probe(fnp.where(s.interval_found, _inside(s), fnp.minimum(grown, longest)))
        decrease, curvature = errors(new)
        is_good = fnp.maximum(decrease, curvature) <= number["tol"]
        is_safer = (decrease <= number["tol"]) & (~s.interval_found | (new.value < s.safe.value))
        safe, safe_grad = select(is_safer, (new, new_grad), (s.safe, s.safe_grad))
        searched = _bracket(s, new, decrease)
        low, high, third = select(s.interval_found, _shrunk(s, new, decrease), searched[:3])
        interval_found = s.interval_found | searched[3] | is_good
        done = is_good | (~interval_found & (grown >= longest))
        too_short = s.interval_found & (fnp.abs(s.high.step - s.low.step) <= number["stepsize_precision"])
        failed = ~done & ((s.count + 1 >= max_steps) | (too_short & (safe.step > 0)))
        # Where the conditions cannot be met: the best step that lowers the loss, if there is one.
        falls_back = failed & ((safe.step > 0) | fnp.isinf(decrease))
        last, last_grad = select(falls_back, (safe, safe_grad), (new, new_grad))
        return Search(
            *(s.count + 1, interval_found, done, failed, last, last_grad),
            *(low, high, third, safe, safe_grad, decrease, curvature),
        )

    no, infinite = fnp.zeros((), bool), fnp.full((), fnp.inf, dtype)
    first = Search(
        *(fnp.zeros((), fnp.int32), no, no, no, start, grad),
        *(start, start, start, start, grad, infinite, infinite),
    )
    return lax.while_loop(lambda s: ~(s.done | s.failed), turn, first)


def _bracket(s: Search, new: Probe, decrease: Array) -> tuple[Probe, Probe, Probe, Array]:
    """The interval between the last two probes, its better end first, and whether it holds a good step."""
    is_beyond = (decrease > 0) | ((new.value >= s.last.value) & (s.count > 0))
    is_past = (new.slope >= 0) & ~is_beyond
    low, high = select(is_past, (new, s.last), (s.last, new))
    return low, high, low, is_beyond | is_past


def _shrunk(s: Search, new: Probe, decrease: Array) -> tuple[Probe, Probe, Probe]:
    """The part of the interval, on either side of a probe inside it, that holds a good step."""
    is_end = (decrease > 0) | (new.value >= s.low.value)
    turns = ~is_end & (new.slope * (s.high.step - s.low.step) >= 0)
    high = select(is_end, new, select(turns, s.low, s.high))
    return select(is_end, s.low, new), high, select(is_end | turns, s.high, s.low)


def _inside(s: Search) -> Array:
    """A step inside the interval: where the cubic, else the parabola, is least; else the middle."""
    low, high = s.low.step, s.high.step
    length, left, right = fnp.abs(high - low), fnp.minimum(low, high), fnp.maximum(low, high)
    cubic, parabola = _cubic_minimum(s.low, s.high, s.third), _parabola_minimum(s.low, s.high)
    is_cubic = (cubic > left + 0.2 * length) & (cubic < right - 0.2 * length)
    is_parabola = (parabola > left + 0.1 * length) & (parabola < right - 0.1 * length)
    return fnp.where(is_cubic, cubic, fnp.where(is_parabola, parabola, (low + high) / 2))


def _cubic_minimum(a: Probe, b: Probe, c: Probe) -> Array:
    """Where the cubic through three values and the first slope is least; NaN if nowhere."""
    to_b, to_c = b.step - a.step, c.step - a.step
    determinant = (to_b * to_c) ** 2 * (to_b - to_c)
    off_b, off_c = b.value - a.value - a.slope * to_b, c.value - a.value - a.slope * to_c
    by_cube = (to_c**2 * off_b - to_b**2 * off_c) / _nonzero(determinant)
    by_square = (-(to_c**3) * off_b + to_b**3 * off_c) / _nonzero(determinant)
    radical = by_square * by_square - 3 * by_cube * a.slope
    exists = (determinant != 0) & (radical >= 0) & (by_cube != 0)
    least = a.step + (-by_square + fnp.sqrt(fnp.where(exists, radical, 1))) / (3 * _nonzero(by_cube))
    return fnp.where(exists, least, fnp.nan)


def _parabola_minimum(a: Probe, b: Probe) -> Array:
    """Where the parabola through two values and the first slope is least; NaN if nowhere."""
    to_b = b.step - a.step
    by_square = (b.value - a.value - a.slope * to_b) / _nonzero(to_b**2)
    exists = (to_b != 0) & (by_square != 0)
    return fnp.where(exists, a.step - a.slope / (2 * _nonzero(by_square)), fnp.nan)


def _nonzero(x: Array) -> Array:
    return fnp.where(x == 0, 1, x)


def _slope(grad: PyTree, direction: PyTree) -> Array:
    """How the loss changes along a direction: its gradient is the conjugate of the steepest ascent."""
    terms = [fnp.sum(fnp.real(g * d)) for g, d in zip(tree.leaves(grad), tree.leaves(direction), strict=True)]
    return fnp.asarray(sum(terms))


def _dtype(params: PyTree) -> Any:
    dtypes = [real_dtype(leaf) for leaf in tree.leaves(params)]
    return fnp.result_type(*dtypes) if dtypes else fnp.float32


def _loss_of(owner: str, extra: dict[str, Any]) -> Callable[[PyTree], tuple[Array, PyTree]]:
    """The loss with its gradient, given what it takes by name."""
    value_fn = extra.get("value_fn")
    if not callable(value_fn):
        raise failure(
            ArgumentError,
            f"{owner}: update needs the loss; call `update(grads, state, params, value=..., grad=..., value_fn=loss)`.",
        )
    names = inspect.signature(value_fn).parameters
    named = {name: x for name, x in extra.items() if name in names and name not in ("value", "grad", "value_fn")}
    return lambda params: value_and_grad(value_fn)(params, **named)
