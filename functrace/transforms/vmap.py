"""Vectorise a function over an axis of its arguments.

vmap : (a -> b) -> ([n] a -> [n] b)             vmap f xs = stack [f x for x in xs]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jax import tree_util

from functrace import rewrites
from functrace.errors import ArgumentError, DtypeError
from functrace.ir import Atom, Aval, Builder, Program
from functrace.ir.source import caller_source
from functrace.primitives.space import batched_operand, move_axis
from functrace.rewrites.memo import memoised
from functrace.tracing import apply, aval_of, trace
from functrace.tracing.axes import named_axis
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_callable, fun_name, leaf_label


def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
) -> Callable[..., Any]:
    """Map `fun` over an axis of its arguments, as one vectorised computation.

    Args:
      fun: a pure function of pytrees of arrays.
      in_axes: an int, None (not mapped), or a tuple with an entry a positional argument, each a
        prefix of its pytree. Keyword arguments are mapped over axis 0.
      out_axes: where the mapped axis goes in the output; a prefix of its pytree.
      axis_name: what collectives (`functrace.lax.psum`) call the axis.
      axis_size: length of the axis, where no argument is mapped.
    Returns:
      A function of arguments with the extra axis.
    Raises:
      ArgumentError: sizes of the mapped axes differ, or `in_axes` does not fit the arguments.

    >>> import functrace as ft, numpy as np
    >>> ft.vmap(lambda x, y: x @ y, in_axes=(0, None))(np.ones((2, 3)), np.ones(3)).tolist()
    [3.0, 3.0]
    """
    check_callable("vmap", fun)
    axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
    if isinstance(axes, tuple) is False and axes is not None and not isinstance(axes, int):
        raise DtypeError(f"vmap: in_axes must be an int, None, or a tuple of prefixes, got {in_axes!r}")

    @wraps(fun)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        if isinstance(axes, tuple) and len(axes) != len(args):
            raise ArgumentError(
                f"vmap: in_axes has {len(axes)} entries and the function was called with {len(args)} positional "
                f"arguments; they must be as many.{at(caller_source())}"
            )
        whole = (*args, kwargs)
        prefix = (*(axes if isinstance(axes, tuple) else (axes,) * len(args)), 0)
        leaves, in_tree = tree_util.tree_flatten(whole)
        flat_axes = broadcast_prefix("in_axes", prefix, whole)
        size = mapped_size(whole, leaves, flat_axes, axis_size)
        is_static = [a is None and not is_array(x) for x, a in zip(leaves, flat_axes, strict=True)]
        operands = [x for x, s in zip(leaves, is_static, strict=True) if not s]
        operand_axes = [a for a, s in zip(flat_axes, is_static, strict=True) if not s]
        in_avals = tuple([aval_of(x) for x in operands])
        normal = tuple([None if a is None else a % v.ndim for v, a in zip(in_avals, operand_axes, strict=True)])

        def of_operands(*values: Any) -> Any:
            rest = iter(values)
            full = [x if s else next(rest) for x, s in zip(leaves, is_static, strict=True)]
            *inner_args, inner_kwargs = tree_util.tree_unflatten(in_tree, full)
            return fun(*inner_args, **inner_kwargs)

        of_operands.__name__ = fun_name(fun)
        avals = [v if a is None else without_axis(v, a) for v, a in zip(in_avals, normal, strict=True)]
        with named_axis(axis_name, size):
            traced = trace(of_operands, operands, transform="vmap", avals=avals, like=fun)
        out_prefix = tree_util.tree_unflatten(traced.out_tree, [0] * traced.out_tree.num_leaves)
        flat_out_axes = broadcast_prefix("out_axes", out_axes, out_prefix)
        program = with_axis(traced.program, in_avals, normal, tuple(flat_out_axes), size, axis_name)
        return tree_util.tree_unflatten(traced.out_tree, apply(program, [*traced.captures, *operands]))

    return mapped


@memoised
def with_axis(
    program: Program, in_avals: tuple[Aval, ...], in_axes: tuple[Any, ...], out_axes: tuple[Any, ...], size: int,
    axis_name: Any,
) -> Program:  # fmt: skip
    """The Program with an axis: of its last inputs, and of its outputs; None where one has it not."""
    captures = len(program.inputs) - len(in_avals)
    flags = (False,) * captures + tuple([a is not None for a in in_axes])
    batched, out_flags = rewrites.batch(program, size, flags, axis_name)
    with Builder() as b:
        inputs: list[Atom] = [b.input(a) for a in batched.in_avals[:captures]]
        for aval, a in zip(in_avals, in_axes, strict=True):
            v = b.input(aval)
            inputs.append(v if a is None else move_axis(v, a, 0))
        outputs = []
        for y, is_batched, a in zip(b.inline(batched, inputs), out_flags, out_axes, strict=True):
            if a is None:
                if is_batched:
                    raise ArgumentError(
                        "vmap: out_axes is None for an output that depends on the mapped axis; give "
                        f"it an axis.{at(caller_source())}"
                    )
                outputs.append(y)
            else:
                y = batched_operand(y, is_batched, size)
                outputs.append(move_axis(y, 0, a % y.aval.ndim))
        return b.build(outputs)


def is_array(x: Any) -> bool:
    """Whether a leaf can be traced."""
    try:
        aval_of(x)
    except TypeError:
        return False
    return True


def without_axis(aval: Aval, axis: int) -> Aval:
    """The type of one slice along `axis`."""
    return aval.with_shape(aval.shape[:axis] + aval.shape[axis + 1 :])


def broadcast_prefix(what: str, prefix: Any, tree: Any) -> list[Any]:
    """One entry a leaf of `tree`, from a pytree prefix of it."""
    flat: list[Any] = []

    def fill(entry: Any, subtree: Any) -> None:
        flat.extend([entry] * tree_util.tree_structure(subtree).num_leaves)

    try:
        tree_util.tree_map(fill, prefix, tree, is_leaf=lambda x: x is None)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            f"vmap: {what} {prefix!r} is not a prefix of the pytree it is for, {tree_util.tree_structure(tree)}."
            f"{at(caller_source())}"
        ) from error
    for entry in flat:
        if entry is not None and (not isinstance(entry, int) or isinstance(entry, bool)):
            raise DtypeError(f"vmap: {what} must hold ints and None, got {entry!r}.{at(caller_source())}")
    return flat


def mapped_size(args: Any, leaves: Any, axes: Any, axis_size: int | None) -> int:
    """The one length of all mapped axes."""
    sizes: dict[str, int] = {}
    for i, (x, a) in enumerate(zip(leaves, axes, strict=True)):
        if a is None:
            continue
        label = leaf_label(args, i)
        aval = aval_of(x)
        if not -aval.ndim <= a < aval.ndim:
            raise ArgumentError(
                f"vmap: {label} has type {aval}, which has no axis {a}; use in_axes=None for an argument "
                f"that is not mapped.{at(caller_source())}"
            )
        sizes[label] = aval.shape[a]
    if axis_size is not None:
        sizes["axis_size"] = axis_size
    if not sizes:
        raise ArgumentError(
            f"vmap: no argument is mapped; give one an axis in in_axes, or pass axis_size.{at(caller_source())}"
        )
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{label}: {n}" for label, n in sizes.items())
        raise ArgumentError(f"vmap: sizes of the mapped axes differ: {listing}.{at(caller_source())}")
    return next(iter(sizes.values()))
