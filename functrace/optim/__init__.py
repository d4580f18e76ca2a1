"""Optimizers: pairs of pure functions, composed by `chain`.

A pair is `init(params) -> state` and `update(grads, state, params) -> (updates, state)`. Everything
is such a pair: clipping, momentum, weight decay, the step by the learning rate, accumulation, guards,
loss scaling, averages of the parameters. `chain` composes them, `partition` gives each group of leaves
one of its own, and an optimizer such as `adamw` is one line of `chain`. The state is plain data, named
after the parts, and is there to be read: `state["clip_by_global_norm"].norm`, or all of it at once by
`metrics(state)`. Hyper-parameters are leaves of the state. Wherever a number is asked for, a schedule (a
function of the step count) will do. `set_hyperparams` replaces them, under `jit` and under `grad` too, so
a learning rate can itself be learned; an update has derivatives by all that goes into it. Arithmetic is
done in float32 at least, and moments are kept so; updates have the dtype of their gradients.

Read base.py (the pair and `chain`), hyperparameters.py, norms.py and clipping.py, then scaling.py,
stepping.py and optimizers.py. Around them stand masks.py and grouping.py (which leaves), guards.py,
precision.py and loss_scaling.py; slow_weights.py, without_schedule.py, sharpness.py, orthogonal.py and
factored.py hold one method each; quasi_newton.py and line_search.py are L-BFGS.
"""

from functrace.optim.averaging import EmaState, ParameterEmaState, ema, ema_params, incremental_update, parameter_ema
from functrace.optim.base import Transformation, apply_updates, chain
from functrace.optim.clipping import (
    ClipState,
    adaptive_clip,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_layer_norm,
    clip_by_norm,
    clip_by_value,
)
from functrace.optim.factored import FactoredState, scale_by_factored_rms, scale_by_param_block_rms
from functrace.optim.grouping import MaskedState, freeze, masked, partition, set_to_zero
from functrace.optim.guards import AccumulateState, SkipState, accumulate, skip_nonfinite
from functrace.optim.hyperparameters import Hyperparams, get_hyperparams, set_hyperparams
from functrace.optim.injecting import InjectedState, inject_hyperparams
from functrace.optim.line_search import LineSearchState, scale_by_zoom_linesearch, value_and_grad_from_state
from functrace.optim.loss_scaling import LossScaleState, dynamic_loss_scale, loss_scale, scale_loss
from functrace.optim.masks import Masked, at_paths, labels_by_path
from functrace.optim.norms import global_norm
from functrace.optim.optimizers import (
    adafactor,
    adagrad,
    adam,
    adamax,
    adamaxw,
    adamw,
    lamb,
    lion,
    nadam,
    nadamw,
    radam,
    rmsprop,
    sgd,
)
from functrace.optim.orthogonal import MuonState, muon, scale_by_muon, scale_by_shape
from functrace.optim.piecewise import (
    cosine_onecycle_schedule,
    linear_onecycle_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
)
from functrace.optim.precision import MasterState, Policy, master_weights
from functrace.optim.quasi_newton import LbfgsState, lbfgs, scale_by_lbfgs
from functrace.optim.reading import metrics, nonfinite_paths
from functrace.optim.scaling import (
    scale_by_adam,
    scale_by_adamax,
    scale_by_lion,
    scale_by_radam,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
    trace,
)
from functrace.optim.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    join_schedules,
    linear_schedule,
    polynomial_schedule,
    sgdr_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)
from functrace.optim.sharpness import SamState, normalize, sam
from functrace.optim.slow_weights import LookaheadState, lookahead
from functrace.optim.stepping import scale, scale_by_learning_rate, scale_by_trust_ratio
from functrace.optim.weight_decay import add_decayed_weights, l2_regularization
from functrace.optim.without_schedule import (
    ScheduleFreeState,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
)

__all__ = [
    "AccumulateState",
    "ClipState",
    "EmaState",
    "FactoredState",
    "Hyperparams",
    "InjectedState",
    "LbfgsState",
    "LineSearchState",
    "LookaheadState",
    "LossScaleState",
    "Masked",
    "MaskedState",
    "MasterState",
    "MuonState",
    "ParameterEmaState",
    "Policy",
    "SamState",
    "ScheduleFreeState",
    "SkipState",
    "Transformation",
    "accumulate",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adaptive_clip",
    "add_decayed_weights",
    "apply_updates",
    "at_paths",
    "chain",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_layer_norm",
    "clip_by_norm",
    "clip_by_value",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "dynamic_loss_scale",
    "ema",
    "ema_params",
    "exponential_decay",
    "freeze",
    "get_hyperparams",
    "global_norm",
    "incremental_update",
    "inject_hyperparams",
    "join_schedules",
    "l2_regularization",
    "labels_by_path",
    "lamb",
    "lbfgs",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "lookahead",
    "loss_scale",
    "masked",
    "master_weights",
    "metrics",
    "muon",
    "nadam",
    "nadamw",
    "nonfinite_paths",
    "normalize",
    "parameter_ema",
    "partition",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "radam",
    "rmsprop",
    "sam",
    "scale",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_factored_rms",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_muon",
    "scale_by_param_block_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_shape",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_zoom_linesearch",
    "scale_loss",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "set_hyperparams",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "skip_nonfinite",
    "trace",
    "value_and_grad_from_state",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]
