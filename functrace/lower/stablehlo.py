"""Blocks as StableHLO: what JAX writes for a kind of equation is asked once in a process, and copied from then on.

JAX takes 100 to 200 us for a kind of equation, in each module again, and 20 us for each equation of a kind that it has
written. Here its text for a kind is a template, into which the operands' names are put, and where the user's code has
the equation; MLIR reads the text of a module in a few us an operation. What is good in one module only, such as a call
back to Python, is left to JAX, and with it the block.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func
from jax.interpreters import mlir

from functrace.ir import Equation
from functrace.ir.source import Source
from functrace.lower.kinds import Kind, jaxpr_of_kind
from functrace.lower.plain import Text

if TYPE_CHECKING:
    from functrace.lower.block import Block

NAME = re.compile(r"%(\w+)")
CALLED = re.compile(r'(?<!custom_)call @([\w.$-]+|"[^"]+")')
RESULT = re.compile(r"%v\{0\}_\w+(?:#\d+)?|\{\d+\}")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# Marks of a text that is good in its module only: symbols, constants that are kept elsewhere, addresses.
BOUND = re.compile(r"(?<!call )(?<!func )(?<!private )@|dense_resource|callback")
UNFINISHED = re.compile(r"\s*\^|.*\{$")  # lines with which an operation does not end
CONTINUED = re.compile(r"\s*(cond|do|reducer)\b")  # lines with which none begins


def lowered(ctx: Any, *operands: Any, block: Block) -> Any:
    """The rule by which JAX lowers the call of a block."""
    module = ctx.module_context
    is_usual = len(module.platforms) == 1 and not module.shape_poly_state.dim_vars
    text = Module(ctx).text(block) if is_usual else None
    if text is None:
        return written_by_jax(ctx, block.jaxpr, operands)
    name = mlir.merge_mlir_modules(module.module, block.name, ir.Module.parse(text), module.symbol_table)
    return func.CallOp(types_of(ctx, block.out_types), ir.FlatSymbolRefAttr.get(name), list(operands)).results


def written_by_jax(ctx: Any, jaxpr: Any, operands: Sequence[Any]) -> Any:
    """What a jaxpr without effects makes of operands, written where MLIR writes now."""
    results, _ = mlir.jaxpr_subcomp(
        ctx.module_context, jaxpr, ctx.name_stack, ctx.tokens_in, (), *operands,
        dim_var_values=ctx.dim_var_values, const_lowering=ctx.const_lowering, outer_traceback=ctx.traceback,
    )  # fmt: skip
    return results


def types_of(ctx: Any, types: Sequence[Any]) -> list[Any]:
    """MLIR's types for JAX's."""
    return [mlir.aval_to_ir_type(ctx.module_context, t) for t in types]


class Module:
    """The text of a module: a block, what it calls, and where the operations come from."""

    def __init__(self, ctx: Any):
        self.ctx = ctx
        self.key = ctx.module_context.platforms[0], ctx.module_context.axis_context
        self.places: dict[tuple[str, Source], str] = {}
        self.names: dict[Block, str] = {}

    @cached_property
    def aside(self) -> Any:
        """A context of JAX's like this one, but for the module that it writes in."""
        module = ir.Module.create(ir.Location.unknown())
        return self.ctx.replace(module_context=self.ctx.module_context.replace(
            module=module, ip=ir.InsertionPoint(module.body), symbol_table=ir.SymbolTable(module.operation),
            lowering_cache={}, cached_primitive_lowerings={}, keepalives=[], host_callbacks=[],
        ))  # fmt: skip

    def text(self, block: Block) -> str | None:
        """The module with a block as its main function; None where a kind in it has no text."""
        self.add(block, "main")
        texts = [self.of_kind(kind) for b in self.names for kind in b.kinds]
        if not all(texts):
            return None
        shared = {name: function for text in texts if text for name, function in text.functions.items()}
        functions = [self.function(b, name) for b, name in self.names.items()]
        places = [f"{alias} = {location(*place)}" for place, alias in self.places.items()]
        return "\n".join(["module {", *functions, *shared.values(), "}", *places])

    def add(self, block: Block, name: str) -> None:
        """Name a block, and those that it calls, at any depth. Names are the same in every process."""
        self.names[block] = name
        for kind in block.kinds:
            text = self.of_kind(kind)
            if text and text.called and text.called not in self.names:
                self.add(text.called, f"{text.called.name}_{len(self.names)}")

    def of_kind(self, kind: Kind) -> Text | None:
        """The text of a kind, or None."""
        if kind.text:
            return kind.text
        if self.key not in kind.texts:
            kind.texts[self.key] = text_by_jax(kind, self.aside)
        return kind.texts[self.key]

    def function(self, block: Block, name: str) -> str:
        """A block, all kinds of which have a text, as a function."""
        texts: list[Any] = [self.of_kind(kind) for kind in block.kinds]
        constants = [kind.variables for kind in block.kinds]
        names: dict[Any, str] = {x: f"%arg{i}" for i, x in enumerate(block.inputs)}
        lines: list[str] = []
        for n, (number, xs, ys, eqn) in enumerate(block.calls):
            text = texts[number]
            own = [names[x] for x in constants[number]] + [names[x] for x in xs]
            lines.append(text.template.format(n, *own, at=self.place(eqn), called=self.names.get(text.called)))
            names.update(zip(ys, [y.format(n, *own) for y in text.outputs], strict=True))
        ins, outs = [[str(t) for t in types_of(self.ctx, types)] for types in (block.in_types, block.out_types)]
        arguments = ", ".join([f"%arg{i}: {t}" for i, t in enumerate(ins)])
        results, visibility = ", ".join([names[x] for x in block.outputs]), "public" if name == "main" else "private"
        return (
            f"func.func {visibility} @{name}({arguments}) -> ({', '.join(outs)}) {{\n"
            f"{''.join(lines)}return {results} : {', '.join(outs)}\n}}"
        )

    def place(self, eqn: Equation | None) -> str:
        """Where an equation comes from."""
        if eqn is None or eqn.source is None:
            return "unknown"
        key = eqn.primitive.name, eqn.source
        return self.places.get(key) or self.places.setdefault(key, f"#at{len(self.places)}")


def location(primitive: str, source: Source) -> str:
    """A line of the user's, and what is there: the primitive, how transforms made it, and the scope around it."""
    what = "/".join([part for part in (source.scope, source.rewrite, primitive) if part])
    quoted = [json.dumps(string, ensure_ascii=False) for string in (what, source.file)]
    return f"loc({quoted[0]}({quoted[1]}:{source.line}:0))"


def text_by_jax(kind: Kind, ctx: Any) -> Text | None:
    """What JAX writes for a kind that was traced; None where that is good in its module only."""
    module = ctx.module_context
    kept_alive = len(module.keepalives)
    jaxpr = jaxpr_of_kind(kind)
    types = [types_of(ctx, [v.aval for v in vs]) for vs in (jaxpr.invars, jaxpr.outvars)]
    function = func.FuncOp("kind", ir.FunctionType.get(*types), ip=False)
    entry = function.add_entry_block()
    with ir.InsertionPoint(entry):
        func.return_(written_by_jax(ctx, jaxpr, list(entry.arguments)))
    functions: dict[str, str] = {}
    asm = with_called(function, module.symbol_table, functions)
    if len(module.keepalives) > kept_alive or not all([is_free(text) for text in (asm, *functions.values())]):
        return None
    _, *body, last, _ = asm.splitlines()
    places = {f"arg{i}": f"{{{i + 1}}}" for i in range(len(jaxpr.invars))}

    def named(line: str) -> str:
        escaped = line.replace("{", "{{").replace("}", "}}")
        return NAME.sub(lambda name: places.get(name[1]) or f"%v{{0}}_{name[1]}", escaped)

    lines = [
        named(line) if UNFINISHED.match(line) or CONTINUED.match(following) else f"{named(line)} loc({{at}})"
        for line, following in pairwise([*body, last])
    ]
    return Text("\n".join([*lines, ""]), RESULT.findall(named(last).partition(" : ")[0]), functions)


def with_called(function: Any, symbols: Any, found: dict[str, str]) -> str:
    """The text of a function; those that it calls are added to what is found, each under a name made of its text."""
    asm = function.operation.get_asm(use_local_scope=True)
    names: dict[str, str] = {}
    for name in dict.fromkeys(CALLED.findall(asm)):
        called = with_called(symbols[name.strip('"')], symbols, found).replace(f"@{name}(", "@{}(", 1)
        names[name] = "shared_" + hashlib.sha256(called.encode()).hexdigest()[:16]
        found[names[name]] = called.replace("@{}(", f"@{names[name]}(", 1)
    return CALLED.sub(lambda call: f"call @{names[call[1]]}", asm)


def is_free(asm: str) -> bool:
    """Whether a text is good in every module, and what looks like a name in it is one."""
    return not BOUND.search(asm) and not any(["%" in string for string in STRING.findall(asm)])
