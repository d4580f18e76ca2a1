"""Functions defined by an equation, under every transform, against JAX's and against closed forms."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax import lax, numpy as jnp
from jax.scipy.sparse import linalg as their_krylov

import functrace as ft
from functrace import numpy as fnp
from tests.against_jax import (
    FIRST,
    SECOND,
    THIRD,
    Case,
    Library,
    compute,
    definite,
    differences,
    normal,
    positive,
    regular,
    row,
    uniform,
)  # fmt: skip

STEPS = 80  # of a contraction by a half or more: to double precision


def iterated(f, init, **_):
    """A fixed point that JAX differentiates in every mode."""
    return lax.scan(lambda x, _: (f(x), None), jax.tree.map(jnp.asarray, init), None, STEPS)[0]


def neumann(g, y):
    """Solve g(x) = y for g near the identity, by steps that JAX transposes, as it does not gmres inside a root."""
    return lax.scan(lambda x, _: (jax.tree.map(lambda x, z, y: x - z + y, x, g(x), y), None), y, None, STEPS)[0]


THEIRS = SimpleNamespace(
    np=jnp, t=jax, lax=lax, krylov=their_krylov, fixed_point=iterated, matrix_free=neumann,
    while_loop=lambda going, body, init: lax.fori_loop(0, 3, lambda _, v: body(v), init),
)  # fmt: skip
OURS = SimpleNamespace(
    np=fnp, t=ft, lax=ft.lax, krylov=ft.scipy.sparse.linalg, fixed_point=ft.lax.fixed_point,
    matrix_free=lambda g, y: ft.scipy.sparse.linalg.gmres(g, y, tol=tolerance(y["v"]), maxiter=6)[0],
    while_loop=ft.lax.while_loop,
)  # fmt: skip


def tolerance(x):
    return 1e-13 if x.dtype == np.float64 else 1e-7


def dense(b, A, y):
    return b.lax.custom_linear_solve(
        lambda x: A @ x, y, lambda _, y: b.np.linalg.solve(A, y), lambda _, y: b.np.linalg.solve(A.T, y)
    )


def dense_solve(b):
    return lambda A, y: dense(b, A, y)


def symmetric_solve(b):
    def f(A, y):
        A = A + A.T
        return b.lax.custom_linear_solve(lambda x: A @ x, y, lambda _, y: b.np.linalg.solve(A, y), symmetric=True)

    return f


def forward_solve(b):
    """Without a transpose."""
    return lambda A, y: b.lax.custom_linear_solve(lambda x: A @ x, y, lambda _, y: b.np.linalg.solve(A, y))


def tree_solve(b):
    """Two parts of a right side, one of which the other depends on."""

    def f(c, u, v):
        matvec = lambda x: {"u": c * x["u"], "v": x["v"] + b.np.sin(c).sum() * x["u"].sum()}
        solve = lambda _, y: {"u": y["u"] / c, "v": y["v"] - b.np.sin(c).sum() * (y["u"] / c).sum()}
        back = lambda _, y: {"u": (y["u"] - b.np.sin(c).sum() * y["v"].sum()) / c, "v": y["v"]}
        return b.lax.custom_linear_solve(matvec, {"u": u, "v": v}, solve, back)

    return f


def solve_with_aux(b):
    def f(c, y):
        solve = lambda _, y: (y / c, {"largest": abs(y).max(), "count": b.np.int32(3)})
        return b.lax.custom_linear_solve(lambda x: c * x, y, solve, solve, has_aux=True)

    return f


def solve_by_matvec(b):
    """The solvers have the matrix from what they are handed, transposed or not."""

    def f(A, y):
        solve = lambda matvec, y: b.np.linalg.solve(b.t.jacfwd(matvec)(y), y)
        return b.lax.custom_linear_solve(lambda x: A @ x, y, solve, solve)

    return f


def conjugate_gradients(b):
    return lambda A, y: b.krylov.cg(A, y, tol=tolerance(y))[0]


def preconditioned(b):
    def f(A, y):
        M = lambda v: v / b.np.diag(A)
        return b.krylov.cg(lambda x: A @ x, y, x0=y, tol=tolerance(y), M=M)[0]

    return f


def stabilised(b):
    return lambda A, y: b.krylov.bicgstab(lambda x: A @ x, y, tol=tolerance(y))[0]


def residuals_batched(b):
    return lambda A, y: b.krylov.gmres(lambda x: A @ x, y, tol=tolerance(y), maxiter=6)[0]


def residuals_incremental(b):
    return lambda A, y: b.krylov.gmres(A, y, tol=tolerance(y), maxiter=6, solve_method="incremental")[0]


def residuals_restarted(b):
    return lambda A, y: b.krylov.gmres(A, y, tol=tolerance(y), restart=2, maxiter=40)[0]


def residuals_of_trees(b):
    def f(A, u, v):
        matvec = lambda x: (A @ x[0] + x[1].sum(), 3.0 * x[1] + x[0][:2])
        return b.krylov.gmres(matvec, (u, v), tol=tolerance(u), maxiter=6)[0]

    return f


def newton_root(b):
    def f(a):
        solve = lambda f, x: b.lax.fori_loop(0, 9, lambda _, x: x - f(x) / b.t.grad(f)(x), x)
        return b.lax.custom_root(lambda x: x**3 + x - a, a / 2, solve, lambda g, y: y / g(b.np.ones_like(a)))

    return f


def vector_root(b):
    def f(W, c):
        equation = lambda x: x - 0.3 * b.np.tanh(W @ x) - c
        solve = lambda f, x: b.lax.fori_loop(0, STEPS, lambda _, x: x - f(x), x)
        tangent_solve = lambda g, y: b.np.linalg.solve(b.t.jacfwd(g)(y), y)
        return b.lax.custom_root(equation, b.np.zeros_like(c), solve, tangent_solve)

    return f


def tree_root(b):
    """A root with parts of two shapes, and a matrix-free solve for its derivative."""

    def f(a, c):
        equation = lambda x: {"s": x["s"] - 0.2 * b.np.sin(x["v"]).sum() - a, "v": x["v"] - 0.3 * c * b.np.cos(x["s"])}

        solve = lambda f, x: b.lax.fori_loop(0, STEPS, lambda _, x: jax.tree.map(lambda p, q: p - q, x, f(x)), x)
        return b.lax.custom_root(equation, {"s": 0 * a, "v": 0 * c}, solve, b.matrix_free)

    return f


def fixed_point(b):
    return lambda W, c: b.fixed_point(lambda x: b.np.tanh(0.4 * W @ x + c), 0 * c)


def fixed_point_of_tree(b):
    def f(a, c):
        step = lambda x: {"s": 0.3 * b.np.cos(x["v"]).sum() * a, "v": 0.4 * b.np.sin(c * x["s"])}
        return b.fixed_point(step, {"s": 0 * a, "v": 0 * c})

    return f


def in_scan(b):
    def f(A, ys):
        return b.lax.scan(lambda x, y: (dense(b, A, y + b.np.sin(x)), x), ys[0], ys)

    return f


def in_while(b):
    def f(A, y):
        going, body = lambda v: v[0] < 3, lambda v: (v[0] + 1, b.np.sin(dense(b, A, v[1])))
        return b.while_loop(going, body, (0, y))[1]

    return f


def in_cond(b):
    def f(a, c):
        root = lambda c: b.fixed_point(lambda x: 0.5 * b.np.cos(c * x) + c, 0 * c)
        return b.lax.cond(a > 0, root, lambda c: c * c, c)

    return f


def of_loops(b):
    """A matrix whose product is a scan."""

    def f(A, y):
        matvec = lambda x: b.lax.scan(lambda s, row: (s, (row * x).sum()), None, A)[1]
        return b.krylov.bicgstab(matvec, y, tol=tolerance(y))[0]

    return f


def nested(b):
    """The equation of one fixed point holds another."""

    def f(c):
        inner = lambda x: b.fixed_point(lambda y: 0.3 * b.np.sin(y + x) + c, 0 * c)
        return b.fixed_point(lambda x: 0.5 * b.np.cos(inner(x)), 0 * c)

    return f


# JAX has no transpose of a linear solve where a part of the right side has no tangent.
IN_PARTS = ("grad of grad", "reverse over reverse", "third derivative")
ROWS = [
    row("dense_solve", regular(3), normal(3)),
    row("symmetric_solve", regular(3), normal(3)),
    row("tree_solve", positive(3), normal(3), normal(2), refused=IN_PARTS),
    row("solve_with_aux", positive(3), normal(3)),
    row("solve_by_matvec", regular(3), normal(3)),
    row("conjugate_gradients", definite(3), normal(3), looser=8.0),
    row("preconditioned", definite(3), normal(3), looser=8.0),
    row("stabilised", regular(3), normal(3), looser=8.0),
    row("residuals_batched", regular(3), normal(3), looser=8.0),
    row("residuals_incremental", regular(3), normal(3), looser=8.0),
    row("residuals_restarted", regular(3), normal(3), looser=8.0),
    row("residuals_of_trees", regular(3), normal(3), normal(2), looser=8.0, refused=IN_PARTS),
    row("newton_root", positive()),
    row("vector_root", uniform(-0.7, 0.7, 3, 3), normal(3)),
    row("tree_root", normal(), normal(2), looser=8.0),
    row("fixed_point", uniform(-0.7, 0.7, 3, 3), normal(3), looser=4.0),
    row("fixed_point_of_tree", normal(), normal(2), looser=4.0),
    row("in_scan", regular(3), normal(4, 3)),
    row("in_while", regular(3), normal(3)),
    row("in_cond", normal(), uniform(-0.9, 0.9), looser=4.0),
    row("of_loops", regular(3), normal(3), looser=8.0),
    row("nested", uniform(-0.9, 0.9), looser=4.0),
]

NAMES = [r.names[0] for r in ROWS]
OURS_OF = Library(ft, fnp, SimpleNamespace(**{name: globals()[name](OURS) for name in NAMES}))
THEIRS_OF = Library(jax, jnp, SimpleNamespace(**{name: globals()[name](THEIRS) for name in NAMES}))


CHECKS = (*FIRST, "grad of grad", "vmap of grad", "hessian")
FURTHER = tuple(c for c in SECOND + THIRD if c not in CHECKS)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_jax(row, dtype):
    checks = CHECKS if dtype == "float64" else FIRST  # types are settled at first order
    with jax.enable_x64(dtype == "float64"):
        assert differences(THEIRS_OF, OURS_OF, [(dtype, Case(row, dtype))], checks) == []


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_further_derivatives_equal_jax(row):
    with jax.enable_x64(True):
        assert differences(THEIRS_OF, OURS_OF, [("float64", Case(row, "float64"))], FURTHER) == []


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_programs_are_sound(row):
    """Derivatives verify, and read back from their text."""
    case = Case(row, "float32")
    f = case.function(OURS_OF, row.names[0])
    for check in ("value", "vjp", "grad of grad", "vmap of grad"):
        run = lambda *xs, check=check: jax.tree.leaves(compute(check, OURS_OF, f, case, xs, case.dxs, case.batch))
        program = ft.make_program(run)(*case.xs).verify()
        try:
            assert ft.Program.parse(str(program)) == program
        except ft.errors.ProgramError as error:
            assert "is an equation of JAX's" in str(error)


@pytest.mark.parametrize("name", ["tree_solve", "residuals_of_trees"])
def test_second_derivatives_in_parts_are_numerical(name):
    """Where JAX refuses."""
    with jax.enable_x64(True):
        case = Case(next(r for r in ROWS if r.names[0] == name), "float64")
        ft.testing.check_grads(case.function(OURS_OF, name), case.xs, order=2, modes=("rev",))


def solved_twice(c, y):
    solve = lambda _, y: (y / c, {"largest": abs(y).max(), "count": fnp.int32(3)})
    return ft.lax.custom_linear_solve(lambda x: c * x, y, solve, solve, has_aux=True)


def root_and_count(a):
    solve = lambda f, x: (ft.lax.fori_loop(0, 9, lambda _, x: x - f(x) / ft.grad(f)(x), x), fnp.int32(9))
    return ft.lax.custom_root(lambda x: x * x - a, 1.0, solve, lambda g, y: y / g(1.0), has_aux=True)


def test_root_with_aux():
    """JAX's fails for an integer beside the root."""
    with jax.enable_x64(True):
        value, count = root_and_count(2.0)
        assert (float(value), int(count)) == (pytest.approx(2**0.5, rel=1e-15), 9)
        third = ft.grad(ft.grad(ft.grad(lambda a: root_and_count(a)[0])))
        np.testing.assert_allclose(third(2.0), 3 / 8 * 2.0**-2.5, rtol=1e-13)
        rows = np.array([1.0, 4.0, 9.0])
        derivatives, counts = ft.vmap(ft.grad(root_and_count, has_aux=True))(rows)
        np.testing.assert_allclose(derivatives, 0.5 / np.sqrt(rows), rtol=1e-13)
        assert counts.tolist() == [9, 9, 9]


def test_aux_has_no_derivative():
    _, (_, moved) = ft.jvp(solved_twice, (np.ones(3), np.ones(3)), (np.ones(3), np.ones(3)))
    assert float(moved["largest"]) == 0.0


def test_fixed_point_stops_when_it_has_converged():
    slow, fast = (fixed_point_calls(rate) for rate in (0.9, 0.1))
    assert fast < 12 < 60 < slow < 200


def fixed_point_calls(rate):
    """The least max_steps that does not change the result."""
    found = ft.lax.fixed_point(lambda x: rate * x + 1.0, 0.0)
    solve = ft.jit(lambda n: counted(rate, n))
    return next(n for n in range(1, 1000) if float(solve(n)) == float(found))


def counted(rate, n):
    return ft.lax.fori_loop(0, n, lambda _, x: rate * x + 1.0, 0.0)


def test_rows_converge_on_their_own():
    """A row gives what it gives alone, to the last bit, though others need more steps."""
    rates = np.array([0.1, 0.5, 0.95], np.float32)
    f = lambda rate: ft.lax.fixed_point(lambda x: fnp.cos(rate * x) + rate, 0.0)
    alone = [float(f(r)) for r in rates]
    assert ft.vmap(f)(rates).tolist() == alone
    np.testing.assert_allclose(ft.vmap(ft.grad(f))(rates), [ft.grad(f)(r) for r in rates], rtol=2e-5)


def test_max_steps_returns_the_last():
    f = lambda a, n: ft.lax.fixed_point(lambda x: 0.5 * x + a, 0.0, max_steps=n)
    assert [float(f(1.0, n)) for n in (1, 2, 3)] == [1.0, 1.5, 1.75]
    assert float(f(1.0, 1000)) == pytest.approx(2.0, rel=1e-5)
    assert float(ft.grad(lambda a: f(a, 3))(1.0)) == pytest.approx(2.0)  # the formula, at x = 1.75


def test_tolerance_says_how_close():
    f = lambda tol: ft.lax.fixed_point(lambda x: 0.5 * x + 1.0, 0.0, tol=tol)
    assert float(f(0.25)) == 1.75  # changes by 0.25, and 0.25 * max(1, x) is more
    assert float(f(0.0)) == 2.0


def test_reverse_mode_keeps_nothing_of_the_steps():
    """The gradient's Program holds two solves, and no loop of the steps is differentiated."""
    grad = ft.grad(lambda a: ft.lax.fixed_point(lambda x: fnp.cos(a * x), 0.5))
    names = [eqn.primitive.name for eqn in ft.make_program(grad)(0.7).equations]
    assert names.count("root") == 1 and names.count("linear_solve") == 1
    assert not {"while", "while_saved", "reversed_while"} & set(names)


def test_solvers_with_complex_numbers():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        A = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)) + 8 * np.eye(4)
        b = rng.standard_normal(4) + 1j * rng.standard_normal(4)
        H = A @ A.conj().T
        for solver, matrix, options in (
            ("cg", H, {}), ("bicgstab", A, {}), ("gmres", A, {}), ("gmres", A, {"solve_method": "incremental"})
        ):  # fmt: skip
            solve = getattr(ft.scipy.sparse.linalg, solver)
            f = lambda A, b, solve=solve, options=options: solve(A, b, tol=1e-14, maxiter=99, **options)[0]
            g = lambda A, b: jnp.linalg.solve(A, b)
            np.testing.assert_allclose(f(matrix, b), g(matrix, b), rtol=1e-10)
            ours = ft.vjp(f, matrix, b)[1](b.conj())
            theirs = jax.vjp(g, matrix, b)[1](b.conj())
            if solver == "cg":  # differentiated as a function of any A, which its loop is not
                ours, theirs = ours[1:], theirs[1:]
            for x, y in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_gmres_info():
    A, b = np.eye(2), np.ones(2)
    assert int(ft.scipy.sparse.linalg.gmres(A, b)[1]) == 0
    assert int(ft.scipy.sparse.linalg.gmres(A * np.nan, b, maxiter=2)[1]) == -1


def test_jax_differentiates_what_functrace_made():
    """Inside JAX's own transforms the derivative is the implicit one too."""
    with jax.enable_x64(True):
        A, b = np.diag([2.0, 3.0]) + 0.5 * np.tri(2), np.array([1.0, 2.0])
        ours = lambda A, b: ft.scipy.sparse.linalg.gmres(A, b, tol=1e-14)[0]
        for derivative in (jax.jacfwd, jax.jacrev):
            for found, expected in zip(
                derivative(ours, (0, 1))(A, b), derivative(jnp.linalg.solve, (0, 1))(A, b), strict=True
            ):
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        root = lambda a: ft.lax.fixed_point(lambda x: (x + a / x) / 2, 1.0)
        np.testing.assert_allclose(jax.grad(jax.grad(root))(2.0), -0.25 * 2.0**-1.5, rtol=1e-10)


def test_jax_solvers_are_imported():
    """JAX's own, brought in whole, becomes the same primitive."""
    A, b = np.diag([2.0, 3.0]).astype(np.float32), np.ones(2, np.float32)
    f = ft.from_jax(lambda A, b: their_krylov.cg(lambda x: A @ x, b)[0])
    program = ft.make_program(f)(A, b)
    assert "linear_solve" in [eqn.primitive.name for eqn in program.equations]
    np.testing.assert_allclose(ft.jacrev(f, 1)(A, b), np.linalg.inv(A), rtol=1e-6)


HALF = lambda matvec, b: b / 2
BAD = {
    "matvec is no function": (
        lambda b: ft.lax.custom_linear_solve(np.eye(3), b, HALF),
        r"custom_linear_solve: matvec must be a function, got ndarray",
    ),
    "matvec is not square": (
        lambda b: ft.lax.custom_linear_solve(lambda x: x[:2], b, HALF),
        r"matvec must return values of the types of b: b has type f32\[3\], and matvec returns f32\[2\]",
    ),
    "matvec is not linear": (
        lambda b: ft.lax.custom_linear_solve(lambda x: x * x, b, HALF, HALF),
        r"custom_linear_solve: matvec must be linear",
    ),
    "solve returns another shape": (
        lambda b: ft.lax.custom_linear_solve(lambda x: x, b, lambda f, b: b[:2]),
        r"solve must return values of the types of b.*one shape",
    ),
    "solve returns a pair": (
        lambda b: ft.lax.custom_linear_solve(lambda x: x, b, lambda f, b: (b, 1)),
        r"solve must return the pytree structure of b(.|\n)*With has_aux=True",
    ),
    "no aux": (
        lambda b: ft.lax.custom_linear_solve(lambda x: x, b, HALF, has_aux=True),
        r"with has_aux=True solve must return a pair \(x, aux\)",
    ),
    "integers": (
        lambda b: ft.lax.custom_linear_solve(lambda x: x, {"k": np.arange(3)}, HALF),
        r"b\['k'\] has type i32\[3\], and must be floating or complex; cast it",
    ),
    "no transpose": (
        lambda b: ft.grad(lambda b: ft.lax.custom_linear_solve(lambda x: 2 * x, b, HALF).sum())(b),
        r"Pass transpose_solve, or symmetric=True",
    ),
    "f is not square": (
        lambda b: ft.lax.custom_root(lambda x: x.sum(), b, lambda f, x: x, lambda g, y: y),
        r"custom_root: f must return values of the types of initial_guess",
    ),
    "tangent_solve returns a pair": (
        lambda b: ft.lax.custom_root(lambda x: x, b, lambda f, x: x, lambda g, y: (y, None)),
        r"tangent_solve must return the pytree structure of initial_guess",
    ),
    "f changes the dtype": (
        lambda b: ft.lax.fixed_point(lambda x: x.astype(fnp.float16), b),
        r"fixed_point: f must return .* init has type f32\[3\], and f returns f16\[3\]. Cast init to float16, or",
    ),
    "no steps": (
        lambda b: ft.lax.fixed_point(fnp.cos, b, max_steps=0), r"fixed_point: max_steps must be at least 1, got 0"
    ),
    "matrix is not square": (
        lambda b: ft.scipy.sparse.linalg.cg(np.ones((2, 3)), b), r"cg: A must be a square matrix, got shape \(2, 3\)"
    ),
    "A is a number": (
        lambda b: ft.scipy.sparse.linalg.gmres(2.0, b), r"gmres: A must be a function or a matrix, got float"
    ),
    "x0 is of another shape": (
        lambda b: ft.scipy.sparse.linalg.bicgstab(np.eye(3), b, x0=np.ones(2)),
        r"bicgstab: x0 must have the structure and shapes of b",
    ),
    "unknown method": (
        lambda b: ft.scipy.sparse.linalg.gmres(np.eye(3), b, solve_method="qr"),
        r"gmres: solve_method must be 'batched' or 'incremental', got 'qr'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_messages(case):
    call, message = BAD[case]
    with pytest.raises(ft.errors.FunctraceError, match=message):
        call(np.ones(3, np.float32))
