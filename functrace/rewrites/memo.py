"""Memoisation of rewrites on the identity of the Program they start from."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from functrace.ir import Program, Source, Var

P = ParamSpec("P")
R = TypeVar("R")


class collector_paused:
    """No cyclic garbage collection within: a rewrite makes many objects that live and no cycles.

    Half the time of a large rewrite was the collector walking them (and all of JAX) again and again.
    """

    def __enter__(self) -> None:
        self.was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *error: object) -> None:
        if self.was_enabled:
            gc.enable()


def memoised(rewrite: Callable[Concatenate[Program, P], R]) -> Callable[Concatenate[Program, P], R]:
    """Keep what `rewrite(program, *args)` returned in `program.memo`."""

    @wraps(rewrite)
    def once(program: Program, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (rewrite, args, tuple(kwargs.items()))
        if key not in program.memo:
            with collector_paused():
                program.memo[key] = rewrite(program, *args, **kwargs)
        return program.memo[key]

    return once


def derived(source: Source | None, rewrite: str, name: str) -> Source | None:
    """The user's line of an equation that `rewrite` makes from one of primitive `name`."""
    return None if source is None else source.by(rewrite, name)


def select(flags: tuple[bool, ...], items: Any) -> list[Any]:
    """The items whose flag is set."""
    return [x for x, flag in zip(items, flags, strict=True) if flag]


def scatter(flags: tuple[bool, ...], items: Any) -> list[Any]:
    """The items at the set flags, None elsewhere: the inverse of `select`."""
    rest = iter(items)
    return [next(rest) if flag else None for flag in flags]


def copy_input(builder: Any, v: Var) -> Var:
    """A new input of the type and name of `v`."""
    return builder.input(v.aval, v.name)
