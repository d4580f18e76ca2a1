"""Updates compiled apart: which are found, that nothing else changes, and that JAX's stages are there."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import tree_util

import functrace as ft
from functrace import lax, numpy as fnp, optim
from functrace.control import updates
from functrace.control.updates import divided, modules
from functrace.errors import NonfiniteError
from functrace.ir.verify import verify
from functrace.lower import evaluate

pytestmark = pytest.mark.cpu  # on others nothing is divided
WIDTH, DEPTH = 4, 6
X = np.linspace(-1, 1, 3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)


def layers(depth=DEPTH, width=WIDTH):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 2
    return [{"w": draw(width, width), "b": draw(width), "a": draw(1)} for _ in range(depth)]


def zeros(params):
    return tree_util.tree_map(np.zeros_like, params)


def loss(params, x):
    for p in params:
        x = x + fnp.tanh(x @ p["w"] + p["b"]) * p["a"]
    return (x**2).mean()


def descent(params, x, rate=0.1):
    return tree_util.tree_map(lambda p, g: p - rate * g, params, ft.grad(loss)(params, x))


def momentum(params, m, x):
    value, grads = ft.value_and_grad(loss)(params, x)
    m = tree_util.tree_map(lambda m, g: 0.9 * m + g, m, grads)
    return value, tree_util.tree_map(lambda p, m: p - 0.1 * m, params, m), m


def adam(params, m, v, t, x):
    grads = ft.grad(loss)(params, x)
    m = tree_util.tree_map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = tree_util.tree_map(lambda v, g: 0.99 * v + 0.01 * g * g, v, grads)
    a, b = 1 - 0.9 ** (t + 1), 1 - 0.99 ** (t + 1)
    new = lambda p, m, v: p - 0.1 * (m / a) / (fnp.sqrt(v / b) + 1e-8)
    return tree_util.tree_map(new, params, m, v), m, v, t + 1


def clipped(params, x):
    grads = ft.grad(loss)(params, x)
    norm = fnp.sqrt(sum([(g**2).sum() for g in tree_util.tree_leaves(grads)]))
    scale = fnp.minimum(1.0, 0.5 / norm)
    return tree_util.tree_map(lambda p, g: p - scale * g, params, grads), norm


def decayed(params, x):  # one kind of parameter only, and what is given is returned beside it
    grads = ft.grad(loss)(params, x)
    new = [0.99 * p["w"] - 0.1 * g["w"] for p, g in zip(params, grads, strict=True)]
    return new, params, grads


def layer_by_layer(params, x):
    new = []
    for p, g in zip(params, ft.grad(loss)(params, x), strict=True):
        new.append({k: p[k] - 0.1 * g[k] for k in p})
    return new


def kept_from_others(params, x):  # one update that another result reads has to stay
    new = descent(params, x)
    return new, loss([new[0]], x)


def scanned(params, x):
    """The layers are stacked for a loop, and their gradients are entries of what that makes."""

    def of_loop(params):
        stacks = tree_util.tree_map(lambda *ps: fnp.stack(ps), *params)
        layer = lambda x, p: (x + fnp.tanh(x @ p["w"] + p["b"]) * p["a"], None)
        return (lax.scan(layer, x, stacks)[0] ** 2).mean()

    return tree_util.tree_map(lambda p, g: p - 0.1 * g, params, ft.grad(of_loop)(params))


def library(params, state, x):
    grads = ft.grad(loss)(params, x)
    deltas, state = optim.adam(0.1).update(grads, state, params)
    return optim.apply_updates(params, deltas), state


P = layers()
STEPS = {
    "descent": (descent, (P, X)),
    "a rate that is a number": (descent, (P, X, 0.3)),
    "momentum": (momentum, (P, zeros(P), X)),
    "adam": (adam, (P, zeros(P), zeros(P), np.float32(2), X)),
    "a step that is a number": (adam, (P, zeros(P), zeros(P), 2.0, X)),
    "clipped": (clipped, (P, X)),
    "decayed": (decayed, (P, X)),
    "layer by layer": (layer_by_layer, (P, X)),
    "kept from others": (kept_from_others, (P, X)),
    "functrace.optim": (library, (P, optim.adam(0.1).init(P), X)),
    "a loop": (scanned, (P, X)),
    "40 layers": (adam, (layers(40), *[zeros(layers(40))] * 2, 0.0, X)),
}  # fmt: skip


@pytest.fixture
def always(monkeypatch):
    """Divide whatever can be, however little it saves; notes what is."""
    found = []
    for name in ("LEAST", "WORK", "A_MODULE", "SLIGHT"):
        monkeypatch.setattr(updates, name, 0)

    def noting(program, donated=()):
        found.append(divided(program, donated))
        return found[-1]

    monkeypatch.setitem(ft.jit.__globals__, "divided", noting)
    return found


def check_equal(ours, theirs):
    assert tree_util.tree_structure(ours) == tree_util.tree_structure(theirs)
    for a, b in zip(*map(tree_util.tree_leaves, (ours, theirs)), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("roll", ["auto", True])
@pytest.mark.parametrize("name", STEPS)
def test_equals_what_is_compiled_in_one(name, roll, always):
    step, args = STEPS[name]
    whole = ft.jit(step, roll=False)(*args)
    assert not always
    jitted = ft.jit(step, roll=roll)
    for _ in range(2):  # by the plan, and by the one that is kept
        check_equal(jitted(*args), whole)
    (found,) = always
    verify(found.main)
    for part in found.parts:
        verify(part.program)
        assert len(part.calls) > 1


@pytest.mark.parametrize(("name", "moved"), {"descent": 2, "adam": 6, "a loop": 2}.items())
def test_what_is_moved(name, moved, always):
    """Of a layer, all but what has one entry; of what others read, nothing."""
    step, args = STEPS[name]
    ft.jit(step)(*args)
    (found,) = always
    made = sum([len(ys) for part in found.parts for _, ys in part.calls])
    assert made == moved * len(args[0])


def test_entries_are_read_where_a_loop_has_put_them(always):
    ft.jit(scanned)(P, X)
    (found,) = always
    stacks = [v for eqn in found.main.equations if eqn.primitive.runs() for v in eqn.outputs if v in found.main.outputs]
    read = {x for part in found.parts for xs, _ in part.calls for x in xs}
    assert len(stacks) == 2
    assert read.issuperset(stacks)
    assert sorted(found.places.values()) == [*range(DEPTH)]
    assert not [x for x in read if x not in (*stacks, *found.places, *found.program.inputs)]


def test_few_calls_of_few_modules(always):
    ft.jit(adam)(*STEPS["adam"][1])
    (found,) = always
    (part,) = found.parts
    assert len(part.calls) == DEPTH
    assert len(part.program.outputs) == 6


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 30))
@settings(deadline=None)
def test_modules_take_each_update_once(sizes, a_module):
    groups = []
    for i, size in enumerate(sizes):
        groups.append([updates.Update(results=[object()] * (1 + i % 3)) for _ in range(size)])
    before = updates.A_MODULE
    updates.A_MODULE = a_module
    try:
        found = [*modules(groups)]
    finally:
        updates.A_MODULE = before
    taken = [id(u) for calls in found for call in calls for u in call]
    assert len(taken) == len(set(taken))
    owner = {id(u): i for i, group in enumerate(groups) for u in group}
    for calls in found:
        assert len({tuple([owner[id(u)] for u in call]) for call in calls}) == 1  # the same kinds, in the same order
        assert sum([len(u.results) for u in calls[0]]) * (len(calls) - 1) > a_module


def test_told(always):
    report = ft.debug.explain_roll(adam)(*STEPS["adam"][1])
    assert report.updates == ((6, DEPTH),)
    assert f"{DEPTH} calls of an executable make 6 results each" in str(report)


def test_evaluates_to_the_program(always):
    """`outputs` without JAX's compiler: equation by equation."""
    step, args = STEPS["adam"]
    program = ft.make_program(step)(*args)
    found = divided(program)
    leaves = tree_util.tree_leaves(args)
    runs = [lambda *xs, p=part.program: evaluate(p, xs) for part in found.parts]
    ours = found.outputs(leaves, evaluate(found.main, leaves), runs)
    for a, b in zip(ours, evaluate(program, leaves), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


USUAL = {name: getattr(updates, name) for name in ("LEAST", "WORK", "SLIGHT")}
LIMITS = {"LEAST": "few results", "WORK": "quick to run", "SLIGHT": "gradients that are made one by one"}


@pytest.mark.parametrize("limit", LIMITS, ids=lambda name: LIMITS[name])
def test_not_divided(limit, always, monkeypatch):
    program = ft.make_program(descent)(P, X)
    assert divided(program) is not None
    monkeypatch.setattr(updates, limit, USUAL[limit])
    assert divided(program) is None


def twice(params, x):
    new = descent(params, x)
    return new, new


def observed(params, x):
    new = descent(params, x)
    ft.from_jax(lambda x: jax.debug.callback(lambda x: None, x))(new[0]["w"])
    return new


@pytest.mark.parametrize("step", [twice, observed])
def test_never_divided(step, always):
    """What JAX gives two buffers, and what acts on the world."""
    ft.jit(step)(P, X)
    assert always == [None]


@pytest.mark.parametrize(("name", "value"), [("default_backend", "gpu"), ("device_count", 2)])
def test_on_one_cpu_only(name, value, always, monkeypatch):
    program = ft.make_program(descent)(P, X)
    assert divided(program) is not None
    monkeypatch.setattr(jax, name, lambda: value)
    assert divided(program) is None


def test_many_at_once(always):
    jitted = ft.jit(descent)
    whole = ft.jit(descent, roll=False)(P, X)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: jitted(P, X), range(12)):
            check_equal(result, whole)
    assert all(always)


def test_what_nobody_asks_for_is_as_it_was():
    """Small steps, as most are, are one executable."""
    assert type(ft.jit(adam).lower(*STEPS["40 layers"][1])) is jax.stages.Lowered


def copies(args):
    return tree_util.tree_map(lambda x: jax.numpy.array(x), args)


@pytest.mark.parametrize("name", ["descent", "momentum", "adam", "a loop", "40 layers"])
def test_donated_buffers_are_reused(name, always):
    step, args = STEPS[name]
    numbers = tuple(range(len(args) - 1))
    whole = ft.jit(step, roll=False)(*args)
    jitted = ft.jit(step, donate_argnums=numbers)
    for _ in range(2):
        given = copies(args)
        places = {x.unsafe_buffer_pointer() for x in tree_util.tree_leaves(given[:-1])}
        ours = jitted(*given)
        check_equal(ours, whole)
        assert all([x.is_deleted() for x in tree_util.tree_leaves(given[:-1]) if x.ndim])
        assert not given[-1].is_deleted()
        reused = [x for x in tree_util.tree_leaves(ours) if x.size > 1 and x.unsafe_buffer_pointer() in places]
        assert len(reused) == sum([x.size > 1 for x in tree_util.tree_leaves(given[:-1])])
    (found,) = always
    assert all([part.donated for part in found.parts])


def test_what_is_not_donated_is_let_be(always):
    args = copies(STEPS["decayed"][1])
    _, same, _ = ft.jit(decayed)(*args)
    for x, y in zip(*map(tree_util.tree_leaves, (args[0], same)), strict=True):
        assert not x.is_deleted()
        assert x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()
    assert always[0]


WAYS = {
    "static arguments": lambda f: (ft.jit(lambda name, p, x: {name: f(p, x)}, static_argnums=0), ("new", P, X), {}),
    "names": (lambda f: (ft.jit(lambda x, *, params: f(params, x)), (X,), {"params": P})),
    "closed over": lambda f: (ft.jit(lambda x: f(P, x)), (X,), {}),
    "closed over arrays of JAX's": lambda f: (ft.jit(partial(f, copies(P))), (X,), {}),
    "in jax.jit": lambda f: (jax.jit(ft.jit(f)), (P, X), {}),
    "in jit": lambda f: (ft.jit(lambda p, x: ft.jit(f)(p, x)), (P, X), {}),
    "in jax.vmap": lambda f: (jax.vmap(ft.jit(f), (None, 0)), (P, np.stack([X, X + 1])), {}),
    "in vmap": lambda f: (ft.vmap(ft.jit(f), (None, 0)), (P, np.stack([X, X + 1])), {}),
    "in jax.jvp": lambda f: (lambda x: jax.jvp(lambda x: ft.jit(f)(P, x), (x,), (x,)), (X,), {}),
    "in jvp": lambda f: (lambda x: ft.jvp(lambda x: ft.jit(f)(P, x), (x,), (x,)), (X,), {}),
    "in jax.eval_shape": lambda f: (lambda p, x: tree_util.tree_map(
        lambda t: jax.numpy.zeros(t.shape, t.dtype), jax.eval_shape(ft.jit(f), p, x)), (P, X), {}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_call(way, always, monkeypatch):
    run, args, keyed = WAYS[way](descent)
    ours = run(*args, **keyed)
    monkeypatch.setattr(updates, "LEAST", 10**9)
    run, args, keyed = WAYS[way](descent)
    check_equal(ours, run(*args, **keyed))
    is_traced = way in ("in vmap", "in jvp", "in jax.eval_shape")  # by functrace, or for shapes alone
    assert [found is not None for found in always] == ([] if is_traced else [True, False])


def test_without_jit_it_runs_as_ever(always):
    with jax.disable_jit():
        ours = ft.jit(descent)(P, X)
    check_equal(ours, ft.jit(descent, roll=False)(P, X))


def test_stages(always):
    """Ahead of time: lowered, compiled, called; what JAX's stages say is there, and the rest refused by name."""
    step, args = STEPS["momentum"]
    whole = ft.jit(step, roll=False)
    jitted = ft.jit(step)
    lowered = jitted.lower(*args)
    compiled = lowered.compile()
    check_equal(compiled(*args), whole(*args))
    theirs = whole.lower(*args)
    for stage in (lowered, compiled):
        assert stage.out_tree == theirs.out_tree
        assert stage.in_tree == theirs.in_tree
        assert tree_util.tree_map(lambda t: (t.shape, t.dtype), stage.out_info) == tree_util.tree_map(
            lambda t: (t.shape, t.dtype), theirs.out_info
        )
        with pytest.raises(AttributeError, match=r"output_shardings.*roll=False"):
            _ = stage.output_shardings
    assert "stablehlo" in lowered.as_text()
    memory, of_whole = compiled.memory_analysis(), theirs.compile().memory_analysis()
    assert memory.argument_size_in_bytes == of_whole.argument_size_in_bytes
    assert memory.output_size_in_bytes == sum([x.nbytes for x in tree_util.tree_leaves(whole(*args))])
    assert memory.temp_size_in_bytes >= sum([x.nbytes for x in tree_util.tree_leaves(P) if x.size > 1])  # gradients
    assert compiled.cost_analysis()["flops"] > 0
    assert len(always) == 1  # traced once for all stages
    check_equal(jitted.trace(*args).lower().compile()(*args), whole(*args))
    assert jitted.eval_shape(*args)[0].shape == ()
    assert type(jitted.trace(*args).lower()) is jax.stages.Lowered


def test_with_static_arguments_ahead_of_time(always):
    jitted = ft.jit(lambda n, p, x: descent(p, x, n), static_argnums=0)
    check_equal(jitted.lower(0.2, P, X).compile()(P, X), ft.jit(descent, roll=False)(P, X, 0.2))
    assert always[0]


def test_watched_for_nan(always):
    with ft.debug.debug_nonfinite(), pytest.raises(NonfiniteError):
        ft.jit(descent)(P, X * np.nan)


@pytest.mark.parametrize("donated", [(), (0, 1, 2)])
def test_found_on_disk(donated, always, tmp_path):
    step, args = STEPS["40 layers"]
    whole = ft.jit(step, roll=False)(*args)
    ft.config.cache_dir = tmp_path / "kept"
    try:
        for _ in range(2):
            jitted = ft.jit(step, donate_argnums=donated)
            for _ in range(2):
                given = copies(args)
                check_equal(jitted(*given), whole)
                assert all([x.is_deleted() == bool(donated) for x in tree_util.tree_leaves(given[:3])])
            assert len([*ft.config.cache_dir.glob("*")]) == 1 + len(always[0].parts)
    finally:
        ft.config.cache_dir = None
    assert len(always) == 2


def test_options_of_jax_mean_one_executable(always):
    ft.jit(descent, compiler_options={"xla_cpu_enable_fast_math": False})(P, X)
    assert not any(always)
