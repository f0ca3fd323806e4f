"""Whether the best prompt describes an image at all, or only less badly than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log

import torch
from torch import Tensor

from ..errors import ErrorSource
from ..results.ranking import Ranking
from ..results.trial_table import Lead, TrialTable
from ..trials.samplers import TrialSampler, TrialSpec

BASELINE_TRIALS = 20  # at most, of those that the best prompt had: one evaluation each


@dataclass(frozen=True)
class LeadOverNoPrompt(Lead):
    """`bits` are the evidence for the prompt: NaN where errors are no squares."""

    bits: float


def lead_over_no_prompt(
    source: ErrorSource, ranking: Ranking, empty: int
) -> LeadOverNoPrompt | None:
    """How far the best prompt is ahead of prompt number `empty` of the denoiser, which says
    nothing, over the first trials of the best one. `source.labels` name that prompt as well.

    None where the budget leaves no two evaluations, or limits the time.
    """
    table, budget = ranking.table, source.plan.budget
    count = min(int(table.trials[ranking.best]), BASELINE_TRIALS)
    if budget.calls is not None:
        count = min(count, int(budget.calls - ranking.spent))
    if count < 2 or budget.seconds is not None:
        return None
    specs = table.specs[:count]
    errors = torch.cat([source.errors(spec, [empty]).double().cpu() for spec in specs])
    best = table.errors[ranking.best, :count]
    lead = TrialTable(torch.stack([best, errors]), specs, table.sampler).leads(0, [1], count)[0]
    bits = evidence_bits(errors - best, source.nats(specs), specs, table.sampler)
    return LeadOverNoPrompt(**asdict(lead), bits=bits)


def evidence_bits(
    lead: Tensor, nats: Tensor, specs: Sequence[TrialSpec], sampler: TrialSampler
) -> float:
    """How much likelier the model finds an image under a prompt than under another, log2.

    lead (T,) is by how much the error of the prompt is smaller in each of the trials `specs`,
    `nats` (T,) what an error of 1 stands for there (`ErrorSource.nats`; I-MMSE).
    """
    return sampler.score(lead.double() * nats, specs).item() / log(2)
