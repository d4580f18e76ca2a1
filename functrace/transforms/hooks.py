"""Hooks: what a cotangent, or a value inside a function, is shown to.

on_backward : a -> (T* a -> T* a) -> a              tap : a -> name -> a              both are the identity
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.core
from jax import tree_util

from functrace.control import OnBackward
from functrace.errors import ArgumentError, DtypeError
from functrace.ir.primitive import Primitive, open_builder
from functrace.ir.source import SCOPE, caller_source
from functrace.lower import evaluate
from functrace.tracing import Tracer, aval_of, trace
from functrace.tracing.tracer import at, atom_of
from functrace.transforms.arguments import check_callable, check_same_tree, is_zero_tangent, leaf_label, zero_tangent


def on_backward(x: Any, fn: Callable[[Any], Any]) -> Any:
    """`x`, whose cotangent goes through `fn` on its way back (PyTorch's `register_hook`).

    `fn` is traced as every other function is, once; to look at what comes by, `tap` it there. Under `vmap` it is
    given one row at a time. In derivatives of derivatives the cotangents of every order go through it. Forward
    mode applies its transpose to tangents, so that both modes agree; for that it must be linear.

    Args:
      x: a pytree of arrays.
      fn: takes the cotangent of x, of its structure, shapes and dtypes, and returns another one, or None to
        leave it as it is. The cotangent of an integer leaf is a zero of dtype float0.
    Returns:
      The same pytree: use it in the place of x.
    Raises:
      DtypeError: `fn` returns another structure, or another shape or dtype.
      RuleError: forward mode, and `fn` is not linear.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> clipped = lambda x: 10.0 * ft.on_backward(x, lambda ct: fnp.clip(ct, -1.0, 1.0))
    >>> float(ft.grad(clipped)(2.0))
    1.0
    """
    check_callable("on_backward", fn, "fn")
    leaves, tree = tree_util.tree_flatten(x)
    builder = open_builder()
    if builder is None:
        if not any(isinstance(v, jax.core.Tracer) for v in leaves):
            return x
        traced = trace(lambda v: on_backward(v, fn), [x], transform="on_backward")
        return tree_util.tree_unflatten(tree, evaluate(traced.program, [*traced.captures, *leaves]))
    source = caller_source()
    avals = [aval_of(v).strong() for v in leaves]
    moving = [v for v, a in zip(leaves, avals, strict=True) if a.is_inexact]
    if not moving:
        return x
    ct_avals = [a for a in avals if a.is_inexact]

    def backward(*cts: Any) -> list[Any]:
        rest = iter(cts)
        given = tree_util.tree_unflatten(tree, [next(rest) if a.is_inexact else zero_tangent(a) for a in avals])
        result = fn(given)
        if result is None:
            return list(cts)
        check_same_tree("on_backward", "what fn returns", result, x, "x")
        found = tree_util.tree_leaves(result)
        for i, (ct, a) in enumerate(zip(found, avals, strict=True)):
            if a.is_inexact and (is_zero_tangent(ct) or not aval_of(ct).matches(a)):
                kind = ct.dtype if is_zero_tangent(ct) else repr(aval_of(ct))
                raise DtypeError(
                    f"on_backward: fn was given a cotangent of type {a!r} for {leaf_label([x], i)} and returned "
                    f"{kind}; it must return one of that shape and dtype, or None to leave all as they are.{at(source)}"
                )
        return [ct for ct, a in zip(found, avals, strict=True) if a.is_inexact]

    traced = trace(backward, [0] * len(ct_avals), transform="the fn of on_backward", avals=ct_avals)
    hook = OnBackward(traced.program, len(traced.captures), f"on_backward at {source}" if source else "on_backward")
    results = iter(hook(*[atom_of(v, builder) for v in (*traced.captures, *moving)]))
    hooked = [Tracer(next(results), builder) if a.is_inexact else v for v, a in zip(leaves, avals, strict=True)]
    return tree_util.tree_unflatten(tree, hooked)


def tap(x: Any, name: str, cotangent: bool = False) -> Any:
    """`x`, which `functrace.debug.taps` collects under a name.

    Where nothing collects it is the identity, of which nothing is left in what XLA is given. Derivatives do not
    see it: a gradient holds the tap of the value, once.

    Args:
      x: a pytree of arrays; the leaves of a pytree have their path behind the name, `h['left']`.
      name: what to collect it under. Within `named_scope("encoder")` it is collected as `encoder/name`.
      cotangent: collect the cotangent of x in its place, where a gradient is what is collected from.
    Returns:
      The same pytree. The value of a tap is collected whether or not something reads what is returned; its
      cotangent is that of what is returned.
    Raises:
      ArgumentError: the name is not a string, or is empty.

    >>> import functrace as ft
    >>> def loss(w):
    ...     hidden = ft.tap(w * 3.0, "hidden")
    ...     return ft.tap(hidden ** 2, "squared", cotangent=True) * 5.0
    >>> gradient, seen = ft.debug.taps(ft.grad(loss))(2.0)
    >>> float(gradient), {name: float(value) for name, value in seen.items()}
    (180.0, {'hidden': 6.0, 'squared': 5.0})
    """
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"tap: a name must be a string that is not empty, got {name!r}.{at(caller_source())}")
    builder = open_builder()
    if builder is None:
        return x
    if cotangent:
        return on_backward(x, lambda ct: tap(ct, name))
    of_name = Primitive.named["tap"]
    scoped = f"{SCOPE.path}/{name}" if SCOPE.path else name

    def tapped(path: Any, leaf: Any) -> Any:
        if is_zero_tangent(leaf):
            return leaf
        return Tracer(of_name(scoped + tree_util.keystr(path))(atom_of(leaf, builder)), builder)

    return tree_util.tree_map_with_path(tapped, x)
