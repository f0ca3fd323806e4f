"""Noise levels: how much of the image and how much noise a noisy latent holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .noise import TIMESTEPS

PREDICTIONS = ("eps", "v", "x0", "flow")


@dataclass(frozen=True)
class NoiseLevel:
    """noisy = signal * clean + noise * eps; `fraction` in (0, 1) is where on the time axis."""

    timestep: int
    signal: float
    noise: float

    @property
    def fraction(self) -> float:
        return (self.timestep + 0.5) / TIMESTEPS

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio."""
        return (self.signal / self.noise) ** 2


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Signal and noise, both (1000,), of every timestep, and what the network was trained to give.

    `predicts` is one of eps, v, x0 and flow (noise - clean). `data_scale` is the sigma_data of EDM
    networks, which are v-prediction with another scale; 1 elsewhere.
    """

    signal: Tensor
    noise: Tensor
    predicts: str = "eps"
    data_scale: float = 1.0

    def __post_init__(self):
        if self.predicts not in PREDICTIONS:
            raise ValueError(
                f"BiGain: expected a network that predicts one of {PREDICTIONS}, got "
                f"{self.predicts!r}."
            )
        for name in ("signal", "noise"):
            shape = tuple(getattr(self, name).shape)
            if shape != (TIMESTEPS,):
                raise ValueError(
                    f"BiGain: expected the {name} of {TIMESTEPS} timesteps, got shape {shape}."
                )

    @classmethod
    def exploding(
        cls, sigmas: Tensor, predicts: str = "eps", data_scale: float = 1.0
    ) -> NoiseSchedule:
        """From standard deviations (1000,) of noise that is added to the whole latent."""
        sigmas = sigmas.double()
        return cls(torch.ones_like(sigmas), sigmas, predicts, data_scale)

    @classmethod
    def straight(cls) -> NoiseSchedule:
        """Of flow models, even in time and without shift: noise and signal add up to 1."""
        noise = (torch.arange(TIMESTEPS, dtype=torch.float64) + 0.5) / TIMESTEPS
        return cls(1 - noise, noise, "flow")

    def level(self, timestep: int) -> NoiseLevel:
        return NoiseLevel(timestep, self.signal[timestep].item(), self.noise[timestep].item())

    @cached_property
    def log_snr_slope(self) -> Tensor:
        """(1000,) how fast the log of the signal-to-noise ratio falls, per whole time axis."""
        log_snr = 2 * (self.signal.double().log() - self.noise.double().log())
        return -torch.gradient(log_snr)[0] * TIMESTEPS
