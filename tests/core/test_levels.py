"""Noise levels, and how errors of each kind of network follow from the clean latent."""

import math

import pytest
import torch

from bigain_core.classification import Curve, NoiseSchedule, TrialPlan, alphas_cumprod
from bigain_core.classification.trials.weighting import error_weight

ALPHAS = alphas_cumprod("scaled-linear")
SIGMAS = ((1 - ALPHAS.double()) / ALPHAS.double()).sqrt()
SCHEDULES = {
    "eps": NoiseSchedule.variance_preserving(ALPHAS),
    "eps, host": NoiseSchedule.exploding(SIGMAS),
    "v": NoiseSchedule.variance_preserving(ALPHAS, "v"),
    "v, host": NoiseSchedule.exploding(SIGMAS, "v"),
    "x0": NoiseSchedule.variance_preserving(ALPHAS, "x0"),
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
def test_the_native_error_is_that_of_what_the_network_predicts(randn, name, timestep):
    schedule = SCHEDULES[name]
    clean, eps, predicted = (randn(4, 8, seed=seed).double() for seed in range(3))
    level = schedule.level(timestep)
    expected = network_error(name, level, clean, eps, predicted)
    found = error_weight("native", schedule, level) * (predicted - clean).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["eps", "v", "flow"])
def test_the_noise_error_is_the_same_for_any_network(randn, name):
    schedule = SCHEDULES[name]
    clean, eps, predicted = (randn(4, 8, seed=seed).double() for seed in range(3))
    level = schedule.level(123)
    expected = network_error("eps", level, clean, eps, predicted)
    found = error_weight("eps", schedule, level) * (predicted - clean).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_other_weightings():
    schedule = SCHEDULES["eps"]
    level = schedule.level(249)
    assert error_weight("x0", schedule, level) == 1
    assert error_weight("clark-jaini", schedule, level) == pytest.approx(math.exp(-7 * 0.2495))
    halfway = Curve(((0.0, 3.0), (0.499, 1.0), (1.0, 1.0)))
    native = error_weight("native", schedule, level)
    assert error_weight(halfway, schedule, level) == pytest.approx(2 * native)


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


@pytest.mark.parametrize("points", [(), ((0.5, 1), (0.5, 2)), ((0.1, 1), (1.2, 1)), ((0.1, 0),)])
def test_a_curve_needs_rising_fractions_and_a_weight(points):
    with pytest.raises(ValueError, match="expected (points|weights)"):
        Curve(points)
    with pytest.raises(ValueError, match="weights of at least 0"):
        Curve(((0.1, 1.0), (0.2, -1.0)))
