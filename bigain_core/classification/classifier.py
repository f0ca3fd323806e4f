"""Adaptive paired diffusion classifier (paper, Algorithm 1, in the form of the published code)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .noise import trial_noise
from .ranking import Classification, Ranking
from .trials import TrialPlan, trial_timesteps

# (latent (C, ...), timestep, noise (C, ...), prompt indices) -> residuals (P, C, ...): predicted
# minus true noise, in fp32.
Denoiser = Callable[[Tensor, int, Tensor, Sequence[int]], Tensor]


def mean_error(residuals: Tensor, loss: str) -> Tensor:
    """Mean loss of residuals (P, ...) over everything but P, in fp32: (P,)."""
    residuals = residuals.float().flatten(1)
    if loss == "l2":
        return residuals.square().mean(1)
    if loss == "l1":
        return residuals.abs().mean(1)
    return functional.huber_loss(
        residuals, torch.zeros_like(residuals), reduction="none", delta=1.0
    ).mean(1)


@torch.no_grad()
def classify(
    denoiser: Denoiser,
    latents: Tensor,
    prompts: Sequence[str],
    plan: TrialPlan,
    first_image: int = 0,
) -> Classification:
    """Rank `prompts` (labels) for each latent of (B, C, ...) by how well they predict its noise.

    In every trial all surviving prompts see the same timestep and noise. The noise depends on
    (plan.seed, image number, trial) alone; images are numbered from `first_image`, so a long set
    may be split into batches without changing a result.

    Raises ValueError for no prompts, empty or duplicate labels, or a plan that does not fit.
    """
    check_labels(prompts)
    rankings = tuple(
        _rank(denoiser, latent, len(prompts), plan, first_image + number)
        for number, latent in enumerate(latents)
    )
    return Classification(tuple(prompts), rankings)


def check_labels(labels: Sequence[str]) -> None:
    """Raise ValueError unless there is at least one label and all are different and not empty."""
    if not labels:
        raise ValueError(
            "BiGain: expected at least one prompt, got none. Write one label per line."
        )
    empty = [number for number, label in enumerate(labels, 1) if not label.strip()]
    if empty:
        raise ValueError(
            f"BiGain: expected a label on every line, got an empty one on line {empty[0]} of "
            f"{len(labels)}. Remove the line or fill it in."
        )
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise ValueError(
            f"BiGain: expected different labels, got {repeated[0]!r} more than once. Equal prompts "
            "cannot be told apart; remove one or make it more specific."
        )


def _rank(denoiser: Denoiser, latent: Tensor, count: int, plan: TrialPlan, image: int) -> Ranking:
    timesteps = plan.timesteps
    errors = torch.full((count, len(timesteps)), torch.nan)
    survived = torch.zeros(count, dtype=torch.long)
    alive = list(range(count))
    trial = 0
    for stage, keep in zip(trial_timesteps(plan.trials), plan.kept(count), strict=True):
        for timestep in stage:
            noise = trial_noise(tuple(latent.shape), plan.seed, image, trial).to(latent.device)
            residuals = denoiser(latent, timestep, noise, alive)
            errors[alive, trial] = mean_error(residuals, plan.loss).cpu()
            trial += 1
        means = errors[alive, :trial].mean(1)
        alive = sorted(alive[i] for i in means.argsort(stable=True)[:keep].tolist())
        survived[alive] += 1
    return Ranking(errors, survived, torch.tensor(timesteps))
