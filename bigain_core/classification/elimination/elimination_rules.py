"""When a prompt may be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Protocol

import torch
from torch import Tensor

from ..trials.samplers import Blocks, TrialSampler, TrialSpec, first_of_each_first
from .estimates import PRIOR_DOF, paired_differences

FIRST_BLOCKS = 3  # whose sizes set the scale of the certified test
CAPPED_PROMPTS = 16
# (trials, divisor, floor): from so many trials on no more than one prompt in so many goes on
CAPS = ((2, 2, 12), (3, 3, 12), (4, 4, 10), (5, 8, 8), (8, 24, 5))


@dataclass(frozen=True, eq=False)
class EliminationStep:
    """Errors (A, n) of the prompts that are left, after the trials `specs`; `prompts` began.

    classes (A,) are what the prompts stand for. Between classes is decided, not within them.
    """

    errors: Tensor
    specs: tuple[TrialSpec, ...]
    sampler: TrialSampler
    prompts: int
    classes: Sequence[int]

    @property
    def scores(self) -> Tensor:
        return self.sampler.score(self.errors, self.specs)

    @property
    def leader(self) -> int:
        return int(self.scores.argmin())

    def best_first(self, rows: Sequence[int]) -> list[int]:
        """Equal ones stay in order."""
        scores = self.scores.tolist()
        return sorted(rows, key=scores.__getitem__)

    @property
    def other_classes(self) -> list[int]:
        """Rows of other classes than the leader's."""
        own = self.classes[self.leader]
        return [row for row, number in enumerate(self.classes) if number != own]

    @property
    def same_class(self) -> list[int]:
        """The other rows of the leader's class."""
        own, leader = self.classes[self.leader], self.leader
        return [row for row, number in enumerate(self.classes) if number == own and row != leader]


class Rule(Protocol):
    goes_on_alone: bool  # whether trials go on when one class is left

    def caps(self, trials: tuple[int, ...], prompts: int) -> tuple[int, ...]:
        """How many prompts each look keeps at most, unless the user says otherwise."""
        ...

    def keeps(self, step: EliminationStep, most: int | None = None) -> list[int]:
        """Rows of the look that are not dropped, at most so many."""
        ...

    def ties(self, step: EliminationStep) -> bool:
        """Whether the prompts that are left need not be told apart."""
        ...


@dataclass(frozen=True)
class Staged:
    """Keep lists alone decide, as published."""

    goes_on_alone = True

    def caps(self, trials: tuple[int, ...], prompts: int) -> tuple[int, ...]:
        if len(trials) not in PUBLISHED_KEEP:
            raise ValueError(
                f"BiGain: expected a list of kept prompts, one number per stage, for {len(trials)} "
                "stages; the published lists cover up to three. Fill in `keep`, for example "
                "50, 20, 5, 1."
            )
        return tuple(min(count, prompts) for count in PUBLISHED_KEEP[len(trials)])

    def keeps(self, step: EliminationStep, most: int | None = None) -> list[int]:
        return sorted(step.best_first(range(len(step.errors)))[:most])

    def ties(self, step: EliminationStep) -> bool:
        return False


PUBLISHED_KEEP = {1: (1,), 2: (5, 1), 3: (50, 10, 1)}


@dataclass(frozen=True)
class Sequential:
    """Drop prompts as soon as it is clear enough that they are worse than the leader.

    At each look those whose probabilities of being better add up to at most `delta` go; prompts of
    the leader's own class are judged apart from the others and hold none of them back. With few
    trials that is a model of the errors, not a guarantee. Of 16 prompts or more only a share goes
    on, whatever the test says: half (or 12) after 2 trials, a third (or 12) after 3, a quarter (or
    10) after 4, an eighth (or 8) after 5, a 24th (or 5) after 8; the best prompts of all classes
    before the second best of any. When all other classes that are
    left are surely within `indifference` of the leader they are tied with it.
    """

    delta: float = 0.05
    prior_dof: int = PRIOR_DOF
    indifference: float = 0.0
    goes_on_alone = False

    def __post_init__(self):
        _check_delta(self.delta)
        if self.indifference < 0:
            raise ValueError(
                "BiGain: expected an indifference of at least 0 (in units of the error), got "
                f"{self.indifference}."
            )

    def caps(self, trials: tuple[int, ...], prompts: int) -> tuple[int, ...]:
        return tuple(_cap(count, prompts) for count in trials)

    def _tail(self, step: EliminationStep, others: list[int], against: float = 0.0) -> Tensor:
        """Probabilities that the differences of `others` to the leader are below `against`."""
        rows = step.errors[[step.leader, *others]]
        found = paired_differences(rows, step.specs, 0, step.sampler, self.prior_dof)
        return found.tail(against)[1:]

    def _losers(self, step: EliminationStep, others: list[int]) -> list[int]:
        tail = self._tail(step, others)
        surest = tail.argsort(stable=True)
        count = int((tail[surest].cumsum(0) <= self.delta).sum())
        return [others[place] for place in surest[:count].tolist()]

    def keeps(self, step: EliminationStep, most: int | None = None) -> list[int]:
        dropped = {*self._losers(step, step.other_classes), *self._losers(step, step.same_class)}
        order = step.best_first([row for row in range(len(step.errors)) if row not in dropped])
        return sorted(first_of_each_first(order, step.classes)[:most])

    def ties(self, step: EliminationStep) -> bool:
        if not (self.indifference and step.other_classes):
            return False
        beyond = 1 - self._tail(step, step.other_classes, self.indifference)
        return beyond.sum().item() <= self.delta


def _cap(trials: int, prompts: int) -> int:
    if prompts < CAPPED_PROMPTS:
        return prompts
    limits = [max(floor, ceil(prompts / one)) for least, one, floor in CAPS if trials >= least]
    return min([prompts, *limits])


@dataclass(frozen=True)
class Certified:
    """Drop prompts only on proof: the best is ever dropped with probability `delta` at most.

    For every pair of prompts a self-normalised e-process bets that one is worse (de la Pena 1999;
    Howard et al. 2020), and by Ville's inequality it reaches (K - 1) / delta with probability
    delta / (K - 1) if it is not. Holds whenever the looks are, for block means whose differences
    are distributed symmetrically and with one peak about their mean.
    """

    delta: float = 0.05
    goes_on_alone = False

    def __post_init__(self):
        _check_delta(self.delta)

    def caps(self, trials: tuple[int, ...], prompts: int) -> tuple[int, ...]:
        return (prompts,) * len(trials)

    def keeps(self, step: EliminationStep, most: int | None = None) -> list[int]:
        blocks = step.sampler.means(step.errors)
        if blocks.shape[1] < FIRST_BLOCKS:
            return sorted(step.best_first(range(len(blocks)))[:most])
        leader = step.leader
        proof = log((step.prompts - 1) / self.delta) if step.prompts > 1 else 0.0
        kept = log_evidence(blocks - blocks[leader]) < proof
        kept[leader] = True
        return sorted(step.best_first(kept.nonzero()[:, 0].tolist())[:most])

    def ties(self, step: EliminationStep) -> bool:
        return False


def log_evidence(differences: Tensor) -> Tensor:
    """Logarithm of the e-process against a mean of at most 0: block means (P, m) -> (P,).

    The bet is a half-normal mixture whose scale is the mean square of the first blocks.
    """
    total, square = differences.sum(1), differences.square().sum(1)
    scale = differences[:, :FIRST_BLOCKS].square().mean(1)
    spread = (square + scale).clamp(min=torch.finfo(torch.float64).tiny)
    chance = torch.special.log_ndtr(total / spread.sqrt()) + log(2)
    evidence = chance + (scale / spread).log() / 2 + total.square() / (2 * spread)
    return torch.where(scale > 0, evidence, 0.0)


def check_blocks(sampler: TrialSampler, trials: Sequence[int]) -> None:
    """Raise ValueError unless a certified rule can look after these trials of this sampler."""
    if not isinstance(sampler, Blocks):
        raise ValueError(
            "BiGain: expected trials in Blocks for the certified rule, which needs independent "
            f"block means, got {type(sampler).__name__}."
        )
    if any(count % sampler.size for count in trials):
        raise ValueError(
            f"BiGain: expected looks after whole blocks of {sampler.size} trials for the certified "
            f"rule, got {list(trials)}."
        )


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"BiGain: expected a delta between 0 and 1, got {delta}.")
