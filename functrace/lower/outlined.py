"""Runs of equations that come again and again are one function, called as often.

A jaxpr costs JAX its lowering equation by equation, but that of a jitted function it lowers once, however many call it.
So the layers of a deep model, forward and backward, and the updates of its optimizer are a function each. XLA puts
functions in place of their calls before anything else, so that its code is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jax.extend import core

from functrace.ir import Var
from functrace.ir.repeats import Stretch, stretches
from functrace.lower.forms import Call, Form, as_jitted, call_of_jitted, jaxpr_of, type_of, written

LEAST = 64  # equations of JAX's that a function saves
A_CALL = 8  # equations that its call costs as much as


class Repetition(NamedTuple):
    """A part of the calls that is like others: what each of its inputs is, what is read from elsewhere, what is made.

    An input is the number of what the part has made before, or -1 for the next of those from elsewhere.
    """

    kinds: tuple[int, ...]
    outside: list[Var]
    made: dict[Var, int]


def repetition(calls: Sequence[Call]) -> Repetition:
    """These calls as a part of all."""
    kinds: list[int] = []
    outside: list[Var] = []
    made: dict[Var, int] = {}
    count = 0
    for _, xs, ys in calls:
        for x in xs:
            kinds.append(made.get(x, -1))
            if x not in made:
                outside.append(x)
        for y in ys:  # a value may be put in the place of another one
            made[y] = count
            count += 1
    return Repetition(tuple(kinds), outside, made)


def outlined(
    calls: Sequence[Call], forms: Sequence[Form], results: Sequence[Var]
) -> tuple[Sequence[Call], Sequence[Form]]:
    """Calls that make the same `results`, each run that comes again one call of a new form."""
    sizes = [len(forms[call.form].equations) for call in calls]
    runs: list[Stretch] = []
    for stretch in stretches([call.form for call in calls], sizes, fewest=2, least=LEAST):
        is_long = sum(sizes[stretch.start : stretch.start + stretch.period]) > A_CALL
        if is_long and not any([stretch.overlaps(run) for run in runs]):
            runs.append(stretch)
    read = {x: i for i, call in enumerate(calls) for x in call.inputs}  # where a value is read last
    read.update(dict.fromkeys(results, len(calls)))
    fewer: list[Call] = []
    more = list(forms)
    end = 0
    for run in sorted(runs):
        starts = range(run.start, run.stop - run.period + 1, run.period)
        repetitions = [repetition(calls[i : i + run.period]) for i in starts]
        usual = Counter([each.kinds for each in repetitions]).most_common(1)[0][0]
        alike = [i for i, each in enumerate(repetitions) if each.kinds == usual]
        # An operand is a value from elsewhere: one that is the same in all of them, or one for each.
        columns = list(zip(*[repetitions[i].outside for i in alike], strict=True))
        operands = list(dict.fromkeys(columns))
        needed = sorted({
            number
            for i in alike
            for v, number in repetitions[i].made.items()
            if read.get(v, -1) >= starts[i] + run.period
        })  # fmt: skip
        names = [{number: v for v, number in repetitions[i].made.items()} for i in alike]
        body = calls[starts[alike[0]] :][: run.period]
        more.append(function(body, forms, [xs[0] for xs in operands], [names[0][n] for n in needed]))
        fewer += calls[end : run.start]
        for i, start in enumerate(starts):
            if i in alike:
                k = alike.index(i)
                fewer.append(Call(len(more) - 1, [xs[k] for xs in operands], [names[k][n] for n in needed]))
            else:
                fewer += calls[start : start + run.period]
        end = starts[-1] + run.period
    return [*fewer, *calls[end:]], more


def function(calls: Sequence[Call], forms: Sequence[Form], inputs: Sequence[Var], outputs: Sequence[Var]) -> Form:
    """The form that is one call of the function of these calls."""
    read = [x for call in calls for x in forms[call.form].fixed]
    fixed = list(dict.fromkeys([x for x in read if not isinstance(x, core.Literal)]))
    constants = [core.Var(x.aval) for x in fixed]
    own = [core.Var(type_of(x.aval)) for x in inputs]
    env = {**dict(zip(fixed, constants, strict=True)), **dict(zip(inputs, own, strict=True))}
    equations = written(calls, forms, env)
    results = [env[x] for x in outputs]
    jaxpr = jaxpr_of([*constants, *own], equations, results, "repeated")
    call = call_of_jitted().replace(params=as_jitted(jaxpr))
    count = len(jaxpr.invars)
    return Form(fixed, [(call, range(count), [x.aval for x in results])], range(count, count + len(results)))
