"""Whether a prompt fits an image at all, which no ranking says: its best may be the least bad."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..trials.samplers import TrialSpec
from ..trials.timesteps import spread_timesteps

TRIALS = 12  # of the spread-out grid, wherever a probability is taken
# Of a logistic curve over the lead over no prompt in standard errors, for so many trials, counted
# from what a wrong prompt has in the median. Learned from held-out drawings and an earlier bundled
# model, and tested on today's by `python -m benchmarks.judge fits`; no curve holds for every model.
# See docs/classification.md.
OFFSET, SLOPE = -2.7, 0.85
WRONG = -3.7
FITS = 0.5


@dataclass(frozen=True)
class LeadOverNoPrompt:
    """How far the best prompt is ahead of no prompt at all, over TRIALS trials.

    `bits` are the evidence for it, NaN where errors are no squares. `fits` is the probability that
    it describes the image, `calls` how many evaluations all that took.
    """

    margin: float
    standard_error: float
    bits: float
    fits: float
    calls: int


def fit_trials() -> list[TrialSpec]:
    """The trials in which prompts are compared with none."""
    return [TrialSpec(*spread) for spread in spread_timesteps()[:TRIALS]]


def leads(gains: Tensor) -> Tensor:
    """Leads over no prompt in standard errors (...), by the gain in each trial (..., TRIALS).

    The ordinary standard error: one that allows for even trials is smaller, and scatters more.
    Gains that are all 0 are no lead.
    """
    return (gains.mean(-1) / standard_error(gains)).nan_to_num(0.0)


def standard_error(gains: Tensor) -> Tensor:
    return (gains.var(-1) / gains.shape[-1]).sqrt()


def probability_of_fit(gains: Tensor) -> Tensor:
    """(...) that prompts describe an image, by how much they lower the error (..., TRIALS)."""
    return probability(leads(gains) - WRONG)


def ahead_of_others(leads: Tensor) -> Tensor:
    """By how much each of several leads (P,) is above what a wrong prompt has.

    That differs between models, so it is taken from the image itself, where most prompts are wrong:
    the median of the other leads and WRONG, the lower one where two are in the middle.
    """
    known = leads.new_tensor([WRONG])
    wrong = [torch.cat([leads[:k], leads[k + 1 :], known]).median() for k in range(len(leads))]
    return leads - torch.stack(wrong)


def probability(ahead: Tensor) -> Tensor:
    """(...) that prompts describe an image which are so far ahead of a wrong one."""
    return torch.sigmoid(OFFSET + SLOPE * ahead)
