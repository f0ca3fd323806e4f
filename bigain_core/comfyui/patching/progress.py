"""Where in the denoising process a noise level lies."""

from __future__ import annotations

from ...schedules import DenoisingProgress

BISECTIONS = 30
EDGE = 1e-6


def progress_at_sigma(model_sampling, sigma: float) -> DenoisingProgress:
    """Invert the host's `percent_to_sigma` by bisection; it exists for every kind of sampling.

    For discrete models progress is 1 - t / 999 with t the timestep. Rounded so that the ends of an
    active range, given in decimals, are met exactly.
    """
    low, high = 0.0, 1.0
    if sigma >= float(model_sampling.percent_to_sigma(EDGE)):
        return DenoisingProgress(low)
    if sigma <= float(model_sampling.percent_to_sigma(1 - EDGE)):
        return DenoisingProgress(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(model_sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return DenoisingProgress(round((low + high) / 2, 6))
