"""Programs as functions and as files: saved in one process, and all that a Program can do in another."""

import contextlib
import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.errors import ArgumentError, DtypeError, FileError, MissingFileError, ProgramError, ShapeError
from functrace.ir import Program

X = np.array([0.3, -0.7, 1.1], np.float32)
M = np.array([[2.0, 0.3, 0.1], [0.3, 3.0, 0.2], [0.1, 0.2, 1.5]], np.float32)
WEIGHTS = np.array([0.5, 2.0, -1.0], np.float32)
KEY = jax.random.key(7)


class Pair(NamedTuple):
    first: object
    second: object


@ft.custom_vjp
def doubled(x):
    return 2.0 * x


def forward(x):
    return doubled(x), x  # the rule calls the function: `recur`


doubled.defvjp(forward, lambda x, ct: (ct * (2.0 + 0.0 * x),))


@ft.custom_jvp
def softened(x):
    return fnp.maximum(x, 0)


softened.defjvps(lambda dx, y, x: dx / (1 + fnp.exp(-x)))


@jax.custom_vjp
def pulled(x):
    return jax.numpy.sin(x)


pulled.defvjp(lambda x: (jax.numpy.sin(x), x), lambda x, ct: (ct * jax.numpy.cos(x) * 3.0,))


def looped(x):
    y, rows = lax.scan(lambda c, r: (fnp.sin(c) * r, c.sum()), x, fnp.stack([x, x + 1]))
    y = lax.while_loop(lambda v: v.sum() < 3.0, lambda v: v + 1.0, y)
    return lax.cond(x[0] > 0, fnp.cos, fnp.tanh, y).sum() + rows.sum()


# What is saved, differentiated once more, and batched there.
SAVED = {
    "gradient": (ft.grad(lambda x: (fnp.tanh(x) ** 3).sum()), X),
    "loops and branches": (looped, X),
    "gradient of them": (ft.grad(looped), X),
    "custom rules": (lambda x: (doubled(x) * softened(x)).sum(), X),
    "checkpoint": (ft.checkpoint(lambda x: fnp.sin(fnp.sin(x)).sum()), X),
    "closed over": (lambda x: (x * WEIGHTS).sum(), X),
    "cholesky": (lambda a: fnp.linalg.cholesky(a).sum(), M),
    "gradient of cholesky": (ft.grad(lambda a: fnp.linalg.cholesky(a @ a.T).sum()), M),
    "solve": (lambda a: fnp.linalg.solve(a, X).sum(), M),
    "eigenvalues": (lambda a: fnp.linalg.eigvalsh(a)[0], M),
    "singular values": (lambda a: fnp.linalg.svd(a, compute_uv=False).sum(), M),
    "Fourier": (lambda x: (fnp.abs(fnp.fft.rfft(x)) ** 2).sum(), X),
    "determinant": (lambda a: fnp.linalg.slogdet(a)[1], M),
    "random numbers": (lambda x: (x * ft.random.normal(ft.random.key(1), x.shape)).sum(), X),
    "a key closed over": (lambda x: (x * ft.random.normal(KEY, x.shape)).sum(), X),
    "sinc": (lambda x: fnp.sinc(x).sum(), X),
    "a JAX function with a pullback": (lambda x: ft.from_jax(pulled)(x).sum(), X),
    "a JAX function with a rule": (lambda x: ft.from_jax(jax.nn.relu)(x).sum(), X),
}

ELSEWHERE = textwrap.dedent("""
    import sys
    from pathlib import Path
    import numpy as np
    import functrace as ft
    from functrace import numpy as fnp
    for path in sorted(Path(sys.argv[1]).glob("*.txt")):
        program = ft.Program.load(path)
        x = np.load(path.with_suffix(".npy"))
        total = lambda x: fnp.sum(program(x))
        results = [ft.jit(program)(x), ft.jit(ft.vmap(ft.grad(total)))(np.stack([x, x + 0.1]))]
        np.savez(path.with_suffix(".npz"), *map(np.asarray, results))
        program.save(path.with_suffix(".again"))
""")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The folder of the files, once the other process has made its results."""
    folder = tmp_path_factory.mktemp("programs")
    for name, (fun, x) in SAVED.items():
        ft.make_program(fun)(x).save(folder / f"{name}.txt")
        np.save(folder / f"{name}.npy", x)
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(ft.__file__).parents[1])}
    subprocess.run([sys.executable, "-W", "error", "-c", ELSEWHERE, str(folder)], check=True, env=env, timeout=300)
    return folder


@pytest.mark.parametrize("name", SAVED)
def test_another_process(elsewhere, name):
    fun, x = SAVED[name]
    total = lambda x: fnp.sum(fun(x))
    rows = np.stack([x, x + 0.1])
    expected = [ft.jit(fun)(x), ft.jit(ft.vmap(ft.grad(total)))(rows)]
    with np.load(elsewhere / f"{name}.npz") as found:
        for y, key in zip(expected, found.files, strict=True):
            np.testing.assert_allclose(found[key], y, rtol=2e-5, atol=2e-6)
    assert (elsewhere / f"{name}.txt").read_bytes() == (elsewhere / f"{name}.again").read_bytes()


CALLED = {
    "one output": (lambda x: x * 2, (X,)),
    "a dict": (lambda p, x: {"b": p["b"] + x, "a": [p["a"], None]}, ({"a": X, "b": X},)),
    "a tuple": (lambda x: (x, x * 2), (X,)),
    "a tuple of one": (lambda x: (x,), (X,)),
    "a named tuple": (lambda x: Pair(x, (x, 1.0)), (X,)),
    "numbers for keys": (lambda x: {0: x, -1: x}, (X,)),
    "odd keys": (lambda x: {"it's \"so\" #\n": x}, (X,)),
    "nothing": (lambda x: None, (X,)),
    "an empty list": (lambda x: ([], x, {}), (X,)),
}


@pytest.mark.parametrize("name", CALLED)
def test_called(name, tmp_path):
    fun, args = CALLED[name]
    args = (*args, X) if name == "a dict" else args
    expected = fun(*args)
    if isinstance(expected, Pair):
        expected = expected._asdict()
    program = ft.make_program(fun)(*args)
    program.save(tmp_path / "x.txt")
    again = Program.load(tmp_path / "x.txt")
    assert again == program and again.structure == program.structure
    for found in (program(*args), again(*args), ft.jit(again)(*args)):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(x, y)


def test_keyword_arguments_and_lines():
    program = ft.make_program(lambda x, *, scale: x * scale)(X, scale=2.0)
    np.testing.assert_array_equal(program(X, scale=3.0), X * 3)
    again = Program.parse(str(program))
    assert str(again) == str(program)  # source lines too
    assert str(again.equations[0].source) == str(program.equations[0].source)


def test_captured_tracers_are_not_saved(tmp_path):
    def f(x):
        program = ft.make_program(lambda y: y * x)(X)
        with pytest.raises(ProgramError, match=r"save: the function closes over a value of type f32\[3\] of a trace"):
            program.save(tmp_path / "x.txt")
        return program(X).sum()

    np.testing.assert_allclose(ft.grad(f)(X), X)


CALLS = {
    "too few": (lambda p: p(X), ArgumentError, r"Program: called with 1 arrays, and takes 2: x: f32\[3\], n: i32\[\]~"),
    "too many": (lambda p: p(X, 1, 2), ArgumentError, r"Program: called with 3 arrays, and takes 2"),
    "shape": (lambda p: p(M, 1), DtypeError, r"Program: x must be of type f32\[3\], got f32\[3,3\].*trace the"),
    "dtype": (lambda p: p(X, 1.5), DtypeError, r"Program: n must be of type i32\[\]~, got f32\[\]~"),
    "no array": (lambda p: p(X, "1"), DtypeError, r"Program: n is a str \('1'\), not an array of type i32\[\]~"),
}


@pytest.mark.parametrize("name", CALLS)
def test_messages_of_calls(name):
    call, error, message = CALLS[name]
    program = ft.make_program(lambda x, n: x * n)(X, 2)
    with pytest.raises(error, match=rf"{message}.*\(test_files\.py"):
        call(program)


def test_64_bits_are_not_narrowed():
    with jax.enable_x64(True):
        program = ft.make_program(lambda x: x.astype("float64").sum())(X)
        assert program(X).dtype == np.float64
    with pytest.raises(DtypeError, match=r"computes with 64 bits, and JAX's 64-bit types are off.*jax_enable_x64"):
        program(X)


@pytest.fixture
def file(tmp_path):
    """A file with a Program, and the Program."""
    program = ft.make_program(lambda x: fnp.sin(x) * 0.1)(X)
    program.save(tmp_path / "sine.txt")
    return tmp_path / "sine.txt", program


DAMAGED = {
    "a byte changed": (lambda b: b.replace(b"sin", b"cos"), r"the file is damaged or was edited: its checksum is"),
    "cut short": (lambda b: b[:-9], r"the file is damaged or was edited"),
    "empty": (lambda b: b"", r"not a Program, as `Program.save` writes it: it begins with b''"),
    "a pickle": (lambda b: b"\x80\x04.", r"not a Program, as `Program.save` writes it: a pickle"),
    "a zip archive": (lambda b: b"PK\x03\x04" + b, r"a zip archive, as torch.save and np.savez write"),
    "text": (lambda b: b.split(b"\n", 1)[1], r"not a Program, .* it begins with b'program\(x: "),
    "newer": (lambda b: b.replace(b"format 1", b"format 2"), r"written in format 2 by a newer functrace; .* format 1"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(file, name):
    path, _ = file
    damage, message = DAMAGED[name]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileError, match=rf"sine\.txt: .*{message}"):
        Program.load(path)


def test_folders_and_files_that_are_not_there(file, tmp_path):
    _, program = file
    with pytest.raises(MissingFileError, match=r"other\.txt: no such file"):
        Program.load(tmp_path / "other.txt")
    with pytest.raises(MissingFileError, match=r"save: .*nowhere: no such folder. Make it first"):
        program.save(tmp_path / "nowhere" / "x.txt")
    with pytest.raises(FileError, match="directory"):
        Program.load(tmp_path)


def test_a_primitive_that_is_not_defined_there(file):
    path, _ = file
    body = path.read_bytes().split(b"\n", 1)[1].replace(b"sin", b"wave")
    first = f"# functrace Program, format 1, sha256 {hashlib.sha256(body).hexdigest()}\n".encode()
    path.write_bytes(first + body)
    with pytest.raises(FileError, match=r"unknown primitive 'wave'. The file is whole, .* import the module that"):
        Program.load(path)


def test_an_error_while_saving_leaves_the_older_file(file):
    path, _ = file
    before = path.read_bytes()
    f = ft.custom_vmap(lambda x: x * 2)
    f.def_vmap(lambda size, batched, x: (f(x), True))
    for fun in (f, lambda x: ft.from_jax(jax.jit(lambda x: (jax.debug.print("{}", x), x)[1]))(x)):
        with pytest.raises(ProgramError, match=r"save: this Program would not read back. line .*no text gives back"):
            ft.make_program(fun)(X).save(path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["sine.txt"]


GOOD = "program(x: f32[3]) {\n  a: f32[3] = cumsum[axis=0, reverse=False] x  # model.py:3\n  return {'y': a}\n}"

PIECES = ["", " ", "(", ")", "[", "{", "}", ",", "1", "-", "x", "f32", "'", "=", ":", "\n", "~", "None", "1e9", "[...]"]


@pytest.mark.parametrize("seed", range(100))
def test_damaged_texts_are_told(seed):
    """Whatever the text is, there is a Program or a ProgramError."""
    rng = np.random.default_rng(seed)
    characters = list(GOOD)
    for _ in range(rng.integers(1, 4)):
        i = rng.integers(len(characters))
        characters[i] = rng.choice(PIECES)
    with contextlib.suppress(ProgramError, ShapeError):
        Program.parse("".join(characters)).verify()
