"""Compiled Programs on disk: what one process has compiled, the next one loads.

A file is named by a hash of all that the executable depends on: the Program, without names and source lines; what is
donated; XLA's options and flags; the device; the versions of jax, jaxlib and functrace. It begins with a checksum of
what follows.

An executable is code, so a file is loaded only if it and its folder belong to the user (or the folder's parents to the
administrator) and nobody else may write there.
"""

from __future__ import annotations

import copyreg
import enum
import hashlib
import os
import pickle
import platform
import stat
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import tree_util
from jax.experimental import serialize_executable

from functrace.config import config
from functrace.errors import FileError
from functrace.ir import Aval, Literal, Program
from functrace.ir.files import replacing
from functrace.ir.primitive import Member
from functrace.lower.staging import staged

FIRST_LINE = b"functrace executable, format 1, sha256 "
SUFFIX = ".executable"
# What a whole file raises that another backend wrote than the key tells.
UNLOADABLE = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.UnpicklingError)


def executable(program: Program, values: Sequence[Any], donated: tuple[int, ...], options: Mapping[str, Any]) -> Any:
    """A function of values like these that computes a Program, from disk if it is there, else compiled and kept there.

    Args:
      program: what to compile.
      values: arrays or numbers, of the types of its inputs.
      donated: numbers of the inputs whose buffers the results may reuse.
      options: further ones of `jax.jit`.
    Returns:
      The function, which returns a list; None for a Program that no file can be named for.
    """
    key = key_of(program, donated, options)
    if key is None:
        return None
    found = load(key, len(program.inputs), len(program.outputs))
    if found is not None:
        return found

    def run(*xs: Any) -> list[Any]:
        return staged(program, xs)

    compiled = jax.jit(run, donate_argnums=donated, **options).lower(*values).compile()
    keep(key, compiled)
    return compiled


config.check_folder = lambda path: check_folder(path)


def load(key: str, inputs: int, outputs: int) -> Any:
    """The executable of this key, or None."""
    path = folder() / (key + SUFFIX)
    data = trusted_content(path)
    if data is None:
        return None
    first, _, body = data.partition(b"\n")
    if first != FIRST_LINE + hashlib.sha256(body).hexdigest().encode():
        return discarded(path, "it is damaged")
    trees = tree_util.tree_structure((tuple(range(inputs)), {})), tree_util.tree_structure(list(range(outputs)))
    try:
        found = serialize_executable.deserialize_and_load(body, *trees)
    except UNLOADABLE as error:
        return discarded(path, f"it does not load: {error}")
    with suppress(OSError):
        os.utime(path)  # the time of its last use, by which old ones are removed
    return found


def discarded(path: Path, why: str) -> None:
    """Remove a file that is no use."""
    warnings.warn(f"functrace: {path}: {why}. It is removed, and the Program compiled again.", stacklevel=2)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def keep(key: str, compiled: Any) -> None:
    """Write an executable, and make room for it."""
    pickle_layouts_by_name()
    try:
        body, _, _ = serialize_executable.serialize(compiled)
    except (ValueError, NotImplementedError) as error:  # a backend that cannot
        warnings.warn(f"functrace: a compiled Program is not kept on disk: {error}", stacklevel=2)
        return
    try:
        with replacing(folder() / (key + SUFFIX)) as file:
            file.write(FIRST_LINE + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    except OSError as error:
        warnings.warn(f"functrace: a compiled Program is not kept on disk: {error}", stacklevel=2)
    make_room()


@cache
def pickle_layouts_by_name() -> None:
    """jax 0.12's one layout that says "any" reads back as another object, and no type with that equals a fresh one."""
    layout = getattr(jax.typeof(np.float32(0)), "layout", None)
    if layout is not None and pickle.loads(pickle.dumps(layout)) != layout:
        (name, *_) = [k for k, v in vars(sys.modules[type(layout).__module__]).items() if v is layout]
        copyreg.pickle(type(layout), lambda _: name)


def make_room() -> None:
    """Remove the files that were not used for longest, until the others fit."""
    files = []
    for path in folder().glob("*" + SUFFIX):
        with suppress(OSError):  # another process has removed it
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum([size for _, size, _ in files])
    for _, size, path in sorted(files):
        if total <= config.cache_bytes:
            break
        with suppress(OSError):
            path.unlink(missing_ok=True)
        total -= size


def folder() -> Path:
    """The folder, which is still to be trusted."""
    assert config.cache_dir is not None, "there is no folder to use"
    check_folder(config.cache_dir)
    return config.cache_dir


def check_folder(path: Path) -> None:
    """Make the folder if it is not there.

    Raises:
      FileError: it cannot be made, or others than the user could put an executable there.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        real = Path(os.path.realpath(path))
        statuses = [(p, p.stat()) for p in (real, *real.parents)]
    except OSError as error:
        raise FileError(f"config.cache_dir: {path}: {error.strerror or error}.") from error
    if os.name != "posix":
        raise FileError(f"config.cache_dir: who may write to {path} is known on POSIX systems only; set it to None.")
    for p, status in statuses:
        # In a folder like /tmp others make files, but none can take the place of another user's.
        open_to_others = status.st_mode & 0o022 and (p == real or not status.st_mode & stat.S_ISVTX)
        if open_to_others or status.st_uid not in ((os.getuid(),) if p == real else (os.getuid(), 0)):
            raise FileError(
                f"config.cache_dir: {p} {'can be written by other users' if open_to_others else 'is not yours'}, who "
                f"could put programs there for you to run. Use a folder of your own: chmod 700 {path}."
            )


def trusted_content(path: Path) -> bytes | None:
    """What a file has, if there is one, that the user alone may have written."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        return discarded(path, f"it cannot be read: {error.strerror}")
    with open(file, "rb") as opened:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            return discarded(path, "others than you may have written it")
        return opened.read()


def key_of(program: Program, donated: tuple[int, ...], options: Mapping[str, Any]) -> str | None:
    """The name of what XLA makes of a Program here; None where it depends on more than what can be written down."""
    try:
        parts = [digest(program), repr(donated), word(dict(options)), *surroundings()]
    except NoWordError:
        return None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def surroundings() -> list[str]:
    """What else an executable depends on."""
    device = jax.devices()[0]
    # Those that a context sets stand in attributes; the dictionary has what they are outside.
    settings = [f"{name}={getattr(jax.config, name, value)}" for name, value in sorted(jax.config.values.items())]
    flags = [f"{name}={os.environ.get(name)}" for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    made_by = getattr(device.client, "platform_version", "")
    return [device.platform, device.device_kind, made_by, *flags, *settings, *installed()]


@cache
def installed() -> tuple[str, ...]:
    """Versions, the files of functrace, and the processor, of which XLA uses all that it can do."""
    root = Path(__file__).parents[1]
    files = [(str(p.relative_to(root)), p.stat()) for p in sorted(root.rglob("*.py"))]
    sources = [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in files]
    processor = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        processor += "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return (jax.__version__, version("jaxlib"), platform.machine(), processor, *sources)


class NoWordError(Exception):
    """Something is not told apart from others by what can be written down of it, as a function."""


def digest(program: Program) -> str:
    """A hash of a Program that is the same in every process; names and source lines are not part of it."""
    found = program.memo.get("digest")
    if found is None:
        lines = [" ".join([repr(v.aval) for v in program.inputs])]
        number = {v: str(i) for i, v in enumerate(program.inputs)}
        words: dict[Any, str] = {}

        def read(x: Any) -> str:
            return f"{x.bits.hex()}:{x.aval!r}" if type(x) is Literal else number[x]

        for eqn in program.equations:
            if eqn.primitive not in words:
                words[eqn.primitive] = word_of_primitive(eqn.primitive)
            lines.append(" ".join([words[eqn.primitive], *map(read, eqn.inputs)]))
            number.update([(v, str(len(number) + i)) for i, v in enumerate(eqn.outputs)])
            lines.append(" ".join([repr(v.aval) for v in eqn.outputs]))
        lines.append(" ".join(map(read, program.outputs)))
        found = program.memo["digest"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def word_of_primitive(primitive: Any) -> str:
    """What is applied. The code of a primitive of the user's own may change under its name."""
    defined = (type(primitive).__module__, getattr(primitive.lower, "__module__", None) or "")
    if not primitive.readable_text or not all([m.split(".")[0] in ("functrace", "jax") for m in defined]):
        raise NoWordError
    return f"{type(primitive).__qualname__} {primitive.name} {word(primitive.text_params)}"


def word(x: Any) -> str:
    """A value in a text that no other value has."""
    if x is None or isinstance(x, bool | int | float | complex | str | Aval):
        return repr(x)
    if isinstance(x, Program):
        return digest(x)
    if isinstance(x, np.dtype):
        return f"dtype {x}"
    if isinstance(x, Member | enum.Enum):
        return f"{type(x).__qualname__} {x}"
    if isinstance(x, tuple | list):
        return f"({', '.join(map(word, x))})"
    if isinstance(x, Mapping):
        return f"{{{', '.join([f'{k!r}: {word(v)}' for k, v in sorted(x.items())])}}}"
    raise NoWordError
