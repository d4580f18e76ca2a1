"""Planted zeros: each program has one at a line that is marked, and the report must name it and say why."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import functrace as ft
from functrace import nn, numpy as fnp

RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(size=(8, 3)))
PARAMS = {"W": np.float32(RNG.normal(size=(3, 4))), "v": np.float32(RNG.normal(size=4))}


def unused(p):
    return fnp.sum(p["v"])


def rounded(p):
    return fnp.sum(fnp.round(X @ p["W"]) @ p["v"])  # here


def stopped(p):
    h = ft.stop_gradient(X @ p["W"])  # here
    return fnp.sum(h @ p["v"])


def compared(p):
    h = X @ p["W"] > 0  # here
    return fnp.sum(h.astype(np.float32) @ p["v"])


def cast(p):
    h = (X @ p["W"]).astype(int)  # here
    return fnp.sum(h @ p["v"])


def picked(p):
    i = fnp.argmax(X @ p["W"], axis=1)  # here
    return fnp.sum(p["v"][i])


def floored_in_scan(p):
    def step(h, x):
        return fnp.floor(h + x @ p["W"]), None  # here

    return ft.lax.scan(step, fnp.zeros(4), X)[0] @ p["v"]


def sign_in_jit_and_vmap(p):
    row = ft.jit(lambda x: fnp.sign(x @ p["W"]) @ p["v"])  # here
    return fnp.sum(ft.vmap(row)(X))


def dead_relu(p):
    h = nn.relu(X @ p["W"] - 100.0)  # here
    return fnp.sum(h @ p["v"])


def dead_relu_in_scan(p):
    def step(h, x):
        return nn.relu(h + x @ p["W"] - 50.0), None  # here

    return ft.lax.scan(step, fnp.zeros(4), X)[0].sum() + fnp.sum(p["v"])


def dead_maximum(p):
    h = fnp.maximum(X @ p["W"] - 100.0, 0.0)  # here
    return fnp.sum(h * h @ p["v"])


def clipped(p):
    h = fnp.clip(X @ p["W"], 100.0, 200.0)  # here
    return fnp.sum(h @ p["v"])


def masked(p):
    h = fnp.where(fnp.zeros((8, 4), bool), X @ p["W"], 1.0)  # here
    return fnp.sum(h @ p["v"])


def branch_not_taken(p):
    return ft.lax.cond(fnp.sum(p["v"]) > 1e9, lambda: fnp.sum(p["W"]), lambda: fnp.sum(p["v"]))  # here


def row_not_read(p):
    index = fnp.asarray([0, 1])
    table = fnp.concatenate([fnp.ones((2, 4)), p["W"]])  # here
    return fnp.sum(table[index] @ p["v"])


def times_zero(p):
    return fnp.sum((X @ p["W"]) * fnp.zeros(4) @ p["v"])  # here


def waits_for_last_layer(p):
    h = nn.relu(X @ p["W"])
    return fnp.sum(h @ (p["v"] * 0.0 + fnp.zeros(4)))  # here


def saturated(p):
    h = nn.sigmoid(X @ p["W"] * 10.0 + 1e3)  # here
    return fnp.sum(h @ p["v"])


def underflown(p):
    h = X @ p["W"] * 1e-30  # here
    h = h * 1e-30
    return fnp.sum(h @ p["v"])


@ft.custom_vjp
def zeroed(x):
    return 2.0 * x


zeroed.defvjp(lambda x: (2.0 * x, None), lambda _, ct: (0.0 * ct,))


def wrong_rule(p):
    return fnp.sum(zeroed(X @ p["W"]) @ p["v"])  # here


def hook_that_zeroes(p):
    h = ft.on_backward(X @ p["W"], lambda ct: ct * 0.0)  # here
    return fnp.sum(h @ p["v"])


def beyond_a_where(p):
    h = nn.relu6(X @ p["W"] + 100.0)  # here
    return fnp.sum(h @ p["v"])


def where_of_data(p):
    h = fnp.where(X > 1e6, X * p["W"][:, 0], 1.0)  # here
    return fnp.sum(h) + fnp.sum(p["v"])


def slope_of_zero(p):
    h = nn.leaky_relu(X @ p["W"] - 100.0, 0.0)  # here
    return fnp.sum(h @ p["v"])


def integer_division(p):
    return fnp.sum((X @ p["W"]) // 2 @ p["v"])  # here


def lost_in_loop(p):
    step = lambda s: (s[0] + 1, nn.relu(s[1] @ p["W"][:, :3] - 100.0))
    return ft.lax.while_loop(lambda s: s[0] < 3, step, (0, X))[1].sum() + fnp.sum(p["v"])  # here


PLANTED = {
    unused: ("unused", "the loss never uses it"),
    rounded: ("blocked", "no derivative goes through round"),
    stopped: ("blocked", "through stop_gradient"),
    compared: ("blocked", "through the comparison gt"),
    cast: ("blocked", "through the cast to int32"),
    picked: ("blocked", "through argmax"),
    floored_in_scan: ("blocked", "through floor"),
    sign_in_jit_and_vmap: ("blocked", "through sign"),
    dead_relu: ("dead", "dead units: relu gives 0 for every entry"),
    dead_relu_in_scan: ("dead", "dead units: relu gives 0 for every entry"),
    dead_maximum: ("dead", "dead units: relu gives 0 for every entry"),
    clipped: ("dead", "beyond the bound of max"),
    masked: ("not selected", r"where \(select_n\) takes no entry"),
    branch_not_taken: ("not selected", "the branch of cond that was taken reads no entry"),
    row_not_read: ("not selected", "what is read of the result of concatenate is not from it"),
    times_zero: ("zero factor", "multiplied by zero: the other factor of mul", "it is a constant"),
    waits_for_last_layer: ("zero factor", "multiplied by zero: the other factor of dot_general", "or wait"),
    saturated: ("saturated", "logistic is saturated: its derivative is 0 in float32"),
    underflown: ("underflow", "underflow: in mul a cotangent of at most .*e-30 times a factor of at most 1.0e-30"),
    wrong_rule: ("flat", "the rule of zeroed is zero", "gradcheck"),
    hook_that_zeroes: ("flat", "function given to on_backward makes a cotangent of 0", "take the hook away"),
    beyond_a_where: ("dead", "beyond the bound of where .what it compares is from", "a smooth bound"),
    where_of_data: ("not selected", r"where \(select_n\) takes no entry", "Look at the condition"),
    slope_of_zero: ("zero factor", "the other factor of mul is 0", "Take the product away"),
    integer_division: ("blocked", "through sign", "straight-through"),
    lost_in_loop: ("flat", "no cotangent comes through the steps of while"),
}


@pytest.mark.parametrize("loss", PLANTED, ids=lambda f: f.__name__)
def test_planted_zeros(loss):
    kind, reason, *fix = PLANTED[loss]
    report = ft.debug.explain_zero(loss)(PARAMS)
    row = {r.name: r for r in report.rows}["p.W"]
    assert row.kind == kind
    assert re.search(reason, row.reason), row.reason
    assert re.search(*fix or [r"\w"], row.fix), row.fix
    lines, first = inspect.getsourcelines(loss)
    here = [first + i for i, text in enumerate(lines) if "# here" in text]
    assert [row.line] == (here or [None])
    assert row.file == (__file__ if here else None)
    assert f"p.W: {row.reason}" in str(report) and row.fix in str(report)


HEALTHY = {
    "dense": lambda p: fnp.sum(nn.relu(X @ p["W"]) @ p["v"]),
    "straight through": lambda p: fnp.sum((X @ p["W"] + ft.stop_gradient(fnp.round(X @ p["W"]) - X @ p["W"])) @ p["v"]),
    "one path of two is blocked": lambda p: fnp.sum((fnp.round(X @ p["W"]) + X @ p["W"]) @ p["v"]),
    "scan": lambda p: ft.lax.scan(lambda h, x: (fnp.tanh(h + x @ p["W"]), None), fnp.zeros(4), X)[0] @ p["v"],
    "far from one": lambda p: fnp.sum(X @ p["W"] @ p["v"]) * 1e-30,
}


@pytest.mark.parametrize("loss", HEALTHY.values(), ids=HEALTHY)
def test_no_alarm(loss):
    report = ft.debug.explain_zero(loss)(PARAMS)
    assert not report.rows and report.count == 2
    assert str(report) == "None of 2 gradients is zero."


def test_what_a_dead_unit_is_multiplied_by():
    """The weights behind a dead unit have a gradient of zero too, for the same reason, which is named."""
    rows = {r.name: r for r in ft.debug.explain_zero(dead_relu)(PARAMS).rows}
    line = rows["p.W"].line
    assert rows["p.v"].kind == "zero factor"
    assert f"is 0 everywhere, since relu gives 0 for every entry at test_explain_zero.py:{line}" in rows["p.v"].reason


def test_lines_are_those_of_the_program_asked_about():
    """Two programs that are equal but for their lines each get their own."""
    first = ft.debug.explain_zero(lambda p: fnp.sum(fnp.round(p["W"])))(PARAMS)
    second = ft.debug.explain_zero(lambda p: fnp.sum(fnp.round(p["W"])))(PARAMS)
    assert second.rows[0].line == first.rows[0].line + 1
