"""The text of a Program, and the Program of a text. The grammar:

    program  ::=  "program(" [name ": " aval, ...] ") {" equation* "return" [atom, ...] "}"
    equation ::=  name ": " aval, ... " = " primitive ["[" param "=" value, ... "]"] atom*
    aval     ::=  dtype "[" size, ... "]" ["~"]                   "~" marks a weak type
    atom     ::=  name | number ":" dtype ["~"]
    value    ::=  int | float | string | dtype | "True" | "False" | "None" | "(" value, ... ")" | program

Parameters at their defaults are left out. From `#` to the end of a line stands the user's source line,
which parsing passes over. Both directions are linear in the size of the Program, and reading text runs
no code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import count, product
from string import ascii_lowercase
from typing import Any

import numpy as np

from functrace.errors import ProgramError
from functrace.ir.aval import DTYPES, Aval, dtype_text
from functrace.ir.primitive import Primitive
from functrace.ir.program import Equation, Literal, Program, Var, held_programs

RESERVED = {*DTYPES, "program", "return", "True", "False", "None", "inf", "nan", "infj", "nanj"}
COMMENT_COLUMN = 72


def show(program: Program) -> str:
    """The Program as text."""
    lines: list[str] = []
    _write(program, "", lines, "")
    return "\n".join(lines)


def _write(program: Program, indent: str, lines: list[str], prefix: str) -> None:
    """Append the lines of a Program; the first one follows `prefix`."""
    names = Names()
    inputs = ", ".join(f"{names.bind(v)}: {v.aval!r}" for v in program.inputs)
    lines.append(f"{prefix}program({inputs}) {{")
    for eqn in program.equations:
        operands = "".join([f" {names.read(x)}" for x in eqn.inputs])
        outputs = ", ".join([f"{names.bind(v)}: {v.aval!r}" for v in eqn.outputs])
        start = len(lines)
        line = f"{indent}  {outputs} = {_name(eqn.primitive)}"
        params = told(eqn.primitive)
        if params:
            line += "["
            for i, (key, value) in enumerate(params.items()):
                line = _write_value(value, indent + "    ", lines, f"{line}{', ' if i else ''}{key}=")
            line += "]"
        line += operands
        if eqn.source and eqn.source.file and len(lines) == start:
            scope = f" in {eqn.source.scope}" if eqn.source.scope else ""
            line = f"{line:<{COMMENT_COLUMN}}  # {eqn.source}{scope}"
        lines.append(line)
    results = ", ".join([names.read(x) for x in program.outputs])
    lines.append(f"{indent}  return {results}".rstrip())
    lines.append(indent + "}")


def _write_value(value: Any, indent: str, lines: list[str], line: str) -> str:
    """`line` with a parameter's text behind it; the lines before its last one are appended to `lines`."""
    if isinstance(value, Program):
        _write(value, indent, lines, line)
        return lines.pop()
    if not held_programs(value):
        return line + value_text(value)
    line += "("
    for x in value:
        line = _write_value(x, indent, lines, line) + ", "
    return line[: -1 if len(value) == 1 else -2] + ")"


def told(primitive: Primitive) -> dict[str, Any]:
    """The parameters that the text shows: those that are not what they are by default."""
    if not primitive.readable_text:
        return {}
    usual = _defaults(type(primitive))
    return {
        k: v for k, v in primitive.params.items()
        if k not in usual or type(v) is not type(usual[k]) or v != usual[k]
    }  # fmt: skip


@cache
def _defaults(cls: Any) -> dict[str, Any]:
    return {f.name: f.default for f in fields(cls) if f.default is not MISSING} if is_dataclass(cls) else {}


def _name(primitive: Primitive) -> str:
    return primitive.name if primitive.readable_text else f"foreign.{primitive.name}"


class Names:
    """Gives each variable a name of its own: the user's where there is one."""

    def __init__(self) -> None:
        self.of: dict[Var, str] = {}
        self.taken: set[str] = set(RESERVED)
        self.fresh = ("".join(s) for n in count(1) for s in product(ascii_lowercase, repeat=n))
        self.repeats: dict[str, Iterator[int]] = {}

    def bind(self, v: Var) -> str:
        """The name of a variable from here on."""
        if v.name is None:
            name = next(n for n in self.fresh if n not in self.taken)
        else:
            wanted = re.sub(r"[^\w.]", "_", v.name)
            wanted = wanted if re.match(r"[A-Za-z_]", wanted) else f"_{wanted}"
            name = wanted
            while name in self.taken:
                name = f"{wanted}_{next(self.repeats.setdefault(wanted, count(1)))}"
        self.taken.add(name)
        self.of[v] = name
        return name

    def read(self, x: Any) -> str:
        """The text of an atom."""
        return _literal(x) if type(x) is Literal else self.of[x]


def _literal(x: Literal) -> str:
    """A number that reads back to the same bits, and its type."""
    kind = f"{dtype_text(x.aval.dtype)}{'~' if x.aval.weak_type else ''}"
    for text in (str(x.value), repr(x.value.item())):
        text = text.strip("()")
        try:
            if _number(text, x.aval.dtype).tobytes() == x.bits:
                return f"{text}:{kind}"
        except (ValueError, TypeError):
            continue
    return f"0x{x.bits.hex()}:{kind}"


def _number(text: str, dtype: Any) -> Any:
    """The scalar of a dtype that a number's text stands for."""
    if text.startswith("0x"):
        return np.frombuffer(bytes.fromhex(text[2:]), dtype)[0]
    if dtype.kind == "b":
        return np.asarray({"True": True, "False": False}[text], dtype)[()]
    if dtype.kind == "c":
        return np.asarray(complex(text), dtype)[()]
    return np.asarray(int(text) if dtype.kind in "iu" else float(text), dtype)[()]


def value_text(x: Any) -> str:
    """A parameter's text."""
    if isinstance(x, tuple):
        return f"({', '.join(map(value_text, x))}{',' if len(x) == 1 else ''})"
    return dtype_text(x) if isinstance(x, np.dtype) else repr(x)


TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<number>0x[0-9a-f]+
          |[+-]?(?:inf|nan|\d+\.?\d*(?:e[+-]?\d+)?)(?:[+-](?:inf|nan|\d+\.?\d*(?:e[+-]?\d+)?)j|j)?(?![\w.]))
      | (?P<name>[A-Za-z_][\w.]*)
      | (?P<mark>[\[\](){}:=,~])""",
    re.VERBOSE,
)


class _Reader:
    """Tokens, one ahead."""

    def __init__(self, text: str):
        self.tokens = self.scan(text)
        self.advance()

    def scan(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Kind, text and line of each token."""
        position, line = 0, 1
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise ProgramError(f"line {line}: cannot read {text[position : position + 20]!r}")
            position = match.end()
            kind = str(match.lastgroup)
            if kind == "line":
                line += 1
            elif kind != "skip":
                yield kind, match.group(), line
        yield "end", "the end of the text", line

    def advance(self) -> str:
        """The text of the current token, having moved past it; `passed` is its line."""
        found, self.passed = getattr(self, "text", ""), getattr(self, "line", 1)
        self.kind, self.text, self.line = next(self.tokens, ("end", "the end of the text", self.passed))
        return found

    def fail(self, expected: str) -> ProgramError:
        """The error for a token that does not belong."""
        return ProgramError(f"line {self.line}: expected {expected}, found {self.text!r}")

    def expect(self, text: str) -> None:
        """Move past a token that must be there."""
        if self.text != text or self.kind == "string":
            raise self.fail(repr(text))
        self.advance()

    def accept(self, text: str) -> bool:
        """Move past a token if it is there."""
        if self.text == text and self.kind != "string":
            self.advance()
            return True
        return False

    def take(self, kind: str) -> str:
        """Move past a token of a kind, and return its text."""
        if self.kind != kind:
            raise self.fail(f"a {kind}")
        return self.advance()


def parse(text: str) -> Program:
    """The Program that `show` wrote.

    Raises:
      ProgramError: the text does not follow the grammar, names something unknown, or breaks a law of the
        IR; with the line. A Program that holds foreign equations cannot be read back.
    """
    reader = _Reader(text)
    program = _program(reader)
    if reader.kind != "end":
        raise reader.fail("the end of the text")
    return program.verify()


def _program(reader: _Reader) -> Program:
    scope: dict[str, Var] = {}
    reader.expect("program")
    reader.expect("(")
    inputs: list[Var] = []
    while not reader.accept(")"):
        inputs.append(_binding(reader, scope))
        if reader.text != ")":
            reader.expect(",")
    reader.expect("{")
    equations: list[Equation] = []
    while not reader.accept("return"):
        equations.append(_equation(reader, scope))
    outputs: list[Any] = []
    while not reader.accept("}"):
        outputs.append(_atom(reader, scope))
        if reader.text != "}":
            reader.expect(",")
    return Program(tuple(inputs), tuple(equations), tuple(outputs))


def _binding(reader: _Reader, scope: dict[str, Var]) -> Var:
    line, name = reader.line, reader.take("name")
    if name in scope:
        raise ProgramError(f"line {line}: {name!r} is bound twice")
    reader.expect(":")
    # A name of letters alone is one that `show` made up.
    scope[name] = Var(_aval(reader), None if re.fullmatch("[a-z]{1,3}", name) else name)
    return scope[name]


def _dtype(reader: _Reader) -> np.dtype[Any]:
    line, name = reader.line, reader.take("name")
    if name not in DTYPES:
        raise ProgramError(f"line {line}: unknown dtype {name!r}")
    return DTYPES[name]


def _aval(reader: _Reader) -> Aval:
    dtype = _dtype(reader)
    reader.expect("[")
    sizes: list[int] = []
    while not reader.accept("]"):
        sizes.append(int(reader.take("number")))
        reader.accept(",")
    return Aval(tuple(sizes), dtype, reader.accept("~"))


def _atom(reader: _Reader, scope: dict[str, Var]) -> Any:
    line = reader.line
    if reader.kind == "name" and reader.text not in ("True", "False"):
        name = reader.advance()
        if name not in scope:
            raise ProgramError(f"line {line}: {name!r} is read before it is bound")
        return scope[name]
    if reader.kind not in ("number", "name"):
        raise reader.fail("a name or a number")
    text = reader.advance()
    reader.expect(":")
    dtype = _dtype(reader)
    weak = reader.accept("~")
    try:
        return Literal(_number(text, dtype), Aval((), dtype, weak))
    except (ValueError, KeyError, OverflowError) as error:
        raise ProgramError(f"line {line}: {text!r} is no {dtype_text(dtype)}") from error


def _equation(reader: _Reader, scope: dict[str, Var]) -> Equation:
    bound: dict[str, Var] = {}  # in scope after this equation
    outputs: list[Var] = []
    while True:
        if reader.text in scope:
            raise ProgramError(f"line {reader.line}: {reader.text!r} is bound twice")
        outputs.append(_binding(reader, bound))
        if reader.accept("="):
            break
        reader.expect(",")
    line, name = reader.line, reader.take("name")
    if name.startswith("foreign."):
        raise ProgramError(
            f"line {line}: {name.removeprefix('foreign.')!r} is an equation of JAX's that has no definition "
            "in functrace; a Program that holds one cannot be read back"
        )
    params: dict[str, Any] = {}
    if reader.accept("["):
        while not reader.accept("]"):
            key = reader.take("name")
            reader.expect("=")
            params[key] = _param(reader)
            if reader.text != "]":
                reader.expect(",")
    inputs: list[Any] = []
    here = reader.passed  # operands stand on the line where the primitive's text ends
    while reader.line == here and reader.kind in ("name", "number"):
        inputs.append(_atom(reader, scope))
    scope.update(bound)
    return Equation(_primitive(name, params, line), tuple(inputs), tuple(outputs), None)


def _param(reader: _Reader) -> Any:
    line = reader.line
    if reader.text == "program" and reader.kind == "name":
        return _program(reader)
    if reader.accept("("):
        items: list[Any] = []
        while not reader.accept(")"):
            items.append(_param(reader))
            if reader.text != ")":
                reader.expect(",")
        return tuple(items)
    kind, text = reader.kind, reader.advance()
    if kind == "string":
        return ast.literal_eval(text)
    if kind == "number":
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    if text in DTYPES:
        return DTYPES[text]
    raise ProgramError(f"line {line}: {text!r} is no value of a parameter")


def _primitive(name: str, params: dict[str, Any], line: int) -> Primitive:
    found = Primitive.named.get(name)
    if found is None:
        raise ProgramError(f"line {line}: unknown primitive {name!r}")
    if not isinstance(found, type):
        if params:
            raise ProgramError(f"line {line}: {name} takes no parameters")
        return found
    try:
        return found(**params)
    except TypeError as error:
        raise ProgramError(f"line {line}: {name}: {error}") from error
