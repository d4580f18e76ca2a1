"""Settings of the whole process.

>>> import functrace as ft
>>> ft.config.debug_nonfinite
False
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from functrace.errors import DtypeError


class Config:
    """The settings; `functrace.config` is the only one of its kind.

    debug_nonfinite: whether the results of jitted functions and of un-jitted transforms are checked for NaN and Inf;
      see `functrace.debug.debug_nonfinite`.
    cache_dir: a folder in which jitted functions keep what they have compiled, so that the next process loads it
      instead of compiling; None, as at first, for no such folder. An executable is code: the folder must be the user's,
      and closed to others. It is made if it is not there.
    cache_bytes: how much the folder may hold; what was not used for longest is removed.
    """

    __slots__ = ("cache_bytes", "check_call", "check_folder", "check_program", "diverts", "folder", "is_checking")
    # Whoever can explain a result that is not finite says here how: nothing below knows who that is.
    check_call: Callable[[Any, Callable[..., Any], Sequence[Any], dict[str, Any]], None]
    check_program: Callable[[Any, Any, Sequence[Any]], None]
    check_folder: Callable[[Path], None]  # raises where executables are not safe
    is_checking: bool
    diverts: bool  # whether a call of a jitted function is checked or goes by the folder, asked on each call
    cache_bytes: int

    def __init__(self) -> None:
        self.is_checking = self.diverts = False
        self.cache_bytes = 2**30
        self.folder: Path | None = None  # what `cache_dir` is

    @property
    def cache_dir(self) -> Path | None:
        """Where jitted functions keep what they have compiled."""
        return self.folder

    @cache_dir.setter
    def cache_dir(self, path: str | os.PathLike[str] | None) -> None:
        if path is not None:
            if not isinstance(path, str | os.PathLike):
                raise DtypeError(f"config.cache_dir is the path of a folder or None, got {path!r}.")
            path = Path(path).expanduser().absolute()
            self.check_folder(path)
        self.folder = path
        self.diverts = self.is_checking or path is not None

    @property
    def debug_nonfinite(self) -> bool:
        """Whether results are checked for NaN and Inf."""
        return self.is_checking

    @debug_nonfinite.setter
    def debug_nonfinite(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise DtypeError(f"config.debug_nonfinite is True or False, got {on!r}.")
        self.is_checking = on
        self.diverts = on or self.folder is not None

    def __repr__(self) -> str:
        names = ("debug_nonfinite", "cache_dir", "cache_bytes")
        return f"Config({', '.join([f'{name}={getattr(self, name)}' for name in names])})"


config = Config()
