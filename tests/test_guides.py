"""The porting guides: their code runs, their claims hold, and the names in their tables are there."""

import re
import warnings
from pathlib import Path
from pkgutil import resolve_name

import pytest

from functrace.ir import Primitive

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = sorted(DOCS.glob("from_*.md"))
OURS = {"ft": "functrace", "fnp": "functrace.numpy"}
OURS |= {name: f"functrace.{name}" for name in ("io", "lax", "nn", "optim", "random")}
LANGUAGE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTORCH = "# PyTorch\n"

guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)


def blocks(guide):
    """The line and the text of every block of code; PyTorch's say so in their first line."""
    text = guide.read_text()
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in LANGUAGE.finditer(text)]


def run(guide, chosen):
    """The blocks one after the other, in one namespace; an error points to the guide's line."""
    names = {}
    for line, code in chosen:
        exec(compile("\n" * line + code, str(guide), "exec"), names)


def mentioned(guide, modules):
    """The dotted names of those modules in the guide."""
    return set(re.findall(rf"(?<![\w.])(?:{'|'.join(modules)})(?:\.[A-Za-z]\w*)+", guide.read_text()))


def test_there_are_three():
    assert [guide.stem for guide in GUIDES] == ["from_jax", "from_pytorch", "from_tensorflow"]


@guides
def test_functrace_blocks(guide):
    chosen = [(line, code) for line, code in blocks(guide) if not code.startswith(PYTORCH)]
    assert len(chosen) >= 5
    for _, code in chosen[1:]:  # the first is the imports
        assert "assert" in code or "check_grads" in code
    run(guide, chosen)


def test_pytorch_blocks():
    pytest.importorskip("torch")
    guide = DOCS / "from_pytorch.md"
    chosen = [(line, code) for line, code in blocks(guide) if code.startswith(PYTORCH)]
    assert len(chosen) >= 2
    run(guide, chosen)


@guides
def test_names_of_functrace(guide):
    found = mentioned(guide, OURS)
    assert len(found) > 30
    for dotted in found:
        module, _, name = dotted.partition(".")
        resolve_name(f"{OURS[module]}:{name}")


def test_transforms():
    guide = DOCS / "transforms.md"
    known = dict(Primitive.named)
    try:
        run(guide, blocks(guide))
    finally:
        for name in Primitive.named.keys() - known:  # those that the guide defines are not the library's
            del Primitive.named[name]
    for section in re.split(r"^##+ ", guide.read_text(), flags=re.MULTILINE):
        lines = [line for code in LANGUAGE.findall(section) for line in code.splitlines() if line.strip()]
        assert len(lines) <= 50  # an example, and what is asserted of it


@pytest.mark.parametrize(("guide", "module"), [("pytorch", "torch"), ("jax", "jax"), ("jax", "optax")])
def test_names_of_theirs(guide, module):
    pytest.importorskip(module)
    found = mentioned(DOCS / f"from_{guide}.md", [module])
    assert found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for dotted in found:
            resolve_name(dotted)
