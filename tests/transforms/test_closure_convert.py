"""Closures as arguments: the value and derivatives of the function itself, and what is refused."""

import numpy as np
import pytest

import functrace as ft
from functrace import numpy as fnp


def convert_and_call(x, a, b):
    def closed(x):
        return {"y": fnp.sin(a * x) + b["c"] * 2.0}

    f, consts = ft.closure_convert(closed, x)
    return f(x, *consts)["y"]


def plain(x, a, b):
    return fnp.sin(a * x) + b["c"] * 2.0


ARGS = (np.arange(3.0, dtype=np.float32), np.float32(1.5), {"c": np.ones(3, np.float32)})


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f, ft.jit, lambda f: ft.jacrev(f, (0, 1)), lambda f: ft.jacfwd(ft.jacrev(f, 1), 1),
        lambda f: ft.vmap(f, (None, None, {"c": 0})),
    ],
)  # fmt: skip
def test_converted_is_the_function(transform):
    expected, found = transform(plain)(*ARGS), transform(convert_and_call)(*ARGS)
    for x, y in zip(ft.tree.leaves(found), ft.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def test_constants_can_be_replaced():
    a = np.full(2, 3.0, np.float32)
    f, consts = ft.closure_convert(lambda x: a * x, np.ones(2, np.float32))
    assert [c.tolist() for c in consts] == [[3.0, 3.0]]
    assert f(np.ones(2, np.float32), 2 * a).tolist() == [6.0, 6.0]


def test_messages():
    a = np.ones(2, np.float32)
    f, consts = ft.closure_convert(lambda x: a * x, a)
    with pytest.raises(ft.errors.DtypeError, match=r"argument 0 of type f32\[2\], called with f32\[3\]"):
        f(np.ones(3, np.float32), *consts)
    with pytest.raises(ft.errors.DtypeError, match="takes 1 arguments and 1 constants, got 1 in all"):
        f(a)
    with pytest.raises(ft.errors.DtypeError, match="structure of the example arguments"):
        f((a, a), *consts)
