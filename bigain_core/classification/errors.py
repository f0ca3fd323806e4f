"""Errors of the prompts for one image, trial by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .elimination.trial_plan import TrialPlan
from .trials.levels import NoiseLevel, NoiseSchedule
from .trials.losses import mean_error
from .trials.noise import trial_noise
from .trials.samplers import TrialSpec
from .trials.weighting import error_weight, nats_weight

AT_ONCE = 256  # prompts, so that the answers for thousands of them are never held together


@dataclass(frozen=True, eq=False)
class Trial:
    """One noise level and one noise (C, ...), the same for all prompts."""

    level: NoiseLevel
    noise: Tensor


class Denoiser(Protocol):
    """A model behind a list of prompts."""

    schedule: NoiseSchedule

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        """Clean latents (P, C, ...), predicted from level.signal * latent + level.noise * noise."""
        ...


@dataclass(frozen=True, eq=False)
class ErrorSource:
    """A model and an image: what the errors of each trial are."""

    denoiser: Denoiser
    latent: Tensor
    labels: Sequence[str]
    plan: TrialPlan
    image: int = 0
    mask: Tensor | None = None
    model: Mapping = field(default_factory=dict)

    def trial(self, spec: TrialSpec) -> Trial:
        noise = trial_noise(tuple(self.latent.shape), self.plan.seed, self.image, spec.noise)
        level = self.denoiser.schedule.level(spec.timestep)
        return Trial(level, spec.sign * noise.to(self.latent.device))

    def residuals(self, spec: TrialSpec, prompts: Sequence[int]) -> Tensor:
        """Weighted misses of the clean latent (len(prompts), C, ...); their loss is the error."""
        trial = self.trial(spec)
        clean = self.denoiser(self.latent, trial, prompts)
        weight = error_weight(self.plan.weighting, self.denoiser.schedule, trial.level)
        return weight**0.5 * (clean.float() - self.latent.float())

    def errors(self, spec: TrialSpec, prompts: Sequence[int]) -> Tensor:
        """Errors (len(prompts),) of one trial.

        Raises ValueError if the model gives no numbers.
        """
        parts = (prompts[n : n + AT_ONCE] for n in range(0, len(prompts), AT_ONCE))
        loss, mask = self.plan.loss, self.mask
        errors = torch.cat([mean_error(self.residuals(spec, part), loss, mask) for part in parts])
        finite = errors.isfinite().tolist()
        broken = [k for k, fine in zip(prompts, finite, strict=True) if not fine]
        if broken:
            name = self.model.get("model", "the model")
            raise ValueError(
                f"BiGain: expected numbers from {name}, got NaN or infinity "
                f"for the prompt {self.labels[broken[0]]!r} at timestep {spec.timestep}. Half "
                "precision may overflow: try fp32 or bf16."
            )
        return errors

    @property
    def elements(self) -> float:
        """How many elements of the latent count."""
        if self.mask is None:
            return self.latent.numel()
        return self.mask.cpu().double().expand(self.latent.shape).sum().item()

    def nats(self, specs: Sequence[TrialSpec]) -> Tensor:
        """(T,) nats that an error of 1 stands for; not finite where errors are no squares."""
        if self.plan.loss != "l2":
            return torch.full((len(specs),), torch.nan, dtype=torch.float64)
        schedule = self.denoiser.schedule
        levels = [schedule.level(spec.timestep) for spec in specs]
        wanted = [nats_weight(schedule, level) for level in levels]
        taken = [error_weight(self.plan.weighting, schedule, level) for level in levels]
        ratio = torch.tensor(wanted, dtype=torch.float64) / torch.tensor(taken, dtype=torch.float64)
        return self.elements * ratio
