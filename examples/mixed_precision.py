"""Train on digits in half precision: what is lost, and what keeps it.

    python examples/mixed_precision.py              # out/mixed_precision.png, and a table
    python examples/mixed_precision.py --steps 1000

bfloat16 has the range of float32 and 8 bits of precision: a small step is lost when it is added to a weight, so weights
are kept in float32, or beside a float32 copy. float16 has 11 bits, but little range: small gradients vanish, so the
loss is multiplied by a scale before it is differentiated, as large as it can be. Where that overflows, the step is left
out and the scale lowered.

The loss counts for 1e-4 here, as one of many terms may. Adam with an eps to match does not mind; float16 does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import MISSING
from train_digits import CLASSES, Data, count, load, positive

import functrace as ft
from functrace import lax, nn, numpy as fnp, optim, random

Array = Any
PyTree = Any

BATCH = 64
MODEL = nn.mlp((64, 128, 128, CLASSES))
WEIGHT = 1e-4  # of the loss
SCALE = 2.0**37  # to begin with: too large, as the first steps will find


class Mode(NamedTuple):
    """A way to train: in which dtypes, and with what around the optimizer."""

    policy: optim.Policy
    around: Callable[[optim.Transformation], optim.Transformation] = lambda optimizer: optimizer


def scaled(optimizer: optim.Transformation) -> optim.Transformation:
    """Dynamic loss scaling that grows back soon, to be seen in a short run."""
    return optim.dynamic_loss_scale(optimizer, SCALE, growth_interval=100)


HALF, BRAIN = fnp.float16, fnp.bfloat16
MODES = {
    "float32": Mode(optim.Policy(compute_dtype=fnp.float32)),
    "bfloat16, float32 weights": Mode(optim.Policy(compute_dtype=BRAIN)),
    "bfloat16, weights too": Mode(optim.Policy(BRAIN, BRAIN)),
    "bfloat16, and a float32 copy": Mode(optim.Policy(BRAIN, BRAIN), optim.master_weights),
    "float16, no loss scaling": Mode(optim.Policy(compute_dtype=HALF)),
    "float16, loss scaling": Mode(optim.Policy(compute_dtype=HALF), scaled),
}


class Run(NamedTuple):
    """Of every step f[steps]: the loss, the part of the gradient's entries that are zero though float32 has them not,
    and the scale; which steps were left out bool[steps]; and the accuracy on held-out digits."""

    losses: np.ndarray
    vanished: np.ndarray
    scales: np.ndarray
    skipped: np.ndarray
    accuracy: float


def train(mode: Mode, data: Data, lr: float, steps: int, seed: int) -> Run:
    """Adam on the digits, in one jitted scan."""
    images, test = (fnp.asarray(x.reshape(len(x), -1)) for x in (data.train_images, data.test_images))
    labels = fnp.asarray(data.train_labels)
    batches = np.random.default_rng(seed).integers(0, len(images), (steps, BATCH))
    optimizer = mode.around(optim.adam(lr, eps=1e-12))
    params = mode.policy.cast_to_param(MODEL.init(random.key(seed)))
    is_scaled = mode.around is scaled
    logits = mode.policy.wrap(lambda params, x: MODEL.apply(params, x))

    def loss_of(logits: Callable[..., Array], params: PyTree, x: Array, y: Array) -> Array:
        """Weighted, and in float32, whatever the logits were computed in."""
        return nn.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean() * WEIGHT

    def step(carry: Any, chosen: Array) -> Any:
        params, state = carry
        x, y = fnp.take(images, chosen, axis=0), fnp.take(labels, chosen)

        def scaled_loss(params: PyTree) -> tuple[Array, Array]:
            loss = loss_of(logits, params, x, y)
            return (optim.scale_loss(loss, state) if is_scaled else loss), loss

        grads, loss = ft.grad(scaled_loss, has_aux=True)(params)
        exact = ft.grad(lambda params: loss_of(MODEL.apply, params, x, y))(ft.tree.map(single, params))
        updates, new_state = optimizer.update(grads, state, params)
        scale = optim.loss_scale(state) if is_scaled else fnp.ones(())
        skipped = new_state.inner.consecutive > 0 if is_scaled else False
        watched = loss / WEIGHT, vanished(grads, exact), scale, skipped
        return (optim.apply_updates(params, updates), new_state), watched

    @ft.jit
    def all_steps(params: PyTree) -> Any:
        (params, _), watched = lax.scan(step, (params, optimizer.init(params)), batches)
        return watched, logits(params, test).argmax(axis=-1)

    watched, predicted = all_steps(params)
    return Run(*map(np.asarray, watched), float((np.asarray(predicted) == data.test_labels).mean()))


def single(x: Array) -> Array:
    """In float32."""
    return x.astype(fnp.float32)


def vanished(grads: PyTree, exact: PyTree) -> Array:
    """The part of the entries that are zero, of those that are not zero in float32."""
    lost = [((g == 0) & (e != 0)).sum() for g, e in zip(ft.tree.leaves(grads), ft.tree.leaves(exact), strict=True)]
    there = [(e != 0).sum() for e in ft.tree.leaves(exact)]
    return sum(lost) / fnp.maximum(sum(there), 1)


# What is shown.


def draw(runs: dict[str, Run], path: Path) -> bool:
    """Loss, vanished entries and scale, as a PNG; False if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.4), layout="constrained")
    losses, lost, scale = figure.subplots(1, 3)
    window = min(20, *[len(run.losses) for run in runs.values()])
    smooth = lambda curve: np.convolve(curve, np.ones(window) / window, "valid")
    for i, (name, run) in enumerate(runs.items()):
        width, alpha = (1.5, 1.0) if i else (6.0, 0.4)  # some lie on the first
        losses.plot(smooth(run.losses), color=f"C{i}", label=name, linewidth=width, alpha=alpha)
        lost.plot(100 * smooth(run.vanished), color=f"C{i}", linewidth=1.5)
        if run.skipped.any():
            steps = np.flatnonzero(run.skipped)
            scale.step(np.arange(len(run.scales)), run.scales, where="post", color=f"C{i}", linewidth=1.5)
            scale.plot(steps, run.scales[steps], "x", color="black", label="overflowed, and left out")
            scale.legend()
    losses.set(title="loss, mean of 20 steps", xlabel="step", yscale="log")
    lost.set(title="gradient entries that vanished, %", xlabel="step")
    scale.set(title="loss scale (float16)", xlabel="step")
    scale.set_yscale("log", base=2)
    losses.legend(fontsize=8)
    for panel in (losses, lost, scale):
        panel.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def tell(runs: dict[str, Run]) -> None:
    """A table, and what became of the steps that overflowed."""
    print(f"{'':30}{'last loss':>12}{'accuracy':>10}{'vanished':>10}{'left out':>10}")
    for name, run in runs.items():
        print(f"{name:30}{run.losses[-20:].mean():12.5f}{run.accuracy:10.1%}{run.vanished[-20:].mean():10.1%}"
              f"{run.skipped.sum():10}")  # fmt: skip
    print("vanished: entries of the last gradients that are zero, and are not in float32")
    for name, run in runs.items():
        for step in np.flatnonzero(run.skipped):
            after = run.scales[step + 1] if step + 1 < len(run.scales) else run.scales[step] / 2
            print(f"{name}: step {step} overflowed at scale 2^{np.log2(run.scales[step]):.0f} and was left out; "
                  f"the scale went to 2^{np.log2(after):.0f}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> dict[str, Run]:
    """Train in each mode, draw, and print."""
    parser = argparse.ArgumentParser(
        prog="mixed_precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(MODES), metavar="MODE", help="some of the modes, by name")
    add("--steps", type=count, default=600)
    add("--lr", type=positive, default=1e-3, help="the learning rate of Adam; 0.001")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"mixed_precision: {error}")
    names = options.only or list(MODES)
    runs = {name: train(MODES[name], data, options.lr, options.steps, options.seed) for name in names}
    tell(runs)
    options.out.mkdir(parents=True, exist_ok=True)
    figure = options.out / "mixed_precision.png"
    print(f"figure: {figure if draw(runs, figure) else MISSING}")
    return runs


if __name__ == "__main__":
    main()
