"""Memory against time: the gradient of a transformer, and of long scans, that keeps less and computes it again.

Memory is what XLA says it takes beside arguments and results: `compile().memory_analysis().temp_size_in_bytes`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from timing import Row, alternate, mebibytes

import functrace as ft

TITLE = "Memory and time of checkpoints: the gradient of a 12-layer transformer, and of long scans"
LAYERS, BATCH, LENGTH, WIDTH, HEADS = 12, 8, 128, 128, 4
WIDEST = 4 * BATCH * LENGTH * max(4 * WIDTH, HEADS * LENGTH)  # bytes of the widest value
WORKING_SET = 3 * WIDEST  # of the largest equation: it reads two of the widest values and writes one
BUDGETS = 8
ROUNDS = 5
LIBRARIES = {"functrace": ft, "jax": jax}
NAMED = {ft: ft.checkpoint_name, jax: checkpoint_name}
WITHOUT = "no checkpoint"
POLICIES = {
    WITHOUT: lambda lib, layer: layer,
    "each layer": lambda lib, layer: lib.checkpoint(layer),
    "policy dots": lambda lib, layer: lib.checkpoint(layer, policy=lib.checkpoint_policies.dots_saveable),
    "policy names": lambda lib, layer: lib.checkpoint(
        layer, policy=lib.checkpoint_policies.save_only_these_names("attention", "mlp")
    ),
}
SCANNED = {
    "scan over layers": lambda lib, layer: layer,
    "scan over layers, each in a checkpoint": lambda lib, layer: lib.checkpoint(layer, prevent_cse=False),
}


def layer_of(lib):
    """One layer of the transformer, `(params, x) -> x`, in the words of functrace or of JAX."""
    np_, nn, named = lib.numpy, lib.nn, NAMED[lib]

    def norm(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np_.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    def layer(p, x):
        h = norm(x)
        q, k, v = [(h @ p[n]).reshape(BATCH, LENGTH, HEADS, -1).transpose(0, 2, 1, 3) for n in "qkv"]
        weights = nn.softmax(np_.einsum("bhqd,bhkd->bhqk", q, k) / (WIDTH / HEADS) ** 0.5)
        attended = np_.einsum("bhqk,bhkd->bhqd", weights, v).transpose(0, 2, 1, 3).reshape(BATCH, LENGTH, WIDTH)
        x = x + named(attended @ p["o"], "attention")
        return x + named(nn.gelu(norm(x) @ p["up"]) @ p["down"], "mlp")

    return layer


def in_turn(layer):
    """The loss of layers written out, of parameters in a list."""

    def loss(ps, x):
        for p in ps:
            x = layer(p, x)
        return (x * x).mean()

    return loss


def scanned(lib, layer):
    """The loss of a scan over layers, of stacked parameters."""
    return lambda ps, x: (lib.lax.scan(lambda x, p: (layer(p, x), None), x, ps)[0] ** 2).mean()


def parameters(layers: int = LAYERS):
    """The parameters of all layers, and the input."""
    rng = np.random.default_rng(0)
    shapes = {**{n: (WIDTH, WIDTH) for n in "qkvo"}, "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    ps = [{n: (rng.normal(size=s) / s[0] ** 0.5).astype(np.float32) for n, s in shapes.items()} for _ in range(layers)]
    return ps, rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)


def gradient(lib, loss, *args):
    """The gradient of a loss, compiled by XLA."""
    return lib.jit(lib.grad(loss)).lower(*args).compile()


def memory(compiled) -> int:
    """The bytes of temporary memory of a compiled function."""
    return compiled.memory_analysis().temp_size_in_bytes


def agree(got, want) -> None:
    """Raise if a gradient is another than the first one, but for rounding."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def rows_of(gradients, *args) -> list[Row]:
    """A row for each task of gradients by task and contender, all taking turns, once they agree."""
    by_key = {(task, name): g for task, by_name in gradients.items() for name, g in by_name.items()}
    expected = next(iter(by_key.values()))(*args)
    for g in by_key.values():
        agree(g(*args), expected)
    seconds = alternate({k: lambda g=g: jax.block_until_ready(g(*args)) for k, g in by_key.items()}, ROUNDS)
    return [
        Row(task, {n: seconds[task, n] for n in by_name}, memory={n: memory(g) for n, g in by_name.items()})
        for task, by_name in gradients.items()
    ]


def within(budget: int):
    """The loss of the transformer within a budget."""
    return ft.checkpoint(in_turn(layer_of(ft)), budget=budget)


def smallest_budget(ps, x) -> int:
    """The smallest budget, as the error says it."""
    try:
        ft.make_program(ft.grad(within(1)))(ps, x)
    except ft.errors.BudgetInfeasible as error:
        return error.smallest
    raise AssertionError("a budget of one byte was enough")


def transformer_rows() -> list[Row]:
    """Policies in functrace and JAX, and a sweep of functrace's budgets."""
    ps, x = parameters()
    gradients = {
        task: {n: gradient(lib, in_turn(wrap(lib, layer_of(lib))), ps, x) for n, lib in LIBRARIES.items()}
        for task, wrap in POLICIES.items()
    }
    # XLA fuses some of what a plan counts as kept, so a plan that keeps all counts more than XLA takes.
    most = 1.5 * memory(gradients[WITHOUT]["functrace"])
    budgets = np.geomspace(smallest_budget(ps, x), most, BUDGETS).astype(int).tolist()
    for budget in budgets:
        gradients[f"budget {mebibytes(budget)}"] = {"functrace": gradient(ft, within(budget), ps, x)}
    rows = rows_of(gradients, ps, x)
    policies, sweep = rows[: len(POLICIES)], rows[len(POLICIES) :]
    return policies + noted(sweep, budgets, rows[0].seconds["functrace"])


def noted(sweep: list[Row], budgets: list[int], unbounded: float) -> list[Row]:
    """The rows of the sweep, with what each took beside what it may take."""
    rows, before = [], 0
    for row, budget in zip(sweep, budgets, strict=True):
        taken, bound = row.memory["functrace"], 1.1 * (budget + WORKING_SET)
        note = f"{row.seconds['functrace'] / unbounded:.2f} of the time of no checkpoint; "
        note += f"{'within' if taken <= bound else 'OVER'} 1.1 x (budget + working set) = {mebibytes(bound)}"
        rows.append(row._replace(note=note + ("; LESS than with the budget before" if taken < before else "")))
        before = taken
    return rows


def scan_over_layers_rows() -> list[Row]:
    """The transformer as a scan, with and without a checkpoint of the body."""
    ps, x = parameters()
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *ps)
    gradients = {
        task: {n: gradient(lib, scanned(lib, wrap(lib, layer_of(lib))), stacked, x) for n, lib in LIBRARIES.items()}
        for task, wrap in SCANNED.items()
    }
    return rows_of(gradients, stacked, x)


def sines(lib, steps: int, **options):
    """Loss of a scan that takes the sine of the state `steps` times."""
    return lambda s: lib.lax.scan(lambda s, _: (lib.numpy.sin(s), None), s, None, steps, **options)[0].sum()


def sines_by_hand(outer: int, inner: int):
    """The same in JAX, as a scan over scans of which each is in a checkpoint."""

    @jax.checkpoint
    def some(s, _):
        return jax.lax.scan(lambda s, _: (jax.numpy.sin(s), None), s, None, inner)

    return lambda s: jax.lax.scan(some, s, None, outer)[0].sum()


def long_scan_gradients(outer: int, inner: int):
    """Gradients of a scan of outer x inner steps over a state of 256 x 256, by task and contender."""
    state, steps = np.full((256, 256), 0.5, np.float32), outer * inner
    task = f"scan of {steps:,} steps over a 256 x 256 state"
    return {
        task: {n: gradient(lib, sines(lib, steps), state) for n, lib in LIBRARIES.items()},
        f'{task}, checkpoint="auto"; in JAX {outer} x {inner} by hand': {
            "functrace": gradient(ft, sines(ft, steps, checkpoint="auto"), state),
            "jax": gradient(jax, sines_by_hand(outer, inner), state),
        },
        f"{task}, checkpoint=10": {"functrace": gradient(ft, sines(ft, steps, checkpoint=10), state)},
    }, state


def long_scan_rows() -> list[Row]:
    """Memory of 10,000 steps, which are not run, and memory and time of 1,000."""
    gradients, _ = long_scan_gradients(100, 100)
    compiled_only = [
        Row(task, {}, "compiled only", {n: memory(g) for n, g in by_name.items()})
        for task, by_name in gradients.items()
    ]  # fmt: skip
    gradients, state = long_scan_gradients(25, 40)
    return compiled_only + rows_of(gradients, state)


def measure() -> list[Row]:
    """Rows for policies, budgets, the scan over layers, and long scans."""
    return transformer_rows() + scan_over_layers_rows() + long_scan_rows()


def plot(rows: list[Row], path: Path) -> None:
    """Draw memory against time: functrace's budgets, its policies and JAX's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    series = {
        "functrace, budgets": ("functrace", [r for r in rows if r.task.startswith("budget")], "o-"),
        "functrace, policies": ("functrace", [r for r in rows if r.task in POLICIES], "s"),
        "jax, policies": ("jax", [r for r in rows if r.task in POLICIES], "^"),
    }
    most = (0.0, 0.0)
    for label, (name, of, style) in series.items():
        points = [(r.memory[name] / 2**20, r.seconds[name] * 1e3) for r in of]
        axes.plot(*zip(*points, strict=True), style, label=label)
        most = tuple(map(max, zip(most, *points, strict=True)))
        for r, point in zip(of, points, strict=True):
            if r.task in POLICIES and name == "functrace":  # JAX's lie on one another
                axes.annotate(r.task, point, xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="temporary memory, MiB", ylabel="median time, ms", xlim=(0, 1.2 * most[0]), ylim=(0, 1.1 * most[1]),
        title=f"Gradient of a {LAYERS}-layer transformer, jax {jax.__version__} on {jax.default_backend()}",
    )  # fmt: skip
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
