"""How much the error at each noise level counts.

With delta = predicted - true clean latent every error that a network may have been trained on is a
multiple of delta^2: ((signal / noise) delta)^2 for the noise, delta^2 / noise^2 for a flow, and so
on. The prediction type therefore enters as one number per noise level.
"""

from __future__ import annotations

from math import exp

from .levels import NoiseLevel, NoiseSchedule

WEIGHTINGS = ("native", "eps", "x0", "clark-jaini", "elbo")


def nats_weight(schedule: NoiseSchedule, level: NoiseLevel) -> float:
    """delta^2 times this, averaged over even times and summed over elements, is -log p(x) in nats.

    Up to a constant that all prompts share (I-MMSE; Kingma et al. 2021, equation 17).
    """
    return level.snr * schedule.log_snr_slope[level.timestep].item() / 2


def error_weight(weighting: str, schedule: NoiseSchedule, level: NoiseLevel) -> float:
    """Factor on delta^2 under a weighting; "native" is the squared error of what is predicted."""
    measured = schedule.predicts if weighting == "native" else weighting
    if measured == "eps":
        return level.snr
    if measured == "v":
        return level.snr + schedule.data_scale**-2
    if measured == "flow":
        return level.noise**-2
    if weighting == "clark-jaini":
        return exp(-7 * level.fraction)
    if weighting == "elbo":
        return nats_weight(schedule, level)
    return 1.0
