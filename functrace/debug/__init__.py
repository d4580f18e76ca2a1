"""What a derivative did, told with the user's source lines: a Program is instrumented, run, and read.

Nothing here is needed to differentiate; everything here reads or rewrites Programs that the layers below made.
"""

from functrace.debug.checking import debug_nonfinite
from functrace.debug.cost import Cost, cost
from functrace.debug.explain_roll import RollReport, RollRow, explain_roll
from functrace.debug.explain_zero import ZeroReport, ZeroRow, explain_zero
from functrace.debug.flow_stats import FlowStats, flow_stats, gradient_flow
from functrace.debug.gradient_report import FlowRow, GradientFlow
from functrace.debug.nonfinite import find_nonfinite
from functrace.debug.report import Report
from functrace.debug.taps import taps
from functrace.debug.view import view

__all__ = [
    "Cost", "FlowRow", "FlowStats", "GradientFlow", "Report", "RollReport", "RollRow", "ZeroReport", "ZeroRow", "cost",
    "debug_nonfinite", "explain_roll", "explain_zero", "find_nonfinite", "flow_stats", "gradient_flow", "taps", "view",
]  # fmt: skip
