"""Where in an image one prompt is ahead of another."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ErrorSource
from ..results.ranking import Ranking
from ..trials.losses import element_losses
from ..trials.samplers import TrialSpec


def evidence_map(source: ErrorSource, ranking: Ranking, better: int, worse: int) -> Tensor:
    """What each element of the latent adds to the lead of `better` over `worse`: (C, ...), fp64.

    Its sum is the margin. Runs the trials that both prompts had once more.
    """
    specs = shared_trials(ranking, better, worse)
    shares = ranking.table.sampler.score(torch.eye(len(specs), dtype=torch.float64), specs)
    total = torch.zeros(source.latent.shape, dtype=torch.float64)
    for share, spec in zip(shares, specs, strict=True):
        residuals = source.residuals(spec, [better, worse])
        losses = element_losses(residuals, source.plan.loss).cpu().double()
        total += share * (losses[1] - losses[0])
    if source.mask is not None:
        total *= source.mask.cpu().double()
    return total / source.elements


def shared_trials(ranking: Ranking, better: int, worse: int) -> tuple[TrialSpec, ...]:
    """Those that both prompts had. Raises ValueError if there are none."""
    count = int(ranking.table.trials[[better, worse]].min())
    if not count:
        raise ValueError(
            "BiGain: expected two prompts that the deciding model has seen, got one that the "
            "screening ruled out."
        )
    return ranking.table.specs[:count]
