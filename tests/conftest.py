"""What every test runs under."""

import importlib.metadata
import os

import pytest

# Tests compare with JAX on the CPU, where its arithmetic is IEEE's; another platform is asked for by name.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# XLA's flags under which a Program that a test runs once compiles several times as quickly. They bear on the code of a
# kernel, not on what functrace hands XLA. Later versions than jaxlib 0.10 lack the emitters' flag, which does most of
# it, and XLA ends a process that sets a flag it does not know.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
)

# `make test-all` sets XLA_FLAGS to nothing, so that all tests also run with XLA as users have it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_TO_COMPILE))


def pytest_collection_modifyitems(items):
    """Leave out what is about XLA for CPU where that is not asked for."""
    if not os.environ["JAX_PLATFORMS"].startswith("cpu"):
        for item in items:
            if item.get_closest_marker("cpu"):
                item.add_marker(pytest.mark.skip(reason="about XLA for CPU"))
