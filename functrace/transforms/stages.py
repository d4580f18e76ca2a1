"""A jitted function without its updates (`control/updates.py`), as JAX has it: what a call returns, and the stages.

JAX compiles `main`, and finds it again by the types of the arguments. What is to be done then, the plan, is known when
it traces the function, and comes back with the arrays of each call, as part of their tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import tree_util

from functrace.control.updates import Divided, bytes_of


@dataclass(eq=False)
class Plan:
    """How a function is divided, the values that it closes over, and the tree of its results."""

    divided: Divided
    captures: Sequence[Any]
    out_tree: Any

    def results(self, arguments: Any, made: Sequence[Any], runs: Sequence[Any] | None = None) -> Any:
        """Those of the function, where `main` has made its own; `runs` are the parts, if they are compiled already."""
        inputs = [*self.captures, *tree_util.tree_leaves(arguments)]
        return tree_util.tree_unflatten(self.out_tree, self.divided.outputs(inputs, made, runs))


@tree_util.register_pytree_node_class
class Unfinished:
    """What `main` has made, and the plan."""

    def __init__(self, plan: Plan, made: Sequence[Any]):
        self.plan, self.made = plan, made

    def tree_flatten(self) -> tuple[Sequence[Any], Plan]:
        """The arrays, and the plan, which is part of the tree."""
        return self.made, self.plan

    @classmethod
    def tree_unflatten(cls, plan: Plan, made: Sequence[Any]) -> Unfinished:
        """As it was."""
        return cls(plan, made)


OF_MAIN = frozenset({
    "args_info", "as_text", "compiler_ir", "cost_analysis", "donate_argnums", "in_avals", "in_tree", "input_formats",
    "input_shardings", "runtime_executable",
})  # fmt: skip


class Stage:
    """A stage of `jax.jit` of a function that is divided: what there is of `main`, under JAX's names."""

    def __init__(self, main: Any, plan: Plan):
        self.main, self.plan = main, plan

    def __getattr__(self, name: str) -> Any:
        if name not in OF_MAIN:
            raise AttributeError(
                f"{name!r} is not known of a function whose updates are compiled apart; jit(..., roll=False) has one "
                "executable"
            )
        return getattr(self.main, name)

    @property
    def out_tree(self) -> Any:
        """The tree of the function's results."""
        return self.plan.out_tree

    @property
    def out_info(self) -> Any:
        """The types of the function's results."""
        types = [jax.ShapeDtypeStruct(y.aval.shape, y.aval.dtype) for y in self.plan.divided.program.outputs]
        return tree_util.tree_unflatten(self.out_tree, types)


class Lowered(Stage):
    """A function that is lowered; `as_text` and the like are of what is done before the updates."""

    def compile(self, *args: Any, **kwargs: Any) -> Compiled:
        """Compile it, with JAX's arguments."""
        divided = self.plan.divided
        parts = [run.lower(*part.types) for run, part in zip(divided.runs, divided.parts, strict=True)]
        main, *runs = [lowered.compile(*args, **kwargs) for lowered in (self.main, *parts)]
        return Compiled(main, self.plan, runs)


class Compiled(Stage):
    """A function that is compiled; `as_text` and the like are of what is done before the updates."""

    def __init__(self, main: Any, plan: Plan, runs: Sequence[Any]):
        super().__init__(main, plan)
        self.runs = runs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's results."""
        return self.plan.results((args, kwargs), self.main(*args, **kwargs).made, self.runs)

    def memory_analysis(self) -> Any:
        """JAX's, of the whole: `temp_size_in_bytes` has what `main` hands to the updates in it."""
        found, *updates = [run.memory_analysis() for run in (self.main, *self.runs)]
        divided = self.plan.divided
        program = divided.program
        handed = {*divided.main.outputs} - {*program.inputs, *program.outputs}
        found.temp_size_in_bytes += bytes_of(handed) + max([each.temp_size_in_bytes for each in updates])
        found.argument_size_in_bytes = bytes_of(program.inputs)
        found.output_size_in_bytes = bytes_of(program.outputs)
        return found


def lower(main: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`main.lower` of `jax.jit`, or what stands for it where the function is divided."""
    lowered = main.lower(*args, **kwargs)
    node: Any = lowered.out_tree.node_data()
    return Lowered(lowered, node[1]) if node and node[0] is Unfinished else lowered
