"""Noise schedules of published networks, for those that run without the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bigain_core.classification import NoiseSchedule, Trial
from bigain_core.classification.trials.noise import TIMESTEPS


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


def variance_preserving(alphas: Tensor, predicts: str = "eps") -> NoiseSchedule:
    """From cumulative signal levels (1000,): signal^2 + noise^2 = 1."""
    alphas = alphas.double()
    return NoiseSchedule(alphas.sqrt(), (1 - alphas).sqrt(), predicts)


def noised(latent: Tensor, trial: Trial) -> Tensor:
    """The latent with the noise of a trial."""
    return trial.level.signal * latent + trial.level.noise * trial.noise
