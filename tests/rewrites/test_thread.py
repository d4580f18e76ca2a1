"""The law of `thread`: results are those of the Program, and an equation is seen as often as it runs."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.control import Scan, WhileSaved
from functrace.ir import Aval
from functrace.lower import evaluate, execute
from functrace.primitives.binary import max_
from functrace.primitives.elementwise import I32, add
from functrace.primitives.indexing import dynamic_slice, dynamic_update_slice
from functrace.primitives.space import broadcast_to, reshape
from functrace.rewrites.thread import extent, held_by, thread
from functrace.tracing import trace
from tests.against_jax import Case, Library, compute
from tests.control.table import OUR_FUNCTIONS, ROWS
from tests.primitives.samples import all_samples, case

NEVER = -(2**30)


class Counting(NamedTuple):
    """How often each equation ran, and the last step of the innermost loop when it did."""

    size: int

    @property
    def state(self):
        return (Aval((self.size,), I32),) * 2

    def initial(self):
        return [np.zeros(self.size, np.int32), np.full(self.size, NEVER, np.int32)]

    def sees(self, equation):
        return equation.primitive.name != "add"

    def __call__(self, place, state, seen):
        counts, last = state
        old = dynamic_slice(counts, [place.number], (len(seen),))
        counts = dynamic_update_slice(counts, add(old, 1), place.number)
        if place.steps:
            step = broadcast_to(reshape(place.steps[-1], (1,)), (len(seen),))
            before = dynamic_slice(last, [place.number], (len(seen),))
            last = dynamic_update_slice(last, max_(before, step), place.number)
        return counts, last


def numbered(program, watch):
    """For each number, the equation that has it, and before it those that hold it, the outermost first."""
    yield from [(eqn,) for eqn in program.equations if watch.sees(eqn)]
    for eqn in program.equations:
        for held in held_by(eqn):
            yield from [(eqn, *path) for path in numbered(held, watch)]


def watched(f, *xs):
    """The results of f at xs, those of its threaded Program, and for each number its path, count and last step."""
    traced = trace(f, xs, transform="test")
    program, values = traced.program, [*traced.captures, *jax.tree.leaves(xs)]
    watch = Counting(extent(program, Counting(0)))
    threaded = thread(program, watch).verify()
    counts, last, *ys = execute(threaded, [*watch.initial(), *values])
    paths = list(numbered(program, watch))
    assert len(paths) == watch.size
    return execute(program, values), ys, list(zip(paths, np.asarray(counts), np.asarray(last), strict=True))


HOLDING = [c for c in map(case, all_samples()) if c.primitive.inner(*c.avals)]


@pytest.mark.parametrize("c", HOLDING, ids=[c.name for c in HOLDING])
def test_every_primitive_that_holds_programs_carries_the_state(c):
    watch = Counting(extent(c.program, Counting(0)))
    threaded = thread(c.program, watch).verify()
    _, _, *ys = execute(threaded, [*watch.initial(), *c.values()])
    # Which states a loop keeps for the way back depends on how large they are.
    meant = len(c.primitive.body.outputs) + 1 if isinstance(c.primitive, WhileSaved) else len(ys)
    for y, z in zip(ys[:meant], evaluate(c.program, c.values())[:meant], strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
    assert watch.size > 1


CHECKS = ("vjp", "grad of grad", "vmap of grad")
QUICK = {
    "recurrent": "vjp", "backward_scan": "vmap of grad", "choice": "vjp", "pair_loop": "grad of grad",
    "loop_in_scan": "vmap of grad", "custom_in_scan": "vjp", "jitted_in_scan": "vjp", "dots_kept": "vjp",
    "scan_in_loop_in_cond": "vjp", "pullback_of_a_gradient": "vjp",
}  # fmt: skip


def pair(row, check):
    name = row.names[0]
    return pytest.param(row, check, id=f"{name}-{check}", marks=() if QUICK.get(name) == check else pytest.mark.slow)


@pytest.mark.parametrize(("row", "check"), [pair(row, check) for row in ROWS for check in CHECKS])
def test_results_are_those_of_the_program(row, check):
    case, ours = Case(row, "float32"), Library(ft, fnp, OUR_FUNCTIONS)
    f = case.function(ours, row.names[0])
    run = lambda *xs: jax.tree.leaves(compute(check, ours, f, case, xs, case.dxs, case.batch))
    expected, found, counted = watched(run, *case.xs)
    for y, z in zip(expected, found, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
    for path, count, last in counted:
        loops = [eqn.primitive for eqn in path[:-1] if eqn.primitive.turns is not None]
        if all(isinstance(p, Scan) for p in loops) and not any(eqn.primitive.name == "cond" for eqn in path):
            assert count == np.prod([p.length for p in loops], initial=1)
            if loops and count:
                assert last == (-1 if loops[-1].reverse else loops[-1].length - 1)


def halved(x):
    """Five turns from 20.0 on."""
    return ft.lax.while_loop(lambda x: x > 1.0, lambda x: fnp.sin(x) * 0 + x / 2, x)


def one_of_two(x):
    return ft.lax.cond(x > 0, fnp.sin, fnp.cos, x)


def in_each_entry(x):
    return ft.lax.scan(lambda c, y: (c + halved(y), None), x, fnp.full(3, 20.0))[0]


def called_twice(x):
    layer = ft.jit(fnp.sin)
    return layer(layer(x))


@ft.custom_vjp
def with_rule(x):
    return fnp.sin(x)


with_rule.defvjp(lambda x: (fnp.sin(x), x), lambda x, ct: (ct * fnp.cos(x),))
SOLVED = lambda x: ft.lax.custom_root(lambda y: y - x, x, lambda f, y: fnp.sin(x) * 0 + x, lambda g, y: y / g(1.0))
COUNTS = [
    (halved, "sin", [5], [4]),
    (ft.grad(halved), "cos", [5], [4]),
    (lambda x: ft.vjp(halved, x)[1](1.0)[0], "cos", [5], [-1]),
    (one_of_two, "sin", [1], None),
    (one_of_two, "cos", [0], None),
    (in_each_entry, "sin", [15], [4]),
    (called_twice, "sin", [1, 1], None),
    (with_rule, "sin", [1], None),
    (SOLVED, "sin", [1], None),
    (lambda x: ft.checkpoint(fnp.sin)(x), "sin", [1], None),
    (ft.vmap(lambda x: halved(x)), "sin", [5], [4]),
]  # fmt: skip


@pytest.mark.parametrize(("f", "name", "counts", "steps"), COUNTS, ids=range(len(COUNTS)))
def test_equations_are_seen_as_often_as_they_run(f, name, counts, steps):
    x = np.float32(20.0) if f is not COUNTS[-1][0] else np.array([20.0, 3.0], np.float32)
    expected, found, counted = watched(f, x)
    np.testing.assert_allclose(expected, found, rtol=1e-5)
    seen = [(count, last) for path, count, last in counted if path[-1].primitive.name == name]
    assert [count for count, _ in seen] == counts
    if steps is not None:
        assert [last for _, last in seen] == steps


def test_what_nobody_sees_is_left_as_it_was():
    program = ft.make_program(in_each_entry)(1.0)
    assert extent(program, Blind()) == 0
    assert thread(program, Blind()) == program


class Blind(Counting):
    """Sees nothing, and has no state."""

    def __new__(cls):
        return super().__new__(cls, 0)

    state = ()

    def sees(self, equation):
        return False
