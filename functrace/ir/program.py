"""Program: the typed straight-line language that every transform rewrites.

    program  ::=  "program(" input, ... ") {" equation* "return" atom, ... "}"
    input    ::=  name ": " aval
    equation ::=  name ": " aval, ... " = " primitive ["[" param "=" value, ... "]"] atom ...
    atom     ::=  name | number ":" aval

Programs are closed and immutable. Equality and hash are structural: they ignore names and sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrace.ir.aval import Aval
from functrace.ir.primitive import Primitive, Work
from functrace.ir.source import Source


class Var:
    """A value bound once: by being an input or an equation's output. Identity is equality."""

    __slots__ = ("aval", "name")

    def __init__(self, aval: Aval, name: str | None = None):
        self.aval = aval
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name or 'var'}:{self.aval}"


class Literal:
    """A scalar constant in the Program's text. Equal when type and bits are."""

    __slots__ = ("_hash", "aval", "bits", "value")

    def __init__(self, value: Any, aval: Aval):
        self.value = np.asarray(value, aval.dtype)[()]
        self.aval = aval
        self.bits = self.value.tobytes()
        self._hash = hash((self.bits, aval))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Literal) and self.aval is other.aval and self.bits == other.bits
        )

    def __repr__(self) -> str:
        return f"{self.value}:{self.aval}"


Atom = Var | Literal


class Equation:
    """`outputs = primitive(inputs)`, with the user's line that it came from."""

    __slots__ = ("inputs", "outputs", "primitive", "source")

    def __init__(
        self,
        primitive: Primitive,
        inputs: tuple[Atom, ...],
        outputs: tuple[Var, ...],
        source: Source | None,
    ):
        self.primitive = primitive
        self.inputs = inputs
        self.outputs = outputs
        self.source = source

    @property
    def params(self) -> dict[str, Any]:
        """The primitive's parameters by name."""
        return self.primitive.params

    def __repr__(self) -> str:
        return f"{self.outputs} = {self.primitive!r} {self.inputs}"


def held_programs(value: Any) -> tuple[Program, ...]:
    """The Programs in a parameter's value: itself, or those of a tuple."""
    if isinstance(value, Program):
        return (value,)
    return tuple([p for p in value if isinstance(p, Program)]) if isinstance(value, tuple) else ()


class Program:
    """A closed function of arrays: inputs, equations in order, outputs.

    `memo` keeps what transforms made of this Program, so that a layer called 48 times is
    differentiated once; it takes no part in equality.
    """

    __slots__ = ("__weakref__", "_hash", "_key", "equations", "inputs", "memo", "outputs")

    def __init__(
        self,
        inputs: tuple[Var, ...],
        equations: tuple[Equation, ...],
        outputs: tuple[Atom, ...],
    ):
        self.inputs = inputs
        self.equations = equations
        self.outputs = outputs
        self.memo: dict[Any, Any] = {}
        self._key: tuple[Any, ...] | None = None
        self._hash: int | None = None

    @property
    def in_avals(self) -> tuple[Aval, ...]:
        """Types of the inputs."""
        return tuple([v.aval for v in self.inputs])

    @property
    def out_avals(self) -> tuple[Aval, ...]:
        """Types of the outputs."""
        return tuple([v.aval for v in self.outputs])

    @property
    def has_effects(self) -> bool:
        """Whether an equation in here acts on the world, and so must stay and keep its place."""
        found = self.memo.get("has_effects")
        if found is None:
            found = any(eqn.primitive.has_effects for eqn in self.equations)
            self.memo["has_effects"] = found
        return found

    @property
    def work(self) -> Work:
        """The operations that it takes to run."""
        found = self.memo.get("work")
        if found is None:
            found = sum([eqn.primitive.work(*[x.aval for x in eqn.inputs]) for eqn in self.equations], Work(0))
            self.memo["work"] = found
        return found

    def _structure(self) -> tuple[Any, ...]:
        """Everything but names and sources, flat: variables become their numbers."""
        if self._key is None:
            number: dict[Var, int] = {v: i for i, v in enumerate(self.inputs)}
            key: list[Any] = [v.aval for v in self.inputs]
            for eqn in self.equations:
                key.append(eqn.primitive)
                for x in eqn.inputs:
                    key.append(number[x] if isinstance(x, Var) else x)
                for v in eqn.outputs:
                    number[v] = len(number)
                    key.append(v.aval)
            key.append("return")
            for x in self.outputs:
                key.append(number[x] if isinstance(x, Var) else x)
            self._key = tuple(key)
        return self._key

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self._structure())
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Program)
            and hash(self) == hash(other)
            and self._structure() == other._structure()
        )

    def __str__(self) -> str:
        from functrace.ir.text import show

        return show(self)

    __repr__ = __str__

    @staticmethod
    def parse(text: str) -> Program:
        """The Program whose text this is: `Program.parse(str(program)) == program`."""
        from functrace.ir.text import parse

        return parse(text)

    def verify(self) -> Program:
        """Check scoping, types against shape rules, and hashability; return the Program itself."""
        from functrace.ir.verify import verify

        verify(self)
        return self
