"""jaxpr -> Program, and `Foreign`: an equation that has no definition here, with JAX's own rules.

Foreign is a fallback for what users bring. Each of its rules asks JAX for the transform of the one
equation (`jax.jvp`, `jax.vjp`, `jax.linear_transpose`, `jax.vmap`) and imports the jaxpr, so that the
result differentiates again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from jax.extend import core as jax_core

from functrace.control import Checkpoint, Cond, LinearSolve, Scan, While
from functrace.control.checkpoint import OF_JAX
from functrace.control.custom_vjp import CustomLinear
from functrace.errors import ProgramError, RuleError
from functrace.foreign import reading
from functrace.foreign.factorizations import BATCHED, FLOPS
from functrace.ir import Atom, Aval, Builder, Literal, Primitive, Program, Run, Undefined, Var, Work, ambient
from functrace.ir.dependence import Matrix, Site
from functrace.ir.source import NOWHERE, at, caller_source
from functrace.primitives.constant import constant as written_out

# Equations that only apply a jaxpr: their body is written in their place. JAX's own names differ
# between versions, and a call that carries a derivative rule is not among them.
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}

# What to do where JAX has no rule.
REMEDIES = {
    "reduce_window": " It has them of a sum from 0, a maximum from -inf and a minimum from inf, known when the "
    "function is traced, as XLA may combine an initial value any number of times. Combine yours with the result: "
    "lax.max(start, lax.reduce_window(x, -numpy.inf, lax.max, ...))."
}

Flags = tuple[bool, ...]


class Imported(NamedTuple):
    """A Program whose leading inputs are the jaxpr's array constants."""

    program: Program
    constants: tuple[Any, ...]


def from_jax_aval(aval: Any) -> Aval:
    """functrace's Aval of a JAX aval or array."""
    return Aval(aval.shape, aval.dtype, bool(getattr(aval, "weak_type", False)))


def to_jax_struct(aval: Aval) -> Any:
    """What JAX traces with for a value of this type."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def definitions() -> dict[str, Any]:
    """JAX's primitive names to the definitions that stand for them."""
    table: dict[str, Any] = {}
    for definition in Primitive.named.values():
        for name in definition.jax_names:
            table[name] = definition
    return table


def import_jaxpr(closed: Any) -> Imported:
    """The Program of a ClosedJaxpr; scalar constants become literals, arrays leading inputs."""
    table = definitions()
    with Builder() as b:
        b.source = NOWHERE
        constants = [constant(b, value) for value in closed.consts]
        inputs = [b.input(from_jax_aval(v.aval)) for v in closed.jaxpr.invars]
        outputs = write(b, closed.jaxpr, [*constants, *inputs], table)
        program = b.build(outputs)
        return Imported(program, tuple(value for _, value in b.captures.values()))


def constant(b: Builder, value: Any) -> Atom:
    """A constant of a jaxpr as an atom."""
    if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0:
        return Literal(value, Aval((), value.dtype))
    aval = jax.typeof(value)
    return b.capture(value, from_jax_aval(aval))


def write(b: Builder, jaxpr: Any, values: Sequence[Atom], table: dict[str, Any]) -> list[Atom]:
    """Write a jaxpr's equations into `b`, its constants and inputs bound to `values`."""
    env: dict[Any, Atom] = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))

    def read(x: Any) -> Atom:
        if isinstance(x, jax_core.Literal):
            aval = from_jax_aval(x.aval)
            return Literal(x.val, aval) if not aval.shape else constant(b, x.val)
        return env[x]

    for eqn in jaxpr.eqns:
        xs = [read(x) for x in eqn.invars]
        name = eqn.primitive.name
        if name in INLINED:
            inner = eqn.params[INLINED[name]]
            ys: Sequence[Atom] = write(
                b, inner.jaxpr, [*(constant(b, c) for c in inner.consts), *xs], table
            )
        else:
            definition = table.get(name)
            avals = [x.aval for x in xs]
            if name in HOLDING:
                prim = HOLDING[name](eqn.params)
            else:
                prim = None if definition is None else definition.from_jax(eqn.params, avals)
            if prim is None:
                out_avals = tuple(from_jax_aval(v.aval) for v in eqn.outvars)
                prim = Foreign(eqn.primitive, eqn.params, out_avals, bool(eqn.effects))
            ys = b.emit(prim, tuple(xs))
        env.update(zip(eqn.outvars, ys, strict=True))
    return [read(x) for x in jaxpr.outvars]


def import_scan(params: dict[str, Any]) -> Primitive:
    """JAX's scan, its body a Program."""
    unroll = params["length"] if params["unroll"] is True else max(int(params["unroll"]), 1)
    body = closed(import_jaxpr(params["jaxpr"]))
    if "num_consts" in params:
        consts, carry = params["num_consts"], params["num_carry"]
    else:  # newer versions of jax have the operands in a tree of three
        consts, carry = (len(group) for group in params["ft_in"].unpack()[:2])
    return Scan(body, consts, carry, params["length"], params["reverse"], unroll)


def import_while(params: dict[str, Any]) -> Primitive:
    """JAX's while: its two functions get the constants of both."""
    predicate, body = (closed(import_jaxpr(params[name])) for name in ("cond_jaxpr", "body_jaxpr"))
    n, m = params["cond_nconsts"], params["body_nconsts"]
    mine = tuple([copied(v) for v in predicate.inputs[:n]])
    others = tuple([copied(v) for v in body.inputs[:m]])
    asks = Program((*predicate.inputs[:n], *others, *predicate.inputs[n:]), predicate.equations, predicate.outputs)
    step = Program((*mine, *body.inputs), body.equations, body.outputs)
    return While(asks, step, n + m)


def copied(v: Var) -> Var:
    """Another variable of the same type."""
    return Var(v.aval, v.name)


def import_cond(params: dict[str, Any]) -> Primitive:
    """JAX's cond and switch."""
    return Cond(tuple([closed(import_jaxpr(branch)) for branch in params["branches"]]))


def import_checkpoint(params: dict[str, Any]) -> Primitive | None:
    """JAX's checkpoint, if its policy is one that is data here."""
    policy = "nothing" if params["policy"] is None else OF_JAX.get(params["policy"])
    if policy is None:
        return None
    program = closed(import_jaxpr(jax_core.ClosedJaxpr(params["jaxpr"], ())))
    return Checkpoint(program, "checkpoint", policy, params["prevent_cse"], params["differentiated"])


def import_linear_solve(params: dict[str, Any]) -> Primitive:
    """JAX's linear solve: its four functions get the constants of all."""
    jaxprs, counts = params["jaxprs"], params["const_lengths"]
    names = ("matvec", "vecmat", "solve", "transpose_solve")  # in the order of their constants
    held = {name: closed(import_jaxpr(j)) for name in names if (j := getattr(jaxprs, name)) is not None}
    groups = {name: p.inputs[: getattr(counts, name)] for name, p in held.items()}
    programs: dict[str, Any] = {}
    for name, p in held.items():
        leading = [v if other == name else copied(v) for other, group in groups.items() for v in group]
        programs[name] = Program((*leading, *p.inputs[len(groups[name]) :]), p.equations, p.outputs)
    return LinearSolve(consts=sum(map(len, groups.values())), **programs)


HOLDING = {
    "scan": import_scan, "while": import_while, "cond": import_cond, "remat2": import_checkpoint,
    "custom_linear_solve": import_linear_solve,
}  # fmt: skip


def import_function(f: Callable[..., Any], *avals: Aval) -> Imported:
    """The Program of a JAX function of arrays."""
    return import_jaxpr(jax.make_jaxpr(f)(*map(to_jax_struct, avals)))


def closed(imported: Imported) -> Program:
    """The Program with its constants written out: a rewrite has no place for more inputs."""
    with Builder() as b:
        arrays = [written_out(np.asarray(c)) for c in imported.constants]
        inputs = [b.input(a) for a in imported.program.in_avals[len(arrays) :]]
        return b.build(b.inline(imported.program, [*arrays, *inputs]))


def holds_jaxpr(params: dict[str, Any]) -> bool:
    """Whether a JAX primitive with these parameters runs a function."""
    return any(
        hasattr(v, "jaxpr") or (isinstance(v, tuple) and any([hasattr(u, "jaxpr") for u in v])) for v in params.values()
    )


class Foreign(Primitive):
    """A JAX primitive with its parameters and the avals of its results."""

    multiple_results = True
    analytic = False

    def __init__(self, jax_primitive: Any, params: dict[str, Any], out_avals: Any, effects: bool):
        self.name = jax_primitive.name
        self.jax_primitive = jax_primitive
        self.jax_params = params
        self.out_avals = out_avals
        self.has_effects = effects
        self.jvp_has_value = self.name.startswith("custom_")
        # JAX's versions differ in what they raise where a rule is missing; in a rule of the user's the others are bugs.
        self.refusals = (NotImplementedError, *(() if self.jvp_has_value else (TypeError, ValueError)))
        self._derived: dict[Any, Any] = {}
        # A rule in JAX may be for reverse mode only, and axes have names.
        has_pushforward = self.name == "custom_jvp_call" or not holds_jaxpr(params)
        self.goes_forward = not effects and has_pushforward and "axis_index_groups" not in params
        try:
            self._key: Any = (jax_primitive, tuple(sorted(params.items())), out_avals)
            hash(self._key)
        except TypeError:  # parameters that do not hash or sort: equal to itself only
            self._key = id(self)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Foreign) and self._key == other._key

    @property
    def params(self) -> dict[str, Any]:
        return self.jax_params

    @property
    def readable_text(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.has_effects and self.name in reading.primitives() and reading.plain(self.jax_params) is not None

    @property
    def text_params(self) -> dict[str, Any]:
        return reading.plain(self.jax_params) or {}

    def shape(self, *xs: Aval) -> Any:
        return self.out_avals

    def lower(self, *xs: Any) -> Any:
        params = self.jax_primitive.get_bind_params(self.jax_params)
        outputs = self.jax_primitive.bind(*xs, **params)
        return outputs if self.jax_primitive.multiple_results else [outputs]

    def applied(self) -> Program | None:
        jaxpr = self.jax_params.get("call_jaxpr")  # that of a function with a custom derivative
        if jaxpr is None:
            return None
        if "applied" not in self._derived:
            self._derived["applied"] = closed(import_jaxpr(jaxpr))
        return self._derived["applied"]

    def runs(self) -> tuple[Run, ...]:
        applied = self.applied()
        return () if applied is None else (Run(applied),)

    def work(self, *xs: Aval) -> Work:
        count = FLOPS.get(self.name)
        return super().work(*xs) if count is None else Work(count(self.jax_params, xs))

    def pattern(self, at: Site) -> list[list[Matrix | None]]:
        axes = BATCHED.get(self.name)
        return super().pattern(at) if axes is None else at.batched(axes(self.jax_params, at.operands[0].aval))

    def _imported(self, key: Any, f: Callable[..., Any], avals: Sequence[Aval]) -> Program:
        """The Program of the JAX function `f` at `avals`, kept under `key`."""
        key = (*key, tuple(avals))
        if key not in self._derived:
            try:
                imported = import_function(f, *avals)
                if any(isinstance(c, jax.core.Tracer) for c in imported.constants):
                    raise RuleError(f"{self.name}: its rule in jax closes over a value of a trace that has ended")
                self._derived[key] = closed(imported)
            except self.refusals as error:
                reason = f": {error}".rstrip(": ").removesuffix(".")
                remedy = REMEDIES.get(self.name, "")
                where = at(ambient().source or caller_source())
                raise RuleError(f"{self.name}: jax has no rule for this{reason}.{remedy}{where}") from error
        return self._derived[key]

    def pushforward(self, moving: Flags, avals: Sequence[Aval]) -> Program:
        """`(x, dx) -> (y, dy)`, with a tangent for each moving operand and each inexact result."""
        moved = [i for i, a in enumerate(self.out_avals) if a.is_inexact]
        n = len(moving)

        def pushed(*args: Any) -> Any:
            xs, rest = args[:n], iter(args[n:])

            def of_moving(*moving_xs: Any) -> Any:
                given = iter(moving_xs)
                return self.lower(*[next(given) if m else x for m, x in zip(moving, xs, strict=True)])

            ys, dys = jax.jvp(
                of_moving,
                [x for m, x in zip(moving, xs, strict=True) if m],
                list(rest),
            )
            return [*ys, *[dys[i] for i in moved]]

        return self._imported(("jvp", moving), pushed, avals)

    def jvp(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        moving = tuple(dx is not None for dx in dxs)
        tangents = [dx for dx in dxs if dx is not None]
        avals = [x.aval for x in [*xs, *tangents]]
        outputs = ambient().inline(self.pushforward(moving, avals), [*xs, *tangents])
        rest = iter(outputs[len(self.out_avals) :])
        return outputs[: len(self.out_avals)], [next(rest) if a.is_inexact else None for a in self.out_avals]

    def halves(self, moving: Flags, avals: Sequence[Aval]) -> tuple[Program, Program]:
        """`x -> (y, r)` and `(r, ct_y) -> ct_x`, with cotangents of inexact results and moving operands."""
        moved = [i for i, a in enumerate(self.out_avals) if a.is_inexact]
        pulled: list[Any] = []

        def forward(*xs: Any) -> Any:
            def of_moving(*moving_xs: Any) -> Any:
                given = iter(moving_xs)
                ys = self.lower(*[next(given) if m else x for m, x in zip(moving, xs, strict=True)])
                return [ys[i] for i in moved], list(ys)

            _, pullback, ys = jax.vjp(
                of_moving, *[x for m, x in zip(moving, xs, strict=True) if m], has_aux=True
            )
            residuals, tree = jax.tree_util.tree_flatten(pullback)
            pulled.append(tree)
            return [*ys, *residuals]

        program = self._imported(("forward", moving), forward, avals)
        if pulled:
            self._derived["pullback", moving, tuple(avals)] = pulled[-1]
        tree = self._derived["pullback", moving, tuple(avals)]
        residuals = program.out_avals[len(self.out_avals) :]

        def backward(*args: Any) -> Any:
            pullback = jax.tree_util.tree_unflatten(tree, args[: len(residuals)])
            return list(pullback(list(args[len(residuals) :])))

        back = [*residuals, *[self.out_avals[i].strong() for i in moved]]
        return program, self._imported(("backward", moving), backward, back)

    def linearize(self, xs: Sequence[Any], dxs: Sequence[Any]) -> tuple[Any, Any]:
        # A loop's pushforward mixes primals and tangents in one equation; its vjp keeps them apart.
        if not holds_jaxpr(self.jax_params) or self.name == "custom_jvp_call":
            return self.jvp(xs, dxs)
        moving = tuple(dx is not None for dx in dxs)
        forward, backward = self.halves(moving, [x.aval for x in xs])
        n = len(self.out_avals)
        outputs = ambient().inline(forward, xs)
        residuals = outputs[n:]
        linear = CustomLinear(backward, len(residuals), self.name)
        rest = iter(linear(*residuals, *[dx for dx in dxs if dx is not None]))
        return outputs[:n], [next(rest) if a.is_inexact else None for a in self.out_avals]

    def transpose(self, ct: Any, *xs: Any) -> Any:
        linear = tuple(isinstance(x, Undefined) for x in xs)
        fixed = [x for x in xs if not isinstance(x, Undefined)]
        given = tuple(c is not None for c in ct)

        def pullback(*args: Any) -> Any:
            fixed_values, ct_values = args[: len(fixed)], args[len(fixed) :]

            def linear_map(*unknown: Any) -> Any:
                f, u = iter(fixed_values), iter(unknown)
                ys = self.lower(*[next(u) if flag else next(f) for flag in linear])
                return [y for y, g in zip(ys, given, strict=True) if g]

            shapes = [
                jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype)
                for x in xs
                if isinstance(x, Undefined)
            ]
            return jax.linear_transpose(linear_map, *shapes)(list(ct_values))

        operands = [*fixed, *[c for c in ct if c is not None]]
        avals = [x.aval for x in operands]
        imported = self._imported(("transpose", linear, given), pullback, avals)
        outputs = iter(ambient().inline(imported, operands))
        return [next(outputs) if flag else None for flag in linear]

    def batch(self, size: int, xs: Sequence[Any], batched: Sequence[bool]) -> tuple[Any, Any]:
        axes = tuple(0 if b else None for b in batched)
        mapped = jax.vmap(self.lower, in_axes=axes, axis_size=size)
        imported = self._imported(("batch", axes, size), mapped, [x.aval for x in xs])
        return ambient().inline(imported, xs), (True,) * len(self.out_avals)




class Read:
    """What the text of a Program has of JAX's own."""

    def dtype(self, name: str) -> Any:
        """The dtype of the keys of a generator."""
        return reading.key_dtypes().get(name)

    def primitive(self, name: str, params: dict[str, Any], out_avals: tuple[Aval, ...]) -> Primitive:
        """The foreign equation of this name and these parameters."""
        found = reading.primitives().get(name)
        if found is None:
            raise ProgramError(
                f"{name!r} is an equation of JAX's that has no definition in functrace; one that is not among JAX's "
                "public primitives, or that holds a function, cannot be read back"
            )
        return Foreign(found, {k: reading.member(v) for k, v in params.items()}, out_avals, False)


Primitive.foreign = Read()
