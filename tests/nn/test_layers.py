"""Layers by themselves: shapes, dtypes, the laws that each must obey. `test_layers_against_torch.py` has the values."""

from functools import partial

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax, nn, numpy as fnp, random
from functrace.testing import check_grads

RNG = np.random.default_rng(0)
KEY = random.key(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def filled(layer):
    """Params (and state) of the layer's own shapes and dtypes, with numbers that cost no compilation."""
    return ft.tree.map(
        lambda leaf: fnp.asarray(abs(normal(*leaf.shape)) / 2 + 0.1, leaf.dtype), ft.eval_shape(layer.init, KEY)
    )


# A layer by dtype, the shapes of x and y.
LAYERS = {
    "dense": (partial(nn.dense, 4, 3), (5, 4), (5, 3)),
    "dense of one example": (partial(nn.dense, 4, 3), (4,), (3,)),
    "dense of no examples": (partial(nn.dense, 4, 3), (0, 4), (0, 3)),
    "conv 1d": (partial(nn.conv, 4, 6, (3,)), (2, 9, 4), (2, 9, 6)),
    "conv 2d, strides": (partial(nn.conv, 4, 6, (3, 3), strides=2), (2, 9, 8, 4), (2, 5, 4, 6)),
    "conv 2d, depthwise": (partial(nn.conv, 4, 4, (3, 3), groups=4, padding="valid"), (2, 9, 8, 4), (2, 7, 6, 4)),
    "conv 2d of one example": (partial(nn.conv, 4, 6, (3, 3)), (9, 8, 4), (9, 8, 6)),
    "conv 2d, two batch axes": (partial(nn.conv, 4, 6, (3, 3)), (2, 3, 9, 8, 4), (2, 3, 9, 8, 6)),
    "conv 2d, uneven padding": (partial(nn.conv, 4, 6, (3, 3), padding=((0, 2), 1)), (2, 9, 8, 4), (2, 9, 8, 6)),
    "conv 3d": (partial(nn.conv, 2, 3, (2, 2, 2), padding=0), (1, 4, 5, 6, 2), (1, 3, 4, 5, 3)),
    "conv_transpose 1d": (partial(nn.conv_transpose, 4, 6, (2,), strides=3), (2, 5, 4), (2, 15, 6)),
    "conv_transpose 2d": (partial(nn.conv_transpose, 4, 6, (3, 5), strides=(2, 1)), (2, 5, 7, 4), (2, 10, 7, 6)),
    "conv_transpose 3d": (
        partial(nn.conv_transpose, 4, 2, (2, 2, 3), strides=2, padding="VALID"), (1, 2, 3, 2, 4), (1, 4, 6, 5, 2),
    ),
    "batch_norm": (partial(nn.batch_norm, 4), (5, 3, 4), (5, 3, 4)),
    "layer_norm": (partial(nn.layer_norm, (3, 4)), (5, 3, 4), (5, 3, 4)),
    "rms_norm": (partial(nn.rms_norm, 4), (5, 4), (5, 4)),
    "group_norm": (partial(nn.group_norm, 4, 2), (5, 3, 4), (5, 3, 4)),
    "instance_norm": (partial(nn.instance_norm, 4), (5, 3, 4), (5, 3, 4)),
    "prelu": (partial(nn.prelu_layer, 4), (5, 4), (5, 4)),
    "dropout": (lambda dtype: nn.dropout(0.5), (5, 4), (5, 4)),
    "weight_norm": (lambda dtype: nn.weight_norm(nn.conv(4, 6, (3, 3), dtype=dtype)), (2, 9, 8, 4), (2, 9, 8, 6)),
    "spectral_norm": (lambda dtype: nn.spectral_norm(nn.dense(4, 3, dtype=dtype)), (5, 4), (5, 3)),
    "max_pool": (lambda dtype: nn.as_layer(nn.max_pool, window=(2, 3)), (2, 9, 8, 4), (2, 4, 2, 4)),
    "max_pool, same": (
        lambda dtype: nn.as_layer(nn.max_pool, window=(3, 3), strides=2, padding="SAME", dilation=2),
        (9, 8, 4), (5, 4, 4),
    ),
    "avg_pool": (lambda dtype: nn.as_layer(nn.avg_pool, window=(2,), strides=1), (2, 9, 4), (2, 8, 4)),
    "adaptive_avg_pool": (
        lambda dtype: nn.as_layer(nn.adaptive_avg_pool, output_size=(3, 12)), (2, 9, 8, 4), (2, 3, 12, 4),
    ),
    "global_avg_pool": (lambda dtype: nn.as_layer(nn.global_avg_pool), (2, 9, 8, 4), (2, 4)),
    "global_max_pool": (lambda dtype: nn.as_layer(nn.global_max_pool, batch_axes=0), (9, 8, 4), (4,)),
    "flatten": (lambda dtype: nn.as_layer(nn.flatten), (2, 9, 8, 4), (2, 288)),
    "sequential": (
        lambda dtype: nn.sequential(nn.dense(4, 3, dtype=dtype), nn.relu, nn.batch_norm(3, dtype=dtype)),
        (5, 4),
        (5, 3),
    ),
    "sequential of nothing": (lambda dtype: nn.sequential(), (5, 4), (5, 4)),
    "residual": (lambda dtype: nn.residual(nn.dense(4, 3, dtype=dtype), nn.dense(4, 3, dtype=dtype)), (5, 4), (5, 3)),
    "mlp": (lambda dtype: nn.mlp((4, 8, 8, 3), dropout_rate=0.5, dtype=dtype), (5, 4), (5, 3)),
    "resnet18": (lambda dtype: nn.resnet18(7, dtype=dtype), (2, 64, 96, 3), (2, 7)),
    "resnet50": (lambda dtype: nn.resnet50(7, channels=1, stem="small", dtype=dtype), (2, 32, 32, 1), (2, 7)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_shapes_and_dtypes(name, dtype):
    """Params and results have the dtype that was asked for; statistics stay float32."""
    make, ins, outs = LAYERS[name]
    layer = make(dtype=dtype)
    made = ft.eval_shape(layer.init, KEY)
    params, state = made if isinstance(layer, nn.StatefulLayer) else (made, {})
    assert {str(leaf.dtype) for leaf in ft.tree.leaves(params)} <= {dtype}
    assert {str(leaf.dtype) for leaf in ft.tree.leaves(state)} <= {"float32"}
    x = jax.ShapeDtypeStruct(ins, dtype)
    for training in (False, True):
        apply = partial(layer.apply, training=training)
        y = ft.eval_shape(lambda made, x, key, apply=apply: apply(*made, x, key=key), (
            made if isinstance(layer, nn.StatefulLayer) else (made,)), x, KEY)  # fmt: skip
        if isinstance(layer, nn.StatefulLayer):
            y, new = y
            assert ft.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == ft.tree.map(
                lambda leaf: (leaf.shape, leaf.dtype), state
            )
        assert (y.shape, y.dtype) == (outs, dtype)


@pytest.mark.parametrize(
    ("layer", "of_one", "shape"),
    [
        (nn.dense(4, 3), None, (4,)),
        (nn.conv(4, 2, (3,), strides=2), None, (9, 4)),
        (nn.conv_transpose(4, 2, (3,), strides=2), None, (5, 4)),
        (nn.group_norm(4, 2), nn.group_norm(4, 2, batch_axes=0), (5, 4)),
        (nn.layer_norm(4), None, (5, 4)),
        (nn.as_layer(nn.max_pool, window=(3,)), None, (9, 4)),
        (nn.as_layer(nn.adaptive_max_pool, output_size=(2,)), None, (5, 4)),
        (nn.as_layer(nn.flatten), nn.as_layer(nn.flatten, batch_axes=0), (5, 4)),
        (nn.weight_norm(nn.dense(4, 3)), None, (4,)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_vmap_over_examples_and_over_params(layer, of_one, shape):
    """A vmap over examples is the batch; one over params is an ensemble."""
    x, params = normal(3, *shape), filled(layer)
    y = layer.apply(params, x)
    close(ft.vmap((of_one or layer).apply, in_axes=(None, 0))(params, x), y)
    two = ft.tree.map(lambda leaf: fnp.stack([leaf, 2 * leaf]), params)
    both = ft.jit(ft.vmap(layer.apply, in_axes=(0, None), axis_size=2))(two, x)
    close(both[0], y)
    close(both[1], layer.apply(ft.tree.map(lambda leaf: 2 * leaf, params), x))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((9,), {"kernel_size": (3,), "strides": 2, "padding": 1}),
        ((10,), {"kernel_size": (4,), "strides": 2, "padding": "SAME"}),
        ((9,), {"kernel_size": (2,), "strides": 3, "padding": "SAME"}),
        ((7, 8), {"kernel_size": (3, 2), "strides": (1, 2), "padding": "VALID", "dilation": (2, 1), "groups": 2}),
        ((6, 4), {"kernel_size": (3, 3), "padding": ((1, 2), 0), "dilation": 1}),
    ],
)
def test_conv_transpose_is_the_transpose_of_conv(size, options):
    """<conv(x), y> is <x, conv_transpose(y)>, for the kernel with in and out exchanged."""
    ins, outs, groups = 4, 6, options.get("groups", 1)
    conv = nn.conv(ins, outs, use_bias=False, **options)
    kernel = normal(*options["kernel_size"], ins // groups, outs)
    x = normal(2, *size, ins)
    y = conv.apply({"kernel": kernel}, x)
    ct = normal(*y.shape)
    cut = kernel.reshape(*kernel.shape[:-1], groups, outs // groups)  # [*k, ins / groups, groups, outs / groups]
    exchanged = np.moveaxis(cut, (-1, -2, -3), (-3, -2, -1)).reshape(*kernel.shape[:-2], outs // groups, ins)
    back = nn.conv_transpose(outs, ins, use_bias=False, **options).apply({"kernel": exchanged}, ct)
    short = tuple(slice(0, n) for n in back.shape[1:-1])  # entries at the far end that no window reached
    close(np.vdot(y, ct), np.vdot(x[(slice(None), *short)], back), 1e-4)
    close(ft.vjp(lambda x: conv.apply({"kernel": kernel}, x), x)[1](ct)[0][(slice(None), *short)], back, 1e-4)


@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_is_that_of_xla(size, kernel, stride):
    ((low, high),) = lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")
    shape = (1, size, 1)
    for make in (
        partial(nn.conv, 1, 1, (kernel,)),
        lambda **options: nn.as_layer(nn.max_pool, window=(kernel,), **options),
    ):
        params = filled(make())
        programs = [
            ft.make_program(partial(make(strides=stride, padding=padding).apply, params))(np.zeros(shape, "f"))
            for padding in ("SAME", ((int(low), int(high)),))
        ]
        assert programs[0] == programs[1]


def test_pools_of_integers_and_of_infinities():
    x = np.array([[-7], [-9], [-8]], np.int32)
    assert nn.max_pool(x, (2,), 1).ravel().tolist() == [-7, -8]
    assert nn.max_pool(x, (3,), 2, padding=1).ravel().tolist() == [-7, -8]
    low = np.array([[-np.inf], [-np.inf]], np.float32)
    assert nn.max_pool(low, (2,)).tolist() == [[-np.inf]]
    assert np.isnan(nn.max_pool(np.array([[np.nan], [1.0]], np.float32), (2,))).all()
    assert nn.adaptive_max_pool(low.repeat(3, 0)[:5], (2,)).tolist() == [[-np.inf]] * 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 0, 1, 0, 1, 0, 0]),
        ({"strides": 1, "dilation": 2}, [1, 1, 1, 1, 1, 0, 0]),
        ({"strides": 2, "dilation": 3, "padding": 1}, [0, 1, 1, 1, 0, 0, 0]),
        ({"window": (3,), "strides": 4, "dilation": 2}, [1, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_max_pool_gives_its_gradient_to_the_first_that_is_largest(options, expected):
    pooled = lambda x: nn.max_pool(x, **{"window": (2,), **options}).sum()
    assert ft.grad(pooled)(np.ones((7, 1), np.float32)).ravel().tolist() == expected


# Batch norm.


def test_running_statistics_follow_momentum():
    layer, batches = nn.batch_norm(3, momentum=0.8), [normal(6, 3) * 2 + 1 for _ in range(3)]
    params, state = layer.init(KEY)
    mean, variance = np.zeros(3), np.ones(3)
    step = ft.jit(lambda state, x: layer.apply(params, state, x, training=True)[1])
    for x in batches:
        state = step(state, x)
        mean, variance = 0.8 * mean + 0.2 * x.mean(0), 0.8 * variance + 0.2 * x.var(0, ddof=1)
    close(state, {"mean": mean, "variance": variance})
    y, same = layer.apply(params, state, batches[0])
    assert same is state
    close(y, (batches[0] - mean) / np.sqrt(variance + 1e-5))


def test_batch_norm_across_a_mapped_axis():
    """Two devices' batches with axis_name are one batch; without they are two."""
    x, (params, state) = normal(2, 4, 3), nn.batch_norm(3).init(KEY)
    x[1] += 5
    whole, new = nn.batch_norm(3).apply(params, state, x.reshape(8, 3), training=True)

    def mapped(layer):
        apply = lambda x: layer.apply(params, state, x, training=True)
        return ft.vmap(apply, axis_name="devices")(x)

    y, news = mapped(nn.batch_norm(3, axis_name="devices"))
    close(y.reshape(8, 3), whole)
    close(ft.tree.map(lambda leaf: leaf[0], news), new)
    assert abs(np.asarray(mapped(nn.batch_norm(3))[0]).reshape(8, 3) - whole).max() > 0.1


def test_batch_norm_has_no_gradient_through_its_state():
    layer, x = nn.batch_norm(3), normal(4, 3)
    params, state = layer.init(KEY)
    gradient = ft.grad(lambda x: sum(leaf.sum() for leaf in layer.apply(params, state, x, training=True)[1].values()))
    assert (np.asarray(gradient(x)) == 0).all()


@pytest.mark.parametrize(
    "layer", [nn.batch_norm(2), nn.layer_norm(2), nn.group_norm(2, 1)], ids=lambda layer: layer.name
)
def test_statistics_of_half_precision_are_float32(layer):
    """A bfloat16 mean of 300 values near 100 would be off by more than their spread."""
    x = fnp.asarray(100 + normal(300, 2), "bfloat16")
    made = layer.init(KEY)
    if isinstance(layer, nn.StatefulLayer):
        y, _ = layer.apply(*made, x, training=True)
    else:
        y = layer.apply(made, x)
    exact = np.asarray(x, np.float64)
    axes = 0 if layer.name == "batch_norm" else 1
    expected = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    assert y.dtype == "bfloat16"
    close(np.asarray(y, np.float64), expected, 1e-2)


# Dropout.


def test_dropout():
    x, layer = np.ones((50, 40, 4), np.float32), nn.dropout(0.3)
    y = layer.apply({}, x, training=True, key=KEY)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 0.02  # 8,000 draws: four standard deviations
    assert (y == layer.apply({}, x, training=True, key=KEY)).all()
    assert (y != layer.apply({}, x, training=True, key=random.key(1))).any()
    gradient = ft.grad(lambda x: layer.apply({}, x, training=True, key=KEY).sum())(x)
    assert (gradient == y).all()
    assert (layer.apply({}, x) == x).all()
    assert (nn.dropout(0.0).apply({}, x, training=True) == x).all()
    assert (nn.dropout(1.0).apply({}, x, training=True, key=KEY) == 0).all()
    rows = np.asarray(nn.dropout(0.3, shared_axes=(1, -1)).apply({}, x, training=True, key=KEY))
    assert (rows == rows[:, :1, :1]).all()
    assert set(np.unique(rows)) == {0, np.float32(1 / 0.7)}
    each = ft.vmap(lambda x, key: layer.apply({}, x, training=True, key=key))(x[:2], random.split(KEY, 2))
    assert (each[0] != each[1]).any()


# Weight and spectral norm.


def test_weight_norm():
    dense = nn.dense(5, 3)
    layer = nn.weight_norm(dense)
    x, params = normal(2, 5), layer.init(KEY)
    assert layer.name == "dense"
    close(layer.apply(params, x), dense.apply(dense.init(KEY), x))
    params |= {"magnitude": np.array([2.0, 3.0, 4.0], np.float32), "bias": np.zeros(3, np.float32)}
    kernel = layer.apply(params, np.eye(5, dtype=np.float32))
    close(np.linalg.norm(kernel, axis=0), params["magnitude"])
    params["direction"] = np.zeros((5, 3), np.float32)
    gradient = ft.grad(lambda params: layer.apply(params, x).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())


def test_spectral_norm():
    layer = nn.spectral_norm(nn.conv(2, 4, (3, 3), use_bias=False))
    params, state = layer.init(KEY)
    matrix = np.asarray(params["kernel"]).reshape(18, 4)
    x, one = normal(1, 5, 5, 2), params["kernel"] / np.linalg.norm(matrix, 2)
    step = ft.jit(partial(layer.apply, training=True))
    for _ in range(20):
        y, state = step(params, state, x)
    close(y, nn.conv(2, 4, (3, 3), use_bias=False).apply({"kernel": one}, x), 1e-4)
    close(abs(state["right"]), abs(np.linalg.svd(matrix)[2][0]), 1e-2)
    y, same = layer.apply(params, state, x)
    assert same is state
    # The kernel's scale is divided out, so there is no gradient along the kernel.
    gradient = ft.grad(lambda params: layer.apply(params, state, x)[0].sum())(params)["kernel"]
    assert abs(np.vdot(gradient, params["kernel"])) < 1e-3 * np.linalg.norm(gradient)


# Composition.


def test_names_and_scopes():
    model = nn.sequential(
        nn.dense(4, 4),
        nn.relu,
        nn.residual(nn.sequential(nn.dense(4, 4), lambda x: x * 2)),
        nn.dense(4, 3, name="head"),
        partial(nn.leaky_relu, negative_slope=0.1),
        nn.weight_norm(nn.dense(3, 3)),
        name="net",
    )
    params = filled(model)
    assert set(params) == {"dense_0", "relu", "residual", "head", "leaky_relu", "dense_1"}
    assert set(params["residual"]["layer"]) == {"dense", "lambda"}
    program = ft.make_program(ft.grad(lambda params, x: model.apply(params, x).sum()))(params, normal(2, 4))
    scopes = {eqn.source.scope for eqn in program.equations if eqn.source is not None}
    assert {
        "net/dense_0",
        "net/relu",
        "net/residual/layer/dense",
        "net/residual/layer/lambda",
        "net/head",
        "net/leaky_relu",
        "net/dense_1",
    } <= scopes
    assert not any("dense_1/" in scope for scope in scopes)  # fmt: skip


def test_a_part_called_twice_shares_params_goes_on_with_its_state_and_gets_another_key():
    layer = nn.combine(
        {"norm": nn.batch_norm(2, momentum=0.5), "drop": nn.dropout(0.5)},
        lambda x, norm, drop: (norm(norm(x)), drop(x) - drop(x)),
    )
    assert isinstance(layer, nn.StatefulLayer)
    (params, state), x = layer.init(KEY), normal(64, 2) + 3
    (_, difference), new = layer.apply(params, state, x, training=True, key=KEY)
    assert (np.asarray(difference) != 0).any()
    close(new["norm"]["mean"], 0.25 * x.mean(0), 1e-4)  # half of nothing and half of a mean, then half with a mean of 0
    gradient = ft.grad(lambda params: layer.apply(params, state, x)[0][0].sum())(params)
    close(gradient["norm"]["bias"], np.full(2, 64 * (1 + 1 / np.sqrt(1 + 1e-5))), 1e-4)


def test_residual_adds():
    x, dense = normal(2, 3), nn.dense(3, 3)
    params = filled(dense)
    close(nn.residual(dense).apply({"layer": params}, x), x + dense.apply(params, x))
    both = nn.residual(dense, nn.tanh)
    close(both.apply({"layer": params, "shortcut": {}}, x), np.tanh(x) + dense.apply(params, x))


@pytest.mark.parametrize("layer", [nn.mlp((4, 8, 4)), nn.sequential(nn.dense(4, 4), nn.batch_norm(4), nn.tanh)])
def test_remat_keeps_nothing_and_changes_nothing(layer):
    made, x, again = filled(layer), normal(5, 4), nn.remat(layer)
    made = made if isinstance(layer, nn.StatefulLayer) else (made,)
    assert (type(again), again.name, again.init) == (type(layer), layer.name, layer.init)
    loss = lambda layer: lambda made: ft.tree.leaves(layer.apply(*made, x, training=True, key=KEY))[0].sum()
    close(ft.grad(loss(again))(made), ft.grad(loss(layer))(made))
    program = ft.make_program(ft.grad(loss(again)))(made)
    assert "checkpoint" in {eqn.primitive.name for eqn in program.equations}


def test_layers_under_scan():
    """Params stacked by vmap of init, and one layer's Program for all of them."""
    block, x = nn.residual(nn.sequential(nn.layer_norm(4), nn.dense(4, 4), nn.tanh)), normal(5, 4)
    stacked = ft.vmap(block.init)(random.split(KEY, 3))
    deep = ft.jit(lambda stacked, x: lax.scan(lambda x, params: (block.apply(params, x), None), x, stacked)[0])
    y = x
    for i in range(3):
        y = block.apply(ft.tree.map(lambda leaf, i=i: leaf[i], stacked), y)
    close(deep(stacked, x), y)


def test_a_users_own_layer():
    """The pair is all that a layer is: sequential gives it a scope, and its key and training flag."""
    seen = {}

    def apply(params, x, *, training=False, key=None):
        seen.update(training=training, key=key)
        return x * params

    model = nn.sequential(nn.Layer(lambda key: fnp.ones(()), apply, "scale"), nn.relu, name="net")
    assert float(model.apply({"scale": 3.0, "relu": {}}, 2.0, training=True, key=KEY)) == 6
    assert seen["training"] is True
    assert seen["key"].dtype == KEY.dtype
    program = ft.make_program(partial(model.apply, {"scale": 3.0, "relu": {}}))(2.0)
    assert program.equations[0].source.scope == "net/scale"


def test_derivatives_of_a_model():
    """Of first and second order, through convolution, batch norm, pools and a shortcut, by finite differences."""
    with jax.enable_x64(True):
        model = nn.sequential(
            nn.conv(2, 4, (3,)),
            nn.batch_norm(4),
            nn.tanh,
            nn.residual(nn.group_norm(4, 2)),
            partial(nn.avg_pool, window=(2,)),
            nn.flatten,
            nn.dense(12, 2),
        )
        params, state = ft.tree.map(lambda leaf: RNG.standard_normal(leaf.shape), ft.eval_shape(model.init, KEY))
        f = ft.jit(lambda params, x: model.apply(params, state, x, training=True)[0])
        check_grads(f, (params, RNG.standard_normal((3, 6, 2))), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_training_lowers_the_loss():
    model = nn.sequential(nn.conv(1, 4, (3, 3)), nn.batch_norm(4), nn.relu, nn.global_avg_pool, nn.dense(4, 2))
    images, labels = normal(32, 6, 6, 1), np.arange(32) % 2
    images[labels == 1] *= 3
    params, state = model.init(KEY)

    @ft.jit
    def step(params, state):
        def loss(params):
            logits, new = model.apply(params, state, images, training=True)
            return nn.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

        (value, new), gradient = ft.value_and_grad(loss, has_aux=True)(params)
        return ft.tree.map(lambda p, g: p - 0.5 * g, params, gradient), new, value

    losses = []
    for _ in range(60):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.3 * losses[0]


def test_initialisers_are_arguments():
    layer = nn.conv(8, 64, (5, 5), kernel_init=nn.initializers.he_normal(), bias_init=nn.initializers.ones)
    params = layer.init(KEY)
    assert abs(float(params["kernel"].std()) / np.sqrt(2 / 200) - 1) < 0.05
    assert (params["bias"] == 1).all()
    model = nn.mlp((400, 300, 200))
    params = model.init(KEY)
    assert abs(float(params["dense_0"]["kernel"].std()) / np.sqrt(2 / 400) - 1) < 0.05
    assert abs(float(params["dense_1"]["kernel"].std()) / np.sqrt(1 / 300) - 1) < 0.05


@pytest.mark.slow
def test_resnet50_runs():
    model = nn.resnet50(10)
    params, state = filled(model)
    params = ft.tree.map(lambda leaf: leaf / 100, params)
    y, _ = ft.jit(partial(model.apply, training=True))(params, state, normal(2, 64, 64, 3))
    assert y.shape == (2, 10)
    assert np.isfinite(y).all()


def close(ours, theirs, tolerance=1e-5):
    assert ft.tree.structure(ours) == ft.tree.structure(theirs)
    for a, b in zip(ft.tree.leaves(ours), ft.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
