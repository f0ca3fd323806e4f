"""Noise schedules and the noise of a trial."""

import math

import numpy as np
import pytest
import torch

from benchmarks.noise_schedules import alphas_cumprod
from bigain_core.classification import trial_noise


@pytest.mark.parametrize(
    ("schedule", "beta"),
    [
        ("linear", lambda t: 1e-4 + (2e-2 - 1e-4) * t / 999),
        (
            "scaled-linear",
            lambda t: (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * t / 999) ** 2,
        ),
    ],
)
def test_signal_level_is_the_product_of_one_minus_beta(schedule, beta):
    levels, expected = alphas_cumprod(schedule), []
    for t in range(1000):
        expected.append((expected[-1] if expected else 1.0) * (1 - beta(t)))
    assert levels.dtype == torch.float32 and levels.shape == (1000,)
    torch.testing.assert_close(levels, torch.tensor(expected), atol=0, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "timestep", "variance"),
    [("scaled-linear", 5, 0.005160), ("scaled-linear", 25, 0.023394), ("linear", 5, 0.000898)],
)
def test_known_noise_levels(schedule, timestep, variance):
    assert 1 - alphas_cumprod(schedule)[timestep].item() == pytest.approx(variance, abs=6e-7)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'scaled-linear', got 'cosine'"):
        alphas_cumprod("cosine")


def test_noise_repeats_and_ignores_the_global_random_state():
    torch.manual_seed(0)
    first = trial_noise((4, 8, 8), seed=1, image=2, trial=3)
    torch.manual_seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert torch.equal(trial_noise((4, 8, 8), 1, 2, 3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_seed_image_and_trial_each_give_other_noise():
    keys = [(s, i, t) for s in (0, 1, 2**63) for i in (0, 1, 5000) for t in (0, 1, 99)]
    drawn = {key: trial_noise((16,), *key).tolist() for key in keys}
    assert len({tuple(values) for values in drawn.values()}) == len(keys)


def test_noise_is_standard_normal_and_unrelated_between_trials():
    noise = torch.stack([trial_noise((50_000,), 0, 0, trial) for trial in range(4)])
    assert noise.dtype == torch.float32
    assert noise.mean(1).abs().max() < 0.02  # over four standard errors
    assert (noise.std(1) - 1).abs().max() < 0.02
    assert (torch.corrcoef(noise) - torch.eye(4)).abs().max() < 0.02
    below_one = (noise < 1).float().mean()
    assert below_one == pytest.approx(0.5 * (1 + math.erf(math.sqrt(0.5))), abs=0.005)
