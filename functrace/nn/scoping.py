"""A layer runs under the `named_scope` of its name, so that errors and reports tell it from the others."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar

from functrace.errors import DtypeError
from functrace.ir import named_scope
from functrace.nn.checking import failure
from functrace.nn.layer import Layer, SequenceLayer, StatefulLayer

AnyLayer = TypeVar("AnyLayer", Layer, StatefulLayer, SequenceLayer)


class Scoped:
    """A function that runs under a named scope, and that can be had under another."""

    def __init__(self, function: Callable[..., Any], name: str):
        update_wrapper(self, function)
        self.function, self.scope = function, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with named_scope(self.scope):
            try:
                return self.function(*args, **kwargs)
            except TypeError:
                self.check_call(args, kwargs)
                raise

    def check_call(self, args: Any, kwargs: Any) -> None:
        """Refuse arguments that the function does not take."""
        signature = inspect.signature(self.function)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            takes = ", ".join([p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD])
            what = "init" if takes == "key" else "apply"
            raise failure(
                DtypeError,
                self.scope,
                f"{what} takes ({takes}) and was given {len(args)} arguments: {error}. Call it as `{what}({takes})`"
                + ("." if what == "init" else f", with what `{takes.rpartition(', ')[0]} = init(key)` made."),
            ) from error


def scoped(layer: AnyLayer) -> AnyLayer:
    """The layer with both functions under the scope of its name."""
    return renamed(layer, layer.name)


def renamed(layer: AnyLayer, name: str) -> AnyLayer:
    """The layer under another name: its scope is that name, instead of and not within the old one."""
    bare = unscoped(layer)
    return layer._replace(init=Scoped(bare.init, name), apply=Scoped(bare.apply, name), name=name)


def unscoped(layer: AnyLayer) -> AnyLayer:
    """The layer without a scope, to stand within another that takes over its name."""
    init, apply = [f.function if isinstance(f, Scoped) else f for f in (layer.init, layer.apply)]
    return layer._replace(init=init, apply=apply)
