import numpy as np
import pytest

from scalelab.laws import ParallelLaw, Points

AT = Points(N=np.array([5e8, 1e9, 4e9, 1e5]), P=np.array([1.0, 2.0, 8.0, 4.0]))


def test_value_is_the_equation():
    E, A, k, alpha = 0.69, 1.1e7, 0.39, 0.19
    expected = [E + (A / (n * (k * np.log(p) + 1))) ** alpha for n, p in zip(AT.N, AT.P, strict=True)]
    assert ParallelLaw().loss(np.array([E, A, k, alpha]), AT) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("params", [(0.69, 1.1e7, 0.39, 0.19), (1.3, 2e8, -0.1, 0.7), (0.1, 5.0, 0.0, 1.5)])
def test_jacobian_by_central_differences(params):
    law, params = ParallelLaw(), np.array(params)
    for i, value in enumerate(params):
        step = 1e-6 * max(abs(value), 1e-2)
        up, down = params.copy(), params.copy()
        up[i] += step
        down[i] -= step
        numeric = (law.loss(up, AT) - law.loss(down, AT)) / (2 * step)
        scale = np.abs(law.loss(params, AT)).max() / max(abs(value), 1e-2)
        assert law.jacobian(params, AT)[:, i] == pytest.approx(numeric, rel=1e-6, abs=1e-8 * scale)


def test_batches_of_parameters_broadcast():
    law = ParallelLaw()
    batch = np.array([[0.69, 1.1e7, 0.39, 0.19], [1.3, 2e8, 0.3, 0.2]])
    assert law.loss(batch, AT).shape == (2, 4)
    assert law.jacobian(batch, AT).shape == (2, 4, 4)
    assert law.loss(batch, AT)[1] == pytest.approx(law.loss(batch[1], AT), rel=1e-15)


def test_outside_its_domain_the_law_is_nan_not_a_number_from_nowhere():
    loss = ParallelLaw().loss(np.array([0.5, 1e7, -0.6, 0.2]), AT)
    assert np.isnan(loss[2])  # 1 - 0.6 ln 8 < 0
    assert np.isfinite(loss[0])
