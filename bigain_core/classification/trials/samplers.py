"""Which timestep and which noise each trial gets, and how its errors add up to a score.

A sampler draws trials one after another. `score` turns the errors of the trials so far into one
number per prompt, `variance` estimates the variance of such a score; both are linear in the errors,
so they hold for differences of errors as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .noise import TIMESTEPS, trial_position
from .prompt_classes import first_of_each
from .timesteps import SPREAD_TRIALS, spread_timesteps, trial_timesteps


@dataclass(frozen=True)
class TrialSpec:
    """What a trial is: its timestep and the number of its noise, which `sign` -1 turns around."""

    timestep: int
    noise: int
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Progress:
    """An image half-way: the trials that took place, and who is left.

    errors (A, n) are those of the prompts that are left, classes (A,) what they stand for.
    """

    seed: int
    image: int
    specs: tuple[TrialSpec, ...]
    errors: Tensor
    classes: Sequence[int]


class TrialSampler:
    """Every trial counts the same, and any timestep may come, unless a sampler says otherwise."""

    def elimination_steps(self, trials: tuple[int, ...]) -> tuple[int, ...]:
        """Numbers of trials after which prompts are dropped."""
        return trials

    def timesteps(self, trials: tuple[int, ...]) -> list[int]:
        """All that may be visited; in the order of visiting where that is known beforehand."""
        return list(range(TIMESTEPS))

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        """The next trial."""
        raise NotImplementedError

    def score(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        """(..., n) -> (...)."""
        return errors.mean(-1)

    def variance(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        """Variance of the score: (..., n) -> (...); needs two units."""
        raise NotImplementedError

    def units(self, specs: Sequence[TrialSpec]) -> int:
        """How many independent measurements the variance rests on."""
        return len(specs)


def collapsed_variance(values: Tensor) -> Tensor:
    """Variance of the mean of one value per stratum, (..., n) in order of strata (n >= 2).

    Neighbours differ little but for noise, so half of their mean squared difference measures it; it
    cannot do harm where the ordinary variance is smaller.
    """
    successive = values.diff(dim=-1).square().mean(-1) / 2
    return torch.minimum(successive, values.var(-1)) / values.shape[-1]


class _EvenGrid(TrialSampler):
    """Timesteps are evenly spaced, so between them lies no chance."""

    def variance(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        timesteps = torch.tensor([spec.timestep for spec in specs])
        return collapsed_variance(errors[..., timesteps.argsort(stable=True)])


@dataclass(frozen=True)
class PublishedGrid(_EvenGrid):
    """The published timesteps in the published order (paper, Algorithm 1 as released).

    Lists that the published rule does not cover the time axis with follow `even_timesteps`.
    """

    def elimination_steps(self, trials: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(np.cumsum([len(stage) for stage in trial_timesteps(trials)]).tolist())

    def timesteps(self, trials: tuple[int, ...]) -> list[int]:
        return [timestep for stage in trial_timesteps(trials) for timestep in stage]

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        number = len(progress.specs)
        return TrialSpec(self.timesteps(trials)[number], number)


@dataclass(frozen=True)
class SpreadGrid(_EvenGrid):
    """The trials of the published grid, visited so that any number of them lies evenly."""

    def elimination_steps(self, trials: tuple[int, ...]) -> tuple[int, ...]:
        if trials[-1] > SPREAD_TRIALS:
            raise ValueError(
                f"BiGain: expected at most {SPREAD_TRIALS} trials on the spread-out grid, got "
                f"{trials[-1]}. Take fewer, or draw timesteps adaptively or at random."
            )
        return trials

    def timesteps(self, trials: tuple[int, ...]) -> list[int]:
        return [timestep for timestep, _ in spread_timesteps()[: trials[-1]]]

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        return TrialSpec(*spread_timesteps()[len(progress.specs)])


@dataclass(frozen=True)
class UniformTimes(TrialSampler):
    """Every timestep equally likely in every trial (paper, Algorithm 1 as printed)."""

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        number = len(progress.specs)
        position = trial_position(progress.seed, progress.image, number)
        return TrialSpec(int(position * TIMESTEPS), number)

    def variance(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        return errors.var(-1) / errors.shape[-1]


@dataclass(frozen=True)
class Blocks(TrialSampler):
    """Blocks of `size` trials, one at a random place in each of `size` equal parts of the axis.

    The means of whole blocks are independent and equally distributed.
    """

    size: int = 4

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        number = len(progress.specs)
        position = trial_position(progress.seed, progress.image, number)
        return TrialSpec(int((number % self.size + position) / self.size * TIMESTEPS), number)

    def means(self, errors: Tensor) -> Tensor:
        """Means of whole blocks: (..., n) -> (..., n // size)."""
        whole = errors.shape[-1] // self.size * self.size
        return errors[..., :whole].unflatten(-1, (-1, self.size)).mean(-1)

    def variance(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        means = self.means(errors)
        return means.var(-1) / means.shape[-1]

    def units(self, specs: Sequence[TrialSpec]) -> int:
        return len(specs) // self.size


@dataclass(frozen=True)
class AdaptiveTimes(TrialSampler):
    """More trials where the leading prompts disagree most, without labels (Neyman allocation).

    The first trials, `from_grid` of them, are those of the spread-out grid. Then each of `strata`
    equal parts of the time axis gets one, beginning where the parts beside it promise most, and
    each further trial goes to the part with the largest spread^2 / (n (n + 1)): n counts its
    trials, the spread is that of the mean errors of the `leaders` best prompts there, of each class
    the best one. Every part weighs the same however many trials it had (the nearest stand in for
    one without), so the score still is the error at evenly distributed times.
    """

    strata: int = 8
    leaders: int = 5
    from_grid: int = 3

    def members(self, specs: Sequence[TrialSpec]) -> list[list[int]]:
        """Numbers of the trials in each stratum."""
        members: list[list[int]] = [[] for _ in range(self.strata)]
        for number, spec in enumerate(specs):
            members[spec.timestep * self.strata // TIMESTEPS].append(number)
        return members

    def shares(self, members: list[list[int]]) -> Tensor:
        """(strata, strata) whose trials stand for each stratum: its own or the nearest ones'."""
        return nearest_filled(tuple(bool(part) for part in members))

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        number = len(progress.specs)
        if number < self.from_grid:
            return TrialSpec(*spread_timesteps()[number])
        members = self.members(progress.specs)
        stratum = self._most_divided(progress, members)
        start, end = (-(-edge * TIMESTEPS // self.strata) for edge in (stratum, stratum + 1))
        visited = np.array([progress.specs[n].timestep for n in members[stratum]], dtype=int)
        fresh = np.setdiff1d(np.arange(start, end), visited)
        fresh = fresh if len(fresh) else np.arange(start, end)
        width = end - start
        best = most_even((fresh - start) / width, (visited - start) / width)
        return TrialSpec(int(fresh[best]), SPREAD_TRIALS + number)  # the grid has noise of its own

    def _most_divided(self, progress: Progress, members: list[list[int]]) -> int:
        order = self.score(progress.errors, progress.specs).argsort(stable=True).tolist()
        leading = first_of_each(order, progress.classes)[: self.leaders]
        means = self._means(progress.errors[leading], members)
        spread = means.sort(0).values.var(0, correction=0)  # sorted: the same in any prompt order
        spread = self.shares(members) @ spread
        counts = torch.tensor([len(part) for part in members])
        if not counts.all():
            return int(torch.where(counts > 0, -1.0, spread).argmax())
        return int((spread / (counts * (counts + 1))).argmax())

    def _means(self, errors: Tensor, members: list[list[int]]) -> Tensor:
        """Mean error in each stratum, 0 in those without trials: (..., n) -> (..., strata)."""
        means = [errors[..., part].mean(-1) if part else errors[..., 0] * 0 for part in members]
        return torch.stack(means, -1)

    def score(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        members = self.members(specs)
        return self._means(errors, members) @ self.shares(members).mean(0).to(errors.dtype)

    def variance(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        """As `collapsed_variance`, with the differences of neighbours that touch each stratum."""
        members = self.members(specs)
        weights = self.shares(members).mean(0).tolist()
        order = sorted(range(len(specs)), key=lambda n: specs[n].timestep)
        halves = errors[..., order].diff(dim=-1).square() / 2
        total, start = torch.zeros(errors.shape[:-1], dtype=errors.dtype), 0
        for part, weight in zip(members, weights, strict=True):
            end = start + len(part)  # the strata follow one another in this order
            if part:
                touching = halves[..., max(start - 1, 0) : end]
                total = total + weight**2 * touching.mean(-1) / len(part)
            start = end
        return total


@lru_cache
def nearest_filled(filled: tuple[bool, ...]) -> Tensor:
    """(M, M) row by row the nearest filled place of each, halves where two are as near."""
    there = [place for place, full in enumerate(filled) if full]
    shares = torch.zeros(len(filled), len(filled), dtype=torch.float64)
    for place in range(len(filled)):
        closest = min(abs(place - other) for other in there)
        nearest = [other for other in there if abs(place - other) == closest]
        shares[place, nearest] = 1 / len(nearest)
    return shares


def most_even(candidates: np.ndarray, visited: np.ndarray) -> int:
    """The candidate (L,) that brings all visited positions (n,) closest to even midpoints.

    Positions lie in [0, 1); closest in the mean square between the i-th position and (i + 1/2) / n,
    which is the L2 discrepancy. The first of equal candidates.
    """
    known = np.broadcast_to(visited, (len(candidates), len(visited)))
    joined = np.hstack([known, candidates[:, None]])  # (L, n + 1)
    midpoints = (np.arange(joined.shape[1]) + 0.5) / joined.shape[1]
    misses = ((np.sort(joined, axis=1) - midpoints) ** 2).sum(1)
    return int(misses.argmin())
