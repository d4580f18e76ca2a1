"""Python's collector of cyclic garbage, while a Program is made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_rests() -> Iterator[None]:
    """Not to look for garbage: a large Program is many objects at once, all alive, and to go through them again and
    again takes as long as a fifth of the making. What is not cyclic goes as ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
