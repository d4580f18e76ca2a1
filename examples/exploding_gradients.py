"""One deep network whose training explodes, and what each remedy does about it.

    python examples/exploding_gradients.py              # out/exploding_gradients.png, and a table
    python examples/exploding_gradients.py --depth 30   # a deeper patient

The patient is a plain network of many ReLU layers on scikit-learn's digits: its weights start too large, so that every
layer doubles the variance of what passes through it, forwards and backwards, and the first steps of gradient descent
throw it out of reach. Each remedy is one change to that. Not all of them help alone: the table says which did.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
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

WIDTH, BATCH, MOMENTUM = 64, 64, 0.9
GAIN = 4.0  # of the patient's weights: twice the variance that keeps ReLU layers level
LEARNED = 0.9  # of the held-out digits right


class Treatment(NamedTuple):
    """The patient, by default; a remedy is one field that differs."""

    activation: str = "relu"
    init: nn.initializers.Initializer = nn.initializers.variance_scaling(GAIN, "fan_in", "normal")
    batch_norm: bool = False
    residual: bool = False
    schedule: Callable[[float, int], Any] = lambda lr, steps: lr
    clip: tuple[optim.Transformation, ...] = ()


def exponential(lr: float, steps: int) -> Any:
    """A hundredth of the learning rate at the end."""
    return optim.exponential_decay(lr, steps, 0.01)


HE, XAVIER = nn.initializers.he_normal(), nn.initializers.glorot_normal()
CLIP = optim.clip_by_global_norm(1.0)

TREATMENTS = {
    "no remedy": Treatment(),
    "leaky ReLU": Treatment(activation="leaky_relu"),
    "PReLU": Treatment(activation="prelu"),
    "batch norm": Treatment(batch_norm=True),
    "He init": Treatment(init=HE),
    "Xavier init": Treatment(init=XAVIER),
    "residual connections": Treatment(residual=True),
    "exponential decay": Treatment(schedule=exponential),
    "cosine decay": Treatment(schedule=optim.cosine_decay_schedule),
    "clip by value": Treatment(clip=(optim.clip_by_value(0.01),)),
    "clip by norm": Treatment(clip=(optim.clip_by_norm(0.3),)),
    "clip by global norm": Treatment(clip=(CLIP,)),
    "adaptive clipping": Treatment(clip=(optim.adaptive_clip(0.02),)),
    "all together": Treatment("prelu", HE, True, True, optim.cosine_decay_schedule, (CLIP,)),
}


# The network.


def network(treatment: Treatment, pixels: int, depth: int) -> nn.StatefulLayer:
    """A layer that reads the pixels, `depth` hidden ones, and one that writes the logits."""
    dense = lambda m, n: nn.dense(m, n, kernel_init=treatment.init)
    layers = [dense(pixels, WIDTH)]
    for _ in range(depth):
        parts = [activation(treatment), dense(WIDTH, WIDTH)]
        if treatment.batch_norm:
            parts.append(nn.batch_norm(WIDTH))
        layers.append(nn.residual(nn.sequential(*parts, gain())) if treatment.residual else nn.sequential(*parts))
    model = nn.sequential(*layers, nn.relu, dense(WIDTH, CLASSES))
    if isinstance(model, nn.StatefulLayer):
        return model

    def apply(params: PyTree, state: PyTree, x: Array, **options: Any) -> tuple[Array, PyTree]:
        return model.apply(params, x, **options), state

    return nn.StatefulLayer(lambda key: (model.init(key), {}), apply, model.name)


def activation(treatment: Treatment) -> Any:
    """The activation before each hidden layer."""
    if treatment.activation == "prelu":
        return nn.prelu_layer(WIDTH)
    return partial(nn.leaky_relu, negative_slope=0.1) if treatment.activation == "leaky_relu" else nn.relu


def gain() -> nn.Layer:
    """A learned factor that starts at 0, so that a residual layer starts as the identity.

    Source: Bachlechner et al., ReZero is all you need, UAI 2021.
    """
    return nn.Layer(lambda key: {"gain": fnp.zeros(())}, lambda params, x, **_: params["gain"] * x, "gain")


# Training.


class Run(NamedTuple):
    """Loss and gradient norm, before clipping, at every step f[steps]; the accuracy at the end; what came of it."""

    losses: np.ndarray
    norms: np.ndarray
    accuracy: float

    @property
    def diverged(self) -> int | None:
        """The first step, of which the first is 1, at which loss or gradient is not finite."""
        bad = np.flatnonzero(~np.isfinite(self.losses) | ~np.isfinite(self.norms))
        return int(bad[0]) + 1 if bad.size else None

    @property
    def outcome(self) -> str:
        """One word."""
        return "diverged" if self.diverged is not None else "learned" if self.accuracy >= LEARNED else "stalled"

    def __str__(self) -> str:
        how = f" at step {self.diverged}" if self.outcome == "diverged" else f", {self.accuracy:.1%}"
        return self.outcome + how


def train(treatment: Treatment, data: Data, depth: int, lr: float, steps: int, seed: int) -> Run:
    """Gradient descent with momentum: all of it is one jitted scan over the batches."""
    images, test = (fnp.asarray(x.reshape(len(x), -1)) for x in (data.train_images, data.test_images))
    labels = fnp.asarray(data.train_labels)
    batches = np.random.default_rng(seed).integers(0, len(images), (steps, BATCH))
    model = network(treatment, images.shape[1], depth)
    params, statistics = model.init(random.key(seed))
    optimizer = optim.chain(*treatment.clip, optim.sgd(treatment.schedule(lr, steps), momentum=MOMENTUM))

    def loss_of(params: PyTree, statistics: PyTree, x: Array, y: Array) -> tuple[Array, PyTree]:
        logits, statistics = model.apply(params, statistics, x, training=True)
        return nn.softmax_cross_entropy_with_integer_labels(logits, y).mean(), statistics

    def step(carry: Any, chosen: Array) -> Any:
        params, statistics, state = carry
        x, y = fnp.take(images, chosen, axis=0), fnp.take(labels, chosen)
        (loss, statistics), grads = ft.value_and_grad(loss_of, has_aux=True)(params, statistics, x, y)
        updates, state = optimizer.update(grads, state, params)
        return (optim.apply_updates(params, updates), statistics, state), (loss, optim.global_norm(grads))

    @ft.jit
    def all_steps(params: PyTree, statistics: PyTree) -> Any:
        (params, statistics, _), curves = lax.scan(step, (params, statistics, optimizer.init(params)), batches)
        return curves, model.apply(params, statistics, test)[0].argmax(axis=-1)

    (losses, norms), predicted = all_steps(params, statistics)
    return Run(np.asarray(losses), np.asarray(norms), float((np.asarray(predicted) == data.test_labels).mean()))


# What is shown.

COLOURS = {"learned": "#1a7f37", "stalled": "#9a6700", "diverged": "#cf222e"}
LOSS, NORM, GHOST = "#0969da", "#e8590c", "#b0b7be"


def draw(runs: dict[str, Run], path: Path, title: str) -> bool:
    """A panel for each run, as a PNG; False if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 5
    rows = len(runs) // columns + 1  # there is a place for the legend
    figure = Figure(figsize=(15, 2.9 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=14)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True).ravel()
    ghost = runs["no remedy"].losses
    for panel, (name, run) in zip(panels, runs.items(), strict=False):
        for curve, colour, width in ((ghost, GHOST, 2.5), (run.norms, NORM, 1.0), (run.losses, LOSS, 1.5)):
            shown = np.where(np.isfinite(curve), curve, np.nan)
            panel.plot(np.arange(1, len(curve) + 1), shown, color=colour, linewidth=width)
        panel.set_title(name, fontsize=12, fontweight="bold")
        panel.text(0.97, 0.95, str(run), transform=panel.transAxes, ha="right", va="top", fontsize=11,
                   color=COLOURS[run.outcome])  # fmt: skip
        panel.set(xscale="log", yscale="log", xlim=(1, len(ghost)), ylim=(1e-3, 1e7))
        panel.set_facecolor("#fff1f0" if run.outcome == "diverged" else "white")
        panel.grid(alpha=0.25)
    for panel in panels[len(runs) :]:
        panel.axis("off")
    for panel in panels[max(0, len(runs) - columns) : len(runs)]:
        panel.set_xlabel("step")
        panel.tick_params(labelbottom=True)
    key = [("loss", LOSS), ("gradient norm, before clipping", NORM), ("loss with no remedy", GHOST)]
    lines = [panels[0].plot([], [], color=colour, linewidth=2)[0] for _, colour in key]
    panels[-1].legend(lines, [text for text, _ in key], loc="center", fontsize=11, frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def tell(runs: dict[str, Run]) -> None:
    """The table, and which remedies saved the patient."""
    print(f"{'remedy':22}{'first loss':>12}{'last loss':>12}{'first norm':>12}{'largest norm':>14}   outcome")
    for name, run in runs.items():
        numbers = (run.losses[0], run.losses[-1], run.norms[0])
        cells = "".join(f"{x:12.3g}" for x in numbers)
        largest = max((x for x in run.norms if math.isfinite(x)), default=math.nan)
        print(f"{name:22}{cells}{largest:14.3g}   {run}")
    for outcome in COLOURS:
        names = [name for name, run in runs.items() if run.outcome == outcome]
        print(f"{outcome}: {', '.join(names) or 'none'}")
    if any(runs[name].outcome == "diverged" for name in runs if name.endswith("decay")):
        print("A decay comes too late where the first steps do the harm: it needs a warm-up before it, or clipping.")


def main(arguments: Sequence[str] | None = None) -> dict[str, Run]:
    """Train with each remedy, draw, and print what came of it."""
    parser = argparse.ArgumentParser(
        prog="exploding_gradients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(TREATMENTS), metavar="REMEDY", help="some of the remedies, by name")
    add("--depth", type=count, default=10, help="hidden layers; 10")
    add("--steps", type=count, default=500)
    add("--lr", type=positive, default=0.02, help="the learning rate; 0.02")
    add("--seed", type=count, default=1)
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    try:
        data = load(None)
    except ImportError as error:
        sys.exit(f"exploding_gradients: {error}")
    runs = {}
    for name, treatment in TREATMENTS.items():
        if name == "no remedy" or name in (options.only or TREATMENTS):
            runs[name] = train(treatment, data, options.depth, options.lr, options.steps, options.seed)
    tell(runs)
    options.out.mkdir(parents=True, exist_ok=True)
    figure = options.out / "exploding_gradients.png"
    title = f"{options.depth} hidden layers whose weights start too large: loss and gradient norm, remedy by remedy"
    print(f"figure: {figure if draw(runs, figure, title) else MISSING}")
    return runs


if __name__ == "__main__":
    main()
