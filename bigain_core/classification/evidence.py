"""Where in an image, and at which frequencies, one prompt is ahead of another."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .errors import ErrorSource
from .frequencies import cosine_transform, sum_by_band
from .losses import element_losses
from .ranking import Ranking


def evidence_map(source: ErrorSource, ranking: Ranking, better: int, worse: int) -> Tensor:
    """What each element of the latent adds to the lead of `better` over `worse`: (C, ...), fp64.

    Its sum is the margin. Runs the trials that both prompts had once more.
    """
    count = _shared_trials(ranking, better, worse)
    shares = ranking.design.score(torch.eye(count, dtype=torch.float64), ranking.draws[:count])
    total = torch.zeros(source.latent.shape, dtype=torch.float64)
    for share, residuals in zip(shares, _residuals(source, ranking, better, worse), strict=True):
        losses = element_losses(residuals, source.plan.loss).cpu().double()
        total += share * (losses[1] - losses[0])
    if source.mask is not None:
        total *= source.mask.cpu().double()
    return total / source.elements


def band_differences(
    source: ErrorSource, ranking: Ranking, better: int, worse: int, bands: int
) -> Tensor:
    """What each frequency band adds to the lead in each trial: (T, bands), fp64 (paper, S.8-S.12).

    Bands are rings of the cosine transform over the last two axes of the latent, from coarse to
    fine; the sum over bands is the difference of the errors. For loss l2 without a mask.
    """
    if source.plan.loss != "l2" or source.mask is not None or source.latent.ndim < 2:
        raise ValueError(
            "BiGain: expected errors with loss l2 of whole pictures for frequency bands, got loss "
            f"{source.plan.loss} {'with' if source.mask is not None else 'without'} a mask on a "
            f"latent of shape {tuple(source.latent.shape)}. Only squared errors of all elements "
            "add up over frequencies."
        )
    rows = []
    for residuals in _residuals(source, ranking, better, worse):
        energy = cosine_transform(residuals.cpu().double()).square()
        difference = (energy[1] - energy[0]).flatten(0, -3).sum(0)  # (H, W)
        rows.append(sum_by_band(difference, bands))
    return torch.stack(rows) / source.elements


def _shared_trials(ranking: Ranking, better: int, worse: int) -> int:
    count = int(ranking.trials[[better, worse]].min())
    if not count:
        raise ValueError(
            "BiGain: expected two prompts that the deciding model has seen, got one that the "
            "screening ruled out."
        )
    return count


def _residuals(source: ErrorSource, ranking: Ranking, better: int, worse: int) -> Iterator[Tensor]:
    """Residuals (2, C, ...) of both prompts in each trial that both had."""
    for draw in ranking.draws[: _shared_trials(ranking, better, worse)]:
        yield source.residuals(draw, [better, worse])
