"""A run that stops, and goes on from its file in another process's place, has the same bits as one that does not."""

import jax
import numpy as np
from sklearn.datasets import load_digits

import functrace as ft
from functrace import io, nn, numpy as fnp, optim, random

IMAGES, LABELS = load_digits(return_X_y=True)
DATA = {"x": (IMAGES / 16).astype(np.float32)[:200], "y": LABELS[:200].astype(np.int32)}
BATCH = 64  # 3 batches in an epoch
OPTIMIZER = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(optim.cosine_decay_schedule(1e-2, 20)))


def begin():
    """An MLP with its optimizer's state, a key for dropout, and a position in the data."""
    first, second, key = random.split(random.key(0), 3)
    he = nn.initializers.he_normal()
    params = [{"W": he(first, (64, 32)), "b": fnp.zeros(32)}, {"W": he(second, (32, 10)), "b": fnp.zeros(10)}]
    return {
        "params": params,
        "optimizer": OPTIMIZER.init(params),
        "key": key,
        "position": {"epoch": 0, "batch": 0},
    }


def loss_of(params, key, x, y):
    hidden, last = params
    h = nn.leaky_relu(x @ hidden["W"] + hidden["b"])
    h = fnp.where(random.bernoulli(key, 0.8, h.shape), h / 0.8, 0)
    return nn.softmax_cross_entropy_with_integer_labels(h @ last["W"] + last["b"], y).mean()


@ft.jit
def train_step(params, state, key, batch):
    key, now = random.split(key)
    grads = ft.grad(loss_of)(params, now, batch["x"], batch["y"])
    updates, state = OPTIMIZER.update(grads, state, params)
    return optim.apply_updates(params, updates), state, key


def train(run, steps):
    """The run after more steps."""
    params, state, key, position = run["params"], run["optimizer"], run["key"], run["position"]
    for _ in range(steps):
        epoch, start = position["epoch"], position["batch"]
        batch = next(io.prefetch(io.batches(DATA, BATCH, seed=7, epoch=epoch, start=start)))
        params, state, key = train_step(params, state, key, batch)
        last = start + 1 == len(DATA["x"]) // BATCH
        position = {"epoch": epoch + last, "batch": 0 if last else start + 1}
    return {"params": params, "optimizer": state, "key": key, "position": position}


def test_the_same_bits(tmp_path):
    whole = train(begin(), 8)
    run = begin()
    for part, steps in enumerate((2, 3, 3)):  # stops within an epoch, then in the next
        path = tmp_path / f"run{part}.safetensors"
        io.save(path, train(run, steps))
        run = io.load(path, like=begin())
    assert run["position"] == whole["position"] == {"epoch": 2, "batch": 2}
    assert jax.tree.structure(run) == jax.tree.structure(whole)
    parts = (ft.tree.leaves((r["params"], r["optimizer"])) for r in (run, whole))
    for x, y in zip(*parts, strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        assert x.weak_type == y.weak_type
    np.testing.assert_array_equal(random.key_data(run["key"]), random.key_data(whole["key"]))
    other = io.load(tmp_path / "run1.safetensors", like=begin())
    moved = train({**other, "key": random.key(1)}, 3)["params"]
    assert any((x != y).any() for x, y in zip(ft.tree.leaves(moved), ft.tree.leaves(run["params"]), strict=True))
