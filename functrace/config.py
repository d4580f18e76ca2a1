"""Settings of the whole process.

>>> import functrace as ft
>>> ft.config.debug_nonfinite
False
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from functrace.errors import DtypeError


class Config:
    """The settings; `functrace.config` is the only one of its kind.

    debug_nonfinite: whether the results of jitted functions and of un-jitted transforms are checked for NaN and Inf;
      see `functrace.debug.debug_nonfinite`.
    """

    __slots__ = ("check_call", "check_program", "is_checking")
    # Whoever can explain a result that is not finite says here how: nothing below knows who that is.
    check_call: Callable[[Any, Callable[..., Any], Sequence[Any], dict[str, Any]], None]
    check_program: Callable[[Any, Any, Sequence[Any]], None]
    is_checking: bool

    def __init__(self) -> None:
        self.is_checking = False

    @property
    def debug_nonfinite(self) -> bool:
        """Whether results are checked for NaN and Inf."""
        return self.is_checking

    @debug_nonfinite.setter
    def debug_nonfinite(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise DtypeError(f"config.debug_nonfinite is True or False, got {on!r}.")
        self.is_checking = on

    def __repr__(self) -> str:
        return f"Config(debug_nonfinite={self.debug_nonfinite})"


config = Config()
