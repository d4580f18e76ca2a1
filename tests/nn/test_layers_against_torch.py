"""Layers and models against PyTorch's on the same weights: values, gradients and running statistics."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import functrace as ft
from functrace import nn

torch = pytest.importorskip("torch")
tnn = torch.nn
wn, sn = tnn.utils.parametrizations.weight_norm, tnn.utils.parametrizations.spectral_norm

# From PyTorch's weights by name to ours: the same maps take its gradients to ours.


def matrix(w, prefix=""):
    """Linear and convolutions: [out, in, *kernel] to [*kernel, in, out]."""
    return named(w, prefix, kernel=("weight", lambda a: np.moveaxis(a, (1, 0), (-2, -1))), bias=("bias", np.asarray))


def stamp(groups=1):
    """Transposed convolutions: [in, out / groups, *kernel] to [*kernel, in / groups, out]."""

    def kernel(a):
        cut = a.reshape(groups, a.shape[0] // groups, *a.shape[1:])
        joined = np.moveaxis(cut, (1, 0, 2), (-3, -2, -1))
        return joined.reshape(*a.shape[2:], a.shape[0] // groups, groups * a.shape[1])

    return partial(named, prefix="", kernel=("weight", kernel), bias=("bias", np.asarray))


def norm(w, prefix=""):
    return named(w, prefix, scale=("weight", np.asarray), bias=("bias", np.asarray))


def statistics(w, prefix=""):
    return named(w, prefix, mean=("running_mean", np.asarray), variance=("running_var", np.asarray))


def normed(w):
    """weight_norm: magnitude and direction are original0 and original1."""
    g, v = (f"parametrizations.weight.original{i}" for i in (0, 1))
    move = lambda a: np.moveaxis(a, (1, 0), (-2, -1))
    return named(w, "", bias=("bias", np.asarray), magnitude=(g, np.ravel), direction=(v, move))


def spectral(w):
    original = ("parametrizations.weight.original", lambda a: np.moveaxis(a, (1, 0), (-2, -1)))
    return named(w, "", bias=("bias", np.asarray), kernel=original)


def named(w, prefix, **parts):
    return {ours: f(w[prefix + theirs]) for ours, (theirs, f) in parts.items() if prefix + theirs in w}


class Row(NamedTuple):
    layer: Any
    module: Any
    params: Any
    shape: tuple[int, ...]  # with the channels last
    training: bool = False
    state: Any = None


class Mean(tnn.Module):
    """The mean of windows with gaps, which PyTorch has as a convolution only; `size` None counts no padding."""

    def __init__(self, size, kernel, **options):
        super().__init__()
        self.size, self.sum = size, lambda x: torch.conv2d(x, torch.ones(kernel), **options)

    def forward(self, x):
        return self.sum(x) / (self.size or self.sum(torch.ones_like(x)))


NO_PARAMS = lambda w: {}
IMAGE, SEQUENCE, VOLUME = (2, 7, 9, 4), (2, 9, 4), (2, 5, 4, 6, 4)
pool = lambda function, **options: nn.as_layer(function, **options)
ROWS = {
    "dense": Row(nn.dense(4, 3), tnn.Linear(4, 3), matrix, (5, 4)),
    "dense, no bias, more axes": Row(nn.dense(4, 3, use_bias=False), tnn.Linear(4, 3, bias=False), matrix, (2, 5, 4)),
    "conv 1d": Row(nn.conv(4, 3, (3,), padding="VALID"), tnn.Conv1d(4, 3, 3), matrix, SEQUENCE),
    "conv 2d, same": Row(nn.conv(4, 6, (3, 5)), tnn.Conv2d(4, 6, (3, 5), padding="same"), matrix, IMAGE),
    "conv 2d, strides, groups, no bias": Row(
        nn.conv(4, 6, (3, 3), strides=(2, 1), padding=(1, 2), groups=2, use_bias=False),
        tnn.Conv2d(4, 6, 3, (2, 1), (1, 2), groups=2, bias=False),
        matrix,
        IMAGE,
    ),
    "conv 2d, dilation": Row(
        nn.conv(4, 2, (3, 3), dilation=2, padding=2), tnn.Conv2d(4, 2, 3, padding=2, dilation=2), matrix, IMAGE
    ),
    "conv 3d": Row(nn.conv(4, 2, (2, 3, 2), padding=1), tnn.Conv3d(4, 2, (2, 3, 2), padding=1), matrix, VOLUME),
    "conv_transpose 1d": Row(
        nn.conv_transpose(4, 3, (3,), padding="VALID"), tnn.ConvTranspose1d(4, 3, 3), stamp(), SEQUENCE
    ),
    "conv_transpose 2d, strides": Row(
        nn.conv_transpose(4, 6, (3, 4), strides=(2, 3), padding=1, output_padding=(1, 0), groups=2),
        tnn.ConvTranspose2d(4, 6, (3, 4), (2, 3), 1, (1, 0), groups=2),
        stamp(2),
        IMAGE,
    ),
    "conv_transpose 2d, same": Row(
        nn.conv_transpose(4, 3, (4, 4), strides=2), tnn.ConvTranspose2d(4, 3, 4, 2, 1), stamp(), IMAGE
    ),
    "conv_transpose 2d, dilation": Row(
        nn.conv_transpose(4, 3, (2, 3), dilation=2, padding=(0, 2)),
        tnn.ConvTranspose2d(4, 3, (2, 3), padding=(0, 2), dilation=2),
        stamp(),
        IMAGE,
    ),
    "conv_transpose 3d": Row(
        nn.conv_transpose(4, 2, (2, 2, 3), strides=2, padding="VALID", use_bias=False),
        tnn.ConvTranspose3d(4, 2, (2, 2, 3), 2, bias=False),
        stamp(),
        VOLUME,
    ),
    "max_pool 1d": Row(pool(nn.max_pool, window=(2,)), tnn.MaxPool1d(2), NO_PARAMS, SEQUENCE),
    "max_pool 2d": Row(
        pool(nn.max_pool, window=(3, 2), strides=2, padding=1), tnn.MaxPool2d((3, 2), 2, 1), NO_PARAMS, IMAGE
    ),
    "max_pool 3d": Row(pool(nn.max_pool, window=(2, 2, 2), strides=1), tnn.MaxPool3d(2, 1), NO_PARAMS, VOLUME),
    "max_pool 2d, dilation": Row(
        pool(nn.max_pool, window=(3, 2), strides=(1, 2), padding=1, dilation=(2, 3)),
        tnn.MaxPool2d((3, 2), (1, 2), 1, (2, 3)),
        NO_PARAMS,
        IMAGE,
    ),
    "max_pool 3d, dilation": Row(
        pool(nn.max_pool, window=(2, 2, 2), strides=2, dilation=2), tnn.MaxPool3d(2, 2, dilation=2), NO_PARAMS, VOLUME
    ),
    "avg_pool 1d": Row(pool(nn.avg_pool, window=(3,), strides=2), tnn.AvgPool1d(3, 2), NO_PARAMS, SEQUENCE),
    "avg_pool 2d, padding counted": Row(
        pool(nn.avg_pool, window=(3, 3), strides=2, padding=1), tnn.AvgPool2d(3, 2, 1), NO_PARAMS, IMAGE
    ),
    "avg_pool 2d, padding not counted": Row(
        pool(nn.avg_pool, window=(3, 3), strides=2, padding=1, count_padding=False),
        tnn.AvgPool2d(3, 2, 1, count_include_pad=False),
        NO_PARAMS,
        IMAGE,
    ),
    "avg_pool 2d, dilation": Row(
        pool(nn.avg_pool, window=(3, 2), strides=2, padding=1, dilation=(2, 1)),
        Mean(6, (4, 1, 3, 2), stride=2, padding=1, dilation=(2, 1), groups=4),
        NO_PARAMS,
        IMAGE,
    ),
    "avg_pool 2d, dilation, padding not counted": Row(
        pool(nn.avg_pool, window=(2, 2), strides=1, padding=1, dilation=2, count_padding=False),
        Mean(None, (4, 1, 2, 2), padding=1, dilation=2, groups=4),
        NO_PARAMS,
        IMAGE,
    ),
    "avg_pool 3d": Row(pool(nn.avg_pool, window=(2, 2, 3)), tnn.AvgPool3d((2, 2, 3)), NO_PARAMS, VOLUME),
    "adaptive_avg_pool 1d": Row(
        pool(nn.adaptive_avg_pool, output_size=(4,)), tnn.AdaptiveAvgPool1d(4), NO_PARAMS, SEQUENCE
    ),
    "adaptive_avg_pool 2d": Row(
        pool(nn.adaptive_avg_pool, output_size=(3, 3)), tnn.AdaptiveAvgPool2d(3), NO_PARAMS, IMAGE
    ),
    "adaptive_avg_pool 3d": Row(
        pool(nn.adaptive_avg_pool, output_size=(2, 7, 1)), tnn.AdaptiveAvgPool3d((2, 7, 1)), NO_PARAMS, VOLUME
    ),
    "adaptive_max_pool 2d": Row(
        pool(nn.adaptive_max_pool, output_size=(4, 3)), tnn.AdaptiveMaxPool2d((4, 3)), NO_PARAMS, IMAGE
    ),
    "batch_norm of features, training": Row(nn.batch_norm(4), tnn.BatchNorm1d(4), norm, (6, 4), True, statistics),
    "batch_norm 2d, training": Row(
        nn.batch_norm(4, momentum=0.7, epsilon=1e-3),
        tnn.BatchNorm2d(4, momentum=0.3, eps=1e-3),
        norm,
        IMAGE,
        True,
        statistics,
    ),
    "batch_norm 3d": Row(nn.batch_norm(4), tnn.BatchNorm3d(4), norm, VOLUME, False, statistics),
    "batch_norm, no params": Row(
        nn.batch_norm(4, use_scale=False, use_bias=False),
        tnn.BatchNorm2d(4, affine=False),
        norm,
        IMAGE,
        True,
        statistics,
    ),
    "layer_norm": Row(nn.layer_norm(4), tnn.LayerNorm(4), norm, (3, 5, 4)),
    "layer_norm of two axes": Row(
        nn.layer_norm((5, 4), use_bias=False), tnn.LayerNorm((5, 4), bias=False), norm, (3, 5, 4)
    ),
    "rms_norm": Row(nn.rms_norm(4), tnn.RMSNorm(4, eps=1e-6), norm, (3, 5, 4)),
    "group_norm": Row(nn.group_norm(4, 2), tnn.GroupNorm(2, 4), norm, IMAGE),
    "group_norm of one group": Row(nn.group_norm(4, 1), tnn.GroupNorm(1, 4), norm, (3, 4)),
    "instance_norm": Row(nn.instance_norm(4), tnn.InstanceNorm2d(4, affine=True), norm, IMAGE),
    "prelu": Row(nn.prelu_layer(4), tnn.PReLU(4), lambda w: named(w, "", slope=("weight", np.asarray)), IMAGE),
    "prelu with one slope": Row(
        nn.prelu_layer(), tnn.PReLU(), lambda w: named(w, "", slope=("weight", np.asarray)), (3, 4)
    ),
    "weight_norm of dense": Row(nn.weight_norm(nn.dense(4, 3)), wn(tnn.Linear(4, 3)), normed, (5, 4)),
    "weight_norm of conv": Row(
        nn.weight_norm(nn.conv(4, 3, (3, 3), padding=1)), wn(tnn.Conv2d(4, 3, 3, padding=1)), normed, IMAGE
    ),
    "sequential": Row(
        nn.sequential(nn.conv(4, 3, (3, 3), padding=0), nn.batch_norm(3), nn.relu, nn.conv(3, 2, (1, 1))),
        tnn.Sequential(tnn.Conv2d(4, 3, 3), tnn.BatchNorm2d(3), tnn.ReLU(), tnn.Conv2d(3, 2, 1)),
        lambda w: {"conv_0": matrix(w, "0."), "batch_norm": norm(w, "1."), "relu": {}, "conv_1": matrix(w, "3.")},
        IMAGE,
        True,
        lambda w: {"batch_norm": statistics(w, "1.")},
    ),
    "mlp": Row(
        nn.mlp((4, 6, 5, 3), activation=nn.tanh),
        tnn.Sequential(tnn.Linear(4, 6), tnn.Tanh(), tnn.Linear(6, 5), tnn.Tanh(), tnn.Linear(5, 3)),
        lambda w: {
            "dense_0": matrix(w, "0."),
            "dense_1": matrix(w, "2."),
            "dense_2": matrix(w, "4."),
            "tanh_0": {},
            "tanh_1": {},
        },
        (5, 4),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_values_gradients_and_state(name):
    row = ROWS[name]
    compare(row, randomised(row.module), 2e-5)


@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm(training):
    """The state is the singular vectors, which PyTorch calls _v and _u."""
    vectors = lambda w: named(
        w, "", left=("parametrizations.weight.0._v", np.asarray), right=("parametrizations.weight.0._u", np.asarray)
    )
    module = randomised(tnn.Conv2d(4, 3, 3, padding=1))
    layer = nn.spectral_norm(nn.conv(4, 3, (3, 3), padding=1), iterations=2)
    # The inputs of a kernel are [in, *kernel] to PyTorch and [*kernel, in] to us.
    ours = lambda v: np.moveaxis(v.reshape(4, 3, 3), 0, -1).ravel()
    state = lambda w: {key: ours(v) if key == "left" else v for key, v in vectors(w).items()}
    compare(Row(layer, module, spectral, IMAGE, training, state), sn(module, n_power_iterations=2), 2e-5)


def compare(row, module, tolerance):
    """Ours against theirs, from the same weights, state, input and cotangent."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(row.shape).astype(np.float32)
    last = isinstance(module, tnn.Linear | tnn.LayerNorm | tnn.RMSNorm) or x.ndim == 2
    inward, outward = (lambda a: a, lambda a: a) if last else (
        lambda a: np.moveaxis(a, -1, 1).copy(), lambda a: np.moveaxis(a, 1, -1),
    )  # fmt: skip
    params, state = row.params(arrays(module)), row.state and row.state(arrays(module))
    module.train(row.training)
    their_x = torch.tensor(inward(x), requires_grad=True)
    their_y = module(their_x)
    y = outward(their_y.detach().numpy())
    ct = rng.standard_normal(y.shape).astype(np.float32)
    their_y.backward(torch.tensor(inward(ct) if y.ndim > 2 else ct))
    gradients = {key: p.grad.numpy() for key, p in module.named_parameters()}

    def ours(params, x):
        if row.state is None:
            y, new = row.layer.apply(params, x, training=row.training), None
        else:
            y, new = row.layer.apply(params, state, x, training=row.training)
        return (y * ct).sum(), (y, new)

    (_, (our_y, new)), (d_params, d_x) = ft.jit(ft.value_and_grad(ours, argnums=(0, 1), has_aux=True))(params, x)
    close(our_y, y, tolerance)
    close(d_x, outward(their_x.grad.numpy()), tolerance)
    close(d_params, row.params(gradients), tolerance)
    if row.state is not None:
        close(new, row.state(arrays(module)), tolerance)


def randomised(module):
    """The module with weights and running statistics that are no one's default."""
    rng = np.random.default_rng(0)
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = rng.standard_normal(tuple(value.shape)).astype(np.float32)
            value.copy_(torch.tensor(abs(drawn) + 0.5 if "var" in key or "original0" in key else drawn))
    return module


def arrays(module):
    """A copy of all weights and buffers."""
    return {key: value.detach().numpy().copy() for key, value in module.state_dict().items()}


def close(ours, theirs, tolerance):
    """Equal structures, and leaves that differ by that much of their largest element."""
    assert ft.tree.structure(ours) == ft.tree.structure(theirs)
    for a, b in zip(ft.tree.leaves(ours), ft.tree.leaves(theirs), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, abs(np.asarray(b)).max()))


# ResNet-18 as in the paper, written out with torch.nn.


class Block(tnn.Module):
    def __init__(self, ins, outs, stride):
        super().__init__()
        self.conv_0 = tnn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.norm_0 = tnn.BatchNorm2d(outs)
        self.conv_1 = tnn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.norm_1 = tnn.BatchNorm2d(outs)
        if stride != 1:
            self.shortcut = tnn.Sequential(tnn.Conv2d(ins, outs, 1, stride, bias=False), tnn.BatchNorm2d(outs))

    def forward(self, x):
        y = self.norm_1(self.conv_1(torch.relu(self.norm_0(self.conv_0(x)))))
        return torch.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


def torch_resnet18(classes):
    stages = [tnn.Sequential(Block(max(64, n // 2), n, 1 + (n > 64)), Block(n, n, 1)) for n in (64, 128, 256, 512)]
    stem = [tnn.Conv2d(3, 64, 7, 2, 3, bias=False), tnn.BatchNorm2d(64), tnn.ReLU(), tnn.MaxPool2d(3, 2, 1)]
    return tnn.Sequential(*stem, *stages, tnn.AdaptiveAvgPool2d(1), tnn.Flatten(), tnn.Linear(512, classes))


def resnet18_params(w):
    def block(at):
        parts = {f"conv_{i}": matrix(w, f"{at}conv_{i}.") for i in (0, 1)}
        parts |= {f"norm_{i}": norm(w, f"{at}norm_{i}.") for i in (0, 1)}
        if at + "shortcut.0.weight" in w:
            parts["shortcut"] = {"conv": matrix(w, at + "shortcut.0."), "batch_norm": norm(w, at + "shortcut.1.")}
        return parts

    stem = {"conv": matrix(w, "0."), "batch_norm": norm(w, "1."), "relu": {}, "max_pool": {}}
    return {"stem": stem, **resnet18_stages(block), "head": matrix(w, "10.")}


def resnet18_state(w):
    def block(at):
        parts = {f"norm_{i}": statistics(w, f"{at}norm_{i}.") for i in (0, 1)}
        if at + "shortcut.1.weight" in w:
            parts["shortcut"] = {"batch_norm": statistics(w, at + "shortcut.1.")}
        return parts

    return {"stem": {"batch_norm": statistics(w, "1.")}, **resnet18_stages(block)}


def resnet18_stages(block):
    return {f"stage_{i}": {f"block_{j}": block(f"{4 + i}.{j}.") for j in (0, 1)} for i in range(4)}


def test_resnet18():
    """In training, at 64 by 64: values, all gradients, all running statistics."""
    torch.manual_seed(0)
    module = torch_resnet18(10)
    row = Row(nn.resnet18(10), module, resnet18_params, (4, 64, 64, 3), True, resnet18_state)
    compare(row, module, 1e-3)
