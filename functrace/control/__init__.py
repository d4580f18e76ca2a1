"""Primitives whose parameters are Programs: their rules rewrite those Programs.

They stand above `rewrites`, which their rules call, as the other primitives stand below it.
"""

from functrace.control.call import Call
from functrace.control.custom_jvp import CustomJvp
from functrace.control.custom_vjp import CustomVjp
from functrace.control.recur import Recur

__all__ = ["Call", "CustomJvp", "CustomVjp", "Recur"]
