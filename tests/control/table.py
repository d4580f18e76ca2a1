"""Functions with loops and branches, written once for both libraries.

`b` is a library: its loops, branches and collectives, `b.np` its numpy, `b.t` its transforms. JAX's while
loop, which has no reverse mode, is a scan here that is long enough and stands still when it is done; and where we
have a custom_vjp, JAX's has no forward mode, so that the function itself stands there.
"""

from types import SimpleNamespace

import jax
from jax import lax, numpy as jnp
from jax.ad_checkpoint import checkpoint_name

import functrace as ft
from functrace import numpy as fnp
from tests.against_jax import integers, normal, positive, row, uniform

BOUND = 24


def bounded_while(cond_fun, body_fun, init_val, **_):
    def step(val, _):
        stepped = body_fun(val)
        return jax.tree.map(lambda new, old: jnp.where(cond_fun(val), new, old), stepped, val), None

    return lax.scan(step, jax.tree.map(jnp.asarray, init_val), None, BOUND)[0]


def bounded_fori(lower, upper, body_fun, init_val):
    def step(val, i):
        return jax.tree.map(lambda new, old: jnp.where(i < upper, new, old), body_fun(i, val), val), None

    return lax.scan(step, jax.tree.map(jnp.asarray, init_val), lower + jnp.arange(BOUND))[0]


@ft.custom_vjp
def cube(x):
    return ft.stop_gradient(x**3)  # without its rule it has no derivative


cube.defvjp(lambda x: (x**3, x), lambda x, ct: (3 * x * x * ct,))


def with_pullback(f):
    """`f` with its own derivative as a custom_vjp."""
    g = ft.custom_vjp(f)
    g.defvjp(lambda x: ft.vjp(f, x), lambda pullback, ct: pullback(ct))
    return g


SHARED = ("cond", "switch", "scan", "map", "psum", "pmean", "all_gather", "axis_index")
THEIRS = SimpleNamespace(
    np=jnp, t=jax, while_loop=bounded_while, counted=bounded_fori, fori_loop=lax.fori_loop,
    associative_scan=lax.associative_scan,
    cube=lambda x: x**3, scan_again=lax.scan, policies=jax.checkpoint_policies, name=checkpoint_name,
    with_pullback=lambda f: f, **{name: getattr(lax, name) for name in SHARED},
)  # fmt: skip
OURS = SimpleNamespace(
    np=fnp, t=ft, while_loop=ft.lax.while_loop, counted=ft.lax.fori_loop, fori_loop=ft.lax.fori_loop,
    associative_scan=ft.lax.associative_scan, cube=cube, policies=ft.checkpoint_policies, name=ft.checkpoint_name,
    scan_again=lambda *args, **kwargs: ft.lax.scan(*args, checkpoint=2, **kwargs), with_pullback=with_pullback,
    **{name: getattr(ft.lax, name) for name in SHARED},
)  # fmt: skip


def recurrent(b):
    def f(w, h, xs):
        def step(carry, x):
            i, h = carry
            h = b.np.tanh(w @ h + x * i)
            return (i + 1, h), {"h": 2 * h, "x": x.sum()}

        (_, h), ys = b.scan(step, (0, h), xs)
        return h, ys

    return f


def backward_scan(b):
    return lambda s, xs: b.scan(lambda s, x: (b.np.sin(s * x) + x, s), s, xs, reverse=True)


def unrolled_scan(b):
    return lambda s, xs: b.scan(lambda s, x: (s * x + b.np.cos(s), s * s), s, xs, unroll=2)


def no_inputs(b):
    return lambda s: b.scan(lambda s, _: (b.np.sin(s), None), s, None, length=3)


def constant_carry(b):
    def f(c, xs):
        return b.scan(lambda carry, x: ((carry[0], carry[1] * carry[0] + x), carry[0] * x), (c, c + 1), xs)

    return f


def crossed_carry(b):
    """Carries that change places, one of which moves only after a step."""

    def f(x, xs):
        def step(carry, y):
            p, q, r = carry
            return (q, r, p + x * y), p * q

        return b.scan(step, (xs[0], xs[1], xs[2]), xs)

    return f


def indexed_carry(b):
    return lambda x, s: b.fori_loop(0, 4, lambda i, s: s * b.np.take(x, i) + b.np.cos(b.np.take(x, i) * s), s)


def choice(b):
    def f(x, y):
        return b.cond(x.sum() > 0, lambda x, y: (b.np.sin(x) * y, y), lambda x, y: (x * x * y, b.np.cos(y)), x, y)

    return f


def choice_of_constants(b):
    return lambda x: b.cond(x > 0, lambda: x * 2.0, lambda: 1.0)


def three_ways(b):
    def f(i, x):
        return b.switch(i, [b.np.sin, lambda x: x * x, lambda x: b.np.zeros(3)], x)

    return f


def choice_by_count(b):
    """An index that is traced even where no functrace transform runs."""
    return lambda x: b.switch((x > 0.1).sum(), [b.np.sin, lambda x: x * x, b.np.cos], x)


def newton(b):
    def f(a):
        going = lambda x: abs(x * x - a) > 1e-5
        return b.while_loop(going, lambda x: 0.5 * (x + a / x), 1.0 + 0 * a)

    return f


def pair_loop(b):
    def f(w, s):
        def body(v):
            n, s, most = v
            s = b.np.tanh(w @ s) + 0.1 * n
            return n + 1, s, b.np.maximum(most, s.sum())

        return b.while_loop(lambda v: v[0] < 5, body, (0, s, s[0]))

    return f


def counted_loop(b):
    def f(n, x, s):
        return b.counted(0, n, lambda i, s: b.np.sin(s * x) + 0.1 * i, s)

    return f


def no_steps(b):
    return lambda x: b.while_loop(lambda v: v.sum() > 1e6, lambda v: v * x, x)


def mapped(b):
    return lambda x, c: b.map(lambda row: (b.np.sin(row) * c).sum(), x)


def loop_in_scan(b):
    def f(xs, s):
        def step(s, x):
            s = b.while_loop(lambda v: abs(v) < 2.0, lambda v: 1.5 * v + 0.1 * b.np.sin(x * v), s * 0.3 + 0.2)
            return b.np.cos(s) + x, s

        return b.scan(step, s, xs)

    return f


def scan_in_loop(b):
    def f(w, xs):
        def body(v):
            n, s = v
            total, _ = b.scan(lambda t, x: (b.np.sin(t * x + s), None), s, xs)
            return n + 1, s * w + total

        return b.while_loop(lambda v: v[0] < 3, body, (0, w))[1]

    return f


def scan_in_loop_in_cond(b):
    def f(p, x, xs):
        return b.cond(p > 0, lambda x: scan_in_loop(b)(x, xs), lambda x: x**3, x)

    return f


def cond_in_loop_in_scan(b):
    def f(xs, s):
        def body(v):
            n, s = v
            return n + 1, b.cond(s > 0.3, lambda s: b.np.sin(s) * 0.7, lambda s: s * s + 0.5, s)

        def step(s, x):
            return b.while_loop(lambda v: v[0] < 3, body, (0, s + x))[1], s

        return b.scan(step, s, xs)

    return f


def custom_in_scan(b):
    """A custom derivative inside a loop's body."""
    return lambda s, xs: b.scan(lambda s, x: (b.cube(b.np.sin(s)) * x, s), s, xs)


def collective_in_scan(b):
    def f(xs, s):
        def row(x, s):
            def step(s, y):
                return b.np.sin(s) * y - b.pmean(s, "rows") + b.psum(y * s, "rows"), b.axis_index("rows") * s

            return b.scan(step, s, x)

        return b.t.vmap(row, axis_name="rows")(xs, s)

    return f


def jitted_in_scan(b):
    layer = b.t.jit(lambda s, x: b.np.tanh(s * x) + x)
    return lambda s, xs: b.scan(lambda s, x: (layer(layer(s, x), x), s), s, xs)


def integer_and_float_loop(b):
    """What is known does not move, what moves is not what the loop asks."""

    def f(x, s):
        def body(v):
            k, s = v
            return k * 2, s * x + k

        return b.while_loop(lambda v: v[0] < 30, body, (1, s))[1]

    return f


def pullback_of_a_gradient(b):
    """A linear map out of the reverse mode of a loop is transposed once more."""

    def f(x):
        def loop(x):
            return b.while_loop(lambda v: v[0] < 3, lambda v: (v[0] + 1, b.np.sin(v[1] * x)), (0, x))[1].sum()

        return b.with_pullback(b.t.grad(loop))(x)

    return f


def nested_loops(b):
    def f(x):
        def body(v):
            return v[0] + 1, b.while_loop(lambda w: w[0] < 2, lambda w: (w[0] + 1, b.np.sin(w[1] * x)), (0, v[1]))[1]

        return b.while_loop(lambda v: v[0] < 2, body, (0, x))[1]

    return f


def checkpointed(policy):
    """Two layers, of which reverse mode keeps what the policy says."""

    def of_library(b):
        def layers(w, x):
            h = b.name(b.np.tanh(w @ b.np.sin(x)), "hidden")
            return b.name(b.np.cos(w @ h * h), "last"), b.np.exp(h)

        keep = policy(b.policies)
        return lambda w, x: b.t.checkpoint(b.t.jit(layers), policy=keep)(w, b.np.cos(x))

    return of_library


recomputed = checkpointed(lambda p: None)
dots_kept = checkpointed(lambda p: p.dots_saveable)
all_kept = checkpointed(lambda p: p.everything_saveable)
hidden_kept = checkpointed(lambda p: p.save_only_these_names("hidden"))
hidden_not_kept = checkpointed(lambda p: p.save_anything_except_these_names("hidden"))
last_kept = checkpointed(lambda p: p.save_any_names_but_these("hidden"))
dots_or_last_kept = checkpointed(
    lambda p: p.save_from_both_policies(p.dots_with_no_batch_dims_saveable, p.save_only_these_names("last"))
)


def nested_checkpoints(b):
    def inner(x):
        return b.np.sin(x * x)

    def outer(y, x):
        return b.t.checkpoint(inner)(b.np.cos(y * x)) + b.t.checkpoint(inner, prevent_cse=False)(x)

    return lambda y, x: b.t.checkpoint(outer)(y, b.t.checkpoint(inner)(x))


def checkpoint_in_scan(b):
    def f(w, s, xs):
        layer = b.t.checkpoint(lambda s, x: b.np.tanh(w @ s + x), prevent_cse=False)
        return b.scan(lambda s, x: (layer(s, x), s), s, xs)

    return f


def loops_in_checkpoint(b):
    def f(s, xs):
        @b.t.checkpoint
        def run(s, xs):
            s = b.scan(lambda s, x: (b.np.sin(s) * x, None), s, xs)[0]
            s = b.while_loop(lambda v: abs(v).max() < 2.0, lambda v: 1.4 * v + 0.3 * b.np.sin(v), s + 0.3)
            return b.cond(s.sum() > 0, lambda s: s * s, b.np.cos, s)

        return run(b.np.cos(s), xs)

    return f


def scan_in_segments(b):
    """Seven steps by two of three and one, those in turn by one of two and one."""

    def f(w, s, xs):
        def step(carry, x):
            i, s = carry
            s = b.np.tanh(w @ s) + x * i
            return (i + 1, s), s * x

        return b.scan_again(step, (0, s), xs)

    return f


def backward_scan_in_segments(b):
    return lambda s, xs: b.scan_again(lambda s, x: (b.np.sin(s * x) + x, s), s, xs, reverse=True)


def prefix_products(b):
    return lambda x: b.associative_scan(lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (x, b.np.cos(x)))


def prefix_reversed(b):
    return lambda x: b.associative_scan(b.np.multiply, x, reverse=True, axis=1)


CHECKPOINTED = (
    "recomputed", "dots_kept", "all_kept", "hidden_kept", "hidden_not_kept", "last_kept", "dots_or_last_kept",
)  # fmt: skip
X3 = normal(3)
ROWS = [
    row("recurrent", uniform(-0.5, 0.5, 3, 3), X3, normal(4, 3)),
    row("backward_scan", X3, normal(4, 3)),
    row("unrolled_scan", X3, normal(5, 3)),
    row("no_inputs", X3),
    row("constant_carry", X3, normal(4, 3)),
    row("crossed_carry", X3, normal(4, 3)),
    row("indexed_carry", normal(4), X3),
    row("choice", X3, normal(3)),
    row("choice_of_constants", normal()),
    row("three_ways", integers(3), X3),
    row("choice_by_count", X3),
    row("newton", uniform(1.0, 9.0), looser=8.0),
    row("pair_loop", uniform(-0.5, 0.5, 3, 3), X3),
    row("counted_loop", integers(6), X3, X3),
    row("no_steps", X3),
    row("mapped", normal(4, 3), X3),
    row("loop_in_scan", normal(3), normal()),
    row("scan_in_loop", positive(), normal(3), looser=4.0),
    row("scan_in_loop_in_cond", normal(), positive(), normal(3), looser=4.0),
    row("cond_in_loop_in_scan", normal(3), normal(), looser=4.0),
    row("custom_in_scan", X3, normal(4, 3)),
    row("collective_in_scan", normal(2, 4), normal(2), looser=4.0),
    row("jitted_in_scan", X3, normal(4, 3)),
    row("integer_and_float_loop", normal(), normal(), looser=8.0),
    *[row(name, uniform(-0.5, 0.5, 3, 3), X3) for name in CHECKPOINTED],
    row("nested_checkpoints", X3, X3),
    row("checkpoint_in_scan", uniform(-0.5, 0.5, 3, 3), X3, normal(4, 3)),
    row("loops_in_checkpoint", X3, normal(3, 3), looser=4.0),
    row("scan_in_segments", uniform(-0.5, 0.5, 3, 3), X3, normal(7, 3)),
    row("backward_scan_in_segments", X3, normal(7, 3)),
    row("pullback_of_a_gradient", X3, looser=4.0),
    row("prefix_products", normal(5)),
    row("prefix_reversed", normal(2, 5)),
]

THEIR_FUNCTIONS = SimpleNamespace(**{r.names[0]: globals()[r.names[0]](THEIRS) for r in ROWS})
OUR_FUNCTIONS = SimpleNamespace(**{r.names[0]: globals()[r.names[0]](OURS) for r in ROWS})
