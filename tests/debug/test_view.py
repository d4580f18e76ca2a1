"""view: the data of the page, and the page in a browser where there is one."""

import inspect
import json
import re
import time

import jax
import numpy as np
import pytest

import functrace as ft
from functrace import lax, numpy as fnp
from functrace.debug import view
from functrace.debug.norms import count, measure
from functrace.debug.view import measured, page_data
from tests.debug.browser import MISSING, Browser

GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


def model(params, x):
    for i, w in enumerate(params):
        with ft.named_scope(f"layer_{i}"):
            with ft.named_scope("dense"):
                x = x @ w
            x = fnp.tanh(x)
    with ft.named_scope("recur"):
        x = lax.scan(lambda c, row: (fnp.sin(c) + row, c), x[0], x)[0]
    return (x**2).sum()


LINES, START = inspect.getsourcelines(model)


def line_of(text):
    return START + next(i for i, line in enumerate(LINES) if text in line)


PARAMS, X = [normal(4, 4), normal(4, 4), normal(4, 4)], normal(3, 4)
PROGRAM = ft.make_program(ft.grad(model))(PARAMS, X)


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def data_of(path):
    """The JSON that a page holds."""
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text_of(path), re.DOTALL)
    return json.loads(data)


def all_equations(program):
    for eqn in program.equations:
        yield eqn
        for held, _ in eqn.primitive.runs():
            yield from all_equations(held)


def in_order(data, number=0):
    for eqn in data["programs"][number]["equations"]:
        yield eqn
        for inner in eqn.get("programs", ()):
            yield from in_order(data, inner)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return view(PROGRAM, [PARAMS, X], tmp_path_factory.mktemp("view") / "model.html")


def test_the_page_holds_every_equation_with_its_line(path):
    data = data_of(path)
    equations = list(in_order(data))
    assert [e["primitive"] for e in equations] == [e.primitive.name for e in all_equations(PROGRAM)]
    dense = [e for e in equations if e["primitive"] == "dot_general"]
    places = [data["sources"][e["source"]] for e in dense]
    names = {(data["files"][file]["name"], line, function) for file, line, function, *_ in places}
    assert names == {("test_view.py", line_of("x @ w"), "model")}
    assert {(rewrite, scope, phase) for *_, rewrite, scope, phase in places} >= {
        ("", "layer_0/dense", "forward"),
        ("transpose of dot_general", "layer_2/dense", "backward"),
    }
    assert [e["cost"][0] for e in dense] == [2 * 3 * 4 * 4] * len(dense)
    ((first, texts),) = data["files"][places[0][0]]["pieces"]
    assert texts[line_of("x @ w") - first].strip() == "x = x @ w"


def test_operands_are_the_values_that_they_name(path):
    for program in data_of(path)["programs"]:
        known = len(program["inputs"])
        for eqn in program["equations"]:
            assert all(x < known for x in eqn["operands"] if isinstance(x, int))
            known += len(eqn["results"])
        names = [n for n, _ in program["inputs"]] + [r[0] for e in program["equations"] for r in e["results"]]
        assert len(set(names)) == len(names) == known


def test_the_totals_are_those_of_cost(path):
    data, report = data_of(path), ft.debug.cost(ft.grad(model))(PARAMS, X)
    assert data["totals"]["flops"] == report.flops == sum(e["cost"][0] for e in in_order(data) if "cost" in e)
    assert data["totals"]["peak_bytes"] == report.peak_bytes == max(e["cost"][3] for e in in_order(data) if "cost" in e)


def chain(x):
    y = fnp.exp(x)
    return (y * 3).sum()


def test_norms_are_those_of_the_values(tmp_path):
    x = normal(5)
    data = data_of(view(ft.make_program(chain)(x), [x], tmp_path / "chain.html"))
    found = {e["primitive"]: e["results"][0][2] for e in in_order(data)}
    size = np.linalg.norm(np.exp(x))
    assert found == pytest.approx({"exp": size, "mul": 3 * size, "reduce_sum": 3 * np.exp(x).sum()}, rel=1e-3)


def cotangents(data):
    return [e["results"][0][2] for e in in_order(data) if data["sources"][e["source"]][5] == "backward"]


def test_cotangent_norms_tell_of_a_gradient_that_vanishes(tmp_path):
    def deep(x):
        for _ in range(6):
            x = ft.nn.sigmoid(x)
        return x.sum()

    x = np.ones(4, np.float32)
    found = cotangents(data_of(view(ft.make_program(ft.grad(deep))(x), [x], tmp_path / "deep.html")))
    assert found[-1] == pytest.approx(np.linalg.norm(ft.grad(deep)(x)), rel=1e-3)
    assert found[-1] < found[0] / 100


@ft.custom_jvp
def clipped(x):
    return fnp.minimum(x, 1.0)


clipped.defjvp(lambda xs, dxs: (clipped(*xs), dxs[0]))
HOLDING = {
    "call": (ft.jit(lambda x: fnp.sin(x) * 2), "sin"),
    "checkpoint": (ft.checkpoint(lambda x: fnp.sin(x) * 2), "sin"),
    "custom_jvp": (lambda x: clipped(x), "min"),
    "foreign": (ft.from_jax(jax.nn.relu), "max"),
    "cond": (lambda x: lax.cond(x[0] > 0, fnp.sin, fnp.cos, x), "sin"),
    "scan": (lambda x: lax.scan(lambda c, _: (c * 2, fnp.sin(c)), x, None, 3), "sin"),
    "while": (lambda x: lax.while_loop(lambda c: c[0] < 10, lambda c: fnp.exp(c), x), "exp"),
}


@pytest.mark.parametrize("name", HOLDING)
def test_norms_within_what_holds_a_program(name):
    f, inside = HOLDING[name]
    x = np.array([0.5, 1.0], np.float32)
    program = ft.make_program(f)(x)
    outputs, norms = measure(program, [x])
    assert len(norms) == count(program)
    for y, expected in zip(outputs, jax.tree.leaves(f(x)), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    data = page_data_of(program, x)
    found = [e["results"][0][2] for e in in_order(data) if e["primitive"] == inside]
    steps = {"scan": [x, 2 * x, 4 * x], "while": [x, np.exp(x), np.exp(np.exp(x))]}.get(name, [x])
    g = {"sin": np.sin, "exp": np.exp, "min": lambda x: np.minimum(x, 1), "max": lambda x: np.maximum(x, 0)}[inside]
    assert found == pytest.approx([max(np.linalg.norm(g(s)) for s in steps)], rel=1e-3)
    if name == "cond":  # the branch not taken has none
        assert [e["results"][0][2] for e in in_order(data) if e["primitive"] == "cos"] == [None]


def page_data_of(program, *values):
    return page_data(program, measured(program, values))


def test_values_that_are_not_finite_or_not_numbers():
    x = np.array([0.0, 3e30], np.float32)
    program = ft.make_program(lambda x: (x, fnp.log(x), x / x, x * 2, fnp.argmax(x)))(x)
    found = {e["primitive"]: e["results"][0][2] for e in in_order(page_data_of(program, x))}
    assert found["log"] == "inf" and found["div"] == "nan" and found["argmax"] is None
    assert found["mul"] == pytest.approx(6e30, rel=1e-3)  # whose square is out of range


def test_a_gradient_through_a_while_loop_is_shown(tmp_path):
    f = lambda x: lax.while_loop(lambda c: c[0] < 10, lambda c: c * 2, x).sum()
    x = np.array([0.5, 1.0], np.float32)
    data = data_of(view(ft.make_program(ft.grad(f))(x), [x], tmp_path / "while.html"))
    assert data["loops"] and any("x?" in p["label"] for p in data["programs"])


WALKS = {
    "while_saved": lambda f: lambda x, ct: ft.vjp(f, x)[1](ct)[0],
    "reversed_while": lambda f: lambda x, ct: ft.vjp(f, x)[1](ct)[0],
    "linear_while": lambda f: lambda x, dx: ft.linearize(f, x)[1](dx),
}


@pytest.mark.parametrize("name", WALKS)
def test_norms_within_the_walks_of_a_while_loop(name):
    """Of a value, tangent or cotangent the greatest one of all steps."""
    x, v = np.array([0.5, 0.25], np.float32), np.array([1.0, -3.0], np.float32)
    f = lambda x: lax.while_loop(lambda c: c[0] < 10, lambda c: fnp.square(c) + 1, x)
    states, moves = [x], {"while_saved": [], "linear_while": [v], "reversed_while": [v]}
    while states[-1][0] < 10:
        states.append(states[-1] ** 2 + 1)
    for s in states[:-1]:
        moves["linear_while"].append(moves["linear_while"][-1] * 2 * s)
    for s in states[-2::-1]:
        moves["reversed_while"].append(moves["reversed_while"][-1] * 2 * s)
    program = ft.make_program(WALKS[name](f))(x, v)
    (walk,) = [e for e in program.equations if e.primitive.name == name]
    outputs, norms = measure(program, [x, v])
    np.testing.assert_allclose(outputs[0], ft.jit(WALKS[name](f))(x, v), rtol=1e-6)
    assert len(norms) == count(program)
    data = page_data_of(program, x, v)
    (found,) = [e for e in data["programs"][0]["equations"] if e["primitive"] == name]
    within = [data["programs"][i]["equations"] for i in found["programs"]]
    steps = {e["primitive"]: e["results"][0][2] for e in [e for equations in within for e in equations]}
    assert steps["square"] == pytest.approx(max(np.linalg.norm(s**2) for s in states[:-1]), rel=1e-3)
    if moves[name]:
        (last,) = walk.primitive.along.outputs
        along = within[-1][[e.outputs[0] for e in walk.primitive.along.equations].index(last)]
        assert along["results"][0][2] == pytest.approx(max(map(np.linalg.norm, moves[name][1:])), rel=1e-3)


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def hostile(tmp_path):
    """A page of a function whose file, names and scopes are markup."""
    source = tmp_path / "<b>file.py"
    source.write_text(f"def f(x, fnp):\n    return fnp.sin(x['{HOSTILE[:20]}'])  # {HOSTILE}\n")
    space = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    with ft.named_scope(HOSTILE.replace("/", "|")):
        program = ft.make_program(lambda x: space["f"](x, fnp))({HOSTILE[:20]: normal(3)})
    return view(program, path=tmp_path / "<i>page.html")


def test_nothing_of_a_source_is_markup(hostile):
    text = text_of(hostile)
    assert HOSTILE in json.dumps(data_of(hostile)).replace('\\"', '"')  # it is all there
    assert HOSTILE[:9] not in text.replace("</script>\n", "") and "<img" not in text
    assert len(re.findall("<script", text)) == 2 and "<title>&lt;i&gt;page</title>" in text


def test_the_page_asks_nothing_of_anyone(path):
    text = re.sub(r'<script id="data".*?</script>', "", text_of(path), flags=re.DOTALL)
    assert "default-src 'none'" in text and "unsafe" not in text
    urls = set(re.findall(r"https?://[^\"' ]+", text))
    assert urls <= {"http://www.w3.org/2000/svg"}, urls  # a name, not an address
    assert not re.search(r"\b(src|href)=|@import|url\((?!#)|fetch\(|innerHTML|eval\(", text)


WRONG = [
    (lambda: view(model), ft.errors.DtypeError, r"expected a Program, got function .*make_program"),
    (lambda: view(PROGRAM, [PARAMS]), ft.errors.ArgumentError, r"values has 3 arrays, and the Program has 4 inputs"),
    (lambda: view(PROGRAM, [PARAMS, X.T]), ft.errors.DtypeError, r"value 3 is f32\[4,3\], and input x .* f32\[3,4\]"),
    (lambda: view(PROGRAM, path="/no/such/x.html"), FileNotFoundError, r"view: path '/no/such/x.html' cannot"),
    (lambda: view(PROGRAM, path="/"), ft.errors.FileError, r"view: path '/' cannot .*give the path of a file"),
    (lambda: view(PROGRAM, [PARAMS, X > 0]), ft.errors.DtypeError, r"value 3 is bool\[3,4\], and input x"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_errors_say_what_came(call, error, message):
    with pytest.raises(error, match=f"{message}.*test_view.py"):
        call()


def long_program(layers):
    def f(params, x):
        for i, w in enumerate(params):
            with ft.named_scope(f"layer_{i}"):
                for _ in range(12):
                    x = fnp.tanh(x @ w) + fnp.sin(x) * 0.1
        return x.sum()

    return ft.make_program(ft.grad(f))([normal(4, 4)] * layers, normal(4, 4))


@pytest.fixture(scope="module")
def long_page(tmp_path_factory):
    program = long_program(40)
    start = time.perf_counter()
    where = view(program, path=tmp_path_factory.mktemp("long") / "long.html")
    return where, len(program.equations), time.perf_counter() - start


def test_five_thousand_equations_make_a_page_of_moderate_size(long_page):
    where, equations, seconds = long_page
    assert equations >= 5000 and seconds < 20
    assert len(text_of(where)) < 400 * equations


browser_tests = pytest.mark.skipif(
    bool(MISSING), reason=f"needs a browser: {' and '.join(MISSING)} not found on the PATH"
)


@pytest.fixture(scope="module")
def browser():
    with Browser() as b:
        yield b


def shown(browser):
    """The labels of what the graph shows, boxes of open groups included."""
    return browser.run("return [...document.querySelectorAll('#drawing .label')].map((x) => x.textContent.slice(2))")


@browser_tests
def test_groups_fold_and_unfold(browser, path):
    browser.open(path)
    browser.click("#fold")
    assert [x for x in shown(browser) if x in ("forward", "backward")] == ["forward", "backward"]
    browser.click("#drawing .node.group.forward")
    assert {"layer_0", "layer_1", "layer_2", "recur"} <= set(shown(browser))
    browser.click("#drawing .node.group.forward")  # the first of those
    assert any("dense" in x or "t_general" in x for x in shown(browser))
    browser.click("#drawing .box.forward .label")
    assert "layer_1" not in shown(browser)
    assert browser.messages() == []


@browser_tests
def test_what_is_read_stands_above_what_reads_it(browser, path):
    browser.open(path)
    browser.click("#fold")
    joined = "return state.scene.edges.map((e) => [labelOf(e.a), labelOf(e.b)])"
    assert browser.run(joined) == [["forward", "backward"]]
    browser.click("#unfold")
    assert browser.run("return state.scene.edges.length") > 30
    assert browser.run("return state.scene.edges.every((e) => e.a.top + e.a.h <= e.b.top)")
    gap = "a === b || a.left + a.w <= b.left || b.left + b.w <= a.left || a.top + a.h <= b.top || b.top + b.h <= a.top"
    assert browser.run(f"const all = state.scene.leaves; return all.every((a) => all.every((b) => {gap}))")


@browser_tests
def test_a_nested_program_unfolds(browser, path):
    browser.open(path)
    browser.run("select(equations.find((e) => e.primitive === 'scan')); toggle(state.selected)")
    within = browser.run("return state.selected.children.every((c) => document.querySelector(`[data-id='${c.id}']`))")
    assert within is True
    assert browser.messages() == []


@browser_tests
def test_a_click_on_an_equation_shows_its_line(browser, path):
    browser.open(path)
    browser.run("select(equations.find((e) => e.primitive === 'dot_general' && e.source.phase === 'backward'))")
    browser.run("details(null); closeLine()")
    browser.click("#drawing .node.selected")
    line = line_of("x @ w")
    assert browser.text("#place") == f"test_view.py:{line}"
    assert browser.text(f"#lines .open[data-line='{line}'] code").strip() == "x = x @ w"
    told = browser.text("#details")
    for text in ("transpose of dot_general", "backward", "dimension_numbers", "layer_2/dense", "96 FLOP", "norm"):
        assert text in told
    browser.click("#details .link")  # to where an operand is made
    assert browser.run("return state.selected.results[0].name") in told
    assert browser.messages() == []


@browser_tests
def test_the_search_finds_and_goes_there(browser, path):
    browser.open(path)
    browser.click("#fold")
    browser.type("#search", "tanh layer_1 forward")
    found = browser.run("return finding.found.map((e) => [e.primitive, e.source.scope])")
    assert found and all(scope == "layer_1" for _, scope in found)
    assert browser.text("#found") == f"{len(found)} found"
    browser.type("#search", "\ue007")  # Enter
    assert browser.text("#details h2") == found[0][0] and browser.text("#found") == f"1 of {len(found)}"
    assert browser.run("return document.querySelector('#drawing .node.selected.match') !== null")
    assert browser.messages() == []


@browser_tests
def test_a_line_lists_its_equations(browser, path):
    browser.open(path)
    line = line_of("fnp.tanh")
    browser.run(f"document.querySelector(\"#lines [data-line='{line}']\").click()")
    listed = browser.run("return [...document.querySelectorAll('#lines .equations strong')].map((x) => x.textContent)")
    assert listed.count("tanh") == 3
    browser.click("#lines .equations li")
    assert browser.run("return state.selected.source.line") == line


@browser_tests
@pytest.mark.parametrize("mode", ["phase", "flops", "bytes", "alive", "norm", "cotangent"])
def test_colours(browser, path, mode):
    browser.open(path)
    browser.run(f"setMode('{mode}'); setAll(true); relayout()")
    fills = set(browser.run("return equations.map(colourOf)"))
    assert fills == {None} if mode == "phase" else len(fills) > 3
    if mode == "cotangent":
        assert browser.run("return equations.every((e) => e.source.phase === 'backward' || colourOf(e) === null)")
    assert browser.messages() == []


@browser_tests
def test_light_and_dark(browser, path):
    browser.open(path)
    ground = "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    first = browser.run(ground)
    browser.click("#theme")
    second = browser.run(ground)
    assert min(max(first), max(second)) < 60 and max(min(first), min(second)) > 200


@browser_tests
def test_nothing_of_a_source_runs(browser, hostile):
    browser.open(hostile)
    assert browser.run("return document.title") == "<i>page"
    browser.run("select(equations[0])")
    assert HOSTILE in browser.text("#lines") and "sin" in browser.text("#details h2")
    assert browser.run("return document.querySelectorAll('img, b:not(.forward):not(.backward)').length") == 0
    assert browser.messages() == []


@browser_tests
def test_five_thousand_equations_are_usable(browser, long_page):
    where, equations, _ = long_page
    start = time.perf_counter()
    browser.open(where)
    assert time.perf_counter() - start < 20
    timed = "const t = performance.now(); {}; return performance.now() - t"
    assert browser.run(timed.format("document.getElementById('unfold').click()")) < 5000
    assert browser.run("return state.scene.leaves.length") >= equations
    assert browser.run("return document.querySelectorAll('#drawing .node').length") < 400  # what the window shows
    assert browser.run(timed.format("search('sin layer_7')")) < 2000
    assert browser.run("goTo(0); return state.selected.source.scope") == "layer_7"
    assert browser.messages() == []
