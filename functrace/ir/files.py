"""Files: read with errors that name them, written whole or not at all; Programs saved and loaded.

A saved Program is its text below one line, a comment, that has the number of the format and a SHA-256 checksum of
what follows it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from functrace.errors import FileError, MissingFileError, ProgramError
from functrace.ir.program import Program
from functrace.ir.text import parse, show

if sys.platform != "win32":
    import fcntl

FORMAT = 1
FIRST_LINE = re.compile(rb"# functrace Program, format (\d+), sha256 ([0-9a-f]{64})\n")

# What files that are often taken for a checkpoint begin with.
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save and np.savez write",
    b"\x93NUMPY": "an array of np.save",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"GGUF": "a GGUF file",
}


def save(program: Program, path: Path) -> None:
    """Write a Program to a file.

    Raises:
      MissingFileError: there is no such folder.
      ProgramError: the Program has a part that no text gives back; the message names it.
    """
    text = show(program)
    try:
        parse(text)
    except ProgramError as error:
        raise ProgramError(f"save: this Program would not read back. {error}") from error
    if not path.parent.is_dir():
        raise MissingFileError(f"save: {path.parent}: no such folder. Make it first.")
    body = text.encode() + b"\n"
    with replacing(path) as file:
        file.write(f"# functrace Program, format {FORMAT}, sha256 {hashlib.sha256(body).hexdigest()}\n".encode())
        file.write(body)


def load(path: Path) -> Program:
    """The Program in a file that `save` wrote.

    Raises:
      MissingFileError: there is no such file.
      FileError: the file is damaged, cut short, of another kind, or written by a newer functrace; or it has a
        primitive that is not defined here.
    """
    data = content(path)
    first = FIRST_LINE.match(data)
    if first is None:
        raise FileError(f"{path}: not a Program, as `Program.save` writes it: {described(data)}.")
    if int(first[1]) != FORMAT:
        raise FileError(
            f"{path}: written in format {int(first[1])} by a newer functrace; this one reads format {FORMAT}."
        )
    body = data[first.end() :]
    found = hashlib.sha256(body).hexdigest()
    if found.encode() != first[2]:
        raise FileError(
            f"{path}: the file is damaged or was edited: its checksum is {found[:12]}..., and it was written with "
            f"{first[2][:12].decode()}... . Get it again, or read an edited text with `Program.parse`."
        )
    try:
        return parse(body.decode())
    except ProgramError as error:
        raise FileError(
            f"{path}: {error}. The file is whole, so another version of functrace or of jax wrote it, or a primitive "
            "of your own is not defined: import the module that defines it first."
        ) from error


def content(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}.") from error


def described(data: bytes) -> str:
    """What a file is that begins so, for messages."""
    known = [what for start, what in FOREIGN.items() if data.startswith(start)]
    return known[0] if known else f"it begins with {data[:12]!r}"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place at `path` when all is on the disk; if anything fails, nothing has changed.

    It is a hidden file `.name.*.tmp` beside `path`, locked as long as it is written. A process that is killed leaves it
    there, and its lock goes with the process: so the next one that writes `path` knows it from those that others are
    writing at the time, and removes it. Where files have no locks, as on Windows, it stays.
    """
    path = Path(os.path.realpath(path))
    remove_abandoned(path)
    unfinished, lock = begun(path)
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # it is there if anything failed
        if lock is not None:
            os.close(lock)
    if os.name == "posix":  # the new name is on the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def begun(path: Path) -> tuple[Path, int | None]:
    """A new hidden file beside `path`, and what holds its lock, to be closed when it has its place."""
    while True:
        unfinished = path.parent / f".{path.name}.{token_hex(8)}.tmp"
        file = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if not locked(file, wait=True):
            os.close(file)  # Windows moves no file that is open
            return unfinished, None
        if os.fstat(file).st_nlink:
            return unfinished, file
        os.close(file)  # it was taken for an abandoned one before it had its lock


def remove_abandoned(path: Path) -> None:
    """Remove the hidden files beside `path` that processes have left which were killed before they took its place."""
    for unfinished in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):  # another process has removed it, or it is another user's
            file = os.open(unfinished, os.O_RDWR)
            try:
                if locked(file, wait=False):
                    unfinished.unlink()
            finally:
                os.close(file)


def locked(file: int, wait: bool) -> bool:
    """Whether the file has got a lock of its own, which lasts until it is closed or the process ends."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another one has it, or the file system has none
        return False
    return True
