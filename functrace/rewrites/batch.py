"""Vectorise over a leading axis.

batch : Program(x -> y) -> Program([n] x -> [n] y)              batch P xs = stack [P x for x in xs]
"""

from __future__ import annotations

from typing import Any

from functrace.ir import Builder, Program, Var
from functrace.primitives.space import batched_operand
from functrace.rewrites.memo import derived, memoised


@memoised
def batch(
    program: Program,
    size: int,
    batched: tuple[bool, ...],
    axis_name: Any = None,
    fill_outputs: tuple[bool, ...] | bool = False,
) -> tuple[Program, tuple[bool, ...]]:
    """The batched Program and which outputs have a batch axis.

    Args:
      program: x -> y.
      size: length of the batch axis.
      batched: which inputs have a batch axis; it is axis 0.
      axis_name: what collectives call the axis.
      fill_outputs: outputs that must have a batch axis; a value without one is repeated along it.
    """
    with Builder() as b:
        env: dict[Any, Any] = {}
        flag: dict[Any, bool] = {}
        for v, is_batched in zip(program.inputs, batched, strict=True):
            shape = (size, *v.aval.shape) if is_batched else v.aval.shape
            env[v] = b.input(v.aval.with_shape(shape), v.name)
            flag[v] = is_batched
        for eqn in program.equations:
            prim = eqn.primitive
            operands = tuple([env[x] if type(x) is Var else x for x in eqn.inputs])
            flags = tuple([flag.get(x, False) for x in eqn.inputs])
            named = axis_name is not None and prim.uses_axis(axis_name)
            if named or any(flags):
                b.source = derived(eqn.source, "batch", prim.name)
                if named:
                    ys, y_flags = prim.batch_axis(axis_name, size, operands, flags)
                else:
                    ys, y_flags = prim.batch(size, operands, flags)
                if not prim.multiple_results:
                    ys, y_flags = (ys,), (y_flags,)
            else:
                b.source = eqn.source
                ys, y_flags = b.emit(prim, operands), (False,) * len(eqn.outputs)
            env.update(zip(eqn.outputs, ys, strict=True))
            flag.update(zip(eqn.outputs, y_flags, strict=True))
        b.source = None
        fill = fill_outputs if isinstance(fill_outputs, tuple) else (fill_outputs,) * len(program.outputs)
        outputs, out_flags = [], []
        for x, must in zip(program.outputs, fill, strict=True):
            y, is_batched = (env[x], flag[x]) if type(x) is Var else (x, False)
            outputs.append(batched_operand(y, is_batched, size) if must else y)
            out_flags.append(is_batched or must)
        return b.build(outputs), tuple(out_flags)
