"""Which of several images a prompt describes best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...text import csv_table
from ..classifier import Denoiser, classify
from ..elimination.trial_plan import TrialPlan
from ..results.fit import TRIALS, probability_of_fit
from ..trials.samplers import TrialSampler, TrialSpec

PROMPT, EMPTY = 0, 1
COLUMNS = ("rank", "image", "score", "behind_best", "standard_error", "fits")


@dataclass(frozen=True, eq=False)
class ImageRanking:
    """gains (N, T): by how much the prompt lowers the error of each image in each trial.

    An image that is easy to denoise has small errors under any prompt; what counts is the error
    under the prompt against that under an empty one (Krojer et al. 2023).
    """

    gains: Tensor
    specs: tuple[TrialSpec, ...]
    sampler: TrialSampler

    @property
    def scores(self) -> Tensor:
        """(N,) mean gain; the best image has the largest."""
        return self.sampler.score(self.gains, self.specs)

    @property
    def fits(self) -> Tensor:
        """(N,) the probability that the prompt describes each image at all; NaN after too few
        trials. All are on the spread-out grid."""
        if len(self.specs) < TRIALS:
            return torch.full((len(self.gains),), torch.nan)
        return probability_of_fit(self.gains[:, :TRIALS])

    @property
    def order(self) -> list[int]:
        """Images best first; equal ones stay in order."""
        return self.scores.argsort(descending=True, stable=True).tolist()

    def behind_best(self) -> tuple[Tensor, Tensor]:
        """(N,) by how much each image is behind the best, and the standard errors."""
        behind = self.gains[self.order[0]] - self.gains
        if len(self.specs) < 2:
            return self.sampler.score(behind, self.specs), torch.full((len(behind),), torch.nan)
        variance = self.sampler.variance(behind, self.specs)
        return self.sampler.score(behind, self.specs), variance.sqrt()

    def table(self) -> str:
        """CSV with a row per image, best first."""
        found = torch.stack([self.scores, *self.behind_best(), self.fits], 1).tolist()
        rows = (
            [rank, image, *(f"{value:.4g}" for value in found[image])]
            for rank, image in enumerate(self.order, 1)
        )
        return csv_table(COLUMNS, rows)


def rank_images(
    denoiser: Denoiser, latents: Tensor, plan: TrialPlan, model: Mapping | None = None
) -> ImageRanking:
    """Rank latents (N, C, ...) for prompt 0 of the denoiser, whose prompt 1 is empty.

    All images see the same noise at the same timesteps, so what they have in common with it falls
    out of their differences. `plan` has one stage: nothing is dropped. `model` tells it apart.
    """
    labels = ("prompt", "empty prompt")
    found = [classify(denoiser, latent[None], labels, plan, model=model) for latent in latents]
    tables = [result.rankings[0].table for result in found]
    gains = torch.stack([table.errors[EMPTY] - table.errors[PROMPT] for table in tables])
    return ImageRanking(gains, tables[0].specs, plan.sampler)
