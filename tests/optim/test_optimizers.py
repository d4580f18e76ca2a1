"""Every optimizer against optax, its derivatives, its dtypes, and that nothing compiles twice."""

import jax
import numpy as np
import optax
import pytest

import functrace as ft
from functrace import numpy as fnp, optim

from .trees import assert_trees_close, random_tree, small_tree

RATE = 0.03
SLOW = optim.exponential_decay(0.03, 10, 0.9)


def only_matrices(params):
    return ft.tree.map(lambda p: p.ndim > 1, params)


def matrices_and_images(params):
    """Which leaves are matrices, in optax's words: those of two axes, and of four, the last one against the others."""
    of = lambda n: optax.contrib.MuonDimensionNumbers(tuple(range(n - 1)), n - 1) if n in (2, 4) else None
    return jax.tree.map(lambda p: of(p.ndim), params)


def plain_lookahead(inner, *options):
    """optax's lookahead, its slow parameters kept in the state, as ours are."""
    theirs = optax.lookahead(inner, *options)

    def init(params):
        return theirs.init(optax.LookaheadParams.init_synced(params)), params

    def update(grads, state, params):
        state, slow = state
        updates, state = theirs.update(grads, state, optax.LookaheadParams(params, slow))
        return updates.fast, (state, optax.apply_updates(slow, updates.slow))

    return optax.GradientTransformation(init, update)


def given(optimizer, **extra):
    """The optimizer, always given some arguments more, as a pair of either library."""
    return optim.Transformation(optimizer.init, lambda *args: optimizer.update(*args, **extra))


def half_of(params, i):
    """The gradient function of a loss, for SAM."""
    return ft.tree.map(lambda p: 0.5 * p + i, params)


ADVERSARY = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
LAYER_OF = {"w": "root", "layers": ("layers", ["layers/1", "layers/1"]), "head": {"b": "head", "k": "head"}}
LAYERS = ("root", "layers", "layers/1", "head")
DION = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046))
PAIRS = {
    "sgd": (optim.sgd(RATE), optax.sgd(RATE)),
    "sgd schedule": (optim.sgd(SLOW), optax.sgd(optax.exponential_decay(0.03, 10, 0.9))),
    "momentum": (optim.sgd(RATE, 0.9), optax.sgd(RATE, 0.9)),
    "nesterov": (optim.sgd(RATE, 0.9, nesterov=True), optax.sgd(RATE, 0.9, nesterov=True)),
    "rmsprop": (optim.rmsprop(RATE), optax.rmsprop(RATE)),
    "rmsprop all": (
        optim.rmsprop(RATE, 0.8, 1e-6, 1.0, False, False, 0.9, True, True),
        optax.rmsprop(RATE, 0.8, 1e-6, 1.0, False, False, 0.9, True, True),
    ),
    "rmsprop centered": (
        optim.rmsprop(RATE, eps=1e-2, initial_scale=1.0, centered=True, momentum=0.5),
        optax.rmsprop(RATE, eps=1e-2, initial_scale=1.0, centered=True, momentum=0.5),
    ),
    "adagrad": (optim.adagrad(RATE), optax.adagrad(RATE)),
    "adagrad from 0": (optim.adagrad(RATE, 0.0), optax.adagrad(RATE, 0.0)),
    "adam": (optim.adam(RATE), optax.adam(RATE)),
    "adam betas": (
        optim.adam(RATE, 0.8, 0.9999, 1e-5, 1e-6),
        optax.adam(RATE, 0.8, 0.9999, 1e-5, 1e-6),
    ),
    "nadam": (optim.nadam(RATE), optax.nadam(RATE)),
    "nadamw": (optim.nadamw(RATE, weight_decay=0.1), optax.nadamw(RATE, weight_decay=0.1)),
    "adamax": (optim.adamax(RATE), optax.adamax(RATE)),
    "adamaxw": (optim.adamaxw(RATE, 0.8, 0.9, 1e-3, 0.1), optax.adamaxw(RATE, 0.8, 0.9, 1e-3, 0.1)),
    "radam": (optim.radam(RATE), optax.radam(RATE)),
    "radam nesterov": (
        optim.radam(RATE, 0.8, 0.99, 1e-5, 1e-6, 6.0, nesterov=True),
        optax.radam(RATE, 0.8, 0.99, 1e-5, 1e-6, 6.0, nesterov=True),
    ),
    "adafactor": (optim.adafactor(RATE), optax.adafactor(RATE)),
    "adafactor factored": (
        optim.adafactor(RATE, 2, 0.7, weight_decay_rate=0.01, weight_decay_mask=only_matrices),
        optax.adafactor(RATE, 2, 0.7, weight_decay_rate=0.01, weight_decay_mask=only_matrices),
    ),
    "adafactor all": (
        optim.adafactor(SLOW, 3, 0.9, -2, False, None, 0.9, eps=1e-6),
        optax.adafactor(optax.exponential_decay(0.03, 10, 0.9), 3, 0.9, -2, False, None, 0.9, eps=1e-6),
    ),
    "ema": (optim.ema(0.9), optax.ema(0.9)),
    "adamw": (
        optim.adamw(RATE, weight_decay=0.1, mask=only_matrices),
        optax.adamw(RATE, weight_decay=0.1, mask=only_matrices),
    ),
    "adamw schedule": (
        optim.adamw(SLOW, weight_decay=lambda n: 0.01 / (n + 1)),
        optax.adamw(optax.exponential_decay(0.03, 10, 0.9), weight_decay=lambda n: 0.01 / (n + 1)),
    ),
    "lion": (optim.lion(RATE), optax.lion(RATE)),
    "lamb": (optim.lamb(RATE, weight_decay=0.1), optax.lamb(RATE, weight_decay=0.1)),
    "masked": (
        optim.masked(optim.adam(RATE), only_matrices),
        optax.masked(optax.adam(RATE), only_matrices),
    ),
    "freeze": (
        optim.chain(optim.sgd(RATE, 0.9), optim.freeze({"w": True, "layers": False, "head": True})),
        optax.chain(optax.sgd(RATE, 0.9), optax.freeze({"w": True, "layers": False, "head": True})),
    ),
    "partition": (
        optim.partition(
            {"matrix": optim.adamw(RATE), "rest": optim.sgd(SLOW, 0.9), "still": optim.set_to_zero()},
            optim.labels_by_path({"layers/1": "still", "*/b": "matrix", "w": "matrix"}, default="rest"),
        ),
        optax.partition(
            {
                "matrix": optax.adamw(RATE),
                "rest": optax.sgd(optax.exponential_decay(0.03, 10, 0.9), 0.9),
                "still": optax.set_to_zero(),
            },
            {"w": "matrix", "layers": ("rest", ["still", "still"]), "head": {"b": "matrix", "k": "rest"}},
        ),
    ),
    "lookahead": (optim.lookahead(optim.sgd(RATE, 0.9), 3, 0.5), plain_lookahead(optax.sgd(RATE, 0.9), 3, 0.5)),
    "lookahead anew": (
        optim.lookahead(optim.adam(RATE), 4, 0.8, reset_state=True),
        plain_lookahead(optax.adam(RATE), 4, 0.8, True),
    ),
    "schedule-free adamw": (
        optim.schedule_free_adamw(RATE, weight_decay=0.1),
        optax.contrib.schedule_free_adamw(RATE, weight_decay=0.1),
    ),
    "schedule-free adamw, warm-up": (
        optim.schedule_free_adamw(RATE, 20, 0.8, 0.99, 1e-6, weight_lr_power=1.5),
        optax.contrib.schedule_free_adamw(RATE, 20, 0.8, 0.99, 1e-6, weight_lr_power=1.5),
    ),
    "schedule-free sgd": (
        optim.schedule_free_sgd(RATE, weight_decay=0.1),
        optax.contrib.schedule_free_sgd(RATE, weight_decay=0.1),
    ),
    "sam": (optim.sam(optim.adamw(RATE)), optax.contrib.sam(optax.adamw(RATE), ADVERSARY)),
    "sam of three": (
        optim.sam(optim.sgd(RATE, 0.9), optim.sgd(0.01, 0.9), 3, reset_state=False),
        optax.contrib.sam(optax.sgd(RATE, 0.9), optax.sgd(0.01, 0.9), 3, reset_state=False),
    ),
    "sam, opaque": (
        given(optim.sam(optim.adam(RATE), 0.05, 3, opaque_mode=True), grad_fn=half_of),
        given(optax.contrib.sam(optax.adam(RATE), ADVERSARY, 3, opaque_mode=True), grad_fn=half_of),
    ),
    "muon": (optim.muon(RATE), optax.contrib.muon(RATE)),
    "muon all": (
        optim.muon(
            *(SLOW, DION, 4, 0.8, 1e-6, 0.1, only_matrices),
            nesterov=False,
            adaptive=True,
            adam_weight_decay=0.2,
            adam_learning_rate=0.01,
            consistent_rms=0.2,
            kernels=optim.at_paths("head/k"),
        ),
        optax.contrib.muon(
            *(optax.exponential_decay(0.03, 10, 0.9), DION, 4, 0.8, 1e-6, 0.1, only_matrices),
            nesterov=False,
            adaptive=True,
            adam_weight_decay=0.2,
            adam_learning_rate=0.01,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices_and_images,
        ),
    ),
    "clipped by layer": (
        optim.chain(optim.clip_by_layer_norm(3.0), optim.sgd(RATE)),
        optax.chain(optax.partition({n: optax.clip_by_global_norm(3.0) for n in LAYERS}, LAYER_OF), optax.sgd(RATE)),
    ),
    "clipped by named layer": (
        optim.chain(optim.clip_by_layer_norm(3.0, LAYER_OF), optim.sgd(RATE)),
        optax.chain(optax.partition({n: optax.clip_by_global_norm(3.0) for n in LAYERS}, LAYER_OF), optax.sgd(RATE)),
    ),
    "injected": (optim.inject_hyperparams(optim.adamw)(SLOW), optax.adamw(optax.exponential_decay(0.03, 10, 0.9))),
    "l2": (
        optim.chain(optim.l2_regularization(0.1), optim.adam(RATE)),
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(RATE)),
    ),
    "accumulate": (
        optim.accumulate(optim.adam(RATE), 3),
        optax.MultiSteps(optax.adam(RATE), 3),
    ),
    "accumulate schedule": (
        optim.accumulate(optim.sgd(RATE), lambda n: 1 + n // 2),
        optax.MultiSteps(optax.sgd(RATE), lambda n: 1 + n // 2),
    ),
    "clipped": (
        optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(RATE)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE)),
    ),
}
OPTIMIZERS = {
    "sgd": lambda rate: optim.sgd(rate, 0.9),
    "rmsprop": lambda rate: optim.rmsprop(rate, momentum=0.5, bias_correction=True),
    "adagrad": optim.adagrad,
    "adam": optim.adam,
    "adamw": lambda rate: optim.adamw(rate, weight_decay=0.1),
    "lion": optim.lion,
    "lamb": lambda rate: optim.lamb(rate, weight_decay=0.1),
    "nadamw": optim.nadamw,
    "adamaxw": optim.adamaxw,
    "radam": lambda rate: optim.radam(rate, b2=0.8, threshold=4.5),
    "adafactor": lambda rate: optim.adafactor(rate, 2, momentum=0.5, weight_decay_rate=0.01),
    "averaged": lambda rate: optim.chain(optim.sgd(rate), optim.parameter_ema(0.9)),
    "partition": lambda rate: optim.partition(
        {
            "w": optim.chain(optim.masked(optim.scale_by_adam(), only_matrices), optim.sgd(rate)),
            "rest": optim.scale(-0.1),
        },
        optim.labels_by_path({"w": "w"}, default="rest"),
    ),
    "lookahead": lambda rate: optim.lookahead(optim.sgd(rate, 0.9), 2, 0.5),
    "schedule-free": lambda rate: optim.schedule_free_adamw(rate, weight_decay=0.1),
    "sam": lambda rate: optim.sam(optim.sgd(rate, 0.9), 0.05),
    "sam, opaque": lambda rate: given(optim.sam(optim.sgd(rate), 0.1, opaque_mode=True), grad_fn=half_of),
    "muon": lambda rate: optim.muon(rate, ns_steps=2, adam_weight_decay=0.1),
    "chained": lambda rate: optim.skip_nonfinite(
        optim.accumulate(
            optim.chain(
                optim.clip_by_value(10.0),
                optim.clip_by_norm(optim.linear_schedule(1.0, 2.0, 10), "skip"),
                optim.clip_by_block_rms(1.0, "zero_leaf"),
                optim.clip_by_global_norm(1.0),
                optim.adaptive_clip(0.1),
                optim.sgd(rate),
            ),
            k=2,
        )
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_optax_over_100_steps(name):
    ours, theirs = PAIRS[name]
    params = expected = random_tree(0)
    state, their_state = ours.init(params), theirs.init(params)
    our_update, their_update = ft.jit(ours.update), jax.jit(theirs.update)
    for number in range(100):
        grads = random_tree(number + 1)
        updates, state = our_update(grads, state, params)
        their_updates, their_state = their_update(grads, their_state, params)
        # An update that is a difference of parameters has their rounding.
        atol = 2e-6 if name.startswith(("lookahead", "schedule-free", "sam")) else 1e-7
        assert_trees_close(updates, their_updates, rtol=3e-6, atol=atol, err_msg=f"step {number}")
        params = optim.apply_updates(params, updates)
        expected = optax.apply_updates(expected, their_updates)
        assert_trees_close(params, expected, rtol=3e-6, atol=1e-6)
        params = expected  # so that each step is compared by itself


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [fnp.float32, fnp.bfloat16])
def test_dtypes_stay_and_nothing_compiles_again(name, dtype):
    optimizer = OPTIMIZERS[name](optim.cosine_decay_schedule(0.1, 10))
    traces = []

    def step(params, state, grads):
        traces.append(None)
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state, updates, optim.metrics(state)

    step = ft.jit(step)
    params = random_tree(0, dtype)
    state = optimizer.init(params)
    for number in range(3):
        params, state, updates, _ = step(params, state, random_tree(number, dtype))
        state = state if number else set_somewhere(state)
        assert {x.dtype for x in ft.tree.leaves((params, updates))} == {fnp.dtype(dtype)}
        assert all(fnp.isfinite(x).all() for x in ft.tree.leaves(params))
    assert len(traces) == 1


def set_somewhere(state):
    """Replacing a hyper-parameter does not compile again either."""
    settable = [n for n in optim.get_hyperparams(state) if n in ("eps", "b1", "momentum")]
    return optim.set_hyperparams(state, **{n: 0.125 for n in settable[:1]})


def loss_of_steps(optimizer, state, params, gradients):
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return sum(fnp.sum(p**3) for p in ft.tree.leaves(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_derivative_through_three_steps(name):
    """Of a loss after three steps, whose gradients depend on the parameters, by everything at once."""
    optimizer = OPTIMIZERS[name](0.1)

    def loss_after(hyper, params):
        state = optim.set_hyperparams(optimizer.init(params), **hyper)
        for target in targets:
            grads = ft.tree.map(lambda p, t: 0.5 * p + p * p * t, params, target)
            updates, state = optimizer.update(grads, state, params)
            params = optim.apply_updates(params, updates)
        return sum(fnp.sum(p**3) for p in ft.tree.leaves(params))

    with jax.enable_x64(True):
        params, *targets = (small_tree(n, fnp.float64) for n in range(4))
        known = optim.get_hyperparams(optimizer.init(params))
        hyper = {n: known[n] for n in ("learning_rate", "b1", "b2", "decay", "decay_rate", "momentum") if n in known}
        point = (hyper, params)
        direction = ft.tree.map(fnp.ones_like, hyper), small_tree(9, fnp.float64)
        value, slope = ft.jit(ft.value_and_grad(loss_after, (0, 1)))(*point)
        moved = lambda h: ft.tree.map(lambda x, d: x + h * d, point, direction)
        loss_after = ft.jit(loss_after)
        expected = (loss_after(*moved(1e-6)) - loss_after(*moved(-1e-6))) / 2e-6
        along = sum(fnp.vdot(s, d) for s, d in zip(*map(ft.tree.leaves, (slope, direction)), strict=True))
        np.testing.assert_allclose(along, expected, rtol=2e-6)
        assert slope[0]["learning_rate"] != 0 and fnp.isfinite(value)


@pytest.mark.parametrize("name", ["b1", "b2", "eps", "weight_decay", "max_norm", "learning_rate"])
def test_derivative_with_respect_to_any_hyperparameter(name):
    optimizer = optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(0.1, 0.5, 0.6, 0.1, weight_decay=0.01))

    def loss_after(value):
        state = optim.set_hyperparams(optimizer.init(params), **{name: value})
        return loss_of_steps(optimizer, state, params, gradients)

    with jax.enable_x64(True):
        params, *gradients = (small_tree(n, fnp.float64) for n in range(3))
        loss_after = ft.jit(loss_after)
        start = optim.get_hyperparams(optimizer.init(params))[name]
        slope = ft.grad(loss_after)(start)
        expected = (loss_after(start + 1e-5) - loss_after(start - 1e-5)) / 2e-5
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
        assert slope != 0


def test_hyperparameters_are_leaves_of_the_state():
    optimizer = optim.chain(optim.clip_by_norm(2.0), opt=optim.adam(optim.linear_schedule(1, 0, 4)))
    state = optimizer.init({"w": 1.0})
    for rate in (1.0, 0.75, 0.5):
        _, state = optimizer.update({"w": 1.0}, state)
        assert float(optim.get_hyperparams(state)["learning_rate"]) == rate
    state = optim.set_hyperparams(state, max_norm=0.25, b1=0.0)
    assert float(state["clip_by_norm"].hyperparams["max_norm"]) == 0.25
    assert all(not leaf.weak_type for leaf in ft.tree.leaves(state))
    updates, _ = ft.vmap(lambda norm: optimizer.update({"w": 1.0}, optim.set_hyperparams(state, max_norm=norm)))(
        fnp.array([1.0, 2.0])
    )
    assert updates["w"].shape == (2,)


def test_injected_hyperparameters_are_written_to():
    optimizer = optim.inject_hyperparams(optim.adamw)(0.1)
    params = random_tree(0)
    update = ft.jit(optimizer.update)
    state, plain = optimizer.init(params), optim.adamw(0.1).init(params)
    for rate in (0.1, 0.02):
        state.hyperparams["learning_rate"] = rate
        updates, state = update(params, state, params)
        plain = optim.set_hyperparams(plain, learning_rate=rate)
        expected, plain = optim.adamw(0.1).update(params, plain, params)
        assert_trees_close(updates, expected)
        assert float(state.hyperparams["learning_rate"]) == np.float32(rate)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        params = {"w": fnp.ones(3, fnp.float64), "v": fnp.ones(3, fnp.float32)}
        optimizer = optim.chain(optim.clip_by_global_norm(1e-3), optim.adamw(0.1))
        state = optimizer.init(params)
        updates, state = optimizer.update(params, state, params)
        assert (updates["w"].dtype, updates["v"].dtype) == (fnp.float64, fnp.float32)
        assert state["adamw"]["scale_by_adam"].mu["v"].dtype == fnp.float32
        expected = -0.1 * (1 / (1 + 1e-8 / (1e-3 / 6**0.5)) + 1e-4)
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-12)


def test_schedule_free_average_is_that_of_optax():
    ours, theirs = optim.schedule_free_adamw(RATE), optax.contrib.schedule_free_adamw(RATE)
    params = random_tree(0)
    state, their_state = ours.init(params), theirs.init(params)
    for number in range(3):
        updates, state = ours.update(random_tree(number + 1), state, params)
        _, their_state = theirs.update(random_tree(number + 1), their_state, params)
        params = optim.apply_updates(params, updates)
    expected = optax.contrib.schedule_free_eval_params(their_state, params)
    assert_trees_close(optim.schedule_free_eval_params(state, params), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_moments_accumulate():
    # In bfloat16, 0.999 is 1: an average kept in it would only ever grow.
    params = fnp.zeros((), fnp.bfloat16)
    optimizer = optim.adam(0.1)
    state = optimizer.init(params)
    for _ in range(20):
        updates, state = optimizer.update(fnp.ones((), fnp.bfloat16), state)
        np.testing.assert_allclose(float(updates), -0.1, rtol=1e-2)


def test_muon_makes_a_kernel_orthogonal_as_a_matrix():
    """The first step against Newton's and Schulz's iteration in NumPy, of all entries of the window and inputs."""
    rng = np.random.default_rng(0)
    params = {k: rng.standard_normal(k) for k in [(3, 3, 2, 5), (5, 3, 4), (2, 2, 2, 1, 20), (6, 4)]}

    def step(g):
        x = g.reshape(-1, g.shape[-1]) / np.linalg.norm(g)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return -0.1 * np.sqrt(max(1, x.shape[1] / x.shape[0])) * x.reshape(g.shape)

    optimizer = optim.muon(0.1, nesterov=False, kernels={k: len(k) > 2 for k in params})
    grads = ft.tree.map(lambda x: fnp.asarray(x, fnp.float32), params)
    state = optimizer.init(grads)
    assert [m.shape for m in ft.tree.leaves(state) if m.ndim] == sorted(params)  # the mean gradients, as they are
    updates, _ = ft.jit(optimizer.update)(grads, state, grads)
    for shape, update in updates.items():
        np.testing.assert_allclose(update, step(params[shape]), atol=2e-5)
