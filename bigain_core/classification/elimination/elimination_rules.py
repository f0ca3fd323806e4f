"""When a prompt may be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

import torch
from torch import Tensor

from ..trials.prompt_classes import first_of_each_first
from ..trials.samplers import Blocks, TrialSampler, TrialSpec
from .estimates import paired_differences

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


class Rule:
    goes_on_alone = False  # whether trials go on when one class is left

    def caps(self, trials: tuple[int, ...], prompts: int) -> tuple[int, ...]:
        """How many prompts each elimination step keeps at most, unless the user says otherwise."""
        return (prompts,) * len(trials)

    def keeps(self, step: EliminationStep, limit: int | None = None) -> list[int]:
        """Rows that are not dropped, at most `limit`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Staged(Rule):
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

    def keeps(self, step: EliminationStep, limit: int | None = None) -> list[int]:
        return sorted(step.best_first(range(len(step.errors)))[:limit])


PUBLISHED_KEEP = {1: (1,), 2: (5, 1), 3: (50, 10, 1)}


@dataclass(frozen=True)
class Sequential(Rule):
    """Drop prompts as soon as it is clear enough that they are worse than the leader.

    Each elimination step drops those whose probabilities of being better add up to at most `delta`;
    prompts of the leader's own class are judged apart from the others and hold none of them back.
    With few trials that is a model of the errors, not a guarantee. Of 16 prompts or more only a
    share goes on (CAPS), whatever the test says: the best prompts of all classes before the second
    best of any.
    """

    delta: float = 0.05

    def __post_init__(self):
        _check_delta(self.delta)

    def caps(self, trials: tuple[int, ...], prompts: int) -> tuple[int, ...]:
        return tuple(_cap(count, prompts) for count in trials)

    def _losers(self, step: EliminationStep, others: list[int]) -> list[int]:
        rows = step.errors[[step.leader, *others]]
        tail = paired_differences(rows, step.specs, 0, step.sampler).tail()[1:]
        surest = tail.argsort(stable=True)
        count = int((tail[surest].cumsum(0) <= self.delta).sum())
        return [others[place] for place in surest[:count].tolist()]

    def keeps(self, step: EliminationStep, limit: int | None = None) -> list[int]:
        leader, classes = step.leader, step.classes
        groups: tuple[list[int], list[int]] = [], []  # other classes, and the leader's own
        for row in range(len(classes)):
            if row != leader:
                groups[classes[row] == classes[leader]].append(row)
        dropped = {row for group in groups for row in self._losers(step, group)}
        order = step.best_first([row for row in range(len(step.errors)) if row not in dropped])
        return sorted(first_of_each_first(order, step.classes)[:limit])


def _cap(trials: int, prompts: int) -> int:
    if prompts < CAPPED_PROMPTS:
        return prompts
    limits = [max(floor, ceil(prompts / one)) for least, one, floor in CAPS if trials >= least]
    return min([prompts, *limits])


@dataclass(frozen=True)
class Certified(Rule):
    """Drop prompts only on proof: the best is ever dropped with probability `delta` at most.

    For every pair of prompts a self-normalised e-process bets that one is worse (de la Pena 1999;
    Howard et al. 2020), and by Ville's inequality it reaches (K - 1) / delta with probability
    delta / (K - 1) if it is not. Holds for any choice of elimination steps, for block means
    whose differences are distributed symmetrically and with one peak about their mean.
    """

    delta: float = 0.05

    def __post_init__(self):
        _check_delta(self.delta)

    def keeps(self, step: EliminationStep, limit: int | None = None) -> list[int]:
        blocks = step.sampler.means(step.errors)
        if blocks.shape[1] < FIRST_BLOCKS:
            return sorted(step.best_first(range(len(blocks)))[:limit])
        leader = step.leader
        proof = log((step.prompts - 1) / self.delta) if step.prompts > 1 else 0.0
        kept = log_evidence(blocks - blocks[leader]) < proof
        kept[leader] = True
        return sorted(step.best_first(kept.nonzero()[:, 0].tolist())[:limit])


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
    """Raise ValueError unless a certified rule can judge after these trials of this sampler."""
    if not isinstance(sampler, Blocks):
        raise ValueError(
            "BiGain: expected trials in Blocks for the certified rule, which needs independent "
            f"block means, got {type(sampler).__name__}."
        )
    if any(count % sampler.size for count in trials):
        raise ValueError(
            f"BiGain: expected elimination steps after whole blocks of {sampler.size} trials for "
            f"the certified rule, got {list(trials)}."
        )


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"BiGain: expected a delta between 0 and 1, got {delta}.")
