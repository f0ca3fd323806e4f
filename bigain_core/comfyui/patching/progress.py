"""Where in the denoising process a noise level lies."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache, partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...schedules import DenoisingProgress
from .compiled import outside_graph

BISECTIONS = 30
EDGE = 1e-6
LEVELS = 1000  # whose progress is kept: a sampling run has the same in every image

_progress_at: WeakKeyDictionary[nn.Module, Callable[[float], DenoisingProgress]] = (
    WeakKeyDictionary()
)


class NoiseLevel:
    """The noise level of a network call, sigma (B,), which lies on the device.

    To read it waits for all work there, so it is read once, and together with the first flag that
    somebody looks at.
    """

    def __init__(self, model_sampling: nn.Module, sigma: Tensor):
        self._model_sampling = model_sampling
        self._sigma = sigma.flatten()[0]
        self._progress: DenoisingProgress | None = None

    def progress(self) -> DenoisingProgress:
        if self._progress is None:
            self._read()
        return self._progress

    def confirms(self, flag: Tensor) -> bool:
        """Whether a flag () on the device is true."""
        if self._progress is None:
            return bool(self._read(flag)[0])
        with outside_graph():
            return bool(flag)

    def _read(self, *flags: Tensor) -> list[float]:
        both = torch.stack((self._sigma, *(flag.to(self._sigma) for flag in flags)))
        with outside_graph():
            sigma, *flags = both.tolist()
            self._progress = progress_at_sigma(self._model_sampling, sigma)
        return flags


def progress_at_sigma(model_sampling: nn.Module, sigma: float) -> DenoisingProgress:
    """Invert the host's `percent_to_sigma`, which exists for every kind of sampling.

    A copy on the CPU is asked, as each answer would wait for the device.
    """
    if model_sampling not in _progress_at:
        percent_to_sigma = deepcopy(model_sampling).cpu().percent_to_sigma
        _progress_at[model_sampling] = lru_cache(LEVELS)(partial(_bisected, percent_to_sigma))
    return _progress_at[model_sampling](sigma)


def _bisected(percent_to_sigma: Callable, sigma: float) -> DenoisingProgress:
    """For discrete models progress is 1 - t / 999 with t the timestep.

    Rounded so that the ends of an active range, given in decimals, are met exactly.
    """
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
