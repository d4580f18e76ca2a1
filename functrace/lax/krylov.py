"""A x = b for an A that is known by its products with vectors: cg, bicgstab, gmres.

Each is a loop on flat vectors inside `custom_linear_solve`, which gives it its derivative: another solve,
to the same relative tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax, numpy as jnp, tree_util
from jax.scipy.linalg import solve_triangular as jax_solve_triangular

from functrace.errors import ArgumentError, DtypeError, ShapeError
from functrace.ir.source import caller_source
from functrace.lax.implicit import custom_linear_solve, strong
from functrace.lax.loops import fori_loop, while_loop
from functrace.tracing import aval_of, lift
from functrace.tracing.tracer import at

HIGHEST = lax.Precision.HIGHEST
dot, vdot = lift(jnp.dot), lift(jnp.vdot)
eye, zeros, where = lift(jnp.eye), lift(jnp.zeros), lift(jnp.where)
maximum, minimum, sqrt, square = lift(jnp.maximum), lift(jnp.minimum), lift(jnp.sqrt), lift(jnp.square)
concatenate, take = lift(jnp.concatenate), lift(lax.dynamic_index_in_dim)
qr, solve_triangular = lift(jnp.linalg.qr), lift(jax_solve_triangular)
rsqrt = lift(lax.rsqrt)


def cg(
    A: Any, b: Any, x0: Any = None, *, tol: Any = 1e-5, atol: Any = 0.0, maxiter: int | None = None, M: Any = None
) -> tuple[Any, None]:
    """Solve A x = b for a hermitian positive definite A, by conjugate gradients.

    Args:
      A: a function `x -> A x` of pytrees like b, or a square matrix.
      b: the right side, a pytree of arrays.
      x0: where to start; by default zeros.
      tol, atol: it has converged when `norm(b - A x) <= max(tol * norm(b), atol)`.
      maxiter: most steps taken; by default ten times the number of unknowns. x is then the last one.
      M: a function or matrix that approximates the inverse of A.
    Returns:
      `(x, None)`. x is differentiable in b and in what A closes over, to any order.
    Raises:
      ShapeError, DtypeError: A is not square, or x0 is not like b.

    Reference: Hestenes and Stiefel (1952).

    >>> import functrace as ft, numpy as np
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> ft.scipy.sparse.linalg.cg(A, np.array([3.0, 4.0]))[0].round(3).tolist()
    [1.0, 1.0]
    """
    return iterative("cg", cg_steps, A, b, x0, M, tol, atol, maxiter, symmetric=True), None


def bicgstab(
    A: Any, b: Any, x0: Any = None, *, tol: Any = 1e-5, atol: Any = 0.0, maxiter: int | None = None, M: Any = None
) -> tuple[Any, None]:
    """Solve A x = b by stabilised biconjugate gradients; see `cg` for the arguments.

    Reference: van der Vorst, "Bi-CGSTAB" (1992).

    >>> import functrace as ft, numpy as np
    >>> A = np.array([[2.0, 1.0], [-1.0, 3.0]])
    >>> ft.scipy.sparse.linalg.bicgstab(A, np.array([3.0, 2.0]))[0].round(3).tolist()
    [1.0, 1.0]
    """
    return iterative("bicgstab", bicgstab_steps, A, b, x0, M, tol, atol, maxiter, symmetric=False), None


def gmres(
    A: Any, b: Any, x0: Any = None, *, tol: Any = 1e-5, atol: Any = 0.0, restart: int = 20,
    maxiter: int | None = None, M: Any = None, solve_method: str = "batched",
) -> tuple[Any, Any]:  # fmt: skip
    """Solve A x = b by generalised minimal residuals; A need have no symmetry.

    Args:
      A, b, x0, tol, atol, M: see `cg`.
      restart: products with A between two restarts; as many vectors are kept.
      maxiter: most restarts.
      solve_method: "batched" solves one least-squares problem at the end of each restart, "incremental"
        keeps its triangular factor at each step and stops there when it has converged.
    Returns:
      `(x, info)`, where info is 0, or -1 if x is NaN.

    Reference: Saad and Schultz, "GMRES" (1986).

    >>> import functrace as ft, numpy as np
    >>> A = np.array([[2.0, 1.0], [-1.0, 3.0]])
    >>> ft.scipy.sparse.linalg.gmres(A, np.array([3.0, 2.0]))[0].round(3).tolist()
    [1.0, 1.0]
    """
    if solve_method not in CYCLES:
        raise ArgumentError(
            f"gmres: solve_method must be 'batched' or 'incremental', got {solve_method!r}.{at(caller_source())}"
        )

    def steps(A: Any, b: Any, x0: Any, enough: Any, maxiter: int, M: Any) -> Any:
        return gmres_steps(A, b, x0, enough, maxiter, M, min(restart, b.size), CYCLES[solve_method])

    x = iterative("gmres", steps, A, b, x0, M, tol, atol, maxiter, symmetric=False)
    failed = sum([where(x != x, 1, 0).sum() for x in tree_util.tree_leaves(x)])
    return x, where(failed > 0, -1, 0)


def iterative(
    who: str, steps: Callable[..., Any], A: Any, b: Any, x0: Any, M: Any, tol: Any, atol: Any,
    maxiter: int | None, symmetric: bool,
) -> Any:  # fmt: skip
    """Run `steps(A, b, x0, enough, maxiter, M)` on flat vectors; `enough` is the norm to stop at."""
    product = linear_map(who, "A", A)
    precondition = None if M is None else linear_map(who, "M", M)
    b = strong(who, "b", b)
    if x0 is not None:
        check_start(who, x0, b)
    leaves = tree_util.tree_leaves(b)
    real = not any([aval_of(x).dtype.kind == "c" for x in leaves])
    turns = 10 * sum([aval_of(x).size for x in leaves]) if maxiter is None else maxiter

    def solve(matvec: Any, b: Any) -> Any:
        flat, restore = raveled(b)
        on_flat = lambda f: f and (lambda v: raveled(f(restore(v)))[0])
        start = zeros(flat.shape, flat.dtype) if x0 is None else raveled(x0)[0].astype(flat.dtype)
        enough = maximum(tol * norm(flat), atol)
        return restore(steps(on_flat(matvec), flat, start, enough, turns, on_flat(precondition) or identity))

    return custom_linear_solve(product, b, solve, solve, symmetric=symmetric and real)


def linear_map(who: str, name: str, A: Any) -> Callable[[Any], Any]:
    """The product with A, which is that function or a square matrix."""
    if callable(A):
        return A
    shape = getattr(A, "shape", None)
    if shape is None or not hasattr(A, "__matmul__"):
        raise DtypeError(f"{who}: {name} must be a function or a matrix, got {type(A).__name__}.{at(caller_source())}")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ShapeError(f"{who}: {name} must be a square matrix, got shape {tuple(shape)}.{at(caller_source())}")
    return lambda v: dot(A, v, precision=HIGHEST)


def check_start(who: str, x0: Any, b: Any) -> None:
    """The start must have the structure and shapes of b."""
    trees = [tree_util.tree_structure(x) for x in (x0, b)]
    shapes = [[aval_of(x).shape for x in tree_util.tree_leaves(tree)] for tree in (x0, b)]
    if trees[0] != trees[1] or shapes[0] != shapes[1]:
        raise ShapeError(
            f"{who}: x0 must have the structure and shapes of b.\n  b: {trees[1]}, shapes {shapes[1]}\n  x0: "
            f"{trees[0]}, shapes {shapes[0]}{at(caller_source())}"
        )


def raveled(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The leaves one after the other in a vector, and the inverse of that."""
    leaves, structure = tree_util.tree_flatten(tree)
    shapes, dtypes = [x.shape for x in leaves], [x.dtype for x in leaves]
    ends = np.cumsum([math.prod(s) for s in shapes])

    def restore(v: Any) -> Any:
        pieces = [v] if len(shapes) == 1 else [v[end - math.prod(s) : end] for s, end in zip(shapes, ends, strict=True)]
        parts = [
            (p.real if v.dtype.kind == "c" and d.kind != "c" else p).reshape(s).astype(d)
            for p, s, d in zip(pieces, shapes, dtypes, strict=True)
        ]
        return tree_util.tree_unflatten(structure, parts)

    flat = [x.reshape(-1) for x in leaves]
    return flat[0] if len(flat) == 1 else concatenate(flat), restore


def identity(x: Any) -> Any:
    """No preconditioner."""
    return x


def inner(x: Any, y: Any) -> Any:
    """The inner product of two vectors, to full precision."""
    return vdot(x, y, precision=HIGHEST)


def norm(x: Any) -> Any:
    """The length of a vector, real."""
    return sqrt(inner(x, x).real)


def unless_nan(x: Any, r: Any) -> Any:
    """`x`, or NaN if its residual is, at which a loop ends as if it had converged."""
    return where(norm(r) < np.inf, x, np.nan)


def cg_steps(A: Any, b: Any, x0: Any, enough: Any, maxiter: int, M: Any) -> Any:
    """Preconditioned conjugate gradients."""

    def going(state: Any) -> Any:
        k, _, r, _, _ = state
        return (norm(r) > enough) & (k < maxiter)

    def step(state: Any) -> Any:
        k, x, r, p, gamma = state
        Ap = A(p)
        alpha = gamma / inner(p, Ap)
        r = r - alpha * Ap
        z = M(r)
        after = inner(r, z)
        return k + 1, x + alpha * p, r, z + after / gamma * p, after

    r = b - A(x0)
    z = M(r)
    _, x, r, _, _ = while_loop(going, step, (0, x0, r, z, inner(r, z)))
    return unless_nan(x, r)


def bicgstab_steps(A: Any, b: Any, x0: Any, enough: Any, maxiter: int, M: Any) -> Any:
    """Preconditioned BiCGSTAB; a breakdown ends it."""

    def going(state: Any) -> Any:
        k, whole, _, r, *_ = state
        return whole & (norm(r) > enough) & (k < maxiter)

    def step(state: Any) -> Any:
        k, _, x, r, p, q, rho, alpha, omega = state
        before, rho = rho, inner(shadow, r)
        p = r + rho / before * (alpha / omega) * (p - omega * q)
        p_hat = M(p)
        q = A(p_hat)
        alpha = rho / inner(shadow, q)
        s = r - alpha * q
        half = norm(s) <= enough
        s_hat = M(s)
        t = A(s_hat)
        omega = inner(t, s) / inner(t, t)
        x = x + alpha * p_hat + where(half, 0, omega * s_hat)
        r = where(half, s, s - omega * t)
        whole = half | ((omega != 0) & (alpha != 0) & (rho != 0))
        return k + 1, whole, x, r, p, q, rho, alpha, omega

    shadow = b - A(x0)
    one = inner(shadow, shadow) * 0 + 1
    _, _, x, r, *_ = while_loop(going, step, (0, True, x0, shadow, shadow, shadow, one, one, one))
    return unless_nan(x, r)


def gmres_steps(
    A: Any, b: Any, x0: Any, enough: Any, maxiter: int, M: Any, restart: int, cycle: Callable[..., Any]
) -> Any:
    """GMRES with restarts; the residuals are those of the preconditioned system M A x = M b."""

    def going(state: Any) -> Any:
        k, _, r = state
        return (norm(r) > residual) & (k < maxiter)

    def step(state: Any) -> Any:
        k, x, r = state
        x = x + cycle(lambda v: M(A(v)), r, residual, restart)
        return k + 1, x, M(b - A(x))

    size = norm(b)
    residual = norm(M(b)) * minimum(1.0, enough / where(size > 0, size, 1))
    _, x, r = while_loop(going, step, (0, x0, M(b - A(x0))))
    return unless_nan(x, r)


def arnoldi_step(A: Any, k: Any, V: Any) -> tuple[Any, Any, Any]:
    """The product with row k of V, made orthogonal to all rows: V with it, its coefficients, whether it was new."""
    v = A(row(V, k))
    length, h = norm(v), zeros(V.shape[0], V.dtype)
    for _ in range(2):  # once leaves rounding errors of the size of v; twice is enough (Giraud et al., 2005)
        part = dot(V.conj(), v, precision=HIGHEST)
        v, h = v - dot(part, V, precision=HIGHEST), h + part
    rest = norm(v)
    is_new = rest > length * np.finfo(V.dtype).eps
    v = where(is_new, v / where(is_new, rest, 1), 0).astype(V.dtype)
    return V.at[k + 1].set(v), h.at[k + 1].set(where(is_new, rest, 0).astype(V.dtype)), is_new


def row(x: Any, k: Any) -> Any:
    """Row k, which may be a tracer."""
    return take(x, k, 0, False)


def first_vector(r: Any, restart: int) -> tuple[Any, Any]:
    """The rows of V, the first of them r to length one, and that length."""
    size = norm(r)
    unit = (r / where(size > 0, size, 1)).astype(r.dtype)
    return zeros((restart + 1, r.size), r.dtype).at[0].set(unit), size.astype(r.dtype)


def batched_cycle(A: Any, r: Any, enough: Any, restart: int) -> Any:
    """The x with the smallest r - A x in the Krylov space: one least-squares problem for all of the space."""

    def step(state: Any) -> Any:
        k, _, V, H = state
        V, h, is_new = arnoldi_step(A, k, V)
        return k + 1, is_new, V, H.at[k].set(h)

    V, size = first_vector(r, restart)
    H = eye(restart, restart + 1, dtype=r.dtype)  # rows that are never reached leave the system regular
    going = lambda state: state[1] & (state[0] < restart)
    _, _, V, H = while_loop(going, step, (0, True, V, H))
    Q, R = qr(H.T)
    return dot(solve_triangular(R, Q[0].conj() * size), V[:-1], precision=HIGHEST)


def incremental_cycle(A: Any, r: Any, enough: Any, restart: int) -> Any:
    """The same, with the triangular factor kept by rotations, which tell the residual at each step."""

    def step(state: Any) -> Any:
        k, _, V, R, rotations, g = state
        V, h, _ = arnoldi_step(A, k, V)
        h = fori_loop(0, k, lambda i, h: rotated(row(rotations, i), h, i), h)
        turn = rotation(row(h, k), row(h, k + 1))
        g = rotated(turn, g, k)
        return k + 1, abs(row(g, k + 1)), V, R.at[k].set(rotated(turn, h, k)), rotations.at[k].set(turn), g

    V, size = first_vector(r, restart)
    R = eye(restart, restart + 1, dtype=r.dtype)
    g = zeros(restart + 1, r.dtype).at[0].set(size)
    going = lambda state: (state[0] < restart) & (state[1] > enough)
    _, _, V, R, _, g = while_loop(going, step, (0, size.real, V, R, zeros((restart, 2), r.dtype), g))
    # Unknowns of steps not taken are not read: their rows of V are zero.
    return dot(solve_triangular(R[:, :-1].T, g[:-1]), V[:-1], precision=HIGHEST)


def rotation(a: Any, b: Any) -> Any:
    """The (c, s) of the rotation that takes (a, b) to (., 0)."""
    size = sqrt(square(abs(a)) + square(abs(b)))
    some = size > 0
    scale = where(some, size, 1)
    return concatenate([where(some, a / scale, 1).reshape(1), where(some, b / scale, 0).reshape(1)])


def rotated(turn: Any, x: Any, i: Any) -> Any:
    """`x` with its entries i and i + 1 rotated."""
    c, s = turn[0], turn[1]
    above, below = row(x, i), row(x, i + 1)
    return x.at[i].set(c.conj() * above + s.conj() * below).at[i + 1].set(c * below - s * above)


CYCLES = {"batched": batched_cycle, "incremental": incremental_cycle}

__all__ = ["bicgstab", "cg", "gmres"]
