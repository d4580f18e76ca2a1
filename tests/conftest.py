"""What every test runs under."""

import importlib.metadata
import os

# Tests compare with JAX on the CPU, where its arithmetic is IEEE's; another platform is asked for by name.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def quick_to_compile() -> str:
    """XLA's flags under which a Program that a test runs once compiles several times as quickly.

    They bear on the code of a kernel, not on what functrace hands XLA. XLA ends a process that sets a flag it does not
    know, and the emitters' one is gone from the versions after jaxlib 0.10.
    """
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


# `make test-all` sets XLA_FLAGS to nothing, so that all tests also run with XLA as users have it.
os.environ.setdefault("XLA_FLAGS", quick_to_compile())
