"""The spectrum by Lanczos: its ends are those of the whole Hessian, and the mean weighs all of it."""

from pathlib import Path

import hessian_spectrum
import numpy as np
from hessian_spectrum import Quadrature, density, lanczos, main, quadrature

from functrace import random


def test_against_the_whole_hessian(tmp_path: Path, capsys):
    run = main(["--quick", "--out", str(tmp_path)])
    for moment in ("before", "after"):
        whole = run.whole[moment]
        np.testing.assert_allclose(run.top(moment), whole[-1], rtol=1e-3)
        np.testing.assert_allclose(min(s.values[0] for s in run.spectra[moment]), whole[0], atol=0.05 * whole[-1])
    assert run.losses["after"] < 0.5 * run.losses["before"]
    assert (tmp_path / "hessian_spectrum.png").stat().st_size > 10_000
    assert f"largest eigenvalue {run.top('after'):.4f}" in capsys.readouterr().out


def test_lanczos():
    """Of a matrix with three eigenvalues: three steps find them, and the weights are those of the start in each."""
    Q = np.linalg.qr(np.asarray(random.normal(random.key(0), (40, 40))))[0]
    values = np.repeat([-1.0, 2.0, 5.0], [20, 15, 5])
    matrix = ((Q * values) @ Q.T).astype(np.float32)
    start = random.normal(random.key(1), (40,))
    found = quadrature(*map(np.asarray, lanczos(lambda v: matrix @ v, start, 8)))
    np.testing.assert_allclose(found.values, [-1, 2, 5], atol=1e-4)
    parts = (Q.T @ start) ** 2
    np.testing.assert_allclose(found.weights, [parts[values == v].sum() / parts.sum() for v in (-1, 2, 5)], atol=1e-4)


def test_density():
    """It adds up to 1, with a mean that is that of the eigenvalues."""
    grid = np.linspace(-3, 5, 4001)
    curve = density([Quadrature(np.array([0.0, 2.0]), np.array([0.75, 0.25]))], grid, 0.1)
    assert np.isclose(np.trapezoid(curve, grid), 1, atol=1e-6)
    assert np.isclose(np.trapezoid(curve * grid, grid), 0.5, atol=1e-6)
    assert hessian_spectrum.SMALL > 610
