"""Sparse Jacobians: the pattern is found in the Program, colours say which columns or rows are computed together.

sparsity : (a -> b) -> a -> pattern of (b <- a)

The pattern and its colours are found when the function is traced, and kept with its Program; then a Jacobian is one
Program: the linearization, its linear half for each colour, and a gather of the entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax import numpy as jnp, tree_util
from scipy import sparse

from functrace import rewrites
from functrace.errors import ArgumentError, DtypeError
from functrace.foreign import import_function
from functrace.ir import Aval, Builder, Program, is_complex
from functrace.ir.dependence import Matrix, Unbounded, nothing, stacked
from functrace.ir.source import caller_source
from functrace.rewrites.memo import copy_input, memoised, scatter, select
from functrace.rewrites.pattern import pattern
from functrace.sparse import Coloring, color_sides, color_symmetric
from functrace.tracing import apply, aval_of
from functrace.tracing.trace import Traced
from functrace.tracing.tracer import Tracer, at
from functrace.transforms.arguments import check_callable, closed_over, leaf_label, positions
from functrace.transforms.auxiliary import trace_with_aux
from functrace.transforms.grad import check_inputs, check_output

FORMATS = ("bcoo", "scipy")


class Plan(NamedTuple):
    """The pattern of a Program, its colours, and which leaves of result and argument each part belongs to."""

    matrix: Matrix
    colorings: tuple[Coloring, ...]
    unbounded: tuple[Unbounded, ...]
    rows: tuple[Aval, ...]
    columns: tuple[Aval, ...]
    blocks: dict[tuple[int, int], Block]
    seeds: Any

    @property
    def is_bounded(self) -> bool:
        """Whether the colours save anything, or nothing but the function itself stands in their way."""
        return not self.unbounded or self.count < min(self.matrix.shape)

    @property
    def count(self) -> int:
        """How many products there are."""
        return sum([c.count for c in self.colorings])


class Block(NamedTuple):
    """The derivative of one leaf of the result in one of the argument: its entries, and where they are computed."""

    rows: np.ndarray[Any, Any]
    columns: np.ndarray[Any, Any]
    index: Any
    indices: Any
    tree: Any


def sparse_jacobian(
    transform: str, fun: Callable[..., Any], args: Any, kwargs: Any, argnums: Any, has_aux: bool, holomorphic: bool,
    fmt: str, symmetric: bool, dense: Callable[[], Any] | None,
) -> Any:  # fmt: skip
    """The sparse Jacobian of `fun` at its arguments, of its gradient if `symmetric`; `dense()` where that is no use."""
    traced, aux, out_tree, chosen, program, outputs = _traced(
        transform, fun, args, kwargs, argnums, has_aux, holomorphic, symmetric
    )
    xs, in_tree = tree_util.tree_flatten(tuple(chosen))
    moving = (False,) * len(traced.captures) + (True,) * len(xs)
    plan = planned(program, moving, outputs, traced.captures, symmetric)
    if not plan.is_bounded:
        if dense is not None:
            return dense()
        raise ArgumentError(
            f"{transform}: sparse=True would save nothing: the pattern of the {plan.matrix.shape[0]} x "
            f"{plan.matrix.shape[1]} matrix needs {plan.count} products, because\n"
            f"{reasons(plan.unbounded)}\nPass sparse='auto' to get a dense array where that is so, or sparse=False."
            f"{at(caller_source())}"
        )
    keys = list(plan.blocks)
    counts = tuple([plan.blocks[k].index.shape for k in keys])
    sides = tuple([(c.by_columns, c.count) for c in plan.colorings])
    whole = compressed(program, moving, outputs, sides, counts, tuple(keys))
    made = apply(whole, [*traced.captures, *xs, *plan.seeds, *[plan.blocks[k].index for k in keys]])
    rest, data = made[: len(made) - len(keys)], dict(zip(keys, made[len(made) - len(keys) :], strict=True))
    parts = {k: _assembled(transform, plan, k, data[k], fmt) for k in keys}
    rows = [
        _as_argument(tree_util.tree_unflatten(in_tree, [parts[i, j] for j in range(len(xs))]), argnums)
        for i in range(len(plan.rows))
    ]
    if symmetric:  # the rows are those of the gradient, which has the structure of the argument
        result = _as_argument(tree_util.tree_unflatten(in_tree, rows), argnums)
    else:
        result = tree_util.tree_unflatten(out_tree, rows)
    return (result, aux.join(rest)) if has_aux else result


def _traced(
    transform: str, fun: Any, args: Any, kwargs: Any, argnums: Any, has_aux: bool, holomorphic: bool, symmetric: bool
) -> tuple[Traced, Any, Any, Any, Program, int]:
    """The trace, and the Program whose first outputs, so many, are differentiated; aux is behind them."""
    numbers = positions(transform, argnums, len(args))
    chosen = [args[i] for i in numbers]
    xs = tree_util.tree_leaves(tuple(chosen))
    check_inputs(transform, chosen, xs, numbers, holomorphic, False)
    for i, x in enumerate(xs):
        if not holomorphic and is_complex(aval_of(x).dtype):
            raise DtypeError(
                f"{transform}: {leaf_label(chosen, i, numbers)} is complex; pass holomorphic=True, or use jvp."
                f"{at(caller_source())}"
            )
    traced, aux, out_tree, n = trace_with_aux(transform, closed_over(fun, args, numbers, kwargs), chosen, has_aux)
    program = traced.program
    if not symmetric:
        return traced, aux, out_tree, chosen, program, n
    check_output(transform, traced, n, holomorphic)
    moving = (False,) * len(traced.captures) + (True,) * len(xs)
    return traced, aux, out_tree, chosen, gradient_first(program, moving), len(xs)


@memoised
def gradient_first(program: Program, moving: tuple[bool, ...]) -> Program:
    """`x -> (gradient, aux)` of `x -> (y, aux)`."""
    m = len(program.outputs)
    both = rewrites.gradient(program, moving)
    return Program(both.inputs, both.equations, (*both.outputs[m:], *both.outputs[1:m]))


def _as_argument(tree: Any, argnums: Any) -> Any:
    return tree[0] if isinstance(argnums, int) else tree


def planned(program: Program, moving: tuple[bool, ...], outputs: int, captures: Sequence[Any], symmetric: bool) -> Plan:
    """The plan for a Program, made once for each value of what it captured."""
    absent = Tracer | jax.core.Tracer | jax.ShapeDtypeStruct
    known = [None if isinstance(x, absent) else np.asarray(x) for x in captures]
    key = (planned, moving, outputs, symmetric, tuple([None if x is None else digest(x) for x in known]))
    if key not in program.memo:
        with jax.ensure_compile_time_eval():
            program.memo[key] = plan(program, moving, outputs, known, symmetric)
    return program.memo[key]


def digest(x: np.ndarray[Any, Any]) -> bytes:
    """What tells arrays of one type apart."""
    return hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16).digest()


def plan(program: Program, moving: tuple[bool, ...], outputs: int, known: Sequence[Any], symmetric: bool) -> Plan:
    """Find the pattern, colour it, and cut it into the leaves of result and argument."""
    first = Program(program.inputs, program.equations, program.outputs[:outputs])
    found = pattern(first, moving, [*known, *[None] * (len(moving) - len(known))])
    rows, columns = first.out_avals, tuple([v.aval for v in select(moving, first.inputs)])
    width = sum([a.size for a in columns])
    parts = [nothing(a.size, width) if p is None else p for a, p in zip(rows, found.outputs, strict=True)]
    matrix = stacked(parts, width)
    matrix.sort_indices()
    colorings = (color_symmetric(matrix),) if symmetric else color_sides(matrix)
    moved = tuple([p is not None for p in found.outputs])
    kept = np.repeat(moved, [a.size for a in rows])
    seeds, flat, start = [], [], 0
    for c in colorings:
        if c.by_columns:
            seeds += seeds_of(c, columns)
        else:  # results without a derivative have no cotangent
            seeds += seeds_of(c._replace(colors=c.colors[kept]), select(moved, rows))
        length = matrix.shape[0] if c.by_columns else width
        flat.append(start + c.color.astype(np.int64) * length + c.place)
        start += c.count * length
    at_rows, at_columns, index = (
        np.concatenate(x) for x in ([c.rows for c in colorings], [c.columns for c in colorings], flat)
    )
    order = np.lexsort((at_columns, at_rows))
    at_rows, at_columns, index = at_rows[order], at_columns[order], index[order].astype(np.int32)
    blocks = {}
    row_starts, column_starts = (np.cumsum([0, *[a.size for a in side]]) for side in (rows, columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            own = (
                (at_rows >= row_starts[i]) & (at_rows < row_starts[i + 1])
                & (at_columns >= column_starts[j]) & (at_columns < column_starts[j + 1])
            )  # fmt: skip
            own_rows, own_columns = at_rows[own] - row_starts[i], at_columns[own] - column_starts[j]
            blocks[i, j] = block(row, column, own_rows, own_columns, index[own])
    return Plan(matrix, colorings, found.unbounded, rows, columns, blocks, seeds)


def seeds_of(coloring: Coloring, avals: Sequence[Aval]) -> list[Any]:
    """The seeds of all colours, for leaves of these types."""
    found, start = [], 0
    for a in avals:
        part = coloring.seeds(a.dtype)[:, start : start + a.size]
        found.append(jnp.asarray(part.reshape(coloring.count, *a.shape)))
        start += a.size
    return found


def block(row: Aval, column: Aval, rows: Any, columns: Any, index: Any) -> Block:
    """The entries of one part, and the structure of their BCOO."""
    sides = (rows, row.shape), (columns, column.shape)
    places = [along for at, shape in sides if shape for along in np.unravel_index(at, shape)]
    indices = jnp.asarray(np.stack(places, 1) if places else np.zeros((rows.size, 0)), np.int32)
    data = jnp.zeros(rows.size, row.dtype)
    # Imported here: it takes a tenth of a second, which nobody else should pay.
    from jax.experimental.sparse import BCOO

    like = BCOO((data, indices), shape=(*row.shape, *column.shape), indices_sorted=True, unique_indices=True)
    return Block(rows, columns, jnp.asarray(index), indices, tree_util.tree_structure(like))


@memoised
def compressed(
    program: Program, moving: tuple[bool, ...], outputs: int, sides: tuple[tuple[bool, int], ...], counts: Any,
    keys: Any,
) -> Program:  # fmt: skip
    """`(x, seeds of each side, index of each block) -> (further outputs, entries of each block)`."""
    first = Program(program.inputs, program.equations, program.outputs[:outputs])
    lin = rewrites.linearize(first, moving)
    given, asked = select(moving, first.inputs), select(lin.moved, first.outputs)
    fixed = (False,) * lin.residuals
    with Builder() as b:
        xs = [copy_input(b, v) for v in program.inputs]
        halves = []
        for by_columns, n in sides:
            if by_columns:
                half, seeded, made, avals = lin.linear, given, lin.moved, first.out_avals
            else:
                half, made = rewrites.transpose(lin.linear, fixed + (True,) * len(given), (True,) * len(asked))
                seeded, avals = asked, [x.aval for x in given]
            batched, _ = rewrites.batch(half, n, fixed + (True,) * len(seeded), None, True)
            seeds = [b.input(v.aval.strong().with_shape((n, *v.aval.shape))) for v in seeded]
            halves.append((batched, seeds, [a.with_shape((n, *a.shape)) for a in avals], made))
        index = [b.input(Aval(shape, np.int32)) for shape in counts]
        values = b.inline(lin.forward, xs)
        rest = b.inline(program, xs)[outputs:]
        residuals = values[len(values) - lin.residuals :]
        dtypes = [first.outputs[i].aval.dtype for i, _ in keys]
        products = []  # None where one is zero
        for batched, seeds, _, made in halves:
            products += scatter(made, b.inline(batched, [*residuals, *seeds]))
        there = [p for p in products if p is not None]

        def entries(*operands: Any) -> list[Any]:
            parts, index = iter(operands[: len(there)]), operands[len(there) :]
            dtype = jnp.result_type(*[p.aval.dtype for p in there], *dtypes)
            whole, start = [], 0
            for (_, n), (_, _, avals, _) in zip(sides, halves, strict=True):
                side = products[start : start + len(avals)]
                flat = [
                    jnp.zeros((n, a.size // n if n else 0), dtype) if p is None else next(parts).reshape(n, -1)
                    for p, a in zip(side, avals, strict=True)
                ]
                whole.append(jnp.concatenate(flat, 1).ravel() if len(flat) > 1 else flat[0].ravel())
                start += len(avals)
            flat = jnp.concatenate(whole) if len(whole) > 1 else whole[0]
            read = lambda i: flat.at[i].get(mode="promise_in_bounds", wrap_negative_indices=False)
            picked = [read(i) if i.size else jnp.zeros(0, dtype) for i in index]
            return [x.astype(d) for x, d in zip(picked, dtypes, strict=True)]

        picking = import_function(entries, *[x.aval for x in (*there, *index)])
        assert not picking.constants
        return b.build([*rest, *b.inline(picking.program, [*there, *index])])


def _assembled(transform: str, plan: Plan, key: tuple[int, int], data: Any, fmt: str) -> Any:
    part = plan.blocks[key]
    if fmt == "bcoo":
        return tree_util.tree_unflatten(part.tree, [data, part.indices])
    if isinstance(data, Tracer | jax.core.Tracer):
        raise DtypeError(
            f"{transform}: format='scipy' makes a matrix of numbers, and this one is being traced (jit, vmap, grad); "
            f"use format='bcoo' there.{at(caller_source())}"
        )
    row, column = plan.rows[key[0]], plan.columns[key[1]]
    starts = np.searchsorted(part.rows, np.arange(row.size + 1))
    return sparse.csr_array((np.asarray(data), part.columns, starts), shape=(row.size, column.size))


def check_sparse(transform: str, option: Any, fmt: Any) -> None:
    """Refuse other values of `sparse` and `format` than there are."""
    if option not in (False, True, "auto"):
        raise ArgumentError(f"{transform}: sparse must be True, False or 'auto', got {option!r}.{at(caller_source())}")
    if fmt not in FORMATS:
        options = " or ".join(map(repr, FORMATS))
        raise ArgumentError(f"{transform}: format must be {options}, got {fmt!r}.{at(caller_source())}")


def reasons(unbounded: Sequence[Unbounded], most: int = 5) -> str:
    """The reasons, a line each."""
    lines = [f"  {u}" for u in unbounded[:most]]
    return "\n".join([*lines, *([f"  and {len(unbounded) - most} more"] if len(unbounded) > most else [])])


class Sparsity(NamedTuple):
    """The pattern of a Jacobian, and how its columns or rows are coloured.

    `rows` and `columns` are those of the entries that may differ from zero; `unbounded` says which equations may have
    made them more than need be; all entries take so many pushforwards and pullbacks.
    """

    shape: tuple[int, int]
    rows: np.ndarray[Any, Any]
    columns: np.ndarray[Any, Any]
    pushforwards: int
    pullbacks: int
    unbounded: tuple[Unbounded, ...]

    @property
    def colors(self) -> int:
        """How many products give all entries."""
        return self.pushforwards + self.pullbacks

    @property
    def nnz(self) -> int:
        """How many entries may differ from zero."""
        return len(self.rows)

    @property
    def density(self) -> float:
        """The part of all entries that may differ from zero."""
        return self.nnz / max(self.shape[0] * self.shape[1], 1)

    @property
    def pattern(self) -> Any:
        """The pattern as a boolean `scipy.sparse.csr_array`."""
        return sparse.csr_array((np.ones(self.nnz, bool), (self.rows, self.columns)), shape=self.shape)

    def __str__(self) -> str:
        kinds = [f"{self.pushforwards} pushforwards (columns)"] if self.pushforwards or not self.pullbacks else []
        kinds += [f"{self.pullbacks} pullbacks (rows)"] if self.pullbacks else []
        text = f"{self.shape[0]} x {self.shape[1]}, {self.nnz} entries ({self.density:.3g}), {' and '.join(kinds)}"
        return f"{text}; wider than need be because of\n{reasons(self.unbounded)}" if self.unbounded else text

    def plot(self, path: Any) -> None:
        """Write a picture of the pattern to a file, a dot an entry.

        Raises:
          ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("Sparsity.plot needs matplotlib: pip install 'functrace[examples]'") from error
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        size = max(0.2, min(9.0, 40_000 / max(*self.shape, 1) ** 2))
        axes.scatter(self.columns, self.rows, s=size, marker="s", linewidths=0)
        axes.set(xlim=(-0.5, self.shape[1] - 0.5), ylim=(self.shape[0] - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="entry of the argument", ylabel="entry of the result", title=str(self).split(";")[0])
        figure.savefig(path)


def sparsity(fun: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Sparsity]:
    """The pattern of the Jacobian of `fun`: which entries of its result may depend on which of its argument.

    Entries of several leaves follow one another, each leaf row by row.

    Args:
      fun: a pure function of pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
    Returns:
      A function with the arguments of `fun` (arrays, or anything with their shape and dtype) that returns a `Sparsity`:
      shape, nnz, density, the entries, how many products give all of them, and `plot(path)`.

    >>> import functrace as ft, numpy as np
    >>> print(ft.sparsity(lambda x: x[1:] * x[:-1])(np.ones(5)))
    4 x 5, 8 entries (0.4), 2 pushforwards (columns)
    """
    check_callable("sparsity", fun)

    def sparsity_fun(*args: Any, **kwargs: Any) -> Sparsity:
        holomorphic = any([is_complex(aval_of(x).dtype) for x in tree_util.tree_leaves(args)])
        traced, _, _, chosen, program, n = _traced("sparsity", fun, args, kwargs, argnums, False, holomorphic, False)
        xs = tree_util.tree_leaves(tuple(chosen))
        moving = (False,) * len(traced.captures) + (True,) * len(xs)
        found = planned(program, moving, n, traced.captures, False)
        back = sum([c.count for c in found.colorings if not c.by_columns])
        rows, columns = found.matrix.nonzero()
        return Sparsity(found.matrix.shape, rows, columns, found.count - back, back, found.unbounded)

    return sparsity_fun
