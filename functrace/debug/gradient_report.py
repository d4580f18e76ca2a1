"""What the numbers of a gradient's flow say: a verdict for each part, where the trouble begins, and what helps.

A gradient is judged against what it was closer to the loss, part by part along the data flow and never in absolute
terms: near a minimum every gradient is small, and that is health.

    vanishing   no part that this one is computed from has a gradient above 1e-4 of the largest that is computed from it
    exploding   above 1e4 times those next to the loss, above 1e8 times the parameter itself, or not finite
    dead        a scope 9 of 10 of whose outputs are zero for every row; a parameter that has no gradient at all

A part that waits behind a factor that is zero for now (a last layer or a residual branch that starts at zero) is
healthy: the factor has a gradient, and moves first. A lone gradient that is zero by nature (a bias before a
normalisation, of the keys before a softmax) is healthy, since what lies behind it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from functrace.debug.flow_figure import draw
from functrace.debug.scopes import Layout

VANISHED, EXPLODED, DEAD = 1e-4, 1e4, 0.9

ADVICE = {
    "vanishing": (
        "Use activations that do not saturate (relu, gelu, silu), He or Xavier initialisation, residual connections "
        "or normalisation; in a recurrent net gates (LSTM, GRU) and orthogonal recurrent weights."
    ),
    "exploding": (
        "Clip by global norm, start with smaller weights (He, Xavier, orthogonal for recurrent ones), warm the "
        "learning rate up, add normalisation; where something is not finite, find_nonfinite says which line made it."
    ),
    "dead": (
        "Lower the learning rate, start biases at zero and weights with He initialisation, or use leaky_relu, gelu or "
        "elu; explain_zero says which line stops a gradient."
    ),
    "healthy": "",
}


class FlowRow(NamedTuple):
    """One parameter leaf, or one scope.

    Of a parameter: the norm, extremes and fraction of zeros of its gradient, its own norm, and the ratio of its
    update's norm to that. Of a scope, through the values that leave it: norm and extremes of their cotangents, their
    own norm, and the fraction of their entries that are zero for every row.
    """

    name: str
    kind: str  # "parameter" or "scope"
    grad_norm: float
    param_norm: float
    max: float
    min: float
    zero_fraction: float
    update_ratio: float | None
    verdict: str  # "healthy", "vanishing", "exploding" or "dead"
    note: str = ""
    steps: tuple[float, ...] = ()  # inside loops: the cotangent's norm at each step


@dataclass(frozen=True)
class GradientFlow:
    """The report: `rows`, the worst `verdict`, the part `begins` where it begins, and `advice`."""

    rows: tuple[FlowRow, ...]
    verdict: str
    begins: str | None
    advice: str

    def to_dict(self) -> dict[str, float]:
        """Numbers by `parameter/<name>/grad_norm` and the like, for a logger."""
        fields = ("grad_norm", "param_norm", "max", "min", "zero_fraction", "update_ratio")
        found = {f"{r.kind}/{r.name}/{f}": getattr(r, f) for r in self.rows for f in fields}
        return {name: float(value) for name, value in found.items() if value is not None}

    def plot(self, path: Any) -> None:
        """Draw it as a PNG: a bar a part, coloured by verdict, on a logarithmic scale.

        Args:
          path: the file to write.
        Raises:
          ImportError: matplotlib is not installed.
        """
        draw(self.rows, self.headline(), path)

    def headline(self) -> str:
        """The verdict in one sentence."""
        if self.verdict == "healthy":
            return "healthy: the gradient reaches every part"
        sick = [r for r in self.rows if r.verdict == self.verdict]
        row = next((r for r in self.rows if r.name == self.begins), sick[0])
        where = f"{self.verdict}, from {row.kind} {self.begins} on towards the input"
        if self.verdict == "dead":
            where = f"dead: {row.kind} {self.begins}"
        steps = f", {row.note}" if row.steps and row.note else ""
        return f"{where}{steps} ({len(sick)} of {len(self.rows)} parts)"

    def __str__(self) -> str:
        head = ("part", "kind", "gradient", "value", "largest", "smallest", "zeros", "update", "verdict")
        lines = [head, *[self._cells(r) for r in self.rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = lambda i, cell: cell.rjust(widths[i]) if 2 <= i < 8 else cell.ljust(widths[i])
        table = ["  ".join([text(i, cell) for i, cell in enumerate(line)]).rstrip() for line in lines]
        return "\n".join([*table, "", f"{self.headline()}.", *([self.advice] if self.advice else [])])

    @staticmethod
    def _cells(r: FlowRow) -> tuple[str, ...]:
        ratio = "" if r.update_ratio is None else f"{r.update_ratio:.1e}"
        numbers = [f"{x:.2e}" for x in (r.grad_norm, r.param_norm, r.max, r.min)]
        verdict = f"{r.verdict} ({r.note})" if r.note else r.verdict
        return (r.name, r.kind, *numbers, f"{r.zero_fraction:.0%}", ratio, verdict)


class Watched(NamedTuple):
    """What is known of a part before it is judged; `steps` inside loops."""

    grad: float
    value: float
    max: float
    min: float
    zeros: float
    steps: tuple[float, ...] = ()


def report(layout: Layout, parameters: Any, entries: Sequence[tuple[str, tuple[str, ...], Any]]) -> GradientFlow:
    """Judge a layout with its numbers.

    Args:
      layout: what depends on what.
      parameters: f32[P, 6], see `FlowStats`.
      entries: kind ("value" or "cotangent"), scopes and numbers of each value that leaves a scope.
    """
    found: dict[str, Watched] = {}
    for name in layout.names[layout.parameters :]:
        values = [x for kind, scopes, x in entries if kind == "value" and name in scopes]
        cts = [x for kind, scopes, x in entries if kind == "cotangent" and name in scopes]
        found[name] = of_scope(values, cts)
    watched = [
        *[Watched(g, p, most, least, zeros) for g, most, least, zeros, p, _ in parameters.astype(float).tolist()],
        *[found[name] for name in layout.names[layout.parameters :]],
    ]
    verdicts = judge(layout, watched)
    rows = []
    for i, (name, w, (verdict, note)) in enumerate(zip(layout.names, watched, verdicts, strict=True)):
        is_parameter = i < layout.parameters
        update = float(parameters[i, 5]) if is_parameter else 0.0
        ratio = update / w.value if is_parameter and w.value > 0 else None
        kind = "parameter" if is_parameter else "scope"
        rows.append(
            FlowRow(name, kind, w.grad, w.value, w.max, w.min, w.zeros, ratio, verdict, note, w.steps)
        )
    ordered = sorted(range(len(rows)), key=lambda i: depth(layout, i))
    rows_by_depth = tuple([rows[i] for i in ordered])
    worst = next((v for v in ("exploding", "dead", "vanishing") if any(r.verdict == v for r in rows)), "healthy")
    return GradientFlow(rows_by_depth, worst, beginning(rows_by_depth, worst), ADVICE[worst])


def depth(layout: Layout, i: int) -> tuple[int, int]:
    """How much a part is computed from: the order of the table, from the input to the loss."""
    return layout.upstream[i].bit_count(), i


def of_scope(values: Sequence[Any], cts: Sequence[Any]) -> Watched:
    """All values that leave a scope as one, over all steps of the loops around it."""
    flat = lambda xs: np.concatenate([np.asarray(x, float).reshape(-1, 4) for x in xs] or [np.zeros((1, 4))])
    value, ct = flat(values), flat(cts)
    # A branch that was not taken has no numbers.
    value, ct = (x[~np.isnan(x[:, 3])] if len(x) > 1 else x for x in (value, ct))
    norm = lambda x: float(np.hypot.reduce(x)) if len(x) else 0.0
    steps: list[float] = []
    stacked = [np.asarray(x, float).reshape(-1, 4)[:, 0] for x in cts if np.ndim(x) == 2]
    if stacked and len({len(s) for s in stacked}) == 1:
        steps = np.hypot.reduce(np.stack(stacked), axis=0).tolist()
    most, least = (float(f(ct[:, k])) if len(ct) else 0.0 for f, k in ((np.max, 1), (np.min, 2)))
    zeros = float(np.mean(value[:, 3])) if len(value) else 0.0
    return Watched(norm(ct[:, 0]), norm(value[:, 0]), most, least, zeros, tuple(steps))


def judge(layout: Layout, watched: Sequence[Watched]) -> list[tuple[str, str]]:
    """A verdict and a note for each part."""
    n, count = layout.parameters, len(watched)
    verdicts: list[tuple[str, str]] = []
    for kind in (range(n), range(n, count)):
        below = {i: [j for j in kind if j != i and layout.upstream[j] >> i & 1 and not layout.upstream[i] >> j & 1]
                 for i in kind}  # fmt: skip
        behind = {i: [j for j in kind if layout.upstream[i] >> j & 1] for i in kind}
        for i in kind:
            verdicts.append(judged(i, kind, layout, watched, below, behind))
    return verdicts


def judged(
    i: int, kind: range, layout: Layout, watched: Sequence[Watched], below: dict[int, list[int]],
    behind: dict[int, list[int]],
) -> tuple[str, str]:  # fmt: skip
    """The verdict on one part, among those of its kind; `below` is nearer to the loss, `behind` to the input."""
    w, is_scope = watched[i], i >= layout.parameters
    grads = {j: watched[j].grad for j in kind}
    # An Inf that leaves a scope is meant (a mask, the start of a running maximum) where every gradient is finite.
    meant = is_scope and np.isinf(w.value) and all(np.isfinite(x.grad) for x in watched)
    if not np.isfinite(w.grad) or not (np.isfinite(w.value) or meant):
        return "exploding", "not finite"
    if not is_scope and w.value > 0 and w.grad > EXPLODED**2 * w.value:
        return "exploding", f"{w.grad / w.value:.0e} times the parameter itself"
    nearest = [grads[j] for j in below[i] if not below[j] and 0 < grads[j] < np.inf]
    if nearest and w.grad > EXPLODED * max(nearest):
        return "exploding", f"{w.grad / max(nearest):.0e} times the one next to the loss"
    if w.steps and (found := judged_steps(w.steps)):
        return found
    if is_scope and w.zeros >= DEAD and (w.zeros < 1 or not any(watched[j].grad for j in entering(i, layout))):
        return "dead", f"{w.zeros:.0%} of what leaves it is zero for every row"
    strongest = max([grads[j] for j in below[i] if np.isfinite(grads[j])], default=0.0)
    strength = max([grads[j] for j in behind[i] if np.isfinite(grads[j])])
    if w.grad == 0:
        gate = waits_for(i, layout, watched)
        if gate is not None:
            return "healthy", f"waits for {layout.names[gate]}, which is zero"
        faded = [j for j in below[i] if 0 < grads[j] < VANISHED * max([grads[k] for k in below[j]], default=0.0)]
        if faded and strength == 0:
            return "vanishing", "underflows to zero"
        return "dead", "no gradient at all"
    if strength < VANISHED * strongest:
        return "vanishing", f"{strength / strongest:.0e} of the largest"
    return "healthy", ""


def entering(i: int, layout: Layout) -> list[int]:
    """The parameters that a scope is computed from and that no scope behind it is; all of them, if there are none."""
    n, bits = layout.parameters, layout.upstream
    before = [j for j in range(n, len(bits)) if bits[i] >> j & 1 and not bits[j] >> i & 1]
    read = [j for j in range(n) if bits[i] >> j & 1]
    return [j for j in read if not any(bits[k] >> j & 1 for k in before)] or read


def judged_steps(steps: Sequence[float]) -> tuple[str, str] | None:
    """The verdict on the cotangents at each step of a loop, the loss being behind the last one."""
    nonzero = [c for c in steps if 0 < c < np.inf]
    if not nonzero:
        return None
    top = int(np.argmax(steps))
    if steps[top] > EXPLODED * nonzero[-1]:
        first = next(t for t in reversed(range(len(steps))) if steps[t] > EXPLODED * nonzero[-1])
        return "exploding", f"from step {first} of {len(steps)} back"
    if sorted(steps)[len(steps) // 2] < VANISHED * steps[top]:
        first = next(t for t in reversed(range(len(steps))) if max(steps[: t + 1]) < VANISHED * steps[top])
        return "vanishing", f"from step {first} of {len(steps)} back"
    return None


def waits_for(i: int, layout: Layout, watched: Sequence[Watched]) -> int | None:
    """A parameter that is zero, and has a gradient, and by which part i is multiplied on its way."""
    for q in range(layout.parameters):
        is_gate = layout.factor[q] and watched[q].value == 0 and watched[q].grad > 0
        if q != i and is_gate and layout.upstream[q] >> i & 1:
            return q
    return None


def beginning(rows: Sequence[FlowRow], verdict: str) -> str | None:
    """Where trouble begins: as seen from the loss, but dead units as seen from the input. A scope says more than a
    parameter."""
    sick = [r for r in rows if r.verdict == verdict]
    scopes = [r for r in sick if r.kind == "scope"]
    if not sick or verdict == "healthy":
        return None
    if verdict == "dead":
        cause = [r for r in scopes if r.zero_fraction >= DEAD]
        return cause[0].name if cause else (scopes or sick)[-1].name
    return (scopes or sick)[-1].name
