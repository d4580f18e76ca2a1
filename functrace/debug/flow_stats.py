"""Numbers about a gradient and what it flowed through, computed with it: arrays, so that jit and cond take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
from jax import tree_util

from functrace import lax, numpy as fnp, rewrites
from functrace.debug.gradient_report import GradientFlow, report
from functrace.debug.scopes import Layout, instrumented, layout, numbers, read_label
from functrace.errors import ArgumentError
from functrace.ir.source import caller_source
from functrace.tracing import apply, trace
from functrace.tracing.trace import leaf_names, parameter_names
from functrace.tracing.tracer import at
from functrace.transforms.arguments import check_call, check_callable
from functrace.transforms.auxiliary import trace_with_aux
from functrace.transforms.grad import check_inputs, check_output, value_and_grad


@dataclass(frozen=True)
class FlowStats:
    """What `flow_stats` computed: a pytree of small arrays. `report()` reads it, outside of jit.

    sampled: whether this step was looked at; where it was not, all else is zero.
    parameters: f32[P, 6], a row a parameter leaf: the norm, largest and smallest entry and fraction of zeros of its
      gradient, its own norm, and the norm of its update.
    scopes: an array for each value that leaves a scope, and for its cotangent: f32[4] of norm, largest, smallest and
      fraction of zeros, stacked over the steps of loops around it.
    """

    sampled: Any
    parameters: Any
    scopes: tuple[Any, ...]
    labels: tuple[str, ...]
    layout: Layout

    def report(self) -> GradientFlow:
        """The verdicts.

        Raises:
          ArgumentError: this step was not sampled.
        """
        if not bool(self.sampled):
            raise ArgumentError(
                "FlowStats.report: nothing was sampled at this step (`when` was false); look at `stats.sampled` first."
                f"{at(caller_source())}"
            )
        entries = [(read_label(text), np.asarray(x)) for text, x in zip(self.labels, self.scopes, strict=True)]
        return report(self.layout, np.asarray(self.parameters), [(*read, x) for read, x in entries if read])


tree_util.register_dataclass(FlowStats, ["sampled", "parameters", "scopes"], ["labels", "layout"])


def flow_stats(
    loss: Callable[..., Any],
    has_aux: bool = False,
    update: Callable[[Any], Any] | None = None,
    when: Any = True,
) -> Callable[..., Any]:
    """`value_and_grad(loss)`, with statistics of the gradient's flow: one pass, inside jit.

    Args:
      loss: a function of `(params, *batch)` to a real scalar.
      has_aux: whether it returns `(scalar, aux)`.
      update: what the optimizer makes of the gradient, `gradient -> updates`, for the ratio of update to parameter;
        without it that is the gradient's.
      when: a boolean, or an array of one. Where it is false nothing but value and gradient is computed:
        `when=count % 10 == 0` samples every tenth step.
    Returns:
      A function of `(params, *batch)` that returns `(value, gradient, stats)`, or `((value, aux), gradient, stats)`;
      stats is a `FlowStats`, a pytree of arrays.
    Raises:
      DtypeError: a parameter has no derivatives, or the loss is no real scalar.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> @ft.jit
    ... def step(w, x, count):
    ...     loss = lambda w, x: fnp.mean((x @ w) ** 2)
    ...     value, gradient, stats = ft.debug.flow_stats(loss, when=count % 10 == 0)(w, x)
    ...     return w - 0.1 * gradient, stats
    >>> w, stats = step(fnp.ones(3), fnp.ones((4, 3)), 0)
    >>> bool(stats.sampled), stats.report().verdict
    (True, 'healthy')
    """
    return with_statistics("flow_stats", loss, has_aux, update, when)


def with_statistics(
    caller: str, loss: Callable[..., Any], has_aux: bool, update: Callable[[Any], Any] | None, when: Any = True
) -> Callable[..., Any]:
    """`flow_stats`, for the function of that name."""
    check_callable(caller, loss)

    @wraps(loss)
    def with_stats(*args: Any) -> Any:
        check_call(caller, loss, args, {}, first=True)
        params = args[0]
        leaves, tree = tree_util.tree_flatten(params)
        check_inputs(caller, [params], leaves, [0])
        traced, aux, _, n = trace_with_aux(caller, loss, args, has_aux, own_lines=True)
        check_output(caller, traced, n)
        program = instrumented(traced.program)
        c, m = len(traced.captures), len(program.outputs)
        names = leaf_names((params,), {}, parameter_names(loss)[:1])
        shape = layout(program, range(c, c + len(leaves)), names)
        moving = tuple([c <= i < c + len(leaves) for i in range(len(program.inputs))])
        program, labels = rewrites.collect(rewrites.pullback(program, moving))
        kept = [i for i, text in enumerate(labels) if read_label(text)]

        def sampled(*args: Any) -> Any:
            outputs = apply(program, [*traced.captures, *tree_util.tree_leaves(args)])
            gradient = outputs[m : m + len(leaves)]
            updates = gradient
            if update is not None:
                updates = tree_util.tree_leaves(update(tree_util.tree_unflatten(tree, gradient)))
            whole = trace(rows, [gradient, tree_util.tree_leaves(args[0]), updates], transform=caller)
            (table,) = apply(whole.program, [*gradient, *tree_util.tree_leaves(args[0]), *updates])
            found = outputs[m + len(leaves) :]
            stats = FlowStats(
                fnp.asarray(True), table, tuple([found[i] for i in kept]), tuple([labels[i] for i in kept]), shape
            )
            value = (outputs[0], aux.join(outputs[1:m])) if has_aux else outputs[0]
            return value, tree_util.tree_unflatten(tree, gradient), stats

        def plain(*args: Any) -> Any:
            value, gradient = value_and_grad(loss, has_aux=has_aux)(*args)
            found = program.out_avals[m + len(leaves) :]
            stats = FlowStats(
                fnp.asarray(False), fnp.zeros((len(leaves), 6), np.float32),
                tuple([fnp.zeros(found[i].shape, found[i].dtype) for i in kept]),
                tuple([labels[i] for i in kept]), shape,
            )  # fmt: skip
            return value, gradient, stats

        if when is True:
            return sampled(*args)
        return lax.cond(when, sampled, plain, *args)

    return with_stats


def rows(gradient: list[Any], params: list[Any], updates: list[Any]) -> Any:
    """The numbers about parameters, as in `FlowStats`."""
    return fnp.stack([
        fnp.concatenate([numbers(g), numbers(x)[:1], numbers(u)[:1]]).astype(np.float32)
        for g, x, u in zip(gradient, params, updates, strict=True)
    ])  # fmt: skip


def gradient_flow(
    loss: Callable[..., Any], has_aux: bool = False, update: Callable[[Any], Any] | None = None
) -> Callable[..., GradientFlow]:
    """Where a gradient vanishes, explodes or dies: a report on every parameter and every `named_scope`.

    Args:
      loss: a function of `(params, *batch)` to a real scalar.
      has_aux: whether it returns `(scalar, aux)`.
      update: as in `flow_stats`, which computes the same inside a jitted step.
    Returns:
      A function of `(params, *batch)` that returns a `GradientFlow`: `print` shows a table, `.plot(path)` draws it,
      `.rows` and `.to_dict()` are for programs.
    Raises:
      DtypeError: a parameter has no derivatives, or the loss is no real scalar.

    >>> import functrace as ft
    >>> from functrace import nn, numpy as fnp
    >>> def loss(params, x):
    ...     with ft.named_scope("hidden"):
    ...         h = nn.relu(x @ params["W"] - 9.0)
    ...     return fnp.mean((h @ params["v"] - 1.0) ** 2)
    >>> flow = ft.debug.gradient_flow(loss)({"W": fnp.ones((3, 4)), "v": fnp.ones(4)}, fnp.ones((8, 3)))
    >>> flow.verdict, flow.begins
    ('dead', 'hidden')
    """
    whole = with_statistics("gradient_flow", loss, has_aux, update)

    @wraps(loss)
    def reported(*args: Any) -> GradientFlow:
        return whole(*args)[2].report()

    return reported
