"""How much the error at each noise level counts.

With delta = predicted - true clean latent every error that a network may have been trained on is a
multiple of delta^2: ((signal / noise) delta)^2 for the noise, delta^2 / noise^2 for a flow, and so
on. The prediction type therefore enters as one number per noise level.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np

from .levels import NoiseLevel, NoiseSchedule

WEIGHTINGS = ("native", "eps", "x0", "clark-jaini", "elbo")


@dataclass(frozen=True)
class Curve:
    """The native weight times a curve through points (fraction of the time axis, factor)."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self):
        places = [place for place, _ in self.points]
        rising = all(a < b for a, b in zip(places, places[1:], strict=False))
        if not places or not rising or places[0] < 0 or places[-1] > 1:
            raise ValueError(
                "BiGain: expected points (fraction, weight) with rising fractions between 0 and "
                f"1, got {list(self.points)}."
            )
        if min(weight for _, weight in self.points) < 0 or not any(w for _, w in self.points):
            raise ValueError(
                "BiGain: expected weights of at least 0, some of them above, got "
                f"{list(self.points)}."
            )

    def at(self, fraction: float) -> float:
        places, weights = zip(*self.points, strict=True)
        return float(np.interp(fraction, places, weights))


Weighting = str | Curve


def check_weighting(weighting: Weighting) -> None:
    if not isinstance(weighting, Curve) and weighting not in WEIGHTINGS:
        raise ValueError(
            f"BiGain: expected a weighting of {WEIGHTINGS} or a Curve, got {weighting!r}."
        )


def native_weight(schedule: NoiseSchedule, level: NoiseLevel) -> float:
    """delta^2 times this is the squared error of what the network predicts."""
    if schedule.predicts == "eps":
        return level.snr
    if schedule.predicts == "v":
        return level.snr + schedule.data_scale**-2
    if schedule.predicts == "flow":
        return level.noise**-2
    return 1.0


def nats_weight(schedule: NoiseSchedule, level: NoiseLevel) -> float:
    """delta^2 times this, averaged over even times and summed over elements, is -log p(x) in nats.

    Up to a constant that all prompts share (I-MMSE; Kingma et al. 2021, equation 17).
    """
    return level.snr * schedule.log_snr_slope[level.timestep].item() / 2


def error_weight(weighting: Weighting, schedule: NoiseSchedule, level: NoiseLevel) -> float:
    """Factor on delta^2 under a weighting."""
    if isinstance(weighting, Curve):
        return native_weight(schedule, level) * weighting.at(level.fraction)
    if weighting == "native":
        return native_weight(schedule, level)
    if weighting == "eps":
        return level.snr
    if weighting == "clark-jaini":
        return exp(-7 * level.fraction)
    if weighting == "elbo":
        return nats_weight(schedule, level)
    return 1.0
