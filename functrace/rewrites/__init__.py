"""Rewrites: Program -> Program. The calculus itself; `transforms` puts it on Python functions.

    jvp        (x, dx) -> (y, dy)                    every equation beside its derivative
    series     (x_0, ..., x_n) -> (y_0, ..., y_n)    truncated power series
    linearize  x -> (y, r);  (r, dx) -> dy           jvp, split by dependence on dx
    separate   (a, b) -> y                           no equation mixes what depends on b with what does not
    transpose  (r, ct_y) -> ct_x                     the linear half, backwards
    gradient   x -> (y, dy/dx)                       in the mode that keeps it small
    batch      [n] x -> [n] y                        the batch axis first
    collect    x -> (y, observed)                    what is observed inside comes out
    laplacian  x -> (y, Ly)                          value, Jacobian and Laplacian carried together
    squares    x -> |y|^2                            sums of squares, without y where that takes less
    thread     (s, x) -> (s', y)                     a state carried past every equation that is watched
    replace    x -> y                                what looks like a pattern gives way to what equals it

Each walks the equations once and asks every primitive for its own rule; none names a primitive.
Results are memoised on the Program, so a layer that is called 48 times is rewritten once.
"""

from functrace.rewrites.batch import batch
from functrace.rewrites.collect import collect
from functrace.rewrites.gradient import gradient
from functrace.rewrites.jvp import jvp
from functrace.rewrites.laplacian import Directions, laplacian, spread
from functrace.rewrites.linearize import Linearized, linearize
from functrace.rewrites.memo import memoised
from functrace.rewrites.replace import replace
from functrace.rewrites.separate import separate, separated, split
from functrace.rewrites.series import derivative, jet, series
from functrace.rewrites.squares import squares
from functrace.rewrites.thread import Place, Seen, Thread, Watch, thread
from functrace.rewrites.transpose import transpose
from functrace.rewrites.vjp import pullback, vjp

__all__ = [
    "Directions", "Linearized", "Place", "Seen", "Thread", "Watch", "batch", "collect", "derivative", "gradient",
    "jet", "jvp", "laplacian", "linearize", "memoised", "pullback", "replace", "separate", "separated", "series",
    "split", "spread", "squares", "thread", "transpose", "vjp",
]  # fmt: skip
