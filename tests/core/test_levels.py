"""Noise levels, and how errors of each kind of network follow from the clean latent."""

import math

import pytest
import torch

from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from bigain_core.classification import NoiseSchedule, TrialPlan
from bigain_core.classification.trials.weighting import error_weight

ALPHAS = alphas_cumprod("scaled-linear")
SIGMAS = ((1 - ALPHAS.double()) / ALPHAS.double()).sqrt()
SCHEDULES = {
    "eps": variance_preserving(ALPHAS),
    "eps, host": NoiseSchedule.exploding(SIGMAS),
    "v": variance_preserving(ALPHAS, "v"),
    "v, host": NoiseSchedule.exploding(SIGMAS, "v"),
    "x0": variance_preserving(ALPHAS, "x0"),
    "flow": NoiseSchedule.straight(),
    "edm": NoiseSchedule.exploding(SIGMAS, "v", data_scale=0.5),
}


def network_error(name, level, clean, eps, predicted):
    """Squared error of what a network of this kind gives, when it means `predicted` (clean)."""
    noisy = level.signal * clean + level.noise * eps
    scale = math.hypot(level.signal, level.noise)
    a, b = level.signal / scale, level.noise / scale

    def output(clean):
        meant = (noisy - level.signal * clean) / level.noise
        if name == "edm":  # Karras et al. 2022, table 1: clean = skip * noisy + out * network
            spread = level.noise**2 + 0.25
            return (clean - 0.25 / spread * noisy) / (level.noise * 0.5 / spread**0.5)
        if name.startswith("v"):
            return a * meant - b * clean
        return {"x0": clean, "flow": meant - clean}.get(name, meant)

    return (output(predicted) - output(clean)).square().mean().item()


@pytest.mark.parametrize("timestep", [3, 400, 990])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("weighting", ["native", "eps"])
def test_the_error_is_that_of_what_the_network_predicts_or_of_noise(
    randn, weighting, name, timestep
):
    """By its own prediction, or by the noise, which is the same for any network."""
    schedule = SCHEDULES[name]
    clean, eps, predicted = (randn(4, 8, seed=seed).double() for seed in range(3))
    level = schedule.level(timestep)
    kind = name if weighting == "native" else "eps"
    expected = network_error(kind, level, clean, eps, predicted)
    found = error_weight(weighting, schedule, level) * (predicted - clean).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_other_weightings():
    schedule = SCHEDULES["eps"]
    level = schedule.level(249)
    assert error_weight("x0", schedule, level) == 1
    assert error_weight("clark-jaini", schedule, level) == pytest.approx(math.exp(-7 * 0.2495))


def test_both_forms_of_a_schedule_agree():
    for name in ("eps", "v"):
        ours, host = SCHEDULES[name], SCHEDULES[f"{name}, host"]
        for timestep in (0, 500, 999):
            levels = ours.level(timestep), host.level(timestep)
            assert levels[0].snr == pytest.approx(levels[1].snr)
        torch.testing.assert_close(ours.log_snr_slope, host.log_snr_slope)


def test_the_slope_of_an_even_schedule_is_its_range():
    log_snr = torch.linspace(18, -18, 1000, dtype=torch.float64)
    schedule = NoiseSchedule.exploding((-log_snr / 2).exp())
    expected = torch.full((1000,), 36 * 1000 / 999, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr_slope, expected)


def test_flow_levels_are_the_middles_of_a_thousand_bins():
    schedule = NoiseSchedule.straight()
    assert schedule.level(0).noise == 0.0005 and schedule.level(999).noise == 0.9995
    level = schedule.level(300)
    assert level.signal + level.noise == 1 and level.fraction == level.noise


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one of .* got 'score'"):
        NoiseSchedule.exploding(SIGMAS, "score")
    with pytest.raises(ValueError, match=r"1000 timesteps, got shape \(5,\)"):
        NoiseSchedule.exploding(SIGMAS[:5])
    with pytest.raises(ValueError, match="expected a weighting of .*'elbo'.* got 'snr'"):
        TrialPlan(weighting="snr")
