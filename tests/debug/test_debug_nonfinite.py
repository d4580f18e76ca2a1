"""debug_nonfinite, the messages of reports, and what find_nonfinite refuses."""

import inspect
import re

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import errors, lax, numpy as fnp
from functrace.debug import debug_nonfinite, find_nonfinite

HERE = __file__
ZERO = np.array([1.0, 0.0], np.float32)


def of_logarithms(x, scale=1.0):
    with ft.named_scope("head"):
        y = fnp.log(x) * scale
    return y.sum()


LINE = inspect.getsourcelines(of_logarithms)[1] + 2
GRADIENT = ft.grad(lambda x: fnp.sqrt(x).sum())
CALLS = [
    ("jit", lambda: ft.jit(of_logarithms)(ZERO), "forward"),
    ("static", lambda: ft.jit(of_logarithms, static_argnames="scale")(ZERO, scale=2.0), "forward"),
    ("donated", lambda: ft.jit(lambda x: x * of_logarithms(x), donate_argnums=0)(ZERO), "forward"),
    ("value_and_grad", lambda: ft.value_and_grad(of_logarithms)(ZERO), "forward"),
    ("vmap", lambda: ft.vmap(of_logarithms)(ZERO[:, None]), "forward"),
    ("jit of grad", lambda: ft.jit(GRADIENT)(ZERO), "backward"),
    ("grad", lambda: GRADIENT(ZERO), "backward"),
    ("vjp", lambda: ft.vjp(fnp.sqrt, ZERO)[1](np.ones(2, np.float32)), "backward"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "phase"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_raises_at_the_call(run, phase):
    run()  # nothing is checked outside
    with debug_nonfinite(), pytest.raises(errors.NonfiniteError) as caught:
        run()
    report = caught.value.report
    assert (report.phase, report.file) == (phase, HERE)
    assert isinstance(caught.value, FloatingPointError)
    called = run.__code__.co_firstlineno
    assert f"called at {HERE.rsplit('/')[-1]}:{called}" in str(caught.value)
    assert not ft.config.debug_nonfinite


def test_what_is_finite_or_meant_passes():
    step = ft.jit(lambda x, best: (x * 2, fnp.minimum(best, x.sum()), best))
    with debug_nonfinite():
        assert float(step(ZERO, np.inf)[1]) == 1.0
        np.testing.assert_array_equal(ft.grad(lambda x: (x**2).sum())(ZERO), 2 * ZERO)
        assert float(jax.jit(ft.jit(fnp.log))(0.0)) == -np.inf  # within JAX's trace there are no values
        with debug_nonfinite(False):
            ft.jit(fnp.log)(0.0)


def test_equal_functions_are_told_apart():
    first = lambda x: fnp.log(x) * 3
    second = lambda x: fnp.log(x) * 3
    for f in (first, second):
        with debug_nonfinite(), pytest.raises(errors.NonfiniteError) as caught:
            ft.grad(f)(0.0)
        assert caught.value.report.line == f.__code__.co_firstlineno
    assert [find_nonfinite(f)(0.0).line for f in (first, second)] == [
        f.__code__.co_firstlineno for f in (first, second)
    ]


def test_equations_inside_of_library_functions_have_the_line_of_the_call():
    quotients = ft.from_jax(lambda x: jax.lax.scan(lambda c, x: (c / x, c), 1.0, x)[0])

    def f(x, y):
        a = quotients(x)
        b = quotients(y)
        return a + b

    report = find_nonfinite(f)(ZERO + 1, ZERO)
    assert (report.line, report.primitive, report.iteration) == (f.__code__.co_firstlineno + 2, "div", 1)


def test_the_switch():
    ft.config.debug_nonfinite = True
    try:
        with pytest.raises(errors.NonfiniteError):
            ft.jit(of_logarithms)(ZERO)
    finally:
        ft.config.debug_nonfinite = False
    assert repr(ft.config) == "Config(debug_nonfinite=False, cache_dir=None, cache_bytes=1073741824)"
    with pytest.raises(errors.DtypeError, match=r"config.debug_nonfinite is True or False, got 'yes'"):
        ft.config.debug_nonfinite = "yes"


def test_a_report_reads_well():
    report = find_nonfinite(of_logarithms)(ZERO)
    assert (report.line, report.function, report.scope, report.rewrite) == (LINE, "of_logarithms", "head", "")
    assert report.text == "y = fnp.log(x) * scale"
    assert report.inputs == ("x",)
    assert [str(r) for r in (*report.operands, report.result)] == ["f32[2] from 0 to 1", "f32[2] 0, 1 Inf"]
    text = re.sub(r" +", " ", str(report))
    for part in (
        f"Inf made in the forward pass by log at test_debug_nonfinite.py:{LINE}, in of_logarithms",
        "scope head", "operands f32[2] from 0 to 1", "from argument 'x'", "reaches output, gradient",
        "cause log of 0 is -Inf", "fix keep the argument above 0",
    ):  # fmt: skip
        assert part in text


def test_a_report_on_a_derivative_in_loops():
    def step(c, x):
        return c + fnp.sqrt(x * 2.0), None

    def f(rows):
        return lax.scan(lambda c, row: (lax.scan(step, c, row)[0], None), 0.0, rows)[0]

    batch = np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 0.0], [6.0, 7.0]]], np.float32)
    report = find_nonfinite(ft.vmap(ft.grad(f)))(batch)
    assert (report.phase, report.iterations, report.row) == ("backward", (0, 1), 1)
    assert report.rewrite == "batch of linearize of sqrt"
    assert report.inputs == ("rows",)
    assert [step.primitive for step in report.path] == ["sqrt", "mul"]
    assert "iteration 0, 1 (outermost loop first)" in str(report) and "row       1 of the batch" in str(report)
    assert "the derivative of sqrt is infinite at 0" in report.cause


def test_an_argument_that_is_nan_already():
    report = find_nonfinite(lambda params, x: (params["w"] * x).sum())({"w": np.float32(np.nan)}, ZERO)
    assert report.found and report.argument == "params.w" and report.line is None
    assert str(report).startswith("argument 'params.w' has a NaN already, before anything is computed.")
    assert str(find_nonfinite(fnp.sin)(1.0)).startswith("No NaN or Inf")
    broken = ZERO / np.float32(np.nan)
    assert str(find_nonfinite(lambda x: x * broken)(1.0)).startswith("a value that the function closes over has a NaN")


def test_double_precision():
    with jax.enable_x64(True):
        big = np.array([1e200, 2.0])
        assert not find_nonfinite(lambda x: (x * 1e50, x.astype(np.float32) * 0))(big[1:]).found
        assert not find_nonfinite(lambda x: x * 1e50)(big).found
        report = find_nonfinite(lambda x: x * x)(big)
        assert report.primitive == "mul" and "larger than its dtype holds" in report.cause


def test_narrow_types():
    x = np.array([0.0, 3.0], jax.numpy.bfloat16)

    def f(x):
        masked = fnp.where(x > 0, fnp.ones_like(x), fnp.zeros_like(x))
        return (masked / x) * x.dtype.type(2)

    report = find_nonfinite(f)(x)
    assert report.primitive == "div" and "the branch of a `where` that was not taken" in report.cause
    assert [str(r) for r in report.operands] == ["bf16[2] from 0 to 1", "bf16[2] from 0 to 3"]
    assert str(report.result) == "bf16[2] 0.334, 1 NaN"


REFUSED = [
    (lambda: find_nonfinite(3), errors.DtypeError, "find_nonfinite: expected a function, got int"),
    (lambda: find_nonfinite(fnp.sin, grad=True)(ZERO), errors.DtypeError, "a function to a real scalar.*gives f32"),
    (lambda: ft.jit(lambda x: find_nonfinite(fnp.sin)(x).found)(ZERO), errors.RuleError, "called inside a trace"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refuses(run, kind, message):
    with pytest.raises(kind, match=message) as caught:
        run()
    assert "test_debug_nonfinite.py:" in str(caught.value)


def test_a_long_chain_compiles():
    """Each result is computed once, though each is looked at: 200 equations took minutes when XLA fused them all."""

    def chain(x):
        for _ in range(100):
            x = fnp.sin(x) + x * 0.5
        return fnp.log(x * 0)

    report = find_nonfinite(chain)(ZERO + 1)
    assert report.line == chain.__code__.co_firstlineno + 3


def test_a_program_is_compiled_once():
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        report = find_nonfinite(lambda x: x.sum() * 2)
        report(ZERO)
        before = sum("backend_compile" in name for name in compiled)
        report(ZERO + 1)
        assert before == sum("backend_compile" in name for name in compiled) > 0
    finally:
        jax.monitoring.clear_event_listeners()
