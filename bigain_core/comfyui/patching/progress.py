"""Where in the denoising process a noise level lies."""

from __future__ import annotations

from copy import deepcopy
from weakref import WeakKeyDictionary

from torch import nn

from ...schedules import DenoisingProgress

BISECTIONS = 30
EDGE = 1e-6

_on_cpu: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def progress_at_sigma(model_sampling: nn.Module, sigma: float) -> DenoisingProgress:
    """Invert the host's `percent_to_sigma` by bisection; it exists for every kind of sampling.

    For discrete models progress is 1 - t / 999 with t the timestep. Rounded so that the ends of an
    active range, given in decimals, are met exactly. A copy on the CPU is asked, as each answer
    would wait for the device.
    """
    if model_sampling not in _on_cpu:
        _on_cpu[model_sampling] = deepcopy(model_sampling).cpu()
    percent_to_sigma = _on_cpu[model_sampling].percent_to_sigma
    low, high = 0.0, 1.0
    if sigma >= float(percent_to_sigma(EDGE)):
        return DenoisingProgress(low)
    if sigma <= float(percent_to_sigma(1 - EDGE)):
        return DenoisingProgress(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return DenoisingProgress(round((low + high) / 2, 6))
