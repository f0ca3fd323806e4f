"""The Frechet distance against closed forms and scipy, and its intervals against repetition."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from benchmarks.paper.frechet import Gaussian, distance, frechet_distance


def apart(one, other):
    return frechet_distance(one, one.root, other)


def gaussian(mean, covariance):
    return Gaussian(*(torch.as_tensor(v, dtype=torch.float64) for v in (mean, covariance)))


def test_along_one_axis_it_is_the_difference_of_means_and_deviations():
    assert apart(gaussian([1.0], [[4.0]]), gaussian([4.0], [[25.0]])) == pytest.approx(9 + 9)


def test_independent_axes_add_up():
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    shift = torch.tensor([0.0, 1.0, -2.0])
    found = apart(
        gaussian(0 * shift, first.square().diag()), gaussian(shift, second.square().diag())
    )
    assert found == pytest.approx((shift.square() + (first - second).square()).sum().item())


def test_general_covariances_agree_with_the_matrix_root_of_scipy(randn):
    for seed in range(5):
        features = [
            randn(40, 6, seed=2 * seed + k).double() @ randn(6, 6, seed=k).double() for k in (0, 1)
        ]
        one, other = (Gaussian.of(f) for f in features)
        first, second = (np.cov(f.numpy().T) for f in features)
        means = [f.numpy().mean(0) for f in features]
        root = sqrtm(first @ second).real
        expected = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * root)
        assert apart(one, other) == pytest.approx(expected, rel=1e-8)


def test_fewer_samples_than_features_leave_it_finite_and_zero_to_themselves(randn):
    few = randn(5, 12)
    assert apart(Gaussian.of(few), Gaussian.of(few)) == pytest.approx(0, abs=1e-5)


def test_the_interval_is_as_wide_as_repetitions_scatter(randn):
    real = randn(4000, 4, seed=99)
    generated = [randn(200, 4, seed=seed) * 1.5 + 0.5 for seed in range(60)]
    values = torch.tensor([distance(real, p).value for p in generated])
    reaches = torch.tensor([distance(real, p).adapter for p in generated[:5]])
    assert reaches.mean().item() / 1.96 == pytest.approx(values.std().item(), rel=0.35)


def test_the_difference_to_the_same_samples_is_nothing_and_to_like_ones_is_narrow(randn):
    real, generated = randn(1000, 4, seed=9), randn(150, 4) + 0.3
    same = distance(real, generated, generated)
    assert (same.difference, same.difference_reach) == (0.0, 0.0)
    near = distance(real, generated, generated + 0.05 * randn(150, 4, seed=5))
    assert 0 < near.difference_reach < near.adapter / 2
    other = distance(real, generated, generated + 1.0)
    assert other.difference < -other.difference_reach
