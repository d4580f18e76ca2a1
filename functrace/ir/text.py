"""The text of a Program, and the Program of a text. The grammar:

    program  ::=  "program(" [name ": " aval, ...] ") {" equation* "return" [result, ...] "}"
    equation ::=  name ": " aval, ... " = " primitive ["[" param "=" value, ... "]"] atom*
    aval     ::=  dtype "[" size, ... "]" ["~"]                   "~" marks a weak type
    atom     ::=  name | number ":" dtype ["~"]
    result   ::=  atom | "None" | "(" result, ... ")" | "[" result, ... "]" | "{" key ": " result, ... "}"
    key      ::=  string | int
    value    ::=  int | float | string | dtype | kind "." name | "True" | "False" | "None" | program
               |  "(" value, ... ")"

Parameters at their defaults are left out. From `#` to the end of a line stands the user's source line. JAX's own
equations are `foreign.` and their name, with parameters that are such values, of which `kind.name` is one of an
enumeration; `[...]` stands for parameters that have no text, and does not read back. Both directions are linear in the
size of the Program, and reading text runs no code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import count, product
from string import ascii_lowercase
from typing import Any

import numpy as np

from functrace.errors import FunctraceError, ProgramError
from functrace.ir.aval import DTYPES, Aval, dtype_text
from functrace.ir.primitive import Member, Primitive
from functrace.ir.program import Equation, Literal, Program, Var, held_programs
from functrace.ir.source import Source

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
        if not eqn.primitive.readable_text:
            line += "[...]"
        elif params:
            line += "["
            for i, (key, value) in enumerate(params.items()):
                line = _write_value(value, indent + "    ", lines, f"{line}{', ' if i else ''}{key}=")
            line += "]"
        line += operands
        if eqn.source and eqn.source.file and len(lines) == start:
            scope = f" in {eqn.source.scope}" if eqn.source.scope else ""
            line = f"{line:<{COMMENT_COLUMN}}  # {eqn.source}{scope}"
        lines.append(line)
    lines.append(f"{indent}  return {container(program, [names.read(x) for x in program.outputs])}".rstrip())
    lines.append(indent + "}")


def container(program: Program, outputs: list[str]) -> str:
    """The outputs as what a call returns; those of a tuple of several stand without brackets."""

    def nested(x: Any) -> str:
        if isinstance(x, dict):
            return f"{{{', '.join([f'{k!r}: {nested(v)}' for k, v in x.items()])}}}"
        if isinstance(x, list):
            return f"[{', '.join(map(nested, x))}]"
        if isinstance(x, tuple):
            return f"({', '.join(map(nested, x))}{',' if len(x) == 1 else ''})"
        return "None" if x is None else outputs[x]

    return ", ".join(outputs) if program.structure is ... else nested(program.structure)


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
        k: v for k, v in primitive.text_params.items()
        if k not in usual or type(v) is not type(usual[k]) or v != usual[k]
    }  # fmt: skip


@cache
def _defaults(cls: Any) -> dict[str, Any]:
    return {f.name: f.default for f in fields(cls) if f.default is not MISSING} if is_dataclass(cls) else {}


def _name(primitive: Primitive) -> str:
    named = Primitive.named.get(primitive.name)
    own = primitive.readable_text and (named is primitive or named is type(primitive))
    return primitive.name if own else f"foreign.{primitive.name}"


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
    return dtype_text(x) if isinstance(x, np.dtype) else str(x) if isinstance(x, Member) else repr(x)


TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<number>0x[0-9a-f]+
          |[+-]?(?:inf|nan|\d+\.?\d*(?:e[+-]?\d+)?)(?:[+-](?:inf|nan|\d+\.?\d*(?:e[+-]?\d+)?)j|j)?(?![\w.]))
      | (?P<name>key<\w+>|[A-Za-z_][\w.]*)
      | (?P<mark>[\[\](){}:=,~]|\.\.\.)""",
    re.VERBOSE,
)
ORIGIN = re.compile(r"# (.+):(\d+)(?: in (\S+))?\s*")
LOADED = "a Program that was read"  # the function of an equation whose text alone is known


class _Reader:
    """Tokens, one ahead."""

    def __init__(self, text: str):
        self.tokens = self.scan(text)
        self.sources: dict[int, Source] = {}
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
            elif origin := ORIGIN.fullmatch(match.group()):
                self.sources[line] = Source(origin[1], int(origin[2]), LOADED, "", origin[3] or "")
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
        IR; with the line.
    """
    reader = _Reader(text)
    try:
        program = _program(reader)
    except RecursionError as error:
        raise ProgramError(f"line {reader.line}: brackets or Programs are nested too deep") from error
    if reader.kind != "end":
        raise reader.fail("the end of the text")
    try:
        return program.verify()
    except FunctraceError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:  # of a shape rule
        raise ProgramError(f"an equation has parameters that its primitive cannot have: {error}") from error


class _Scope(dict[str, Var]):
    """The variables of a Program by name. Of those with names that `show` makes up, no name is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh = Names().fresh
        self.next = next(self.fresh)

    def variable(self, name: str, aval: Aval, more: dict[str, Var]) -> Var:
        """The variable of this name; `more` are bound beside those in here."""
        while self.next in RESERVED or self.next in self or self.next in more:
            self.next = next(self.fresh)
        return Var(aval, None if name == self.next else name)


def _program(reader: _Reader) -> Program:
    scope = _Scope()
    reader.expect("program")
    reader.expect("(")
    inputs: list[Var] = []
    while not reader.accept(")"):
        inputs.append(_binding(reader, scope, scope))
        if reader.text != ")":
            reader.expect(",")
    reader.expect("{")
    equations: list[Equation] = []
    while not reader.accept("return"):
        equations.append(_equation(reader, scope))
    outputs: list[Any] = []
    results = _items(reader, "}", lambda: _result(reader, scope, outputs))
    program = Program(tuple(inputs), tuple(equations), tuple(outputs))
    if results != list(range(len(outputs))):
        program.structure = results[0] if len(results) == 1 else tuple(results)
    return program


def _items(reader: _Reader, end: str, item: Callable[[], Any]) -> list[Any]:
    """What stands between commas, up to `end`."""
    found: list[Any] = []
    while not reader.accept(end):
        found.append(item())
        if reader.text != end:
            reader.expect(",")
    return found


def _result(reader: _Reader, scope: dict[str, Var], outputs: list[Any]) -> Any:
    """An output, which becomes its number, or a container of such."""
    again = lambda: _result(reader, scope, outputs)
    if reader.accept("("):
        return tuple(_items(reader, ")", again))
    if reader.accept("["):
        return _items(reader, "]", again)
    if reader.accept("{"):
        return dict(_items(reader, "}", lambda: (_key(reader), again())))
    if reader.text == "None" and reader.kind == "name":
        reader.advance()
        return None
    outputs.append(_atom(reader, scope))
    return len(outputs) - 1


def _key(reader: _Reader) -> str | int:
    """The key of a dict, and the colon behind it."""
    if reader.kind not in ("string", "number"):
        raise reader.fail("a key")
    key = _param(reader)
    reader.expect(":")
    return key


def _binding(reader: _Reader, scope: _Scope, bound: dict[str, Var]) -> Var:
    line, name = reader.line, reader.take("name")
    if name in scope or name in bound:
        raise ProgramError(f"line {line}: {name!r} is bound twice")
    reader.expect(":")
    bound[name] = scope.variable(name, _aval(reader), bound)
    return bound[name]


def _dtype(reader: _Reader) -> np.dtype[Any]:
    line, name = reader.line, reader.take("name")
    found = DTYPES.get(name)
    if found is None:
        found = Primitive.foreign.dtype(name)
    if found is None:
        raise ProgramError(f"line {line}: unknown dtype {name!r}")
    return found


def _aval(reader: _Reader) -> Aval:
    dtype = _dtype(reader)
    reader.expect("[")
    return Aval(tuple(_items(reader, "]", lambda: _size(reader))), dtype, reader.accept("~"))


def _size(reader: _Reader) -> int:
    line, text = reader.line, reader.take("number")
    if not text.isdecimal():
        raise ProgramError(f"line {line}: {text!r} is no size of an axis")
    return int(text)


def read_aval(text: str) -> Aval:
    """The type that a text such as `f32[8,16]` names."""
    reader = _Reader(text)
    aval = _aval(reader)
    if reader.kind != "end":
        raise reader.fail("the end of a type")
    return aval


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


def _equation(reader: _Reader, scope: _Scope) -> Equation:
    bound: dict[str, Var] = {}  # in scope after this equation
    outputs = _items(reader, "=", lambda: _binding(reader, scope, bound))
    line, name = reader.line, reader.take("name")
    params: dict[str, Any] = {}
    if reader.accept("["):
        if reader.text == "...":
            raise ProgramError(
                f"line {line}: {name} has parameters that no text gives back, such as a function, so a Program that "
                "holds it cannot be read back"
            )
        params = dict(_items(reader, "]", lambda: _named_param(reader)))
    inputs: list[Any] = []
    here = reader.passed  # operands stand on the line where the primitive's text ends
    while reader.line == here and reader.kind in ("name", "number"):
        inputs.append(_atom(reader, scope))
    scope.update(bound)
    primitive = _primitive(name, params, line, tuple([v.aval for v in outputs]))
    return Equation(primitive, tuple(inputs), tuple(outputs), reader.sources.get(here))


def _named_param(reader: _Reader) -> tuple[str, Any]:
    name = reader.take("name")
    reader.expect("=")
    return name, _param(reader)


def _param(reader: _Reader) -> Any:
    line = reader.line
    if reader.text == "program" and reader.kind == "name":
        return _program(reader)
    if reader.accept("("):
        return tuple(_items(reader, ")", lambda: _param(reader)))
    kind, text = reader.kind, reader.advance()
    try:
        if kind == "string":
            return ast.literal_eval(text)
        if kind == "number":
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except (ValueError, SyntaxError) as error:
        raise ProgramError(f"line {line}: cannot read {text!r}") from error
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    if text in DTYPES:
        return DTYPES[text]
    if kind == "name" and text.count(".") == 1:
        return Member(*text.split("."))
    raise ProgramError(f"line {line}: {text!r} is no value of a parameter")


def _primitive(name: str, params: dict[str, Any], line: int, out_avals: tuple[Aval, ...]) -> Primitive:
    if name.startswith("foreign."):
        try:
            return Primitive.foreign.primitive(name.removeprefix("foreign."), params, out_avals)
        except ProgramError as error:
            raise ProgramError(f"line {line}: {error}") from error
    found = Primitive.named.get(name)
    if found is None:
        raise ProgramError(f"line {line}: unknown primitive {name!r}")
    if not isinstance(found, type):
        if params:
            raise ProgramError(f"line {line}: {name} takes no parameters")
        return found
    try:
        made = found(**params)
        hash(made)
        return made
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ProgramError(f"line {line}: {name}: {error}") from error
