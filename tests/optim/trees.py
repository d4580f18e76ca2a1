"""Random pytrees for the optimizer tests."""

import numpy as np

import functrace as ft
from functrace import numpy as fnp

SHAPES = {
    "w": (5, 3),
    "layers": ((4,), [(2, 3, 2), ()]),
    "head": {"b": (1,), "k": (3, 1, 2, 4)},
}


def random_tree(seed, dtype=fnp.float32, scale=1.0):
    """A nested dict, tuple and list of normal arrays, scalars among them."""
    generator = np.random.default_rng(seed)

    def draw(shape):
        return fnp.asarray(scale * generator.normal(size=shape), dtype)

    return ft.tree.map(draw, SHAPES, is_leaf=is_shape)


def is_shape(node):
    """Whether a node of SHAPES is a shape."""
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def assert_trees_close(actual, expected, rtol=1e-6, atol=1e-7, err_msg=""):
    """Equal structure, dtypes and shapes, close values."""
    assert ft.tree.structure(actual) == ft.tree.structure(expected)
    for a, b in zip(ft.tree.leaves(actual), ft.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=err_msg)


def small_tree(seed, dtype=fnp.float32):
    """Two leaves of a random tree, where the structure does not matter."""
    full = random_tree(seed, dtype)
    return {"w": full["w"], "b": full["layers"][0]}
