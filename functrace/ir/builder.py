"""Builder: the only place where equations are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from functrace.ir.aval import Aval
from functrace.ir.primitive import Primitive, open_builder, write_to
from functrace.ir.program import Atom, Equation, Literal, Program, Var
from functrace.ir.source import Source, caller_source

_shapes: dict[Any, Aval] = {}


def shape_of(primitive: Primitive, avals: tuple[Aval, ...]) -> Aval:
    """The shape rule of a primitive with one result, remembered."""
    key = (primitive, avals)
    found = _shapes.get(key)
    if found is None:
        found = primitive.shape(*avals)
        if len(_shapes) > 100_000:
            _shapes.clear()
        _shapes[key] = found
    return found


def pruned(eqn: Equation, needed: set[Any]) -> Equation:
    """The equation without the results that are not needed, if its primitive can do without them."""
    flags = tuple([v in needed for v in eqn.outputs])
    found = eqn.primitive.prune(flags)
    if found is None:
        return eqn
    primitive, reads, kept = found
    inputs = tuple([x for x, flag in zip(eqn.inputs, reads, strict=True) if flag])
    outputs = tuple([v for v, flag in zip(eqn.outputs, kept, strict=True) if flag])
    return Equation(primitive, inputs, outputs, eqn.source)


class Builder:
    """Writes one Program. `with builder:` makes it the one that primitives emit into.

    `source` is what equations are stamped with while a transform walks an older equation; without
    it, it is the user's line that is running.
    """

    inputs_are_values: ClassVar[bool] = False  # whether what has no definition is a value that a user gave

    __slots__ = (
        "__weakref__", "_definitions", "_outer", "_shared", "captures", "equations", "inputs",
        "is_open", "source", "trace",
    )  # fmt: skip

    def __init__(self, trace: Any = None):
        self.inputs: list[Var] = []
        self.captures: dict[int, tuple[Var, Any]] = {}
        self.equations: list[Equation] = []
        self.source: Source | None = None
        self.is_open = True
        self.trace = trace  # what the tracing layer knows of this trace
        self._shared: dict[Any, tuple[Atom, ...]] = {}
        self._definitions: dict[Var, Equation] = {}
        self._outer: list[Builder | None] = []

    def __enter__(self) -> Self:
        self._outer.append(open_builder())
        write_to(self)
        return self

    def __exit__(self, *error: object) -> None:
        write_to(self._outer.pop())

    def input(self, aval: Aval, name: str | None = None) -> Var:
        """A new input."""
        var = Var(aval, name)
        self.inputs.append(var)
        return var

    def capture(self, value: Any, aval: Aval, name: str | None = None) -> Var:
        """The leading input that stands for a value from outside; one a value."""
        found = self.captures.get(id(value))
        if found is None:  # the value is kept alive beside its input, so its id stays its own
            found = self.captures[id(value)] = (Var(aval, name), value)
        return found[0]

    def definition(self, atom: Atom) -> Equation | None:
        """The equation of this Program that made `atom`, if one did."""
        return self._definitions.get(atom) if type(atom) is Var else None

    def emit(self, primitive: Primitive, inputs: tuple[Atom, ...]) -> tuple[Atom, ...]:
        """Apply a primitive: fold, simplify, share, or else append an equation."""
        for x in inputs:
            if type(x) is Var:
                break
        else:
            folded = primitive.fold(*[x.value for x in inputs]) if inputs else None  # pyright: ignore[reportAttributeAccessIssue]
            if folded is not None:
                return (Literal(folded, primitive.shape(*[x.aval for x in inputs])),)
        simple = primitive.simplify(self, *inputs)
        if simple is not None:
            return simple if primitive.multiple_results else (simple,)
        return Builder.append(self, primitive, inputs)  # a subclass that appends otherwise has said so in its `emit`

    def append(
        self, primitive: Primitive, inputs: tuple[Atom, ...], like: tuple[Var, ...] | None = None
    ) -> tuple[Atom, ...]:
        """Share or append an equation that does not simplify; `like` has the types of its outputs."""
        if primitive.has_effects:
            key = None
        else:
            key = (primitive, inputs)
            found = self._shared.get(key)
            if found is None and primitive.commutative:
                found = self._shared.get((primitive, inputs[::-1]))
            if found is not None:
                return found
        if like is not None:
            outputs = tuple([Var(v.aval) for v in like])
        else:
            outputs = self.results(primitive, inputs)
        equation = Equation(primitive, inputs, outputs, self.source or caller_source())
        self.equations.append(equation)
        if len(outputs) == 1:
            self._definitions[outputs[0]] = equation
        else:
            self._definitions.update(dict.fromkeys(outputs, equation))
        if key is not None:
            self._shared[key] = outputs
        return outputs

    def widen(self, equation: Equation, primitive: Primitive) -> None:
        """Let an equation of this Program be of a primitive with the same results, and more behind them."""
        more = self.results(primitive, equation.inputs)[len(equation.outputs) :]
        equation.primitive, equation.outputs = primitive, (*equation.outputs, *more)
        self._definitions.update(dict.fromkeys(more, equation))

    def results(self, primitive: Primitive, inputs: tuple[Atom, ...]) -> tuple[Var, ...]:
        """New variables of the types that the shape rule gives."""
        if primitive.multiple_results:
            return tuple([Var(a) for a in primitive.shape(*[x.aval for x in inputs])])
        n = len(inputs)
        if n == 2:  # the usual cases, written out: this runs once for each equation
            x, y = inputs
            if x.aval is y.aval and primitive.keeps_type_of == 2:
                return (Var(x.aval),)
            return (Var(shape_of(primitive, (x.aval, y.aval))),)
        if n == 1 and primitive.keeps_type_of == 1:
            return (Var(inputs[0].aval),)
        return (Var(shape_of(primitive, tuple([x.aval for x in inputs]))),)

    def inline(self, program: Program, inputs: Sequence[Atom]) -> list[Atom]:
        """Write a whole Program here, its inputs bound to `inputs`, and return its outputs."""
        env: dict[Atom, Atom] = dict(zip(program.inputs, inputs, strict=True))
        # Values of which nothing is known here simplify no further than they did there.
        as_is = len(set(inputs)) == len(inputs) and all([
            type(x) is Var and x.aval is v.aval and x not in self._definitions
            for v, x in zip(program.inputs, inputs, strict=True)
        ])  # fmt: skip
        outer = self.source
        is_backward = outer is not None and outer.backward
        try:
            for eqn in program.equations:
                source = eqn.source
                if source is None or (outer is not None and not source.file):
                    source = outer
                elif is_backward:
                    source = source.in_backward()
                self.source = source
                operands = tuple([env[x] if type(x) is Var else x for x in eqn.inputs])
                if as_is:
                    outputs = self.append(eqn.primitive, operands, eqn.outputs)
                else:
                    outputs = self.emit(eqn.primitive, operands)
                for v, y in zip(eqn.outputs, outputs, strict=True):
                    env[v] = y
                    if v.name is not None and type(y) is Var and y.name is None:
                        y.name = v.name
        finally:
            self.source = outer
        return [env[x] if type(x) is Var else x for x in program.outputs]

    def build(self, outputs: Sequence[Atom]) -> Program:
        """The finished Program, captured inputs first, without what no output needs."""
        needed = set(outputs)
        kept: list[Equation] = []
        for eqn in reversed(self.equations):
            if not needed.isdisjoint(eqn.outputs) or eqn.primitive.has_effects:
                if len(eqn.outputs) > 1 and not needed.issuperset(eqn.outputs):
                    eqn = pruned(eqn, needed)
                kept.append(eqn)
                needed.update(eqn.inputs)
        kept.reverse()
        captured = [v for v, _ in self.captures.values()]
        return Program((*captured, *self.inputs), tuple(kept), tuple(outputs))
