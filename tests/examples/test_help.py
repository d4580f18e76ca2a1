"""Every example says what it shows and which options it has."""

from importlib import import_module
from pathlib import Path

import pytest

EXAMPLES = sorted(path.stem for path in (Path(__file__).parents[2] / "examples").glob("*.py"))
WITHOUT_OPTIONS = {"newton", "report"}


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - WITHOUT_OPTIONS))
def test_help(name, capsys):
    module = import_module(name)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: {name}" in out
    assert f"python examples/{name}.py" in out
    assert module.__doc__.partition("\n")[0] in out
