"""The README's example runs, and prints what the README says."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest
from jax import lax

import functrace
from functrace import Program
from functrace.ir import Primitive
from functrace.primitives.elementwise import add, unary
from functrace.primitives.quotients import integer_pow
from tests.primitives import test_laws as laws
from tests.primitives.samples import case

LAWS = (
    laws.test_shape_rule_is_type_of_lowering,
    laws.test_jvp_is_jax,
    laws.test_jvp_is_numerical_derivative,
    laws.test_vjp_is_jax,
    laws.test_batch_is_a_loop,
    laws.test_second_derivative_is_jax,
)

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_examples_print_what_is_shown_and_explain_gradients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code, explained), (shown,) = blocks("python"), blocks("text")
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example.py", "exec"), names)
    assert printed.getvalue() == shown
    with contextlib.redirect_stdout(printed):
        exec(compile(explained, "explained.py", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {"flow.png", "loss.html"}
    assert not functrace.debug.find_nonfinite(names["loss"])(names["params"], *names["batch"]).found


@pytest.mark.parametrize("n", range(2))
def test_the_sessions_print_what_is_shown(n):
    loops, orders = blocks("pycon")
    names = {"ft": functrace, "fnp": functrace.numpy}
    test = doctest.DocTestParser().get_doctest((loops, orders)[n], names, "README.md", "README.md", 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_program_shown_reads_back():
    (shown,) = blocks("text")
    Program.parse(shown.partition("\n")[2]).verify()


def test_the_example_is_short():
    code, _ = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 22


def test_the_primitive_of_the_contributing_page_obeys_the_laws():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 15
    names = {"unary": unary, "lax": lax, "integer_pow": integer_pow, "add": add, "abs_": Primitive.named["abs"]}
    exec(code, names)
    try:
        for sample in Primitive.named["softsign"].samples():
            for law in LAWS:
                law(case(sample))
    finally:
        del Primitive.named["softsign"]
