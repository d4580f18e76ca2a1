"""Bad input: each error is of the right kind and says what came, where, and what to do."""

import re

import pytest

from functrace import numpy as fnp, optim
from functrace.errors import ArgumentError, DtypeError, ShapeError

W = {"w": fnp.ones(2), "b": fnp.ones(())}


def updated(transformation, grads, params=None, made_for=W):
    return transformation.update(grads, transformation.init(made_for), params)


CASES = {
    "negative norm": (
        lambda: optim.clip_by_norm(-1.0),
        ArgumentError,
        "clip_by_norm: max_norm is -1.0; it must be zero",
    ),
    "NaN norm": (lambda: optim.clip_by_global_norm(float("nan")), ArgumentError, "max_norm is nan"),
    "negative norm, an array": (
        lambda: optim.clip_by_global_norm(fnp.array(-1.0)),
        ArgumentError,
        "clip_by_global_norm: max_norm is -1.0; it must be zero",
    ),
    "momentum": (lambda: optim.sgd(0.1, momentum=2.0), ArgumentError, "sgd: momentum is 2.0; it must be from 0 to 1"),
    "momentum, later": (
        lambda: updated(optim.nadam(0.1), {"w": 1.0}, made_for={"w": 1.0}, params=W),
        ArgumentError,
        "nadam: gradients and parameters are different pytrees: leaf ['b'] is in the parameters only. Give the "
        "gradient in these parameters.",
    ),
    "state of other parameters": (
        lambda: updated(optim.sgd(0.1, momentum=0.9), W, made_for={"w": 1.0}),
        ArgumentError,
        "sgd: gradients and parameters given to init are different pytrees: leaf ['b'] is in the gradients only. Call "
        "init again",
    ),
    "muon's parts": (lambda: optim.muon(0.1).init({"w": 3}), DtypeError, "muon: parameter leaf ['w'] has dtype int32"),
    "another's name in a chain": (
        lambda: updated(optim.chain(optim.clip_by_norm(1.0), optim.adam(0.1)), {"w": 1}, made_for={"w": 1.0}),
        DtypeError,
        "clip_by_norm: gradient leaf ['w']",
    ),
    "negative AGC": (
        lambda: optim.adaptive_clip(-0.1),
        ArgumentError,
        "adaptive_clip: clipping is -0.1",
    ),
    "NaN rate": (
        lambda: optim.sgd(float("nan")),
        ArgumentError,
        "learning_rate is nan; it must be a number",
    ),
    "beta": (
        lambda: optim.adam(0.1, b1=1.5),
        ArgumentError,
        "adam: b1 is 1.5; it must be from 0 to 1",
    ),
    "threshold of radam": (
        lambda: optim.radam(0.1, threshold=3.0),
        ArgumentError,
        "radam: rho_threshold is 3.0; it must be four or more",
    ),
    "decay rate": (
        lambda: optim.adafactor(0.1, decay_rate=-0.8),
        ArgumentError,
        "adafactor: decay_rate is -0.8; it must be zero or more",
    ),
    "size to factor": (
        lambda: optim.adafactor(0.1, min_dim_size_to_factor=0),
        ArgumentError,
        "min_dim_size_to_factor is 0; an integer of 1 or more was expected",
    ),
    "other factored state": (
        lambda: updated(optim.adafactor(0.1), {"w": fnp.ones(3), "b": 1.0}, {"w": fnp.ones(3), "b": 1.0}),
        ArgumentError,
        "leaf ['w'] has shape (3,) in the gradients' statistics and (2,) in the state",
    ),
    "decay of an average": (
        lambda: optim.parameter_ema(2.0),
        ArgumentError,
        "parameter_ema: ema_decay is 2.0; it must be from 0 to 1",
    ),
    "no average": (
        lambda: optim.ema_params(optim.sgd(0.1).init(W)),
        ArgumentError,
        "the state has 0 parts made by parameter_ema; one was expected.",
    ),
    "average of other parameters": (
        lambda: optim.incremental_update({"w": 1.0}, W, 0.1),
        ArgumentError,
        "incremental_update: new and old are different pytrees: leaf ['b'] is in the old only",
    ),
    "text": (
        lambda: optim.sgd("fast"),
        DtypeError,
        "learning_rate is a str; a number, a scalar array or a schedule",
    ),
    "vector": (
        lambda: optim.sgd(fnp.ones(3)),
        ArgumentError,
        "learning_rate has shape (3,); a scalar was expected",
    ),
    "schedule of vectors": (
        lambda: optim.sgd(lambda n: fnp.ones(3)).init(W),
        ArgumentError,
        "learning_rate has shape (3,)",
    ),
    "on_nonfinite": (
        lambda: optim.clip_by_value(1.0, on_nonfinite="ignore"),
        ArgumentError,
        "on_nonfinite is 'ignore'; one of 'propagate', 'skip', 'zero_leaf' was expected",
    ),
    "no params, AGC": (
        lambda: updated(optim.adaptive_clip(0.1), W),
        ArgumentError,
        "adaptive_clip: update needs the parameters; call `update(grads, state, params)`",
    ),
    "no params, decay": (
        lambda: updated(optim.adamw(0.1), W),
        ArgumentError,
        "adamw: update needs",
    ),
    "no params, lamb": (
        lambda: updated(optim.lamb(0.1), W),
        ArgumentError,
        "update needs the parameters",
    ),
    "missing leaf": (
        lambda: updated(optim.sgd(0.1), {"w": fnp.ones(2)}, W),
        ArgumentError,
        "different pytrees: leaf ['b'] is in the parameters only",
    ),
    "other state": (
        lambda: updated(optim.adam(0.1), {"w": fnp.ones(2)}),
        ArgumentError,
        "gradients and parameters given to init are different pytrees: leaf ['b'] is in the",
    ),
    "containers": (
        lambda: optim.apply_updates((1.0, 2.0), [1.0, 2.0]),
        ArgumentError,
        "their containers differ, PyTreeDef((*, *))",
    ),
    "shapes": (
        lambda: updated(optim.sgd(0.1), {"w": fnp.ones(3), "b": 1.0}, W),
        ArgumentError,
        "leaf ['w'] has shape (3,) in the gradients and (2,) in the parameters",
    ),
    "shape of a moment": (
        lambda: updated(optim.adam(0.1), {"w": fnp.ones(3), "b": 1.0}),
        ArgumentError,
        "leaf ['w'] has shape (3,) in the gradients and (2,) in the parameters given to init",
    ),
    "integers": (
        lambda: updated(optim.sgd(0.1), {"w": fnp.ones(2, int), "b": 1.0}),
        DtypeError,
        "gradient leaf ['w'] has dtype int32; a floating or complex dtype was expected",
    ),
    "integer norm": (
        lambda: optim.global_norm([fnp.ones(2, int)]),
        DtypeError,
        "leaf [0] has dtype int32",
    ),
    "not arrays": (lambda: optim.adam(0.1).init({"w": "x"}), DtypeError, "leaf ['w'] has type str"),
    "axes": (
        lambda: updated(optim.adaptive_clip(1.0), fnp.ones([1] * 6), fnp.ones([1] * 6), fnp.ones([1] * 6)),
        ArgumentError,
        "Give `axis`, the axes to sum over",
    ),
    "mask structure": (
        lambda: updated(optim.adamw(0.1, mask={"w": True}), W, W),
        ArgumentError,
        "mask and parameters are different pytrees: leaf ['b']",
    ),
    "mask leaf": (
        lambda: updated(optim.l2_regularization(0.1, mask={"w": 1.0, "b": True}), W, W),
        DtypeError,
        "l2_regularization: mask leaf ['w'] is a float; a Python boolean was expected",
    ),
    "mask of a wrapper": (
        lambda: updated(optim.masked(optim.adam(0.1), {"w": True}), W),
        ArgumentError,
        "masked: mask and parameters are different pytrees: leaf ['b'] is in the parameters only",
    ),
    "gradients of a mask": (
        lambda: updated(optim.masked(optim.adam(0.1), lambda p: True), {"w": fnp.ones(3), "b": 1.0}, W),
        ArgumentError,
        "masked: leaf ['w'] has shape (3,) in the gradients and (2,) in the parameters",
    ),
    "label": (
        lambda: optim.partition({"fast": optim.sgd(1.0), "slow": optim.sgd(0.1)}, {"w": "fast", "b": "slw"}).init(W),
        ArgumentError,
        "partition: leaf ['b'] has the label 'slw'; one of 'fast', 'slow' was expected",
    ),
    "labels": (
        lambda: optim.partition({"fast": optim.sgd(1.0)}, {"w": "fast"}).init(W),
        ArgumentError,
        "partition: labels and parameters are different pytrees: leaf ['b'] is in the parameters only",
    ),
    "part of a partition": (
        lambda: optim.partition({"fast": optim.sgd}, "fast"),
        DtypeError,
        "partition: the transformation of 'fast' is a function; a transformation (with init and update)",
    ),
    "state of a partition": (
        lambda: optim.partition({"fast": optim.sgd(1.0)}, "fast").update(W, {"slow": ()}),
        ArgumentError,
        "partition: the state is of ['slow']; one of ['fast'], from init, was expected",
    ),
    "path pattern": (
        lambda: optim.freeze(optim.at_paths("w", "head/*")).init(W),
        ArgumentError,
        "path patterns: no leaf matches 'head/*'; the leaves are b, w.",
    ),
    "growth interval": (
        lambda: optim.dynamic_loss_scale(optim.sgd(0.1), growth_interval=0),
        ArgumentError,
        "dynamic_loss_scale: growth_interval is 0; an integer of 1 or more was expected",
    ),
    "negative loss scale": (
        lambda: optim.dynamic_loss_scale(optim.sgd(0.1), initial_scale=-2.0),
        ArgumentError,
        "dynamic_loss_scale: initial_scale is -2.0; it must be zero or more",
    ),
    "backoff": (
        lambda: optim.dynamic_loss_scale(optim.sgd(0.1), backoff_factor=2.0),
        ArgumentError,
        "backoff_factor is 2.0; it must be from 0 to 1",
    ),
    "no loss scale": (
        lambda: optim.scale_loss(1.0, optim.sgd(0.1).init(W)),
        ArgumentError,
        "loss_scale: the state has 0 parts made by dynamic_loss_scale; one was expected",
    ),
    "state of another": (
        lambda: optim.dynamic_loss_scale(optim.sgd(0.1)).update(W, optim.sgd(0.1).init(W)),
        ArgumentError,
        "dynamic_loss_scale: the state is a dict; a LossScaleState, made by init, was expected",
    ),
    "wrapped twice": (
        lambda: optim.master_weights(optim.sgd),
        DtypeError,
        "master_weights: inner is a function; a transformation (with init and update) was expected",
    ),
    "sync period": (
        lambda: optim.lookahead(optim.sgd(0.1), 0, 0.5),
        ArgumentError,
        "lookahead: sync_period is 0; an integer of 1 or more was expected",
    ),
    "slow step": (
        lambda: optim.lookahead(optim.sgd(0.1), 5, 1.5),
        ArgumentError,
        "lookahead: slow_step_size is 1.5; it must be from 0 to 1",
    ),
    "no params, lookahead": (
        lambda: updated(optim.lookahead(optim.sgd(0.1), 5, 0.5), W),
        ArgumentError,
        "lookahead: update needs the parameters",
    ),
    "b1 of schedule-free": (
        lambda: optim.schedule_free_adamw(0.1, b1=0.0),
        ArgumentError,
        "schedule_free_adamw: b1 is 0.0; a number above 0 and up to 1 was expected",
    ),
    "warm-up of a schedule": (
        lambda: optim.schedule_free_sgd(lambda n: 0.1, warmup_steps=3),
        ArgumentError,
        "schedule_free_sgd: the learning rate is a schedule; with warmup_steps a number was expected",
    ),
    "other schedule-free parameters": (
        lambda: optim.schedule_free_eval_params(optim.schedule_free_sgd().init(W), {"w": fnp.ones(2)}),
        ArgumentError,
        "leaf ['b'] is in the parameters given to init only",
    ),
    "rho": (lambda: optim.sam(optim.sgd(0.1), -0.05), ArgumentError, "sam: rho is -0.05; it must be zero or more"),
    "adversary": (lambda: optim.sam(optim.sgd(0.1), "worst"), DtypeError, "sam: rho is a str; a number"),
    "opaque without a gradient": (
        lambda: updated(optim.sam(optim.sgd(0.1), opaque_mode=True), W, W),
        ArgumentError,
        "sam: in opaque mode update needs the gradient function; call `update(grads, state, params, grad_fn=",
    ),
    "not a matrix": (
        lambda: optim.scale_by_muon().init(W),
        ShapeError,
        "scale_by_muon: leaf ['b'] has shape (); a matrix was expected. Use `muon`",
    ),
    "not a matrix but a kernel": (
        lambda: optim.scale_by_muon().init({"k": fnp.ones((3, 3, 1, 2))}),
        ShapeError,
        "scale_by_muon: leaf ['k'] has shape (3, 3, 1, 2); a matrix was expected. Use `muon`, which gives other leaves "
        "to Adam, or `masked`, or kernels=True if it is [*window, in, out].",
    ),
    "which kernels": (
        lambda: optim.muon(0.1, kernels="conv").init(W),
        DtypeError,
        "muon: kernels leaf (the whole tree) is a str; a Python boolean was expected",
    ),
    "coefficients": (
        lambda: optim.muon(0.1, ((1.0, 2.0, 3.0),), ns_steps=2),
        ArgumentError,
        "muon: ns_coeffs has shape (1, 3); (3,), or (2, 3) for 2 iterations, was expected",
    ),
    "no loss": (
        lambda: updated(optim.lbfgs(), W, W),
        ArgumentError,
        "lbfgs: update needs the loss; call `update(grads, state, params, value=..., grad=...,",
    ),
    "no params, lbfgs": (lambda: updated(optim.lbfgs(), W), ArgumentError, "lbfgs: update needs the param"),
    "memory": (
        lambda: optim.lbfgs(memory_size=0),
        ArgumentError,
        "lbfgs: memory_size is 0; an integer of 1 or more was expected",
    ),
    "first guess": (
        lambda: optim.scale_by_zoom_linesearch(5, initial_guess_strategy="two"),
        ArgumentError,
        "scale_by_zoom_linesearch: initial_guess_strategy is 'two'; one of 'keep', 'one' was expected",
    ),
    "tolerance": (
        lambda: optim.scale_by_zoom_linesearch(5, tol=-1.0),
        ArgumentError,
        "scale_by_zoom_linesearch: tol is -1.0; it must be zero or more",
    ),
    "layers": (
        lambda: optim.clip_by_layer_norm(1.0, 0),
        ArgumentError,
        "clip_by_layer_norm: layers is 0; an integer of 1 or more was expected",
    ),
    "negative layer norm": (lambda: optim.clip_by_layer_norm(-1.0), ArgumentError, "max_norm is -1.0; it must be zero"),
    "labels of layers": (
        lambda: optim.clip_by_layer_norm(1.0, {"w": "first"}).init(W),
        ArgumentError,
        "clip_by_layer_norm: layers and parameters are different pytrees: leaf ['b']",
    ),
    "injected name": (
        lambda: optim.inject_hyperparams(optim.sgd)(0.1).update(
            W, optim.inject_hyperparams(optim.sgd)(0.1).init(W)._replace(hyperparams={"rate": 0.1})
        ),
        ArgumentError,
        "inject_hyperparams: state.hyperparams has rate; learning_rate were expected",
    ),
    "k": (
        lambda: optim.accumulate(optim.sgd(0.1), 0),
        ArgumentError,
        "accumulate: k is 0; an integer of 1 or more",
    ),
    "max_consecutive": (
        lambda: optim.skip_nonfinite(optim.sgd(0.1), -1),
        ArgumentError,
        "max_consecutive is -1; it must be zero",
    ),
    "missing call": (
        lambda: optim.chain(optim.adam),
        DtypeError,
        "part 0 is a function; a transformation",
    ),
    "chain's state": (
        lambda: optim.chain(optim.scale(1.0)).update(W, ()),
        ArgumentError,
        "the state is of tuple",
    ),
    "swapped state": (
        lambda: optim.scale_by_adam().update(W, ()),
        ArgumentError,
        "the state is a tuple; a MomentsState, made by init",
    ),
    "unknown name": (
        lambda: optim.set_hyperparams(optim.sgd(0.1).init(W), rate=1.0),
        ArgumentError,
        "the state has no 'rate'; it has learning_rate",
    ),
    "ambiguous name": (
        lambda: optim.set_hyperparams(optim.chain(optim.scale(1.0), optim.scale(1.0)).init(W), step_size=1.0),
        ArgumentError,
        "in several parts, ['scale'], ['scale_2']",
    ),
    "scheduled name": (
        lambda: optim.set_hyperparams(optim.sgd(lambda n: 0.1).init(W), learning_rate=1.0),
        ArgumentError,
        "follows a schedule",
    ),
    "set out of range": (
        lambda: optim.set_hyperparams(optim.adam(0.1).init(W), b1=2.0),
        ArgumentError,
        "b1 is 2.0; it must be from 0 to 1",
    ),
    "steps": (
        lambda: optim.linear_schedule(0, 1, 0),
        ArgumentError,
        "transition_steps is 0; a positive number",
    ),
    "begin": (lambda: optim.linear_schedule(0, 1, 2, -1), ArgumentError, "transition_begin is -1"),
    "rate of decay": (
        lambda: optim.exponential_decay(1.0, 2, 0.0),
        ArgumentError,
        "decay_rate is 0.0; a positive",
    ),
    "cosine": (lambda: optim.cosine_decay_schedule(1.0, 0), ArgumentError, "decay_steps is 0"),
    "warm-up": (
        lambda: optim.warmup_cosine_decay_schedule(0, 1, 10, 10),
        ArgumentError,
        "length of the whole, warm-up included",
    ),
    "negative warm-up": (
        lambda: optim.warmup_exponential_decay_schedule(0, 1, -1, 10, 0.5),
        ArgumentError,
        "warmup_steps is -1",
    ),
    "negative factor": (
        lambda: optim.piecewise_constant_schedule(1.0, {3: -1.0}),
        ArgumentError,
        "the factor at step 3 is -1.0",
    ),
    "interpolation": (
        lambda: optim.piecewise_interpolate_schedule("cubic", 1.0),
        ArgumentError,
        "interpolate_type is 'cubic'",
    ),
    "boundaries": (
        lambda: optim.join_schedules([], []),
        ArgumentError,
        "0 schedules and 0 boundaries; one boundary fewer",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told(name):
    call, error, message = CASES[name]
    with pytest.raises(error, match=re.escape(message) + r".*  \(test_messages.py:\d+, in \S+\)$"):
        call()
