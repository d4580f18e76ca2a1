"""Deep models besides: a gated transformer, a ResNet-50 with batch norm, an MLP, hundreds of equal layers."""

from __future__ import annotations

import jax
import numpy as np
from checkpointing import in_turn, layer_of, parameters
from jax import lax as jax_lax, numpy as jnp
from timing import Row, alternate, calls, first_results

import functrace as ft
from functrace import lax as ft_lax, numpy as fnp

TITLE = "Other deep models, their layers a Python loop"
NOTE = """A training step with momentum of a ResNet-50 of a quarter of the width, batch statistics in its norms, on 8
pictures of 32 x 32; one of a transformer with gated layers of width 96 on 16 sequences of 64; one of an MLP, batch 32;
the gradient of 24 layers of the transformer of `checkpointing`, whose gelu and softmax are the library's own; that of
equal layers of width 64, batch 32; a scan of 8 training steps of residual layers of that width. "first value" is from
the Python function to its first result; of three, where none takes two seconds."""
BLOCKS, WIDTH = (3, 4, 6, 3), 16


def resnet(n, lax):
    """The loss of a ResNet-50 on pictures with labels."""

    def conv(x, w, stride=1):
        return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def norm(x, p):
        mean = x.mean((0, 1, 2))
        variance = ((x - mean) ** 2).mean((0, 1, 2))
        return (x - mean) / n.sqrt(variance + 1e-5) * p["g"] + p["b"]

    def bottleneck(x, p, stride):
        y = n.maximum(norm(conv(x, p["w1"]), p["n1"]), 0)
        y = n.maximum(norm(conv(y, p["w2"], stride), p["n2"]), 0)
        y = norm(conv(y, p["w3"]), p["n3"])
        shortcut = norm(conv(x, p["w0"], stride), p["n0"]) if "w0" in p else x
        return n.maximum(y + shortcut, 0)

    def loss(params, x, labels):
        x = n.maximum(norm(conv(x, params["stem"]), params["norm"]), 0)
        for i, stage in enumerate(params["stages"]):
            for j, block in enumerate(stage):
                x = bottleneck(x, block, 2 if i and not j else 1)
        z = x.mean((1, 2)) @ params["out"]
        z = z - z.max(-1, keepdims=True)
        z = z - n.log(n.exp(z).sum(-1, keepdims=True))
        return -n.mean(n.take_along_axis(z, labels[:, None], -1))

    return loss


def resnet_arguments():
    """Parameters, pictures and labels."""
    rng = np.random.default_rng(0)

    def weight(size, a, b):
        return jnp.asarray(rng.standard_normal((size, size, a, b), np.float32) * (2 / (size * size * a)) ** 0.5)

    ones = lambda k: {"g": jnp.ones(k), "b": jnp.zeros(k)}
    stages, width = [], WIDTH
    for i, count in enumerate(BLOCKS):
        inner, outer, stage = WIDTH * 2**i, 4 * WIDTH * 2**i, []
        for _ in range(count):
            block = {"w1": weight(1, width, inner), "w2": weight(3, inner, inner), "w3": weight(1, inner, outer)}
            block |= {"n1": ones(inner), "n2": ones(inner), "n3": ones(outer)}
            if width != outer:
                block |= {"w0": weight(1, width, outer), "n0": ones(outer)}
            stage.append(block)
            width = outer
        stages.append(stage)
    params = {"stem": weight(3, 3, WIDTH), "norm": ones(WIDTH), "stages": stages, "out": weight(1, width, 10)[0, 0]}
    return params, jnp.asarray(rng.standard_normal((8, 32, 32, 3), np.float32)), rng.integers(0, 10, 8)


def gated(n, lax):
    """The loss of a transformer with root mean squares for norms and gated layers."""

    def norm(x, g):
        return x / n.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g

    def layer(p, x):
        h = norm(x, p["g1"])
        q, k, v = [(h @ p[m]).reshape(*x.shape[:2], 4, -1).transpose(0, 2, 1, 3) for m in "qkv"]
        score = q @ k.transpose(0, 1, 3, 2) / q.shape[-1] ** 0.5
        score = n.where(n.tril(n.ones((x.shape[1],) * 2, bool)), score, -1e9)
        weight = n.exp(score - score.max(-1, keepdims=True))
        mixed = (weight / weight.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ p["o"]
        h = norm(x, p["g2"])
        gate = h @ p["gate"]
        return x + (gate / (1 + n.exp(-gate)) * (h @ p["up"])) @ p["down"]

    def loss(params, tokens, targets):
        x = params["embed"][tokens]
        for p in params["layers"]:
            x = layer(p, x)
        z = x @ params["embed"].T
        z = z - z.max(-1, keepdims=True)
        return -n.mean(n.take_along_axis(z - n.log(n.exp(z).sum(-1, keepdims=True)), targets[..., None], -1))

    return loss


def gated_arguments(depth, width=96):
    """Parameters, tokens and targets."""
    square = dict.fromkeys("qkvo", (width, width))
    shapes = {**square, "gate": (width, 256), "up": (width, 256), "down": (256, width)}
    layer = {k: draws(*s) for k, s in shapes.items()} | {"g1": jnp.ones(width), "g2": jnp.ones(width)}
    layers = [jax.tree.map(lambda x: x + 0, layer) for _ in range(depth)]
    return {"embed": draws(200, width), "layers": layers}, *np.random.default_rng(0).integers(0, 200, (2, 16, 64))


def plain(n, lax):
    """The loss of a transformer as `checkpointing` has it, of numbers that need no gradient."""
    return in_turn(layer_of({fnp: ft, jnp: jax}[n]))


def mlp(n, lax):
    """The loss of an MLP, each layer with parameters of its own."""

    def loss(params, x):
        for w, b in params:
            x = n.tanh(x @ w + b)
        return n.mean(x**2)

    return loss


def residual(n, lax):
    """The loss of residual layers, each of which centres what it reads."""

    def loss(params, x):
        for w, b in params:
            x = x + 0.3 * n.tanh((x - x.mean(-1, keepdims=True)) @ w + b)
        return n.mean(x**2)

    return loss


def mlp_arguments(depth):
    """Parameters and inputs."""
    weights = draws(depth, 64, 64)
    return [(w, jnp.zeros(64)) for w in weights], draws(32, 64)


def draws(*shape):
    """Normal numbers with a deviation of an eighth."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32) / 8)


def gradient(loss, value_and_grad, lax):
    """The loss and its gradient."""
    return value_and_grad(loss)


def training_loop(loss, value_and_grad, lax):
    """Steps of training in a scan over batches."""
    step = training_step(loss, value_and_grad, lax)

    def loop(params, momentum, batches):
        def turn(state, batch):
            value, *state = step(*state, batch)
            return tuple(state), value

        state, values = lax.scan(turn, (params, momentum), batches)
        return values, state

    return loop


def training_step(loss, value_and_grad, lax):
    """A step of training with momentum."""

    def step(params, momentum, *data):
        value, grads = value_and_grad(loss)(params, *data)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        return value, jax.tree.map(lambda p, m: p - 0.01 * m, params, momentum), momentum

    return step


def measure() -> list[Row]:
    """Three rows a model: what comes before XLA, the first step, and a step."""
    tasks = [
        ("ResNet-50", resnet, resnet_arguments(), training_step),
        ("24 gated layers", gated, gated_arguments(24), training_step),
        ("24 plain layers", plain, parameters(24), gradient),
        ("50-layer MLP", mlp, mlp_arguments(50), training_step),
        ("800 equal layers", mlp, mlp_arguments(800), gradient),
        ("24 residual layers, 8 steps", residual, (mlp_arguments(24)[0], draws(8, 32, 64)), training_loop),
    ]
    return [row for task in tasks for row in rows(*task)]


def rows(task, make, args, of) -> list[Row]:
    """What one model takes; `of` makes of its loss what is measured."""
    params, *data = args
    if of is not gradient:
        args = (params, jax.tree.map(jnp.zeros_like, params), *data)
    steps = {
        "functrace": lambda: ft.jit(of(make(fnp, ft_lax), ft.value_and_grad, ft_lax)),
        "jax": lambda: jax.jit(of(make(jnp, jax_lax), jax.value_and_grad, jax_lax)),
    }
    first = first_results(steps, args)
    np.testing.assert_allclose(*[result[0] for result in first.results.values()], rtol=1e-4)
    lowered = {name: lambda step=step: step().lower(*args) for name, step in steps.items()}
    return [
        Row(f"{task}, traced and lowered", alternate(lowered, rounds=5)),
        Row(f"{task}, first value", first.seconds),
        Row(f"{task}, a call", calls(first, args, rounds=21), memory=first.memory),
    ]
