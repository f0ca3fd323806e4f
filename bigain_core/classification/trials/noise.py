"""Forward diffusion: noise schedules and the noise of a trial."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TIMESTEPS = 1000


def alphas_cumprod(schedule: str) -> Tensor:
    """Cumulative signal level of a 1000-step schedule: fp32 (1000,), computed in double precision.

    "linear": betas from 0.0001 to 0.02 (DiT); "scaled-linear": square roots of the betas linear
    from 0.00085 to 0.012 (Stable Diffusion).
    """
    if schedule == "linear":
        betas = np.linspace(1e-4, 2e-2, TIMESTEPS)
    elif schedule == "scaled-linear":
        betas = np.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS) ** 2
    else:
        raise ValueError(
            f"BiGain: expected the noise schedule 'linear' or 'scaled-linear', got {schedule!r}."
        )
    return torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)


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
