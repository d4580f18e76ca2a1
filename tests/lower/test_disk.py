"""Executables on disk: found again, told apart, and never trusted more than they should be."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp
from functrace.errors import DtypeError, FileError
from functrace.ir import Aval, Builder, Primitive
from functrace.lower import disk
from tests.primitives.samples import all_samples

pytestmark = pytest.mark.skipif(os.name != "posix", reason="who may write to a folder is known on POSIX systems only")
X = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path):
    """The folder that is in use."""
    ft.config.cache_dir = tmp_path / "kept"
    yield tmp_path / "kept"
    ft.config.cache_dir = None


@pytest.fixture
def compiles(monkeypatch):
    """Grows by one for each Program that is compiled."""
    found = []
    staged = disk.staged
    monkeypatch.setattr(disk, "staged", lambda program, xs: (found.append(program), staged(program, xs))[1])
    return found


def test_home_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        ft.config.cache_dir = "~/kept"
        assert ft.config.cache_dir == tmp_path / "kept"
    finally:
        ft.config.cache_dir = None


W = np.arange(3, dtype=np.float32)
# Functions that make a jitted one anew, and the arguments of a call.
CALLS = {
    "arrays": (lambda: ft.jit(lambda x, y: fnp.sin(x) @ y), (X, X.T), {}),
    "pytrees": (lambda: ft.jit(lambda p: {"a": (p["b"][0] * 2, None), "c": p["b"]}), ({"b": [X, X]},), {}),
    "numbers": (lambda: ft.jit(lambda x, y: x * y), (2.0, 3), {}),
    "arguments by name": (lambda: ft.jit(lambda x, *, y, z=1.0: x * y - z), (X,), {"z": X, "y": X + 1}),
    "static ones": (lambda: ft.jit(lambda x, n: x[:, :n] * n, static_argnums=1), (X, 2), {}),
    "captured arrays": (lambda: ft.jit(lambda x: x * W), (X,), {}),
    "nothing": (lambda: ft.jit(lambda: fnp.arange(3)), (), {}),
    "unused ones": (lambda: ft.jit(lambda x, y: y + 1), (X, X), {}),
    "a gradient": (lambda: ft.jit(ft.value_and_grad(lambda x: fnp.tanh(x @ x.T).sum())), (X,), {}),
    "keys": (lambda: ft.jit(lambda k: (ft.random.split(k)[0], ft.random.normal(k, (3,)))), (jax.random.key(1),), {}),
    "complex": (lambda: ft.jit(lambda x: fnp.fft.fft(x)), (X,), {}),
    "rolled": (lambda: ft.jit(lambda x: twelve(x), roll=True), (X,), {}),
}  # fmt: skip


def twelve(x):
    """Twelve equal layers."""
    for _ in range(12):
        x = fnp.sin(x) * 2 + 1
    return x


@pytest.mark.parametrize("name", CALLS)
def test_compiled_once(name, folder, compiles):
    make, args, kwargs = CALLS[name]
    expected = expected_of(make, args, kwargs)
    for _ in range(2):
        f = make()
        for _ in range(2):
            found = f(*args, **kwargs)
            assert jax.tree.structure(found) == jax.tree.structure(expected)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                assert jax.typeof(a) == jax.typeof(b)
                assert (jax.random.key_data(a) == jax.random.key_data(b)).all() if is_key(a) else np.array_equal(a, b)
    assert len(compiles) == 1
    assert len(list(folder.iterdir())) == 1


def expected_of(make, args, kwargs):
    """What the call gives without a folder."""
    used, ft.config.cache_dir = ft.config.cache_dir, None
    try:
        return make()(*args, **kwargs)
    finally:
        ft.config.cache_dir = used


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def test_donated_buffers_are_reused(folder):
    """Also by what was loaded, and those of a named argument."""
    for _ in range(2):
        step = ft.jit(lambda x, n, state: {k: v * n + x for k, v in state.items()}, static_argnums=1,
                      donate_argnames="state")  # fmt: skip
        state = {"a": jax.numpy.ones(1000), "b": jax.numpy.ones(1000)}
        x = jax.numpy.ones(1000)
        new = step(x, 3, state)
        assert [v.is_deleted() for v in (*state.values(), x)] == [True, True, False]
        assert float(new["b"].sum()) == 4000


DIFFERENT = {
    "a literal": lambda: ft.jit(lambda x: x * 3.0),
    "a literal's type": lambda: ft.jit(lambda x: x * np.float32(2)),
    "an operation": lambda: ft.jit(lambda x: x / 2.0),
    "a parameter": lambda: ft.jit(lambda x: fnp.sum(x * 2.0, axis=0)),
    "another parameter": lambda: ft.jit(lambda x: fnp.sum(x * 2.0, axis=1)),
    "the order": lambda: ft.jit(lambda x: (x * 2.0, fnp.sin(x))),
    "the other order": lambda: ft.jit(lambda x: (fnp.sin(x), x * 2.0)),
    "donation": lambda: ft.jit(lambda x: x * 2.0, donate_argnums=0),
    "an option": lambda: ft.jit(lambda x: x * 2.0, compiler_options={"xla_embed_ir_in_executable": True}),
    "a nested Program": lambda: ft.jit(lambda x: ft.jit(lambda x: x * 2.0)(x)),
    "another nested Program": lambda: ft.jit(lambda x: ft.jit(lambda x: x * 3.0)(x)),
}


def test_told_apart(folder, compiles):
    makes = [lambda: ft.jit(lambda x: x * 2.0), *DIFFERENT.values()]
    expected = [expected_of(make, (jax.numpy.asarray(X),), {}) for make in makes]
    for make, result in zip(makes, expected, strict=True):
        found = make()(jax.numpy.asarray(X))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(result), strict=True):
            np.testing.assert_array_equal(a, b)
    makes[0]()(X.astype(np.int32))
    with jax.default_matmul_precision("float32"):
        makes[0]()(X)
    assert len(list(folder.iterdir())) == len(makes) + 2
    # Names and lines do not count.
    count = len(compiles)
    ft.jit(lambda other: other * 2.0)(X)
    assert len(compiles) == count


def test_same_name_in_another_process(folder):
    """Whatever the seed of Python's hashes."""
    code = (
        "import sys, functrace as ft; from functrace import lax\n"
        "f = lambda x: lax.fori_loop(0, 3, lambda i, x: ft.numpy.sin(x) * 2, x).sum()\n"
        "print(ft.lower.disk.key_of(ft.make_program(ft.grad(f))(1.5), (0,), {'keep_unused': False}))"
    )
    keys = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout.decode().strip()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert keys[0] == keys[1]
    assert len(keys[0]) == 64


def test_primitives_without_words():
    """Those of which not all that they are can be written down."""
    without = set()
    for sample in all_samples():
        try:
            disk.word_of_primitive(sample.primitive)
        except disk.NoWordError:
            without.add(sample.primitive.name)
    assert without == {"custom_vmap"}


class Mine(Primitive):
    """A primitive of the user's own, whose code may change from one process to the next."""

    name = "mine"

    def shape(self, *xs):
        return xs[0]

    def lower(self, *xs):
        return xs[0] + 1


def test_what_is_not_kept(folder):
    noted = []
    note = ft.from_jax(lambda x: jax.pure_callback(lambda v: (noted.append(1), v)[1], x, x))
    np.testing.assert_array_equal(ft.jit(note)(X), X)
    assert noted
    with Builder() as b:
        program = b.build([Mine()(b.input(Aval(X.shape, X.dtype)))])
    np.testing.assert_array_equal(ft.jit(lambda x: program(x))(X), X + 1)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ft.jit(lambda x: x + 1, in_shardings=device)(X)
    jax.vmap(ft.jit(lambda x: x + 1))(X)
    assert not list(folder.iterdir())


def damaged(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def of_garbage(_):
    return disk.FIRST_LINE + hashlib.sha256(b"garbage").hexdigest().encode() + b"\n" + b"garbage"


@pytest.mark.parametrize(("change", "message"), [
    (damaged, "it is damaged"), (lambda data: data[:-100], "it is damaged"), (lambda data: b"", "it is damaged"),
    (lambda data: b"\x80pickle", "it is damaged"), (of_garbage, "it does not load"),
], ids=["a bit", "cut", "empty", "another file", "a whole file of garbage"])  # fmt: skip
def test_damaged_files_are_made_again(change, message, folder, compiles):
    f = lambda: ft.jit(lambda x: fnp.sin(x) + 1)(X)
    expected = f()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    with pytest.warns(UserWarning, match=message):
        np.testing.assert_array_equal(f(), expected)
    assert len(compiles) == 2
    np.testing.assert_array_equal(f(), expected)
    assert len(compiles) == 2


def test_files_that_others_may_write_are_not_run(folder, compiles, tmp_path):
    f = lambda: ft.jit(lambda x: fnp.sin(x) + 1)(X)
    f()
    (path,) = folder.iterdir()
    path.chmod(0o666)
    with pytest.warns(UserWarning, match="others than you may have written it"):
        f()
    (path,) = folder.iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="it cannot be read"):
        f()
    assert len(compiles) == 3


def test_folders_that_others_may_write_are_refused(tmp_path):
    opened = tmp_path / "open"
    opened.mkdir()
    opened.chmod(0o777)
    for path in (opened, opened / "mine"):
        with pytest.raises(FileError, match=r"config.cache_dir: .*open can be written by other users.*chmod 700"):
            ft.config.cache_dir = path
    assert ft.config.cache_dir is None
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"config.cache_dir: .*file: File exists"):
        ft.config.cache_dir = tmp_path / "file"
    with pytest.raises(DtypeError, match="the path of a folder or None, got 3"):
        ft.config.cache_dir = 3


def test_a_folder_opened_later_is_refused(folder):
    folder.chmod(0o777)
    with pytest.raises(FileError, match="can be written by other users"):
        ft.jit(lambda x: x + 1)(X)


def test_bounded(folder, monkeypatch):
    sizes = []
    for i in range(4):
        ft.jit(lambda x, i=i: x * float(i + 2))(X)
        sizes.append(sum(p.stat().st_size for p in folder.iterdir()))
        os.utime(max(folder.iterdir(), key=lambda p: p.stat().st_mtime), (i, i))
    monkeypatch.setattr(ft.config, "cache_bytes", sizes[1] + 10)
    old = min(folder.iterdir(), key=lambda p: p.stat().st_mtime)
    ft.jit(lambda x: x * 2.0)(X)  # the oldest is used, which renews it
    ft.jit(lambda x: x * 9.0)(X)
    left = list(folder.iterdir())
    assert old in left
    assert sum(p.stat().st_size for p in left) <= sizes[1] + 10


def test_many_at_once(folder):
    def call(_):
        return np.asarray(ft.jit(lambda x: fnp.sin(x) + 1)(X))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(call, range(8)))
    for r in results:
        np.testing.assert_array_equal(r, results[0])
    assert [p.suffix for p in Path(folder).iterdir()] == [disk.SUFFIX]
