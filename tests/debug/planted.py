"""Programs with one fault each, and programs with none that look as if they had one.

A fault stands on the line that ends in `# planted`; `find_nonfinite` must name that line, and the phase, the turn of
the loop and the row where there are any. A healthy program must raise no alarm.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim

F16 = np.float16
INF = np.inf
ONE_ZERO = np.array([1.0, 0.0, 2.0], np.float32)
ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 5.0]], np.float32)
STEPS = np.array([1.0, 2.0, 4.0, 0.0, 3.0], np.float32)
RNG = np.random.default_rng(0)


class Planted(NamedTuple):
    """A program, its arguments, and what the report must say; `options` are those of `find_nonfinite`."""

    function: Callable[..., Any]
    run: Callable[..., Any]
    args: tuple[Any, ...]
    expected: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self):
        return self.function.__name__

    @property
    def line(self):
        lines, start = inspect.getsourcelines(self.function)
        (found,) = [i for i, line in enumerate(lines) if line.rstrip().endswith("# planted")]
        return start + found


FAULTS: list[Planted] = []
HEALTHY: list[Planted] = []


def fault(*args, run=lambda f: f, phase="forward", **expected):
    """A faulty function; `run` is what makes of it that which is examined."""
    grad = {"grad": expected.pop("grad")} if "grad" in expected else {}

    def register(f):
        FAULTS.append(Planted(f, run(f), args, {"phase": phase, **expected}, grad))
        return f

    return register


def healthy(*args, run=lambda f: f, **options):
    """A function whose outputs are finite, or infinite on purpose."""

    def register(f):
        HEALTHY.append(Planted(f, run(f), args, {}, options))
        return f

    return register


# Forward.


@fault(ONE_ZERO, primitive="log")
def log_of_zero(x):
    y = fnp.maximum(x, 0.0)
    z = fnp.log(y)  # planted
    return (z * x).sum()


@fault(np.array([0.5, 1.0], np.float32), primitive="atanh", cause="atanh of -1 or 1 is infinite")
def end_of_the_domain(x):
    return fnp.arctanh(x).sum()  # planted


@fault(np.zeros((0, 3), np.float32), np.ones(3, np.float32), primitive="div")
def mean_of_nothing(rows, w):
    total = (rows @ w).sum()
    return total / rows.shape[0] + 1.0  # planted


@fault(np.zeros(4, np.float32))
def zero_over_zero(x):
    shifted = x - x.mean()
    return shifted / fnp.abs(shifted).max()  # planted


@fault(np.full(7, 1234.567, np.float32), np.float32(1e-3), primitive="sqrt")
def variance_below_zero(x, slack):
    variance = (x**2).mean() - (x**2).mean() - slack
    return fnp.sqrt(variance)  # planted


@fault(np.array([1.0, 100.0], np.float32), primitive="exp")
def softmax_without_a_shift(logits):
    e = fnp.exp(logits)  # planted
    return e / e.sum()


@fault(RNG.normal(size=(3, 3)).astype(np.float32), np.array([True, False, True]), primitive="sub")
def everything_masked(scores, keep):
    scores = fnp.where(keep[:, None], scores, -INF)
    scores = scores - scores.max(axis=1, keepdims=True)  # planted
    weights = fnp.exp(scores)
    return weights / weights.sum(axis=1, keepdims=True)


@fault(np.full(8, 300.0, F16))
def half_precision_overflows(x):
    y = x + F16(1)
    return (y * y).sum() * F16(0)  # planted


@fault(np.full((4, 4), 200.0, F16), primitive="dot_general")
def half_precision_matmul(w):
    return fnp.tanh(w @ w)[0] + (w @ (w + F16(1)))[1]  # planted


@fault(np.full(3, 1e6, np.float32), primitive="convert_element_type")
def cast_too_narrow(x):
    y = x / 2
    return y.astype(F16).astype(np.float32).mean()  # planted


@fault(np.array([1j, 0], np.complex64))
def complex_division(z):
    return 1.0 / z  # planted


@fault(np.array([2.0, -2.0], np.float32), np.float32(0.5), primitive="pow")
def power_of_a_negative_number(x, p):
    return x**p  # planted


@fault(STEPS, iteration=3, primitive="log")
def log_in_scan(xs):
    def step(total, x):
        y = fnp.log(x)  # planted
        return total + y, y * 2

    return lax.scan(step, 0.0, xs)[0]


@fault(STEPS, iteration=3)
def division_in_a_reverse_scan(xs):
    return lax.scan(lambda c, x: (c * 0.5 + 1.0 / x, None), 0.0, xs, reverse=True)[0]  # planted


@fault(np.float32(2.0), iteration=6)
def overflow_in_while(x):
    def square(state):
        n, y = state
        return n + 1, y * y  # planted

    return lax.while_loop(lambda state: state[0] < 9, square, (0, x))[1]


@fault(ROWS, iterations=(2, 0), iteration=0)
def scan_in_scan(rows):
    def inner(c, x):
        return c + fnp.log(x), None  # planted

    return lax.scan(lambda c, row: (lax.scan(inner, c, row)[0], c), 0.0, rows)[0]


@fault(ONE_ZERO, np.int32(4), iteration=2)
def fori_loop_counts_down(x, n):
    return lax.fori_loop(0, n, lambda i, s: s + 1.0 / (2.0 - i), 0.0 * x.sum())  # planted


@fault(np.float32(-1.0), primitive="log")
def the_branch_that_was_taken(x):
    return lax.cond(x > 0, fnp.sqrt, lambda x: fnp.log(x + 1.0), x)  # planted


@fault(ROWS, run=ft.vmap, row=2, primitive="log")
def one_row(row):
    return fnp.log(row).sum()  # planted


@fault(ROWS, run=ft.vmap, row=2, iteration=0)
def one_row_of_a_scan(row):
    def step(c, x):
        return c + 1.0 / x, None  # planted

    return lax.scan(step, 0.0, row)[0]


@fault(np.full(3, 3.0, np.float32), run=lambda f: ft.jit(f))
def a_layer_called_for_the_third_time(x):
    @ft.jit
    def layer(x):
        y = x - 1.0
        return fnp.log(fnp.abs(y)) + y  # planted

    return layer(fnp.round(layer(x) * 0 + 2.0) * 1.0 + 0 * layer(x) - 1.0)


@fault(ONE_ZERO)
def in_a_checkpoint(x):
    @ft.checkpoint
    def block(x):
        y = fnp.sin(x)
        return fnp.cos(y) / y  # planted

    return block(x).sum()


@fault(np.array([0.5, -INF, 1.0], np.float32), np.float32(0.0))
def after_harmless_infinities(x, scale):
    kept = fnp.where(x > -INF, x, 0.0)
    guarded = fnp.where(scale > 0, fnp.log(scale), 0.0)
    weights = nn.softmax(x)
    return (kept * weights).sum() + guarded + kept.sum() / scale  # planted


@fault(np.float32(90.0), primitive="exp")
def a_custom_jvp_itself(x):
    @ft.custom_jvp
    def f(x):
        return fnp.exp(x)  # planted

    f.defjvp(lambda xs, dxs: (f(*xs), dxs[0]))
    return f(x)


@fault(np.stack([np.eye(2), np.zeros((2, 2))]).astype(np.float32), run=ft.vmap, row=1, primitive="div")
def inverse_by_rows(a):
    determinant = a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0]
    return a / determinant  # planted


@fault(np.float32(10.0), iteration=0, cause="a division by 0; it became NaN in div at planted.py")
def newton_where_it_is_flat(x):
    def step(state):
        i, x = state
        slope = ft.grad(lambda x: (x - 10.0) ** 2)(x)
        return i + 1, x - (x**2 + 1) / slope  # planted

    return lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1]


# Backward.


@fault(np.float32(5.0), np.full(6, 3.0, np.float32), phase="backward", cause="the result is larger than its")
def momentum_diverges(w, xs):
    def step(state, x):
        w, v = state
        gradient = ft.grad(lambda w: (w * x) ** 4)(w)  # planted
        return (w - 0.9 * v - gradient, 0.9 * v + gradient), None

    return lax.scan(step, (w, 0.0), xs)[0][0]


@fault(np.ones((2, 3), np.float32), np.ones((4, 2), np.float32), phase="backward", primitive="div")
def a_hook_that_normalises_nothing(w, x):
    def unit(ct):
        return ct / fnp.sqrt((ct**2).sum())  # planted

    return (ft.on_backward(x @ w, unit) * 0.0).sum()


@fault(ONE_ZERO, phase="backward")
def square_root_at_zero(x):
    return fnp.sqrt(x).sum()  # planted


@fault({"w": np.zeros(3, np.float32)}, ONE_ZERO, run=ft.grad, phase="backward")
def length_of_nothing(params, x):
    scaled = params["w"] * x
    squares = (scaled * scaled).sum()
    return fnp.sqrt(squares)  # planted


@fault(ONE_ZERO, run=ft.value_and_grad, phase="backward")
def fractional_power_at_zero(x):
    y = 2 * x
    return (y**0.5).sum()  # planted


@fault(np.array([0.5, 1.0], np.float32), run=lambda f: ft.jit(ft.grad(f)), phase="backward")
def arc_cosine_at_one(x):
    return fnp.arccos(x).sum()  # planted


@fault(np.float32(1.0), STEPS, phase="backward", iteration=3, grad=True)
def square_root_in_scan(w, xs):
    def step(c, x):
        return c + fnp.sqrt(w * x), None  # planted

    return lax.scan(step, 0.0, xs)[0]


@fault(np.float32(3.0), phase="backward", iteration=3)
def square_root_in_while(x):
    def body(state):
        y, total = state
        return y - 1.0, total + fnp.sqrt(fnp.abs(y))  # planted

    return lax.while_loop(lambda state: state[0] > -1.5, body, (x, 0.0))[1]


@fault(np.array([0.0, 2.0], np.float32), phase="backward")
def a_custom_backward(x):
    @ft.custom_vjp
    def f(x):
        return x * x

    def backward(x, ct):
        unit = x / fnp.abs(x)  # planted
        return (ct * 2 * unit * fnp.abs(x),)

    f.defvjp(lambda x: (x * x, x), backward)
    return f(x).sum()


@fault(np.array([0.0, 2.0], np.float32), phase="backward")
def a_custom_pushforward(x):
    @ft.custom_jvp
    def f(x):
        return fnp.abs(x)

    def push(xs, dxs):
        (x,), (dx,) = xs, dxs
        sign = x / fnp.abs(x)  # planted
        return fnp.abs(x), sign * dx

    f.defjvp(push)
    return f(x).sum()


@fault(np.array([0.5, 0.0, 0.5], np.float32), phase="backward", primitive="log")
def entropy_of_a_certain_event(p):
    total = p.sum()
    return -ft.scipy.special.xlogy(p, p).sum() / total  # planted


@fault(np.float32(2.0), phase="backward", primitive="integer_pow")
def a_hook_on_a_known_cotangent(x):
    return ft.on_backward(x, lambda ct: ct / 0.0) + 1.0  # planted


@fault(np.float32(2.0), phase="backward", primitive="integer_pow")
def a_power_of_a_known_cotangent(x):
    def damped(ct):
        gap = ct - 1.0
        return ct * gap**-1  # planted

    return ft.on_backward(x, damped) + 1.0


@fault(np.float32(2.0), phase="backward", primitive="mul")
def a_known_cotangent_overflows(x):
    def amplified(ct):
        return fnp.maximum(ct * 3e38 * 10.0, 1.0)  # planted

    return ft.on_backward(x, amplified) + 1.0


@fault(np.array([0.0, 2.0], np.float32), phase="backward", trap=True)
def the_where_trap(x):
    @ft.custom_vjp
    def safe_log(x):
        return fnp.where(x > 0, fnp.log(fnp.where(x > 0, x, 1.0)), 0.0)

    def backward(x, ct):
        masked = fnp.where(x > 0, ct, 0.0)
        return (masked / x,)  # planted

    safe_log.defvjp(lambda x: (safe_log(x), x), backward)
    return safe_log(x).sum()


@fault(np.array([0.0, 2.0], np.float32), trap=True, phase="forward")
def the_where_trap_in_jax(x):
    gradient = jax.grad(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0).sum())
    return ft.from_jax(gradient)(x)  # planted


NOT_READ = "what was not read of the result"
FROM_ZERO = np.array([0.0, 1.0, 4.0], np.float32)


@fault(FROM_ZERO, phase="backward", primitive="div", cause=NOT_READ)
def root_before_a_slice(x):
    roots = fnp.sqrt(x)  # planted
    return roots[1:].sum()


@fault(FROM_ZERO, phase="backward", cause=NOT_READ)
def logarithm_of_which_one_is_read(x):
    logs = fnp.log(x) * 2.0  # planted
    return logs[1] + x[2]


@fault(ROWS, np.array([1, 0, 1]), phase="backward", iteration=2, cause=NOT_READ, grad=True)
def root_before_an_index_in_scan(rows, places):
    def step(total, row_and_place):
        row, i = row_and_place
        roots = fnp.sqrt(row)  # planted
        return total + roots[i], None

    return lax.scan(step, 0.0, (rows, places))[0]


@fault(ROWS, run=lambda f: ft.vmap(ft.grad(f)), phase="backward", row=2, cause=NOT_READ)
def root_before_a_gather_by_rows(row):
    roots = fnp.sqrt(row)  # planted
    return roots[np.array([1, 1])].sum()


@fault(FROM_ZERO)
def behind_a_slice_that_masks(x):
    logs = fnp.log(x)[1:]
    return logs / (logs[0] * 1.0) + fnp.log(x[1:])  # planted


@fault(np.array([0.0, 2.0], np.float32), phase="backward", run=lambda f: ft.grad(lambda x: ft.grad(f)(x).sum()))
def second_derivative_at_zero(x):
    y = x * 1.0
    return (y**1.5).sum()  # planted


@fault(np.float32(1.0), STEPS, run=lambda f: ft.grad(ft.grad(f)), phase="backward", iteration=3)
def nested_gradient_in_scan(w, xs):
    def step(c, x):
        return c + (w * x) ** 1.5, None  # planted

    return lax.scan(step, 0.0, xs)[0]


@fault(ROWS, run=lambda f: ft.vmap(ft.grad(f)), phase="backward", row=2)
def one_row_of_a_gradient(row):
    return fnp.sqrt(row).sum()  # planted


@fault(ONE_ZERO, np.ones(3, np.float32), run=lambda f: lambda x, dx: ft.jvp(f, (x,), (dx,)), phase="backward")
def a_tangent(x):
    return fnp.sqrt(x)  # planted


@fault(np.full(4, 0.01, F16), phase="backward", run=lambda f: ft.grad(f))
def half_precision_gradient(x):
    small = x * F16(1e-3)
    y = small * F16(6e4) * F16(1.0)
    return (1e3 * (y * F16(6e2))).sum().astype(np.float32)  # planted


@fault({"w": np.zeros(2, np.float32)}, np.ones((4, 2), np.float32), phase="forward")
def a_step_of_training(params, x):
    loss = lambda p: ((x @ p["w"]) ** 2).mean()
    value, gradient = ft.value_and_grad(loss)(params)
    norm = fnp.sqrt((gradient["w"] ** 2).sum())
    unit = gradient["w"] / norm  # planted
    return value, params["w"] - 0.1 * unit


# Healthy.


@healthy(np.ones((2, 3), np.float32), np.array([[True, False, True], [False, False, False]]))
def mean_of_what_is_there(x, there):
    count = there.sum(1)
    return fnp.where(count > 0, (x * there).sum(1) / count, 0.0).sum()


@healthy(np.float32(0.5), np.full(4, -INF, np.float32))
def one_log_probability_among_none(w, padding):
    return nn.logsumexp(fnp.concatenate([padding, fnp.stack([w])]))


@healthy(RNG.normal(size=(4, 4)).astype(np.float32))
def causal_attention(x):
    scores = fnp.where(np.tril(np.ones((4, 4), bool)), x @ x.T, -INF)
    return (nn.softmax(scores, axis=-1) @ x).sum()


@healthy(np.array([1.0, 0.0, 2.0], np.float32))
def mask_as_logarithm(keep):
    return nn.softmax(fnp.log(keep))


@healthy(ONE_ZERO)
def guarded_logarithm(x):
    return fnp.where(x > 0, fnp.log(x), 0.0)


@healthy(ONE_ZERO)
def guarded_twice(x):
    return fnp.where(x > 0, fnp.log(fnp.where(x > 0, x, 1.0)), 0.0).sum()


@healthy(ONE_ZERO)
def guarded_division(x):
    return fnp.where(x == 0, 0.0, 1.0 / x)


@healthy(ONE_ZERO, np.float32(INF))
def best_so_far(x, best):
    loss = x.sum()
    return loss, fnp.minimum(loss, best), best


@healthy(np.float32(0.3), np.float32(INF))
def hands_on_what_was_infinite(x, best):
    return x * 2, best


@healthy(STEPS)
def running_maximum(xs):
    return lax.scan(lambda m, x: (fnp.maximum(m, x), fnp.maximum(m, x)), -INF, xs)


@healthy(STEPS)
def first_carry_is_infinite(xs):
    def step(m, x):
        return fnp.where(x < m, x, m), fnp.exp(-m)

    return lax.scan(step, INF, xs)


@healthy(np.float32(2.0))
def newton(a):
    return lax.while_loop(lambda x: abs(x * x - a) > 1e-4, lambda x: 0.5 * (x + a / x), a * 1.0)


@healthy(np.float32(-1.0))
def the_branch_not_taken(x):
    return lax.cond(x > 0, fnp.log, lambda x: x * x, x)


@healthy(ROWS, run=ft.vmap)
def branches_by_row(row):
    return lax.cond(row[0] > 0, lambda r: fnp.log(r[0]), lambda r: r[1], row)


@healthy(FROM_ZERO)
def read_before_the_root(x):
    return fnp.sqrt(x[1:]).sum() + fnp.log(x[np.array([1, 2])]).sum()


@healthy(FROM_ZERO, grad=False)
def sliced_away(x):
    return fnp.log(x)[1:], fnp.split(1 / x, [1])[1]


@healthy(FROM_ZERO)
def masked_before_a_slice(x):
    kept = fnp.where(x > 0, fnp.log(x), 0.0)
    return (kept[1:] * kept[:-1]).sum() + fnp.where(x > 0, fnp.sqrt(x), 0.0)[::2].sum()


@healthy(FROM_ZERO)
def sliced_and_masked(x):
    return fnp.where(x[:-1] > 0, fnp.log(x)[:-1], 0.0).sum()


@healthy(FROM_ZERO)
def deviation_of_what_is_there(x):
    there = fnp.where(x > 0, x, fnp.nan)
    return fnp.nanstd(there) + fnp.nanmean(there) + fnp.nanvar(there[1:])


@healthy(np.array([1000.0, -1000.0], np.float32))
def logarithm_of_a_sum(x):
    return nn.logsumexp(x)


@healthy(np.array([-INF, 1.0, 2.0], np.float32))
def minus_infinity_among_logits(x):
    return nn.logsumexp(x), nn.softmax(x)


@healthy(np.array([-200.0, 0.0, 200.0], np.float32))
def activations(x):
    return sum(f(x).sum() for f in (nn.relu, nn.softplus, nn.sigmoid, nn.gelu, nn.silu, nn.log_sigmoid, fnp.tanh))


@healthy({"w": RNG.normal(size=(2, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}, ROWS)
def layer_norm(p, x):
    y = x @ p["w"] + p["b"]
    y = (y - y.mean(-1, keepdims=True)) / fnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return (nn.relu(y) ** 2).mean()


@healthy(np.float32(0.5), STEPS)
def recurrent(w, xs):
    return lax.scan(lambda h, x: (fnp.tanh(w * h + x), h), 0.0, xs)[0]


@healthy(np.float32(0.5))
def gradient_of_a_while(w):
    return lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, fnp.sin(s[1] * w)), (0, 1.0))[1]


@healthy(STEPS + 1, run=lambda f: ft.jit(ft.vmap(ft.grad(f))))
def gradients_by_row(x):
    return fnp.log(x) * fnp.sqrt(x)


@healthy(np.float32(0.7), run=lambda f: ft.grad(ft.grad(ft.grad(f))))
def third_derivative(x):
    return fnp.sin(x) * fnp.exp(x) / x


@healthy(np.array([3 + 4j, 1j], np.complex64))
def complex_values(z):
    return fnp.abs(z * z / (1 + z))


@healthy(np.array([300.0, 20.0], F16))
def scaled_before_squaring(x):
    y = x / F16(100)
    return (y * y).sum()


@healthy(np.arange(4, dtype=np.int32), np.array([True, False, True, True]))
def integers_and_booleans(n, keep):
    return fnp.where(keep, n * 2, -(2**31)), keep & (n > 1), n // 2


@healthy(RNG.normal(size=(3, 3)).astype(np.float32))
def linear_algebra(a):
    spd = a @ a.T + np.eye(3, dtype=np.float32)
    return fnp.linalg.cholesky(spd).sum() + fnp.linalg.solve(spd, a[0]).sum() + fnp.linalg.slogdet(spd)[1]


@healthy(jax.random.key(0))
def random_numbers(key):
    return ft.random.normal(key, (5,)), ft.random.gumbel(key, (5,)), ft.random.categorical(key, fnp.zeros(3))


@healthy(np.ones(3, np.float32))
def custom_and_checkpointed(x):
    @ft.custom_vjp
    def f(x):
        return fnp.sin(x)

    f.defvjp(lambda x: (fnp.sin(x), x), lambda x, ct: (ct * fnp.cos(x),))
    return ft.checkpoint(lambda x: f(x) * 2)(x).sum()


ADAM, NOTHING = optim.adam(1e-2), {"w": np.zeros(2, np.float32)}


@healthy(NOTHING, ADAM.init(NOTHING), np.zeros((4, 2), np.float32), run=ft.jit)
def a_step_of_adam_with_no_gradient(params, state, x):
    value, gradient = ft.value_and_grad(lambda p: ((x @ p["w"]) ** 2).mean())(params)
    updates, state = ADAM.update(gradient, state, params)
    return value, optim.apply_updates(params, updates), state


@healthy(ONE_ZERO)
def smallest_of_the_allowed(x):
    masked = fnp.where(x > 0, x, INF)
    return masked.min(), masked.argmin(), fnp.sort(masked)[:2]


@healthy(np.float32(0.0))
def removable_by_xlogy(x):
    return ft.scipy.special.xlogy(x, x), fnp.sinc(x), fnp.hypot(x, x + 1)


@healthy(np.array([0.5, 0.0, 0.5], np.float32))
def entropy_with_a_margin(p):
    return -ft.scipy.special.xlogy(p, p + 1e-6).sum() + ft.scipy.special.xlogy(np.array([1, 0, 0]), p).sum()


@healthy(np.float32(1.0), grad=False)
def overflows_where_nobody_looks(x):
    huge = fnp.exp(x * 1000)
    return fnp.minimum(huge, 10.0) + 1.0 / huge + nn.sigmoid(huge)


@healthy(np.array([5.0, 2.0], np.float32))
def clipped_and_capped(x):
    return fnp.clip(fnp.exp(x * 50), 0.0, 1e6)


@healthy(np.ones((2, 4), np.float32))
def prefix_sums(x):
    return lax.associative_scan(fnp.add, x, axis=1), fnp.cumsum(x, 1), fnp.cumprod(x, 0)
