"""What a derivative did, told with the user's source lines: a Program is instrumented, run, and read.

Nothing here is needed to differentiate; everything here reads or rewrites Programs that the layers below made.
"""

from functrace.debug.checking import debug_nonfinite
from functrace.debug.cost import Cost, cost
from functrace.debug.nonfinite import find_nonfinite
from functrace.debug.report import Report
from functrace.debug.view import view

__all__ = ["Cost", "Report", "cost", "debug_nonfinite", "find_nonfinite", "view"]
