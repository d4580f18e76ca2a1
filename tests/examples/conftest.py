"""The examples are scripts: their folder is on the path, as when one is run; and so is this one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parent))
