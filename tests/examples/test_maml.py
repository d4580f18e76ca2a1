"""MAML learns to learn: a step from its start fits a new sinusoid, and its gradient is JAX's."""

import jax
import maml
import numpy as np
from jax import numpy as jnp
from maml import adapted, main, objectives, start, tasks

import functrace as ft


def test_one_step_is_enough(tmp_path, capsys):
    run = main(["--steps", "700", "--out", str(tmp_path / "new")])
    first, second, plain = (run.errors[name] for name in ("MAML", "first-order MAML", "all tasks at once"))
    assert first[1] < 0.4 * first[0]
    assert first[1] < second[1]
    assert first[1] < 0.5 * plain[1]
    assert run.losses["MAML"][-50:].mean() < 0.5 * run.losses["MAML"][:50].mean()
    out = capsys.readouterr().out
    figure = tmp_path / "new" / "maml.png"
    assert "mean squared error on 200 new tasks, 10 points known of each" in out
    assert f"figure: {figure}" in out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_gradient_of_the_step_is_jax_s():
    """Of the meta-gradient, against the same computation in jax.numpy."""
    rng = np.random.default_rng(1)
    params = start(rng)
    task = jax.tree_util.tree_map(lambda v: v[0], tasks(rng, 1, 10, 10))

    def network(params, x):
        h = x[:, None]
        for i, (w, b) in enumerate(params):
            h = h @ w + b
            h = jnp.tanh(h) if i < len(params) - 1 else h
        return h[:, 0]

    def loss(params, x, y):
        return jnp.mean((network(params, x) - y) ** 2)

    def objective(params):
        slope = jax.grad(loss)(params, task.x, task.y)
        moved = jax.tree_util.tree_map(lambda p, g: p - 0.02 * g, params, slope)
        return loss(moved, task.x_new, task.y_new)

    ours = ft.grad(objectives(0.02)["MAML"])(params, task)
    for g, e in zip(*map(jax.tree_util.tree_leaves, (ours, jax.grad(objective)(params))), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5 * abs(np.asarray(e)).max())
    assert maml.loss(adapted(params, task.x, task.y, 0.02), task.x, task.y) < maml.loss(params, task.x, task.y)
