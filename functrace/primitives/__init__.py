"""Primitives: each defined once, with all its rules, in the file of its family."""

from functrace.primitives import comparison, unary
from functrace.primitives.elementwise import add, div, mul, neg, select_n, sub, where

__all__ = ["add", "comparison", "div", "mul", "neg", "select_n", "sub", "unary", "where"]
