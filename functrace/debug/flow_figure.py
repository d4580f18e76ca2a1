"""The figure of a gradient's flow: matplotlib, if it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = {"healthy": "#4c8c6b", "vanishing": "#3b6fb6", "exploding": "#c8442f", "dead": "#6b6b6b"}


MANY = 36  # parts that still have a bar and a name each


def draw(rows: Sequence[Any], headline: str, path: Any) -> None:
    """Write a PNG of `FlowRow`s, scopes above parameters: bars from the input down to the loss, or a profile."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "GradientFlow.plot draws with matplotlib, which is not installed: pip install 'functrace[examples]'."
        ) from error
    titles = {"scope": "Cotangents of what leaves each scope", "parameter": "Gradients of parameters"}
    groups = [(title, group) for kind, title in titles.items() if (group := [r for r in rows if r.kind == kind])]
    heights = [0.9 + 0.27 * max(len(group), 2) if len(group) <= MANY else 4.2 for _, group in groups]
    figure = Figure(figsize=(10, 0.7 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, group) in zip(axes, groups, strict=True):
        (bars if len(group) <= MANY else profile)(ax, group)
        ax.set_title(title, fontsize=11, loc="left")
        ax.grid(axis="x" if len(group) <= MANY else "y", color="0.9")
        ax.set_axisbelow(True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    figure.suptitle(headline, fontsize=13, fontweight="bold", color=colour_of(headline))
    figure.savefig(path, dpi=110, format="png")


def colour_of(headline: str) -> str:
    """The colour of the verdict that a headline begins with."""
    return next((c for verdict, c in COLOURS.items() if headline.startswith(verdict)), "black")


def on_scale(rows: Sequence[Any]) -> tuple[Any, float, float]:
    """Norms as lengths on a logarithmic scale, with its ends: zero is the lower one, what is not finite the upper."""
    norms = np.array([r.grad_norm for r in rows])
    seen = norms[(norms > 0) & np.isfinite(norms)]
    low, high = (seen.min(), seen.max()) if seen.size else (1e-3, 1.0)
    floor, top = low / 10, max(high, low * 100) * 3
    return np.where(np.isfinite(norms), np.maximum(norms, floor), top), floor, top


def said(r: Any) -> str:
    """What stands beside a bar."""
    dead = f", {r.zero_fraction:.0%} zero" if r.kind == "scope" and r.zero_fraction >= 0.5 else ""
    return f"{r.grad_norm:.1e}" + ("" if r.verdict == "healthy" else f"  {r.verdict}") + dead


def bars(ax: Any, rows: Sequence[Any]) -> None:
    """One horizontal bar a part."""
    lengths, floor, top = on_scale(rows)
    ax.barh(range(len(rows)), lengths - floor, left=floor, color=[COLOURS[r.verdict] for r in rows], height=0.75)
    ax.set_xscale("log")
    ax.set_xlim(floor, top * (top / floor) ** 0.25)
    ax.set_yticks(range(len(rows)), [shortened(r.name) for r in rows], fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for i, (r, length) in enumerate(zip(rows, lengths, strict=True)):
        ax.annotate(said(r), (length, i), (4, 0), textcoords="offset points", va="center", fontsize=8.5,
                    color=COLOURS[r.verdict])  # fmt: skip
    ax.set_xlabel("norm", fontsize=9)


def profile(ax: Any, rows: Sequence[Any]) -> None:
    """One point a part, from the input on the left to the loss on the right; a cross where there is no gradient."""
    lengths, floor, top = on_scale(rows)
    ax.plot(range(len(rows)), lengths, color="0.8", linewidth=1, zorder=1)
    for verdict, colour in COLOURS.items():
        for is_zero, marker in ((False, "o"), (True, "x")):
            chosen = [i for i, r in enumerate(rows) if r.verdict == verdict and (r.grad_norm == 0) is is_zero]
            if chosen:
                label = f"{verdict}, no gradient" if is_zero else verdict
                ax.scatter(chosen, lengths[chosen], s=22, color=colour, marker=marker, label=label, zorder=2)
    ax.set_yscale("log")
    ax.set_ylim(floor, top)
    named = range(0, len(rows), -(-len(rows) // 24))
    ax.set_xticks(named, [shortened(rows[i].name, 24) for i in named], rotation=40, ha="right", fontsize=8)
    ax.set_ylabel("norm", fontsize=9)
    ax.legend(fontsize=9, frameon=False, loc="best")


def shortened(name: str, width: int = 46) -> str:
    """A name that fits beside the axis: its end says more than its beginning."""
    return name if len(name) <= width else "..." + name[3 - width :]
