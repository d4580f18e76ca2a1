"""Program: the typed straight-line language that every transform rewrites.

    program  ::=  "program(" input, ... ") {" equation* "return" atom, ... "}"
    input    ::=  name ": " aval
    equation ::=  name ": " aval, ... " = " primitive ["[" param "=" value, ... "]"] atom ...
    atom     ::=  name | number ":" aval

Programs are closed and immutable. Equality and hash are structural: they ignore names and sources.
"""

from __future__ import annotations

import keyword
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from functrace.errors import ArgumentError
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


class Runtime(Protocol):
    """What runs Programs, which the IR knows nothing of."""

    def call(self, program: Program, args: Any, kwargs: Any) -> Any:
        """The results at arrays, or at tracers of the running trace."""
        ...

    def settled(self, program: Program) -> Program:
        """The same with derivatives of the backend's own written out."""
        ...

    def closed(self, program: Program) -> Program:
        """The same with captured values, and derivatives of the backend's own, written out."""
        ...


class Program:
    """A closed function of arrays: inputs, equations in order, outputs.

    `memo` keeps what transforms made of this Program, so that a layer called 48 times is
    differentiated once. `captured` are values of the leading inputs, which a call fills in, and `structure` is what
    a call returns: lists, tuples and dicts of output numbers; `...` for the output, or a tuple of several. These
    three take no part in equality.
    """

    __slots__ = (
        "__weakref__", "_hash", "_key", "captured", "equations", "inputs", "memo", "outputs", "structure",
    )  # fmt: skip
    runtime: ClassVar[Runtime]

    def __init__(
        self,
        inputs: tuple[Var, ...],
        equations: tuple[Equation, ...],
        outputs: tuple[Atom, ...],
    ):
        self.inputs = inputs
        self.equations = equations
        self.outputs = outputs
        self.captured: tuple[Any, ...] = ()
        self.structure: Any = ...
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
            kinds = Counter([(eqn.primitive, *[x.aval for x in eqn.inputs]) for eqn in self.equations])
            found = sum([prim.work(*xs) * n for (prim, *xs), n in kinds.items()], Work(0))
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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The results: a Program is a function, and the transforms of functions are for it too.

        Args:
          *args: pytrees of arrays whose leaves, in order, are the inputs that are not captured.
          **kwargs: more of them, for what the traced function had by keyword.
        Returns:
          What the traced function returned, with dicts for named tuples and other classes. Of a Program that a
          rewrite made: the output, or a tuple of several.
        Raises:
          ArgumentError: there are more or fewer leaves than inputs.
          DtypeError: a leaf has another shape or dtype than its input.

        >>> import functrace as ft
        >>> square = ft.make_program(lambda x: x * x)(3.0)
        >>> float(square(5.0)), float(ft.grad(square)(5.0))
        (25.0, 10.0)
        """
        return self.runtime.call(self, args, kwargs)

    def to_python(self, name: str = "program") -> str:
        """The text of a Python function that gives the same results, and of what it imports: numpy and functrace.

        It takes the inputs one by one, those that are captured too, and has the names of the user's arguments.

        Args:
          name: what to call it.
        Raises:
          ArgumentError: the name is no name of Python's.
          ProgramError: a part has no text: a `custom_vmap` rule, a callback.

        >>> import functrace as ft
        >>> print(ft.make_program(ft.grad(lambda x: x**3))(2.0).to_python("slope"))
        import numpy as np
        <BLANKLINE>
        import functrace as ft
        from functrace import lax
        <BLANKLINE>
        <BLANKLINE>
        def slope(x: "f32[]~"):
            x = lax.convert_element_type(x, np.dtype("float32"))
            a = lax.integer_pow(x, 2)
            b = a * 3.0
            return b
        """
        from functrace.ir.python import to_python

        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ArgumentError(f"to_python: name must be one that Python takes for a function, got {name!r}.")
        return to_python(self.runtime.settled(self), name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the Program to a file, whole or not at all: its text, below a line with a checksum.

        What the traced function closed over goes with it. JAX's own equations (factorizations, Fourier transforms,
        random bits) go by name with their parameters.

        Args:
          path: where; the folder must exist.
        Raises:
          MissingFileError: there is no such folder.
          ProgramError: a part has no text: a `custom_vmap` rule, a callback.

        >>> import tempfile, functrace as ft
        >>> path = Path(tempfile.mkdtemp()) / "gradient.txt"
        >>> ft.make_program(ft.grad(lambda x: x**3))(2.0).save(path)
        >>> gradient = Program.load(path)
        >>> float(gradient(2.0)), float(ft.grad(gradient)(2.0))
        (12.0, 12.0)
        """
        from functrace.ir.files import save

        save(self.runtime.closed(self), Path(path))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Program:
        """The Program in a file that `save` wrote, once its checksum is verified. No code in the file is run.

        It is a function: it can be called, differentiated, vmapped and compiled, without the code it came from.

        Args:
          path: the file.
        Raises:
          MissingFileError: there is no such file.
          FileError: the file is damaged, of another kind, or written by a newer functrace; or it has a primitive that
            is not defined here.
        """
        from functrace.ir.files import load

        return load(Path(path))

    def verify(self) -> Program:
        """Check scoping, types against shape rules, and hashability; return the Program itself."""
        from functrace.ir.verify import verify

        verify(self)
        return self
