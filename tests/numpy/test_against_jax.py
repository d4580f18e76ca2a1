"""Every function of functrace.numpy with a floating result, under every transform, against JAX's."""

import jax
import numpy as np
import pytest

from tests.against_jax import FIRST, SECOND, Case, as_drawn, differences, empty, libraries, scalar
from tests.numpy.table import NO_FLOATING_RESULT, ROWS

THEIRS, OURS = libraries("numpy")
PRESENT = [r for r in ROWS if hasattr(jax.numpy, r.names[0]) or "." in r.names[0]]
DTYPES = ("float32", "float64", "bfloat16", "complex64")
SHAPES = {"as drawn": as_drawn, "empty": empty, "scalar": scalar}
ALIASES = [(n, r) for r in PRESENT for n in r.names[1:] if hasattr(jax.numpy, n)]


def name(row):
    return row.names[0]


@pytest.mark.parametrize("row", PRESENT, ids=name)
def test_equals_jax_in_float32(row):
    assert differences(THEIRS, OURS, [("float32", Case(row, "float32"))], FIRST + SECOND) == []


@pytest.mark.parametrize("row", PRESENT, ids=name)
def test_equals_jax_in_other_types_and_shapes(row):
    taken = row.dtypes or DTYPES
    with jax.enable_x64(True):
        cases = [(d, Case(row, d)) for d in taken if d != "float32"]
        cases += [(s, Case(row, "float32", SHAPES[s])) for s in ("empty", "scalar")]
        assert differences(THEIRS, OURS, cases, FIRST[:3]) == []


@pytest.mark.parametrize(("name", "row"), ALIASES, ids=[n for n, _ in ALIASES])
def test_other_names_equal_jax(name, row):
    case = Case(row._replace(names=(name,)), "float32")
    assert differences(THEIRS, OURS, [("float32", case)], ("value", "vjp")) == []


@pytest.mark.slow
@pytest.mark.parametrize("row", PRESENT, ids=name)
def test_equals_jax_in_every_type_and_shape(row):
    with jax.enable_x64(True):
        cases = [(f"{d} {s}", Case(row, d, SHAPES[s])) for d in row.dtypes or DTYPES for s in SHAPES]
        assert differences(THEIRS, OURS, cases, FIRST + SECOND) == []


def test_every_function_has_a_row():
    """A function of jax.numpy without a row stands in the list of those that have no floating result."""
    spaces = {"": jax.numpy, "linalg.": jax.numpy.linalg, "fft.": jax.numpy.fft}
    functions = {
        prefix + n
        for prefix, space in spaces.items()
        for n in dir(space)
        if not n.startswith("_") and callable(getattr(space, n)) and not isinstance(getattr(space, n), type)
    }
    dtypes = {n for n in functions if isinstance(getattr(getattr(jax.numpy, n, None), "dtype", None), np.dtype)}
    in_table = {n for row in ROWS for n in row.names}
    assert functions - dtypes - in_table - set(NO_FLOATING_RESULT) == set()
    assert not in_table & set(NO_FLOATING_RESULT)
