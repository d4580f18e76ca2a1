"""Collectives over the named axis of vmap against JAX's, under every transform around and inside."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import FunctraceError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3)).astype(np.float32)
Y = RNG.standard_normal((4, 4, 3)).astype(np.float32)
Z = (X + 1j * X[::-1]).astype(np.complex64)
RING = [(0, 1), (1, 2), (2, 3), (3, 0)]


def same(ours, expected):
    ours_leaves, ours_tree = jax.tree.flatten(ours)
    leaves, tree = jax.tree.flatten(expected)
    assert ours_tree == tree
    for a, b in zip(ours_leaves, leaves, strict=True):
        a, b = jnp.asarray(a), jnp.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


# Functions of one index of the axis "i" of size 4, written with a library and its numpy.
FUNCTIONS = {
    "psum": (lambda t, np_, x: t.lax.psum(x * x, "i"), X),
    "psum of a tree": (lambda t, np_, x: t.lax.psum({"a": x, "b": (np_.sin(x), 2.0)}, "i"), X),
    "psum of a constant": (lambda t, np_, x: x / t.lax.psum(1, "i"), X),
    "psum of an array constant": (lambda t, np_, x: x * t.lax.psum(X[0], "i"), X),
    "psum of booleans": (lambda t, np_, x: t.lax.psum(x > 0, "i") * x, X),
    "psum of a known boolean": (lambda t, np_, x: t.lax.psum(np.array([True, False, True]), "i") * x, X),
    "psum over no name": (lambda t, np_, x: t.lax.psum(x, ()), X),
    "psum of integers": (lambda t, np_, x: x * t.lax.psum(np_.arange(3) * t.lax.axis_index("i"), "i"), X),
    "psum, complex": (lambda t, np_, x: t.lax.psum(np_.conj(x) * x * x, "i"), Z),
    "pmean": (lambda t, np_, x: x - t.lax.pmean(x * x, "i"), X),
    "pmean of integers": (lambda t, np_, x: x * t.lax.pmean(t.lax.axis_index("i"), "i"), X),
    "pmean of a constant": (lambda t, np_, x: x * t.lax.pmean(3.0, "i"), X),
    "softmax over the axis": (
        lambda t, np_, x: (lambda e: e / t.lax.psum(e, "i"))(np_.exp(x - t.lax.psum(0.5 * x, "i"))), X,
    ),
    "axis_index": (lambda t, np_, x: x * t.lax.axis_index("i"), X),
    "axis_size": (lambda t, np_, x: x * t.lax.axis_size("i"), X),
    "all_gather": (lambda t, np_, x: np_.sin(t.lax.all_gather(x, "i")) * x, X),
    "all_gather last": (lambda t, np_, x: t.lax.all_gather(x, "i", axis=-1) * x[:, None], X),
    "all_gather tiled": (lambda t, np_, x: np_.cumsum(t.lax.all_gather(x, "i", axis=0, tiled=True) ** 2), X),
    "all_gather of a constant": (lambda t, np_, x: t.lax.all_gather(X[0], "i") * x, X),
    "psum_scatter": (lambda t, np_, x: t.lax.psum_scatter(x * x, "i"), Y),
    "psum_scatter along 1": (lambda t, np_, x: t.lax.psum_scatter(np_.sin(x).T, "i", scatter_dimension=1), Y),
    "psum_scatter tiled": (
        lambda t, np_, x: t.lax.psum_scatter(np_.concatenate([x, x * x]), "i", tiled=True), Y,
    ),
    "all_to_all": (lambda t, np_, x: t.lax.all_to_all(x * x, "i", 0, 0), Y),
    "all_to_all tiled": (
        lambda t, np_, x: t.lax.all_to_all(np_.concatenate([x, np_.cos(x)]), "i", 0, 1, tiled=True), Y,
    ),
    "all_to_all tiled in place": (lambda t, np_, x: np_.sin(t.lax.all_to_all(x, "i", 0, 0, tiled=True)), Y),
    "pswapaxes": (lambda t, np_, x: np_.sin(t.lax.pswapaxes(x, "i", 0)), Y),
    "ppermute": (lambda t, np_, x: x * t.lax.ppermute(np_.sin(x), "i", RING), X),
    "pshuffle": (lambda t, np_, x: x * t.lax.pshuffle(x, "i", [2, 3, 1, 0]), X),
    "ppermute of a constant": (lambda t, np_, x: x * t.lax.ppermute(2.0, "i", RING), X),
    "inside jit": (lambda t, np_, x: t.jit(lambda y: y * t.lax.psum(np_.sin(y), "i"))(x), X),
    "inside jit inside jit": (lambda t, np_, x: t.jit(lambda z: t.jit(lambda y: t.lax.pmean(y * y, "i"))(z) * z)(x), X),
    "jit with no operand": (lambda t, np_, x: x * t.jit(lambda: t.lax.axis_index("i"))(), X),
    "custom_vjp": (lambda t, np_, x: centred_vjp(t)(x) ** 2, X),
    "custom_jvp": (lambda t, np_, x: centred_jvp(t)(x) ** 2, X),
    "batch norm": (lambda t, np_, x: batch_norm(t, np_, x), X),
    "grad inside": (lambda t, np_, x: t.grad(lambda y: (t.lax.psum(np_.sin(y), "i") * y).sum())(x), X),
    "vjp inside": (lambda t, np_, x: t.vjp(lambda y: t.lax.all_gather(y * y, "i"), x)[1](Y[0])[0], X),
    "inner vmap": (lambda t, np_, x: t.vmap(lambda y: y * t.lax.psum(y, "i"))(x), X),
    "inner vmap of the same name": (
        lambda t, np_, x: t.vmap(lambda y: y * t.lax.psum(y, "i"), axis_name="i")(x) * t.lax.psum(x, "i"), X,
    ),
}  # fmt: skip


def centred_vjp(t, factor=1.0):
    """Written out for JAX, whose custom_vjp has no collectives under grad of vmap."""

    def centred(x):
        return x - t.lax.pmean(x, "i")

    if t is jax:
        return centred
    function = t.custom_vjp(centred)
    function.defvjp(lambda x: (centred(x), None), lambda _, ct: (factor * centred(ct),))
    return function


def centred_jvp(t):
    @t.custom_jvp
    def centred(x):
        return x - t.lax.pmean(x, "i")

    @centred.defjvp
    def rule(primals, tangents):
        (x,), (dx,) = primals, tangents
        return x - t.lax.pmean(x, "i"), dx - t.lax.pmean(dx, "i")

    return centred


def batch_norm(t, np_, x):
    mean = t.lax.pmean(x, "i")
    variance = t.lax.pmean((x - mean) ** 2, "i")
    return (x - mean) / np_.sqrt(variance + 1e-5)


def total(np_, y):
    """A real scalar of all leaves, none of them with the same weight."""
    return sum(
        (np_.abs(v) ** 2 * np_.cos(np.arange(v.size, dtype=np.float32).reshape(v.shape))).sum()
        for v in map(np_.asarray, jax.tree.leaves(y))
    )


STACKS = {
    "vmap": lambda t, np_, f: lambda x: t.vmap(f, axis_name="i")(x),
    "grad of vmap": lambda t, np_, f: t.grad(lambda x: total(np_, t.vmap(f, axis_name="i")(x))),
    "vmap of grad": lambda t, np_, f: t.vmap(t.grad(lambda x: total(np_, f(x))), axis_name="i"),
    "jvp of vmap": lambda t, np_, f: lambda x: t.jvp(t.vmap(f, axis_name="i"), (x,), (np_.sin(x),)),
    "vmap of jvp": lambda t, np_, f: t.vmap(lambda x: t.jvp(f, (x,), (np_.sin(x),)), axis_name="i"),
    "jvp of grad of vmap": lambda t, np_, f: lambda x: t.jvp(
        t.grad(lambda x: total(np_, t.vmap(f, axis_name="i")(x))), (x,), (np_.sin(x),)
    ),
    "vmap of vmap": lambda t, np_, f: lambda x: t.vmap(t.vmap(f, axis_name="i"))(np_.stack([x, np_.sin(x)])),
    "vmap in vmap": lambda t, np_, f: lambda x: t.vmap(t.vmap(f), axis_name="i")(np_.stack([x, np_.sin(x)], 1)),
}


@pytest.mark.parametrize(("row", "stack"), [(r, s) for r in FUNCTIONS for s in STACKS])
def test_equals_jax(row, stack):
    f, x = FUNCTIONS[row]
    ours = STACKS[stack](ft, fnp, lambda v: f(ft, fnp, v))(x)
    same(ours, STACKS[stack](jax, jnp, lambda v: f(jax, jnp, v))(x))


# Computations with more than one named axis, or with axes of their own.
ROWS = {
    "two names": lambda t, np_: two(t, lambda x: t.lax.psum(x, "i") * t.lax.pmean(x, "j"))(Y),
    "a tuple of names": lambda t, np_: two(t, lambda x: x * t.lax.psum(x, ("i", "j")))(Y),
    "pmean of a tuple": lambda t, np_: two(t, lambda x: x - t.lax.pmean(x, ("j", "i")))(Y),
    "pmax of a tuple": lambda t, np_: two(t, lambda x: x - t.lax.pmax(x, ("j", "i")))(Y),
    "axis_index of a tuple": lambda t, np_: two(t, lambda x: x * t.lax.axis_index(("j", "i")))(Y),
    "axis_size of a tuple": lambda t, np_: two(t, lambda x: x * t.lax.axis_size(("j", "i")))(Y),
    "outer name in inner vmap": lambda t, np_: t.vmap(
        lambda x: t.vmap(lambda y: y * t.lax.psum(y, "j") + t.lax.pmean(y, "i"), axis_name="i")(x), axis_name="j"
    )(Y),
    "grad with two names": lambda t, np_: t.grad(
        lambda y: (two(t, lambda x: t.lax.psum(x * x, "i") * t.lax.pmean(x, "j"))(y) ** 2).sum()
    )(Y),
    "out_axes None": lambda t, np_: t.vmap(lambda x: t.lax.psum(x, "i"), out_axes=None, axis_name="i")(X),
    "out_axes 1": lambda t, np_: t.vmap(lambda x: (t.lax.psum(x, "i"), x), out_axes=(1, -1), axis_name="i")(X),
    "in_axes": lambda t, np_: t.vmap(
        lambda x, w: (x * w["a"] - t.lax.psum(w["b"] * 2.0, "i"), t.lax.psum(x, "i")),
        in_axes=(1, {"a": None, "b": 0}), axis_name="i",
    )(X, {"a": X[:, 0], "b": X[0]}),
    "half precision": lambda t, np_: t.vmap(lambda x: t.lax.psum(x, "i"), axis_name="i")(X.astype(np.float16)),
    "axis_size alone": lambda t, np_: t.vmap(lambda: t.lax.axis_index("i"), axis_name="i", axis_size=5)(),
    "pmax and pmin": lambda t, np_: t.vmap(lambda x: (t.lax.pmax(x, "i"), t.lax.pmin(x, "i")), axis_name="i")(X),
    "pmax of integers": lambda t, np_: t.vmap(lambda x: t.lax.pmax(x, "i"), axis_name="i")(np.arange(3)),
    "jit outside": lambda t, np_: t.jit(t.grad(lambda x: (batch_norm_of(t, np_)(x) ** 3).sum()))(X),
    "jacrev": lambda t, np_: t.jacrev(t.vmap(lambda x: x * t.lax.psum(x * x, "i"), axis_name="i"))(X[:, 0]),
    "jacfwd": lambda t, np_: t.jacfwd(t.vmap(lambda x: x * t.lax.psum(x * x, "i"), axis_name="i"))(X[:, 0]),
    "hessian": lambda t, np_: t.hessian(
        lambda x: (t.vmap(lambda v: v / t.lax.psum(v * v, "i"), axis_name="i")(x) ** 3).sum()
    )(X[:, 0]),
    "linearize": lambda t, np_: t.linearize(t.vmap(lambda x: x * t.lax.psum(x, "i"), axis_name="i"), X)[1](X),
    "one jitted function at two sizes": lambda t, np_: (
        lambda g: [t.vmap(g, axis_name="i")(X[:n, 0]) for n in (2, 4)]
    )(t.jit(lambda x: x - t.lax.pmean(x, "i"))),
    "one jitted function under two names": lambda t, np_: (
        lambda g: two(t, lambda x: g(x, "i") * g(x, "j"))(Y)
    )(t.jit(lambda x, name: x - t.lax.pmean(x, name), static_argnums=1)),
    "values known inside": lambda t, np_: t.vmap(
        lambda x: x * t.grad(lambda y: y if t.lax.psum(y, "i") > 10 else -y)(3.0), axis_name="i"
    )(X),
}  # fmt: skip


def batch_norm_of(t, np_):
    return t.vmap(lambda x: batch_norm(t, np_, x), axis_name="i")


def two(t, f):
    return t.vmap(t.vmap(f, axis_name="i"), axis_name="j")


@pytest.mark.parametrize("row", ROWS)
def test_rows_equal_jax(row):
    same(ROWS[row](ft, fnp), ROWS[row](jax, jnp))


@pytest.mark.parametrize(("split", "concat"), [(0, 1), (1, 0), (1, 1), (0, -1)])
def test_all_to_all_moves_parts(split, concat):
    """Entry j of sender k is entry k of receiver j. JAX's own transpose fails where the axes differ."""
    x = Y if split == 0 else np.swapaxes(Y, 1, 2)
    exchange = ft.vmap(lambda v: ft.lax.all_to_all(v, "i", split, concat), axis_name="i")
    expected = np.stack([np.stack([np.take(v, j, split) for v in x], concat) for j in range(4)])
    same(exchange(x), expected)
    ct = np.cos(expected)
    (ct_x,) = ft.linear_transpose(exchange, x)(ct)
    same((ct_x * x).sum(), (ct * expected).sum())


def test_names_together_count_as_one_axis():
    """JAX's vmap refuses some of these; the reference is the axis of both, made one."""
    cube = RNG.standard_normal((4, 4, 32)).astype(np.float32)
    for f, x in (
        (lambda v, n: ft.lax.all_gather(v, n) * v, Y),
        (lambda v, n: ft.lax.all_gather(v, n, axis=0, tiled=True), Y),
        (lambda v, n: ft.lax.psum_scatter(v, n, tiled=True), cube),
        (lambda v, n: ft.lax.psum_scatter(v[:16], n) * ft.lax.axis_index(n), cube),
    ):
        both = two(ft, lambda v: f(v, ("j", "i")))(x)  # noqa: B023
        one = ft.vmap(lambda v: f(v, "k"), axis_name="k")(x.reshape(16, -1))  # noqa: B023
        same(np.asarray(both).reshape(one.shape), one)


def test_ppermute_leaves_zeros_where_nothing_comes():
    shift = ft.vmap(lambda x: ft.lax.ppermute(x, "i", [(0, 1), (1, 2), (2, 3)]), axis_name="i")
    same(shift(X), np.concatenate([np.zeros((1, 3), np.float32), X[:-1]]))
    same(ft.linear_transpose(shift, X)(X)[0], np.concatenate([X[1:], np.zeros((1, 3), np.float32)]))
    nowhere = ft.vmap(lambda x: (x, ft.lax.ppermute(2.0, "i", [(0, 3)])), axis_name="i")
    same(nowhere(X)[1], np.array([0, 0, 0, 2], np.float32))


def test_rule_of_custom_vjp_is_what_differentiates():
    for stack in ("grad of vmap", "vmap of grad"):
        once, twice = (STACKS[stack](ft, fnp, centred_vjp(ft, factor))(X) for factor in (1.0, 2.0))
        same(2.0 * once, twice)


def test_pmax_differentiates_as_the_maximum():
    weight = np.cos(np.arange(12, dtype=np.float32)).reshape(4, 3)
    tied = np.round(X)
    ours = ft.grad(lambda x: (weight * ft.vmap(lambda v: ft.lax.pmax(v, "i"), axis_name="i")(x)).sum())(tied)
    same(ours, jax.grad(lambda x: (weight * jnp.max(x, 0)).sum())(tied))


def test_under_axes_of_jax():
    f = lambda t: lambda x: t.grad(lambda y: t.lax.pmean(y * y, "i") * t.lax.axis_index("i"))(x)
    same(jax.vmap(f(ft), axis_name="i")(X[:, 0]), jax.vmap(f(jax), axis_name="i")(X[:, 0]))
    g = lambda t: lambda x: t.jit(lambda y: t.lax.all_gather(y, "i") + t.lax.psum_scatter(x, "i").sum())(x)
    same(jax.vmap(g(ft), axis_name="i")(Y), jax.vmap(g(jax), axis_name="i")(Y))
    centred = ft.jit(lambda x: x - ft.lax.pmean(x, "i"))
    for n in (2, 4):
        h = jax.vmap(ft.grad(lambda x: centred(x) ** 2), axis_name="i")
        same(h(X[:n, 0]), jax.vmap(jax.grad(lambda x: (x - jax.lax.pmean(x, "i")) ** 2), axis_name="i")(X[:n, 0]))


@pytest.mark.parametrize("check_vma", [True, False])
def test_under_shard_map(check_vma):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def sharded(f):
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma))

    f = lambda t: lambda x: (x * t.lax.psum(x * x, "i")).sum()
    g = lambda t: lambda x: t.jvp(f(t), (x,), (x,))[1] * x
    same(sharded(g(ft))(X), sharded(g(jax))(X))
    same(jax.grad(lambda x: sharded(g(ft))(x).sum())(X), jax.grad(lambda x: sharded(g(jax))(x).sum())(X))
    if check_vma:
        with pytest.raises(NotImplementedError, match=r"reverse mode inside jax.shard_map needs check_vma=False"):
            sharded(ft.grad(f(ft)))(X)
    else:
        same(sharded(ft.grad(f(ft)))(X), sharded(jax.grad(f(jax)))(X))


def test_jax_functions_under_our_axes():
    def f(x):
        return jax.lax.pmean(jnp.sin(x), "i") * jax.lax.axis_index("i") + jax.lax.all_gather(x, "i")

    def g(x):
        return jax.lax.all_to_all(jnp.sin(x), "i", 0, 1) + jax.lax.ppermute(x.T, "i", RING)

    same(ft.vmap(ft.from_jax(g), axis_name="i")(Y), jax.vmap(g, axis_name="i")(Y))
    same(ft.vmap(ft.from_jax(f), axis_name="i")(X[:, 0]), jax.vmap(f, axis_name="i")(X[:, 0]))
    for x in (X[:, 0], X[:2, 0]):
        ours = ft.vmap(ft.grad(lambda v: ft.from_jax(f)(v)[0]), axis_name="i")(x)
        same(ours, jax.vmap(jax.grad(lambda v: f(v)[0]), axis_name="i")(x))


ERRORS = {
    "unbound": (
        lambda: ft.vmap(lambda x: ft.lax.psum(x, "j"), axis_name="i")(X), NameError,
        r"psum: no axis is named 'j' here \(bound are: 'i'\).*axis_name='j'.*test_collectives.py:\d+",
    ),
    "nothing bound": (
        lambda: ft.grad(lambda x: ft.lax.pmean(x, "i"))(1.0), NameError,
        r"pmean: no axis is named 'i' here \(none is bound\).*test_collectives.py:\d+",
    ),
    "outside a trace": (
        lambda: ft.lax.axis_index("i"), NameError, r"axis_index: no axis is named 'i' here.*test_collectives.py:\d+",
    ),
    "no name after the map": (
        lambda: [ft.vmap(lambda x: x, axis_name="i")(X), ft.jit(lambda x: ft.lax.pmax(x, "i"))(X)], NameError,
        r"pmax: no axis is named 'i' here \(none is bound\)",
    ),
    "groups": (
        lambda: mapped(lambda x: ft.lax.psum(x, "i", axis_index_groups=[[0, 1], [2, 3]])), NotImplementedError,
        r"psum: axis_index_groups is not supported; give the groups an axis of their own.*test_collectives.py:\d+",
    ),
    "a name twice": (lambda: mapped(lambda x: ft.lax.psum(x, ("i", "i"))), ValueError, r"stands twice"),
    "a source twice": (
        lambda: mapped(lambda x: ft.lax.ppermute(x, "i", [(0, 1), (0, 2)])), ValueError,
        r"ppermute: each source in perm must be an index of axis 'i', 0 to 3, and stand there once",
    ),
    "a target out of range": (
        lambda: mapped(lambda x: ft.lax.ppermute(x, "i", [(0, 4)])), ValueError, r"each target in perm",
    ),
    "no permutation": (lambda: mapped(lambda x: ft.lax.pshuffle(x, "i", [0, 1])), ValueError, r"permutation of 0 to 3"),
    "size of the axis": (
        lambda: mapped(lambda x: ft.lax.all_to_all(x, "i", 0, 0)), ValueError,
        r"all_to_all: axis 0 of an operand of type f32\[3\] must have the size of the named axis, 4; got 3",
    ),
    "no such array axis": (
        lambda: mapped(lambda x: ft.lax.all_gather(x, "i", axis=2)), ValueError, r"f32\[3\] has no axis 2",
    ),
    "mapped value asked for": (
        lambda: mapped(lambda x: ft.grad(lambda y: y if y * ft.lax.axis_index("i") > 0 else -y)(1.0)), TypeError,
        r"grad: bool\(\) of a value .*not known",
    ),
}  # fmt: skip


def mapped(f):
    return ft.vmap(f, axis_name="i")(X)


@pytest.mark.parametrize("row", ERRORS)
def test_error(row):
    call, builtin, message = ERRORS[row]
    with pytest.raises(FunctraceError, match=message) as caught:
        call()
    assert isinstance(caught.value, builtin)
