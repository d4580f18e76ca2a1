"""Derivatives held against numerical ones.

`check_grads` checks any order along random directions, which is quick and finds every fault with
probability one; where there is one, it looks for the entry. `gradcheck` and `gradgradcheck` compare every
entry of the Jacobian, as PyTorch's do. `check_jvp` and `check_vjp` check a derivative that is given. Read
numerical.py (differences), checks.py, places.py (which entry, and whether it is at a kink), elements.py.
"""

from functrace.testing.checks import check_grads, check_jvp, check_vjp
from functrace.testing.elements import gradcheck, gradgradcheck

__all__ = ["check_grads", "check_jvp", "check_vjp", "gradcheck", "gradgradcheck"]
