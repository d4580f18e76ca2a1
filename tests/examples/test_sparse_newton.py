"""Newton's method with a sparse Jacobian: quadratic convergence to the known height of Bratu's solution."""

import numpy as np
import pytest
from sparse_newton import main


def test_converges(tmp_path, capsys):
    u, norms = main(["--size", "31", "--strength", "6.0", "--figure", str(tmp_path / "bratu.png")])
    assert norms[-1] < 1e-12 and len(norms) < 12
    np.testing.assert_allclose(u, u.T, atol=1e-12)
    assert u[15, 15] == pytest.approx(u.max())
    assert "961 x 961, 4681 entries" in capsys.readouterr().out
    assert (tmp_path / "bratu.png").stat().st_size > 1000
