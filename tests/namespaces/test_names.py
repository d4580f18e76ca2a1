"""Every public name of JAX's array modules is in functrace's, but for those listed here with the reason."""

import importlib
from types import ModuleType

import pytest
from jax.scipy import stats

import functrace as ft

OTHER = "of JAX's lowering, which functrace does not do itself: wrap the whole with functrace.from_jax"
DEVICES = "speaks of devices: it has a meaning inside jax.shard_map only"
CALLBACK = "takes functions and loops on them until they converge: wrap the whole with functrace.from_jax"

# Names left out, by module.
LEFT_OUT = {
    "lax": {
        **dict.fromkeys(["composite", "platform_dependent"], OTHER),
        **dict.fromkeys(
            ["pbroadcast", "pcast", "precv", "psend", "psum_scatter_start", "ragged_all_to_all"], DEVICES
        ),
    },
    "scipy.optimize": dict.fromkeys(["OptimizeResults", "minimize"], CALLBACK),
}  # fmt: skip

MODULES = [
    "lax", "lax.linalg", "numpy", "numpy.fft", "numpy.linalg", "random", "scipy.cluster.vq", "scipy.fft",
    "scipy.integrate", "scipy.interpolate", "scipy.linalg", "scipy.ndimage", "scipy.optimize", "scipy.signal",
    "scipy.sparse.linalg", "scipy.spatial.transform", "scipy.special", "scipy.stats", "tree",
]  # fmt: skip


def public(module):
    return {name for name in dir(module) if not name.startswith("_")}


@pytest.mark.parametrize("name", MODULES)
def test_module_is_complete(name):
    left_out = LEFT_OUT.get(name, {})
    theirs = {n for n in public(importlib.import_module(f"jax.{name}")) if not n.endswith("_p")}  # primitives
    if set(left_out) >= theirs:
        return
    ours = public(importlib.import_module(f"functrace.{name}"))
    assert theirs - ours - set(left_out) == set()
    assert ours & set(left_out) == set()


@pytest.mark.parametrize("name", MODULES)
def test_names_stand_in_alphabetical_order(name):
    if set(LEFT_OUT.get(name, {})) >= public(importlib.import_module(f"jax.{name}")):
        return
    with open(importlib.import_module(f"functrace.{name}").__file__) as file:
        lines = file.read().split("# Not in every version of jax.")[0].splitlines()
    names = [line.split(" = ")[0] for line in lines if " = lift(" in line or " = LiftedUfunc(" in line]
    at_top = [n for n in names if n.isidentifier()]
    assert at_top == sorted(at_top)


def test_distributions_are_complete():
    for name, theirs in vars(stats).items():
        if isinstance(theirs, ModuleType) and not name.startswith("_"):
            assert public(theirs) == public(getattr(ft.scipy.stats, name)), name
