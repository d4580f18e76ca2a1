"""Where in the user's code an equation came from."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import NamedTuple

from functrace.errors import ArgumentError


class Source(NamedTuple):
    """One line of the user's code and, when a transform made the equation, which rewrite did.

    `rewrite` tells of all rewrites, the last one first, down to the primitive that the user wrote: `batch of transpose
    of log`; the linearization before a transpose goes without saying. `scope` is the path of the `named_scope`s around
    the line: `encoder/layer_0`. `backward` says that a transpose made the equation, or what it was made from.
    """

    file: str
    line: int
    function: str
    rewrite: str = ""
    scope: str = ""
    backward: bool = False

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"

    def by(self, rewrite: str, name: str) -> Source:
        """The same line, with the rewrite that made the equation from an older one of primitive `name`."""
        found = _rewritten.get((self, rewrite, name))
        if found is None:
            if len(_rewritten) > 100_000:
                _rewritten.clear()
            made = self.rewrite.removeprefix("linearize of ") if rewrite == "transpose" else self.rewrite
            backward = self.backward or rewrite == "transpose"
            found = self._replace(rewrite=f"{rewrite} of {made or name}", backward=backward)
            _rewritten[self, rewrite, name] = found
        return found

    @property
    def is_derivative(self) -> bool:
        """Whether the equation is part of a derivative: neither a value of the user's function nor one of a batch."""
        return self.backward or any(f"{rule} of " in self.rewrite for rule in ("jvp", "linearize", "series", "vjp"))

    def in_backward(self) -> Source:
        """The same line where it is written in the place of a backward equation."""
        return self if self.backward else self._replace(backward=True)


def at(source: Source | None) -> str:
    """`  (train.py:41, in loss)`, for the end of a message."""
    return "" if source is None else f"  ({source}, in {source.function})"


PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
NOWHERE = Source("", 0, "")  # of equations that a library function wrote: they are where its call is
_rewritten: dict[tuple[Source, str, str], Source] = {}
_is_internal: dict[CodeType, bool] = {}
_sources: dict[tuple[CodeType, int, str], Source] = {}


class _Scope(threading.local):
    path: str = ""


SCOPE = _Scope()


@contextmanager
def named_scope(name: str) -> Iterator[None]:
    """Name what is traced within, a part of a model: a context manager, and a decorator.

    Scopes nest: the equations of `layer_0` within `encoder` have the scope `encoder/layer_0`, printed beside their
    line, and reports tell of each scope. Derivatives keep the scope of what they are derivatives of.

    Args:
      name: what to call it.
    Raises:
      ArgumentError: the name is not a string, or is empty.

    >>> import functrace as ft
    >>> @ft.named_scope("square")
    ... def square(x):
    ...     return x * x
    >>> ft.make_program(square)(2.0).equations[0].source.scope
    'square'
    """
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"named_scope: a name must be a string that is not empty, got {name!r}.")
    outer = SCOPE.path
    SCOPE.path = f"{outer}/{name}" if outer else name
    try:
        yield
    finally:
        SCOPE.path = outer


def is_internal(code: CodeType) -> bool:
    """Whether a frame belongs to functrace, JAX or the standard library's plumbing."""
    file = code.co_filename
    return (
        (file.startswith(PACKAGE) and "<doctest" not in file)
        or f"{os.sep}jax{os.sep}" in file
        or file.startswith("<frozen")
        or file.endswith((f"{os.sep}functools.py", f"{os.sep}contextlib.py"))
        or code.co_qualname.startswith("__create_fn__.")  # what `dataclass` writes, such as an `__init__`
    )


def caller_source() -> Source | None:
    """The innermost frame outside functrace and JAX: the user's line."""
    frame = sys._getframe(1)
    known = _is_internal
    while frame is not None:
        code = frame.f_code
        internal = known.get(code)
        if internal is None:
            if len(known) > 100_000:
                known.clear()
            internal = known[code] = is_internal(code)
        if not internal:
            key = (code, frame.f_lineno, SCOPE.path)
            found = _sources.get(key)
            if found is None:
                if len(_sources) > 100_000:
                    _sources.clear()
                found = _sources[key] = Source(code.co_filename, frame.f_lineno, code.co_name, "", SCOPE.path)
            return found
        frame = frame.f_back
    return None
