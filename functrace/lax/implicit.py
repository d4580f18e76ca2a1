"""Functions that are defined by an equation: custom_linear_solve, custom_root.

custom_linear_solve : (a -o a) -> a -> a        x with A x = b;    dx = A^-1 (db - dA x)
custom_root         : (a -> a) -> a -> a        x with f(x) = 0;   dx = - (df/dx)^-1 df

What is differentiated is what the functions close over, and b. How the equation is solved has no part in
the derivative, so it may be a loop that stops when it has converged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import tree_util

from functrace.control import LinearSolve, Root
from functrace.errors import DtypeError, RuleError
from functrace.ir import Aval
from functrace.ir.source import caller_source
from functrace.lax.bodies import cast, cast_outputs, leaf_avals
from functrace.tracing import trace
from functrace.tracing.trace import Traced, all_captures, record, with_captures
from functrace.tracing.tracer import at
from functrace.transforms.linearize import linearize
from functrace.transforms.vjp import linear_transpose


def custom_linear_solve(
    matvec: Callable[[Any], Any],
    b: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    transpose_solve: Callable[[Callable[[Any], Any], Any], Any] | None = None,
    symmetric: bool = False,
    has_aux: bool = False,
) -> Any:
    """The x for which `matvec(x)` is b, as `solve` finds it, with the derivative of A^-1 b.

    Args:
      matvec: a linear function, whose result has the structure and types of its argument.
      b: the right side, a pytree of arrays.
      solve: `solve(matvec, b) -> x`, with the structure and types of b.
      transpose_solve: `transpose_solve(vecmat, b) -> x` for the transpose of matvec. Reverse mode needs it,
        or `symmetric`.
      symmetric: whether matvec is its own transpose; `solve` is then the default for `transpose_solve`.
      has_aux: whether the solvers return `(x, aux)`; aux has no derivative.
    Returns:
      x, or `(x, aux)`.
    Raises:
      DtypeError: a function is not callable, or returns another structure or other types than those of b.
      RuleError: matvec is not linear, or reverse mode is asked for without `transpose_solve`.

    >>> import functrace as ft, numpy as np
    >>> diagonal = np.array([1.0, 2.0, 4.0])
    >>> solve = lambda matvec, b: b / diagonal
    >>> x = lambda b: ft.lax.custom_linear_solve(lambda x: x * diagonal, b, solve, symmetric=True)
    >>> ft.grad(lambda b: x(b).sum())(np.ones(3)).tolist()
    [1.0, 0.5, 0.25]
    """
    who = "custom_linear_solve"
    if transpose_solve is None and symmetric:
        transpose_solve = solve
    given = {"matvec": matvec, "solve": solve}
    check_functions(who, given if transpose_solve is None else {**given, "transpose_solve": transpose_solve})
    b = strong(who, "b", b)
    product = traced(who, "matvec", matvec, b, "b")
    traces = [product, traced(who, "solve", lambda b: solve(matvec, b), b, "b", has_aux)]
    if transpose_solve is not None:
        vecmat = matvec if symmetric else transposed(matvec, b)
        traces.append(product if symmetric else traced(who, "the transpose of matvec", vecmat, b, "b"))
        back = lambda b: transpose_solve(vecmat, b)
        traces.append(traced(who, "transpose_solve", back, b, "b", has_aux))
    captures = all_captures([], traces)
    first, second, *back = with_captures(captures, traces)
    prim = LinearSolve(first, second, len(captures), *back)
    outputs = record(prim, [*captures, *tree_util.tree_leaves(b)])
    return tree_util.tree_unflatten(traces[1].out_tree, outputs)


def custom_root(
    f: Callable[[Any], Any],
    initial_guess: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    tangent_solve: Callable[[Callable[[Any], Any], Any], Any],
    has_aux: bool = False,
) -> Any:
    """The x for which `f(x)` is zero, as `solve` finds it, differentiated in what f closes over.

    Args:
      f: a function whose result has the structure and types of its argument.
      initial_guess: a pytree of arrays; the derivative in it is zero.
      solve: `solve(f, initial_guess) -> x`, with the structure and types of initial_guess.
      tangent_solve: `tangent_solve(g, y) -> x` with `g(x)` equal to y, for the linear function g that is the
        derivative of f at the root: `y / g(1.0)` for scalars, `functrace.scipy.sparse.linalg.gmres(g, y)[0]`
        in general. It is linear in y, and is differentiated for second derivatives.
      has_aux: whether `solve` returns `(x, aux)`; aux has no derivative.
    Returns:
      x, or `(x, aux)`.
    Raises:
      DtypeError: a function is not callable, or returns another structure or other types than those of
        initial_guess.

    Reference: the implicit function theorem; Blondel et al., "Efficient and modular implicit
    differentiation" (2022).

    >>> import functrace as ft
    >>> newton = lambda f, x: ft.lax.fori_loop(0, 8, lambda _, x: x - f(x) / ft.grad(f)(x), x)
    >>> root = lambda a: ft.lax.custom_root(lambda x: x * x - a, 1.0, newton, lambda g, y: y / g(1.0))
    >>> float(root(4.0)), float(ft.grad(root)(4.0))
    (2.0, 0.25)
    """
    who = "custom_root"
    check_functions(who, {"f": f, "solve": solve, "tangent_solve": tangent_solve})
    guess = strong(who, "initial_guess", initial_guess)
    equation = traced(who, "f", f, guess, "initial_guess")
    solution = traced(who, "solve", lambda x: solve(f, x), guess, "initial_guess", has_aux)

    def tangent(pair: Any) -> Any:
        x, y = pair
        return tangent_solve(linearize(f, x)[1], y)

    tangents = traced(who, "tangent_solve", tangent, (guess, guess), "initial_guess", expected=guess)
    traces = [equation, solution, tangents]
    captures = all_captures([], traces)
    first, second, third = with_captures(captures, traces)
    outputs = record(Root(first, second, third, len(captures)), [*captures, *tree_util.tree_leaves(guess)])
    return tree_util.tree_unflatten(solution.out_tree, outputs)


def transposed(matvec: Callable[[Any], Any], b: Any) -> Callable[[Any], Any]:
    """The transpose of a linear function of things like `b`."""
    pullback = linear_transpose(matvec, b)

    def vecmat(y: Any) -> Any:
        try:
            return pullback(y)[0]
        except RuleError as error:
            raise RuleError(f"custom_linear_solve: matvec must be linear: {error}.{at(caller_source())}") from error

    return vecmat


def check_functions(who: str, functions: dict[str, Any]) -> None:
    """Refuse what cannot be called, by its name."""
    for name, fun in functions.items():
        if not callable(fun):
            raise DtypeError(
                f"{who}: {name} must be a function, got {type(fun).__name__} ({fun!r}).{at(caller_source())}"
            )


def strong(who: str, what: str, tree: Any) -> Any:
    """A pytree with strong types for leaves: a Python scalar is a value of the default dtype."""
    avals = leaf_avals(who, what, tree)
    leaves, structure = tree_util.tree_flatten(tree)
    for path, a in zip([p for p, _ in tree_util.tree_flatten_with_path(tree)[0]], avals, strict=True):
        if not a.is_inexact:
            raise DtypeError(
                f"{who}: {what}{tree_util.keystr(path)} has type {a!r}, and must be floating or complex; cast it with "
                f".astype(float).{at(caller_source())}"
            )
    return tree_util.tree_unflatten(structure, [cast(x, a.strong()) for x, a in zip(leaves, avals, strict=True)])


def traced(
    who: str, name: str, fun: Callable[[Any], Any], argument: Any, like: str, has_aux: bool = False,
    expected: Any = None,
) -> Traced:  # fmt: skip
    """Trace a function whose result must have the structure and types of its argument, or of `expected`.

    Args:
      who, name, like: what messages call the caller, the function and its argument.
      fun, argument: what is traced, and at whose types.
      has_aux: whether it returns a pair, of which that is asked of the first only.
      expected: what the result must be like, where that is not the argument.
    """
    found = trace(lambda x: fun(x), (argument,), transform=who, names=(name,), result=f"what {name} returns")
    expected = argument if expected is None else expected
    tree, avals = found.out_tree, found.program.out_avals
    if has_aux:
        if tree_util.treedef_is_leaf(tree) or tree.num_leaves == 0 or len(tree.children()) != 2:
            raise DtypeError(f"{who}: with has_aux=True {name} must return a pair (x, aux).{at(caller_source())}")
        tree = tree.children()[0]
    wanted = leaf_avals(who, like, expected)
    if tree != tree_util.tree_structure(expected):
        solver = name in ("solve", "transpose_solve") and not has_aux
        hint = " With has_aux=True the solvers return (x, aux)." if solver else ""
        raise DtypeError(
            f"{who}: {name} must return the pytree structure of {like}.\n  {like}: "
            f"{tree_util.tree_structure(expected)}\n  {name} returns: {tree}\nReturn every part, in the same "
            f"containers.{hint}{at(caller_source())}"
        )
    check_types(who, name, like, expected, wanted, avals[: len(wanted)])
    return found._replace(program=cast_outputs(found.program, [*wanted, *avals[len(wanted) :]]))


def check_types(
    who: str, name: str, like: str, expected: Any, wanted: Sequence[Aval], avals: Sequence[Aval]
) -> None:
    """Each leaf of a result must have its type; a weak one, such as a Python scalar's, will do."""
    paths = [tree_util.keystr(path) for path, _ in tree_util.tree_flatten_with_path(expected)[0]]
    for path, a, found in zip(paths, wanted, avals, strict=True):
        if a.shape != found.shape or (a.dtype != found.dtype and not found.weak_type):
            fix = (
                f"Cast {like}{path} to {found.dtype}, or the result to {a.dtype}" if a.shape == found.shape
                else "An equation has as many unknowns as rows: give argument and result one shape"
            )  # fmt: skip
            raise DtypeError(
                f"{who}: {name} must return values of the types of {like}: {like}{path} has type {a!r}, and {name} "
                f"returns {found!r}. {fix}.{at(caller_source())}"
            )


__all__ = ["custom_linear_solve", "custom_root"]
