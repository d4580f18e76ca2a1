"""find_nonfinite: the first equation that made a NaN or an Inf, with the user's line.

The Program carries a small state past its equations (`finiteness`), runs compiled, once, and what it noted is read
back (`blame`). Where there is something to report, the equation to blame is run to once more, for its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from jax import tree_util

from functrace import rewrites
from functrace.debug.blame import BAD, NAN, Cause, Event, Frame, Record
from functrace.debug.finiteness import Capture, Finiteness, has_value, is_suspect, loops_in
from functrace.debug.remedies import NOT_READ, TRAP, Made, remedy, zero
from functrace.debug.report import CLOSED_OVER, Range, Report, Step, line_of
from functrace.errors import DtypeError, RuleError
from functrace.ir import Builder, Equation, Literal, Program, Var, is_complex
from functrace.ir.primitive import open_builder
from functrace.ir.source import caller_source
from functrace.lower.execute import known, run_compiled
from functrace.rewrites.memo import copy_input, memoised
from functrace.rewrites.thread import extent, held_by, thread
from functrace.tracing import aval_of, trace
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_call, check_callable

FAR = 40  # equations that a report goes back
NEAR = 12  # equations from a product back to the `where` that masked its factor
READ_A_PART = ("slice", "split", "unstack", "gather", "dynamic_slice")


def find_nonfinite(fun: Callable[..., Any], grad: bool | None = None) -> Callable[..., Report]:
    """A function that runs `fun` and reports where its first NaN or Inf comes from.

    The outputs decide: if they are finite, nothing is reported, whatever was masked on the way. If not, the report
    names the first equation that made a NaN or an Inf from finite operands and that an output depends on; and where
    only infinities are to blame that the user wrote or passed, the equation that made NaN of them. The Program of `fun`
    runs compiled, once, with one reduction an equation added; a step of training takes less than twice its time.

    Args:
      fun: a pure function of pytrees of arrays: a loss, a gradient, a jitted step of training.
      grad: whether the gradient in all inexact leaves of the first argument is checked too. By default it is for a
        function to one real scalar that computes no derivative itself.
    Returns:
      A function with the arguments of `fun` that returns a Report.
    Raises:
      DtypeError: `grad` is True and the function's first output is not a real scalar, or its first argument has no
        inexact leaf.
      RuleError: it is called inside another transform, where there are no values to look at.

    >>> import functrace as ft, numpy as np
    >>> from functrace import numpy as fnp
    >>> report = ft.debug.find_nonfinite(lambda x: fnp.log(x).sum())(np.array([1.0, 0.0]))
    >>> report.found, report.phase, report.primitive
    (True, 'forward', 'log')
    >>> ft.debug.find_nonfinite(lambda x: fnp.where(x > 0, fnp.log(x), 0.0))(np.array([1.0, 0.0])).found
    False
    """
    check_callable("find_nonfinite", fun)

    @wraps(fun)
    def report(*args: Any, **kwargs: Any) -> Report:
        if open_builder() is not None:
            raise RuleError(
                "find_nonfinite: called inside a trace, where there are no values to look at. Call it outside of jit, "
                f"grad and vmap, with the function that they made.{at(caller_source())}"
            )
        check_call("find_nonfinite", fun, args, kwargs)
        traced = trace(fun, args, kwargs, transform="find_nonfinite", concrete=True, own_lines=True)
        values = [*traced.captures, *tree_util.tree_leaves((args, kwargs))]
        captured = len(traced.captures)
        first = tree_util.tree_structure(args[0]).num_leaves if args else 0
        names = output_names(traced.out_tree)
        program = with_gradient(traced.program, range(captured, captured + first), grad)
        if program is not traced.program:
            paths = tree_util.tree_flatten_with_path(args[0])[0]
            names += [f"gradient{tree_util.keystr(p)}" for p, x in paths if aval_of(x).is_inexact]
        return examine(program, values, names)

    return report


def output_names(tree: Any) -> list[str]:
    """A name an output."""
    leaves = tree_util.tree_unflatten(tree, range(tree.num_leaves))
    return [f"output{tree_util.keystr(path)}" for path, _ in tree_util.tree_flatten_with_path(leaves)[0]]


def with_gradient(program: Program, arguments: Sequence[int], asked: bool | None) -> Program:
    """The Program, followed by its gradient in some inputs where that is asked for, or goes without saying."""
    moving = tuple([i in arguments and v.aval.is_inexact for i, v in enumerate(program.inputs)])
    outputs = program.out_avals
    scalar = bool(outputs) and not outputs[0].shape and outputs[0].is_inexact and not is_complex(outputs[0].dtype)
    if asked and not (scalar and any(moving)):
        found = ", ".join(map(str, outputs)) or "nothing"
        raise DtypeError(
            "find_nonfinite: grad=True needs a function to a real scalar with an inexact array in its first argument; "
            f"this one gives {found}. Leave grad out, or pass the gradient function itself.{at(caller_source())}"
        )
    if asked is None:
        asked = scalar and len(outputs) == 1 and any(moving) and not differentiates(program)
    return rewrites.pullback(program, moving) if asked else program


@memoised
def differentiates(program: Program) -> bool:
    """Whether equations of a Program belong to a derivative."""
    return any(
        (eqn.source is not None and eqn.source.is_derivative)
        or any(map(differentiates, held_by(eqn)))
        for eqn in program.equations
    )


def examine(program: Program, values: Sequence[Any], names: Sequence[str] = ()) -> Report:
    """The report on a Program at these values; `names` are those of its outputs."""
    watch = Finiteness(extent(program, Finiteness(0, 0)), loops_in(program))
    first, *ys = run_compiled(thread(known(program), watch), [*watch.initial(), *values])
    if not is_suspect(ys):
        return Report(False)
    kinds = [kind_of(y) for y in ys]
    bad = [(x, kind) for x, kind in zip(program.outputs, kinds, strict=True) if kind is not None]
    inputs = [kind_of(x) for x in values]
    root = Frame(program, watch)
    record = Record(root, np.asarray(first), [(kind is not None, kind == NAN) for kind in inputs])
    cause = record.blame(bad)
    if cause is None:
        return Report(False)
    reached = tuple([name for name, kind in zip(names, kinds, strict=False) if kind is not None])
    if cause.argument is not None:
        return of_argument(cause.argument, reached)
    return described(program, values, cause, reached)


def kind_of(x: Any) -> int | None:
    """BAD for an array with an Inf and no NaN, NAN for one with a NaN, None for a finite one."""
    if not aval_of(x).is_inexact:
        return None
    x = np.asarray(x)
    if not np.isfinite(x).all():
        return NAN if np.isnan(x).any() else BAD
    return None


def of_argument(argument: Var, reached: tuple[str, ...]) -> Report:
    """The report where an input was NaN already."""
    name = argument.name or CLOSED_OVER
    fix = "Look for where it comes from: the data, or an earlier step."
    return Report(True, "forward", argument=name, inputs=(name,), outputs=reached, cause="NaN on input", fix=fix)


def described(program: Program, values: Sequence[Any], cause: Cause, reached: tuple[str, ...]) -> Report:
    """The report on an equation: its values are captured, and the way back to the inputs is followed."""
    event = cause.event
    assert event is not None
    eqn, source = event.equation, event.source
    events = [event] if cause.spoiled is None else [event, cause.spoiled]
    captured = capture(program, values, events)
    operands, results = captured[0]
    result = next((y for y in results if not np.isfinite(y).all()), results[0])
    rewrite = eqn.source.rewrite if eqn.source else ""
    steps = tuple([~s if s < 0 else s for s in event.steps])
    path, inputs = way_back(event, suspect(eqn, operands))
    happened, fix = explained(cause, captured, rewrite)
    return Report(
        found=True,
        phase="backward" if event.is_derivative else "forward",
        file=source.file or None,
        line=source.line or None,
        function=source.function or None,
        scope=source.scope,
        text=line_of(source.file, source.line),
        primitive=eqn.primitive.name,
        rewrite=rewrite,
        iteration=steps[-1] if steps else None,
        iterations=steps,
        row=row_of(rewrite, result),
        operands=tuple([Range.of(x) for x in operands]),
        result=Range.of(result),
        path=path,
        inputs=inputs,
        cause=happened,
        fix=fix,
        outputs=reached,
    )


def explained(cause: Cause, captured: Sequence[tuple[list[Any], list[Any]]], rewrite: str) -> tuple[str, str]:
    """What happened, and what helps."""
    event, spoiled = cause.event, cause.spoiled
    assert event is not None
    numbers = [[as_numbers(x) for x in operands] for operands, _ in captured]
    for e, operands in zip((event, spoiled), numbers, strict=False):
        if e is not None and (masking := masked_factor(e, operands)) is not None:
            row, kind = (TRAP, "`where`") if masking.primitive.name == "select_n" else (NOT_READ, rewritten(masking))
            at_line = f" (the {kind} at {masking.source})" if masking.source and masking.source.file else ""
            return row.cause + at_line, row.fix
    row = remedy(Made(event.equation.primitive.name, rewrite.rpartition(" of ")[2], event.is_derivative, numbers[0]))
    if spoiled is None:
        return row.cause, row.fix
    return f"{row.cause}; it became NaN in {spoiled.equation.primitive.name} at {spoiled.source}", row.fix


def capture(program: Program, values: Sequence[Any], events: Sequence[Event]) -> list[tuple[list[Any], list[Any]]]:
    """The operands and the results of each event, but for random keys."""
    watch = Capture(tuple([e.target for e in events]))
    threaded = thread(program, watch)
    count = len(watch.state)
    with Builder() as b:  # only what the captured values need
        outputs = b.inline(threaded, [copy_input(b, v) for v in threaded.inputs])
        needed = b.build(outputs[:count])
    kept = iter([np.asarray(x) for x in run_compiled(needed, [*watch.initial(), *values])])
    found = []
    for target in watch.targets:
        operands = [next(kept) for x in target.equation.inputs if has_value(x)]
        found.append((operands, [next(kept) for x in target.equation.outputs if has_value(x)]))
    return found


def as_numbers(x: Any) -> np.ndarray[Any, Any]:
    """An array that NumPy computes with: its dtype, or float32 for narrower ones that it does not know."""
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def suspect(eqn: Equation, operands: Sequence[Any]) -> list[Any]:
    """The operands that have a 0 or something negative, if some do and some do not; all of them else."""
    read = [x for x in eqn.inputs if has_value(x)]
    low = [x for x, value in zip(read, operands, strict=True) if type(x) is Var and np.any(np.real(value) <= 0)]
    return low if len(low) == 1 else list(eqn.inputs)


def way_back(event: Event, operands: Sequence[Any]) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Equations from some operands of an event back to an input of the Program, and the name of that input."""
    frame = event.frame
    steps: list[Step] = []
    for _ in range(FAR):
        x = latest(frame, operands)
        while x in frame.position and frame.around is not None:
            frame, x = frame.around, frame.outer(frame.position[x])
        if type(x) is not Var:
            return tuple(steps), ()
        if x in frame.position:
            return tuple(steps), (x.name or CLOSED_OVER,)
        i, j = frame.definitions[x]
        inside = frame.inside(i)
        while inside and j < len(inside[0].program.outputs):
            y = inside[0].program.outputs[j]
            if y not in inside[0].definitions:
                break
            frame = inside[0]
            i, j = frame.definitions[y]
            inside = frame.inside(i)
        eqn, operands = frame.program.equations[i], frame.program.equations[i].inputs
        source = Event(frame, i, ()).source
        step = Step(eqn.primitive.name, source.file or None, source.line or None)
        if not eqn.primitive.keeps_values and (not steps or str(steps[-1]) != str(step)):
            steps.append(step)
    return tuple(steps), ()


def latest(frame: Frame, xs: Sequence[Any]) -> Any:
    """The operand that was computed last, one of inexact type if there is one; a literal if there are only such."""
    variables = [x for x in xs if type(x) is Var]
    if not variables:
        return xs[0] if xs else Literal(0, aval_of(0.0))
    order = lambda x: (x.aval.is_inexact, frame.definitions.get(x, (-1, 0))[0])
    return max(variables, key=order)


def masked_factor(event: Event, operands: Sequence[Any]) -> Equation | None:
    """The `where` whose branch not taken an event spoiled, or the reading that left it out: the select, or the
    transpose of a slice, behind a factor that is 0 where the other one is Inf, or where it is divided by 0."""
    eqn = event.equation
    if eqn.primitive.name not in ("mul", "div") or len(operands) != 2:
        return None
    x, y = operands
    if x.dtype.kind not in "fc" or y.dtype.kind not in "fc":
        return None
    for i, (factor, other) in enumerate(((x, y), (y, x))):
        spoils = zero(factor) & (np.isinf(other) | (zero(other) if eqn.primitive.name == "div" else False))
        if np.any(spoils) and (found := behind(event.frame, eqn.inputs[i])) is not None:
            return found
    return None


def behind(frame: Frame, x: Any) -> Equation | None:
    """The nearest select, or transpose of what reads a part, that a value was made by, a few equations back."""
    waiting = [x]
    for _ in range(NEAR):
        while waiting and (x := waiting.pop(0)) in frame.position and frame.around is not None:
            frame, x = frame.around, frame.outer(frame.position[x])
        if type(x) is not Var or x not in frame.definitions:
            if not waiting:
                return None
            continue
        eqn = frame.program.equations[frame.definitions[x][0]]
        if eqn.primitive.name == "select_n" or rewritten(eqn) in READ_A_PART:
            return eqn
        waiting += [v for v in eqn.inputs if type(v) is Var]
    return None


def rewritten(eqn: Equation) -> str:
    """The primitive that an equation is the transpose of; "" for none."""
    rule, _, name = (eqn.source.rewrite if eqn.source else "").rpartition(" of ")
    return name if rule.endswith("transpose") else ""


def row_of(rewrite: str, result: np.ndarray[Any, Any]) -> int | None:
    """The first row that is not finite of what a vmap made: its batch axis comes first."""
    if "batch of " not in rewrite or not result.ndim:
        return None
    return int(np.argwhere(~np.isfinite(result))[0][0])
