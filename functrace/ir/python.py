"""A Program as the text of a Python function.

Arithmetic is written with operators, what `functrace.lax` has by its name there, and loops and branches as functions
handed to `lax.scan`, `lax.while_loop` and `lax.switch`. All else is `lax.bind("name", *operands, **parameters)`. A
primitive says in `spelling` or `spelled` how it reads.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrace.errors import ProgramError
from functrace.ir.aval import Aval
from functrace.ir.primitive import Member, Primitive
from functrace.ir.program import Equation, Literal, Program, Var
from functrace.ir.text import Names, container, told

IMPORTS = "import numpy as np\n\nimport functrace as ft\nfrom functrace import lax"
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
             "ne": "!=", "and": "&", "or": "|", "xor": "^"}  # fmt: skip
# Not in `lax` by this name, or not in every version of it, or not with these operands.
UNLIKE = {"copy", "dynamic_update_slice", "eq_to", "le_to", "lt_to", "log2", "one_minus_square", "not", "and", "or",
          "xor", "regularized_incomplete_beta"}  # fmt: skip


def to_python(program: Program, name: str) -> str:
    """The text of a function `name` that computes what the Program does."""
    writer = Python()
    writer.names.taken.add(name)
    arguments = ", ".join([f'{writer.bind(v)}: "{v.aval!r}"' for v in program.inputs])
    writer.line(f"def {name}({arguments}):")
    with writer:
        for v in program.inputs:
            if v.aval.weak_type:  # a Python number, whose type depends on whether 64 bits are enabled
                x = writer.read(v)
                writer.line(f"{x} = lax.convert_element_type({x}, {writer.value(v.aval.dtype)})")
        results = writer.body(program)
        writer.line(f"return {container(program, results) or '()'}")
    before = [line for block in writer.functions for line in [*block, "", ""]]
    return "\n".join([IMPORTS, "", "", *before, *writer.lines])


class Python:
    """Lines of functions being written."""

    def __init__(self) -> None:
        self.names = Names()
        self.names.taken |= {*keyword.kwlist, *dir(builtins), "np", "ft", "lax"}
        self.lines: list[str] = []
        self.indent = ""
        self.functions: list[list[str]] = []  # those that stand before all others
        self.written: dict[Any, tuple[Program, str]] = {}
        self.text: dict[Any, str] = {}  # what stands for a variable
        self.made: dict[Any, Equation] = {}  # the equation that made it

    def __enter__(self) -> None:
        self.indent += "    "

    def __exit__(self, *error: object) -> None:
        self.indent = self.indent[4:]

    def line(self, text: str) -> None:
        """One more line."""
        self.lines.append(self.indent + text)

    def name(self, label: str) -> str:
        """A name that nothing else has, like `label`."""
        return self.names.bind(Var(Aval((), np.dtype(bool)), label.replace(".", "_")))

    def bind(self, v: Var) -> str:
        """The name of a variable from here on."""
        found = self.names.bind(Var(v.aval, v.name.replace(".", "_") if v.name else None))
        self.text[v] = found
        return found

    def read(self, x: Any) -> str:
        """An operand: a name, or a number of its very type."""
        return literal(x) if type(x) is Literal else self.text[x]

    def body(self, program: Program, inputs: Sequence[str] | None = None) -> list[str]:
        """The lines of the equations, and the texts of the outputs; `inputs` is what stands for the inputs."""
        if inputs is not None:
            self.text.update(zip(program.inputs, inputs, strict=True))
        for eqn in program.equations:
            if not eqn.primitive.readable_text:
                raise ProgramError(
                    f"to_python: {eqn.primitive.name} has parameters that no text gives back, such as a function"
                )
            eqn.primitive.spelled(self, eqn)
            self.made.update(dict.fromkeys(eqn.outputs, eqn))
        return [self.read(x) for x in program.outputs]

    def assign(self, eqn: Equation, right: str) -> None:
        """The line that gives an equation's outputs their values."""
        if eqn.primitive.multiple_results:
            self.line(f"{self.targets(eqn.outputs)} = {right}")
        else:
            self.line(f"{self.bind(eqn.outputs[0])} = {right}")

    def targets(self, outputs: Sequence[Var]) -> str:
        """Names that a sequence is unpacked into."""
        return tuple_text([self.bind(v) for v in outputs])

    def operands(self, eqn: Equation) -> list[str]:
        """The texts of the operands."""
        return [self.read(x) for x in eqn.inputs]

    def usual(self, eqn: Equation) -> None:
        """An operator, a function of `lax`, or else `lax.bind`."""
        prim, params = eqn.primitive, told(eqn.primitive)
        xs = self.operands(eqn)
        mark = OPERATORS.get(prim.name)
        kind = getattr(eqn.inputs[0].aval.dtype, "kind", "") if eqn.inputs else ""
        if not params and mark and kind in ("fcV" if mark in "/" else "fcViub" if mark not in "+-*" else "fcViu"):
            if not all([type(x) is Literal for x in eqn.inputs]):
                return self.assign(eqn, f" {mark} ".join([number(x) or t for x, t in zip(eqn.inputs, xs, strict=True)]))
        elif prim.name == "neg" and xs[0].isidentifier():
            return self.assign(eqn, f"-{xs[0]}")
        elif prim.name == "not" and xs[0].isidentifier():
            return self.assign(eqn, f"~{xs[0]}")
        elif prim.spelling and all([f"{{{k}}}" in prim.spelling for k in params]):
            values = {k: self.value(v) for k, v in prim.text_params.items()}
            return self.assign(eqn, prim.spelling.format(*xs, tuple=tuple_text(xs), **values))
        elif not params and prim.jax_names == (prim.name,) and prim.name not in UNLIKE and not prim.multiple_results:
            return self.assign(eqn, f"lax.{prim.name}({', '.join(xs)})")
        self.assign(eqn, self.bound(prim, xs))

    def bound(self, prim: Primitive, xs: Sequence[str]) -> str:
        """`lax.bind` with the name, the operands and the parameters of a primitive."""
        name = prim.name if Primitive.named.get(prim.name) in (prim, type(prim)) else f"foreign.{prim.name}"
        params = [f"{k}={self.value(v)}" for k, v in told(prim).items()]
        return f"lax.bind({', '.join([repr(name), *xs, *params])})"

    def value(self, x: Any) -> str:
        """A parameter's value; Programs are functions."""
        if isinstance(x, Program):
            return self.function(x, "inner")
        if isinstance(x, tuple):
            return tuple_text([self.value(item) for item in x])
        if isinstance(x, np.dtype):
            return f'np.dtype("{x.name}")'
        if isinstance(x, Member):
            return repr(str(x))
        return repr(x) if not isinstance(x, float) or np.isfinite(x) else f'float("{x}")'

    def function(self, program: Program, label: str, decorator: str = "") -> str:
        """The name of a function, above all others, that computes a Program; equal ones are one."""
        key = (id(program), decorator)
        if key not in self.written:
            name = self.name(label)
            self.written[key] = (program, name)
            lines, indent, self.lines, self.indent = self.lines, self.indent, [], ""
            if decorator:
                self.line(decorator)
            arguments = ", ".join([f'{self.bind(v)}: "{v.aval!r}"' for v in program.inputs])
            self.line(f"def {name}({arguments}):")
            with self:
                self.line(f"return {tuple_text(self.body(program))}")
            self.functions.append(self.lines)
            self.lines, self.indent = lines, indent
        return self.written[key][1]

    def closure(self, label: str, arguments: str, program: Program, inputs: Sequence[str], returns: Any) -> str:
        """The name of a function written here, whose Program reads what is around it; `returns` of the outputs."""
        name = self.name(label)
        self.line(f"def {name}({arguments}):")
        with self:
            self.line(f"return {returns(self.body(program, inputs))}")
        return name


def tuple_text(items: Sequence[str]) -> str:
    """A tuple of these texts."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def number(x: Any) -> str | None:
    """A Python number, for a literal that takes the type of its partner and reads back to the same bits."""
    if type(x) is not Literal or not x.aval.weak_type or x.aval.kind not in "fiV":
        return None
    if x.aval.kind == "i":
        return str(int(x.value)) if abs(int(x.value)) < 2**31 else None
    text = shortest(x)
    return None if text is None or "n" in text else text


def shortest(x: Literal) -> str | None:
    """The shortest text of a real number from which Python's `float` gives the same bits; None if there is none."""
    for text in (str(x.value), repr(float(x.value))):
        if np.asarray(float(text), x.aval.dtype).tobytes() == x.bits:
            return text
    return None


def literal(x: Literal) -> str:
    """A number as a NumPy scalar."""
    dtype, name = x.aval.dtype, x.aval.dtype.name
    if dtype.kind == "b":
        return f"np.bool_({bool(x.value)})"
    of = f"np.{name}" if hasattr(np, name) else f'np.dtype("{name}").type'
    if dtype.kind in "iu":
        return f"{of}({int(x.value)})"
    text = shortest(x) if dtype.kind in "fV" else None
    if text is not None:
        return f'{of}("{text}")' if "n" in text else f"{of}({text})"
    return f'np.frombuffer(bytes.fromhex("{x.bits.hex()}"), "{name}")[0]'
