"""What a classification found."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log

import torch
from torch import Tensor

from ..datasets.labels import abbreviate
from ..elimination.estimates import Differences, paired_differences, shrunken_tail
from ..elimination.trial_plan import TrialPlan
from ..trials.samplers import PublishedGrid, TrialSampler, TrialSpec

RANKINGS = ("paired", "stage", "paper_code", "raw")
SURE = 2.0  # standard errors
SAME_WINNER = 4  # images from which on it is odd that one prompt wins them all


@dataclass(frozen=True, eq=False)
class Lead:
    """By how much one prompt is ahead of another, over the trials that both had.

    `margin` is the difference of their mean errors, `variance` that of the margin, `won` the share
    of trials with the smaller error, `worse` the probability that the lead is none.
    """

    margin: float
    variance: float
    worse: float
    won: float
    trials: int

    @property
    def standard_error(self) -> float:
        return self.variance**0.5

    @property
    def noise_ratio(self) -> float:
        """r = sigma / mu: standard deviation of one trial over the margin (paper, S.6)."""
        return (self.trials * self.variance) ** 0.5 / abs(self.margin) if self.margin else torch.inf

    @property
    def cantelli(self) -> float:
        """Bound of the probability that such a margin comes out at or below 0 (paper, S.6).

        V / (V + mu^2) with the variance of the mean for V and margin^2 - V, which is what mu^2 is
        on average, for mu^2.
        """
        if not self.variance:
            return 0.0 if self.margin > 0 else 1.0
        return self.variance / (self.variance + max(self.margin**2 - self.variance, 0.0))


@dataclass(frozen=True, eq=False)
class Ranking:
    """Result for one image over P prompts and T trials.

    errors (P, T) are NaN where a prompt was out already; stage (P,) counts the looks that a prompt
    survived; timesteps (T,) are in the order of evaluation. `specs` are the trials, `sampler` says
    how they add up. `nats` (T,) turns each error into nats (NaN where it is none of l2). `planned`
    is how many trials there could have been and `tied` holds the prompts that were not worth
    telling apart. `digest` tells images apart and `model` models. `screening` is what a cheaper
    model found for all prompts; here, those that it ruled out have no errors. `cost` is what one of
    its evaluations costs, in ours.
    """

    errors: Tensor
    stage: Tensor
    timesteps: Tensor
    specs: tuple[TrialSpec, ...] = ()
    sampler: TrialSampler = PublishedGrid()
    nats: Tensor | None = None
    planned: int = 0
    tied: tuple[int, ...] = ()
    digest: str = ""
    model: str = ""
    screening: Ranking | None = field(default=None, repr=False)
    cost: float = 1.0

    def __post_init__(self):
        if not self.specs:
            times = self.timesteps.tolist()
            specs = tuple(TrialSpec(int(time), number) for number, time in enumerate(times))
            object.__setattr__(self, "specs", specs)

    @cached_property
    def trials(self) -> Tensor:
        """(P,) how many trials each prompt had."""
        return torch.isfinite(self.errors).sum(1)

    @cached_property
    def mean_errors(self) -> Tensor:
        """(P,) score over the trials that each prompt had; NaN where it had none."""
        means = self.errors.new_full((len(self.errors),), torch.nan)
        for count, rows in self._same_trials():
            means[rows] = self.sampler.score(self.errors[rows, :count], self.specs[:count])
        return means

    @cached_property
    def order(self) -> list[int]:
        """Prompts best first: those that survived longest, by mean error among equals.

        Means over different sets of trials are never compared with each other.
        """
        means, stages = self.mean_errors.tolist(), self.stage.tolist()
        entered = [k for k, trials in enumerate(self.trials.tolist()) if trials]
        return self._with_screened(sorted(entered, key=lambda k: (-stages[k], means[k])), "stage")

    @property
    def best(self) -> int:
        return self.order[0]

    @property
    def scores(self) -> Tensor:
        """(P,) paired imputation: mean errors less those of the survivors over the same trials.

        Comparable between prompts with different numbers of trials. NaN for those without.
        """
        return self._imputed(self.errors)

    def ranked(self, kind: str = "paired") -> list[int]:
        """Prompts best first, by one of RANKINGS.

        paired: by `scores`. stage: `order`. paper_code: the winner, then all others by mean error.
        raw: all by mean error; the paper's (S.17). The last two compare means over different
        timesteps, which do not compare.
        """
        if kind not in RANKINGS:
            raise ValueError(f"BiGain: expected a ranking of {RANKINGS}, got {kind!r}.")
        if kind == "stage":
            return self.order
        values = (self.scores if kind == "paired" else self.mean_errors).tolist()
        entered = [k for k, trials in enumerate(self.trials.tolist()) if trials]
        first = self.best if kind == "paper_code" else None
        return self._with_screened(sorted(entered, key=lambda k: (k != first, values[k])), kind)

    def _with_screened(self, entered: list[int], kind: str) -> list[int]:
        """Those that a cheaper model ruled out come last, in its order."""
        if self.screening is None:
            return entered
        known = set(entered)
        return entered + [k for k in self.screening.ranked(kind) if k not in known]

    def lead(self, better: int, worse: int) -> Lead:
        """How far `better` is ahead of `worse`."""
        return self.leads(better, [worse])[0]

    def leads(self, better: int, others: Sequence[int]) -> list[Lead]:
        """How far `better` is ahead of each of `others`."""
        others = torch.tensor(list(others), dtype=torch.long)
        shared = self.trials.clamp(max=self.trials[better])[others]
        found: dict[int, Lead] = {}
        for count in shared.unique().tolist():
            group = others[shared == count].tolist()
            if not count and self.screening is not None:
                leads = self.screening.leads(better, group)
            else:
                leads = self._leads(better, group, count)
            found.update(zip(group, leads, strict=True))
        return [found[k] for k in others.tolist()]

    def _leads(self, better: int, others: list[int], count: int) -> list[Lead]:
        """Over the first `count` trials, which all of them had."""
        found, rows = self._differences(better, count)
        places = torch.searchsorted(rows, torch.tensor(others))
        first, rest = self.errors[better, :count], self.errors[others, :count]
        wins = (first < rest).double() + (first == rest).double() / 2
        variances = found.variance if found.dof else torch.full_like(found.variance, torch.inf)
        columns = (found.mean, variances, found.tail())
        numbers = (column[places].tolist() for column in columns)
        return [
            Lead(*values, won, count)
            for *values, won in zip(*numbers, wins.mean(1).tolist(), strict=True)
        ]

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
    def won(self) -> float:
        """Share of the trials with two prompts or more in which the best had the least error."""
        shared = torch.isfinite(self.errors).sum(0) > 1
        if not shared.any():
            return 1.0
        errors = self.errors[:, shared].nan_to_num(torch.inf)
        return (errors[self.best] <= errors.min(0).values).double().mean().item()

    @property
    def confidence(self) -> float:
        """How sure it is that more trials would not change the winner: 1 - sum of P(other better).

        Student's t for each other prompt, which is judged as one of the crowd where there are many
        (`shrunken_tail`). A model of the errors and not a guarantee, and no probability that the
        winner is right: the sum counts doubts that go together twice, and it does not allow for the
        luck by which a winner wins; where all is known the two about cancel.
        """
        best, entered = self.best, self.trials > 0
        doubt = self._doubt(best, entered)
        if self.screening is not None:
            doubt += self.screening._doubt(best, ~entered)
        return max(1.0 - doubt, 0.0)

    def _doubt(self, best: int, others: Tensor) -> float:
        """Sum of the probabilities that each of `others`, a mask (P,), is better than `best`."""
        trials, doubt = self.trials, 0.0
        for count in trials[others].unique().tolist():
            found, rows = self._differences(best, count)
            place = int(torch.searchsorted(rows, best))
            wanted = others[rows] & (trials[rows] == count)
            wanted[place] = False
            tail = shrunken_tail(found, place, count / int(trials[best]))
            doubt += tail[wanted].sum().item()
        return doubt

    def posterior(
        self, temperature: float = 1.0, log_prior: Sequence[float] | None = None
    ) -> Tensor:
        """(P,) log2 of the probability of each prompt: -1 is one bit less than certain.

        The model's likelihood ratio in nats (I-MMSE), times `temperature`, plus the natural
        logarithm of a prior. Networks are overconfident: temperatures below 1 answer that.
        """
        if not self.has_posterior:
            raise ValueError(
                "BiGain: expected errors with loss l2 for a posterior, got another loss. Only "
                "squared errors add up to a likelihood."
            )
        nats = -temperature * self._imputed(self.errors * self.nats)
        nats = nats.nan_to_num(-torch.inf)
        if log_prior is not None:
            nats = nats + torch.as_tensor(log_prior, dtype=nats.dtype)
        return nats.log_softmax(0) / log(2)

    @property
    def has_posterior(self) -> bool:
        """Whether the errors are squared ones, which add up to a likelihood."""
        return self.nats is not None and bool(torch.isfinite(self.nats).all())

    @property
    def calls(self) -> int:
        """Evaluations of the deciding model."""
        return int(torch.isfinite(self.errors).sum())

    @property
    def spent(self) -> float:
        """All evaluations, those of the cheaper model at their cost."""
        return self.calls + (self.cost * self.screening.calls if self.screening else 0.0)

    @property
    def saved(self) -> float:
        """What all trials of all prompts would have taken on top of that."""
        return len(self.errors) * max(self.planned, self.errors.shape[1]) - self.spent

    def warnings(self, labels: Sequence[str]) -> list[str]:
        """What to know before the result is relied on, in sentences."""
        lead = self.best_lead
        if lead is None:
            return []
        first, second = (labels[k] for k in self.order[:2])
        if self.tied:
            names = abbreviate([labels[k] for k in self.tied])
            return [f"These are as good as equal and were not told apart further: {names}."]
        if not lead.margin >= SURE * lead.standard_error:
            return [
                f"{first} leads {second} by less than two standard errors; "
                "more trials may change the winner."
            ]
        return []

    def _same_trials(self) -> list[tuple[int, Tensor]]:
        """(number of trials, prompts that had so many), prompts without trials left out."""
        trials = self.trials
        counts = [count for count in trials.unique().tolist() if count]
        return [(count, (trials == count).nonzero()[:, 0]) for count in counts]

    def _differences(self, leader: int, count: int) -> tuple[Differences, Tensor]:
        """Differences to `leader` of all prompts with `count` trials, and which prompts those are.

        A leader with fewer trials cuts the others down to its own.
        """
        trials = self.trials
        count = min(count, int(trials[leader]))
        rows = (trials >= count).nonzero()[:, 0]
        errors = self.errors[rows, :count]
        place = int(torch.searchsorted(rows, leader))
        return paired_differences(errors, self.specs[:count], place, self.sampler), rows

    def _imputed(self, values: Tensor) -> Tensor:
        """Scores of values (P, T) less the survivors' mean in each trial."""
        trials = self.trials
        survivors = values[trials == trials.max()]
        centred = values - survivors.mean(0)
        scores = values.new_full((len(values),), torch.nan)
        for count, rows in self._same_trials():
            scores[rows] = self.sampler.score(centred[rows, :count], self.specs[:count])
        return scores


@dataclass(frozen=True)
class Classification:
    """Rankings of a batch of images for the same labels."""

    labels: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    plan: TrialPlan = TrialPlan()

    @property
    def best(self) -> list[int]:
        return [ranking.best for ranking in self.rankings]

    @property
    def calls(self) -> int:
        return sum(ranking.calls for ranking in self.rankings)

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user; the number of an image comes first where there are several."""
        several = len(self.rankings) > 1
        found = [
            f"Image {number}: {text}" if several else text
            for number, ranking in enumerate(self.rankings)
            for text in ranking.warnings(self.labels)
        ]
        winners = set(self.best)
        if len(self.rankings) >= SAME_WINNER and len(self.labels) > 1 and len(winners) == 1:
            found.append(
                f"{self.labels[winners.pop()]} wins for all {len(self.rankings)} images. If they "
                "do not all show it, the model prefers this prompt whatever the image."
            )
        return found

    def table(self, temperature: float = 1.0, most: int | None = None) -> str:
        """CSV with one row per image and prompt, best first; the `most` best of each image.

        temperature: of the posteriors.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for image, ranking in enumerate(self.rankings):
            for rank, row in enumerate(_rows(ranking, temperature, most), 1):
                prompt, *cells = row
                writer.writerow([image, rank, self.labels[prompt], *cells])
        return text.getvalue()


COLUMNS = ["image", "rank", "label", "mean_error", "trials", "stages_survived"] + [
    "behind_best",
    "standard_error",
    "better_with_probability",
    "posterior_bits",
]


def _rows(ranking: Ranking, temperature: float, most: int | None):
    """Prompt and cells after the label, best first."""
    means, trials, stages = (
        values.tolist() for values in (ranking.mean_errors, ranking.trials, ranking.stage)
    )
    bits = ranking.posterior(temperature).tolist() if ranking.has_posterior else None
    best, *others = ranking.order[:most]
    leads = [["0", "0", ""]] + [
        [f"{value:.4g}" for value in (lead.margin, lead.standard_error, lead.worse)]
        for lead in ranking.leads(best, others)
    ]
    for prompt, cells in zip([best, *others], leads, strict=True):
        posterior = f"{bits[prompt]:.4g}" if bits and trials[prompt] else ""
        first = f"{means[prompt]:.7g}", trials[prompt], stages[prompt]
        yield prompt, *first, *cells, posterior
