"""Rewrites: Program -> Program. The calculus itself; `transforms` puts it on Python functions.

    jvp        (x, dx) -> (y, dy)                    every equation beside its derivative
    series     (x_0, ..., x_n) -> (y_0, ..., y_n)    truncated power series
    linearize  x -> (y, r);  (r, dx) -> dy           jvp, split by dependence on dx
    separate   (a, b) -> y                           no equation mixes what depends on b with what does not
    transpose  (r, ct_y) -> ct_x                     the linear half, backwards
    batch      [n] x -> [n] y                        the batch axis first
    collect    x -> (y, observed)                    what is observed inside comes out
    thread     (s, x) -> (s', y)                     a state carried past every equation that is watched

Each walks the equations once and asks every primitive for its own rule; none names a primitive.
Results are memoised on the Program, so a layer that is called 48 times is rewritten once.
"""

from functrace.rewrites.batch import batch
from functrace.rewrites.collect import collect
from functrace.rewrites.jvp import jvp
from functrace.rewrites.linearize import Linearized, linearize
from functrace.rewrites.memo import memoised
from functrace.rewrites.separate import separate, separated, split
from functrace.rewrites.series import derivative, jet, series
from functrace.rewrites.thread import Place, Seen, Thread, Watch, thread
from functrace.rewrites.transpose import transpose
from functrace.rewrites.vjp import gradient, vjp

__all__ = [
    "Linearized", "Place", "Seen", "Thread", "Watch", "batch", "collect", "derivative", "gradient", "jet", "jvp",
    "linearize", "memoised", "separate", "separated", "series", "split", "thread", "transpose", "vjp",
]  # fmt: skip
