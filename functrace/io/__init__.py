"""Files and data: pytrees saved and loaded, data sets read, batches of an epoch.

`save` writes any pytree whole or not at all, and `load` gives back the same bits; `batches` has an order that follows
from a seed, and begins wherever a run has stopped; `prefetch` reads ahead. No trainer: a loop stays the user's own
twenty lines, and all that it must remember is one pytree: parameters, the optimizer's state, a key, a position.
"""

from functrace.io.batching import batches, prefetch
from functrace.io.checkpoint import load, save
from functrace.io.idx import read_idx, read_mnist

__all__ = ["batches", "load", "prefetch", "read_idx", "read_mnist", "save"]
