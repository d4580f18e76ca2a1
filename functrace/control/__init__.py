"""Primitives whose parameters are Programs: their rules rewrite those Programs.

They stand above `rewrites`, which their rules call, as the other primitives stand below it.
"""

from functrace.control.budget import Budgeted
from functrace.control.call import Call
from functrace.control.checkpoint import Checkpoint
from functrace.control.cond import Cond
from functrace.control.custom_jvp import CustomJvp
from functrace.control.custom_vjp import CustomVjp
from functrace.control.custom_vmap import CustomVmap
from functrace.control.linear_pair import LinearPair
from functrace.control.linear_solve import LinearSolve
from functrace.control.on_backward import OnBackward
from functrace.control.recur import Recur
from functrace.control.reversal import LinearWhile, ReversedWhile, WhileSaved
from functrace.control.root import Root
from functrace.control.scan import Scan
from functrace.control.while_loop import While

__all__ = [
    "Budgeted", "Call", "Checkpoint", "Cond", "CustomJvp", "CustomVjp", "CustomVmap", "LinearPair",
    "LinearSolve", "LinearWhile", "OnBackward", "Recur", "ReversedWhile", "Root", "Scan", "While", "WhileSaved",
]  # fmt: skip
