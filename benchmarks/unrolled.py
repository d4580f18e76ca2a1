"""Gradients of loops that are written in Python, and go round many times with the same parameters."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp
from timing import Row, calls, first_results

import functrace as ft
from functrace import numpy as fnp

TITLE = "Gradients through Python loops"
NOTE = """Loops of 100 steps that share their parameters, or have the rows of one array, as users write them; 20 of
training, 30 of conjugate gradients and of mixing layers, 50 of a sampler and 16 of the wave equation, as more take XLA
minutes; a table has 10 x 10 entries, a circuit 8 layers of rotations of 6 qubits. "first value" is from the Python
function to its first result; of three, where none takes two seconds. functrace finds the repeated equations, and hands
XLA a loop; with `roll=False` it leaves them. A table is no loop: each of its entries is computed once."""
WIDTH, BATCH = 64, 16
WAVE_STEPS = 16


def recurrent(n, params, xs):
    """A recurrent network that predicts what it reads."""
    h, total = n.zeros((BATCH, WIDTH)), 0.0
    for x in xs:
        h = n.tanh(x @ params["in"] + h @ params["step"])
        total = total + ((h @ params["out"] - x) ** 2).mean()
    return total


def runge_kutta(n, params, xs):
    """An equation of motion, by a method of order 4."""
    rate = lambda z: n.tanh(z @ params["step"])
    z = xs[0] @ params["in"]
    for _ in xs:
        a = rate(z)
        b = rate(z + 0.005 * a)
        c = rate(z + 0.005 * b)
        z = z + 0.01 / 6 * (a + 2 * b + 2 * c + rate(z + 0.01 * c))
    return (z**2).sum()


def conjugate_gradients(n, params, xs):
    """A linear system."""
    matrix = params["step"] @ params["step"].T + 10 * n.eye(WIDTH)
    x, r = n.zeros(WIDTH), params["step"][0]
    d, rr = r, r @ r
    for _ in range(30):
        image = matrix @ d
        step = rr / (d @ image + 1e-6)
        x, r = x + step * d, r - step * image
        new = r @ r
        d, rr = r + new / (rr + 1e-6) * d, new
    return (x**2).sum()


def gated(n, params, xs):
    """A gated recurrent network that reads its sequence along the second axis, `x[:, t]`."""
    sequence, h = n.swapaxes(xs, 0, 1), n.zeros((BATCH, WIDTH))
    for t in range(len(xs)):
        gates = sequence[:, t] @ params["gates in"] + h @ params["gates"]
        keep, new, out = gates[:, :WIDTH], gates[:, WIDTH : 2 * WIDTH], gates[:, 2 * WIDTH :]
        keep, out = 1 / (1 + n.exp(-keep)), 1 / (1 + n.exp(-out))
        h = keep * h + (1 - keep) * n.tanh(new) * out
    return (h**2).sum()


def stacked(n, params, xs):
    """A residual network whose layers have the rows of one array, `w[i]`, as their parameters."""
    x = xs[0] @ params["in"]
    for i in range(len(params["layers"])):
        x = x + n.tanh(x @ params["layers"][i] + params["biases"][i])
    return (x**2).sum()


def sampler(n, params, xs):
    """A diffusion sampler: each of 50 steps has its time, and coefficients from a NumPy schedule."""
    signal = np.cos(np.linspace(0.02, 1.5, 51)).astype(np.float32)
    z = xs[0] @ params["in"]
    for i in range(50, 0, -1):
        noise = n.tanh(z @ params["step"] + n.sin(i / 50)) @ params["step"].T
        a, b = signal[i], signal[i - 1]
        clean = (z - np.sqrt(1 - a * a) * noise) / a
        z = b * clean + np.sqrt(1 - b * b) * noise
    return (z**2).mean()


def wave(n, params, xs):
    """The wave equation, whose step reads the last two, in its speed at each place."""
    u = before = xs[:16, :, 0]
    for _ in range(WAVE_STEPS):
        bent = n.roll(u, 1, 0) + n.roll(u, -1, 0) + n.roll(u, 1, 1) + n.roll(u, -1, 1) - 4 * u
        u, before = 2 * u - before + params["speed"] ** 2 * bent, u
    return (u**2).sum()


def mixing(n, params, xs):
    """Layers on one another, each of which goes through the sequence with two sums of its own, as those of RWKV."""
    xs = (xs @ params["in"])[:30]
    for w, rate in zip(params["layers"], params["rates"], strict=True):
        keys, values, decay = xs @ w, xs @ w.T, n.exp(-n.exp(rate))
        top, below, out = n.zeros_like(xs[0]), n.zeros_like(xs[0]), []
        for key, value in zip(keys, values, strict=True):
            now = n.exp(key)
            out.append((top + now * rate * value) / (below + now * (1 + rate**2)))
            top, below = decay * top + now * value, decay * below + now
        xs = xs + n.stack(out)
    return (xs**2).sum()


def table(n, params, xs):
    """Soft dynamic time warping: a table filled entry by entry, each from the least of three before it."""
    costs = ((params["a"][:, None] - params["b"]) ** 2).sum(-1)
    softmin = lambda *xs: (lambda x: x.min() - n.log(n.exp(x.min() - x).sum()))(n.stack(xs))
    row = [costs[0, 0]]
    for i in range(1, len(costs)):
        row.append(row[-1] + costs[0, i])
    for j in range(1, len(costs)):
        above, row = row, [row[0] + costs[j, 0]]
        for i in range(1, len(costs)):
            row.append(costs[j, i] + softmin(row[-1], above[i], above[i - 1]))
    return row[-1]


def circuit(n, params, xs):
    """A quantum circuit: rotations by single entries `angles[i, q, k]`, and signs for pairs of qubits; an energy."""
    qubits = 6
    state = n.ones((2,) * qubits, n.complex64) / 2 ** (qubits / 2)
    for i in range(len(params["angles"])):
        for q in range(qubits):
            a, b = params["angles"][i, q, 0] / 2, n.exp(1j * params["angles"][i, q, 1])
            turn = n.array([[n.cos(a), -n.sin(a)], [n.sin(a), n.cos(a)]]) * n.array([n.conj(b), b])
            state = n.moveaxis(n.tensordot(turn, state, axes=((1,), (q,))), 0, q)
        for q in range(qubits - 1):
            signs = np.ones((2,) * qubits, np.float32)
            signs[(slice(None),) * q + (1, 1)] = -1
            state = state * signs
    return sum([(n.abs(n.take(state, 0, q)) ** 2).sum() for q in range(qubits)])


def training(n, grad):
    """20 steps of gradient descent inside a loss."""

    def loss(params, xs):
        inner = lambda q: ((n.tanh(xs[0] @ q["in"]) @ q["out"] - xs[1]) ** 2).mean()
        q = params
        for _ in range(20):
            q = jax.tree.map(lambda a, b: a - 0.1 * b, q, grad(inner)(q))
        return inner(q)

    return loss


def tuning(n, grad):
    """How much 20 steps of Adam depend on their rate and momentum: its gradient is a second derivative through them."""

    def trained(params, xs):
        fit = lambda w: ((xs[0] @ w - xs[1, :, 0]) ** 2).mean()
        rate, momentum = params["rates"]
        w = m = v = n.zeros(8)
        total = 0.0
        for _ in range(20):
            g = grad(fit)(w)
            m, v = momentum * m + (1 - momentum) * g, 0.99 * v + 0.01 * g * g
            w, total = w - rate * m / (n.sqrt(v) + 1e-3), total + fit(w)
        return total

    return lambda params, xs: (grad(trained)(params, xs)["rates"] ** 2).sum()


def measure() -> list[Row]:
    """Rows for the first value and for a call, by loop."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)
    params, xs = {"in": draw(8, WIDTH), "step": draw(WIDTH, WIDTH), "out": draw(WIDTH, 8)}, draw(100, BATCH, 8)
    gates = {"gates in": draw(8, 3 * WIDTH), "gates": draw(WIDTH, 3 * WIDTH)}
    layers = {"in": params["in"], "layers": draw(100, WIDTH, WIDTH) / WIDTH**0.5, "biases": draw(100, WIDTH)}
    mixed = {"in": params["in"], "layers": draw(2, WIDTH, WIDTH) / WIDTH**0.5, "rates": draw(2, WIDTH)}
    tasks = {
        "recurrent network": (lambda n, grad: lambda p, xs: recurrent(n, p, xs), params),
        "gated recurrent network": (lambda n, grad: lambda p, xs: gated(n, p, xs), gates),
        "Runge-Kutta": (lambda n, grad: lambda p, xs: runge_kutta(n, p, xs), params),
        "conjugate gradients": (lambda n, grad: lambda p, xs: conjugate_gradients(n, p, xs), params),
        "training inside a loss": (training, params),
        "its rate and momentum": (tuning, {"rates": jnp.array([0.05, 0.9], jnp.float32)}),
        "layers in one array": (lambda n, grad: lambda p, xs: stacked(n, p, xs), layers),
        "diffusion sampler": (lambda n, grad: lambda p, xs: sampler(n, p, xs), params),
        "mixing layers": (lambda n, grad: lambda p, xs: mixing(n, p, xs), mixed),
        "table": (lambda n, grad: lambda p, xs: table(n, p, xs), {"a": draw(10, 3), "b": draw(10, 3)}),
        "circuit": (lambda n, grad: lambda p, xs: circuit(n, p, xs), {"angles": 3 * draw(8, 6, 2)}),
        "wave equation": (lambda n, grad: lambda p, xs: wave(n, p, xs), {"speed": jnp.full((16, BATCH), 0.3)}),
    }
    return [row for name, (make, own) in tasks.items() for row in rows(name, make, (own, xs))]


def rows(name, make, args) -> list[Row]:
    """What one loop takes."""
    contenders = {
        "functrace": lambda: ft.jit(ft.grad(make(fnp, ft.grad))),
        "functrace, roll=False": lambda: ft.jit(ft.grad(make(fnp, ft.grad)), roll=False),
        "jax": lambda: jax.jit(jax.grad(make(jnp, jax.grad))),
    }
    first = first_results(contenders, args)
    ours, *others = [jax.tree.leaves(result) for result in first.results.values()]
    for other in others:
        for a, b in zip(ours, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(b).max()))
    return [
        Row(f"{name}, first value", first.seconds),
        Row(f"{name}, a call", calls(first, args, rounds=31), memory=first.memory),
    ]
