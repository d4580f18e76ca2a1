"""Lifting: a jax function called with tracers runs `jax.make_jaxpr` once for its avals and static
arguments, and the Program of that jaxpr is written into the trace.

NumPy semantics (promotion, indexing, einsum, axis arguments) are jax.numpy's business, not ours.
Tracers and arrays are operands; everything else is static. Called with no tracer about, a lifted
function calls the jax function.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import update_wrapper
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util

from functrace.errors import ArgumentError, ConcretizationError, FunctraceError, IndexingError, ShapeError
from functrace.foreign import import_jaxpr
from functrace.foreign.importing import to_jax_struct
from functrace.ir import Aval, Builder, Literal, Primitive, Program
from functrace.ir.primitive import open_builder, write_to
from functrace.ir.source import caller_source
from functrace.lower.kinds import settings
from functrace.tracing.axes import AXES
from functrace.tracing.tracer import Tracer, at, atom_of, aval_of, concrete, leaked, suspended

CAPACITY = 16_384


class Lifted(NamedTuple):
    """The Program of one call form, its array constants, and the structure of its result."""

    program: Program
    constants: tuple[Any, ...]
    out_tree: Any
    stand_ins: dict[Literal, int]  # literals in the place of a number, and which leaf it is

    @property
    def is_equation(self) -> bool:
        """Whether it is one equation of its inputs, with one result."""
        program = self.program
        if len(program.equations) != 1 or self.constants or self.out_tree != LEAF:
            return False
        return (program.equations[0].inputs, program.equations[0].outputs) == (program.inputs, program.outputs)


LEAF = tree_util.tree_structure(0)
POSITIONAL = [tree_util.tree_structure(((0,) * n, {})) for n in range(3)]
_lock = threading.Lock()
_lifted: OrderedDict[Any, Lifted] = OrderedDict()
_single: dict[Any, Primitive] = {}  # by function and types, what is one equation of one array or two
_each: dict[Any, Primitive] = {}  # by function of entries and element type, what is one equation of an array
OF_ENTRIES = {
    getattr(jnp, name)
    for name, fun in vars(np).items()
    if isinstance(fun, np.ufunc) and fun.nin == fun.nout == 1 and hasattr(jnp, name)
} | {jax.lax.logistic, jax.lax.rsqrt, jax.lax.erf, jax.lax.erfc, jax.lax.exp, jax.lax.log, jax.lax.tanh}

# Functions that make literals of floating numbers, whatever these are: what they record for one serves for all.
OF_NUMBERS = OF_ENTRIES | {
    jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.true_divide, jnp.maximum, jnp.minimum, jnp.where, jnp.clip,
    jnp.full, jnp.full_like, jnp.array, jnp.asarray,
}  # fmt: skip
STAND_INS = [0.8462910517, 0.6713095824, 0.7395128463]  # numbers that no function makes by itself


def static_key(x: Any) -> Any:
    """A hashable that tells static arguments apart as Python's own equality does not (1, 1.0, True)."""
    if type(x) is float:
        return (float, x.hex())
    if isinstance(x, slice):
        return (slice, static_key(x.start), static_key(x.stop), static_key(x.step))
    if isinstance(x, np.ndarray):
        return (np.ndarray, x.shape, x.dtype, x.tobytes())
    return (type(x), x)


def is_operand(x: Any) -> bool:
    """Whether a leaf is traced through rather than static."""
    return type(x) is Tracer or isinstance(x, jax.Array | np.ndarray)


def call_lifted(name: str, fun: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Record `fun(*args, **kwargs)` in the running trace, or call it where there is none."""
    if not kwargs and len(args) <= 2:
        known = emitted(fun, args)
        if known is not None:
            return known
    leaves, tree = tree_util.tree_flatten((args, kwargs), is_leaf=lambda x: x is None)
    builder = open_builder()
    traced = any([type(x) is Tracer for x in leaves])
    if builder is None:
        for x in leaves:
            if type(x) is Tracer:
                raise leaked(x)
        return fun(*args, **kwargs)
    if not traced and any([isinstance(x, jax.Array | np.ndarray) for x in leaves]):
        # Arrays alone: computed now, as in JAX; the result is a captured value.
        return fun(*args, **kwargs)
    try:
        return record(name, fun, leaves, tree, builder, arrays_static=False)
    except (jax.errors.ConcretizationTypeError, IndexError) as error:
        return record_known(name, fun, leaves, tree, builder, error)


def emitted(fun: Callable[..., Any], args: Sequence[Any]) -> Tracer | None:
    """The result of a call that is known to be one equation of its arguments, which are all of the running trace."""
    builder = open_builder()
    if builder is None or builder.source is not None:
        return None
    atoms = tuple([x.atom for x in args if type(x) is Tracer and x.builder is builder])
    if len(atoms) != len(args):
        return None
    try:
        primitive = _single.get(call_key(fun, [x.aval for x in atoms]))
        if primitive is None and fun in OF_ENTRIES and len(atoms) == 1:
            primitive = _each.get(entry_key(fun, atoms[0].aval))
    except TypeError:  # a function that does not hash
        return None
    return None if primitive is None else Tracer(builder.emit(primitive, atoms)[0], builder)


def call_key(fun: Callable[..., Any], avals: Sequence[Aval]) -> Any:
    """What a call of arrays alone is known by."""
    return (fun, *avals, settings(), AXES.bound)


def entry_key(fun: Callable[..., Any], aval: Aval) -> Any:
    """What a call of a function of entries is known by."""
    return (fun, aval.dtype, aval.weak_type, settings())


def record_known(name: str, fun: Callable[..., Any], leaves: Any, tree: Any, builder: Builder, error: Exception) -> Any:
    """Record a call for which jax wants values: a boolean mask, section boundaries, a shape that follows from entries.

    NumPy arrays are values, and so are the integers and booleans that the trace knows. Where jax wants more, the
    call is computed: what has no derivative is the result, and otherwise its size is what was wanted.
    """
    integers = [np.asarray(y) if is_discrete(x) and (y := known_value(x)) is not x else x for x in leaves]
    for candidate in (leaves, integers):
        if any(isinstance(x, np.ndarray) for x in candidate):
            try:
                return record(name, fun, candidate, tree, builder, arrays_static=True)
            except (jax.errors.ConcretizationTypeError, IndexError) as again:
                error = again
    if isinstance(error, IndexError) and not isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        raise translated(name, error, leaves) from error
    for x in leaves:
        if type(x) is Tracer and known_value(x) is x:
            if isinstance(error, IndexError):
                raise translated(name, error, leaves) from error
            concrete(x, f"{name}(), which needs known values,")
    args, kwargs = tree_util.tree_unflatten(tree, [known_value(x) for x in leaves])
    with suspended():
        result = fun(*args, **kwargs)
    if not any([aval_of(y).is_inexact for y in tree_util.tree_leaves(result)]):
        return result
    signature = inspect.signature(fun)
    size = next((p for p in ("size", "length") if p in signature.parameters), None)
    if size is None:
        raise translated(name, error, leaves) from error
    axis = signature.bind(*args, **kwargs).arguments.get("axis") or 0
    args, kwargs = tree_util.tree_unflatten(tree, leaves)
    kwargs[size] = tree_util.tree_leaves(result)[0].shape[axis]
    leaves, tree = tree_util.tree_flatten((args, kwargs), is_leaf=lambda x: x is None)
    return record(name, fun, leaves, tree, builder, arrays_static=False)


def is_discrete(x: Any) -> bool:
    """Whether `x` is a tracer of integers or booleans, through which no derivative goes."""
    return type(x) is Tracer and getattr(x.dtype, "kind", None) in tuple("iub")


def known_value(x: Any) -> Any:
    """The value of a tracer whose trace knows it; everything else is itself."""
    if type(x) is not Tracer:
        return x
    try:
        return concrete(x, "")
    except ConcretizationError:
        return x


def record(
    name: str, fun: Callable[..., Any], leaves: Any, tree: Any, builder: Builder, arrays_static: bool
) -> Any:
    """Find or make the Program of this call form and write it into `builder`."""
    flags = [
        is_operand(x) and not (arrays_static and isinstance(x, np.ndarray)) for x in leaves
    ]
    operands = [x for x, flag in zip(leaves, flags, strict=True) if flag]
    avals = [x.atom.aval if type(x) is Tracer else aval_of(x) for x in operands]
    found = of_any_numbers(name, fun, leaves, tree, flags, avals)
    if found is None:
        found = lifted_call(name, fun, leaves, tree, flags, avals)
    source, builder.source = builder.source, caller_source()
    try:
        atoms = [atom_of(x, builder) for x in (*found.constants, *operands)]
        numbers = {y: Literal(leaves[i], y.aval) for y, i in found.stand_ins.items()}
        outputs = inline_here(builder, found.program, atoms, numbers)
    finally:
        builder.source = source
    return tree_util.tree_unflatten(found.out_tree, [Tracer(y, builder) for y in outputs])


def of_any_numbers(name: str, fun: Callable[..., Any], leaves: Any, tree: Any, flags: Any, avals: Any) -> Lifted | None:
    """The Program of a call whatever floating numbers are among its arguments; None where there are none, or they are
    not literals of it."""
    where = [i for i, x in enumerate(leaves) if isinstance(x, float | np.floating)]
    if not 0 < len(where) <= len(STAND_INS) or not isinstance(fun, Hashable) or fun not in OF_NUMBERS:
        return None
    standing = list(leaves)
    for i, number in zip(where, STAND_INS, strict=False):
        standing[i] = type(leaves[i])(number)
    found = lifted_call(name, fun, standing, tree, flags, avals, tuple(where))
    return found if set(found.stand_ins.values()) == set(where) else None


def lifted_call(
    name: str, fun: Callable[..., Any], leaves: Any, tree: Any, flags: Any, avals: Any, any_number: tuple[int, ...] = ()
) -> Lifted:
    """Find or make the Program of a call form, in which the leaves `any_number` may be any."""
    try:
        keys = tuple([a if f else static_key(x) for x, a, f in merged(leaves, avals, flags)])
        key = (fun, tree, keys, any_number, settings(), AXES.bound)
        found = _lifted.get(key)
    except TypeError:  # a static argument that does not hash: imported anew each time
        key = found = None
    if found is None:
        found = import_call(name, fun, leaves, flags, tree, avals, any_number)
        if key is not None:
            if len(leaves) <= 2 and all(flags) and tree == POSITIONAL[len(leaves)] and found.is_equation:
                _single[call_key(fun, avals)] = found.program.equations[0].primitive
                if len(leaves) == 1 and fun in OF_ENTRIES:
                    _each[entry_key(fun, avals[0])] = found.program.equations[0].primitive
            with _lock:
                _lifted[key] = found
                while len(_lifted) > CAPACITY:
                    _lifted.popitem(last=False)
                    _single.clear()
    return found


def literals_for(program: Program, leaves: Any, which: Sequence[int]) -> dict[Literal, int]:
    """The literals of a Program that some leaves, numbers, have become; none where it may have others inside."""
    if any([eqn.primitive.runs() for eqn in program.equations]):
        return {}
    atoms = {x for eqn in program.equations for x in eqn.inputs if type(x) is Literal}
    atoms.update([x for x in program.outputs if type(x) is Literal])
    return {x: i for x in atoms for i in which if x.aval.is_inexact and x == Literal(leaves[i], x.aval)}


def merged(leaves: Any, avals: Any, flags: Any) -> Any:
    """Each leaf with its aval (None if static) and its flag."""
    rest = iter(avals)
    return [(x, next(rest) if flag else None, flag) for x, flag in zip(leaves, flags, strict=True)]


def inline_here(builder: Builder, program: Program, atoms: Any, literals: dict[Literal, Literal]) -> Any:
    """Write an imported Program, with others for some literals; each equation has the user's line that is running."""
    env: dict[Any, Any] = {**literals, **dict(zip(program.inputs, atoms, strict=True))}
    for eqn in program.equations:
        ys = builder.emit(eqn.primitive, tuple([env.get(x, x) for x in eqn.inputs]))
        env.update(zip(eqn.outputs, ys, strict=True))
    return [env.get(y, y) for y in program.outputs]


def import_call(
    name: str, fun: Callable[..., Any], leaves: Any, flags: Any, tree: Any, avals: Any, any_number: tuple[int, ...] = ()
) -> Lifted:
    """Trace the jax function at these avals and import the jaxpr."""
    out_trees: list[Any] = []

    def of_operands(*operands: Any) -> Any:
        rest = iter(operands)
        values = [next(rest) if flag else x for x, flag in zip(leaves, flags, strict=True)]
        args, kwargs = tree_util.tree_unflatten(tree, values)
        out_leaves, out_tree = tree_util.tree_flatten(fun(*args, **kwargs))
        out_trees.append(out_tree)
        return out_leaves

    outer = open_builder()
    write_to(None)
    try:
        closed = jax.make_jaxpr(of_operands, axis_env=AXES.bound)(*map(to_jax_struct, avals))
    except FunctraceError:
        raise
    except (TypeError, ValueError) as error:
        if isinstance(error, jax.errors.ConcretizationTypeError | IndexError):
            raise
        raise translated(name, error, leaves) from error
    finally:
        write_to(outer)
    imported = import_jaxpr(closed)
    stand_ins = {} if imported.constants else literals_for(imported.program, leaves, any_number)
    return Lifted(imported.program, imported.constants, out_trees[-1], stand_ins)


def translated(name: str, error: Exception, leaves: Any) -> FunctraceError:
    """JAX's complaint with the operands' types and the user's line."""
    types = ", ".join(str(aval_of(x)) for x in leaves if is_operand(x))
    message = f"{name}: {str(error).splitlines()[0]} Operands: {types}.{at(caller_source())}"
    if isinstance(error, IndexError):
        return IndexingError(message)
    return ShapeError(message) if isinstance(error, TypeError) else ArgumentError(message)


def lift(
    fun: Callable[..., Any], name: str | None = None, direct: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """The function `fun` of jax arrays, made to record itself when it is called with tracers.

    Args:
      fun: a function from jax.numpy, jax.lax, jax.random, ... or any function of jax arrays.
      name: what messages call it; by default its own name.
      direct: records common calls by itself, sooner than jax says what they mean, or returns None.
    Returns:
      A function with the signature of `fun`.
    """
    label = name or getattr(fun, "__name__", type(fun).__name__)

    def lifted(*args: Any, **kwargs: Any) -> Any:
        if direct is not None and (known := direct(*args, **kwargs)) is not None:
            return known
        return call_lifted(label, fun, args, kwargs)

    update_wrapper(lifted, fun)
    lifted.__name__ = label
    return lifted


def from_jax(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Use a JAX function (a flax or equinox model, a Pallas kernel) inside functrace transforms.

    Args:
      fun: any function of pytrees of arrays that `jax.make_jaxpr` traces.
    Returns:
      A function of the same signature; it differentiates, batches and compiles like any other.

    >>> import functrace as ft, jax
    >>> swish = ft.from_jax(jax.nn.swish)
    >>> round(float(ft.grad(swish)(0.0)), 3)
    0.5
    """
    return lift(fun)
