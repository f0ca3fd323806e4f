"""The errors of prompts, trial by trial, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..elimination.estimates import Differences, paired_differences, shrunken_tail
from ..trials.samplers import TrialSampler, TrialSpec


@dataclass(frozen=True, eq=False)
class Lead:
    """By how much one prompt is ahead of another, over the trials that both had.

    `margin` is the difference of their mean errors, `variance` that of the margin, `worse` the
    probability that the lead is none, `won` the share of trials with the smaller error.
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
class TrialTable:
    """Errors (P, n) of P prompts in the trials `specs`, NaN from where a prompt was out.

    `sampler` says how they add up. `nats` (n,) turns each error into nats (NaN where it is none of
    l2).
    """

    errors: Tensor
    specs: tuple[TrialSpec, ...]
    sampler: TrialSampler
    nats: Tensor | None = None

    @cached_property
    def trials(self) -> Tensor:
        """(P,) how many trials each prompt had."""
        return torch.isfinite(self.errors).sum(1)

    def score(self, values: Tensor) -> Tensor:
        """(P,) score of values (P, n) over the trials that each prompt had; NaN without any."""
        scores = values.new_full((len(values),), torch.nan)
        for count in self.trials.unique().tolist():
            if count:
                rows = self.trials == count
                scores[rows] = self.sampler.score(values[rows, :count], self.specs[:count])
        return scores

    def centred(self, values: Tensor) -> Tensor:
        """Score of values (P, n) less those of the survivors over the same trials (P,).

        Comparable between prompts with different numbers of trials (paired imputation).
        """
        return self.score(values - values[self.trials == self.trials.max()].mean(0))

    @cached_property
    def mean_errors(self) -> Tensor:
        return self.score(self.errors)

    def leads(self, better: int, others: list[int], count: int) -> list[Lead]:
        """How far `better` is ahead over the first `count` trials, which all of them had."""
        found, rows = self._differences(better, count)
        places = torch.searchsorted(rows, torch.tensor(others))
        first, rest = self.errors[better, :count], self.errors[others, :count]
        wins = (first < rest).double() + (first == rest).double() / 2
        columns = (found.mean[places], found.variance[places], found.tail()[places], wins.mean(1))
        return [Lead(*row, count) for row in torch.stack(columns, 1).tolist()]

    def won(self, best: int) -> float:
        """Share of the trials with two prompts or more in which `best` had the least error."""
        shared = torch.isfinite(self.errors).sum(0) > 1
        if not shared.any():
            return 1.0
        errors = self.errors[:, shared].nan_to_num(torch.inf)
        return (errors[best] <= errors.min(0).values).double().mean().item()

    def doubt(self, best: int, others: Tensor) -> float:
        """Sum of the probabilities that each of `others`, a mask (P,), is better than `best`."""
        doubt = 0.0
        for count in self.trials[others].unique().tolist():
            found, rows = self._differences(best, count)
            place = int(torch.searchsorted(rows, best))
            wanted = others[rows] & (self.trials[rows] == count)
            wanted[place] = False
            tail = shrunken_tail(found, place, count / int(self.trials[best]))
            doubt += tail[wanted].sum().item()
        return doubt

    def _differences(self, leader: int, count: int) -> tuple[Differences, Tensor]:
        """Differences to `leader` of all prompts with `count` trials, and which prompts those are.

        A leader with fewer trials cuts the others down to its own.
        """
        count = min(count, int(self.trials[leader]))
        rows = (self.trials >= count).nonzero()[:, 0]
        errors = self.errors[rows, :count]
        place = int(torch.searchsorted(rows, leader))
        return paired_differences(errors, self.specs[:count], place, self.sampler), rows
