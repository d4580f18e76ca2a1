"""Files and data: pytrees saved and loaded, data sets read, batches of an epoch.

No trainer: a loop stays the user's own twenty lines.
"""

from functrace.io.batching import batches, prefetch
from functrace.io.checkpoint import load, save
from functrace.io.idx import read_idx, read_mnist

__all__ = ["batches", "load", "prefetch", "read_idx", "read_mnist", "save"]
