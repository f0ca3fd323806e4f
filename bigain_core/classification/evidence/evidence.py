"""Where in an image one prompt is ahead of another."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ErrorSource
from ..results.ranking import Ranking
from ..trials.losses import element_losses


def evidence_map(source: ErrorSource, ranking: Ranking, better: int, worse: int) -> Tensor:
    """What each element of the latent adds to the lead of `better` over `worse`: (C, ...), fp64.

    Its sum is the margin. Runs the trials that both prompts had once more.
    """
    count = _shared_trials(ranking, better, worse)
    shares = ranking.sampler.score(torch.eye(count, dtype=torch.float64), ranking.specs[:count])
    total = torch.zeros(source.latent.shape, dtype=torch.float64)
    for share, residuals in zip(
        shares, shared_residuals(source, ranking, better, worse), strict=True
    ):
        losses = element_losses(residuals, source.plan.loss).cpu().double()
        total += share * (losses[1] - losses[0])
    if source.mask is not None:
        total *= source.mask.cpu().double()
    return total / source.elements


def _shared_trials(ranking: Ranking, better: int, worse: int) -> int:
    count = int(ranking.trials[[better, worse]].min())
    if not count:
        raise ValueError(
            "BiGain: expected two prompts that the deciding model has seen, got one that the "
            "screening ruled out."
        )
    return count


def shared_residuals(
    source: ErrorSource, ranking: Ranking, better: int, worse: int
) -> Iterator[Tensor]:
    """Residuals (2, C, ...) of both prompts in each trial that both had."""
    for spec in ranking.specs[: _shared_trials(ranking, better, worse)]:
        yield source.residuals(spec, [better, worse])
