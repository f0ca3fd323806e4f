"""What is varied beside the methods: whose plan, whose draws, whose noise, which timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bigain_core.classification import Denoiser, PublishedGrid, Trial, trial_noise
from bigain_core.methods import Method, TokenMerging
from bigain_core.methods.base import random_bits
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations, match_tokens
from bigain_core.tokens.plans import Plan


@dataclass(frozen=True)
class SharedPlan(Method):
    """`method`, but one plan for all prompts of a call, made from the mean of their metrics."""

    method: Method

    @property
    def name(self) -> str:
        return f"{self.method.name}, one plan for all prompts"

    @property
    def is_identity(self) -> bool:
        return self.method.is_identity

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_id: int
    ) -> Plan:
        mean = metric.mean(0, keepdim=True).expand_as(metric)
        return self.method.plan(mean, grid, progress, layer_id)

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        return self.method.decision_flops(width, grid)


@dataclass(frozen=True)
class OwnDraws(TokenMerging):
    """ToMe whose random destinations are drawn for each row of a call, and so for each prompt.

    The published code draws anew for every batch of prompts. Where prompts are equal to the last
    bit, as before the first cross-attention of a UNet, they are decided once all the same.
    """

    destinations: str = "random"

    @property
    def name(self) -> str:
        return f"{super().name}, own draw for each prompt"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_id: int
    ) -> Plan:
        count = metric.shape[0] * grid.tokens
        scores = random_bits(count, self.seed, progress, layer_id, metric.device)
        chosen = choose_destinations(scores.view(-1, grid.tokens), grid, self.cell)  # the lowest
        return match_tokens(metric, chosen, self.ratio)


@dataclass
class OwnNoise:
    """A denoiser that shows each prompt noise of its own, where the paper shares it."""

    denoiser: Denoiser

    def __post_init__(self):
        self.schedule = self.denoiser.schedule

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        trials = (replace(trial, noise=_noise_of(trial.noise, k)) for k in prompts)
        rows = [self.denoiser(latent, t, [k]) for k, t in zip(prompts, trials, strict=True)]
        return torch.cat(rows)


def _noise_of(noise: Tensor, prompt: int) -> Tensor:
    """Fresh noise for a prompt that depends on the trial, told by its shared noise, and on it."""
    trial = int(noise.flatten()[0].float().cpu().view(torch.int32)) % 2**32
    return trial_noise(noise.shape, trial, prompt, 0).to(noise)


@dataclass(frozen=True)
class FixedTimes(PublishedGrid):
    """Trials at given timesteps, one after the other."""

    times: tuple[int, ...] = ()

    def elimination_steps(self, trials: tuple[int, ...]) -> tuple[int, ...]:
        return trials

    def timesteps(self, trials: tuple[int, ...]) -> list[int]:
        return list(self.times[: trials[-1]])
