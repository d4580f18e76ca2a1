"""A tracer has what jax.Array has, and means the same."""

import re
import threading

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import ConcretizationError, FunctraceError
from functrace.lower import evaluate
from functrace.tracing import Tracer

X = np.array([[0.3, -1.2, 2.0], [1.5, 0.4, -0.6]], np.float32)
I = np.array([[3, 1, 2], [0, 5, 4]], np.int32)

# Each is a method, property or operator of an array, tried on floats and on integers.
EVERYWHERE = {
    "all": lambda x: x.all(axis=0),
    "any": lambda x: x.any(),
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(),
    "argsort": lambda x: x.argsort(axis=0),
    "astype": lambda x: x.astype("float32"),
    "clip": lambda x: x.clip(0, 1),
    "conj": lambda x: x.conj(),
    "copy": lambda x: x.copy(),
    "cumprod": lambda x: x.cumprod(),
    "cumsum": lambda x: x.cumsum(1),
    "diagonal": lambda x: x.diagonal(),
    "dot": lambda x: x.dot(x.T),
    "flatten": lambda x: x.flatten(),
    "max": lambda x: x.max(),
    "mean": lambda x: x.mean(axis=1, keepdims=True),
    "min": lambda x: x.min(0),
    "prod": lambda x: x.prod(),
    "ptp": lambda x: x.ptp(),
    "ravel": lambda x: x.ravel(),
    "repeat": lambda x: x.repeat(2, axis=0),
    "reshape": lambda x: x.reshape(3, -1),
    "reshape tuple": lambda x: x.reshape((6,)),
    "round": lambda x: x.round(),
    "sort": lambda x: x.sort(axis=-1),
    "squeeze": lambda x: x[None].squeeze(0),
    "std": lambda x: x.std(),
    "sum": lambda x: x.sum((0, 1)),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "take": lambda x: x.take(np.array([1, 0]), axis=1),
    "trace": lambda x: x.trace(),
    "transpose": lambda x: x.transpose(1, 0),
    "var": lambda x: x.var(ddof=1),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "searchsorted": lambda x: x.ravel().sort().searchsorted(x[0]),
    "add": lambda x: x + 2,
    "radd": lambda x: 2 + x,
    "sub": lambda x: x - 1.5,
    "rsub": lambda x: 1 - x,
    "mul": lambda x: x * x,
    "rmul": lambda x: np.float32(2) * x,
    "truediv": lambda x: x / 2,
    "rtruediv": lambda x: 2 / (x + 9),
    "floordiv": lambda x: x // 2,
    "rfloordiv": lambda x: 7 // (x + 9),
    "mod": lambda x: x % 2,
    "rmod": lambda x: 7 % (x + 9),
    "divmod": lambda x: divmod(x, 2),
    "pow": lambda x: x**2,
    "pow0": lambda x: x**0,
    "rpow": lambda x: 2.0**x,
    "power of a power": lambda x: (x * x + 1) ** 0.5,
    "neg": lambda x: -x,
    "pos": lambda x: +x,
    "abs": lambda x: abs(x),
    "matmul": lambda x: x @ x.T,
    "rmatmul": lambda x: np.ones((4, 2), np.float32) @ x,
    "lt": lambda x: x < 1,
    "le": lambda x: x <= x.T.T,
    "gt": lambda x: x > 0.5,
    "ge": lambda x: x >= x[0],
    "eq": lambda x: x == x,
    "ne": lambda x: x != 2,
    "round()": lambda x: round(x, 1),
    "len": lambda x: x * len(x),
    "iteration": lambda x: [row * i for i, row in enumerate(x)],
    "index": lambda x: x[1, -1],
    "slice": lambda x: x[:, ::-2],
    "ellipsis": lambda x: x[..., None, 0],
    "index array": lambda x: x[np.array([1, 0, 1])],
    "mask": lambda x: x[:, np.array([True, False, True])],
    "at set": lambda x: x.at[0].set(5),
    "at add": lambda x: x.at[:, 1].add(x[:, 0]),
    "at mul": lambda x: x.at[1, 1].mul(3),
    "at min": lambda x: x.at[0].min(0),
    "at max": lambda x: x.at[0].max(0),
    "at get": lambda x: x.at[7].get(mode="fill", fill_value=-1),
    "at divide": lambda x: x.at[0].divide(2),
    "at power": lambda x: x.at[0].power(2),
    "at apply": lambda x: x.at[0].apply(jnp.abs),
    "at drop": lambda x: x.at[7].set(1, mode="drop"),
    "numpy left": lambda x: X * x,
    "numpy shape": lambda x: x * np.shape(x)[0] * np.ndim(x) * np.size(x),
    "attributes": lambda x: x * x.ndim * x.size * x.shape[0] * x.itemsize * x.nbytes,
}
INTEGERS = {
    "and": lambda x: x & 1,
    "rand": lambda x: 1 & x,
    "or": lambda x: x | 4,
    "xor": lambda x: x ^ x.T.T,
    "invert": lambda x: ~x,
    "lshift": lambda x: x << 1,
    "rshift": lambda x: x >> 1,
    "rlshift": lambda x: 1 << x,
    "choose": lambda x: (x % 2).choose([x, x * 2], mode="clip"),
    "view": lambda x: x.view("uint32"),
}
CASES = [(name, f, v) for name, f in EVERYWHERE.items() for v in (X, I)] + [(n, f, I) for n, f in INTEGERS.items()]


@pytest.mark.parametrize(("name", "f", "x"), CASES, ids=[f"{n} {x.dtype}" for n, _, x in CASES])
def test_means_what_it_means_for_an_array(name, f, x):
    ours, expected = ft.jit(f)(x), jax.jit(f)(x)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        np.testing.assert_allclose(a, b, rtol=1e-6)


KEYS = {
    "eq": lambda k: k == k[::-1],
    "ne": lambda k: k != k[1],
    "reshape": lambda k: k.reshape(2, 2).T,
    "getitem": lambda k: k[1],
    "at set": lambda k: k.at[0].set(k[1]),
    "iter": lambda k: [*k][1:],
    "size": lambda k: k.size * k.ndim * k.shape[0],
}


@pytest.mark.parametrize("name", KEYS)
def test_random_keys(name):
    keys = jax.random.split(jax.random.key(3), 4)
    ours, expected = (jax.tree.leaves(library.jit(KEYS[name])(keys)) for library in (ft, jax))
    for a, b in zip(ours, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.all(a == b)


@pytest.mark.parametrize(
    ("name", "f"),
    [("add", lambda k: k + 1), ("multiply", lambda k: 2 * k), ("neg", lambda k: -k), ("lt", lambda k: k < k)],
)
def test_random_keys_are_no_numbers(name, f):
    with pytest.raises(TypeError, match=rf"{name} does not accept dtypes? .*key<fry>.*Operands: .*key<fry>\[\]"):
        ft.jit(f)(jax.random.key(3))


PLAIN = st.one_of(
    st.integers(-3, 3), st.none(), st.just(Ellipsis), st.booleans(), st.sampled_from([np.int32(1), np.int64(-1)]),
    st.slices(4), st.slices(2), st.builds(slice, st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 3)),
)  # fmt: skip


@settings(max_examples=70, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.one_of(PLAIN, st.lists(PLAIN, max_size=4).map(tuple)))
def test_indexing_is_numpys(index):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    try:
        expected = jax.jit(lambda x: x[index])(x)
    except (IndexError, TypeError, ValueError) as error:
        builtin = next(c for c in (IndexError, TypeError, ValueError) if isinstance(error, c))
        with pytest.raises(builtin):
            ft.jit(lambda x: x[index])(x)
    else:
        np.testing.assert_array_equal(ft.jit(lambda x: x[index])(x), expected)
        ours = ft.grad(lambda x: (x[index] ** 2).sum())(x)
        np.testing.assert_array_equal(ours, jax.grad(lambda x: (x[index] ** 2).sum())(x))


# JAX's tracers refuse these; ours find the jax.numpy function of the same name.
NUMPY = {
    "ufunc": (lambda np_, x: np_.add(np_.sin(x), 1)),
    "function": lambda np_, x: np_.concatenate([x, x]),
    "reduction": lambda np_, x: np_.sum(x, axis=0),
    "ufunc method": lambda np_, x: np_.add.reduce(x),
    "linalg": lambda np_, x: np_.linalg.norm(x),
    "fft": lambda np_, x: np_.fft.rfft(x).real,
    "tracer on the right": lambda np_, x: np_.maximum(np.float32(0.5), x),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_functions_are_recorded(name):
    f = NUMPY[name]
    ours, expected = ft.jit(lambda x: f(np, x))(X), f(jnp, X)
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


# What a value not yet known cannot have: a place, a buffer, a form outside of Python. And what
# JAX's own arrays list and refuse.
ABOUT_BUFFERS = {
    "byteswap",
    "clone",
    "device_buffer",
    "device_buffers",
    "flat",
    "platform",
    "addressable_data",
    "addressable_shards",
    "committed",
    "copy_to_host_async",
    "delete",
    "device",
    "devices",
    "format",
    "global_shards",
    "is_deleted",
    "is_fully_addressable",
    "is_fully_replicated",
    "layout",
    "on_device_size_in_bytes",
    "sharding",
    "to_device",
    "traceback",
    "unsafe_buffer_pointer",
    "unsafe_raw_buffer",
    "tobytes",
    "is_ready",
}


def test_has_the_attributes_of_an_array():
    public = {name for name in dir(jnp.ones(2)) if not name.startswith("_")}
    assert not public - set(dir(Tracer)) - ABOUT_BUFFERS


# Functions that ask Python for a value, and the same with that value at 0.5 written in.
PYTHON = {
    "bool": (lambda x: x * 2 if x > 0 else x, lambda x: x * 2),
    "float": (lambda x: x * float(x), lambda x: x * 0.5),
    "int": (lambda x: x * int(x * 10), lambda x: x * 5),
    "index": (lambda x: x * [1.0, 2.0, 3.0][(x * 4).astype(int)], lambda x: x * 3.0),
    "range": (lambda x: sum(x for _ in range((x * 10).astype(int))), lambda x: x * 5),
    "item": (lambda x: x * x.item(), lambda x: x * 0.5),
    "tolist": (lambda x: x * x.tolist(), lambda x: x * 0.5),
    "numpy": (lambda x: x * np.asarray(x), lambda x: x * 0.5),
    "format": (lambda x: x * float(f"{x:.3f}"), lambda x: x * 0.5),
    "complex": (lambda x: x * complex(x).real, lambda x: x * 0.5),
}


@pytest.mark.parametrize("name", PYTHON)
def test_python_may_ask_for_a_known_value(name):
    asking, fixed = PYTHON[name]
    squared = lambda f: lambda x: f(x) * x
    for ours, expected in (
        (ft.grad(asking), jax.grad(fixed)),
        (ft.grad(ft.grad(squared(asking))), jax.grad(jax.grad(squared(fixed)))),
        (lambda x: ft.jvp(asking, (x,), (1.0,))[1], jax.grad(fixed)),
        (lambda x: ft.linearize(asking, x)[1](1.0), jax.grad(fixed)),
        (lambda x: ft.vjp(asking, x)[1](1.0)[0], jax.grad(fixed)),
    ):
        np.testing.assert_allclose(ours(0.5), expected(0.5), rtol=1e-6)
    with pytest.raises(ConcretizationError):
        ft.jit(asking)(0.5)


def test_what_is_asked_is_computed_once():
    evaluated = []
    noted = ft.from_jax(lambda x: jax.pure_callback(lambda v: evaluated.append(1) or v, x, x))
    ft.grad(lambda x: x * float(noted(x)) * float(noted(x) + 1))(2.0)
    assert len(evaluated) <= 3  # twice for Python, and once when the Program runs


def test_traces_of_threads_do_not_meet():
    results = {}

    def work(i):
        for _ in range(20):
            results[i] = float(ft.grad(lambda x: fnp.sin(x) * i)(0.3))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(4):
        np.testing.assert_allclose(results[i], i * np.cos(0.3), rtol=1e-6)


def test_equations_know_the_users_line():
    program = ft.make_program(ft.grad(lambda x: fnp.sin(x)))(0.5)
    sources = {eqn.source.file.rsplit("/", 1)[-1] for eqn in program.equations}
    assert sources == {"test_tracer.py"}


def test_inputs_have_the_names_of_the_arguments():
    def loss(params, x):
        return (params["w"][0] * x).sum()

    program = ft.make_program(loss)({"w": [1.0, 2.0]}, np.ones(3))
    assert [v.name for v in program.inputs] == ["params.w.0", "params.w.1", "x"]


def test_a_setting_of_jax_counts_where_a_call_is_known_already():
    halves, refused = np.ones(3, np.float16), "no available implicit dtype promotion"
    mixed = lambda x: fnp.add(x, halves)
    x = np.ones(3, np.float32)
    assert ft.grad(lambda x: mixed(x).sum())(x).dtype == np.float32
    with jax.numpy_dtype_promotion("strict"), pytest.raises(FunctraceError, match=refused):
        ft.grad(lambda x: mixed(x).sum())(x)
    with jax.numpy_dtype_promotion("strict"), pytest.raises(FunctraceError, match=refused):
        ft.jit(mixed)(x)
    jitted = ft.jit(mixed)
    assert ft.grad(lambda x: jitted(x).sum())(x).dtype == np.float32
    with jax.numpy_dtype_promotion("strict"), pytest.raises(FunctraceError, match=refused):
        ft.grad(lambda x: jitted(x).sum())(x)


SHAPES = [
    ((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 4), (3, 1)), ((1, 4), (3, 1)), ((3, 4), ()), ((), (4,)),
    ((), ()), ((2, 1, 4), (3, 1)), ((0, 4), (1, 4)), ((0, 4), (4,)), ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)),
    ((4,), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)), ((4,), (4,)), ((3, 4), (3,)), ((3, 4), (2, 4)),
    ((2, 2), (2, 2, 2)),
]  # fmt: skip
TYPES = [
    ("float32", "float32"), ("int32", "int32"), ("complex64", "complex64"), ("float16", "float16"), ("bool", "bool"),
    ("float32", "int32"), ("float32", "float16"), ("bfloat16", "bfloat16"),
]  # fmt: skip
# What is recorded directly where it is plain, and the same through jax.numpy.
PLAIN = {
    "add": (lambda x, y: x + y, jnp.add),
    "sub": (lambda x, y: x - y, jnp.subtract),
    "mul": (lambda x, y: x * y, jnp.multiply),
    "truediv": (lambda x, y: x / y, jnp.true_divide),
    "less": (lambda x, y: x < y, jnp.less),
    "matmul": (lambda x, y: x @ y, jnp.matmul),
    "where": (lambda x, y: fnp.where(x == x, x, y), lambda x, y: jnp.where(x == x, x, y)),
    "where not": (lambda x, y: fnp.where(x != x, 3, y), lambda x, y: jnp.where(x != x, 3, y)),
    "where float": (lambda x, y: fnp.where(x == x, x, -0.5), lambda x, y: jnp.where(x == x, x, -0.5)),
    "sum": (lambda x, y: x.sum(), lambda x, y: x.sum()),
    "sum of axis": (lambda x, y: x.sum(-1, keepdims=True), lambda x, y: x.sum(-1, keepdims=True)),
    "sum as": (lambda x, y: fnp.sum(x, dtype="complex64"), lambda x, y: jnp.sum(x, dtype="complex64")),
    "mean": (lambda x, y: fnp.mean(x, axis=(0, 1)), lambda x, y: jnp.mean(x, axis=(0, 1))),
    "mean of axis": (lambda x, y: x.mean(1, keepdims=True), lambda x, y: x.mean(1, keepdims=True)),
    "mean twice": (lambda x, y: x.mean((0, 0)), lambda x, y: x.mean((0, 0))),
    "mean where": (lambda x, y: x.mean(where=x == x), lambda x, y: x.mean(where=x == x)),
    "var": (lambda x, y: x.var(0), lambda x, y: x.var(0)),
    "var unbiased": (lambda x, y: fnp.var(x, ddof=1), lambda x, y: jnp.var(x, ddof=1)),
    "sqrt": (lambda x, y: fnp.sqrt(x) + fnp.exp(y), lambda x, y: jnp.sqrt(x) + jnp.exp(y)),
}  # fmt: skip


def recorded(fun, *xs):
    """The Program, or the type of error."""
    try:
        return ft.make_program(fun)(*xs)
    except FunctraceError as error:
        return type(error)


def text(program):
    """What a Program says, without the lines."""
    return re.sub(r" *#.*", "", str(program))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("types", TYPES)
def test_what_is_plain_is_recorded_as_jax_would(name, types):
    direct, asked = PLAIN[name]
    for shapes in SHAPES:
        xs = [np.ones(shape, dtype) for shape, dtype in zip(shapes, map(jnp.dtype, types), strict=True)]
        expected, found = [recorded(lambda x, y, f=f: f(x, y), *xs) for f in (ft.from_jax(asked), direct)]
        if isinstance(expected, type) or isinstance(found, type):
            assert found is expected, (shapes, types)
        elif not name.startswith("where"):
            assert text(found) == text(expected), (shapes, types)
        else:  # scalars are of the type of the arrays at once, and empty choices are not left out
            assert found.out_avals == expected.out_avals
            for y, z in zip(evaluate(found, xs), evaluate(expected, xs), strict=True):
                np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize(
    ("option", "value"), [("jax_numpy_rank_promotion", "raise"), ("jax_default_matmul_precision", "highest")]
)
@pytest.mark.parametrize("name", ["add", "matmul", "mean of axis"])
def test_what_is_plain_follows_the_settings_of_jax(name, option, value):
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    try:
        test_what_is_plain_is_recorded_as_jax_would(name, ("float32", "float32"))
    finally:
        jax.config.update(option, before)


def test_what_is_plain_of_an_outer_trace():
    """Arguments that are not differentiated belong to the trace around."""

    def loss(w, x):
        y = (x - x.mean(0)) / fnp.sqrt(x.var(0) + 1e-5)
        return (fnp.where(y > 0, y, 0)[:, 1:] @ w).sum()

    w, x = X[:2], np.arange(12.0, dtype=np.float32).reshape(4, 3)
    found = ft.jit(ft.grad(loss))(w, x)
    np.testing.assert_allclose(found, jax.grad(lambda w: ft.jit(loss)(w, x))(w), rtol=1e-6)
