"""What a derivative did, told with the user's source lines: a Program is instrumented, run, and read.

Nothing here is needed to differentiate; everything here reads or rewrites Programs that the layers below made.
"""

from functrace.debug.explain_zero import ZeroReport, ZeroRow, explain_zero
from functrace.debug.flow_stats import FlowStats, flow_stats, gradient_flow
from functrace.debug.gradient_report import FlowRow, GradientFlow
from functrace.debug.taps import taps

__all__ = [
    "FlowRow", "FlowStats", "GradientFlow", "ZeroReport", "ZeroRow", "explain_zero", "flow_stats", "gradient_flow",
    "taps",
]  # fmt: skip
