"""The text of a Program: names from the user's arguments, types as `f32[8,16]`, source lines on the right."""

from __future__ import annotations

from itertools import count, product
from string import ascii_lowercase
from typing import Any

import numpy as np

from functrace.ir.aval import dtype_text
from functrace.ir.program import Literal, Program


def show(program: Program, indent: str = "") -> str:
    """The Program as text; linear in its size."""
    fresh = ("".join(s) for n in count(1) for s in product(ascii_lowercase, repeat=n))
    names: dict[Any, str] = {}
    taken = {v.name for v in program.inputs if v.name}

    def bind(v: Any) -> str:
        names[v] = v.name or next(n for n in fresh if n not in taken)
        return f"{names[v]}: {v.aval!r}"

    def read(x: Any) -> str:
        return f"{x.value}:{x.aval!r}" if type(x) is Literal else names[x]

    def value(x: Any) -> str:
        if isinstance(x, Program):
            return show(x, indent + "    ")
        return dtype_text(x) if isinstance(x, np.dtype) else repr(x)

    lines = [f"program({', '.join(bind(v) for v in program.inputs)}) {{"]
    for eqn in program.equations:
        params = ", ".join(f"{k}={value(v)}" for k, v in eqn.params.items())
        right = f"{eqn.primitive.name}{f'[{params}]' if params else ''} {' '.join(map(read, eqn.inputs))}"
        left = ", ".join(map(bind, eqn.outputs))
        lines.append(f"{indent}  {left} = {right}{f'    # {eqn.source}' if eqn.source else ''}")
    lines.append(f"{indent}  return {', '.join(map(read, program.outputs))}")
    return "\n".join([*lines, indent + "}"])
