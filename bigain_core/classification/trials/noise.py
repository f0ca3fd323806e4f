"""The noise of a trial, and a number that is as random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TIMESTEPS = 1000


def trial_noise(shape: tuple[int, ...], seed: int, image: int, trial: int) -> Tensor:
    """Standard normal noise, fp32 on the CPU, of one trial of one image.

    It depends on (seed, image, trial) and the shape alone: neither the batch split nor the order of
    evaluation nor the global random state plays a part.
    """
    key = np.random.SeedSequence([seed, image, trial]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(key >> np.uint64(1)))
    return torch.randn(shape, generator=generator)


def trial_position(seed: int, image: int, trial: int) -> float:
    """A number in [0, 1), even over trials; like the noise of the trial, but independent of it."""
    key = np.random.SeedSequence([seed, image, trial, 1]).generate_state(1, np.uint64)[0]
    return float(key >> np.uint64(11)) / 2**53
