import doctest

import numpy as np
import pytest

from beit_jax.training import schedule


def test_official_values_of_the_800_epoch_run():
    # 625 steps an epoch, 10 epochs of warm-up; numbers printed by the official scheduler.
    lr = schedule.warmup_cosine(1.5e-3, 1e-5, warmup=6250, total=500_000)
    assert float(lr(0)) == 0.0
    for step, value in {1: 2.4003841e-7, 6249: 1.5e-3, 6250: 1.5e-3, 250_000: 7.698122298e-4}.items():
        np.testing.assert_allclose(lr(step), value, rtol=1e-5)
    np.testing.assert_allclose(lr(499_999), 1.0000000015e-5, rtol=1e-3)


def test_cosine_of_its_own_length_then_constant():
    lr = schedule.warmup_cosine(1.0, 0.1, warmup=0, total=100, decay=40)
    np.testing.assert_allclose([lr(0), lr(20), lr(40), lr(99)], [1.0, 0.55, 0.1, 0.1], atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_short_warm_ups_are_finite(warmup):
    lr = schedule.warmup_cosine(1.0, 0.0, warmup=warmup, total=4)
    assert np.isfinite([float(lr(step)) for step in range(5)]).all()


def test_example_of_the_docstring():
    assert doctest.testmod(schedule).failed == 0


def test_straight_line_of_the_160k_segmentation_run():
    # mmcv: the line counts from step 0; in the warm-up it is multiplied by 1 - (1 - step / 1500) * (1 - 1e-6).
    lr = schedule.warmup_linear(7e-4, 0.0, warmup=1500, total=160_000)
    for step in (0, 1, 750, 1499, 1500, 80_000, 159_999):
        line = 7e-4 * (1 - step / 160_000)
        factor = 1 - (1 - step / 1500) * (1 - 1e-6) if step < 1500 else 1.0
        np.testing.assert_allclose(lr(step), line * factor, rtol=2e-4, atol=1e-10)
