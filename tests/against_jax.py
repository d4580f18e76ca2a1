"""A function of both libraries under every transform: rows of operands, and the checks that hold for each row."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

import functrace as ft
from functrace import numpy as fnp

FIRST = ("value", "jvp", "vjp", "vmap", "jit")
SECOND = ("grad of grad", "vmap of grad", "grad of vmap")
THIRD = ("hessian", "reverse over reverse", "third derivative", "vmap of hessian", "jvp of vmap of grad")
# Most of a test's time is XLA's, and what it makes runs once.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
AS_USERS_DO = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
TOLERANCE = {"bfloat16": 4e-2, "float16": 4e-3, "float32": 2e-5, "complex64": 2e-5}  # of the largest entry


class Operand(NamedTuple):
    """An array to draw: `draw(rng, shape)`; those of kind "f" take the dtype under test and are differentiated."""

    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...]], Any]
    kind: str = "f"


def normal(*shape: int) -> Operand:
    return Operand(shape, lambda rng, s: rng.standard_normal(s))


def uniform(low: float, high: float, *shape: int) -> Operand:
    return Operand(shape, lambda rng, s: rng.uniform(low, high, s))


def positive(*shape: int) -> Operand:
    return uniform(0.5, 2.0, *shape)


def distinct(*shape: int) -> Operand:
    """Entries far apart from each other and from integers."""
    return Operand(shape, lambda rng, s: rng.permutation(np.arange(np.prod(s, dtype=int))).reshape(s) * 0.7 - 1.3)


def definite(n: int) -> Operand:
    """A symmetric positive definite matrix."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        a = rng.standard_normal(shape)
        square = len(shape) == 2 and shape[0] == shape[1]
        return a @ a.T + 2 * np.eye(*shape) if square else a

    return Operand((n, n), draw)


def regular(n: int) -> Operand:
    """A matrix far from singular, with eigenvalues far apart."""
    spread = np.diag(3.0 * np.arange(1, n + 1))
    return Operand((n, n), lambda rng, s: rng.standard_normal(s) + (spread if s == (n, n) else 0))


def integers(high: int, *shape: int) -> Operand:
    return Operand(shape, lambda rng, s: rng.integers(0, high, s), "i")


def booleans(*shape: int) -> Operand:
    return Operand(shape, lambda rng, s: rng.integers(0, 2, s).astype(bool), "b")


def as_drawn(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def empty(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first axis without entries."""
    return (0, *shape[1:]) if shape else shape


def scalar(shape: tuple[int, ...]) -> tuple[int, ...]:
    return ()


class Row(NamedTuple):
    """A function of both libraries, by its names, with arguments that are operands to draw or static values."""

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call: Callable[..., Any] | None
    refused: tuple[str, ...]
    dtypes: tuple[str, ...] | None
    looser: float
    eager: bool
    options: dict[str, Any]


def row(
    names: str, *args: Any, call: Any = None, refused: tuple[str, ...] = (), dtypes: tuple[str, ...] | None = None,
    looser: float = 1.0, eager: bool = False, options: Any = QUICKLY, **kwargs: Any,
) -> Row:  # fmt: skip
    """A Row.

    Args:
      names: the function, and its other names.
      args, kwargs: its arguments.
      call: `call(f, *args, **kwargs)`, where it is not `f(*args, **kwargs)`.
      refused: checks that JAX refuses; functrace need not.
      dtypes: the types that JAX takes, where those are not all.
      looser: factor of the tolerance.
      eager: compute outside of jax.jit, which some functions refuse to be under.
      options: those of jax.jit. Under QUICKLY JAX's rule for max and min, which asks whether an operand equals the
        result, finds none that does where XLA has computed an operand twice, in two roundings.
    """
    return Row(tuple(names.split()), args, kwargs, call, refused, dtypes, looser, eager, options)


class Library(NamedTuple):
    """Transforms, their numpy, and the module that holds the functions of a table."""

    transforms: Any
    numpy: Any
    functions: Any


def is_operand(x: Any) -> bool:
    return isinstance(x, Operand)


class Case:
    """A Row with its operands drawn at a dtype; `shape` says what each operand's shape becomes."""

    def __init__(self, row: Row, dtype: str, shape: Callable[[tuple[int, ...]], tuple[int, ...]] = as_drawn):
        self.row = row
        self.seed = zlib.crc32(row.names[0].encode())
        self.leaves, self.tree = jax.tree.flatten((row.args, row.kwargs), is_leaf=lambda x: is_operand(x) or x is None)
        self.dtype = np.dtype(getattr(jnp, dtype))
        self.moving = [i for i, x in enumerate(self.leaves) if is_operand(x) and x.kind == "f"]
        self.shape = shape
        first, second, dx = [self.draw(seed) for seed in range(3)]
        self.fixed = first
        self.xs = [first[i] for i in self.moving]
        self.batch = [np.stack([first[i], second[i]]) for i in self.moving]
        self.dxs = [dx[i] for i in self.moving]

    def draw(self, seed: int) -> list[Any]:
        rng = np.random.default_rng([self.seed, seed])
        return [self.draw_one(rng, x) if is_operand(x) else x for x in self.leaves]

    def draw_one(self, rng: np.random.Generator, x: Operand) -> Any:
        shape = self.shape(x.shape)
        value = x.draw(rng, shape)
        if x.kind != "f":
            return np.asarray(value, np.int32 if x.kind == "i" else bool)
        if self.dtype.kind == "c":
            value = value + 0.3j * rng.standard_normal(shape)
        return np.asarray(value).astype(self.dtype)

    def function(self, library: Library, name: str) -> Callable[..., Any]:
        """The row's function of the operands that move, to the leaves of its result."""
        f = operator.attrgetter(name)(library.functions)

        def of_moving(*xs: Any) -> list[Any]:
            leaves = list(self.fixed)
            for i, x in zip(self.moving, xs, strict=True):
                leaves[i] = x
            args, kwargs = jax.tree.unflatten(self.tree, leaves)
            return jax.tree.leaves(self.row.call(f, *args, **kwargs) if self.row.call else f(*args, **kwargs))

        return of_moving


def weights(y: Any) -> Any:
    """Fixed cotangents of the type of `y`."""
    w = np.cos(np.arange(y.size) + 0.5).reshape(y.shape)
    return (w * (1 + 0.5j) if y.dtype.kind == "c" else w).astype(y.dtype)


def is_inexact(y: Any) -> bool:
    return jnp.issubdtype(getattr(y, "dtype", np.int32), np.inexact)


def compute(check: str, library: Library, f: Callable[..., Any], case: Case, xs: Any, dxs: Any, batch: Any) -> Any:
    """What `check` is of `f`, in the terms of one library."""
    t, real = library.transforms, library.numpy.real
    argnums = tuple(range(len(xs)))

    def moved(*xs: Any) -> Any:
        return [y for y in f(*xs) if is_inexact(y)]

    def scalar(*xs: Any) -> Any:
        return sum(real(y * weights(y)).sum() for y in moved(*xs))

    def along(*xs: Any) -> Any:
        return sum(real(g * weights(g)).sum() for g in t.grad(scalar, argnums)(*xs))

    match check:
        case "value":
            return f(*xs)
        case "jvp":
            return t.jvp(moved, tuple(xs), tuple(dxs))
        case "vjp":
            ys, pullback = t.vjp(moved, *xs)
            return pullback([weights(y) for y in ys])
        case "vmap":
            return t.vmap(f)(*batch)
        case "jit":
            return t.jit(f)(*xs)
        case "grad of grad":
            return t.grad(along, argnums)(*xs)
        case "vmap of grad":
            return t.vmap(t.grad(scalar, argnums))(*batch)
        case "grad of vmap":
            return t.grad(lambda *xs: t.vmap(scalar)(*xs).sum(), argnums)(*batch)
        case "hessian":
            return t.jacfwd(t.jacrev(scalar, argnums), argnums)(*xs)
        case "reverse over reverse":
            return t.jacrev(t.jacrev(scalar, argnums), argnums)(*xs)
        case "third derivative":
            return t.jvp(t.grad(along, argnums), tuple(xs), tuple(dxs))
        case "vmap of hessian":
            return t.vmap(t.jacfwd(t.jacrev(scalar, argnums), argnums))(*batch)
        case "jvp of vmap of grad":
            return t.jvp(lambda *xs: t.vmap(t.grad(scalar, argnums))(*xs), tuple(batch), tuple(batch))
    raise AssertionError(check)


def differences(theirs: Library, ours: Library, cases: list[tuple[str, Case]], checks: tuple[str, ...]) -> list[str]:
    """The checks in which the libraries disagree, one line each; all cases are compiled at once."""
    found: list[str] = []
    operands = [(case.xs, case.dxs, case.batch) for _, case in cases]

    def both(operands: Any) -> Any:
        results = {}
        for (label, case), values in zip(cases, operands, strict=True):
            name = case.row.names[0]
            for check in checks if case.xs else ("value",):
                try:
                    expected = compute(check, theirs, case.function(theirs, name), case, *values)
                except Exception as error:  # whatever JAX refuses, functrace must refuse
                    found.extend(refusal(f"{label} {check}", error, ours, case, check, values))
                    continue
                if check in case.row.refused:
                    found.append(f"{label} {check}: JAX does not refuse it")
                try:
                    results[label, check] = expected, compute(check, ours, case.function(ours, name), case, *values)
                except Exception as error:  # one line of the report
                    found.append(f"{label} {check}: {type(error).__name__}: {error}")
        return results

    results: dict[Any, Any] = {}
    structure: list[Any] = []

    def flat(operands: Any) -> Any:
        leaves, tree = jax.tree.flatten(both(operands))
        structure.append(tree)
        return leaves

    of = cases[0][1].row  # the cases are of one row
    leaves = flat(operands) if of.eager else jax.jit(flat, compiler_options=of.options)(operands)
    results = jax.tree.unflatten(structure[-1], leaves)
    for (label, check), (expected, got) in results.items():
        case = next(c for name, c in cases if name == label)
        found.extend(f"{label} {check}: {line}" for line in unequal(expected, got, case.row.looser))
    return found


def refusal(label: str, error: Exception, ours: Library, case: Case, check: str, values: Any) -> list[str]:
    """Nothing where the row expects that JAX refuses, or functrace refuses too at other shapes and types."""
    if check in case.row.refused:
        return []
    lines = []
    own = case.dtype == np.float32 and case.shape(()) == () and case.shape((1,)) == (1,)
    if own and case.row.dtypes is None:
        lines.append(f"{label}: JAX refuses the row: {type(error).__name__}: {str(error)[:200]}")
    try:
        compute(check, ours, case.function(ours, case.row.names[0]), case, *values)
    except Exception:  # refused here too
        return lines
    if isinstance(error, NotImplementedError):
        return lines
    return [*lines, f"{label}: JAX refuses ({type(error).__name__}: {str(error)[:80]}), functrace does not"]


def unequal(expected: Any, got: Any, looser: float) -> list[str]:
    """How two results differ in structure, type or value."""
    expected, got = jax.tree.leaves(expected), jax.tree.leaves(got)
    if len(expected) != len(got):
        return [f"{len(got)} arrays instead of {len(expected)}"]
    lines = []
    for a, b in zip(got, expected, strict=True):
        types = [(np.shape(x), jnp.asarray(x).dtype) for x in (a, b)]
        if types[0] != types[1]:
            lines.append(f"type {types[0]} instead of {types[1]}")
            continue
        a, b, name = np.asarray(a), np.asarray(b), types[0][1].name
        if not is_inexact(b):
            if not np.array_equal(a, b):
                lines.append(f"{a} instead of {b}")
            continue
        wide = np.complex128 if b.dtype.kind == "c" else np.float64
        a, b = a.astype(wide), b.astype(wide)
        finite = b[np.isfinite(b)]
        tolerance = looser * TOLERANCE.get(name, 1e-11)
        scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
            lines.append(f"{a} instead of {b}")
    return lines


def libraries(name: str) -> tuple[Library, Library]:
    """JAX's and functrace's module of this name."""
    find = operator.attrgetter(name)
    return Library(jax, jnp, find(jax)), Library(ft, fnp, find(ft))
