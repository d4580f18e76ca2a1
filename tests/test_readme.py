"""The README's example runs, and prints what the README says."""

import contextlib
import io
import re
from pathlib import Path

from functrace import Program

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_prints_what_is_shown():
    (code,), (shown,) = blocks("python"), blocks("text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example.py", "exec"), {})
    assert printed.getvalue() == shown


def test_the_program_shown_reads_back():
    (shown,) = blocks("text")
    Program.parse(shown.partition("\n")[2]).verify()


def test_the_example_is_short():
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
