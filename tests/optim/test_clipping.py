"""Clipping against optax on ordinary inputs and a float64 reference on extreme ones."""

import jax
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings, strategies as st

import functrace as ft
from functrace import numpy as fnp, optim

from .trees import assert_trees_close, random_tree

INF, NAN = float("inf"), float("nan")
DTYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}
CLIPPERS = {
    "clip_by_value": (optim.clip_by_value, optax.clip),
    "clip_by_norm": (optim.clip_by_norm, None),
    "clip_by_block_rms": (optim.clip_by_block_rms, optax.clip_by_block_rms),
    "clip_by_global_norm": (optim.clip_by_global_norm, optax.clip_by_global_norm),
    "clip_by_layer_norm": (optim.clip_by_layer_norm, None),
    "adaptive_clip": (optim.adaptive_clip, optax.adaptive_grad_clip),
}
COMPARED = [name for name, (_, theirs) in CLIPPERS.items() if theirs]


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("threshold", [0.01, 0.5, 3.0, 1e3])
def test_equals_optax_on_ordinary_inputs(name, threshold):
    ours, theirs = (make(threshold) for make in CLIPPERS[name])
    params, grads = random_tree(0), random_tree(1)
    updates, state = ft.jit(ours.update)(grads, ours.init(params), params)
    expected, _ = theirs.update(grads, theirs.init(params), params)
    assert_trees_close(updates, expected)
    changed = ft.tree.map(lambda u, g: bool((u != g).any()), updates, grads)
    assert any(ft.tree.leaves(changed)) == any(float(c) > 0 for c in ft.tree.leaves(state.clipped))


def test_clip_by_norm_is_by_leaf():
    grads = random_tree(1)
    updates, state = clipped_by(optim.clip_by_norm(1.0), grads)
    for u, g, n, c in zip(*map(ft.tree.leaves, (updates, grads, state.norm, state.clipped)), strict=True):
        norm = np.linalg.norm(np.asarray(g).ravel())
        np.testing.assert_allclose(n, norm, rtol=1e-6)
        np.testing.assert_allclose(u, g / max(norm, 1.0), rtol=1e-6)
        assert float(c) == (norm > 1)


def clipped_by(clipper, grads, params=None):
    params = ft.tree.map(fnp.zeros_like, grads) if params is None else params
    return ft.jit(clipper.update)(grads, clipper.init(params), params)


def reference(name, threshold, grad, param, tree_square):
    """One leaf in float64, which has room for the squares of all three dtypes."""
    if name == "clip_by_value":
        return np.clip(grad, -threshold, threshold)
    norm = {
        "clip_by_global_norm": np.sqrt(tree_square),
        "clip_by_layer_norm": np.sqrt(tree_square),  # both leaves are of one layer
        "clip_by_block_rms": np.sqrt(np.mean(grad**2)),
    }.get(name, np.sqrt(np.sum(grad**2)))
    if name == "adaptive_clip":
        threshold = threshold * max(np.sqrt(np.sum(param**2)), 1e-3)
    return grad * (threshold / norm) if norm > threshold else grad


def magnitudes(dtype):
    """Numbers of either sign over the dtype's whole range, subnormal ones and zero among them."""
    info = ml_dtypes.finfo(dtype)
    low, high = np.log2(float(info.smallest_subnormal)), np.log2(float(info.max)) - 1e-3
    sizes = st.floats(low, high).map(lambda e: 2.0**e) | st.just(float(info.max)) | st.just(0.0)
    return st.tuples(sizes, st.sampled_from([-1, 1])).map(lambda pair: dtype(pair[0] * pair[1]))


@st.composite
def extreme_cases(draw):
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)))]
    threshold = 2.0 ** draw(st.floats(-120, 120))
    values = draw(st.lists(magnitudes(dtype), min_size=12, max_size=12))
    return draw(st.sampled_from(list(CLIPPERS))), threshold, dtype, values[:6], values[6:]


F16, F32, ONES = np.float16, np.float32, [1.0] * 6
THRESHOLDS = {
    "clip_by_value": "max_delta",
    "clip_by_norm": "max_norm",
    "clip_by_block_rms": "threshold",
    "clip_by_global_norm": "max_norm",
    "clip_by_layer_norm": "max_norm",
    "adaptive_clip": "clipping",
}
UPDATES = {name: ft.jit(make(1.0).update) for name, (make, _) in CLIPPERS.items()}


@settings(max_examples=200, deadline=None)
@given(extreme_cases())
@example(("clip_by_global_norm", 1.0, F32, [1e25, 1, 0, 0, 0, 0], ONES))
@example(("adaptive_clip", 1.0, F32, [3e38] * 6, [2e38, 3e38, 0, 0, 3e38, 0]))
@example(("adaptive_clip", 3.9e-34, F32, [-1, 0, 0, 0, -3e38, -3e38], [3e38, -3e38, 0, 3e38, 1, 1]))
@example(("adaptive_clip", 1e-9, F32, [-3.4e38] * 6, [-3.4e38] * 6))
@example(("clip_by_norm", 1e-37, F32, [3e38] * 6, ONES))
@example(("clip_by_norm", 1e30, F32, [3e38, 3e38, 1, 3e38, 3e38, 1e-20], ONES))
@example(("clip_by_norm", 1e-3, F32, [1e37, 1e36, 1e-3, 1, 1, 1], ONES))
@example(("clip_by_norm", 1.0, F16, [65504, 65504, 6e-8, 6e-8, 65504, 1], ONES))
@example(("clip_by_global_norm", 1.0, F32, [1e-40, 1e-45, 0, 0, 0, 0], ONES))
def test_right_on_every_finite_input(case):
    name, threshold, dtype, grads, params = case
    threshold = float(np.float32(threshold))
    grads, params = ({"a": np.array(x[:4], dtype), "b": np.array(x[4:], dtype)} for x in (grads, params))
    state = CLIPPERS[name][0](1.0).init(params)
    state = optim.set_hyperparams(state, **{THRESHOLDS[name]: threshold})
    updates, _ = UPDATES[name](grads, state, params)
    wide, wide_params = (ft.tree.map(lambda x: x.astype(np.float64), t) for t in (grads, params))
    tree_square = sum(np.sum(x**2) for x in wide.values())
    info = ml_dtypes.finfo(dtype)
    tiny = float(max(info.smallest_subnormal, np.finfo(np.float32).tiny))
    for key, actual in updates.items():
        assert actual.dtype == dtype
        expected = reference(name, threshold, wide[key], wide_params[key], tree_square)
        actual = np.asarray(actual, np.float64)
        np.testing.assert_allclose(actual, expected, rtol=2e-6 + float(info.eps), atol=tiny)


def test_what_does_not_need_clipping_is_kept_bit_for_bit():
    grads = {
        "a": fnp.asarray(np.array([1e-45, -0.0, 1e-40, 0.1], np.float32)),
        "e": fnp.zeros((0, 3)),
    }
    for make, _ in CLIPPERS.values():
        updates, state = clipped_by(make(1e4), grads)
        assert np.asarray(updates["a"]).tobytes() == np.asarray(grads["a"]).tobytes()
        assert updates["e"].shape == (0, 3)
        assert all(float(c) == 0 for c in ft.tree.leaves(state.clipped))


ONE_BAD = {"a": [3.0, 4.0], "b": [NAN, 1.0], "c": [INF, -INF]}
NANS, ZEROS, UNIT = [NAN, NAN], [0.0, 0.0], [0.6, 0.8]
SHARED = (np.array([3.0, 4.0]) / 5).tolist()
NONFINITE = [
    ("clip_by_value", "propagate", {"a": [1, 1], "b": [NAN, 1], "c": [1, -1]}),
    ("clip_by_value", "skip", {"a": ZEROS, "b": ZEROS, "c": ZEROS}),
    ("clip_by_value", "zero_leaf", {"a": [1, 1], "b": ZEROS, "c": ZEROS}),
    ("clip_by_norm", "propagate", {"a": UNIT, "b": NANS, "c": NANS}),
    ("clip_by_norm", "skip", {"a": ZEROS, "b": ZEROS, "c": ZEROS}),
    ("clip_by_norm", "zero_leaf", {"a": UNIT, "b": ZEROS, "c": ZEROS}),
    ("clip_by_block_rms", "propagate", {"a": [x * 2**0.5 for x in UNIT], "b": NANS, "c": NANS}),
    ("clip_by_block_rms", "zero_leaf", {"a": [x * 2**0.5 for x in UNIT], "b": ZEROS, "c": ZEROS}),
    ("clip_by_global_norm", "propagate", {"a": NANS, "b": NANS, "c": NANS}),
    ("clip_by_global_norm", "skip", {"a": ZEROS, "b": ZEROS, "c": ZEROS}),
    ("clip_by_global_norm", "zero_leaf", {"a": SHARED, "b": ZEROS, "c": ZEROS}),
    ("clip_by_layer_norm", "propagate", {"a": NANS, "b": NANS, "c": NANS}),
    ("clip_by_layer_norm", "zero_leaf", {"a": SHARED, "b": ZEROS, "c": ZEROS}),
    ("adaptive_clip", "propagate", {"a": UNIT, "b": NANS, "c": NANS}),
    ("adaptive_clip", "skip", {"a": ZEROS, "b": ZEROS, "c": ZEROS}),
    ("adaptive_clip", "zero_leaf", {"a": UNIT, "b": ZEROS, "c": ZEROS}),
]


@pytest.mark.parametrize(("name", "on_nonfinite", "expected"), NONFINITE)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_behaviour_on_inf_and_nan(name, on_nonfinite, expected, dtype):
    grads = {key: fnp.asarray(np.array(x, DTYPES[dtype])) for key, x in ONE_BAD.items()}
    params = {key: fnp.asarray(np.array([0.6, 0.8], DTYPES[dtype])) for key in grads}
    clipper = CLIPPERS[name][0](1.0, on_nonfinite=on_nonfinite)
    updates, state = clipped_by(clipper, grads, params)
    for key, wanted in expected.items():
        actual = np.asarray(updates[key], np.float64)
        np.testing.assert_allclose(actual, wanted, rtol=2 * float(ml_dtypes.finfo(DTYPES[dtype]).eps))
    assert optim.nonfinite_paths(state) == ["['b']", "['c']"]
    assert int(state.skipped) == (on_nonfinite == "skip")
    finite = ft.tree.map(fnp.zeros_like, grads)
    _, state = clipper.update(finite, state, params)
    assert optim.nonfinite_paths(state) == [] and int(state.skipped) == (on_nonfinite == "skip")


def test_a_bad_layer_is_not_that_of_another():
    clipper = optim.clip_by_layer_norm(1.0)
    grads = {"first": {"w": [3.0, 4.0], "b": 0.0}, "second": {"w": [NAN, 1.0], "b": 1.0}}
    grads = ft.tree.map(fnp.asarray, grads, is_leaf=lambda x: isinstance(x, list))
    updates, state = clipped_by(clipper, grads)
    np.testing.assert_allclose(updates["first"]["w"], UNIT, rtol=1e-6)
    assert np.isnan(updates["second"]["b"]) and np.isnan(updates["second"]["w"]).all()
    assert float(state.norm["first"]) == 5 and state.clipped.keys() == {"first", "second"}


def test_infinity_has_an_infinite_norm():
    assert float(optim.global_norm({"a": fnp.array([INF, 1.0])})) == INF
    assert np.isnan(float(optim.global_norm({"a": fnp.array([INF, NAN])})))
    assert float(optim.global_norm({})) == 0
    assert float(optim.global_norm({"a": fnp.zeros((0,)), "b": fnp.zeros(())})) == 0


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6), (4, 6), (2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 2, 2)])
def test_adaptive_clip_units_are_those_of_optax(shape):
    params, grads = (fnp.asarray(np.random.default_rng(n).normal(size=shape), fnp.float32) for n in (0, 1))
    for options in ({}, {"axis": len(shape) - 1}) if shape else ({},):
        theirs = optax.adaptive_grad_clip(0.5, **options)
        expected, _ = theirs.update(grads, theirs.init(params), params)
        updates, state = clipped_by(optim.adaptive_clip(0.5, **options), grads, params)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)
        assert 0 <= float(state.clipped) <= 1


def test_clipping_is_differentiable():
    grads = {"a": fnp.array([3.0, 4.0]), "z": fnp.zeros(2)}

    def total(grads, max_norm):
        clipper = optim.chain(optim.clip_by_norm(2.0), optim.clip_by_global_norm(1.0))
        state = optim.set_hyperparams(clipper.init(grads) | {"clip_by_norm": ()}, max_norm=max_norm)
        return fnp.sum(optim.clip_by_global_norm(1.0).update(grads, state["clip_by_global_norm"])[0]["a"] ** 3)

    def plain(grads, max_norm):
        norm = fnp.sqrt(sum(fnp.sum(g * g) for g in ft.tree.leaves(grads)))
        return fnp.sum((grads["a"] * max_norm / norm) ** 3)

    actual, expected = ft.grad(total, (0, 1))(grads, 1.0), jax.grad(plain, (0, 1))(grads, 1.0)
    assert_trees_close(actual[0], expected[0])
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)
    per_leaf = optim.clip_by_norm(1.0)
    flat = ft.grad(lambda g: fnp.sum(per_leaf.update(g, per_leaf.init(g))[0]["z"]))(grads)
    assert all(fnp.isfinite(x).all() for x in ft.tree.leaves(flat))


def test_metrics_are_read_by_name():
    optimizer = optim.accumulate(optim.chain(optim.clip_by_norm(1.0), optim.adam(0.1)), 1)
    params = {"w": fnp.zeros(2), "b": fnp.zeros(2)}
    grads = {"w": fnp.array([3.0, 4.0]), "b": fnp.array([0.1, NAN])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    logged = optim.metrics(state)
    assert float(logged["learning_rate"]) == np.float32(0.1)
    assert int(logged["inner.clip_by_norm.nonfinite"]) == 1
    assert float(logged["inner.clip_by_norm.clipped"]) == 1
    assert optim.nonfinite_paths(state) == ["['b']"]
