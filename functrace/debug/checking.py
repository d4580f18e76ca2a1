"""debug_nonfinite: results that are not finite raise, with the report on where that came from.

A check is one look at the outputs. Only where they are not finite is the function, which is pure, run again to find
out why; so a healthy step takes hardly longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jax import tree_util

from functrace.config import config
from functrace.debug.finiteness import is_suspect
from functrace.debug.nonfinite import examine, find_nonfinite
from functrace.debug.report import Report
from functrace.errors import NonfiniteError
from functrace.ir import Program
from functrace.ir.source import caller_source


@contextmanager
def debug_nonfinite(on: bool = True) -> Iterator[None]:
    """Within it, a jitted function or an un-jitted transform whose result has a NaN or an Inf raises, and says why.

    A context manager, and a decorator; `functrace.config.debug_nonfinite = True` does the same from there on. It holds
    for all threads. Each call waits for its result, and memory that was to be donated is kept.

    Args:
      on: False to switch it off within.
    Raises:
      NonfiniteError: from the call whose result is not finite; `.report` is the Report.

    >>> import functrace as ft
    >>> from functrace import numpy as fnp
    >>> with ft.debug.debug_nonfinite():
    ...     try:
    ...         ft.jit(lambda x: fnp.log(x - 1.0))(1.0)
    ...     except ft.errors.NonfiniteError as error:
    ...         print(error.report.primitive, error.report.phase)
    log forward
    """
    before = config.debug_nonfinite
    config.debug_nonfinite = on
    try:
        yield
    finally:
        config.debug_nonfinite = before


def check_call(result: Any, fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Raise if `fun(*args, **kwargs)` gave `result`, which is not finite."""
    if is_suspect(tree_util.tree_leaves(result)):
        refuse(find_nonfinite(fun, grad=False)(*args, **kwargs))


def check_program(results: Sequence[Any], program: Program, values: Sequence[Any]) -> None:
    """Raise if a Program gave `results`, which are not finite."""
    if is_suspect(results):
        refuse(examine(program, values))


def refuse(report: Report) -> None:
    """Raise what the report says; nothing where all infinities were meant."""
    if report.found:
        called = caller_source()
        where = "" if called is None else f"\n  {'called at':<10}{called}, in {called.function}"
        raise NonfiniteError(f"debug_nonfinite: {report}{where}", report)


config.check_call = check_call
config.check_program = check_program
