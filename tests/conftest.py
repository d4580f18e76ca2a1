"""What every test runs under."""

import os

# Tests compare with JAX on the CPU, where its arithmetic is IEEE's; another platform is asked for by name.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
