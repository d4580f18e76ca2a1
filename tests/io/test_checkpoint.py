"""Files of pytrees: what was saved is loaded, bit for bit; everything else is refused, by name."""

import collections
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import functrace as ft
from functrace import io, numpy as fnp, optim, random
from functrace.errors import ArgumentError, DtypeError, FileError, MissingFileError
from functrace.io import safetensors as format_of_files
from functrace.ir import files


class Point(NamedTuple):
    x: object
    y: object


class Other(NamedTuple):
    x: object
    z: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    inside: object


DTYPES = [
    "bool", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float8_e4m3b11fnuz", "float4_e2m1fn",
]  # fmt: skip


def bits(x):
    """An array as what it is made of."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return str(x.dtype), x.shape, np.asarray(random.key_data(x)).tobytes()
    if hasattr(x, "dtype"):
        weak = getattr(x, "weak_type", None)
        return type(x), x.dtype, x.shape, weak, np.asarray(x).tobytes()
    return type(x), repr(x)


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert bits(x) == bits(y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype, tmp_path):
    with jax.enable_x64(True):
        x = jnp.asarray([[0.0, 1.0, 2.0], [4.0, 0.5, 1.0]], "float32").astype(dtype)
        data = np.asarray(x)
        tree = {"jax": x, "numpy": data, "scalar": data[1, 0], "0d": np.asarray(x[0, 1]), "empty": x[:0]}
        io.save(tmp_path / "x", tree)
        assert_same(io.load(tmp_path / "x"), tree)
        assert_same(io.load(tmp_path / "x", like=tree), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        (),
        None,
        3,
        jnp.arange(3),
        {"a": [1, (2.5, -0.0, float("inf")), {"b": None, "c": [], "t": {7: ()}}], "d": 2j, "e": True},
        {"text": "é\n", "large": 10**30, "not a number": [float("inf"), -float("inf")]},
        {"a.b": np.zeros(1), "a": {"b": np.ones(2)}, "__metadata__": np.ones(3), "sha256": "0" * 64},
        {"weak": jnp.asarray(0.1), "weak vector": jnp.full(2, 3.0), "strong": jnp.float32(0.1)},
        {"big-endian": np.arange(3, dtype=">i4").astype("<i4"), "transposed": np.arange(6).reshape(2, 3).T},
        {"nan": np.array([np.nan, -np.nan, np.inf, -0.0])},
    ],
    ids=str,
)
def test_structure_comes_back(tree, tmp_path):
    io.save(tmp_path / "tree", tree)
    assert_same(io.load(tmp_path / "tree"), tree)
    if tree is not None:
        assert_same(io.load(tmp_path / "tree", like=tree), tree)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys(impl, tmp_path):
    key = random.key(3, impl=impl)
    tree = {"key": key, "keys": random.split(key, 2)}
    io.save(tmp_path / "keys", tree)
    for like in (None, tree, ft.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)):
        loaded = io.load(tmp_path / "keys", like=like)
        assert_same(loaded, tree)
        np.testing.assert_array_equal(random.normal(loaded["key"], 3), random.normal(key, 3))


def test_classes(tmp_path):
    """Without `like` they are dicts; with it they are themselves."""
    tree = {
        "state": Point(jnp.ones(2), [np.zeros(1)]), "box": Box([np.ones(1)]),
        "ordered": collections.OrderedDict(b=np.ones(1), a=2),
        "optimizer": optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-3)).init({"W": fnp.ones(3)}),
    }  # fmt: skip
    io.save(tmp_path / "tree", tree)
    assert_same(io.load(tmp_path / "tree", like=tree), tree)
    plain = io.load(tmp_path / "tree")
    assert list(plain["state"]) == ["x", "y"]
    np.testing.assert_array_equal(plain["state"]["x"], np.ones(2))
    np.testing.assert_array_equal(plain["optimizer"]["adamw"]["scale_by_adam"]["mu"]["W"], np.zeros(3))


def test_like_says_which_library_and_device(tmp_path):
    io.save(tmp_path / "x", {"x": np.ones(2, np.float32)})
    device = jax.devices()[0]
    committed = jax.device_put(jnp.zeros(2), device)
    for like, kind in ((np.zeros(2, np.float32), np.ndarray), (jnp.zeros(2), jax.Array), (committed, jax.Array)):
        x = io.load(tmp_path / "x", like={"x": like})["x"]
        assert isinstance(x, kind)
        assert getattr(x, "committed", None) == getattr(like, "committed", None)
    shape = ft.eval_shape(lambda: {"x": fnp.ones(2)})
    assert isinstance(io.load(tmp_path / "x", like=shape)["x"], jax.Array)


def test_safetensors_reads_it(tmp_path):
    tree = {
        "layers": [{"W": jnp.ones((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}],
        "c": np.arange(2) * (1 + 1j), "i": np.arange(3, dtype=np.int8), "e": np.ones((0, 4)),
    }  # fmt: skip
    io.save(tmp_path / "x.safetensors", tree)
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert set(file.keys()) == {"c", "e", "i", "layers.0.W", "layers.0.b"}
        assert set(file.metadata()) == {"functrace", "sha256"}
        np.testing.assert_array_equal(file.get_tensor("layers.0.W"), np.ones((2, 3), np.float32))
        np.testing.assert_array_equal(file.get_tensor("i"), np.arange(3))
        np.testing.assert_array_equal(file.get_tensor("c").view(complex)[..., 0], tree["c"])
    found = dict(safetensors.deserialize((tmp_path / "x.safetensors").read_bytes()))
    assert found["layers.0.b"]["dtype"] == "BF16"
    assert found["layers.0.b"]["shape"] == [3]


def test_reads_files_of_safetensors(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3), "c": np.array([True, False])}
    safetensors.numpy.save_file(arrays, tmp_path / "x", {"format": "pt"})
    assert_same(io.load(tmp_path / "x", foreign=True), arrays)
    for like, foreign in ((None, False), (arrays, True)):
        with pytest.raises(FileError, match=r"x: a safetensors file of another program.*`load\(path, foreign=True\)`"):
            io.load(tmp_path / "x", like, foreign=foreign)


# Files that are damaged or not what they should be.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "file"
    io.save(path, {"W": np.arange(6.0), "n": 3})
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b"", "0 bytes; the header of a safetensors file alone would end at byte 10. The file is cut short"),
        (lambda b: b[:5], "5 bytes; the header of a safetensors file"),
        (lambda b: b[:100], r"100 bytes; the header of a safetensors file alone would end at byte"),
        (lambda b: b[:-1], r"\d+ bytes; its header says \d+. The file is cut short: get it again"),
        (lambda b: b + b"\n", r"\d+ bytes; its header says \d+. The file is followed by something else"),
        (lambda b: b[:-3] + b"\x01" + b[-2:], r"the file is damaged: its checksum is \w{12}\.\.\., and it was written"),
        (lambda b: b.replace(b'\\"n\\", 3', b'\\"n\\", 4'), "the file is damaged: its checksum is"),
        (lambda b: b.replace(b'"sha256"', b'"sha255"'), "the file is damaged: its checksum is not there"),
        (lambda b: b.replace(b'"F64"', b'"I64"'), "the file is damaged: its checksum is"),
        (lambda b: b.replace(b'"F64"', b'"F32"'), r"W, F32 of shape \(6,\), cannot have the bytes 0 to 48"),
        (lambda b: b.replace(b'"F64"', b'"X64"'), "W has dtype X64, which NumPy has no type for"),
        (lambda b: b.replace(b'"shape":[6]', b'"shape":"6"'), "the file is damaged: its checksum is"),
        (lambda b: b.replace(b'"data_offsets"', b'"data_0ffsets"'), "its header is not one of safetensors"),
        (lambda b: b.replace(b":{", b":["), "its header is damaged, or of another format"),
        (lambda b: b"<html><body>404</body></html>", "not a safetensors file, .* writes it: it begins with b'<html>"),
        (lambda b: pickle.dumps({"W": [1.0] * 99}), "not a safetensors file, .*: a pickle"),
        (lambda b: b"PK\x03\x04" + b, "not a safetensors file, .*: a zip archive, as torch.save and"),
        (lambda b: b"\x93NUMPY" + b, r"an array of np\.save"),
        (lambda b: (2).to_bytes(8, "little") + b"{}", "a safetensors file of another program"),
        (lambda b: (2).to_bytes(8, "little") + b"[]", "not a safetensors file"),
    ],
)
def test_damaged_files(good, damage, message, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    with pytest.raises(FileError, match=message) as raised:
        io.load(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_every_bit_counts(good, tmp_path):
    """Whatever byte of a file is changed, it is refused, with an error of functrace's."""
    path = tmp_path / "file"
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(FileError):
            io.load(path)


def test_a_header_that_is_as_long_as_a_pickle_begins(tmp_path):
    """The first bytes of a file are a number: 0x280 is not protocol 2."""
    for length in (0x280, 0x480):
        empty = save_text(tmp_path, 0)
        text = "x" * (length - empty)
        assert save_text(tmp_path, len(text)) == length
        assert io.load(tmp_path / "x") == text


def save_text(folder, n):
    """Save n letters; the length of the header."""
    io.save(folder / "x", "x" * n)
    return int.from_bytes((folder / "x").read_bytes()[:8], "little")


def test_a_newer_format(tmp_path):
    written_by = {"functrace": json.dumps({"format": 2})}
    format_of_files.write(tmp_path / "x", {}, written_by)
    with pytest.raises(FileError, match="written in format 2 by a newer functrace; this one reads format 1"):
        io.load(tmp_path / "x")


def test_not_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"nothing: no such file\."):
        io.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "nothing")
    with pytest.raises(FileError, match=r"Is a directory\."):
        io.load(tmp_path)
    with pytest.raises(MissingFileError, match=r"save: .*none: no such folder\. Make it first\.  \(test_checkpoint.py"):
        io.save(tmp_path / "none" / "x", {})


# Structures that differ.


@pytest.mark.parametrize(
    ("tree", "like", "message"),
    [
        ({"W": np.ones((2, 3))}, {"W": np.ones((2, 4))}, r"\['W'\] is float64\[2,3\] in the file and float64\[2,4\]"),
        ({"W": np.ones(3)}, {"W": np.ones(3, np.float32)}, r"\['W'\] is float64\[3\] in the file and float32\[3\] in"),
        ({"a": np.ones(3), "b": 1}, {"b": 1}, r"\['a'\], float64\[3\], is in the file only"),
        ({"b": 1}, {"b": 1, "c": [{"d": np.ones(3)}]}, r"\['c'\], a list of 1, is in `like` only"),
        ({"a": [1, 2]}, {"a": (1, 2)}, r"\['a'\] is a list of 2 in the file and a tuple of 2 in `like`"),
        ({"a": [1, 2]}, {"a": [1]}, r"\['a'\]\[1\], a Python int, is in the file only"),
        ({"a": [1, 2.0]}, {"a": [1, 2]}, r"\['a'\]\[1\] is a Python float in the file and a Python int in `like`"),
        ({"a": None}, {"a": np.ones(1)}, r"\['a'\] is None in the file and float64\[1\] in `like`"),
        (Point(1, 2), Other(1, 2), r"\.y, a Python int, is in the file only; \.z, a Python int, is in `like` only"),
        (random.key(0), random.key(0, impl="rbg"), r"\(the whole tree\) is key<fry>\[\] in the file and key<rbg>"),
        ([np.ones(i) for i in range(12)], [np.ones(i + 1) for i in range(12)], r"\[9\] is float.*; and 2 more\."),
    ],
)  # fmt: skip
def test_structures_that_differ(tree, like, message, tmp_path):
    io.save(tmp_path / "x", tree)
    with pytest.raises(ArgumentError, match=f"load: .*x does not have the structure of `like`: .*{message}"):
        io.load(tmp_path / "x", like=like)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"f": [len]}, r"save: \['f'\]\[0\] is of type builtin_function_or_method; arrays, numbers"),
        ({"s": {1, 2}}, r"save: \['s'\] is of type set; "),
        ({"o": np.array([None])}, r"save: \['o'\] has dtype object; booleans"),
        ({"o": np.array(["a"])}, r"save: \['o'\] has dtype <U1; booleans"),
        ({"o": np.zeros(1, "V4")}, r"save: \['o'\] has dtype \|V4"),
        ({"o": np.zeros(1, np.longdouble)}, r"save: \['o'\] has dtype float"),
        ({"o": np.zeros(1, "M8[s]")}, r"save: \['o'\] has dtype datetime64\[s\]"),
        ({"o": np.zeros(1, [("a", "f4")])}, r"save: \['o'\] has dtype \[\('a', "),
        ({"d": {(1, 2): 3}}, r"save: \['d'\] has the key \(1, 2\) of type tuple; keys must be texts or integers"),
        ({"x": jax.ShapeDtypeStruct((2,), np.float32)}, "save: x is a ShapeDtypeStruct, which has no data"),
    ],
)
def test_what_cannot_be_saved(tree, message, tmp_path):
    with pytest.raises(DtypeError, match=message + r".*\(test_checkpoint\.py:\d+"):
        io.save(tmp_path / "x", tree)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("transform", [ft.jit, ft.grad, jax.jit])
def test_save_inside_a_transform(transform, tmp_path):
    def f(x):
        io.save(tmp_path / "x", {"x": x})
        return x

    with pytest.raises(DtypeError, match=r"save: \['x'\] is a value of a function that is being traced"):
        transform(f)(jnp.float32(1.0))


def test_64_bits_are_not_lost_in_silence(tmp_path):
    with jax.enable_x64(True):
        io.save(tmp_path / "x", {"x": jnp.ones(2, jnp.float64), "n": np.arange(2)})
    with pytest.raises(DtypeError, match=r"load: .* has x of dtype float64, and JAX's 64-bit types are off"):
        io.load(tmp_path / "x")


# Crashes.


def test_a_failed_save_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x"
    io.save(path, {"step": 1})
    old = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, lambda *_: full(_))
        with pytest.raises(OSError, match="No space left"):
            io.save(path, {"step": 2})
        monkeypatch.undo()
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


def test_a_killed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    io.save(path, {"step": np.arange(5)})
    code = f"""
import os, signal, numpy as np
from functrace import io
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
io.save({str(path)!r}, {{"step": np.arange(50_000)}})
"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the unfinished one
    np.testing.assert_array_equal(io.load(path)["step"], np.arange(5))
    others = [tmp_path / name for name in (".y.0123456789abcdef.tmp", ".x.mine.tmp", ".x.0123456789abcdef0.tmp")]
    for other in others:
        other.touch()
    io.save(path, {"step": 6})
    assert io.load(path) == {"step": 6}
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])  # without that of the process that was killed


def test_what_another_is_writing_stays(tmp_path, monkeypatch):
    """A save begins and ends while another one has all on the disk and is about to take its place."""
    path, replace = tmp_path / "x", os.replace

    def after_another(*names):
        monkeypatch.setattr(os, "replace", replace)
        io.save(path, 2)
        assert len(list(tmp_path.iterdir())) == 2
        replace(*names)

    monkeypatch.setattr(os, "replace", after_another)
    io.save(path, 1)
    assert io.load(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_is_removed_before_it_has_its_lock_begins_again(tmp_path, monkeypatch):
    lock = files.locked

    def late(file, wait):
        monkeypatch.setattr(files, "locked", lock)
        files.remove_abandoned(tmp_path / "x")
        assert list(tmp_path.iterdir()) == []
        return lock(file, wait)

    monkeypatch.setattr(files, "locked", late)
    io.save(tmp_path / "x", 1)
    assert io.load(tmp_path / "x") == 1


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "locked", lambda *_, **__: False)
    stale = tmp_path / ".x.0123456789abcdef.tmp"
    stale.touch()
    io.save(tmp_path / "x", 1)
    assert io.load(tmp_path / "x") == 1
    assert sorted(tmp_path.iterdir()) == [stale, tmp_path / "x"]


def test_links_and_permissions(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    io.save(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink()
    assert io.load(tmp_path / "folder" / "file") == 1
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "folder" / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
