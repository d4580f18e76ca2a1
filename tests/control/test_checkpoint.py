"""checkpoint: what is kept and what is computed again, in Programs and in the memory that XLA takes."""

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import nn, numpy as fnp
from functrace.control import Checkpoint
from functrace.lower import evaluate
from functrace.lower.block import block_p

MIB = 2**20
POLICIES = ft.checkpoint_policies


def programs_computing_again(f, *args):
    """The Programs, in the gradient of f, that compute something again."""
    program = ft.make_program(ft.grad(f))(*args)
    return [
        e.primitive.program
        for e in program.equations
        if isinstance(e.primitive, Checkpoint) and e.primitive.again
    ]  # fmt: skip


def named_layers(w, x):
    h = ft.checkpoint_name(fnp.tanh(w @ fnp.sin(x)), "hidden")
    return fnp.exp(fnp.cos(w @ h * h)).sum()


COMPUTED_AGAIN = [
    (None, "dot_general sin tanh"),
    (POLICIES.nothing_saveable, "dot_general sin tanh"),
    (POLICIES.everything_saveable, ""),
    (POLICIES.dots_saveable, "sin tanh"),
    (POLICIES.dots_with_no_batch_dims_saveable, "sin tanh"),
    (POLICIES.save_only_these_names("hidden"), "dot_general sin"),
    (POLICIES.save_anything_except_these_names("hidden"), ""),
    (POLICIES.save_any_names_but_these("hidden"), "dot_general sin tanh"),
    (POLICIES.save_from_both_policies("dots", ("names", "hidden")), "sin"),
    (jax.checkpoint_policies.dots_saveable, "sin tanh"),
]


@pytest.mark.parametrize(("policy", "expected"), COMPUTED_AGAIN, ids=range(len(COMPUTED_AGAIN)))
def test_what_a_policy_keeps_is_not_computed_again(policy, expected):
    w, x = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    (again,) = programs_computing_again(ft.checkpoint(named_layers, policy=policy), w, x)
    given = set(again.inputs[-1:])  # the cotangent: what does not depend on it was computed before
    found = set()
    for eqn in again.equations:
        if given.isdisjoint(eqn.inputs):
            found.add(eqn.primitive.name)
        else:
            given.update(eqn.outputs)
    assert found & {"sin", "tanh", "dot_general"} == set(expected.split())


def temporary(f, *args):
    """The bytes of temporary memory that XLA takes for the gradient of f."""
    return ft.jit(ft.grad(f)).lower(*args).compile().memory_analysis().temp_size_in_bytes


def layer(p, x):
    h = fnp.tanh(x @ p["w"])
    return x + fnp.exp(-(fnp.sin(h) ** 2)) @ p["v"]


def in_turn(layer):
    def loss(ps, x):
        for p in ps:
            x = layer(p, x)
        return (x * x).sum()

    return loss


def scanned(layer):
    def loss(ps, x):
        return (ft.lax.scan(lambda x, p: (layer(p, x), None), x, ps)[0] ** 2).sum()

    return loss


def test_layers_in_turn_and_scanned_take_less_memory():
    """On CPU too, where XLA finds what is computed twice unless it is fenced."""
    ps = [{n: np.zeros((64, 64), np.float32) for n in "wv"} for _ in range(12)]
    x = np.zeros((1024, 64), np.float32)  # 256 KiB, and so is each value between layers
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *ps)
    assert temporary(in_turn(ft.checkpoint(layer)), ps, x) < 0.5 * temporary(in_turn(layer), ps, x)
    assert temporary(scanned(ft.checkpoint(layer)), stacked, x) < 0.5 * temporary(scanned(layer), stacked, x)


def test_at_arrays_nothing_is_compiled_as_a_block(monkeypatch):
    def chain(x):
        for i in range(8):
            x = fnp.sin(x) * 1.1 + i
        return x.sum()

    x = np.ones(4, np.float32)
    program = ft.make_program(lambda x: ft.checkpoint(chain)(x))(x)
    bound = []
    monkeypatch.setattr(block_p, "bind", lambda *xs, block: bound.append(block))
    (found,) = evaluate(program, [x])
    assert not bound
    np.testing.assert_allclose(found, chain(x), rtol=1e-6)


def test_recomputation_is_not_merged_without_a_fence_only():
    """The fence is what does it: without one, XLA finds the two equal or the memory is the same."""
    ps = [{n: np.zeros((64, 64), np.float32) for n in "wv"} for _ in range(12)]
    x = np.zeros((1024, 64), np.float32)
    fenced = temporary(in_turn(ft.checkpoint(layer)), ps, x)
    assert fenced < 0.7 * temporary(in_turn(ft.checkpoint(layer, prevent_cse=False)), ps, x)


@pytest.mark.parametrize(("checkpoint", "most"), [("auto", 60), (10, 15), (200, 70)])
def test_scan_keeps_few_carries(checkpoint, most):
    """Of 10,000 carries of 256 KiB, which are 2,500 MiB."""
    state = np.zeros((256, 256), np.float32)

    def loss(s):
        return ft.lax.scan(lambda s, _: (fnp.sin(s), None), s, None, 10_000, checkpoint=checkpoint)[0].sum()

    assert temporary(loss, state) < most * MIB


def transformer(layers, wrap):
    """A loss of a small transformer, and its arguments: all of the loss in `wrap`."""
    batch, length, width, heads = 4, 64, 64, 4

    def norm(x):
        return nn.standardize(x, axis=-1, epsilon=1e-5)

    def block(p, x):
        h = norm(x)
        q, k, v = [(h @ p[n]).reshape(batch, length, heads, -1).transpose(0, 2, 1, 3) for n in "qkv"]
        weights = nn.softmax(fnp.einsum("bhqd,bhkd->bhqk", q, k))
        x = x + fnp.einsum("bhqk,bhkd->bqhd", weights, v).reshape(batch, length, width) @ p["o"]
        return x + nn.gelu(norm(x) @ p["up"]) @ p["down"]

    rng = np.random.default_rng(0)
    shapes = {**{n: (width, width) for n in "qkvo"}, "up": (width, 4 * width), "down": (4 * width, width)}
    ps = [
        {n: rng.normal(size=s).astype(np.float32) / s[0] ** 0.5 for n, s in shapes.items()} for _ in range(layers)
    ]
    return wrap(in_turn(block)), (ps, rng.normal(size=(batch, length, width)).astype(np.float32))


@pytest.fixture(scope="module")
def smallest():
    """The smallest budget of a transformer of six layers, as the error says it."""
    loss, args = transformer(6, lambda f: ft.checkpoint(f, budget=1))
    with pytest.raises(ft.errors.BudgetInfeasible, match=r"the smallest budget is [0-9,]+ bytes") as caught:
        ft.make_program(ft.grad(loss))(*args)
    return caught.value.smallest


def test_the_smallest_budget_is_the_smallest(smallest):
    loss, args = transformer(6, lambda f: ft.checkpoint(f, budget=smallest))
    ft.make_program(ft.grad(loss))(*args).verify()
    loss, args = transformer(6, lambda f: ft.checkpoint(f, budget=smallest - 1))
    with pytest.raises(ft.errors.BudgetInfeasible):
        ft.make_program(ft.grad(loss))(*args)


@pytest.mark.cpu
def test_budgets_bound_the_memory(smallest):
    """A sweep of eight: no more than the budget and a tenth, over what the largest equation works on."""
    loss, args = transformer(6, lambda f: f)
    expected = ft.jit(ft.grad(loss))(*args)
    unbounded = temporary(loss, *args)
    working_set = 3 * 4 * 4 * 64 * 256  # the widest equations read two values of 4 x 64 x 256 floats and write one
    budgets = np.geomspace(smallest, 2 * unbounded, 8).astype(int)
    taken = []
    for budget in budgets.tolist():
        bounded, _ = transformer(6, lambda f, budget=budget: ft.checkpoint(f, budget=budget))
        compiled = ft.jit(ft.grad(bounded)).lower(*args).compile()
        taken.append(compiled.memory_analysis().temp_size_in_bytes)
        assert taken[-1] <= 1.1 * (budget + working_set)
        for got, want in zip(jax.tree.leaves(compiled(*args)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert taken == sorted(taken)
    assert taken[0] < 0.4 * unbounded


def test_budgets_have_units():
    f = lambda budget: str(ft.make_program(ft.checkpoint(fnp.sin, budget=budget))(1.0))
    assert f("2KiB") == f(2048) == f("2048 B") != f("2kB")


REFUSED = [
    (lambda: ft.checkpoint(fnp.sin, policy="dotz"), "policy must be one of functrace.checkpoint_policies"),
    (lambda: ft.checkpoint(fnp.sin, policy=("names", 3)), r"save_only_these_names\('hidden'\); got \('names', 3\)"),
    (lambda: ft.checkpoint(fnp.sin, policy=lambda *_, **__: True), "which are data"),
    (lambda: ft.checkpoint(fnp.sin, policy="dots", budget=10), "a policy or a budget, not both"),
    (lambda: ft.checkpoint(fnp.sin, budget="64 apples"), "such as '64MiB', got '64 apples'"),
    (lambda: ft.checkpoint(fnp.sin, budget=0), "a positive number of bytes"),
    (lambda: ft.checkpoint(3), "checkpoint"),
    (lambda: ft.lax.scan(lambda c, _: (c, c), 0.0, None, 9, checkpoint=1), "'auto' or an int of at least 2, got 1"),
    (lambda: ft.lax.scan(lambda c, _: (c, c), 0.0, None, 9, checkpoint="all"), "'auto' or an int of at least 2, got"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_bad_input(call, message):
    with pytest.raises(ft.errors.FunctraceError, match=message):
        call()
