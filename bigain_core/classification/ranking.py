"""What a classification found."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """Result for one image over P prompts and T trials.

    errors (P, T) is fp32 and NaN where a prompt was out already; stage (P,) counts the stages that
    a prompt survived; timesteps (T,) are in the order of evaluation.
    """

    errors: Tensor
    stage: Tensor
    timesteps: Tensor

    @property
    def mean_errors(self) -> Tensor:
        """(P,) mean over the trials that each prompt had."""
        return self.errors.nanmean(1)

    @property
    def order(self) -> list[int]:
        """Prompts best first: those that survived longest, by mean error among equals.

        Means over different sets of trials are never compared with each other.
        """
        means, stages = self.mean_errors.tolist(), self.stage.tolist()
        return sorted(range(len(means)), key=lambda k: (-stages[k], means[k]))

    @property
    def best(self) -> int:
        return self.order[0]

    @property
    def margin(self) -> float:
        """Mean error of the runner-up minus that of the best over trials both had; 0 if alone."""
        if len(self.errors) == 1:
            return 0.0
        best, second = self.order[:2]
        return (self.errors[second] - self.errors[best]).nanmean().item()

    @property
    def calls(self) -> int:
        return int(torch.isfinite(self.errors).sum())


@dataclass(frozen=True)
class Classification:
    """Rankings of a batch of images for the same labels."""

    labels: tuple[str, ...]
    rankings: tuple[Ranking, ...]

    @property
    def best(self) -> list[int]:
        return [ranking.best for ranking in self.rankings]

    @property
    def calls(self) -> int:
        return sum(ranking.calls for ranking in self.rankings)

    def table(self) -> str:
        """CSV with one row per image and prompt, best first."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "rank", "label", "mean_error", "trials", "stages_survived"])
        for image, ranking in enumerate(self.rankings):
            means = ranking.mean_errors
            trials = torch.isfinite(ranking.errors).sum(1)
            for rank, prompt in enumerate(ranking.order):
                writer.writerow(
                    [
                        image,
                        rank + 1,
                        self.labels[prompt],
                        f"{means[prompt].item():.7g}",
                        trials[prompt].item(),
                        ranking.stage[prompt].item(),
                    ]
                )
        return text.getvalue()
