"""jvp, linearize, vjp, grad: the calculus on Python functions.

jvp       : (a -> b) -> (a, T a) -> (b, T b)
linearize : (a -> b) -> a -> (b, T a -o T b)            linearize f x = (f x, jvp f x)
vjp       : (a -> b) -> a -> (b, T* b -o T* a)          vjp f = transpose . linearize f
grad      : (a -> R) -> a -> T* a                       grad f x = snd (vjp f x) 1

Each traces the function once, rewrites its Program, and runs or inlines the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from jax import tree_util

from functrace import rewrites
from functrace.errors import DtypeError
from functrace.ir import Program, is_complex
from functrace.ir.source import caller_source
from functrace.rewrites.memo import scatter, select
from functrace.rewrites.transpose import transpose
from functrace.tracing import apply, aval_of, trace
from functrace.tracing.trace import Traced
from functrace.tracing.tracer import at
from functrace.transforms.arguments import (
    check_callable,
    check_same_tree,
    closed_over,
    leaf_label,
    positions,
    tangent_flags,
    zero_tangent,
)

tree_flatten, tree_unflatten = tree_util.tree_flatten, tree_util.tree_unflatten


class _Aux:
    """The second output of a `has_aux` function: arrays are traced, anything else is kept aside."""

    tree: Any
    is_array: tuple[bool, ...]
    others: list[Any]

    def __init__(self, transform: str, has_aux: bool):
        self.transform = transform
        self.has_aux = has_aux

    def split(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """`fun` as a function of arrays alone: `(out, array leaves of aux)`."""

        def returning_arrays(*args: Any) -> Any:
            out = fun(*args)
            if not self.has_aux:
                return out, []
            if not (isinstance(out, tuple | list) and len(out) == 2):
                raise DtypeError(
                    f"{self.transform}: with has_aux=True the function must return a pair (output, aux), got "
                    f"{type(out).__name__}.{at(caller_source())}"
                )
            out, aux = out
            leaves, self.tree = tree_flatten(aux)
            self.is_array = tuple(_is_array(x) for x in leaves)
            self.others = [x for x, flag in zip(leaves, self.is_array, strict=True) if not flag]
            return out, select(self.is_array, leaves)

        returning_arrays.__name__ = getattr(fun, "__name__", "function")
        return returning_arrays

    def join(self, arrays: Sequence[Any]) -> Any:
        """The aux output again."""
        given, others = iter(arrays), iter(self.others)
        leaves = [next(given) if flag else next(others) for flag in self.is_array]
        return tree_unflatten(self.tree, leaves)


def _is_array(x: Any) -> bool:
    try:
        aval_of(x)
    except TypeError:
        return False
    return True


def _traced(
    transform: str, fun: Callable[..., Any], args: Sequence[Any], has_aux: bool
) -> tuple[Traced, _Aux, Any, int]:
    """Trace a function of arrays: the trace, its aux, the output's tree and number of leaves."""
    aux = _Aux(transform, has_aux)
    traced = trace(aux.split(fun), args, transform=transform, concrete=True)
    out_tree, _aux_tree = traced.out_tree.children()
    return traced, aux, out_tree, out_tree.num_leaves


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> Any:
    """Value and directional derivative of `fun`: forward mode.

    Args:
      fun: a pure function of pytrees of arrays.
      primals: its positional arguments, a tuple or list.
      tangents: the direction; of the structure, shapes and dtypes of `primals` (dtype float0 for
        integer leaves).
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      `(output, tangent)` or `(output, tangent, aux)`.
    Raises:
      DtypeError: structure, shape or dtype of a tangent is not its primal's.

    >>> import functrace as ft
    >>> y, dy = ft.jvp(lambda x: x * x, (3.0,), (1.0,))
    >>> float(y), float(dy)
    (9.0, 6.0)
    """
    check_callable("jvp", fun)
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise DtypeError(
            "jvp: primals and tangents must be tuples or lists with one entry a positional argument, got "
            f"{type(primals).__name__} and {type(tangents).__name__}.{at(caller_source())}"
        )
    check_same_tree("jvp", "tangents", tuple(tangents), tuple(primals), "primals")
    xs, dxs = tree_util.tree_leaves(tuple(primals)), tree_util.tree_leaves(tuple(tangents))
    moving = tangent_flags("jvp", xs, dxs, "tangent")
    traced, aux, out_tree, n = _traced("jvp", fun, primals, has_aux)
    program, moved = rewrites.jvp(traced.program, (False,) * len(traced.captures) + moving)
    outputs = apply(program, [*traced.captures, *xs, *select(moving, dxs)])
    ys, dys = outputs[: len(moved)], scatter(moved, outputs[len(moved) :])
    zeros = [zero_tangent(a) for a in traced.program.out_avals]
    dys = [z if dy is None else dy for dy, z in zip(dys, zeros, strict=True)]
    result = tree_unflatten(out_tree, ys[:n]), tree_unflatten(out_tree, dys[:n])
    return (*result, aux.join(ys[n:])) if has_aux else result


@tree_util.register_pytree_node_class
class Linear:
    """A linear function: a Program with its residuals filled in. A pytree: residuals are its leaves."""

    def __init__(
        self, residuals: Sequence[Any], program: Program, moved: tuple[bool, ...],
        moving: tuple[bool, ...], in_avals: Any, out_avals: Any, in_tree: Any, out_tree: Any,
    ):  # fmt: skip
        self.residuals = list(residuals)
        self.program, self.moved, self.moving = program, moved, moving
        self.in_avals, self.out_avals = in_avals, out_avals
        self.in_tree, self.out_tree = in_tree, out_tree

    def tree_flatten(self) -> Any:
        """Residuals, and all the rest."""
        rest = (
            self.program, self.moved, self.moving, self.in_avals, self.out_avals, self.in_tree,
            self.out_tree,
        )  # fmt: skip
        return self.residuals, rest

    @classmethod
    def tree_unflatten(cls, rest: Any, residuals: Any) -> Any:
        """The inverse of `tree_flatten`."""
        return cls(residuals, *rest)


@tree_util.register_pytree_node_class
class Pushforward(Linear):
    """`dx -> dy` at a fixed x."""

    def __call__(self, *tangents: Any) -> Any:
        """Apply to tangents of the structure of the primals."""
        dxs, tree = tree_flatten(tangents)
        if tree != self.in_tree:
            raise DtypeError(
                f"linearize: tangents must have the structure of the primals, {self.in_tree}, got {tree}."
                f"{at(caller_source())}"
            )
        check_avals("linearize", "tangent", dxs, self.in_avals, self.moving)
        given = apply(self.program, [*self.residuals, *select(self.moving, dxs)])
        dys = scatter(self.moved, given)
        dys = [zero_tangent(a) if dy is None else dy for dy, a in zip(dys, self.out_avals, strict=True)]
        return tree_unflatten(self.out_tree, dys)


@tree_util.register_pytree_node_class
class Pullback(Linear):
    """`ct_y -> ct_x` at a fixed x."""

    def __call__(self, cotangent: Any) -> Any:
        """Apply to a cotangent of the structure of the output; a tuple with one entry a primal."""
        cts, tree = tree_flatten(cotangent)
        if tree != self.out_tree:
            raise DtypeError(
                f"vjp: the cotangent must have the structure of the output, {self.out_tree}, got {tree}."
                f"{at(caller_source())}"
            )
        check_avals("vjp", "cotangent", cts, self.out_avals, tuple(a.is_inexact for a in self.out_avals))
        linear = (False,) * len(self.residuals) + (True,) * sum(self.moving)
        program, found = transpose(self.program, linear, (True,) * sum(self.moved))
        given = apply(program, [*self.residuals, *select(self.moved, cts)])
        ct_xs = scatter(self.moving, scatter(found, given))
        ct_xs = [zero_tangent(a) if ct is None else ct for ct, a in zip(ct_xs, self.in_avals, strict=True)]
        return tree_unflatten(self.in_tree, ct_xs)


def check_avals(transform: str, what: str, values: Any, avals: Any, flags: Any) -> None:
    """Values handed to a linear function must have the types it was made for."""
    for i, (x, aval, flag) in enumerate(zip(values, avals, flags, strict=True)):
        if flag and not aval_of(x).matches(aval):
            raise DtypeError(
                f"{transform}: leaf {i} of the {what} has type {aval_of(x)}, and must have {aval}."
                f"{at(caller_source())}"
            )


def _linear(
    transform: str, fun: Callable[..., Any], primals: Sequence[Any], has_aux: bool, kind: Any
) -> Any:
    """Run the forward half of `linearize`; the linear half becomes a `kind`."""
    check_callable(transform, fun)
    traced, aux, out_tree, n = _traced(transform, fun, primals, has_aux)
    xs, in_tree = tree_flatten(tuple(primals))
    in_avals = tuple(aval_of(x) for x in xs)
    moving = tuple(a.is_inexact for a in in_avals)
    # Aux outputs have no derivative: differentiate the Program of the others beside them.
    program = traced.program
    lin = rewrites.linearize(program, (False,) * len(traced.captures) + moving)
    outputs = apply(lin.forward, [*traced.captures, *xs])
    m = len(program.outputs)
    ys, residuals = outputs[:m], outputs[m:]
    moved = lin.moved[:n]
    linear = Program(lin.linear.inputs, lin.linear.equations, lin.linear.outputs[: sum(moved)])
    out_avals = tuple(a.strong() for a in program.out_avals[:n])
    f_linear = kind(residuals, linear, moved, moving, in_avals, out_avals, in_tree, out_tree)
    y = tree_unflatten(out_tree, ys[:n])
    return (y, f_linear, aux.join(ys[m - len(ys[n:]) :])) if has_aux else (y, f_linear)


def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of `fun` and its derivative at `primals` as a linear function of tangents.

    Args:
      fun: a pure function of pytrees of arrays.
      primals: its positional arguments.
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      `(output, f_jvp)` or `(output, f_jvp, aux)`, where `f_jvp(*tangents)` is the output's tangent;
      the work on the primals is done once. `f_jvp` is a pytree whose leaves are its residuals.

    >>> import functrace as ft
    >>> y, f_jvp = ft.linearize(lambda x: x ** 3, 2.0)
    >>> float(y), float(f_jvp(1.0))
    (8.0, 12.0)
    """
    return _linear("linearize", fun, primals, has_aux, Pushforward)


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of `fun` and its pullback at `primals`: reverse mode.

    Args:
      fun: a pure function of pytrees of arrays.
      primals: its positional arguments.
      has_aux: whether `fun` returns `(output, aux)`.
    Returns:
      `(output, f_vjp)` or `(output, f_vjp, aux)`. `f_vjp(cotangent)` is a tuple with one cotangent a
      primal. `f_vjp` is a pytree whose leaves are its residuals, so it crosses `jit` boundaries.

    >>> import functrace as ft
    >>> y, f_vjp = ft.vjp(lambda x, y: x * y, 2.0, 5.0)
    >>> [float(ct) for ct in f_vjp(1.0)]
    [5.0, 2.0]
    """
    return _linear("vjp", fun, primals, has_aux, Pullback)


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """A function that returns the value of a scalar function and its gradient.

    Args:
      fun: a pure function to a scalar; the arguments at `argnums` are pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic: complex in, complex out.
      allow_int: whether integer leaves are allowed; their gradient is a zero of dtype float0.
    Returns:
      A function with the arguments of `fun` that returns `(value, gradient)`, or
      `((value, aux), gradient)`. The gradient has the structure of the argument (a tuple of such if
      `argnums` is a sequence).
    Raises:
      DtypeError: an argument is not of inexact dtype, or the output is not a real scalar.
      ArgumentError: `argnums` is out of range.

    >>> import functrace as ft
    >>> value, slope = ft.value_and_grad(lambda x: x ** 2 + x)(0.5)
    >>> float(value), float(slope)
    (0.75, 2.0)
    """
    return _value_and_grad("value_and_grad", fun, argnums, has_aux, holomorphic, allow_int)


def _value_and_grad(
    transform: str, fun: Any, argnums: Any, has_aux: bool, holomorphic: bool, allow_int: bool
) -> Callable[..., Any]:
    check_callable(transform, fun)

    @wraps(fun)
    def value_and_grad_fun(*args: Any, **kwargs: Any) -> Any:
        numbers = positions(transform, argnums, len(args))
        chosen = [args[i] for i in numbers]
        xs, in_tree = tree_flatten(tuple(chosen))
        check_inputs(transform, chosen, xs, numbers, holomorphic, allow_int)
        of_chosen = closed_over(fun, args, numbers, kwargs)
        traced, aux, _, n = _traced(transform, of_chosen, chosen, has_aux)
        check_output(transform, traced, n, holomorphic)
        moving = tuple(aval_of(x).is_inexact for x in xs)
        program = rewrites.gradient(traced.program, (False,) * len(traced.captures) + moving)
        outputs = apply(program, [*traced.captures, *xs])
        m = len(traced.program.outputs)
        gradients = scatter(moving, outputs[m:])
        gradients = [zero_tangent(aval_of(x)) if g is None else g for g, x in zip(gradients, xs, strict=True)]
        result = tree_unflatten(in_tree, gradients)
        if isinstance(argnums, int):
            (result,) = result
        value = (outputs[0], aux.join(outputs[1:m])) if has_aux else outputs[0]
        return value, result

    return value_and_grad_fun


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """The gradient of a scalar function.

    Args:
      fun: a pure function to a scalar; the arguments at `argnums` are pytrees of arrays.
      argnums: position or positions of the arguments to differentiate.
      has_aux: whether `fun` returns `(output, aux)`; the result is then `(gradient, aux)`.
      holomorphic: whether `fun` is promised to be holomorphic: complex in, complex out.
      allow_int: whether integer leaves are allowed; their gradient is a zero of dtype float0.
    Returns:
      A function with the arguments of `fun` that returns the gradient: of the structure, shapes and
      dtypes of the argument.
    Raises:
      DtypeError: an argument is not of inexact dtype, or the output is not a real scalar.
      ArgumentError: `argnums` is out of range.

    >>> import functrace as ft
    >>> cube = lambda x: x ** 3
    >>> float(ft.grad(cube)(2.0)), float(ft.grad(ft.grad(cube))(2.0))
    (12.0, 12.0)
    """
    both = _value_and_grad("grad", fun, argnums, has_aux, holomorphic, allow_int)

    @wraps(fun)
    def grad_fun(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_fun


def check_inputs(
    transform: str, args: Any, leaves: Any, numbers: Any, holomorphic: bool, allow_int: bool
) -> None:
    """Every differentiated leaf must have a dtype that has derivatives."""
    for i, x in enumerate(leaves):
        try:
            aval = aval_of(x)
        except TypeError as error:
            raise DtypeError(
                f"{transform}: {leaf_label(args, i, numbers)} is a {type(x).__name__} ({x!r}), not an array."
                f"{at(caller_source())}"
            ) from error
        if holomorphic and not is_complex(aval.dtype):
            raise DtypeError(
                f"{transform}: holomorphic=True needs complex inputs, and {leaf_label(args, i, numbers)} has dtype "
                f"{aval.dtype}.{at(caller_source())}"
            )
        if not aval.is_inexact and not allow_int:
            raise DtypeError(
                f"{transform}: {leaf_label(args, i, numbers)} has dtype {aval.dtype}; derivatives need a floating or "
                "complex dtype. Cast it (`.astype(float)`), leave it out of argnums, or pass "
                f"allow_int=True.{at(caller_source())}"
            )


def check_output(transform: str, traced: Traced, n: int, holomorphic: bool) -> None:
    """The differentiated output must be one scalar, real unless `holomorphic`."""
    avals = traced.program.out_avals[:n]
    if n != 1 or avals[0].shape:
        found = ", ".join(map(str, avals)) if n else "no array"
        raise DtypeError(
            f"{transform}: the function must return a scalar, got {found}. Reduce it (`.sum()`, `.mean()`), return the "
            f"rest through has_aux=True, or use jacrev, jacfwd or vjp.{at(caller_source())}"
        )
    (aval,) = avals
    if holomorphic != is_complex(aval.dtype) or not aval.is_inexact:
        wanted = "complex (holomorphic=True)" if holomorphic else "real floating"
        raise DtypeError(
            f"{transform}: the output must be {wanted}, got {aval}. Take its real part, or see holomorphic=True."
            f"{at(caller_source())}"
        )


def linear_transpose(fun: Callable[..., Any], *primals: Any) -> Callable[[Any], Any]:
    """The transpose of a function that is promised to be linear.

    Args:
      fun: a linear function of pytrees of arrays.
      primals: its arguments, or anything of their shapes and dtypes (`jax.ShapeDtypeStruct`).
    Returns:
      A function of a cotangent of `fun`'s output that returns a tuple of cotangents.
    Raises:
      RuleError: an operation of `fun` is not linear.

    >>> import functrace as ft
    >>> [float(ct) for ct in ft.linear_transpose(lambda x, y: 2.0 * x - y, 0.0, 0.0)(1.0)]
    [2.0, -1.0]
    """
    check_callable("linear_transpose", fun)
    traced = trace(fun, primals, transform="linear_transpose")
    avals, in_tree = traced.program.in_avals[len(traced.captures) :], tree_util.tree_structure(tuple(primals))
    out_avals = tuple(a.strong() for a in traced.program.out_avals)
    for a in (*avals, *out_avals):
        if not a.is_inexact:
            raise DtypeError(f"linear_transpose: inputs and outputs must be floating or complex, got {a}")
    every = (True,) * len(avals)
    moved = (True,) * len(out_avals)
    return Pullback(
        traced.captures, traced.program, moved, every, avals, out_avals, in_tree, traced.out_tree
    )


__all__ = [
    "Linear", "Pullback", "Pushforward", "grad", "jvp", "linear_transpose",
    "linearize", "value_and_grad", "vjp",
]  # fmt: skip
