"""The law of `thread`: results are those of the Program, and an equation is seen as often as it runs."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.control import Scan
from functrace.ir import Aval
from functrace.lower import execute
from functrace.primitives.binary import max_
from functrace.primitives.elementwise import I32, add
from functrace.primitives.indexing import dynamic_slice, dynamic_update_slice
from functrace.primitives.space import broadcast_to, reshape
from functrace.rewrites.thread import extent, numbered, thread
from functrace.tracing import trace
from tests.against_jax import Case, Library, compute
from tests.control.table import OUR_FUNCTIONS, ROWS

NEVER = -(2**30)
LOOPS = ("scan", "while", "while_saved", "linear_while", "reversed_while")


class Counting(NamedTuple):
    """How often each equation ran, and the last step of the innermost loop when it did."""

    size: int

    @property
    def state(self):
        return (Aval((self.size,), I32),) * 2

    def sees(self, equation):
        return not equation.outputs[0].aval.weak_type

    def __call__(self, place, state, seen):
        counts, last = state
        old = dynamic_slice(counts, [place.number], (len(seen),))
        counts = dynamic_update_slice(counts, add(old, 1), place.number)
        if place.steps:
            step = broadcast_to(reshape(place.steps[-1], (1,)), (len(seen),))
            before = dynamic_slice(last, [place.number], (len(seen),))
            last = dynamic_update_slice(last, max_(before, step), place.number)
        return counts, last


def watched(f, *xs):
    """The results of f at xs, those of its threaded Program, and for each number its path, count and last step."""
    traced = trace(f, xs, transform="test")
    program, values = traced.program, [*traced.captures, *jax.tree.leaves(xs)]
    watch = Counting(extent(program, Counting(0)))
    threaded = thread(program, watch).verify()
    state = [np.zeros(watch.size, np.int32), np.full(watch.size, NEVER, np.int32)]
    counts, last, *ys = execute(threaded, [*state, *values])
    paths = list(numbered(program, watch))
    assert len(paths) == watch.size
    return execute(program, values), ys, list(zip(paths, np.asarray(counts), np.asarray(last), strict=True))


@pytest.mark.parametrize("row", ROWS, ids=[r.names[0] for r in ROWS])
@pytest.mark.parametrize("check", ["vjp", "grad of grad", "vmap of grad"])
def test_results_are_those_of_the_program(row, check):
    case = Case(row, "float32")
    ours = Library(ft, fnp, OUR_FUNCTIONS)
    f = case.function(ours, row.names[0])
    run = lambda *xs: jax.tree.leaves(compute(check, ours, f, case, xs, case.dxs, case.batch))
    expected, found, counted = watched(run, *case.xs)
    for y, z in zip(expected, found, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
    for path, count, last in counted:
        loops = [eqn.primitive for eqn in path[:-1] if eqn.primitive.name in LOOPS]
        if all(isinstance(p, Scan) for p in loops) and not any(eqn.primitive.name == "cond" for eqn in path):
            assert count == np.prod([p.length for p in loops], initial=1)
            if loops and count:
                assert last == (-1 if loops[-1].reverse else loops[-1].length - 1)
