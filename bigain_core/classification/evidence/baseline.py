"""Prompts against no prompt at all: whether one describes an image, or only less badly."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from ..errors import ErrorSource
from ..results.fit import (
    TRIALS,
    LeadOverNoPrompt,
    ahead_of_others,
    fit_trials,
    leads,
    probability,
    probability_of_fit,
    standard_error,
)
from ..results.ranking import Ranking
from ..trials.samplers import SpreadGrid, TrialSampler, TrialSpec

MAX_CALLS = 2 * TRIALS  # for the best prompt of an image


def lead_over_no_prompt(
    source: ErrorSource, ranking: Ranking, empty: int
) -> LeadOverNoPrompt | None:
    """How far the best prompt is ahead of prompt number `empty` of the denoiser, which says
    nothing. `source.labels` name that prompt as well.

    Trials that the best prompt had are not run again.
    None where the budget leaves too few evaluations, or limits the time.
    """
    table, budget, specs = ranking.table, source.plan.budget, fit_trials()
    had = table.specs[: int(table.trials[ranking.best])]
    known = {spec: table.errors[ranking.best, n].item() for n, spec in enumerate(had)}
    calls = TRIALS + sum(spec not in known for spec in specs)
    too_few = budget.calls is not None and budget.calls - ranking.spent < calls
    if too_few or budget.seconds is not None:
        return None
    pairs = [
        [known[spec], *source.errors(spec, [empty]).tolist()]
        if spec in known
        else source.errors(spec, [ranking.best, empty]).tolist()
        for spec in specs
    ]
    best, errors = torch.tensor(pairs, dtype=torch.float64).T
    gains = errors - best
    return LeadOverNoPrompt(
        gains.mean().item(),
        standard_error(gains).item(),
        evidence_bits(gains, source.nats(specs), specs, SpreadGrid()),
        probability_of_fit(gains).item(),
        calls,
    )


def probabilities_of_fit(source: ErrorSource, tags: Sequence[str]) -> dict[str, float]:
    """Of each tag, that it describes the image, judged by the best of its prompts.

    `tags` says what each prompt of the denoiser stands for; the prompt after them says nothing.
    Takes TRIALS evaluations of each and of that one.
    """
    rows = [source.errors(spec, range(len(tags) + 1)).double().cpu() for spec in fit_trials()]
    errors = torch.stack(rows, 1)  # (P + 1, TRIALS)
    best: dict[str, float] = {}
    for tag, lead in zip(tags, leads(errors[-1] - errors[:-1]).tolist(), strict=True):
        best[tag] = max(lead, best.get(tag, lead))
    found = probability(ahead_of_others(torch.tensor(list(best.values()), dtype=torch.float64)))
    return dict(zip(best, found.tolist(), strict=True))


def evidence_bits(
    lead: Tensor, nats: Tensor, specs: Sequence[TrialSpec], sampler: TrialSampler
) -> float:
    """How much likelier the model finds an image under a prompt than under another, log2.

    lead (T,) is by how much the error of the prompt is smaller in each of the trials `specs`,
    `nats` (T,) what an error of 1 stands for there (`ErrorSource.nats`; I-MMSE).
    """
    return sampler.score(lead.double() * nats, specs).item() / log(2)
