"""What layers refuse, and what they say."""

from functools import partial

import numpy as np
import pytest

import functrace as ft
from functrace import nn, random
from functrace.errors import ArgumentError, DtypeError, ShapeError

KEY = random.key(0)
zeros = lambda *shape: np.zeros(shape, np.float32)
DENSE = {"kernel": zeros(4, 3), "bias": zeros(3)}
NORM = {"scale": zeros(4), "bias": zeros(4)}
STATE = {"mean": zeros(4), "variance": zeros(4)}
KERNEL = {"kernel": zeros(3, 3, 4, 6), "bias": zeros(6)}
MLP = {"dense_0": DENSE, "relu": {}, "dense_1": {"kernel": zeros(3, 2), "bias": zeros(2)}}


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        # What a layer is made of.
        (lambda: nn.dense(-1, 3), ArgumentError, r"^dense: in_features is -1; a whole number of at least 1 was"),
        (lambda: nn.dense(3, 2.5), ArgumentError, r"^dense: out_features is 2.5; a whole number"),
        (lambda: nn.conv(3, 8, 3), ArgumentError, r"^conv: kernel_size is 3; a tuple was expected: a size for each"),
        (lambda: nn.conv(3, 8, (3, 0)), ArgumentError, r"^conv: kernel_size is 0; a whole number of at least 1"),
        (lambda: nn.conv(3, 8, (3, 3), strides=(1,)), ArgumentError, r"^conv: strides is \(1,\); one number, or 2"),
        (lambda: nn.conv(3, 8, (3, 3), padding="FULL"), ArgumentError, r"^conv: padding is 'FULL'; 'SAME', 'VALID'"),
        (lambda: nn.conv(3, 8, (3, 3), padding=-1), ArgumentError, r"^conv: padding is -1; .*2 such numbers or pairs"),
        (lambda: nn.conv(3, 8, (3,), groups=2), ArgumentError, r"^conv: 2 groups must divide both in_channels 3 and"),
        (
            lambda: nn.conv_transpose(3, 8, (3,), strides=2, padding=1, output_padding=2),
            ArgumentError,
            r"^conv_transpose: output_padding is 2; with strides \(2,\) and padding 1 numbers from 0 to \(1,\)",
        ),
        (lambda: nn.batch_norm(3, momentum=1.5), ArgumentError, r"^batch_norm: momentum is 1.5; a number from 0 to 1"),
        (lambda: nn.layer_norm(3, epsilon=-1), ArgumentError, r"^layer_norm: epsilon is -1; a number of at least 0"),
        (lambda: nn.group_norm(6, 4), ArgumentError, r"^group_norm: 4 groups do not divide 6 features"),
        (lambda: nn.dropout(-0.1), ArgumentError, r"^dropout: rate is -0.1; a number from 0 to 1 was expected"),
        (lambda: nn.dropout(20), ArgumentError, r"^dropout: rate is 20; a number from 0 to 1"),
        (lambda: nn.mlp((4,)), ArgumentError, r"^mlp: widths are \(4,\); at least those of inputs and outputs"),
        (lambda: nn.resnet18(stem="huge"), ArgumentError, r"^resnet18: stem is 'huge'; 'large' or 'small'"),
        (lambda: nn.resnet50(0), ArgumentError, r"^resnet50: classes is 0; a whole number"),
        (
            lambda: nn.sequential(nn.relu, 3),
            DtypeError,
            r"^sequential: layer 1 is of type int; a layer or a function was",
        ),
        (lambda: nn.residual("dense"), DtypeError, r"^residual: layer 'layer' is of type str; a layer or a function"),
        (
            lambda: nn.sequential(nn.dense(1, 1, name="a_0"), nn.dense(1, 1, name="a"), nn.dense(1, 1, name="a")),
            ArgumentError,
            r"^sequential: two layers would be called 'a_0'. Give one of them another name",
        ),
        (
            lambda: nn.weight_norm(nn.batch_norm(3)),
            DtypeError,
            r"^weight_norm: layer is the StatefulLayer 'batch_norm'; a Layer with a kernel",
        ),
        (
            lambda: nn.spectral_norm(nn.mlp((2, 2))).init(KEY),
            ArgumentError,
            r"^spectral_norm in mlp: the keys of params are \['dense_0'\]; 'kernel' was expected among them. Wrap",
        ),
        # What it is applied to: the layer's name, both shapes, the remedy, the line.
        (
            lambda: nn.dense(4, 3).apply(DENSE, zeros(2, 5)),
            ShapeError,
            r"^dense: x has shape \(2, 5\); \[..., 4\] was expected, to fit params\['kernel'\] of shape \(4, 3\)."
            r"  \(test_layer_messages.py:\d+, in <lambda>\)",
        ),
        (lambda: nn.dense(4, 3).apply(DENSE, 1.0), ShapeError, r"^dense: x has shape \(\); \[..., 4\] was expected"),
        (
            lambda: nn.dense(4, 3).apply(DENSE, np.zeros((2, 4), np.uint8)),
            DtypeError,
            r"^dense: x has dtype uint8; a floating one was expected. Cast it .*divided by 255",
        ),
        (
            lambda: nn.dense(4, 3).apply({"kernel": zeros(4, 3)}, zeros(2, 4)),
            ArgumentError,
            r"^dense: the keys of params are \['kernel'\]; a dict with keys \['bias', 'kernel'\] was expected",
        ),
        (
            lambda: nn.dense(4, 3).apply((zeros(4, 3), zeros(3)), zeros(2, 4)),
            ArgumentError,
            r"^dense: params came as a tuple; a dict with keys",
        ),
        (
            lambda: nn.dense(4, 3).apply({**DENSE, "kernel": zeros(3, 4)}, zeros(2, 4)),
            ShapeError,
            r"^dense: params\['kernel'\] has shape \(3, 4\); \(4, 3\) was expected",
        ),
        (
            lambda: nn.conv(4, 6, (3, 3)).apply(KERNEL, zeros(2, 4, 9, 9)),
            ShapeError,
            r"^conv: x has shape \(2, 4, 9, 9\); \[..., spatial, spatial, 4\] was expected, to fit params\['kernel'\] "
            r"of shape \(3, 3, 4, 6\). Its channels stand before the spatial axes: give fnp.moveaxis\(x, -3, -1\).",
        ),
        (
            lambda: nn.conv(4, 6, (3, 3)).apply(KERNEL, zeros(9, 4)),
            ShapeError,
            r"^conv: x has shape \(9, 4\); \[..., spatial, spatial, 4\]",
        ),
        (
            lambda: nn.conv(4, 6, (3, 3), padding="VALID").apply(KERNEL, zeros(2, 9, 2, 4)),
            ArgumentError,
            r"^conv: x has shape \(2, 9, 2, 4\) and the kernel spans \(3, 3\).*larger than the spatial axes \(9, 2\)",
        ),
        (
            lambda: nn.conv_transpose(4, 6, (3, 3), padding=2).apply(KERNEL, zeros(2, 2, 5, 4)),
            ArgumentError,
            r"^conv_transpose: x has shape \(2, 2, 5, 4\); padding \(\(2, 2\), \(2, 2\)\) cuts off all there is, and "
            r"leaves spatial axes of \[0, 3\]",
        ),
        (
            lambda: nn.max_pool(zeros(1, 4, 4, 3), (5, 2)),
            ArgumentError,
            r"^max_pool: x has shape \(1, 4, 4, 3\) and window \(5, 2\) is larger than the spatial axes \(4, 4\) with "
            r"padding \(\(0, 0\), \(0, 0\)\). Pad more, take a smaller window, or a global or an adaptive pool.",
        ),
        (
            lambda: nn.max_pool(zeros(4, 3), (2,), padding=2),
            ArgumentError,
            r"^max_pool: x has spatial axes \(4,\) with padding \(\(2, 2\),\); some window \(2,\) would hold padding "
            r"only. Pad less.",
        ),
        (
            lambda: nn.avg_pool(zeros(5, 3), (3,), dilation=3),
            ArgumentError,
            r"^avg_pool: x has shape \(5, 3\) and window \(3,\) with dilation \(3,\) is larger than the spatial axes",
        ),
        (  # elements 0 and 2 of three, of which the middle one is x
            lambda: nn.max_pool(zeros(1, 3), (2,), padding=1, dilation=2),
            ArgumentError,
            r"some window \(2,\) with dilation \(2,\) would hold padding only",
        ),
        (lambda: nn.max_pool(zeros(4, 3), (2,), dilation=0), ArgumentError, r"^max_pool: dilation is 0; a whole"),
        (lambda: nn.max_pool(zeros(4, 3), (2,), dilation=(1, 2)), ArgumentError, r"dilation is \(1, 2\); one number"),
        (lambda: nn.max_pool(zeros(3), (2,)), ShapeError, r"^max_pool: x has shape \(3,\); \[..., spatial, channels\]"),
        (lambda: nn.max_pool(np.zeros((4, 3), bool), (2,)), DtypeError, r"^max_pool: x has dtype bool"),
        (lambda: nn.avg_pool(np.zeros((4, 3), int), (2,)), DtypeError, r"^avg_pool: x has dtype int"),
        (lambda: nn.adaptive_avg_pool(zeros(4, 3), (0,)), ArgumentError, r"^adaptive_avg_pool: output_size is 0"),
        (lambda: nn.adaptive_max_pool(zeros(0, 3), (1,)), ShapeError, r"nothing along a spatial axis"),
        (lambda: nn.global_avg_pool(zeros(4, 3)), ShapeError, r"^global_avg_pool: x has shape \(4, 3\); 1 batch axes"),
        (lambda: nn.flatten(zeros(), batch_axes=1), ShapeError, r"^flatten: x has shape \(\); 1 batch axes"),
        (
            lambda: nn.batch_norm(4).apply(NORM, STATE, zeros(1, 4), training=True),
            ArgumentError,
            r"^batch_norm: x has shape \(1, 4\): 1 value for each channel.* Give a batch of 2 or more, pass "
            r"training=False, or take group_norm or layer_norm",
        ),
        (
            lambda: nn.batch_norm(4).apply(NORM, STATE, zeros(0, 4), training=True),
            ArgumentError,
            r"no value for each channel",
        ),
        (
            lambda: nn.batch_norm(4).apply(NORM, {"mean": zeros(4)}, zeros(2, 4)),
            ArgumentError,
            r"^batch_norm: the keys of state are \['mean'\]; a dict with keys \['mean', 'variance'\]",
        ),
        (
            lambda: nn.batch_norm(4).apply(NORM, STATE, zeros(2, 4, 9, 9)),
            ShapeError,
            r"^batch_norm: x has shape \(2, 4, 9, 9\); \[..., spatial, spatial, 4\] was expected, to fit params of "
            r"shape \(4,\). Its channels stand before the spatial axes: give fnp.moveaxis\(x, -3, -1\)",
        ),
        (
            lambda: nn.mlp(3),
            ArgumentError,
            r"^mlp: widths is 3; a tuple was expected: the widths from inputs to outputs",
        ),
        (
            lambda: nn.layer_norm((3, 4)).apply({"scale": zeros(3, 4), "bias": zeros(3, 4)}, zeros(2, 4, 4)),
            ShapeError,
            r"^layer_norm: x has shape \(2, 4, 4\); its last axes were expected to be the features, \(3, 4\)",
        ),
        (lambda: nn.layer_norm(4).apply(NORM, np.zeros((2, 4), int)), DtypeError, r"^layer_norm: x has dtype int"),
        (
            lambda: nn.instance_norm(4).apply(NORM, zeros(2, 4)),
            ArgumentError,
            r"^instance_norm: x has shape \(2, 4\) and 4 groups: one value for each",
        ),
        (
            lambda: nn.prelu_layer(4).apply({"slope": zeros(4)}, zeros(2, 3)),
            ShapeError,
            r"^prelu: x has shape \(2, 3\); \[..., 4\] was expected, to fit params\['slope'\] of shape \(4,\)",
        ),
        (
            lambda: nn.dropout(0.5).apply({}, zeros(3), training=True),
            ArgumentError,
            r"^dropout: key is None; in training a key was expected. Pass apply\(..., training=True, key=random.key",
        ),
        (lambda: nn.dropout(0.5, shared_axes=(2,)).apply({}, zeros(3, 4)), ArgumentError, r"lacks one of shared_axes"),
        (
            lambda: nn.weight_norm(nn.dense(4, 3)).apply(DENSE, zeros(2, 4)),
            ArgumentError,
            r"^weight_norm in dense: the keys of params are \['bias', 'kernel'\]; 'direction' was expected among them",
        ),
        # Where in a model it stands.
        (
            lambda: nn.mlp((4, 3, 2)).apply({**MLP, "dense_1": DENSE}, zeros(2, 4)),
            ShapeError,
            r"^mlp/dense_1: params\['kernel'\] has shape \(4, 3\); \(3, 2\) was expected",
        ),
        (
            lambda: nn.mlp((4, 3, 2)).apply({"dense_0": DENSE}, zeros(2, 4)),
            ArgumentError,
            r"^mlp: the keys of params are \['dense_0'\]; a dict with keys \['dense_0', 'dense_1', 'relu'\]",
        ),
        (
            lambda: nn.sequential(nn.relu, partial(nn.max_pool, window=(3,)), name="net").apply(
                {"relu": {}, "max_pool": {}}, zeros(2, 2, 1)
            ),
            ArgumentError,
            r"^net/max_pool: x has shape \(2, 2, 1\) and window \(3,\)",
        ),
        (
            lambda: nn.batch_norm(3).apply({}, zeros(2, 3)),
            DtypeError,
            r"^batch_norm: apply takes \(params, state, x\) and was given 2 .* `params, state = init\(key\)`",
        ),
        (lambda: nn.dense(3, 4).init(), DtypeError, r"^dense: init takes \(key\) and was given 0 arguments"),
        (
            lambda: nn.sequential(nn.dense(3, 4), nn.batch_norm(4)).apply({}, zeros(2, 3)),
            DtypeError,
            r"^sequential: x is missing: call it as `apply\(params, state, x\)`, with what `params, state =",
        ),
        (
            lambda: nn.residual(nn.dense(4, 3), name="block").apply({"layer": DENSE}, zeros(2, 4)),
            ShapeError,
            r"^block: the layer made \(2, 3\) of x of shape \(2, 4\), and the shortcut \(2, 4\); they are to be added. "
            r"Give a shortcut that makes them alike",
        ),
        (
            lambda: ft.jit(ft.grad(lambda x: nn.sequential(nn.dense(4, 3)).apply({"dense": DENSE}, x).sum()))(zeros(5)),
            ShapeError,
            r"^sequential/dense: x has shape \(5,\).*\(test_layer_messages.py:\d+, in <lambda>\)",
        ),
    ],
)
def test_messages(run, error, message):
    with pytest.raises(error, match=message):
        run()
