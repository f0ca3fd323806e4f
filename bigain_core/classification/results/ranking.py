"""What a classification found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import nan

from torch import Tensor

from ..elimination.trial_plan import TrialPlan
from .fit import FITS, LeadOverNoPrompt
from .trial_table import Lead, TrialTable

RANKINGS = ("paired", "stage", "paper_code", "raw")


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where a ranking comes from: `digest` tells images apart and `model` models.

    `screening` is what a cheaper model found for all prompts, `cost` what one of its evaluations
    costs, in ours.
    """

    digest: str = ""
    model: Mapping = field(default_factory=dict)
    screening: Ranking | None = None
    cost: float = 1.0


@dataclass(frozen=True, eq=False)
class Ranking:
    """Result for one image over P prompts.

    `stage` (P,) counts the elimination steps that a prompt survived. Prompts that a screening
    ruled out have no trials in `table`. `planned` is how many trials there could have been.
    `over_no_prompt` is how far the best is ahead of the model without a prompt, where that was run.
    """

    table: TrialTable
    stage: Tensor
    planned: int = 0
    provenance: Provenance = Provenance()
    over_no_prompt: LeadOverNoPrompt | None = None

    @property
    def screening(self) -> Ranking | None:
        return self.provenance.screening

    def ranked(self, kind: str = "paired") -> list[int]:
        """Prompts best first, by one of RANKINGS; those that were screened out come last.

        paired: by errors less those of the survivors over the same trials. stage: those that
        survived longest, by mean error among equals. paper_code: the winner, then all others by
        mean error. raw: all by mean error; the paper's (S.17). The last two compare means over
        different timesteps, which do not compare.
        """
        if kind not in RANKINGS:
            raise ValueError(f"BiGain: expected a ranking of {RANKINGS}, got {kind!r}.")
        table = self.table
        values = (table.centred(table.errors) if kind == "paired" else table.mean_errors).tolist()
        first = self.best if kind == "paper_code" else None
        stages = self.stage.tolist() if kind == "stage" else [0] * len(values)
        entered = [k for k, trials in enumerate(table.trials.tolist()) if trials]
        entered.sort(key=lambda k: (k != first, -stages[k], values[k]))
        if self.screening is None:
            return entered
        known = set(entered)
        return entered + [k for k in self.screening.ranked(kind) if k not in known]

    @cached_property
    def order(self) -> list[int]:
        """Prompts best first; means over different sets of trials are not compared."""
        return self.ranked("stage")

    @property
    def best(self) -> int:
        return self.order[0]

    def lead(self, better: int, worse: int) -> Lead:
        """How far `better` is ahead of `worse`."""
        return self.leads(better, [worse])[0]

    def leads(self, better: int, others: Sequence[int]) -> list[Lead]:
        """How far `better` is ahead of each of `others`, over the trials that both had."""
        trials, groups = self.table.trials.tolist(), {}
        for k in others:
            groups.setdefault(min(trials[k], trials[better]), []).append(k)
        found: dict[int, Lead] = {}
        for count, group in groups.items():
            if not count and self.screening is not None:
                leads = self.screening.leads(better, group)
            else:
                leads = self.table.leads(better, group, count)
            found.update(zip(group, leads, strict=True))
        return [found[k] for k in others]

    @property
    def best_lead(self) -> Lead | None:
        """The best against the runner-up; None if it is alone."""
        order = self.order
        return self.lead(*order[:2]) if len(order) > 1 else None

    @property
    def margin(self) -> float:
        """Mean error of the runner-up minus that of the best over trials both had; 0 if alone."""
        lead = self.best_lead
        return lead.margin if lead else 0.0

    @property
    def confidence(self) -> float:
        """How sure it is that more trials would not change the winner: 1 - sum of P(other better).

        Student's t for each other prompt, which is judged as one of the crowd where there are many
        (`shrunken_tail`). A model of the errors and not a guarantee, and no probability that the
        winner is right: the sum counts doubts that go together twice, and it does not allow for the
        luck by which a winner wins; where all is known the two about cancel.
        """
        entered = self.table.trials > 0
        doubt = self.table.doubt(self.best, entered)
        if self.screening is not None:
            doubt += self.screening.table.doubt(self.best, ~entered)
        return max(1.0 - doubt, 0.0)

    @property
    def fits(self) -> float:
        """The probability that the best prompt describes the image at all; NaN if not known."""
        return self.over_no_prompt.fits if self.over_no_prompt else nan

    @property
    def fits_none(self) -> bool:
        """Whether perhaps none of the prompts describes the image."""
        return self.fits < FITS

    @property
    def calls(self) -> int:
        """Evaluations of the deciding model."""
        return int(self.table.trials.sum())

    @property
    def spent(self) -> float:
        """All evaluations, those of the cheaper model at their cost."""
        others = self.over_no_prompt.calls if self.over_no_prompt else 0
        if self.screening:
            others += self.provenance.cost * self.screening.calls
        return self.calls + others

    @property
    def saved(self) -> float:
        """What all trials of all prompts would have taken on top of that."""
        prompts, trials = self.table.errors.shape
        return prompts * max(self.planned, trials) - self.spent


@dataclass(frozen=True)
class Classification:
    """Rankings of a batch of images for the same labels; `screening` is that of a cheaper model."""

    labels: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    plan: TrialPlan = TrialPlan()
    screening: Classification | None = None

    @property
    def best(self) -> list[int]:
        return [ranking.best for ranking in self.rankings]

    @property
    def calls(self) -> int:
        return sum(ranking.calls for ranking in self.rankings)
